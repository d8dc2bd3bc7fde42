"""What a provider's balance proves: readings against what is booked, and the purchases that might explain the rest.

Pure. A difference is explained only when exactly one set of open purchases adds up to it; everything else decides
nothing. Whether a proof is enough to act on is for reconciliation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Final

MAX_OPEN: Final = 12
"""With more open purchases than this at once, sums say nothing worth knowing."""


class Shown(StrEnum):
    """What a reading shows of one open purchase."""

    DEBITED = "debited"
    UNMOVED = "unmoved"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class OpenPurchase:
    """A purchase whose end nobody knows: being sent, or unclear. `expected` in 10^-8 units."""

    attempt: str
    expected: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A reading against the books. `difference`: reading less what is certain, negative for money that went away."""

    difference: int
    explained: bool
    shown: dict[str, Shown]


def judge(certain: int, reading: int, open_purchases: Sequence[OpenPurchase]) -> Judged:
    """Compare a reading with the certain balance; the open purchases may or may not have been debited."""
    difference = reading - certain
    if len(open_purchases) > MAX_OPEN:
        possible = -sum(one.expected for one in open_purchases) <= difference <= 0
        return Judged(difference, possible, {one.attempt: Shown.UNDECIDED for one in open_purchases})
    sets = [
        frozenset(one.attempt for one in chosen)
        for size in range(len(open_purchases) + 1)
        for chosen in combinations(open_purchases, size)
        if -sum(one.expected for one in chosen) == difference
    ]
    shown = {one.attempt: _shown(one.attempt, sets) for one in open_purchases}
    return Judged(difference, bool(sets), shown)


def _shown(attempt: str, sets: Sequence[frozenset[str]]) -> Shown:
    if sets and all(attempt in chosen for chosen in sets):
        return Shown.DEBITED
    if sets and not any(attempt in chosen for chosen in sets):
        return Shown.UNMOVED
    return Shown.UNDECIDED
