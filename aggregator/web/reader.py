"""The API's own description as it is served: `/openapi.json` for programs, `/docs` for people.

Both are bytes that are made once, when somebody asks first. They say nothing of the business and need no key; the page
is whole by itself and may fetch nothing from anywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from aggregator.web.rendering import JSON, encode

CACHE: Final = "no-cache"
"""Kept, and asked about each time: a new release says new things."""

_PAGE_HEADERS: Final = {"Referrer-Policy": "no-referrer"}


@dataclass(frozen=True, slots=True)
class _Served:
    body: bytes
    etag: str
    content_type: str
    headers: dict[str, str]


class Reader:
    """Makes the document and the page at the first request for one of them, and keeps their bytes."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make
        self._made: asyncio.Task[tuple[_Served, _Served]] | None = None

    async def document(self) -> _Served:
        return (await self._both())[0]

    async def page(self) -> _Served:
        return (await self._both())[1]

    async def _both(self) -> tuple[_Served, _Served]:
        if self._made is None or (self._made.done() and self._made.exception() is not None):
            # In a thread: orders do not wait for it.
            self._made = asyncio.create_task(asyncio.to_thread(self._serve))
        return await asyncio.shield(self._made)

    def _serve(self) -> tuple[_Served, _Served]:
        # A daemon that nobody asks needs no templates.
        from aggregator.web.page import page

        document = self._make()
        shown = page(document)
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return _served(encode(text), JSON, {}), _served(
            encode(shown.html), "text/html", {**_PAGE_HEADERS, "Content-Security-Policy": shown.policy}
        )


def _served(body: bytes, content_type: str, headers: dict[str, str]) -> _Served:
    return _Served(body, hashlib.sha256(body).hexdigest()[:32], content_type, headers)


READER: Final = web.AppKey("reader", Reader)


async def get_document(request: web.Request) -> web.Response:
    """`GET /openapi.json`."""
    return _answer(request, await request.app[READER].document())


async def get_page(request: web.Request) -> web.Response:
    """`GET /docs`."""
    return _answer(request, await request.app[READER].page())


def _answer(request: web.Request, served: _Served) -> web.Response:
    headers = {**served.headers, "Cache-Control": CACHE, "ETag": f'"{served.etag}"'}
    known = request.if_none_match
    if known is not None and any(tag.value in ("*", served.etag) for tag in known):
        return web.Response(status=304, headers=headers)
    return web.Response(body=served.body, content_type=served.content_type, charset="utf-8", headers=headers)
