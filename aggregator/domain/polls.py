"""How often a bought order is asked for: quick while young and near its end, slower with age, seldom once it is over.

Pure. What services have taken so far shapes the pace; the provider's bounds always hold.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

_PART: Final = 5
"""An order is asked for again after a fifth of its age: twice as old, half as often."""
_TO_THE_END: Final = 4
"""And after a quarter of the time to its usual end."""
SOONEST_REREAD: Final = timedelta(hours=1)
NOT_YET_VISIBLE: Final = timedelta(minutes=15)
"""So long a provider may not know an order that it has just taken (quirks.md, "Errors by meaning")."""
STUCK_TIMES: Final = 5
"""An order stands still that has not changed for so many times as long as such orders take in all."""
STUCK_LEAST: Final = timedelta(hours=6)
STUCK_MOST: Final = timedelta(days=7)
STUCK_UNKNOWN: Final = timedelta(days=3)
"""Where nobody knows how long such orders take."""
STUCK_BY_HAND: Final = timedelta(days=30)
"""Where a person delivers: long waits are normal there."""


def poll_interval(age: timedelta, typical: timedelta | None, least_s: float, most_s: float) -> timedelta:
    """When to ask again for something so old, of which such ones usually end after `typical`."""
    age_s = max(0.0, age.total_seconds())
    wait_s = age_s / _PART
    if typical is not None:
        left_s = typical.total_seconds() - age_s
        wait_s = min(wait_s, left_s / _TO_THE_END) if left_s > 0 else min(wait_s, -left_s / _PART)
    return timedelta(seconds=min(most_s, max(least_s, wait_s)))


def reread_interval(since_end: timedelta, check_every: timedelta | None) -> timedelta:
    """When to look again at an order that is over: as often as its refills want it, else each time twice as late."""
    return check_every if check_every is not None else max(SOONEST_REREAD, since_end)


def stuck_after(typical: timedelta | None, *, by_hand: bool) -> timedelta:
    """How long an order may stand still before somebody should look at it."""
    if by_hand:
        return STUCK_BY_HAND
    if typical is None:
        return STUCK_UNKNOWN
    return min(STUCK_MOST, max(STUCK_LEAST, typical * STUCK_TIMES))
