"""Query strings and cursors: parameters that are declared once, strict reading, opaque positions.

Decides what a query may say: a `Parameter` is what a request is read by and what the API's own description shows, so
the two cannot differ. A cursor belongs to the query that gave it, and to no other one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, cast

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
# What cannot stand in a parameter's text, for JSON Schema: of the half characters nothing arrives.
_PRINTABLE: Final = r"^[^\u0000-\u001f\u007f]*$"

T = TypeVar("T")


@dataclass(frozen=True)
class Parameter(Generic[T]):
    """One parameter of a query. `schema` says in JSON Schema what `read` takes; `absent` stands for it when the
    request leaves it out, and `example` is a value that a description may show."""

    name: str
    description: str
    schema: Mapping[str, Any]
    read: Callable[[str, str], T]
    """From the parameter's name and text to its value; Problem naming it."""
    absent: T
    example: object = None


def text(name: str, description: str, *, longest: int = 255, example: str | None = None) -> Parameter[str | None]:
    def read(name: str, value: str) -> str | None:
        if not 1 <= len(value) <= longest:
            raise invalid(f"must have 1 to {longest} characters", name)
        return value

    schema = {"type": "string", "minLength": 1, "maxLength": longest, "pattern": _PRINTABLE}
    return Parameter(name, description, schema, read, None, example)


def choice(name: str, choices: Iterable[str], description: str) -> Parameter[str | None]:
    words = tuple(str(word) for word in choices)

    def read(name: str, value: str) -> str | None:
        if value not in words:
            raise invalid(f"must be one of {', '.join(words)}", name)
        return value

    return Parameter(name, description, {"type": "string", "enum": list(words)}, read, None)


def flag(name: str, description: str) -> Parameter[bool | None]:
    words = choice(name, ("true", "false"), description)

    def read(name: str, value: str) -> bool | None:
        return words.read(name, value) == "true"

    return Parameter(name, description, {"type": "boolean"}, read, None)


def whole(name: str, description: str, *, least: int, most: int, default: int) -> Parameter[int]:
    def read(name: str, value: str) -> int:
        number = int(value) if value.isascii() and value.isdigit() and len(value) <= 19 else -1
        if not least <= number <= most:
            raise invalid(f"must be a whole number from {least} to {most}", name)
        return number

    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return Parameter(name, description, schema, read, default)


def instant(name: str, description: str) -> Parameter[datetime | None]:
    def read(name: str, value: str) -> datetime | None:
        try:
            # A plus sign that nobody escaped arrives as a space.
            return parse_rfc3339(value.replace(" ", "+"))
        except ValueError:
            raise invalid("must be an RFC 3339 time with its zone, such as 2026-11-21T18:00:00Z", name) from None

    schema = {"type": "string", "format": "date-time"}
    return Parameter(name, description, schema, read, None, "2026-11-21T18:00:00Z")


LIMIT: Final = whole("limit", "How many at most.", least=1, most=MAX_LIMIT, default=DEFAULT_LIMIT)
CURSOR: Final[Parameter[str | None]] = Parameter(
    "cursor",
    "Where the page begins: `next_cursor` of the page before, as it is and with the same filters.",
    {"type": "string", "pattern": "^[A-Za-z0-9_-]{11,300}$"},
    lambda _, value: value,
    None,
)
_PAGING: Final = (LIMIT.name, CURSOR.name)


@dataclass(frozen=True)
class Parameters:
    """All that the query of one call may say; `paged` adds `limit` and `cursor`."""

    known: tuple[Parameter[Any], ...]
    by_name: Mapping[str, Parameter[Any]] = field(repr=False)

    def __init__(self, *known: Parameter[Any], paged: bool = False) -> None:
        everything = (*known, LIMIT, CURSOR) if paged else known
        object.__setattr__(self, "known", everything)
        object.__setattr__(self, "by_name", {parameter.name: parameter for parameter in everything})

    def read(self, request: web.Request) -> Query:
        """The query of a request; Problem for names that it may not have or has twice, and values they do not take."""
        return Query(self, request)


NO_PARAMETERS: Final = Parameters()


class Query:
    """The query of one request, read: `query[STATE]` is the value of that parameter."""

    def __init__(self, declared: Parameters, request: web.Request) -> None:
        self._scope = request.path
        self._raw: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        if not request.query_string:
            self._values = {name: parameter.absent for name, parameter in declared.by_name.items()}
            return
        for name, value in request.query.items():
            if name not in declared.by_name:
                shown = name[:64] if name.isprintable() else ascii(name[:64])[1:-1]
                raise invalid(f"is no parameter of this call{did_you_mean(shown, declared.by_name)}", shown)
            if name in self._raw:
                raise invalid("is given twice", name)
            if found := _UNPRINTABLE.search(value):
                raise invalid(f"holds {character(found[0])}", name)
            self._raw[name] = value
        for name, parameter in declared.by_name.items():
            given = self._raw.get(name)
            self._values[name] = parameter.absent if given is None else parameter.read(name, given)

    def __getitem__(self, parameter: Parameter[T]) -> T:
        return cast(T, self._values[parameter.name])

    @property
    def limit(self) -> int:
        return self[LIMIT]

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
        text = self[CURSOR]
        if text is None:
            return None
        try:
            return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error, ValueError):
            raise _no_cursor() from None

    def _mark(self, position: int | str) -> bytes:
        """What ties a position to its query; the page's size may change from page to page."""
        filters = sorted((name, value) for name, value in self._raw.items() if name not in _PAGING)
        return hashlib.sha256(repr((self._scope, filters, position)).encode()).digest()[:8]


QUERY: Final = web.RequestKey("query", Query)


def query_of(request: web.Request) -> Query:
    """The query that the route's declaration read before its handler was called."""
    return request[QUERY]


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _no_cursor() -> Problem:
    return invalid("is not a cursor of this query; take next_cursor as it is, with the same filters", "cursor")
