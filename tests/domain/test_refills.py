"""Drops and refills: what is lost, when that is enough, and every reason not to ask."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.orders import FINAL, OrderState
from aggregator.domain.refills import OPEN, Denial, Refill, RefillState, denial, drop, dropped_enough, surprising
from tests.support.examples import NOW, a_bought_order, a_completed_order, a_refill, a_refill_policy

DAY = timedelta(days=1)
POLICY = a_refill_policy()


def at(days: float) -> timedelta:
    return timedelta(days=days)


def why_not(days: float, *refills: Refill, offered: bool = True) -> str | None:
    """Why an order that was completed `days` ago may not be refilled."""
    denied = denial(a_completed_order(), refills, POLICY, NOW + at(days), offered=offered)
    return denied.text if denied is not None else None


@pytest.mark.parametrize(("remains", "lost"), [(None, None), (0, 0), (157, 157), (-3, 0), (1000, 1000), (1001, None)])
def test_a_drop_is_what_the_provider_owes_again_between_nothing_and_all(remains: int | None, lost: int | None) -> None:
    assert drop(a_completed_order(remains=remains)) == lost


@pytest.mark.parametrize(("baseline", "lost"), [(0, 400), (300, 100), (400, 0), (1000, 0)])
def test_what_remained_at_the_completion_is_no_drop(baseline: int, lost: int) -> None:
    assert drop(a_completed_order(remains=400), baseline) == lost


@pytest.mark.parametrize(("count", "lost"), [(1100, 0), (1090, 10), (700, 400), (100, 1000), (5, 1000), (2000, 0)])
def test_a_count_newer_than_the_providers_figures_is_believed_alone(count: int, lost: int) -> None:
    order = a_completed_order(remains=300, start_count=100, count=count)
    assert drop(replace(order, count_at=order.updated_at + at(1))) == lost
    assert drop(replace(order, count_at=order.updated_at - at(1))) == max(lost, 300)


@pytest.mark.parametrize(("count", "all_gone"), [(None, False), (0, True), (100, True), (101, False)])
def test_a_count_of_no_more_than_at_the_start_is_surprising(count: int | None, all_gone: bool) -> None:
    assert surprising(a_completed_order(start_count=100, count=count)) is all_gone
    assert not surprising(a_bought_order(start_count=100, count=count))


def test_an_order_that_is_not_completed_has_no_drop() -> None:
    assert drop(a_bought_order(remains=500)) is None
    assert drop(a_completed_order(state=OrderState.PARTIAL, remains=500)) is None


@pytest.mark.parametrize(
    ("quantity", "lost", "enough"),
    [
        (1000, 49, False),
        (1000, 50, True),
        (1000, 0, False),
        (10, 0, False),
        (10, 1, True),
        (30, 1, False),
        (20, 1, True),
    ],
)
def test_the_threshold_is_a_percentage_of_the_quantity(quantity: int, lost: int, enough: bool) -> None:
    assert dropped_enough(a_completed_order(quantity=quantity), lost, POLICY) is enough


def test_nothing_lost_is_never_enough() -> None:
    assert not dropped_enough(a_completed_order(), 0, a_refill_policy(drop_percent=0))


def test_a_completed_order_of_some_age_may_be_refilled() -> None:
    assert why_not(1) is None
    assert why_not(30) is None


@pytest.mark.parametrize("state", sorted(set(OrderState) - {OrderState.COMPLETED}))
def test_only_a_completed_order_is_refilled(state: OrderState) -> None:
    order = a_completed_order(state=state)
    denied = denial(order, (), POLICY, NOW + DAY, offered=True)
    assert denied is not None
    assert f"the order is {state}" in denied.text
    assert denied.why is (Denial.ENDED if state in FINAL else Denial.UNFINISHED)


def test_a_provider_without_refills_is_not_asked() -> None:
    assert why_not(1, offered=False) == "the provider gives no refills for this service"


def test_an_order_younger_than_its_least_age_waits() -> None:
    assert "less than" in str(why_not(0.999))


def test_the_window_ends() -> None:
    assert why_not(30.001) == "the refill window of 30 days, 0:00:00 is over"


@pytest.mark.parametrize("state", sorted(OPEN))
def test_a_refill_that_runs_is_not_doubled(state: RefillState) -> None:
    assert why_not(20, a_refill(state=state)) == "a refill is running"


@pytest.mark.parametrize("state", sorted(set(RefillState) - OPEN))
def test_the_cooldown_counts_from_the_last_request_whatever_came_of_it(state: RefillState) -> None:
    asked = a_refill(state=state, requested_at=NOW + at(5))
    older = a_refill(state=state, requested_at=NOW + at(2))
    assert "less than" in str(why_not(5.999, asked, older))
    assert "less than" in str(why_not(5.999, older, asked))
    assert why_not(6, asked, older) is None


def test_only_a_refusal_that_names_a_time_begins_no_cooldown() -> None:
    def refused(outcome: str) -> Refill:
        return a_refill(state=RefillState.REJECTED, requested_at=NOW + at(5), outcome=outcome)

    assert why_not(5.1, refused("later_at")) is None
    assert "less than" in str(why_not(5.1, refused("later")))
    assert "less than" in str(why_not(5.1, refused("running")))


def test_who_sees_no_drop_is_asked_again_after_seven_cooldowns() -> None:
    seen_none = a_refill(state=RefillState.REJECTED, requested_at=NOW + at(5), outcome="no_drop")
    assert "no drop" in str(why_not(11.9, seen_none))
    assert why_not(12, seen_none) is None


def test_after_the_last_refill_no_more() -> None:
    had = [a_refill(requested_at=NOW + at(day)) for day in range(1, 6)]
    assert why_not(20, *had[:4]) is None
    assert why_not(20, *had) == "the order had its 5 refills"


def test_a_rejected_refill_does_not_use_up_the_guarantee() -> None:
    assert why_not(20, *[a_refill(state=RefillState.REJECTED)] * 9) is None


@given(
    st.lists(st.tuples(st.floats(0, 40), st.sampled_from(RefillState)), max_size=7),
    st.floats(-1, 45),
    st.booleans(),
)
def test_whatever_came_before_a_refill_is_asked_for_only_within_the_rules(
    history: list[tuple[float, RefillState]], days: float, offered: bool
) -> None:
    refills = [a_refill(state=state, requested_at=NOW + at(day)) for day, state in history]
    now = NOW + at(days)
    if denial(a_completed_order(), refills, POLICY, now, offered=offered) is None:
        assert offered
        assert POLICY.min_age <= now - NOW <= POLICY.window
        assert all(now - refill.requested_at >= POLICY.cooldown for refill in refills)
        assert not {refill.state for refill in refills} & OPEN
        assert sum(refill.state is RefillState.COMPLETED for refill in refills) < POLICY.max_refills


def test_who_is_too_early_is_told_when() -> None:
    denied = denial(a_completed_order(), [], POLICY, NOW + at(0.5), offered=True)
    assert denied is not None
    assert (denied.why, denied.again_at) == (Denial.TOO_EARLY, NOW + POLICY.min_age)
    asked = a_refill(state=RefillState.COMPLETED, requested_at=NOW + at(2))
    denied = denial(a_completed_order(), [asked], POLICY, NOW + at(2.5), offered=True)
    assert denied is not None
    assert (denied.why, denied.again_at) == (Denial.TOO_EARLY, NOW + at(2) + POLICY.cooldown)
