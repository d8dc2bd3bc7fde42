"""What a balance says of purchases whose end nobody knows; which part of a difference stands; what may explain it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.books import (
    MAX_OPEN,
    Candidate,
    Judged,
    OpenPurchase,
    Shown,
    fitting,
    judge,
    may_hide,
    standing,
)

CENT = 1_000_000
CERTAIN = 1000 * CENT


def judged(difference: int, *expected: int) -> Judged:
    return judge(CERTAIN, CERTAIN + difference, [OpenPurchase(f"a{n}", one) for n, one in enumerate(expected)])


def shown(difference: int, *expected: int) -> list[Shown]:
    return list(judged(difference, *expected).shown.values())


D, U, N = Shown.DEBITED, Shown.UNDECIDED, Shown.UNMOVED


@pytest.mark.parametrize(
    ("difference", "expected", "says"),
    [
        (0, (90,), [N]),
        (-90, (90,), [D]),
        (-85, (90,), [U]),
        (+90, (90,), [U]),
        (0, (90, 90), [N, N]),
        (-90, (90, 90), [U, U]),
        (-180, (90, 90), [D, D]),
        (-90, (90, 50), [D, N]),
        (-50, (90, 50), [N, D]),
        (-140, (90, 50), [D, D]),
        (-3, (1, 2, 3), [U, U, U]),
        (-6, (1, 2, 3), [D, D, D]),
        (-1, (1, 2, 3), [D, N, N]),
        (0, (0,), [U]),
    ],
)
def test_only_the_one_set_that_adds_up_decides(difference: int, expected: tuple[int, ...], says: list[Shown]) -> None:
    assert shown(difference, *expected) == says


@pytest.mark.parametrize(
    ("difference", "explained", "within"),
    [(0, True, True), (-90, True, True), (-89, False, True), (-91, False, False), (1, False, False)],
)
def test_between_certain_and_all_in_flight_no_more_is_missing_than_may_be(
    difference: int, explained: bool, within: bool
) -> None:
    found = judged(difference, 90)
    assert (found.difference, found.explained, found.within) == (difference, explained, within)


def test_without_anything_open_only_the_certain_balance_is_explained() -> None:
    assert judged(0).explained
    assert not judged(-1).explained
    assert not judged(1).within


def test_too_many_open_purchases_decide_nothing() -> None:
    many = [10] * (MAX_OPEN + 1)
    assert set(shown(0, *many)) == {U}
    assert judged(-10 * len(many), *many).within
    assert not judged(-10 * len(many) - 1, *many).within


@given(st.lists(st.integers(0, 30), max_size=8), st.data())
def test_whatever_was_really_debited_is_never_shown_otherwise(expected: list[int], data: st.DataObject) -> None:
    taken = data.draw(st.lists(st.booleans(), min_size=len(expected), max_size=len(expected)))
    difference = -sum(cost for cost, debited in zip(expected, taken, strict=True) if debited)
    found = judged(difference, *expected)
    assert found.explained
    assert found.within
    for says, debited in zip(found.shown.values(), taken, strict=True):
        assert says is not (Shown.UNMOVED if debited else Shown.DEBITED)


# --- what stands


@pytest.mark.parametrize(
    ("before", "seen", "difference", "stands"),
    [
        (None, 0, -5, (-5, 1)),
        (-5, 1, -5, (-5, 2)),
        (-5, 2, -8, (-5, 3)),
        (-8, 2, -5, (-5, 3)),
        (-5, 2, 5, (5, 1)),
        (5, 1, 5, (5, 2)),
        (5, 2, 8, (8, 1)),
        (8, 2, 5, (5, 1)),
    ],
)
def test_of_a_difference_that_part_stands_which_every_reading_showed(
    before: int | None, seen: int, difference: int, stands: tuple[int, int]
) -> None:
    assert standing(before, seen, difference) == stands


# --- what may explain it


@pytest.mark.parametrize(
    ("debit", "due", "hidden"),
    [
        (62, [], False),
        (62, [62], True),
        (62, [31, 31], True),
        (62, [30, 31], False),
        (62, [5, 40, 7, 17, 90], True),
        (62 * CENT, [20 * CENT + 1, 42 * CENT - 9], True),
        (62, list(range(1000, 3000)), False),
    ],
)
def test_a_debit_is_hidden_by_any_refunds_that_add_up_to_it(debit: int, due: list[int], hidden: bool) -> None:
    assert may_hide(debit, due) is hidden


@pytest.mark.parametrize(
    ("debit", "due", "unknown", "hidden"),
    [
        (90, (), 89, False),
        (90, (), 90, True),
        (90, (), 200, True),
        (90, (50,), 39, False),
        (90, (50,), 40, True),
        (90, (91,), 89, False),
        (90, (30, 70), 19, False),
        (90, (30, 70), 20, True),
    ],
)
def test_a_refund_that_nobody_can_ask_for_may_be_of_any_part(
    debit: int, due: tuple[int, ...], unknown: int, hidden: bool
) -> None:
    assert may_hide(debit * CENT, [one * CENT for one in due], unknown * CENT) is hidden


def test_of_too_many_refunds_nobody_says_that_they_hide_nothing() -> None:
    assert may_hide(2**60 + 1, [2**place for place in range(1, 40)])


def test_a_candidate_that_is_exact_leaves_no_room_for_others() -> None:
    exact, near = Candidate("refund", 54 * CENT, order="a"), Candidate("refund", 54 * CENT + 10, order="b")
    assert fitting(54 * CENT, [near, exact, Candidate("price", order="c")]) == [exact]


@pytest.mark.parametrize(
    ("candidate", "difference", "fits"),
    [
        (33_333_333, 33_000_000, True),
        (33_333_333, 33_330_000, True),
        (33_333_333, 34_000_000, True),
        (33_333_333, 33_333_000, True),
        (33_333_333, 32_000_000, False),
        (33_333_333, 33_333_332, False),
        (33_333_333, 33_335_000, False),
        (-33_333_333, 33_000_000, False),
        (0, 0, True),
        (0, 1_000_000, False),
        (500_000, 0, False),
    ],
)
def test_a_provider_may_have_rounded_but_not_more_than_that(candidate: int, difference: int, fits: bool) -> None:
    assert bool(fitting(difference, [Candidate("refund", candidate)])) is fits


def test_a_candidate_shows_what_it_knows_and_no_more() -> None:
    assert Candidate("outside", -5 * CENT).as_json() == {"kind": "outside", "amount": "-0.05"}
    assert Candidate("price", order="ord_1").as_json() == {"kind": "price", "order": "ord_1"}
    assert Candidate("unclear", -CENT, "ord_1", "att_1").as_json() == {
        "kind": "unclear",
        "order": "ord_1",
        "attempt": "att_1",
        "amount": "-0.01",
    }
