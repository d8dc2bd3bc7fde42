"""Query strings and cursors: strict reading, opaque positions.

Decides what a query may say; a cursor belongs to the query that gave it, and to no other one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from aiohttp import web

from aggregator.config.problems import did_you_mean
from aggregator.domain.clock import parse_rfc3339
from aggregator.domain.errors import Problem
from aggregator.web.bodies import character
from aggregator.web.problems import invalid

MAX_LIMIT: Final = 500
DEFAULT_LIMIT: Final = 50
MAX_POSITION: Final = 2**62
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_PAGING: Final = ("limit", "cursor")


class Query:
    """The query of one request. Names that it may not have, and names given twice, are refused at once."""

    def __init__(self, request: web.Request, *known: str, paged: bool = False) -> None:
        self._values: dict[str, str] = {}
        self._scope = request.path
        allowed = (*known, *_PAGING) if paged else known
        for name, value in request.query.items():
            if name not in allowed:
                shown = name[:64] if name.isprintable() else ascii(name[:64])[1:-1]
                raise invalid(f"is no parameter of this call{did_you_mean(shown, allowed)}", shown)
            if name in self._values:
                raise invalid("is given twice", name)
            if found := _UNPRINTABLE.search(value):
                raise invalid(f"holds {character(found[0])}", name)
            self._values[name] = value

    def text(self, name: str, longest: int = 255) -> str | None:
        value = self._values.get(name)
        if value is not None and not 1 <= len(value) <= longest:
            raise invalid(f"must have 1 to {longest} characters", name)
        return value

    def choice(self, name: str, choices: Iterable[str]) -> str | None:
        value = self._values.get(name)
        if value is not None and value not in (words := tuple(choices)):
            raise invalid(f"must be one of {', '.join(words)}", name)
        return value

    def flag(self, name: str) -> bool | None:
        value = self.choice(name, ("true", "false"))
        return None if value is None else value == "true"

    def integer(self, name: str, least: int, most: int, default: int) -> int:
        value = self._values.get(name)
        if value is None:
            return default
        number = int(value) if value.isascii() and value.isdigit() and len(value) <= 19 else -1
        if not least <= number <= most:
            raise invalid(f"must be a whole number from {least} to {most}", name)
        return number

    def instant(self, name: str) -> datetime | None:
        value = self._values.get(name)
        if value is None:
            return None
        try:
            # A plus sign that nobody escaped arrives as a space.
            return parse_rfc3339(value.replace(" ", "+"))
        except ValueError:
            raise invalid("must be an RFC 3339 time with its zone, such as 2026-11-21T18:00:00Z", name) from None

    @property
    def limit(self) -> int:
        return self.integer("limit", 1, MAX_LIMIT, DEFAULT_LIMIT)

    @property
    def cursor(self) -> int | None:
        """The position that a cursor of this very query stands for."""
        raw = self._cursor()
        if raw is None:
            return None
        position = int.from_bytes(raw[8:16], "big")
        if len(raw) != 16 or raw[:8] != self._mark(position):
            raise _no_cursor()
        return position

    def next_cursor(self, position: int) -> str:
        return _encoded(self._mark(position) + position.to_bytes(8, "big"))

    @property
    def cursor_text(self) -> str | None:
        """The same for a list that is ordered by a text."""
        raw = self._cursor()
        if raw is None:
            return None
        text = raw[8:].decode(errors="replace")
        if raw[:8] != self._mark(text):
            raise _no_cursor()
        return text

    def next_cursor_text(self, text: str) -> str:
        return _encoded(self._mark(text) + text.encode(errors="replace"))

    def _cursor(self) -> bytes | None:
        text = self._values.get("cursor")
        if text is None:
            return None
        try:
            return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error, ValueError):
            raise _no_cursor() from None

    def _mark(self, position: int | str) -> bytes:
        """What ties a position to its query; the page's size may change from page to page."""
        filters = sorted((name, value) for name, value in self._values.items() if name not in _PAGING)
        return hashlib.sha256(repr((self._scope, filters, position)).encode()).digest()[:8]


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _no_cursor() -> Problem:
    return invalid("is not a cursor of this query; take next_cursor as it is, with the same filters", "cursor")
