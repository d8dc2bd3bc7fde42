"""What an offer is worth beside its price: cost per piece that is really delivered, and the wait for it.

Pure. A price counts for more the less of what was ordered earlier orders got, and a little more or less the longer or
shorter they took than at the other offers. An offer with too little history counts as the average of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from aggregator.domain.history import OfferHistory
from aggregator.domain.money import MAX_UNITS, Money

TIME_WEIGHT: Final = Decimal("0.1")
"""What being slower by the whole usual time adds to a cost, as a share of it; being faster takes as much off."""
MOST_SLOWER: Final = Decimal(5)
"""A slower offer counts as at most so many times as slow as usual."""
ONE: Final = Decimal(1)


@dataclass(frozen=True, slots=True)
class Average:
    """What is usual among the offers that are compared: pieces ordered for one delivered, the share of orders that
    were completed, and seconds to completion (None: of none is known)."""

    factor: Decimal = ONE
    reliability: Decimal = ONE
    duration_s: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Worth:
    """A cost as it counts when value is compared, with the words for it."""

    cost: Money
    note: str


def average(histories: Iterable[OfferHistory | None]) -> Average:
    """The usual figures of those offers that have enough history; without any, those of a perfect one."""
    known = [history for history in histories if history is not None and history.enough]
    factors = [factor for history in known if (factor := history.cost_factor) is not None]
    shares = [share for history in known if (share := history.reliability) is not None]
    times = [history.duration_s for history in known if history.duration_s is not None]
    return Average(
        sum(factors, Decimal(0)) / len(factors) if factors else ONE,
        sum(shares, Decimal(0)) / len(shares) if shares else ONE,
        Decimal(sum(times)) / len(times) if times else None,
    )


def reliability(history: OfferHistory | None, usual: Average) -> Decimal:
    """The share of orders that were completed, 0 to 1; with too little history the usual one."""
    known = history.reliability if history is not None else None
    return known if known is not None else usual.reliability


def worth(cost: Money, history: OfferHistory | None, usual: Average) -> Worth:
    """What a cost counts as at an offer with this history."""
    own = history.cost_factor if history is not None else None
    if history is None or own is None:
        return Worth(_times(cost, usual.factor), "too few of its orders have ended, so it counts as average")
    if history.duration_s is not None and usual.duration_s is not None:
        own *= _time_factor(history.duration_s, usual.duration_s)
    return Worth(_times(cost, own), history.words)


def _time_factor(duration_s: int, usual_s: Decimal) -> Decimal:
    if not usual_s:
        return ONE
    return ONE + TIME_WEIGHT * (min(duration_s / usual_s, MOST_SLOWER) - ONE)


def _times(cost: Money, factor: Decimal) -> Money:
    """A cost times a factor; what is too large to be stored counts as the largest there is."""
    if factor == ONE:
        return cost
    units = int((cost.units * factor).to_integral_value(ROUND_HALF_EVEN))
    return Money(min(units, MAX_UNITS), cost.currency)
