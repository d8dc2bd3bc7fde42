"""An answer that is there as a whole, written at once: its head and its body, by one call.

What aiohttp's own answers may also be (streams, compressed, chunked, with cookies) these are not, so nothing of it is
asked for each of them. What they say is decided elsewhere.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter


class Whole(web.Response):
    """Made with a body of bytes, and with all its headers but Content-Length, Date and Connection."""

    _written = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write it; ConnectionError when nobody is there any more to take it."""
        if self._written:
            return None
        self._written = True
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("nobody is there to take the answer")
        body: Any = self.body
        version = request.version
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        head = f"HTTP/{version.major}.{version.minor} {self.status} {self.reason}\r\n"
        for name, value in self.headers.items():
            if not value.isprintable():
                raise ValueError(f"the header {name} holds what would end it")
            head += f"{name}: {value}\r\n"
        head += f"Content-Length: {len(body)}\r\nDate: {_date()}\r\n"
        if not self._keep_alive and version >= HttpVersion11:
            head += "Connection: close\r\n"
        elif self._keep_alive and version == HttpVersion10:
            head += "Connection: keep-alive\r\n"
        written = f"{head}\r\n".encode()
        transport.write(written if request.method == "HEAD" else written + body)
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """There is nothing more to be written."""

    @property
    def prepared(self) -> bool:
        return self._written


_dated: tuple[int, str] = (0, "")


def _date() -> str:
    """The time as HTTP has it, made anew once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = now, formatdate(now, usegmt=True)
    return _dated[1]
