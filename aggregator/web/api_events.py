"""The feed of events by position: page by page, by long poll, and as a stream of server-sent events.

All three tell the same events with the same JSON. Decides where a reader begins and how long it may keep us waiting;
which events there are is the feed's to say.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from aiohttp import web

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.outbox import Told
from aggregator.web.auth import GATE, Caller
from aggregator.web.connections import CUT, Connection, connection_of, has_gone
from aggregator.web.feed import FEED, Feed, Page
from aggregator.web.limits import Waiting
from aggregator.web.problems import invalid
from aggregator.web.query import LIMIT, MAX_POSITION, Parameter, Parameters, query_of, whole
from aggregator.web.rendering import REQUEST_ID, Answer, encode, event_text, response
from aggregator.web.services import services_of

MAX_WAIT_S: Final = 30
HEARTBEAT_S: Final = 15.0
"""Of silence in a stream; then a comment goes out, so that proxies keep it and a dead reader is noticed."""
SEND_S: Final = 30.0
"""How long a stream's reader may take to make room for the next piece."""
PAGE: Final = 50
PIECE: Final = 64 * 1024
"""Bytes that are handed to a stream's connection at once."""
COME_BACK_MS: Final = 2000
_LAST: Final = "Last-Event-ID"

WAITING: Final = web.AppKey("waiting", Waiting)

AFTER: Final = whole(
    "after", "The position to go on from: `next_after` of the answer before.", least=0, most=MAX_POSITION, default=0
)
WAIT: Final = whole(
    "wait", "Seconds to wait for an event when there is none yet (long poll).", least=0, most=MAX_WAIT_S, default=0
)
FEED_QUERY: Final = Parameters(AFTER, LIMIT, WAIT)
START: Final[Parameter[int | None]] = Parameter(
    "after",
    "The position to begin after, 0 for everything; left out: what comes from now on. `Last-Event-ID` goes before it.",
    {"type": "integer", "minimum": 0, "maximum": MAX_POSITION},
    AFTER.read,
    None,
)
STREAM_QUERY: Final = Parameters(START)


async def list_events(request: web.Request, caller: Caller) -> web.Response:
    """`GET /v1/events?after=N&limit=&wait=`: what came after a position; with `wait`, as soon as there is something.

    `next_after` is what to ask for next; it also passes over events of other callers.
    """
    query = query_of(request)
    after, wait_s = query[AFTER], query[WAIT]
    page = await request.app[FEED].stored(after, query.limit, caller.sees)
    _check(after, page.head, "after")
    if not page.events and wait_s:
        with request.app[WAITING].place(caller.name):
            page = await _wait(request, caller, page, query.limit, wait_s)
    texts = ",".join(map(_text, page.events))
    return response(Answer(200, f'{{"events":[{texts}],"next_after":{page.reached}}}'))


async def _wait(request: web.Request, caller: Caller, page: Page, limit: int, wait_s: float) -> Page:
    connection = connection_of(request)
    if connection is not None:
        connection.step_aside(stream=False)
    feed, loop = request.app[FEED], asyncio.get_running_loop()
    until = loop.time() + wait_s
    while not page.events and loop.time() < until and not _over(request, feed):
        moment = feed.moment()
        page = await feed.newest(page.reached, limit, caller.sees)
        if not page.events:
            await feed.wait(moment, until - loop.time())
    # A key that ended while its caller waited tells nothing any more.
    return page if request.app[GATE].still(request, caller) else Page([], page.reached, page.head)


async def stream(request: web.Request, caller: Caller) -> web.StreamResponse:
    """`GET /v1/events/stream`: `id` is the position, `event` the type, `data` what the feed tells.

    It begins after `Last-Event-ID`, else after `?after=N`, else with what comes from now on.
    """
    feed = request.app[FEED]
    given = request.headers.get(_LAST, "").strip()
    after = _last_event(given) if given else query_of(request)[START]
    with request.app[WAITING].place(caller.name):
        head = await feed.head()
        start = head if after is None else after
        _check(start, head, _LAST if given else "after")
        answer = web.StreamResponse(headers=_headers(request))
        connection = connection_of(request)
        if connection is not None:
            connection.step_aside(stream=True)
        try:
            await answer.prepare(request)
            if request.method != "HEAD":
                with feed.streaming(partial(_cut_if_full, connection)):
                    await _tell(request, caller, answer, start)
        except ConnectionError:
            pass  # the reader went away
        except TimeoutError:
            CUT.labels("slow_stream").inc()
            if connection is not None:
                connection.abort()
        return answer


async def _tell(request: web.Request, caller: Caller, answer: web.StreamResponse, after: int) -> None:
    """Send events until the reader or the doors have gone, or the key counts no more."""
    feed, gate, loop = request.app[FEED], request.app[GATE], asyncio.get_running_loop()
    # At once: with the place to go on from, nothing is missed if the connection breaks before the first event.
    await _send(answer, f"retry: {COME_BACK_MS}\nid: {after}\n\n")
    told, sent_at = after, loop.time()
    while not _over(request, feed):
        moment = feed.moment()
        try:
            page = await feed.newest(after, PAGE, caller.sees)
        except StorageUnavailable:
            page = Page([], after, after)  # the reader hears heartbeats until the database is back
        if not gate.still(request, caller):
            await _send(answer, ": this key counts no more\n\n")
            return
        after = page.reached
        if page.events:
            await _send_all(answer, page.events)
            told, sent_at = page.events[-1].position, loop.time()
        elif loop.time() - sent_at >= HEARTBEAT_S:
            # A position without data passes over what belongs to others; no reader takes it for an event.
            await _send(answer, f": \nid: {after}\n\n" if after > told else ": \n\n")
            told, sent_at = after, loop.time()
        if after >= page.head:
            await feed.wait(moment, HEARTBEAT_S)


async def _send_all(answer: web.StreamResponse, events: list[Told]) -> None:
    piece: list[str] = []
    size = 0
    for told in events:
        piece.append(f"id: {told.position}\nevent: {told.type}\ndata: {_text(told)}\n\n")
        size += len(piece[-1])
        if size >= PIECE:
            await _send(answer, "".join(piece))
            piece, size = [], 0
    if piece:
        await _send(answer, "".join(piece))


async def _send(answer: web.StreamResponse, text: str) -> None:
    """TimeoutError when the reader does not make room for it in time."""
    async with asyncio.timeout(SEND_S):
        await answer.write(encode(text))


def _headers(request: web.Request) -> dict[str, str]:
    return {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Accel-Buffering": "no",  # nginx would keep events back until it has a page of them
        "X-Request-Id": request[REQUEST_ID],
        "Server": "aggregator",
    }


def _last_event(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_POSITION):
        raise invalid("must be the id of an event of this stream, which is its position", _LAST)
    return int(text)


def _check(after: int, head: int, field: str) -> None:
    """A position that was never given is a mistake, or of another database: who waits for it would miss everything."""
    if after > head:
        raise invalid(f"no event has this position yet; the newest is {head}", field)


def _text(told: Told) -> str:
    return event_text(told.position, told.id, told.body)


def _over(request: web.Request, feed: Feed) -> bool:
    """Whether nobody is there to hear more, or nobody to tell it."""
    return has_gone(request) or feed.closed or services_of(request).draining()


def _cut_if_full(connection: Connection | None) -> None:
    if connection is not None and connection.writing_paused:
        connection.abort()
