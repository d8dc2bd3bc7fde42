"""What readers of the feed share: one look at the database for all who wait, and the newest events in memory.

Positions are given after the commit by one sequencer, so whoever reads on from the last position misses nothing.
Decides which events a reader gets from a position on; never how they are told. A waiting reader holds no connection of
the database.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from aggregator.storage import outbox, reports
from aggregator.storage.database import Connection, Database
from aggregator.storage.outbox import Told

LOOK_EVERY_S: Final = 1.0
"""Between wake-ups, which are hints only."""
WINDOW: Final = 5_000
"""Positions that one statement passes over at most: a reader with few events of their own holds nobody up."""
BATCH: Final = 500
KEPT: Final = 1_000
KEPT_BYTES: Final = 8 * 1024 * 1024
"""The newest events that are kept in memory, by number and by the length of their texts."""


@dataclass(frozen=True, slots=True)
class Page:
    """Events after a position. Up to `reached` they are all that the reader may see; `head` is the newest position."""

    events: list[Told]
    reached: int
    head: int


class Feed:
    """Tells waiting readers what the feed has grown by. However many wait, the database is asked once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._grown = asyncio.Event()
        self._lock = asyncio.Lock()
        self._fresh_until = float("-inf")
        self._recent: list[Told] = []
        self._bytes = 0
        self._low = -1
        """Beyond this position `_recent` holds everything, up to `_head`."""
        self._head = -1
        self._streams: set[Callable[[], None]] = set()
        self.closed = False

    def wake(self) -> None:
        """New positions were given: everybody looks again."""
        self._fresh_until = float("-inf")
        self._grown.set()
        self._grown = asyncio.Event()

    def close(self) -> None:
        """The doors close: nobody waits any longer, and who does not read is not waited for."""
        self.closed = True
        self.wake()
        for cut in tuple(self._streams):
            cut()

    @contextmanager
    def streaming(self, cut: Callable[[], None]) -> Iterator[None]:
        """While inside, `cut` is called when the doors close."""
        self._streams.add(cut)
        try:
            yield
        finally:
            self._streams.discard(cut)

    def moment(self) -> asyncio.Event:
        """Take it before looking at a page, and wait for it afterwards: what came in between is not slept through."""
        return self._grown

    async def wait(self, moment: asyncio.Event, at_most_s: float) -> None:
        """Until the feed grows, or as long as it makes sense to go without being told."""
        try:
            async with asyncio.timeout(min(at_most_s, LOOK_EVERY_S)):
                await moment.wait()
        except TimeoutError:
            return

    async def head(self) -> int:
        """The newest position."""
        return await self._database.read(reports.feed_head)

    async def stored(self, after: int, limit: int, owner: str | None) -> Page:
        """The next events as the database has them now; `owner` None: everybody's."""
        found: list[Told] = []
        while True:
            load = partial(_load, after=after, limit=limit - len(found), owner=owner)
            page = await self._database.read(load)
            found += page.events
            if len(found) == limit or page.reached >= page.head:
                return Page(found, page.reached, page.head)
            after = page.reached

    async def newest(self, after: int, limit: int, owner: str | None) -> Page:
        """The next events for a reader who waits: from memory, where all that came after the position is there."""
        await self._look()
        if after < self._low:
            return await self.stored(after, limit, owner)
        start = bisect_right(self._recent, after, key=_position)
        found: list[Told] = []
        for told in self._recent[start:]:
            if owner in (None, told.owner):
                found.append(told)
                if len(found) == limit:
                    return Page(found, told.position, self._head)
        return Page(found, max(after, self._head), self._head)

    async def _look(self) -> None:
        """Take in what is new, unless somebody did so a moment ago."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() < self._fresh_until:
                return
            # Whoever wakes us from now on wants another look.
            self._fresh_until = loop.time() + LOOK_EVERY_S
            try:
                await self._take_in()
            except BaseException:
                self._fresh_until = float("-inf")
                raise

    async def _take_in(self) -> None:
        if self._head < 0:
            self._low = self._head = await self.head()
        while True:
            fresh = await self._database.read(lambda c: outbox.feed(c, after=self._head, limit=BATCH))
            if fresh:
                self._keep(fresh)
            if len(fresh) < BATCH:
                return

    def _keep(self, fresh: list[Told]) -> None:
        self._recent += fresh
        self._head = fresh[-1].position
        self._bytes += sum(len(told.body) for told in fresh)
        gone = max(0, len(self._recent) - KEPT)
        size = self._bytes - sum(len(told.body) for told in self._recent[:gone])
        while size > KEPT_BYTES:
            size -= len(self._recent[gone].body)
            gone += 1
        if gone:
            self._low = self._recent[gone - 1].position
            self._bytes = size
            del self._recent[:gone]


def _position(told: Told) -> int:
    return told.position


def _load(connection: Connection, *, after: int, limit: int, owner: str | None) -> Page:
    # The head first: what it covers is complete, whatever is given a position meanwhile.
    head = reports.feed_head(connection)
    # A stretch of positions whose events are removed, or that were never given, is passed over at once.
    first = outbox.first_behind(connection, after)
    after = max(after, first - 1 if first is not None else head)
    until = min(head, after + WINDOW)
    events = outbox.feed(connection, after=after, until=until, limit=limit, owner=owner)
    reached = events[-1].position if len(events) == limit else max(after, until)
    return Page(events, reached, head)


FEED: Final = web.AppKey("feed", Feed)
