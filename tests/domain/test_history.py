"""What the ends of orders say of an offer."""

from __future__ import annotations

from decimal import Decimal

import pytest

from aggregator.domain.history import ENOUGH, MAX_FACTOR, OfferHistory


def test_too_few_ends_say_nothing() -> None:
    few = OfferHistory(ENOUGH - 1, ordered=400, delivered=100)
    assert (few.ends, few.reliability, few.delivered_share, few.cost_factor) == (4, None, None, None)


def test_reliability_is_the_share_that_was_completed() -> None:
    assert OfferHistory(6, 1, 2, 1, ordered=10, delivered=8).reliability == Decimal("0.6")


@pytest.mark.parametrize(
    ("delivered", "factor"), [(1000, Decimal(1)), (500, Decimal(2)), (1, MAX_FACTOR), (0, MAX_FACTOR)]
)
def test_a_piece_costs_what_had_to_be_ordered_for_it(delivered: int, factor: Decimal) -> None:
    assert OfferHistory(5, ordered=1000, delivered=delivered).cost_factor == factor


def test_nothing_ordered_is_no_share() -> None:
    assert OfferHistory(5).cost_factor is None


def test_the_api_shows_counts_and_short_shares() -> None:
    shown = OfferHistory(5, 1, ordered=600, delivered=550, duration_s=90).as_json()
    assert shown["reliability"] == "0.8333"
    assert shown["delivered_share"] == "0.9167"
    assert (shown["ends"], shown["duration_s"]) == (6, 90)
    assert OfferHistory(1).as_json()["reliability"] is None
