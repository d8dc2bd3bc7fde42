"""The parameters of a request to the panel door: from a form, JSON or a query string to one text for each name.

Decides how a request is read, never what it asks for. Clients differ widely, so all common forms are taken; what is not
text, or no parameter at all, is refused.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from aggregator.domain.catalogue import LINE_LISTS
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.web.bodies import READ_TIMEOUT_S, check_values, parse_object, read_raw
from aggregator.web.panel.words import Refused, Word

MAX_FIELDS: Final = 1000
LARGE: Final = 64 * 1024
"""Bytes. A megabyte takes most of a second to read, and nobody knows yet who sent it: that is done beside the loop."""
_ITEM: Final = re.compile(r"(\w+)\[\d*\]", re.ASCII)
_UNREADABLE: Final = (
    *(ValueError, LookupError, RuntimeError, AssertionError, TimeoutError),
    *(ClientError, HttpProcessingError, zlib.error),
)
"""What aiohttp raises of a multipart form: parts have headers, charsets and encodings of their own."""

Pairs = Iterable[tuple[str, str]]


async def read_fields(request: web.Request) -> dict[str, str]:
    """Every parameter of a request. What stands in the body counts before what stands in the query.

    Refused when it cannot be read, Problem when a value holds what no field may.
    """
    fields = _joined(request.query.items())
    if request.method == "POST":
        fields |= await _body(request)
    check_values(fields)
    return fields


async def _body(request: web.Request) -> dict[str, str]:
    kind = request.content_type
    if kind == "multipart/form-data":
        return await _multipart(request)
    body = await read_raw(request)
    if len(body) > LARGE:
        return await asyncio.to_thread(_parsed, kind, body)
    return _parsed(kind, body)


def _parsed(kind: str, body: bytes) -> dict[str, str]:
    if kind.endswith("json"):
        return _plain(parse_object(body)) if body else {}
    try:
        text = body.decode().strip()
        if text.startswith("{"):  # JSON that is sent as a form, as some clients do
            return _plain(parse_object(body))
        return _joined(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError as exc:  # no UTF-8, or too many of them
        raise Refused(Word.ACTION) from exc


async def _multipart(request: web.Request) -> dict[str, str]:
    """How PHP's curl sends an array of fields."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            form = await request.post()
    except _UNREADABLE as exc:
        raise Refused(Word.ACTION) from exc
    if not all(isinstance(value, str) for value in form.values()):
        raise Refused(Word.ACTION)
    return _joined((name, str(value)) for name, value in form.items())


def _joined(pairs: Pairs) -> dict[str, str]:
    """The last value of each name; of a list (`orders[]=1&orders[]=2`, or `orders[0]=…` as PHP builds it) all."""
    fields: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        if (item := _ITEM.fullmatch(name)) is not None:
            lists.setdefault(item[1], []).append(value)
        else:
            fields[name] = value
    return fields | {name: _list(name, values) for name, values in lists.items()}


def _plain(document: Mapping[str, object]) -> dict[str, str]:
    """A JSON object's members as the form would have them; a null is a parameter that is not there."""
    if len(document) > MAX_FIELDS:
        raise Refused(Word.ACTION)
    fields: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, list):
            fields[name] = _list(name, [_text(name, one) for one in value])
        elif value is not None:
            fields[name] = _text(name, value)
    return fields


def _text(name: str, value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "1" if value else "0"
        case int():
            return str(value)
        case Decimal() if value == value.to_integral_value():
            return str(int(value))
    raise Problem(ProblemKind.INVALID_FIELD, "must be text or a whole number", name[:64])


def _list(name: str, values: list[str]) -> str:
    return ("\n" if name in LINE_LISTS else ",").join(values)
