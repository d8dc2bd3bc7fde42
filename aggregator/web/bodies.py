"""Request bodies: read within limits of size and time, then parsed as strictly as JSON allows.

Decides what is JSON at all (400) and which values no field may hold (422). It knows no field by name.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NoReturn, cast

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from aggregator.domain.errors import Problem, ProblemKind
from aggregator.web.connections import Connection, connection_of
from aggregator.web.problems import invalid
from aggregator.web.rendering import JSON

READ_TIMEOUT_S: Final = 30.0
"""How long a body may take to arrive."""
MAX_DEPTH: Final = 32
MAX_NUMBER: Final = 30
"""Characters of a number: what stands for no quantity and no price is refused before anything computes with it."""

_REFUSED: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class _Repeated(dict[str, Any]):
    """An object in which a name stands twice: readers differ in which of the two counts (RFC 8259 §4)."""

    name = ""


class _Absurd:
    """A number too long to be meant."""


async def read_body(request: web.Request) -> bytes:
    """The whole body of a JSON request; 413, 415, 408 or 400 otherwise."""
    body = await read_raw(request)
    if body:
        _check_type(request)
    return body


async def read_raw(request: web.Request) -> bytes:
    """The whole body of a request, whatever it is; 413, 408 or 400 otherwise."""
    limit, length = request.client_max_size, request.content_length
    if length is not None and length > limit:
        raise web.HTTPRequestEntityTooLarge(limit)
    connection = connection_of(request)
    if connection is not None and length:
        connection.hold(length)
    measured = length is not None and "Content-Encoding" not in request.headers
    try:
        if request.content.is_eof():  # it has come whole
            body = request.content.read_nowait()
            if len(body) > limit:
                raise web.HTTPRequestEntityTooLarge(limit)
            if connection is not None and not measured:
                connection.hold(len(body))
            return body
        async with asyncio.timeout(READ_TIMEOUT_S):
            if connection is None or measured:
                return await request.read()
            return await _read_unmeasured(request, connection, limit)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {READ_TIMEOUT_S:g} s") from None
    except (web.RequestPayloadError, HttpProcessingError, ClientError, ConnectionError) as exc:
        raise Problem(ProblemKind.BAD_JSON, "the body did not arrive whole, or its encoding is broken") from exc


async def _read_unmeasured(request: web.Request, connection: Connection, limit: int) -> bytes:
    """A body whose size is known when it is there: each piece finds room, or the request is refused."""
    body = bytearray()
    async for piece in request.content.iter_any():
        if len(body) + len(piece) > limit:
            raise web.HTTPRequestEntityTooLarge(limit)
        connection.hold(len(piece))
        body += piece
    return bytes(body)


def _check_type(request: web.Request) -> None:
    # Without the header the body is taken for what every body here is.
    if request.headers.get("Content-Type", JSON) == JSON:
        return
    kind = request.content_type.lower()
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise web.HTTPUnsupportedMediaType(
            text=f"send the body as JSON with Content-Type: application/json, not {kind}"
        )
    if (request.charset or "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8", "us-ascii"):
        raise web.HTTPUnsupportedMediaType(text="send the body in UTF-8")


def parse(body: bytes) -> object:
    """The body's JSON; floats as Decimal. Its values still want `check_values`."""
    if not body:
        raise Problem(ProblemKind.BAD_JSON, "the body is empty; send a JSON object")
    try:
        text = body.decode()
        if text.startswith("\ufeff"):
            text = text[1:]
        return _DECODER.decode(text)
    except UnicodeDecodeError as exc:
        raise Problem(ProblemKind.BAD_JSON, f"the body is not UTF-8 text (byte {exc.start})") from None
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise Problem(ProblemKind.BAD_JSON, f"the body is not JSON: {exc.msg} at {where}") from None
    except RecursionError:
        raise _too_deep() from None


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as one JSON object whose values are still unchecked."""
    value = parse(body)
    if not isinstance(value, dict):
        raise invalid(f"the body must be a JSON object, got {noun(value)}")
    return value


def check_values(value: object) -> None:
    """Refuse what no field may hold, with its path: control characters, half characters, names given twice, absurd
    numbers."""
    if _plain(value, 0):
        return
    for path, item, depth in _walk(value):
        if depth > MAX_DEPTH:
            raise _too_deep()
        if isinstance(item, str):
            _check_text(item, path)
        elif isinstance(item, _Absurd):
            raise invalid(f"must be a number of at most {MAX_NUMBER} characters", path)
        elif isinstance(item, dict):
            if isinstance(item, _Repeated):
                raise invalid("stands twice in one object", _join(path, item.name))
            for name in item:
                _check_text(name, _join(path, name))


_SCALARS: Final = frozenset({int, Decimal, bool, type(None)})


def _plain(value: object, depth: int) -> bool:
    """Whether nothing is to be refused: what almost all values are, told without the paths of their parts."""
    kind = type(value)
    if kind is str:
        return _printable(cast(str, value))
    if kind is dict:
        if depth >= MAX_DEPTH:
            return False
        for name, item in cast(dict[str, Any], value).items():
            if not _printable(name):
                return False
            kind = type(item)
            if kind is str:
                if not _printable(item):
                    return False
            elif kind not in _SCALARS and not _plain(item, depth + 1):
                return False
        return True
    if kind is list:
        return depth < MAX_DEPTH and all(_plain(item, depth + 1) for item in cast(list[Any], value))
    return kind in _SCALARS


def _printable(text: str) -> bool:
    return text.isprintable() or _REFUSED.search(text) is None


def _walk(value: object) -> Iterator[tuple[str, object, int]]:
    stack: list[tuple[str, object, int]] = [("", value, 0)]
    while stack:
        path, item, depth = stack.pop()
        yield path, item, depth
        if isinstance(item, dict):
            stack.extend((_join(path, name), child, depth + 1) for name, child in reversed(item.items()))
        elif isinstance(item, list):
            children = list(enumerate(item))
            stack.extend((_join(path, str(place)), child, depth + 1) for place, child in reversed(children))


def _join(path: str, name: str) -> str:
    # A field's path is quoted in the answer: a long or unprintable name must not be.
    shown = name if len(name) <= 64 and name.isprintable() else ascii(name[:64])[1:-1]
    return f"{path}.{shown}" if path else shown


def _check_text(text: str, path: str) -> None:
    found = _REFUSED.search(text)
    if found is not None:
        raise invalid(f"holds {character(found[0])}, which no field takes", path)


def character(char: str) -> str:
    """A character that should not be there, in words."""
    kind = "half of a surrogate pair" if "\ud800" <= char <= "\udfff" else "a control character"
    return f"{kind} (U+{ord(char):04X})"


def noun(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return "a number"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = _Repeated(found)
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            repeated.name = name
            break
        seen.add(name)
    return repeated


def _integer(text: str) -> object:
    return int(text) if len(text) <= MAX_NUMBER else _Absurd()


def _decimal(text: str) -> object:
    if len(text) > MAX_NUMBER:
        return _Absurd()
    try:
        value = Decimal(text)
    except ArithmeticError:  # an exponent of many digits
        return _Absurd()
    return value if -MAX_NUMBER <= value.adjusted() <= MAX_NUMBER else _Absurd()


def _constant(name: str) -> NoReturn:
    raise Problem(ProblemKind.BAD_JSON, f"the body is not JSON: {name} is not a number that JSON knows")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_decimal, parse_constant=_constant
)


def _too_deep() -> Problem:
    return Problem(ProblemKind.BAD_JSON, f"the body is nested deeper than {MAX_DEPTH} levels")
