"""Runs and remainders: what they are to be, and what they come to."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.catalogue import SERVICE_TYPES, SMS_NUMBERS
from aggregator.domain.children import (
    Member,
    Rates,
    each,
    is_confirmed,
    leaves_a_rest,
    next_run_at,
    refund_due,
    rest_budget,
    rest_of,
    run_budget,
    runs_of,
    total,
)
from aggregator.domain.ids import OrderId
from aggregator.domain.money import Money
from aggregator.domain.orders import FINAL, IllegalMove, Order, OrderState, Role, Summed, apply
from tests.support.examples import NOW, a_bought_order, an_order, later

S = OrderState
USD = Rates("USD", {"EUR": Decimal("1.25")})
DEFAULT = SERVICE_TYPES["default"]


def usd(text: str) -> Money:
    return Money.parse(text, "USD")


def a_parent(**fields: Any) -> Order:
    usual: dict[str, Any] = {"role": Role.PARENT, "quantity": 600, "params": {"runs": "3", "interval": "60"}}
    return an_order(**{**usual, **fields})


def a_run(ordinal: int, state: OrderState = S.COMPLETED, **fields: Any) -> Member:
    usual: dict[str, Any] = {
        "id": OrderId(f"ord_run{ordinal}"),
        "role": Role.RUN,
        "parent": OrderId("ord_1"),
        "ordinal": ordinal,
        "quantity": 200,
        "state": state,
        "finished_at": NOW if state in FINAL else None,
    }
    awaits = fields.pop("awaits", False)
    return Member(a_bought_order(**{**usual, **fields}), awaits=awaits)


def a_rest(run: Member, state: OrderState, **fields: Any) -> Member:
    parent = run.order.id
    named = {"id": OrderId(f"{parent}_rest"), "role": Role.REMAINDER, "parent": parent, **fields}
    return a_run(1, state, **named)


# --- what the runs come to


@pytest.mark.parametrize(
    ("states", "more", "state"),
    [
        ([], True, S.ACCEPTED),
        ([S.PENDING], True, S.IN_PROGRESS),
        ([S.COMPLETED], True, S.IN_PROGRESS),
        ([S.COMPLETED, S.COMPLETED, S.ACCEPTED], False, S.IN_PROGRESS),
        ([S.COMPLETED, S.COMPLETED, S.UNCLEAR], False, S.IN_PROGRESS),
        ([S.COMPLETED, S.COMPLETED, S.COMPLETED], False, S.COMPLETED),
        ([S.COMPLETED, S.COMPLETED], False, S.PARTIAL),
        ([S.COMPLETED, S.CANCELED, S.FAILED], False, S.PARTIAL),
        ([S.CANCELED, S.FAILED, S.FAILED], False, S.CANCELED),
        ([S.FAILED, S.FAILED, S.FAILED], False, S.FAILED),
        ([], False, S.CANCELED),
    ],
)
def test_the_state_of_a_parent(states: list[OrderState], more: bool, state: OrderState) -> None:
    family = [a_run(place, one) for place, one in enumerate(states, start=1)]
    assert total(a_parent(), family, USD, more=more).state is state


def test_a_partial_run_of_which_nothing_came_delivered_nothing() -> None:
    family = [a_run(place, S.PARTIAL, remains=200) for place in (1, 2, 3)]
    assert total(a_parent(), family, USD, more=False).state is S.CANCELED
    family[0] = a_run(1, S.PARTIAL, remains=199)
    assert total(a_parent(), family, USD, more=False).state is S.PARTIAL


def test_a_remainder_makes_its_run_good() -> None:
    runs = [a_run(1, S.PARTIAL, remains=120), a_run(2), a_run(3)]
    rest = a_rest(runs[0], S.COMPLETED, quantity=120, remains=0)
    summed = total(a_parent(), [*runs, rest], USD, more=False)
    assert (summed.state, summed.remains) == (S.COMPLETED, 0)
    rest = a_rest(runs[0], S.FAILED, quantity=120)
    summed = total(a_parent(), [*runs, rest], USD, more=False)
    assert (summed.state, summed.remains) == (S.PARTIAL, 120)


def test_a_run_whose_remainder_may_come_is_open() -> None:
    family = [a_run(1, S.PARTIAL, remains=10, awaits=True), a_run(2), a_run(3)]
    assert total(a_parent(), family, USD, more=False).state is S.IN_PROGRESS


def test_remains_are_those_of_all_runs_also_of_those_not_made() -> None:
    assert total(a_parent(), [a_run(1, S.PENDING)], USD, more=True).remains is None
    family = [a_run(1, S.COMPLETED), a_run(2, S.IN_PROGRESS, remains=50)]
    assert total(a_parent(), family, USD, more=True).remains == 250
    assert total(a_parent(), [a_run(1, S.FAILED)], USD, more=True).remains == 600


def test_amounts_are_added_up_in_their_own_currency_or_exchanged() -> None:
    family = [a_run(1, charge=usd("0.10")), a_run(2, charge=usd("0.20")), a_run(3)]
    assert total(a_parent(), family, USD, more=False).charge == usd("0.30")
    family[2] = a_run(3, charge=Money.parse("0.4", "EUR"))
    assert total(a_parent(), family, USD, more=False).charge == usd("0.80")
    family[2] = a_run(3, charge=Money.parse("0.4", "JPY"))
    assert total(a_parent(), family, USD, more=False).charge is None
    euros = [a_run(place, charge=Money.parse("0.4", "EUR")) for place in (1, 2)]
    assert total(a_parent(), euros, USD, more=True).charge == Money.parse("0.8", "EUR")


def test_a_sum_is_repeat_safe_and_moves_a_parent_only_along_its_table() -> None:
    parent = a_parent()
    first = apply(parent, Summed(S.IN_PROGRESS), NOW)
    assert [draft.type for draft in first.events] == ["order.progress"]
    assert apply(first.order, Summed(S.IN_PROGRESS), later(5)).order == first.order
    done = apply(first.order, Summed(S.COMPLETED, charge=usd("1"), remains=0), later(10))
    assert [draft.type for draft in done.events] == ["order.completed"]
    late = apply(done.order, Summed(S.IN_PROGRESS, charge=usd("1.5")), later(20))
    assert (late.order.state, late.order.charge, late.events) == (S.COMPLETED, usd("1.5"), ())
    corrected = apply(done.order, Summed(S.PARTIAL, remains=10), later(20))
    assert [draft.type for draft in corrected.events] == ["order.partial"]
    assert apply(parent, Summed(S.ACCEPTED), NOW).order == parent
    with pytest.raises(IllegalMove, match="no parent"):
        apply(a_bought_order(), Summed(S.COMPLETED), NOW)


# --- the runs


def test_runs_and_the_pieces_of_each() -> None:
    assert [runs_of({"runs": text}) for text in ("3", " 3 ", "0", "", "x")] == [3, 3, 1, 1, 1]
    assert (each(a_parent()), each(an_order(quantity=1000))) == (200, 1000)


def test_a_run_that_is_late_moves_the_next_one() -> None:
    hour = timedelta(hours=1)
    assert next_run_at(NOW, hour, later(5)) == NOW + hour
    assert next_run_at(NOW, hour, NOW + 5 * hour) == NOW + 6 * hour


def test_each_run_gets_an_equal_part_of_what_is_left() -> None:
    parent = a_parent(max_cost=usd("3"))
    assert run_budget(parent, [], USD) == usd("1")
    assert run_budget(parent, [a_run(1, charge=usd("0.5"))], USD) == usd("1.25")
    assert run_budget(parent, [a_run(1, S.ACCEPTED, expected_cost=None, max_cost=usd("1"))], USD) == usd("1")
    assert run_budget(parent, [a_run(1, S.FAILED, expected_cost=None, max_cost=usd("1"))], USD) == usd("1.5")
    spent = run_budget(parent, [a_run(1, charge=usd("9"))], USD)
    assert spent is not None
    assert spent.units == 1
    assert run_budget(a_parent(), [], USD) is None


@given(st.integers(1, 10**12), st.lists(st.integers(0, 10**9), max_size=20))
def test_runs_never_cost_more_than_the_parents_limit_together(limit: int, prices: list[int]) -> None:
    parent = a_parent(max_cost=Money(limit, "USD"), params={"runs": str(len(prices) or 1), "interval": "1"})
    family: list[Member] = []
    for place, price in enumerate(prices, start=1):
        budget = run_budget(parent, family, USD)
        assert budget is not None
        fits = (
            price <= budget.units and sum(member.order.charge.units for member in family if member.order.charge) < limit
        )
        charge = Money(price if fits else 0, "USD")
        family.append(a_run(place, S.COMPLETED if fits else S.FAILED, charge=charge))
    assert sum(member.order.charge.units for member in family if member.order.charge) <= limit


# --- the rest


def partial(**fields: Any) -> Order:
    return a_bought_order(**{"state": S.PARTIAL, "finished_at": NOW, "remains": 600, **fields})


def test_whose_rest_is_bought() -> None:
    assert leaves_a_rest(partial())
    assert leaves_a_rest(partial(state=S.CANCELED))
    assert not leaves_a_rest(partial(state=S.FAILED))
    assert not leaves_a_rest(partial(state=S.COMPLETED))
    assert not leaves_a_rest(partial(cancel_state="asked"))
    assert not leaves_a_rest(partial(cancel_state="refused")), "the caller wanted it to end"
    assert not leaves_a_rest(partial(kind="sms"))
    assert not leaves_a_rest(an_order(state=S.CANCELED, finished_at=NOW)), "nobody has bought it"
    assert not leaves_a_rest(a_parent(state=S.PARTIAL, finished_at=NOW))


def test_how_much_is_missing() -> None:
    assert rest_of(partial(), DEFAULT) == 600
    assert rest_of(partial(state=S.CANCELED, remains=None), DEFAULT) == 1000
    assert rest_of(partial(state=S.CANCELED, remains=2000), DEFAULT) == 1000
    assert rest_of(partial(remains=1500), DEFAULT) == 1000
    assert rest_of(partial(remains=None), DEFAULT) == "the provider did not say how much is missing"
    assert rest_of(partial(remains=0), DEFAULT) == "nothing is missing"
    comments = SERVICE_TYPES["custom comments"]
    assert rest_of(partial(), comments) == "nobody knows which of its pieces are missing"
    assert rest_of(partial(state=S.CANCELED, remains=None), comments) == 1000
    assert rest_of(partial(), None) == rest_of(partial(), comments)
    assert "drip-feed itself" in str(rest_of(partial(params={"runs": "2", "interval": "5"}), DEFAULT))
    assert rest_of(partial(), SMS_NUMBERS) == 600


def test_a_refund_is_confirmed_by_about_what_is_owed() -> None:
    assert refund_due(100, partial()) == 60
    assert refund_due(100, partial(state=S.CANCELED)) == 100
    assert refund_due(100, partial(remains=None)) == 100
    assert [is_confirmed(units, 60) for units in (0, 6, 29, 30, 60, 99)] == [False, False, False, True, True, True]


def test_a_remainder_may_cost_what_is_left() -> None:
    assert rest_budget(partial(), usd("1"), USD) is None
    assert rest_budget(partial(max_cost=usd("2")), usd("0.5"), USD) == usd("1.5")
    assert rest_budget(partial(max_cost=usd("2")), Money.parse("0.4", "EUR"), USD) == usd("1.5")
    assert rest_budget(partial(max_cost=usd("2")), None, USD) == usd("2")
    assert rest_budget(partial(max_cost=usd("2")), usd("2"), USD) == "its max_cost is spent"
    assert "exchange rate is missing" in str(rest_budget(partial(max_cost=usd("2")), Money.parse("4", "JPY"), USD))
