"""The feed: events by position, by long poll.

Positions are given after the commit by one sequencer, so whoever reads on from the last position misses nothing. A
waiting reader holds no connection of the database.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from aggregator.storage import outbox, reports
from aggregator.storage.database import Connection, Database
from aggregator.web.auth import Caller
from aggregator.web.query import LIMIT, MAX_POSITION, Parameters, query_of, whole
from aggregator.web.rendering import Answer, event_text, response
from aggregator.web.services import services_of

MAX_WAIT_S: Final = 30
LOOK_EVERY_S: Final = 1.0
"""Between wake-ups, which are hints only."""

AFTER: Final = whole(
    "after", "The position to go on from: `next_after` of the answer before.", least=0, most=MAX_POSITION, default=0
)
WAIT: Final = whole(
    "wait", "Seconds to wait for an event when there is none yet (long poll).", least=0, most=MAX_WAIT_S, default=0
)
FEED_QUERY: Final = Parameters(AFTER, LIMIT, WAIT)


class Feed:
    """Tells waiting readers when the feed has grown. However many wait, the database is asked once at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._grown = asyncio.Event()
        self._looking: asyncio.Task[int] | None = None
        self.closed = False

    def wake(self) -> None:
        """New positions were given: everybody looks again."""
        self._grown.set()
        self._grown = asyncio.Event()
        self._looking = None

    def close(self) -> None:
        """The doors close: nobody waits any longer."""
        self.closed = True
        self.wake()

    async def next_look(self, at_most_s: float) -> None:
        """Wait for a wake-up, or as long as it makes sense to go without one."""
        try:
            async with asyncio.timeout(min(at_most_s, LOOK_EVERY_S)):
                await self._grown.wait()
        except TimeoutError:
            return

    async def head(self) -> int:
        """The highest position; readers that ask at the same time share one query."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._database.read(reports.feed_head))
        return await asyncio.shield(self._looking)


FEED: Final = web.AppKey("feed", Feed)


async def list_events(request: web.Request, caller: Caller) -> web.Response:
    """`GET /v1/events?after=N&limit=&wait=`: what came after a position; with `wait`, as soon as there is something.

    `next_after` is what to ask for next; it also passes over events of other callers.
    """
    query = query_of(request)
    after, wait_s, limit = query[AFTER], query[WAIT], query.limit
    services, feed = services_of(request), request.app[FEED]

    def load(connection: Connection, start: int) -> tuple[list[tuple[int, str, str]], int]:
        # The head first: what it covers is complete, whatever is given a position meanwhile.
        head = reports.feed_head(connection)
        return outbox.feed(connection, after=start, limit=limit, owner=caller.sees), head

    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        events, head = await services.house.database.read(lambda c, start=after: load(c, start))  # type: ignore[misc]
        if len(events) == limit:
            head = 0
        after = max(after, head, events[-1][0] if events else 0)
        while not events and loop.time() < until and not (feed.closed or services.draining() or _gone(request)):
            await feed.next_look(until - loop.time())
            if await feed.head() > after:
                break
        else:
            break
    texts = ",".join(event_text(*event) for event in events)
    return response(Answer(200, f'{{"events":[{texts}],"next_after":{after}}}'))


def _gone(request: web.Request) -> bool:
    """Whether nobody is there to hear the answer."""
    return request.transport is None or request.transport.is_closing()
