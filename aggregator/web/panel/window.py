"""What the panel door shows to all callers alike: worked out once for all who ask at the same time, and kept a moment.

Decides how old such a list may be; what stands on it is `selling`'s to say. A purchase never looks here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from aiohttp import web

KEEP_S: Final = 2.0
"""Clients read whole catalogues, some of them all the time; pricing thousands of services takes about a second."""

T = TypeVar("T")


class Window:
    """Lists by their name."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._shown: dict[str, asyncio.Task[Any]] = {}
        self._until: dict[str, float] = {}

    async def look(self, name: str, work_out: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The list of this name; whoever finds none, or one that is too old or failed, works it out for all."""
        task = self._shown.get(name)
        if task is None or (task.done() and asyncio.get_running_loop().time() >= self._until.get(name, 0)):
            task = self._shown[name] = asyncio.create_task(self._worked_out(name, work_out))
        found: T = await asyncio.shield(task)
        return found

    async def _worked_out(self, name: str, work_out: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = asyncio.get_running_loop()
        self._until[name] = began = loop.time()
        found = await work_out()
        # The longer it took, the longer it is kept: clients that ask all the time must not keep a whole core busy.
        now = loop.time()
        self._until[name] = now + self._keep_s * max(1.0, now - began)
        return found


WINDOW: Final = web.AppKey("window", Window)
