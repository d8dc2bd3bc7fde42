"""The fixtures of the sandbox's tests; what they are made of is in `support`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aggregator.sandbox.server import create_app
from tests.sandbox.support import Desk, Site


class PatientServer(TestServer):
    """aiohttp's test server cancels handlers whose client has left; a server does not unless told to."""

    async def _make_runner(self, **options: Any) -> web.BaseRunner:
        return web.AppRunner(self.app, **options | {"handler_cancellation": False})


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def site(desk: Desk, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Without a parameter as `serve` runs it; True: handlers are canceled when their client leaves."""
    kind = TestServer if getattr(request, "param", False) else PatientServer
    async with (
        kind(create_app(desk.world), host="127.0.0.1") as server,
        aiohttp.ClientSession() as session,
    ):
        yield Site(desk, server, session)
