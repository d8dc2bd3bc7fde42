"""Faults on a real socket. Decides what bytes, or what end of the connection, a caller meets; not which call does.

Whether a call is accepted is decided by `serve` alone, called once or not at all. Every wait ends when the caller
hangs up, when the app shuts down, or after its time, whichever is first.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine

from aiohttp import web

from .faults import FaultRule

HOLD_S = 300.0
"""How long a held connection lasts when neither side gives up and the rule says nothing."""
HUGE_BYTES = 11 * 1024 * 1024
_LOOK_S = 0.05
"""How often a wait looks whether its caller is still there: aiohttp tells only handlers that write."""


class Waits:
    """Ends all waits of an app at shutdown, and keeps those that must outlive their caller."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self._late: set[asyncio.Task[web.StreamResponse]] = set()

    def outlive(self, work: Coroutine[None, None, web.StreamResponse]) -> Awaitable[web.StreamResponse]:
        """Go on with some work even if the web server cancels the handler because its caller has gone."""
        task = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return asyncio.shield(task)

    async def close(self) -> None:
        """End every wait and see the late work end."""
        self.closing.set()
        await asyncio.gather(*self._late)


async def faulted(
    request: web.Request, rule: FaultRule, waits: Waits, serve: Callable[[], object]
) -> web.StreamResponse:
    """Meet a call with a fault. `serve` accepts it and gives its answer; it runs only if the fault's stage says so."""
    kind = rule.kind
    if rule.fault == "accept_late":
        return await waits.outlive(_late(request, rule, waits, serve))
    if kind.wire == "delay":
        return answered(serve()) if await _wait(request, rule.delay_s or 0.0, waits) else _gone()
    answer = serve() if kind.stage == "after" else None
    if kind.wire == "hold":
        await _wait(request, HOLD_S if rule.delay_s is None else rule.delay_s, waits)
        return _cut(request, reset=False)
    if rule.delay_s and not await _wait(request, rule.delay_s, waits):
        return _gone()
    if kind.wire in ("reset", "close"):
        return _cut(request, reset=kind.wire == "reset")
    if kind.wire == "huge":
        return await _huge(request, rule)
    if kind.wire in ("truncated", "short_body"):
        return await _half(request, rule, kind.body if answer is None else json.dumps(answer))
    return _fixed(request, rule)


async def _late(request: web.Request, rule: FaultRule, waits: Waits, serve: Callable[[], object]) -> web.StreamResponse:
    """Accept after the delay, whether the caller is still there or not: a slow provider's late purchase."""
    return answered(serve()) if await _wait(request, rule.delay_s or 0.0, waits, hangup=False) else _gone()


def answered(answer: object) -> web.Response:
    """The ordinary reply: JSON under status 200, errors included, as both documents have it."""
    return web.json_response(answer)


async def _wait(request: web.Request, seconds: float, waits: Waits, *, hangup: bool = True) -> bool:
    """Wait in real seconds. False if it ended early: the caller hung up (unless told to ignore that) or we close."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if hangup and (request.transport is None or request.transport.is_closing()):
            return False
        try:
            await asyncio.wait_for(waits.closing.wait(), min(left, _LOOK_S))
            return False
        except TimeoutError:
            continue
    return True


def _fixed(request: web.Request, rule: FaultRule) -> web.Response:
    """A reply that has nothing to do with the call: an error page, a 429, a redirect, JSON of the wrong shape."""
    kind = rule.kind
    body = kind.body if rule.body is None else rule.body
    headers = {name.title(): value for name, value in rule.headers.items()}
    if rule.fault.startswith("error_text"):
        body = json.dumps({"error": body})
    if kind.wire == "redirect":
        headers.setdefault("Location", request.path.replace("/api/v2", "/redirected"))
    headers.setdefault("Content-Type", rule.content_type or kind.content_type)
    return web.Response(status=rule.status or kind.status, body=body.encode(), headers=headers)


async def _half(request: web.Request, rule: FaultRule, text: str) -> web.StreamResponse:
    """Half of the JSON: with a Content-Length that fits, or with the whole's, and then the connection ends."""
    whole = (text if rule.body is None else rule.body).encode()
    half = whole[: len(whole) // 2]
    short = rule.kind.wire == "short_body"
    response = web.StreamResponse(status=rule.status or rule.kind.status, headers=dict(rule.headers))
    response.content_type = rule.content_type or rule.kind.content_type
    response.content_length = len(whole) if short else len(half)
    if short:
        response.force_close()
    await response.prepare(request)
    await response.write(half)
    if short and request.transport is not None:
        request.transport.close()
    return response


async def _huge(request: web.Request, rule: FaultRule) -> web.StreamResponse:
    """One valid JSON object of more than 10 MB, written in pieces; it ends early when the caller hangs up."""
    head, tail = b'{"error": "', b'"}'
    response = web.StreamResponse(status=rule.status or rule.kind.status, headers=dict(rule.headers))
    response.content_type = rule.content_type or rule.kind.content_type
    response.content_length = HUGE_BYTES
    await response.prepare(request)
    left = HUGE_BYTES - len(head) - len(tail)
    try:
        await response.write(head)
        while left:
            piece = min(left, 65_536)
            await response.write(b"x" * piece)
            left -= piece
        await response.write(tail)
    except ConnectionError:
        response.force_close()
    return response


def _cut(request: web.Request, *, reset: bool) -> web.Response:
    """End the connection without an answer: a clean FIN, or an RST (linger 0 makes the kernel send one)."""
    transport = request.transport
    if transport is not None and reset:
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    elif transport is not None:
        transport.close()
    return _gone()


def _gone() -> web.Response:
    """What a handler returns when nobody will read it; aiohttp finds the connection closed and drops it."""
    response = web.Response()
    response.force_close()
    return response
