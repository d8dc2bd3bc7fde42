"""Answers as bytes: compact JSON, problem documents, and the shapes of lists.

It never decides what is said; orders themselves are rendered by domain.documents, the same as in events.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from aiohttp import web

from aggregator.domain.clock import rfc3339
from aggregator.domain.documents import accepted_text, order_document
from aggregator.domain.errors import Problem
from aggregator.domain.money import Money
from aggregator.domain.orders import Order
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, RowMapping
from aggregator.web.problems import problem_document, problem_headers, status_of
from aggregator.web.whole import Whole

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"
REQUEST_ID: Final = web.RequestKey("request_id", str)
CALLER: Final = web.RequestKey("caller", str)
"""Who sent the request, for its line in the log."""
ACTION: Final = web.RequestKey("action", str)
"""What was asked for at the panel door, for the same line."""


_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Answer(NamedTuple):
    """A whole answer, before it belongs to a connection; this is also what an Idempotency-Key keeps."""

    status: int
    body: str
    headers: Mapping[str, str] = _NOTHING


def dumps(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A provider's text may hold half of a surrogate pair; within JSON it survives as an escape.
        return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text).encode()


def response(answer: Answer, extra: Mapping[str, str] | None = None) -> web.Response:
    content_type = PROBLEM_JSON if answer.status >= 400 else JSON
    return Whole(
        status=answer.status,
        body=encode(answer.body),
        headers={"Content-Type": content_type, **answer.headers, **(extra or {})},
    )


def json_response(document: object, status: int = 200) -> web.Response:
    return response(Answer(status, dumps(document)))


def problem_answer(problem: Problem, request_id: str) -> Answer:
    return Answer(status_of(problem), dumps(problem_document(problem, request_id)), problem_headers(problem))


def created_answer(order: Order) -> Answer:
    """201 for an order that was just taken; nothing belongs to it yet."""
    return Answer(201, accepted_text(order), {"Location": f"/v1/orders/{order.id}"})


def full_order(connection: Connection, order: Order) -> dict[str, object]:
    """An order with all that belongs to it."""
    return order_document(order, order_store.related(connection, order))


def full_orders(connection: Connection, orders: Sequence[Order]) -> list[dict[str, object]]:
    related = order_store.related_of(connection, orders)
    return [order_document(order, related[order.id]) for order in orders]


def listing(noun: str, items: object, next_cursor: str | None = None) -> dict[str, object]:
    """The shape of every list: the items by their noun, and where the next page begins."""
    return {noun: items, "next_cursor": next_cursor}


def event_text(position: int | None, event_id: str, body: str) -> str:
    """An event as the API tells it: its stored text with `id` and `position` in front."""
    return f'{{"id":{json.dumps(event_id)},"position":{json.dumps(position)},{body[1:]}'


def money_of(units: int | None, currency: str | None) -> dict[str, str] | None:
    return Money(units, currency).as_json() if units is not None and currency is not None else None


def attempt_document(row: RowMapping) -> dict[str, object]:
    """One try to buy: what was ranked, what was chosen and why, what was said on the wire (redacted)."""
    return {
        "id": row["id"],
        "ordinal": row["ordinal"],
        "round": row["round"],
        "state": row["state"],
        "provider": row["provider"],
        "service": row["service"],
        "country": row["country"] or None,
        "expected_cost": money_of(row["expected_units"], row["expected_currency"]),
        "cost": money_of(row["cost_units"], row["cost_currency"]),
        "candidates": row["candidates"],
        "seen": row["seen"],
        "outcome": row["outcome"],
        "detail": row["detail"],
        "consequence": row["consequence"],
        "provider_order": row["provider_order"],
        "evidence": row["evidence"] or [],
        "exchange": row["exchange"],
        **times(row, "created_at", "sent_at", "finished_at"),
    }


def times(row: RowMapping, *names: str) -> dict[str, str | None]:
    return {name: rfc3339(row[name]) if row[name] is not None else None for name in names}
