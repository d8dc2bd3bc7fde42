"""The life of an order: the one table of moves, what each fact makes of an order, and that facts may come twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.domain.ids import AttemptId
from aggregator.domain.money import Money
from aggregator.domain.orders import (
    FINAL,
    FOLLOWED,
    TRANSITIONS,
    UNFINISHED,
    Ended,
    Fact,
    IllegalMove,
    NotPurchased,
    Order,
    OrderState,
    Purchased,
    PurchaseStarted,
    PurchaseUnclear,
    Reported,
    apply,
    move,
)
from tests.support.examples import NOW, a_bought_order, a_completed_order, an_order, later

S = OrderState
FIRST, SECOND = AttemptId("att_1"), AttemptId("att_2")
COST = Money.parse("0.90", "USD")


def started(attempt: AttemptId = FIRST) -> PurchaseStarted:
    return PurchaseStarted(attempt, "smmplus", "1", COST)


def after(*facts: Fact, order: Order | None = None) -> Order:
    order = order or an_order()
    for fact in facts:
        order = apply(order, fact, NOW).order
    return order


def types(order: Order, fact: Fact) -> list[str]:
    return [event.type for event in apply(order, fact, later(1)).events]


# --- the table


def test_every_state_has_its_moves_and_every_target_is_a_state() -> None:
    assert set(TRANSITIONS) == set(S)
    for state, targets in TRANSITIONS.items():
        assert targets <= set(S)
        assert targets, f"{state} is a dead end"
        assert state not in targets


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_final_state_gives_way_only_to_another_final_one(state: OrderState) -> None:
    assert TRANSITIONS[state] == FINAL - {state}


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_every_open_state_can_reach_every_end(state: OrderState) -> None:
    reached, frontier = {state}, {state}
    while frontier:
        frontier = set().union(*(TRANSITIONS[s] for s in frontier)) - reached
        reached |= frontier
    assert reached >= FINAL


def test_nothing_that_was_bought_goes_back_to_be_bought_again() -> None:
    for state in FOLLOWED | FINAL:
        assert not TRANSITIONS[state] & {S.ACCEPTED, S.PLACING, S.UNCLEAR}


@pytest.mark.parametrize("state", sorted(S))
@pytest.mark.parametrize("target", sorted(S))
def test_a_move_outside_of_the_table_raises(state: OrderState, target: OrderState) -> None:
    order = an_order(state=state)
    if target in TRANSITIONS[state]:
        moved = move(order, target, later(5))
        assert (moved.state, moved.updated_at) == (target, later(5))
        assert moved.finished_at == (later(5) if target in FINAL else None)
    else:
        with pytest.raises(IllegalMove):
            move(order, target, later(5))


# --- the purchase


def test_a_started_purchase_names_its_attempt_and_tells_nobody() -> None:
    applied = apply(an_order(error_type="waiting", error_detail="no offer"), started(), later(1))
    order = applied.order
    assert (order.state, order.attempt, order.provider, order.provider_service) == (S.PLACING, FIRST, "smmplus", "1")
    assert order.expected_cost == COST
    assert order.error_type is None
    assert applied.events == ()


def test_a_purchase_is_told_once() -> None:
    placing = after(started())
    assert types(placing, Purchased(FIRST, "smmplus", "23501")) == ["order.placed"]
    placed = after(Purchased(FIRST, "smmplus", "23501"), order=placing)
    assert (placed.state, placed.provider_order) == (S.PENDING, "23501")
    assert types(placed, Purchased(FIRST, "smmplus", "23501")) == []


def test_rented_numbers_are_in_progress_at_once() -> None:
    assert after(started(), Purchased(FIRST, "hstock", "o-1", numbers=3)).state is S.IN_PROGRESS


def test_a_refused_purchase_leaves_an_order_as_if_never_tried() -> None:
    freed = after(started(), NotPurchased(FIRST))
    assert replace(freed, updated_at=NOW) == an_order()
    assert types(after(started()), NotPurchased(FIRST)) == []


def test_an_unclear_purchase_says_why_and_keeps_its_attempt() -> None:
    applied = apply(after(started()), PurchaseUnclear(FIRST, "timeout", "no answer in 30 s"), later(30))
    assert (applied.order.state, applied.order.attempt) == (S.UNCLEAR, FIRST)
    assert (applied.order.error_type, applied.order.error_detail) == ("purchase-unclear", "no answer in 30 s")
    assert [(event.type, event.data) for event in applied.events] == [
        ("order.unclear", {"cause": "timeout", "attempt": FIRST})
    ]


def test_an_unclear_purchase_that_proves_placed_is_told_and_no_longer_an_error() -> None:
    unclear = after(started(), PurchaseUnclear(FIRST, "timeout", ""))
    assert types(unclear, Purchased(FIRST, "smmplus", "23501")) == ["order.placed"]
    assert after(Purchased(FIRST, "smmplus", "23501"), order=unclear).error_type is None


def test_an_order_with_an_open_purchase_takes_no_second_one() -> None:
    for open_order in (after(started()), after(started(), PurchaseUnclear(FIRST, "timeout", "")), a_bought_order()):
        with pytest.raises(IllegalMove):
            apply(open_order, started(SECOND), later(1))


def test_the_outcome_of_another_attempt_is_refused() -> None:
    outcomes: list[Fact] = [
        Purchased(SECOND, "smmplus", "9"),
        NotPurchased(SECOND),
        PurchaseUnclear(SECOND, "timeout", ""),
    ]
    for order in (after(started()), after(started(), PurchaseUnclear(FIRST, "timeout", "")), a_bought_order()):
        for outcome in outcomes:
            with pytest.raises(IllegalMove):
                apply(order, outcome, later(1))


def test_a_late_outcome_cannot_undo_a_purchase() -> None:
    outcomes: list[Fact] = [
        NotPurchased(FIRST),
        PurchaseUnclear(FIRST, "timeout", ""),
        Purchased(FIRST, "smmplus", "other"),
    ]
    for outcome in outcomes:
        for order in (a_bought_order(), a_completed_order()):
            with pytest.raises(IllegalMove):
                apply(order, outcome, later(1))


@pytest.mark.parametrize("state", [S.CANCELED, S.FAILED])
def test_only_an_order_that_waits_ends_unbought(state: OrderState) -> None:
    ended = apply(an_order(), Ended(state, "no-offer", "nobody took it"), later(1))
    assert (ended.order.state, ended.order.error_type, ended.order.finished_at) == (state, "no-offer", later(1))
    assert [event.type for event in ended.events] == [f"order.{state}"]
    for order in (after(started()), after(started(), PurchaseUnclear(FIRST, "t", "")), a_bought_order()):
        with pytest.raises(IllegalMove):
            apply(order, Ended(state, None, None), later(1))


@pytest.mark.parametrize("state", sorted(set(S) - {S.ACCEPTED, S.CANCELED, S.FAILED}))
def test_an_unbought_order_ends_only_canceled_or_failed(state: OrderState) -> None:
    with pytest.raises(IllegalMove):
        apply(an_order(), Ended(state, None, None), later(1))


# --- reports


def test_a_report_that_says_nothing_changes_nothing() -> None:
    for order in (a_bought_order(), a_completed_order(), an_order(), after(started())):
        assert apply(order, Reported(), later(60)).order is order


def test_unknown_values_never_overwrite_known_ones() -> None:
    known = a_bought_order(charge=COST, start_count=3572, remains=157)
    reported = apply(known, Reported(state=S.PROCESSING), later(1)).order
    assert (reported.charge, reported.start_count, reported.remains) == (COST, 3572, 157)
    assert apply(reported, Reported(remains=100), later(2)).order.state is S.PROCESSING


def test_zero_is_a_known_value() -> None:
    reported = apply(
        a_bought_order(remains=10, start_count=5, charge=COST),
        Reported(remains=0, start_count=0, charge=Money(0, "USD")),
        later(1),
    ).order
    assert (reported.remains, reported.start_count, reported.charge) == (0, 0, Money(0, "USD"))


@pytest.mark.parametrize(
    "order", [an_order(), after(started()), after(started(), PurchaseUnclear(FIRST, "t", ""))], ids=lambda o: o.state
)
def test_a_report_of_an_order_that_was_not_bought_is_ignored(order: Order) -> None:
    report = Reported(S.COMPLETED, COST, 1, 0)
    assert apply(order, report, later(1)).order is order


def test_an_order_that_failed_unbought_is_not_revived_by_a_report() -> None:
    failed = after(Ended(S.FAILED, "no-offer", ""))
    assert apply(failed, Reported(S.COMPLETED, COST, 1, 0), later(1)).order is failed


@pytest.mark.parametrize("state", sorted(FINAL))
def test_an_end_is_told_by_its_own_event(state: OrderState) -> None:
    applied = apply(a_bought_order(), Reported(state), later(9))
    assert (applied.order.state, applied.order.finished_at) == (state, later(9))
    assert [event.type for event in applied.events] == [f"order.{state}"]


def test_a_provider_may_correct_an_end_and_that_is_told() -> None:
    corrected = apply(a_completed_order(), Reported(S.PARTIAL, remains=157), later(9))
    assert corrected.order.state is S.PARTIAL
    assert [event.type for event in corrected.events] == ["order.partial"]


@pytest.mark.parametrize("state", sorted(FOLLOWED))
def test_an_ended_order_is_not_reopened(state: OrderState) -> None:
    done = a_completed_order(start_count=1)
    assert apply(done, Reported(state), later(1)).order is done


def test_a_drop_after_the_end_is_noted_without_an_event() -> None:
    applied = apply(a_completed_order(), Reported(S.COMPLETED, remains=300), later(1))
    assert (applied.order.remains, applied.order.state, applied.events) == (300, S.COMPLETED, ())


def test_what_remained_before_the_completion_is_forgotten_at_it() -> None:
    bought = a_bought_order(remains=50)
    assert apply(bought, Reported(S.COMPLETED), later(1)).order.remains is None
    assert apply(bought, Reported(S.COMPLETED, remains=7), later(1)).order.remains == 7
    assert apply(bought, Reported(S.PARTIAL), later(1)).order.remains == 50
    assert apply(a_completed_order(remains=7), Reported(S.COMPLETED), later(1)).order.remains == 7


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (None, 1000, False),
        (None, 900, True),
        (1000, 999, False),
        (1000, 901, False),
        (1000, 900, True),
        (900, 801, False),
        (900, 799, True),
        (100, 1, False),
        (1, 0, True),
        (500, 501, True),
    ],
)
def test_progress_is_told_when_remains_crosses_another_tenth(before: int | None, now: int, told: bool) -> None:
    applied = apply(a_bought_order(remains=before), Reported(remains=now), later(1))
    assert applied.order.remains == now
    assert [event.type for event in applied.events] == (["order.progress"] if told else [])


def test_progress_is_told_when_the_state_changes_or_the_start_count_is_known() -> None:
    assert types(a_bought_order(), Reported(S.IN_PROGRESS)) == ["order.progress"]
    assert types(a_bought_order(), Reported(start_count=3572)) == ["order.progress"]
    assert types(a_bought_order(start_count=3572), Reported(start_count=3573)) == []
    assert types(a_bought_order(), Reported(charge=COST)) == []


def test_one_report_is_one_event_whatever_it_says() -> None:
    assert types(a_bought_order(), Reported(S.IN_PROGRESS, COST, 3572, 500)) == ["order.progress"]
    assert types(a_bought_order(), Reported(S.COMPLETED, COST, 3572, 0)) == ["order.completed"]


# --- any history

attempts = st.sampled_from([FIRST, SECOND])
counts = st.one_of(st.none(), st.integers(-5, 1200))
money = st.one_of(st.none(), st.integers(0, 10**9).map(lambda units: Money(units, "USD")))
facts: st.SearchStrategy[Fact] = st.one_of(
    st.builds(PurchaseStarted, attempts, st.just("smmplus"), st.just("1"), st.just(COST)),
    st.builds(Purchased, attempts, st.just("smmplus"), st.sampled_from(["1", "2"]), st.integers(0, 2)),
    st.builds(NotPurchased, attempts),
    st.builds(PurchaseUnclear, attempts, st.just("timeout"), st.text(max_size=3)),
    st.builds(Ended, st.sampled_from(S), st.none(), st.none()),
    st.builds(Reported, st.one_of(st.none(), st.sampled_from(sorted(FOLLOWED | FINAL))), money, counts, counts),
)


class AnyHistory(RuleBasedStateMachine):
    """Facts in any order, sensible or not: what must hold of every order that they could make."""

    def __init__(self) -> None:
        super().__init__()
        self.order = an_order()
        self.at = NOW
        self.told: list[str] = []

    @initialize(quantity=st.integers(1, 1000))
    def accept(self, quantity: int) -> None:
        self.order = an_order(quantity=quantity)

    @rule(fact=facts)
    def a_fact_comes(self, fact: Fact) -> None:
        self.at += timedelta(seconds=1)
        before = self.order
        try:
            applied = apply(before, fact, self.at)
        except IllegalMove:
            return
        self._allowed(before, applied.order)
        self._nothing_known_is_lost(before, applied.order, fact)
        again = apply(applied.order, fact, self.at + timedelta(seconds=1))
        assert again.order == applied.order, "the same fact twice made another order"
        assert again.events == (), "the same fact twice was told twice"
        self.order = applied.order
        self.told += [event.type for event in applied.events]

    @rule(data=st.data())
    def a_purchase_goes_well(self, data: Any) -> None:
        """Short cut, so that most histories get beyond the purchase."""
        if self.order.state is S.ACCEPTED:
            attempt = data.draw(attempts)
            self.a_fact_comes(PurchaseStarted(attempt, "smmplus", "1", COST))
            self.a_fact_comes(Purchased(attempt, "smmplus", "1"))

    def _allowed(self, before: Order, now: Order) -> None:
        assert now.state is before.state or now.state in TRANSITIONS[before.state]
        if before.state in FINAL:
            assert now.state in FINAL
        if before.provider_order is not None:
            assert (now.attempt, now.provider_order) == (before.attempt, before.provider_order), "bought twice"

    def _nothing_known_is_lost(self, before: Order, now: Order, fact: Fact) -> None:
        # What remained while it was worked on says nothing of an order that is complete.
        completes = isinstance(fact, Reported) and fact.state is S.COMPLETED and before.state is not S.COMPLETED
        for name in ("charge", "start_count", *(() if completes else ("remains",))):
            if getattr(before, name) is not None and getattr(fact, name, None) is None:
                assert getattr(now, name) == getattr(before, name)

    @invariant()
    def the_row_could_be_stored(self) -> None:
        order = self.order
        assert (order.finished_at is not None) == (order.state in FINAL)
        if order.state in FOLLOWED:
            assert order.provider_order is not None
        if order.state in FOLLOWED | {S.PLACING, S.UNCLEAR}:
            assert order.attempt is not None
        if order.state is S.ACCEPTED:
            assert order.attempt is None
            assert order.provider_order is None

    @invariant()
    def what_was_told_is_what_happened(self) -> None:
        bought = self.order.provider_order is not None
        assert self.told.count("order.placed") == int(bought)
        ends = [type_ for type_ in self.told if type_.removeprefix("order.") in set(FINAL)]
        assert ends[-1:] == ([f"order.{self.order.state}"] if self.order.state in FINAL else [])
        assert all(one != other for one, other in pairwise(ends)), "an end told twice"


TestAnyHistory = AnyHistory.TestCase
