"""Callers of the real HTTP application without a socket: requests are made by hand and go through every handler.

So the doors' own memory (keys that were wrong, keys that are being worked on, readers who wait) is part of the day.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from aggregator.web.server import WebServices, create_app
from tests.simulation.day.scenery import KEY
from tests.simulation.process import Process


class _Peer:
    """What a request sees of its connection: who is there, and whether still."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": (self.host, 40000), "sockname": ("127.0.0.1", 8080)}.get(name, default)


class _Protocol:
    """As much of a connection as reading a body wants."""

    _reading_paused = False
    max_field_size = max_line_size = 8190
    max_headers = 128

    def __init__(self, transport: _Peer) -> None:
        self.transport = transport
        self.peername = transport.get_extra_info("peername")
        self.sockname = transport.get_extra_info("sockname")
        self.ssl_context = None

    def pause_reading(self) -> None:
        """The body is here already."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """The body is here already."""


class Door:
    """The application over a process, as its daemon builds it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.app = create_app(
            WebServices(
                house=process.house,
                intake=process.intake,
                loops=process.schedule.ages,
                draining=lambda: False,
                sync=lambda name: process.sync.sync(process.house.gateways[name]),
                version="0",
                loop_limit_s=lambda _: float("inf"),  # a loop that nobody ticks rests until something is due
            )
        )
        self.app.freeze()

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str = KEY,
        once: str | None = None,
        peer: str = "127.0.0.1",
        gone_after_s: float | None = None,
        form: str | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON; a caller who is gone hears nothing of either, but the daemon does not stop for that."""
        loop = asyncio.get_running_loop()
        connection = _Peer(peer)
        headers = {"Authorization": f"Bearer {key}", **({"Idempotency-Key": once} if once else {})}
        sent = form.encode() if form is not None else b"" if body is None else json.dumps(body).encode()
        if sent:
            kind = "application/x-www-form-urlencoded" if form is not None else "application/json"
            headers |= {"Content-Type": kind, "Content-Length": str(len(sent))}
        protocol: Any = _Protocol(connection)
        payload = StreamReader(protocol, 2**16, loop=loop)
        payload.feed_data(sent)
        payload.feed_eof()
        request = make_mocked_request(
            method, path, headers, transport=connection, protocol=protocol, payload=payload, app=self.app, loop=loop
        )
        if gone_after_s is not None:
            loop.call_later(gone_after_s, setattr, connection, "closing", True)
        answer = await self._process.spawn(self._answer(request))
        assert isinstance(answer, web.Response)
        return answer.status, _read(answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        return await self.app._handle(request)


def _read(answer: web.Response) -> Any:
    text = answer.body if isinstance(answer.body, bytes) else b""
    kind: Mapping[str, str] = answer.headers
    return json.loads(text) if "json" in kind.get("Content-Type", "") else text.decode()
