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

from aggregator.domain.money import ROUNDING_STEPS, format_units

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
    """A reading against the books. `difference`: reading less what is certain, negative for money that went away.

    `explained`: some set of open purchases adds up to it exactly. `within`: at least no more is gone than all of them
    together cost, and nothing came.
    """

    difference: int
    explained: bool
    within: bool
    shown: dict[str, Shown]


def judge(certain: int, reading: int, open_purchases: Sequence[OpenPurchase]) -> Judged:
    """Compare a reading with the certain balance; the open purchases may or may not have been debited."""
    difference = reading - certain
    within = -sum(one.expected for one in open_purchases) <= difference <= 0
    if len(open_purchases) > MAX_OPEN:
        return Judged(difference, within, within, {one.attempt: Shown.UNDECIDED for one in open_purchases})
    sets = [
        frozenset(one.attempt for one in chosen)
        for size in range(len(open_purchases) + 1)
        for chosen in combinations(open_purchases, size)
        if -sum(one.expected for one in chosen) == difference
    ]
    shown = {one.attempt: _shown(one.attempt, sets) for one in open_purchases}
    return Judged(difference, bool(sets), within, shown)


def _shown(attempt: str, sets: Sequence[frozenset[str]]) -> Shown:
    if sets and all(attempt in chosen for chosen in sets):
        return Shown.DEBITED
    if sets and not any(attempt in chosen for chosen in sets):
        return Shown.UNMOVED
    return Shown.UNDECIDED


def standing(before: int | None, seen: int, difference: int) -> tuple[int, int]:
    """The part of a difference that stands, and for how many readings it has; `before` and `seen` are the last ones.

    Of money that went away, what was gone already is still gone when more follows. Money that came may each time be
    another refund that is about to be booked: only the very same amount stands.
    """
    if before is None or (before < 0) != (difference < 0):
        return difference, 1
    if difference < 0:
        return max(before, difference), seen + 1
    return difference, seen + 1 if difference == before else 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """What might have caused a difference: refund, price, unclear, outside or top_up. `units` None: any amount.

    A refund of a negative amount is one that was counted with and never came.
    """

    kind: str
    units: int | None = None
    order: str | None = None
    attempt: str | None = None
    number: int | None = None

    def as_json(self) -> dict[str, object]:
        shown = {
            "kind": self.kind,
            "order": self.order,
            "attempt": self.attempt,
            "amount": format_units(self.units) if self.units is not None else None,
        }
        return {name: value for name, value in shown.items() if value is not None}


def fitting(difference: int, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that account for the whole difference alone: to the unit, or else as the provider may round."""
    exact = [one for one in candidates if one.units == difference]
    return exact or [one for one in candidates if one.units is not None and _rounds_to(one.units, difference)]


def refunds(difference: int, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The refunds that make up a difference, the oldest first; empty when none do, or when different ones could.

    Which of several equal ones came is all the same for every sum.
    """
    due = [one for one in candidates if one.kind == "refund" and one.number and one.units and one.units > 0]
    due.sort(key=lambda one: one.number or 0)
    if difference <= 0 or len(due) > MAX_OPEN:
        return []
    found: dict[tuple[int, ...], list[Candidate]] = {}
    for size in range(1, len(due) + 1):
        for chosen in combinations(due, size):
            if sum(one.units or 0 for one in chosen) == difference:
                found.setdefault(tuple(sorted(one.units or 0 for one in chosen)), list(chosen))
    rounded = found or {(one.units or 0,): [one] for one in due if _rounds_to(one.units or 0, difference)}
    return next(iter(rounded.values())) if len(rounded) == 1 else []


MOST_SUMS: Final = 50_000
"""Sums of refunds that are tried; beyond them any debit may be hidden."""


def may_hide(debit: int, refunds_due: Sequence[int], unknown: int = 0) -> bool:
    """Whether some of these refunds together, and up to `unknown` more, could have made good a debit, so that a balance
    does not show it."""
    sums = {0}
    for units in (0, *refunds_due):
        more = {one + units for one in sums}
        if any(debit - unknown <= one <= debit or _rounds_to(one, debit) for one in more):
            return True
        sums |= {one for one in more if one <= debit}
        if len(sums) > MOST_SUMS:
            return True
    return False


def _rounds_to(units: int, rounded: int) -> bool:
    if not units or not rounded or (units < 0) != (rounded < 0):
        return False
    return any(rounded % step == 0 and abs(units - rounded) < step for step in ROUNDING_STEPS)
