"""What one provider's offer did with our orders: how they ended, how much of them was delivered, and how soon.

Pure figures. What they are worth when an order is routed is decided in `value`; too few orders say nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

ENOUGH: Final = 5
"""Orders that must have ended before a history says something."""
MAX_FACTOR: Final = Decimal(10)
"""A delivered piece counts as at most so many times dearer than an ordered one, also where nothing was delivered."""


@dataclass(frozen=True, slots=True)
class OfferHistory:
    """How orders at one offer ended, pieces ordered and delivered by them, and the moving average of the seconds from
    a purchase to its completion (None: none was completed yet).

    What follows from them is reckoned once: one history serves many decisions.
    """

    completed: int = 0
    partial: int = 0
    canceled: int = 0
    failed: int = 0
    ordered: int = 0
    delivered: int = 0
    duration_s: int | None = None
    ends: int = field(init=False, compare=False, repr=False)
    """How many orders ended."""
    reliability: Decimal | None = field(init=False, compare=False, repr=False)
    """The share of orders that were completed, 0 to 1; None when too few have ended."""
    delivered_share: Decimal | None = field(init=False, compare=False, repr=False)
    """The share of the ordered pieces that was delivered, 0 to 1; None as above."""
    cost_factor: Decimal | None = field(init=False, compare=False, repr=False)
    """How many pieces had to be ordered for each that was delivered, 1 to 10; None as above."""
    words: str = field(init=False, compare=False, repr=False)
    """The same for a person."""

    def __post_init__(self) -> None:
        ends = self.completed + self.partial + self.canceled + self.failed
        enough = ends >= ENOUGH
        share = Decimal(self.delivered) / self.ordered if enough and self.ordered > 0 else None
        factor = min(1 / share, MAX_FACTOR) if share else MAX_FACTOR
        derived = {
            "ends": ends,
            "reliability": Decimal(self.completed) / ends if enough else None,
            "delivered_share": share,
            "cost_factor": factor if share is not None else None,
            "words": self._words() if share is not None else "too few of its orders have ended",
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _words(self) -> str:
        permille = round(self.delivered * 1000 / self.ordered)
        after = f", after {_long(self.duration_s)} on average" if self.duration_s is not None else ""
        return f"{permille // 10}.{permille % 10}% of what was ordered was delivered{after}"

    @property
    def enough(self) -> bool:
        """Whether so many orders ended that they say something."""
        return self.ends >= ENOUGH

    def as_json(self) -> dict[str, object]:
        """For the API; shares have four digits."""
        return {
            "ends": self.ends,
            "completed": self.completed,
            "partial": self.partial,
            "canceled": self.canceled,
            "failed": self.failed,
            "ordered": self.ordered,
            "delivered": self.delivered,
            "duration_s": self.duration_s,
            "reliability": _short(self.reliability),
            "delivered_share": _short(self.delivered_share),
        }


def _long(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds} s"


def _short(share: Decimal | None) -> str | None:
    return f"{share:.4f}" if share is not None else None
