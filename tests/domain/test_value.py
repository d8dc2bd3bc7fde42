"""What a cost counts as at an offer with a history."""

from __future__ import annotations

from decimal import Decimal

import pytest

from aggregator.domain.history import OfferHistory
from aggregator.domain.money import MAX_UNITS, Money
from aggregator.domain.value import Average, average, reliability, worth

ONE_USD = Money.parse("1", "USD")


def a_history(delivered: int = 1000, duration_s: int | None = 100, completed: int = 10) -> OfferHistory:
    return OfferHistory(completed, 10 - completed, ordered=1000, delivered=delivered, duration_s=duration_s)


def test_the_average_is_of_those_who_have_history() -> None:
    few = OfferHistory(2, ordered=10, delivered=0, duration_s=10**6)
    usual = average([None, few, a_history(500, 100, 5), a_history(1000, 300)])
    assert usual == Average(Decimal("1.5"), Decimal("0.75"), Decimal(200))
    assert average([None, few]) == Average()


@pytest.mark.parametrize(
    ("history", "share"), [(None, "0.75"), (OfferHistory(4), "0.75"), (a_history(completed=3), "0.3")]
)
def test_unknown_reliability_is_the_usual_one(history: OfferHistory | None, share: str) -> None:
    assert reliability(history, Average(reliability=Decimal("0.75"))) == Decimal(share)


@pytest.mark.parametrize(
    ("delivered", "duration_s", "amount"),
    [
        (1000, 100, "1"),
        (500, 100, "2"),
        (0, 100, "10"),
        (1000, None, "1"),
        (1000, 0, "0.9"),
        (1000, 200, "1.1"),
        (1000, 500, "1.4"),
        (1000, 10**6, "1.4"),
        (500, 200, "2.2"),
    ],
)
def test_less_delivered_and_longer_waits_count_as_cost(delivered: int, duration_s: int | None, amount: str) -> None:
    found = worth(ONE_USD, a_history(delivered, duration_s), Average(duration_s=Decimal(100)))
    assert found.cost == Money.parse(amount, "USD")


def test_without_a_usual_time_nobody_is_slow() -> None:
    for usual in (Average(), Average(duration_s=Decimal(0))):
        assert worth(ONE_USD, a_history(duration_s=10**6), usual).cost == ONE_USD


def test_too_little_history_counts_as_average() -> None:
    for history in (None, OfferHistory(4, ordered=10), OfferHistory(9)):
        found = worth(ONE_USD, history, Average(Decimal("1.25"), duration_s=Decimal(5)))
        assert found.cost == Money.parse("1.25", "USD")
        assert "too few" in found.note


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (60, "1.0 min"), (5400, "1.5 h"), (172_800, "2.0 d")])
def test_the_note_says_what_was_delivered_and_when(seconds: int, text: str) -> None:
    found = worth(ONE_USD, a_history(875, seconds), Average(duration_s=Decimal(100)))
    assert found.note == f"87.5% of what was ordered was delivered, after {text} on average"


def test_what_is_too_large_to_be_stored_counts_as_the_largest() -> None:
    assert worth(Money(MAX_UNITS, "USD"), a_history(0), Average()).cost == Money(MAX_UNITS, "USD")
