"""What real charges teach of an offer: how many pieces its rate buys, and whether it costs what the catalogue says.

Pure. Three charges must agree before anything is learned; one that rounding could explain in two ways teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aggregator.domain.money import MAX_UNITS, ROUNDING_STEPS

AGREEING: Final = 3
"""Charges that must tell the same."""
KEPT: Final = 5
"""Charges remembered per offer."""
RATE_UNITS: Final = (1, 1000)
"""How many pieces a rate may buy where no document says it (quirks.md, "Catalogue")."""
DOUBTED: Final = 5
"""A price so many times another one is doubted, as in a catalogue."""
TOLERANCE: Final = 100
"""Charges that differ by less than one part in so many are the same."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One charge: what `quantity` pieces cost when the catalogue said `rate`; both in 10^-8 units. `of` is the order,
    or the rented number, that was charged."""

    of: int
    charge: int
    quantity: int
    rate: int

    def cost(self, per: int, rate: int | None = None) -> int:
        """What it should have cost if the rate buys so many pieces."""
        return (self.rate if rate is None else rate) * self.quantity // per


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is known of an offer: `per` pieces are bought by its rate, and `rate` is what is really charged for them
    where that is not what the catalogue says."""

    per: int
    rate: int | None = None


def remember(samples: Sequence[Sample], sample: Sample) -> list[Sample]:
    """The newest charges with this one; a later word on the same one replaces the earlier one."""
    return [*(one for one in samples if one.of != sample.of), sample][-KEPT:]


def learn(samples: Sequence[Sample], believed: Lesson, *, doubtful: bool) -> Lesson | None:
    """What the newest charges agree on; None when they agree on nothing. How many pieces the rate buys is only put to
    the test where it is `doubtful`."""
    newest = samples[-AGREEING:]
    if len(newest) < AGREEING:
        return None
    units = sorted({believed.per, *RATE_UNITS}) if doubtful else [believed.per]
    fitting = [unit for unit in units if all(agrees(one.charge, one.cost(unit)) for one in newest)]
    if len(fitting) == 1:
        return Lesson(fitting[0])
    if fitting:
        return None
    if believed.rate is not None and all(agrees(one.charge, one.cost(believed.per, believed.rate)) for one in newest):
        return believed
    # The largest is the one that rounding has changed least.
    largest = max(newest, key=lambda one: one.charge)
    if not all(agrees(one.charge, largest.charge * one.quantity // largest.quantity) for one in newest):
        return None
    return _another_rate(largest, believed.per, units)


def _another_rate(sample: Sample, believed: int, units: Sequence[int]) -> Lesson | None:
    """The rate that a charge stands for: of the unit that makes it about the catalogue's; else so much dearer.

    What would be a bargain of less than a fifth is a charge that says something else; no bargain is learned from it.
    """
    rates = {unit: sample.charge * unit // sample.quantity for unit in (believed, *units)}
    about = [unit for unit, rate in rates.items() if rate <= sample.rate * DOUBTED and sample.rate <= rate * DOUBTED]
    if not about and rates[believed] < sample.rate:
        return None
    unit = about[0] if about else believed
    return Lesson(unit, rates[unit]) if 0 < rates[unit] <= MAX_UNITS else None


def fits(sample: Sample, believed: Lesson) -> bool:
    """Whether a charge is what was to be expected."""
    return agrees(sample.charge, sample.cost(believed.per, believed.rate))


def agrees(charge: int, cost: int) -> bool:
    """Whether a charge is this cost, rounded as a provider may round it, or but for a hundredth part."""
    if charge <= 0:
        return False
    difference = abs(charge - cost)
    if difference * TOLERANCE <= max(charge, cost):
        return True
    return any(charge % step == 0 and difference < step for step in ROUNDING_STEPS)
