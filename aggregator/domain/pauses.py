"""How long to wait before trying again; growing, bounded."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

_ROUND_PAUSES_S: Final = (5, 10, 20, 40, 80, 160, 300)


def pause_after(round_: int) -> timedelta:
    """How long an order waits after a round in which nobody took it: growing, at most five minutes."""
    return timedelta(seconds=_ROUND_PAUSES_S[min(round_, len(_ROUND_PAUSES_S) - 1)])
