"""How long to wait before trying again; growing, bounded."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

_ROUND_PAUSES_S: Final = (5, 10, 20, 40, 80, 160, 300)


def pause_after(round_: int) -> timedelta:
    """How long an order waits after a round in which nobody took it: growing, at most five minutes."""
    return timedelta(seconds=_ROUND_PAUSES_S[min(round_, len(_ROUND_PAUSES_S) - 1)])


def poll_interval(now: datetime, changed_at: datetime, least_s: float, most_s: float) -> timedelta:
    """When to ask again: soon after a change, later the longer nothing changed; always within the bounds."""
    quiet_s = max(0.0, (now - changed_at).total_seconds())
    return timedelta(seconds=min(most_s, max(least_s, quiet_s / 5)))
