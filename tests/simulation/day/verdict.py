"""What the hours of a day say: which level does not come back, which pace rises. Pure.

The hours are compared with each other: a late stretch with an early one that was warm already. Nothing is held against
a large bound that a leak would need a week to reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Hour = Mapping[str, float]
"""Measures by name; one that is missing is 0."""

LEVEL_SHARE: Final = 1.2
LEVEL_SLACK: Final = 9.0
"""A late level may be a fifth above the highest early one, and so much more: a handful of orders are always under way,
and sometimes there are a few more of them."""
PACE_SHARE: Final = 1.5
PACE_SLACK: Final = 40.0
"""Likewise of what is counted per hour: orders that are over are looked at again, ever more seldom, but more."""
HOT_SHARE: Final = 5.0
HOT_SLACK: Final = 4000.0
"""No hour at all, whatever is away or comes back in it, may see more of anything than this: a stage comes round once a
second anyway, and one that spins does so hundreds of times as often."""
SEVERAL: Final = 3
"""Steps are the rounds of all stages together, and some have their hot hour in the same one."""
EARLY: Final = (0.1, 0.34)
LATE: Final = (0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One measure, early and late, with its bound."""

    name: str
    early: float
    late: float
    bound: float

    @property
    def grew(self) -> bool:
        return self.late > self.bound

    def __str__(self) -> str:
        return f"{self.name}: {self.early:g} at most in early hours, {self.late:g} at least in late ones"


def levels(hours: Sequence[Hour]) -> list[Stretch]:
    """Of each level, its highest early value and its lowest late one: a leak never comes back down."""
    return [
        Stretch(name, max(early), min(late), max(early) * LEVEL_SHARE + LEVEL_SLACK)
        for name, early, late in _stretches(hours)
    ]


def paces(hours: Sequence[Hour]) -> list[Stretch]:
    """Of each pace, its highest early value and its lowest late one; and any hour that is hot."""
    found = [
        Stretch(name, max(early), min(late), max(early) * PACE_SHARE + PACE_SLACK)
        for name, early, late in _stretches(hours)
    ]
    for name in sorted(set().union(*hours)):
        values = [hour.get(name, 0.0) for hour in hours]
        usual = sorted(values)[len(values) // 2]
        bound = usual * HOT_SHARE + HOT_SLACK * (SEVERAL if name == "steps" else 1)
        found.append(Stretch(f"the hottest hour of {name}", usual, max(values), bound))
    return found


def _stretches(hours: Sequence[Hour]) -> list[tuple[str, list[float], list[float]]]:
    def part(name: str, of: tuple[float, float]) -> list[float]:
        first, last = (round(share * len(hours)) for share in of)
        return [hour.get(name, 0.0) for hour in hours[first:last]]

    return [(name, part(name, EARLY), part(name, LATE)) for name in sorted(set().union(*hours))]
