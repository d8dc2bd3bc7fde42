"""Values of the API in words for people: money, times, events. Whatever a provider said is made safe to print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

NOTHING: Final = "-"
_JOINERS: Final = "\u200c\u200d"
"""Invisible, but without them scripts and emoji fall apart."""


def clean(value: object) -> str:
    """Text that cannot move the cursor or colour the screen: whatever is not printable is written as an escape."""
    text = str(value).replace("\u00a0", " ")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _JOINERS else ascii(char)[1:-1] for char in text)


def shown(value: object) -> str:
    """A value, or `-` where there is none."""
    return NOTHING if value is None or value == "" else clean(value)


def money(value: Mapping[str, Any] | None) -> str:
    return f"{clean(value.get('amount'))} {clean(value.get('currency'))}" if value else NOTHING


def when(value: object) -> str:
    """`2026-11-21 18:00:00Z` of the API's `2026-11-21T18:00:00.000Z`."""
    text = shown(value)
    return f"{text[:10]} {text[11:19]}Z" if len(text) > 19 and text[10] == "T" and text.endswith("Z") else text


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def compact(value: object) -> str:
    """JSON in one line."""
    return clean(json.dumps(value, ensure_ascii=False))


def charged(order: Mapping[str, Any]) -> str:
    """What an order cost, or is expected to."""
    if order.get("charge"):
        return money(order["charge"])
    return f"~{money(order['expected_cost'])}" if order.get("expected_cost") else NOTHING


def event_words(event: Mapping[str, Any]) -> str:
    """What an order's event tells beyond its type and the order's state."""
    data: Mapping[str, Any] = event.get("data") or {}
    order: Mapping[str, Any] = data.get("order") or {}
    number: Mapping[str, Any] = data.get("number") or {}
    refill: Mapping[str, Any] = data.get("refill") or {}
    match event.get("type"):
        case "order.placed":
            bought = f"at {shown(order.get('provider'))} as {shown(order.get('provider_order'))}"
            return f"{bought}, expected cost {money(order.get('expected_cost'))}"
        case "order.progress":
            start = f", start count {clean(order['start_count'])}" if order.get("start_count") is not None else ""
            return f"{_left(order)}{start}" if order.get("remains") is not None else start.removeprefix(", ")
        case "order.completed" | "order.partial" | "order.canceled" | "order.failed":
            told = [f"charge {money(order['charge'])}"] if order.get("charge") else []
            told += [_left(order)] if order.get("remains") else []
            told += [clean(order["error"].get("detail"))] if order.get("error") else []
            return ", ".join(told)
        case "order.unclear":
            return f"nobody knows whether it was bought: {clean((order.get('error') or {}).get('detail'))}"
        case "order.delivery":
            return f"{shown(data.get('total'))} of {shown(order.get('quantity'))} accounts delivered"
        case "order.dropped":
            return f"{shown(data.get('drop'))} lost"
        case "refill.requested":
            return f"refill {shown(refill.get('number'))} for {shown(refill.get('drop'))} lost"
        case "refill.completed":
            return f"refill {shown(refill.get('number'))}"
        case "refill.rejected":
            return f"refill {shown(refill.get('number'))}: {shown(data.get('reason'))}"
        case "sms.number" | "sms.expired":
            return shown(number.get("phone"))
        case "sms.code":
            return f"{shown(number.get('phone'))}: {shown((data.get('code') or {}).get('code'))}"
        case _:
            return ""


def _left(order: Mapping[str, Any]) -> str:
    return f"{clean(order['remains'])} of {clean(order.get('quantity'))} left"
