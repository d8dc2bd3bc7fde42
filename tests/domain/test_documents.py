"""What users see of an order: a new one's text is made by hand, and says what the document of any order says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.documents import accepted_text, order_document
from aggregator.domain.ids import OrderNumber
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState, Role, as_accepted, numbered
from tests.support.examples import NOW, a_completed_order, an_order, later

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NEW_ORDERS = st.builds(
    an_order,
    number=st.integers(1, 2**62),
    service=st.text(min_size=1),
    kind=st.sampled_from(("smm", "product", "sms")),
    quantity=st.integers(1, 10**15),
    created_at=st.integers(0, 10**16).map(lambda microseconds: NOW + timedelta(microseconds=microseconds)),
    link=st.none() | st.text(),
    params=st.dictionaries(st.sampled_from(("comments", "runs", "interval")), st.text()),
    reference=st.none() | st.text(),
    metadata=st.dictionaries(st.text(), VALUES),
    max_cost=st.none() | st.just(Money.parse("0.5", "USD")),
    pinned_provider=st.none() | st.just("smmplus"),
    callback_url=st.none() | st.just("https://example.com/hook"),
    role=st.sampled_from((Role.ORDER, Role.PARENT)),
)


@given(NEW_ORDERS)
def test_the_text_of_a_new_order_is_that_of_its_document(order: Order) -> None:
    order = replace(order, updated_at=order.created_at)
    for params in (True, False):
        document = order_document(order, params=params)
        assert accepted_text(order, params=params) == json.dumps(document, ensure_ascii=False, separators=(",", ":"))


@given(NEW_ORDERS)
def test_what_was_answered_to_an_order_can_be_said_again_when_it_has_moved_on(order: Order) -> None:
    first = replace(order, updated_at=order.created_at)
    moved = replace(a_completed_order(), **{name: getattr(first, name) for name in _ASKED})
    moved = replace(moved, updated_at=later(99), sequence=7, version=9, remains=3, error_type="a", error_detail="b")
    assert moved.state is OrderState.COMPLETED
    assert as_accepted(moved) == first


_ASKED = (
    *("id", "number", "owner", "service", "kind", "quantity", "created_at", "link", "params", "reference", "metadata"),
    *("max_cost", "pinned_provider", "callback_url", "role", "parent", "ordinal"),
)


def test_a_new_order_gets_its_number_in_place() -> None:
    order = an_order(number=OrderNumber(0))
    assert numbered(order, OrderNumber(7)) is order
    assert order == an_order(number=OrderNumber(7))
