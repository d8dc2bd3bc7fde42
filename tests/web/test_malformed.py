"""Requests that are wrong: each kind has its status, its type and the field at fault, and nothing is stored."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest

from tests.web.support import SHOP, Doors, an_order

GOOD = json.dumps(an_order()).encode()


def with_raw(name: str, raw: str) -> bytes:
    """A good order with one more field, its value as written."""
    return GOOD[:-1] + f', "{name}": {raw}}}'.encode()


NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "cut": GOOD[:-3],
    "two values": GOOD + GOOD,
    "trailing comma": GOOD[:-1] + b",}",
    "single quotes": b"{'service': 'x'}",
    "form": b"service=ig-followers&quantity=1000",
    "nan": with_raw("max_cost", "NaN"),
    "infinity": with_raw("max_cost", "-Infinity"),
    "not utf-8": GOOD.replace(b"username", b"user\xff"),
    "utf-16": GOOD.decode().encode("utf-16"),
    "overlong": GOOD.replace(b"username", b"\xc0\xaf"),
    "deep array": b"[" * 5_000,
    "deep object": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "deep metadata": with_raw("metadata", '{"a":' + "[" * 40 + "]" * 40 + "}"),
    "control character": GOOD.replace(b"username", b"user\x01"),
    "hex": with_raw("max_cost", "0x10"),
    "html": b"<html></html>",
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_a_body_that_is_not_json_is_400(sqlite_doors: Doors, body: bytes) -> None:
    reply = await sqlite_doors.post("/v1/orders", data=body)
    assert (reply.status, reply.problem) == (400, "bad-json"), reply.text
    assert await sqlite_doors.stored() == 0


async def test_bad_json_says_where(sqlite_doors: Doors) -> None:
    reply = await sqlite_doors.post("/v1/orders", data=b'{"service": "x",\n "quantity": 1 2}')
    assert "line 2, column 16" in reply.json["detail"]


BAD: list[tuple[str, bytes, str | None]] = [
    ("array", b"[]", None),
    ("null", b"null", None),
    ("number", b"12", None),
    ("text", b'"order"', None),
    ("no service", b'{"quantity": 5, "link": "https://example.com/x"}', "service"),
    ("service null", b'{"service": null, "quantity": 5, "link": "https://example.com/x"}', "service"),
    ("service number", b'{"service": 1, "quantity": 5, "link": "https://example.com/x"}', "service"),
    ("unknown service", GOOD.replace(b"ig-followers", b"ig-folowers"), "service"),
    ("no link", b'{"service": "ig-followers", "quantity": 100}', "link"),
    ("empty link", GOOD.replace(b"https://instagram.com/username", b""), "link"),
    ("two lines of link", GOOD.replace(b"username", b"user\\nname"), "link"),
    ("long link", GOOD.replace(b"username", b"u" * 3000), "link"),
    ("no quantity", b'{"service": "ig-followers", "link": "https://example.com/x"}', "quantity"),
    ("quantity text", GOOD.replace(b"1000", b'"1000"'), "quantity"),
    ("quantity fraction", GOOD.replace(b"1000", b"1000.0"), "quantity"),
    ("quantity exponent", GOOD.replace(b"1000", b"1e3"), "quantity"),
    ("quantity true", GOOD.replace(b"1000", b"true"), "quantity"),
    ("quantity zero", GOOD.replace(b"1000", b"0"), "quantity"),
    ("quantity negative", GOOD.replace(b"1000", b"-5"), "quantity"),
    ("quantity beyond the offers", GOOD.replace(b"1000", b"20000"), "quantity"),
    ("quantity beyond 64 bits", GOOD.replace(b"1000", b"9" * 25), "quantity"),
    ("quantity of many digits", GOOD.replace(b"1000", b"9" * 10_000), "quantity"),
    ("absurd exponent", with_raw("max_cost", "1e999999999999999999"), "max_cost"),
    ("large exponent", with_raw("max_cost", "1e400"), "max_cost"),
    ("given twice", with_raw("quantity", "5"), "quantity"),
    ("given twice within", with_raw("metadata", '{"a": {"b": 1, "b": 2}}'), "metadata.a.b"),
    ("unknown field", with_raw("quantitty", "5"), "quantitty"),
    ("lone surrogate", with_raw("reference", '"\\ud83d"'), "reference"),
    ("nul", with_raw("reference", '"a\\u0000b"'), "reference"),
    ("escape character", with_raw("metadata", '{"note": "\\u001b[31m"}'), "metadata.note"),
    ("nul in a name", with_raw("metadata", '{"a\\u0000": 1}'), "metadata.a\\x00"),
    ("long reference", with_raw("reference", json.dumps("r" * 256)), "reference"),
    ("empty reference", with_raw("reference", '""'), "reference"),
    ("reference number", with_raw("reference", "7"), "reference"),
    ("metadata array", with_raw("metadata", "[]"), "metadata"),
    ("metadata text", with_raw("metadata", '"x"'), "metadata"),
    ("large metadata", with_raw("metadata", json.dumps({"x": "y" * 5000})), "metadata"),
    ("params array", with_raw("params", "[]"), "params"),
    ("unknown parameter", with_raw("params", '{"speed": 1}'), "params.speed"),
    ("parameter true", with_raw("params", '{"runs": true, "interval": 5}'), "params.runs"),
    ("parameter fraction", with_raw("params", '{"runs": 1.5, "interval": 5}'), "params.runs"),
    ("parameter null", with_raw("params", '{"comments": null}'), "params.comments"),
    ("parameter object", with_raw("params", '{"comments": {}}'), "params.comments"),
    ("array for one value", with_raw("params", '{"username": ["a"]}'), "params.username"),
    ("number among lines", with_raw("params", '{"comments": ["a", 5]}'), "params.comments.1"),
    ("two lines in one", with_raw("params", '{"comments": ["a", "b\\nc"]}'), "params.comments.1"),
    ("runs without interval", with_raw("params", '{"runs": 3}'), "params.interval"),
    ("max_cost word", with_raw("max_cost", '"cheap"'), "max_cost"),
    ("max_cost true", with_raw("max_cost", "true"), "max_cost"),
    ("max_cost array", with_raw("max_cost", "[]"), "max_cost"),
    ("max_cost zero", with_raw("max_cost", "0"), "max_cost"),
    ("max_cost negative", with_raw("max_cost", '"-1"'), "max_cost"),
    ("max_cost too fine", with_raw("max_cost", '"0.123456789"'), "max_cost"),
    ("max_cost too large", with_raw("max_cost", '"99999999999999999999"'), "max_cost"),
    ("max_cost empty", with_raw("max_cost", "{}"), "max_cost.amount"),
    ("max_cost extra", with_raw("max_cost", '{"amount": "1", "per": 1}'), "max_cost.per"),
    ("max_cost currency", with_raw("max_cost", '{"amount": "1", "currency": 1}'), "max_cost.currency"),
    ("max_cost without a rate", with_raw("max_cost", '{"amount": "1", "currency": "GBP"}'), "max_cost"),
    ("unknown provider", with_raw("provider", '"nobody"'), "provider"),
    ("callback", with_raw("callback_url", '"https://example.com/hook"'), "callback_url"),
]


@pytest.mark.parametrize(("body", "field"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_a_bad_field_is_422_and_named(sqlite_doors: Doors, body: bytes, field: str | None) -> None:
    reply = await sqlite_doors.post("/v1/orders", data=body)
    expected = "unknown-service" if b"ig-folowers" in body else "invalid-field"
    assert (reply.status, reply.problem, reply.field) == (422, expected, field), reply.text
    assert await sqlite_doors.stored() == 0


async def test_several_bad_fields_are_told_at_once(sqlite_doors: Doors) -> None:
    reply = await sqlite_doors.post("/v1/orders", {"quantity": "many", "referense": "x"})
    assert {error["field"] for error in reply.json["errors"]} == {"service", "quantity", "referense"}
    assert any("did you mean reference?" in error["detail"] for error in reply.json["errors"])


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "xml"]
)
async def test_another_content_type_is_415(sqlite_doors: Doors, content_type: str) -> None:
    reply = await sqlite_doors.post("/v1/orders", data=GOOD, headers={"Content-Type": content_type})
    assert (reply.status, reply.problem) == (415, "unsupported-media-type")
    assert await sqlite_doors.stored() == 0


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/vnd.shop+json", "Application/JSON"]
)
async def test_json_by_its_other_names_is_fine(sqlite_doors: Doors, content_type: str) -> None:
    assert (await sqlite_doors.post("/v1/orders", data=GOOD, headers={"Content-Type": content_type})).status == 201


async def test_a_body_without_a_type_is_taken_for_json(sqlite_doors: Doors) -> None:
    headers = {"Authorization": f"Bearer {SHOP}"}
    async with sqlite_doors.client.post(
        "/v1/orders", data=GOOD, headers=headers, skip_auto_headers=["Content-Type"]
    ) as response:
        assert response.status == 201


async def test_another_charset_is_415(sqlite_doors: Doors) -> None:
    reply = await sqlite_doors.post(
        "/v1/orders", data=GOOD, headers={"Content-Type": "application/json; charset=latin-1"}
    )
    assert reply.status == 415


async def test_a_body_over_the_limit_is_413(sqlite_doors: Doors) -> None:
    limit = sqlite_doors.house.settings.http.max_body_bytes
    reply = await sqlite_doors.post("/v1/orders", data=BytesIO(GOOD.ljust(limit + 1)))
    assert (reply.status, reply.problem) == (413, "too-large")
    reply = await sqlite_doors.post("/v1/orders", data=in_pieces(GOOD, limit + 1))
    assert (reply.status, reply.problem) == (413, "too-large")
    assert await sqlite_doors.stored() == 0
    assert (await sqlite_doors.post("/v1/orders", data=BytesIO(GOOD.ljust(limit)))).status == 201
    assert (await sqlite_doors.post("/v1/orders", data=in_pieces(GOOD, limit))).status == 201


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    """A body whose length nobody knows beforehand."""
    yield body
    for left in range(size - len(body), 0, -65536):
        yield b" " * min(left, 65536)


async def test_a_compressed_body_is_measured_unpacked(sqlite_doors: Doors) -> None:
    packed = gzip.compress(GOOD + b" " * sqlite_doors.house.settings.http.max_body_bytes * 4)
    reply = await sqlite_doors.post("/v1/orders", data=packed, headers={"Content-Encoding": "gzip"})
    assert (reply.status, reply.problem) == (413, "too-large")
    assert (
        await sqlite_doors.post("/v1/orders", data=gzip.compress(GOOD), headers={"Content-Encoding": "gzip"})
    ).status == 201


async def test_a_body_that_is_not_what_its_encoding_says_is_400(sqlite_doors: Doors) -> None:
    reply = await sqlite_doors.post("/v1/orders", data=b"not gzip at all", headers={"Content-Encoding": "gzip"})
    assert reply.status == 400
    assert await sqlite_doors.stored() == 0


async def test_a_byte_order_mark_is_no_mistake(sqlite_doors: Doors) -> None:
    assert (await sqlite_doors.post("/v1/orders", data=b"\xef\xbb\xbf" + GOOD)).status == 201


@pytest.mark.parametrize("body", [b"[]", b'{"why": "x"}', b"{", b'"x"'])
async def test_actions_take_no_fields(sqlite_doors: Doors, body: bytes) -> None:
    order = await sqlite_doors.order()
    reply = await sqlite_doors.post(f"/v1/orders/{order['id']}/cancel", data=body)
    assert reply.status in (400, 422)
    assert (await sqlite_doors.get(f"/v1/orders/{order['id']}")).json["state"] == "accepted"


@pytest.mark.parametrize(
    ("method", "path", "status", "problem"),
    [
        ("GET", "/v2/orders", 404, "not-found"),
        ("GET", "/", 404, "not-found"),
        ("GET", "/v1/orders/", 404, "not-found"),
        ("DELETE", "/v1/orders", 405, "method-not-allowed"),
        ("PUT", "/v1/orders/1", 405, "method-not-allowed"),
    ],
)
async def test_the_frameworks_own_errors_are_problems_too(
    sqlite_doors: Doors, method: str, path: str, status: int, problem: str
) -> None:
    reply = await sqlite_doors.call(method, path)
    assert (reply.status, reply.problem) == (status, problem)
    if status == 405:
        assert "GET" in reply.headers["Allow"]


async def test_a_value_is_never_repeated_where_it_may_be_long(sqlite_doors: Doors) -> None:
    body: dict[str, Any] = an_order(**{"x" * 5000: 1})
    reply = await sqlite_doors.post("/v1/orders", body)
    assert reply.status == 422
    assert len(reply.text) < 2000


async def test_a_good_order_still_goes_in(sqlite_doors: Doors) -> None:
    assert (await sqlite_doors.post("/v1/orders", data=GOOD, key=SHOP)).status == 201
    assert await sqlite_doors.stored() == 1
