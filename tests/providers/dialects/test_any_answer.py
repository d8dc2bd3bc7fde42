"""No answer may break a dialect, and none without an id may look like a purchase: any bytes, any JSON, mutations."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.money import Money
from aggregator.domain.wire import HttpReply
from aggregator.providers.contract import (
    Account,
    CancelAsked,
    CancelRefused,
    CataloguePage,
    Category,
    Country,
    Dialect,
    Failure,
    Inventory,
    NumberStatus,
    Placed,
    RefillAccepted,
    RefillRefused,
    RefillReport,
    Refused,
    StatusBatch,
    StatusReport,
    Unclear,
)
from aggregator.providers.dialects import DIALECTS

KEY: Final = "c7b4d1f0a9e84e55"
SPEAKERS: Final = [dialect(Account("panel", "https://panel.example/api/v2", KEY)) for dialect in DIALECTS.values()]
FIXTURES: Final = sorted((Path(__file__).parents[2] / "fixtures" / "providers").glob("*/*.json"))
IDS: Final = ("1", "2", "23501")
LIKELY: Final = [
    "order", "orders", "data", "error", "errors", "status", "message", "msg", "success", "refill", "cancel", "charge",
    "remains", "start_count", "currency", "services", "service", "rate", "min", "max", "balance", "phone", "code", "1",
    "stock", "accounts", "project_id", "price", "country_code", "expires_at", "categories", "total", "limit", "page",
]  # fmt: skip


def readings(dialect: Dialect, reply: HttpReply) -> Iterator[object]:
    """Every read there is, whatever the dialect documents."""
    yield dialect.read_services(reply)
    yield dialect.read_categories(reply)
    yield dialect.read_inventory(reply, "1")
    yield dialect.read_add(reply)
    yield dialect.read_status(reply, "1")
    yield dialect.read_statuses(reply, IDS)
    yield dialect.read_statuses(reply, IDS[:1])
    for orders in (IDS, IDS[:1]):
        refills = dialect.read_refills(reply, orders)
        cancels = dialect.read_cancels(reply, orders)
        assert set(refills) == set(cancels) == set(orders)
        assert all(isinstance(one, RefillAccepted | RefillRefused | Unclear) for one in refills.values())
        assert all(isinstance(one, CancelAsked | CancelRefused | Unclear) for one in cancels.values())
        reports = dialect.read_refill_statuses(reply, orders)
        if not isinstance(reports, Failure):
            assert set(reports) <= set(orders)
            assert all(isinstance(one, RefillReport | Failure) for one in reports.values())
        yield from (refills, cancels, reports)
    yield dialect.read_balance(reply)
    yield dialect.read_sms_projects(reply)
    yield dialect.read_sms_countries(reply)
    yield dialect.read_add_sms(reply)
    yield dialect.read_sms_code(reply)
    yield dialect.read_sms_status(reply)


RESULTS: Final = (
    CataloguePage, Failure, Inventory, Placed, Refused, Unclear, StatusReport, StatusBatch, Money, NumberStatus,
    dict, tuple,
)  # fmt: skip


def check(body: bytes, status: int = 200) -> None:
    reply = HttpReply(status, body)
    for dialect in SPEAKERS:
        for result in readings(dialect, reply):
            assert isinstance(result, RESULTS)
            if isinstance(result, tuple):
                assert all(isinstance(one, Category | Country) for one in result)
            # Written to a UTF-8 column, so without lone surrogates.
            repr(result).encode("utf-8")
            if not 200 <= status < 300:
                assert not isinstance(result, Placed | StatusReport | StatusBatch | CataloguePage | Money)
            if status >= 500:
                assert not isinstance(result, Refused)


statuses = st.sampled_from([200, 200, 200, 201, 204, 302, 400, 401, 403, 404, 422, 429, 500, 502, 100, 999])
sentences = [
    "Completed", "fail", "Insufficient balance", "Refill is not available", "1", "0.5", "USD", "success", "order 123",
    "Out of stock", "Order not found", "refill already in progress", "wait 9 hours", KEY,
]  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(sentences)
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(LIKELY), st.text(max_size=5)), inner, max_size=6),
    ),
    max_leaves=25,
)


@given(st.binary(max_size=200), statuses)
def test_no_bytes_raise(body: bytes, status: int) -> None:
    check(body, status)


@given(documents, statuses)
def test_no_json_raises(document: object, status: int) -> None:
    check(json.dumps(document).encode(), status)


def _bodies() -> list[bytes]:
    replies = [json.loads(path.read_text(encoding="utf-8"))["reply"] for path in FIXTURES]
    texts = [
        reply["text"] if "text" in reply else json.dumps(reply["body"]) for reply in replies if "base64" not in reply
    ]
    return sorted({text.encode() for text in texts if len(text) < 5000})


@given(st.sampled_from(_bodies()), st.data())
def test_no_mutated_fixture_raises(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 8))
    patch = data.draw(
        st.one_of(st.binary(max_size=4), st.sampled_from([b'"', b"{", b"}", b"[", b"null", b"-", b"e9", b","]))
    )
    check(body[:at] + patch + body[at + cut :], data.draw(statuses))


def _orders(document: object) -> Iterator[object]:
    """Every value under a key `order`, anywhere, and of a list under `orders`."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "order":
                yield value
            if key == "orders" and isinstance(value, list):
                yield from value
            yield from _orders(value)
    elif isinstance(document, list):
        for value in document:
            yield from _orders(value)


def _plausible(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and value > 0) or (isinstance(value, str) and value.strip() not in ("", "0"))


@given(documents)
def test_json_without_a_plausible_order_id_is_never_a_purchase(document: object) -> None:
    reply = HttpReply(200, json.dumps(document).encode())
    placed = any(
        isinstance(result, Placed)
        for dialect in SPEAKERS
        for result in (dialect.read_add(reply), dialect.read_add_sms(reply))
    )
    assert not placed or any(_plausible(value) for value in _orders(document))


@given(documents.filter(bool), st.sampled_from(["error", "errors"]))
def test_an_id_beside_an_error_is_never_a_purchase(error: object, name: str) -> None:
    for document in ({"order": 23501, name: error}, {"data": {"order": 23501}, name: error}):
        for dialect in SPEAKERS:
            result = dialect.read_add(HttpReply(200, json.dumps(document).encode()))
            if isinstance(result, Placed):
                assert isinstance(error, str)
                assert error.strip().casefold() in ("", "0", "false", "null", "none", "no")
            else:
                assert isinstance(result, Unclear)


@pytest.mark.parametrize("dialect", SPEAKERS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "whole", ['{"order": 23501}', '{"error": "Insufficient balance"}', '{"orders": [{"order": 1, "phone": "+1"}]}']
)
def test_a_truncated_answer_proves_nothing(dialect: Dialect, whole: str) -> None:
    for length in range(len(whole)):
        reply = HttpReply(200, whole[:length].encode())
        assert isinstance(dialect.read_add(reply), Unclear)
        assert isinstance(dialect.read_add_sms(reply), Unclear)


@pytest.mark.parametrize("dialect", SPEAKERS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "body",
    [
        b'{"data":' * 900 + b"1" + b"}" * 900,
        b'[{"order":1,"refill":' * 300 + b"1" + b"}]" * 300,
        b'{"order": ' + b"9" * 10_000 + b"}",
        b'{"order": 1e999999999999999999999}',
        b'{"error": "' + b"quantity " * 200_000 + b'"}',
        b'{"error": "' + b"invalid inactive missing " * 50_000 + b'"}',
        b'{"error": "' + b"already active exist pending " * 40 + b'"}',
        b'{"error": "' + b"refill already active request " * 40 + b'"}',
        b"[" + b'{"service":1,"rate":"1","min":1,"max":2},' * 100_000 + b'{"service":2}]',
    ],
    ids=[
        "deep",
        "deep-items",
        "long-int",
        "huge-exponent",
        "long-text",
        "loop-auth",
        "loop-active",
        "loop-refill",
        "large",
    ],
)
def test_an_absurd_answer_is_read_in_moments(dialect: Dialect, body: bytes) -> None:
    started = time.process_time()
    reply = HttpReply(200, body)
    assert isinstance(dialect.read_add(reply), Unclear)
    for read in (dialect.read_services, dialect.read_balance, dialect.read_sms_projects, dialect.read_sms_code):
        read(reply)
    dialect.read_refills(reply, ["1"])
    dialect.read_statuses(reply, ["1", "2"])
    assert time.process_time() - started < 20


def test_the_api_key_is_in_no_result() -> None:
    """Wherever an answer echoes it: in an error, a name, a word, a page, in another case or URL-encoded."""
    key = "k/ey+with=signs and&more"
    shapes: list[Any] = [
        {"error": f"bad {key}"},
        {"error": f"bad {key.upper()}"},
        {"error": "bad k%2Fey%2Bwith%3Dsigns%20and%26more"},
        {"status": key, "charge": "1"},
        {"1": {"error": key}, "2": {"status": key}},
        {"order": key},
        {"status": "completed", "code": "1", "sms_content": f"your {key}"},
        [{"order": 1, "refill": {"error": key}, "cancel": {"error": key}}],
        [
            {
                "service": 1,
                "name": key,
                "rate": key,
                "description": key,
                "project_id": 5,
                "price": key,
                "country_code": key,
            }
        ],
        f"<html>{key}</html>",
    ]
    dialects = [dialect(Account("panel", "https://panel.example", key)) for dialect in DIALECTS.values()]
    for shape in shapes:
        body = shape if isinstance(shape, str) else json.dumps(shape)
        for dialect in dialects:
            for result in readings(dialect, HttpReply(200, body.encode())):
                shown = repr(result).casefold() + (
                    repr([row.raw for row in result.rows]) if isinstance(result, CataloguePage) else ""
                )
                assert key not in shown
                assert "k%2fey" not in shown
