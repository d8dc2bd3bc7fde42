"""What machines ask: is it alive, is it ready. `metrics` has what it counts.

`/livez` and `/readyz` are open to all who can connect and say nothing of the business.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from aggregator.domain.errors import Problem, ProblemKind, StorageUnavailable
from aggregator.flow.base import House
from aggregator.log import get_logger
from aggregator.storage import catalogue
from aggregator.storage.database import Connection
from aggregator.web.rendering import json_response
from aggregator.web.services import services_of

log = get_logger()

FRESH_S: Final = 1.0
"""How long a look at the database counts: probes may come from many sides at once."""
FAILED_S: Final = 5.0
"""How long a request that could not be served counts: a full disk may take the look's few bytes, but no order."""
WRITE_TIMEOUT_S: Final = 3.0


class Readiness:
    """Whether the database takes a write; asked at most once a second, however many probes come.

    A request that failed because of the database says no, too, for a few seconds.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._lock = asyncio.Lock()
        self._looked_at = float("-inf")
        self._failed_at = float("-inf")
        self._reason: str | None = None

    def failed(self) -> None:
        """A request could not be served because of the database."""
        self._failed_at = asyncio.get_running_loop().time()

    async def why_not(self) -> str | None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._failed_at < FAILED_S:
            return "the database cannot be used"
        async with self._lock:
            if loop.time() - self._looked_at >= FRESH_S:
                self._reason = await self._look()
                self._looked_at = loop.time()
            return self._reason

    async def _look(self) -> str | None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._house.database.write(self._touch)
        except TimeoutError:
            return f"the database did not take a write within {WRITE_TIMEOUT_S:g} s"
        except StorageUnavailable as exc:
            log.warning("not_ready", reason=str(exc))
            return "the database cannot be written"
        return None

    def _touch(self, connection: Connection) -> None:
        """A write that matters to nobody, but has to reach the disk."""
        for name in list(self._house.settings.providers)[:1]:
            catalogue.set_health(connection, name, self._house.clock.now())


READINESS: Final = web.AppKey("readiness", Readiness)


async def livez(request: web.Request) -> web.Response:
    """200 while every loop comes round; 503 names those that do not."""
    services = services_of(request)
    loops = services.loops()
    stuck = {name: age for name, age in loops.items() if age > services.loop_limit_s(name)}
    if stuck:
        named = ", ".join(f"{name} ({age:.0f} s)" for name, age in sorted(stuck.items()))
        raise Problem(ProblemKind.UNAVAILABLE, f"these loops did not come round: {named}")
    return json_response({"status": "ok", "version": services.version})


async def readyz(request: web.Request) -> web.Response:
    """200 while orders can be taken: the database can be written and the daemon is not about to stop."""
    services = services_of(request)
    if services.draining():
        raise Problem(ProblemKind.UNAVAILABLE, "the daemon is stopping")
    reason = await request.app[READINESS].why_not()
    if reason is not None:
        raise Problem(ProblemKind.UNAVAILABLE, reason)
    return json_response({"status": "ready"})
