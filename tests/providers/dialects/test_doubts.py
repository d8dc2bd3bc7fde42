"""Refusals that are none: a listed sentence beside words, ids or flags that speak of an order which exists."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.domain.wire import HttpReply
from aggregator.providers.contract import Refused, Unclear
from aggregator.providers.dialects import DIALECTS
from aggregator.providers.sentences import may_have_happened
from tests.providers.dialects.test_dialects import reply, speak

NAMES = sorted(DIALECTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        "Insufficient balance (order 900 created)",
        "Insufficient balance, order 900",
        "Invalid API key. Order ID: 900",
        "Min quantity 100. Order number 900",
        "Not enough funds, your balance was charged partially",
        "Not enough funds, please wait: your order was accepted",
        "Minimum quantity 100, order placed with 100",
        "Quantity must be a multiple of 10, order placed with 90",
        "Max quantity allowed 1000, only 1000 will be delivered",
        "Out of stock, only 40 available, order partially placed",
        "Rate limit reached, your order has been queued",
        "Too many requests, the order will be processed later",
        "Link is private, order will start when it is public",
        "Invalid link, order 900 will be processed manually",
        "Service not found, contact us, your order 12 was submitted",
        "Account is suspended, payment received",
    ],
)
def test_a_refusal_that_goes_on_to_speak_of_the_order_is_unclear(name: str, text: str) -> None:
    assert isinstance(speak(name).read_add(reply({"error": text})), Unclear)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        {"errors": ["Timeout while writing the order", "Service not found"]},
        {"status": "error", "error": "Not enough funds", "message": "Unexpected exception after insert"},
        {"error": "Service is disabled", "message": "order 5 was created"},
        {"error": "Service is disabled", "message": "your order no. 5"},
        {"error": ["Something went wrong", "Out of stock"]},
        {"errors": ["Not enough funds", "Internal error"]},
        {"error": "Out of stock", "order_id": 781},
        {"error": "Out of stock", "id": 902, "charge": "0.05"},
        {"error": "Insufficient balance", "orders": [903]},
        {"error": "Out of stock", "order": {"id": 904}},
        {"error": "Invalid link", "data": {"order_id": 901}},
        {"error": "Out of stock", "result": {"charge": "0.50"}},
    ],
)
def test_a_refusal_beside_a_doubt_or_a_trace_is_unclear(name: str, body: dict[str, Any]) -> None:
    result = speak(name).read_add(reply(body))
    assert isinstance(result, Unclear), result
    assert result.reason == "contradiction"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        {"status": "success", "message": "order accepted"},
        {"success": True},
        {"message": "your order was queued"},
        {"order_id": 5},
    ],
)
def test_too_many_requests_is_no_refusal_where_the_body_says_otherwise(name: str, body: dict[str, Any]) -> None:
    assert isinstance(speak(name).read_add(reply(body, 429)), Unclear)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        {"error": "Not enough funds", "message": "Order was not created"},
        {"error": "Not enough funds", "order": None, "charge": "0.00", "id": 0},
        {"error": "neworder.error.not_enough_funds", "message": "Saldo: no"},
        {"message": "The given data was invalid.", "errors": {"link": ["Invalid link"], "order": ["Invalid link"]}},
        {"error": "Out of stock, please try another service"},
        {"error": "Quantity less than minimal 100"},
        {"error": "Out of stock", "orders": []},
    ],
)
def test_what_only_refuses_is_a_refusal(name: str, body: dict[str, Any]) -> None:
    result = speak(name).read_add(reply(body))
    assert isinstance(result, Refused), result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        b'{"success": true, "accounts": ["zz@x.example:zzpass1"]}',
        b'{"success": true, "code": "424242", "sms_content": "Your code is 424242"}',
        b'{"error": "timeout while writing order, accounts: zz:zzpass1"}',
        b'{"error": "timeout, delivered zz@x.example:zzpass1 already"}',
        b'{"success": true, "accounts": ["zz:zzpass1", ',
        b'{"error": "Invalid link", "password": "zzpass1"}',
        b'{"success": true, "message": "Your code is 424242"}',
    ],
)
def test_what_was_delivered_does_not_stand_in_the_words_that_are_kept(name: str, body: bytes) -> None:
    result = speak(name).read_add(HttpReply(200, body))
    assert isinstance(result, Unclear | Refused)
    assert "zzpass" not in result.text
    assert "424242" not in result.text


def test_a_denial_is_no_doubt() -> None:
    assert not may_have_happened("The order could not be placed")
    assert not may_have_happened("Nothing was charged")
    assert may_have_happened("The order was placed")
    assert may_have_happened("x" * 5000)
