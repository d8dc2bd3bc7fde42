"""Event types and the patterns that endpoints choose them by."""

from __future__ import annotations

import pytest

from aggregator.domain.events import EVENT_TYPES, matches
from aggregator.domain.orders import FINAL


@pytest.mark.parametrize(
    ("patterns", "type_", "taken"),
    [
        (("*",), "order.completed", True),
        (("order.*",), "order.completed", True),
        (("order.*",), "sms.code", False),
        (("sms.code",), "sms.code", True),
        (("sms.code",), "sms.codes", False),
        (("refill.*", "sms.*"), "sms.code", True),
        ((), "order.completed", False),
        (("ORDER.*",), "order.completed", False),
    ],
)
def test_an_endpoint_takes_what_its_patterns_name(patterns: tuple[str, ...], type_: str, taken: bool) -> None:
    assert matches(patterns, type_) is taken


def test_every_end_of_an_order_has_its_event() -> None:
    assert {f"order.{state}" for state in FINAL} <= set(EVENT_TYPES)
    assert len(set(EVENT_TYPES)) == len(EVENT_TYPES)
