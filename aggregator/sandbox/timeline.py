"""Sandbox time. Decides what time it is in the sandbox; never sleeps and never starts a timer.

Sandbox seconds start at 0, run `speed` times as fast as the injected clock, and can be moved on by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime


class Timeline:
    """Turns an injected clock (seconds, usually `time.time`) into sandbox seconds, and back for dates in answers."""

    def __init__(self, clock: Callable[[], float], speed: float = 1.0) -> None:
        if not 0 < speed <= 1_000_000:
            raise ValueError(f"speed: must be greater than 0 and at most 1000000, got {speed}")
        self._clock = clock
        self._start = clock()
        self._shift = 0.0
        self.speed = speed

    def now(self) -> float:
        """Sandbox seconds since the start."""
        return (self._clock() - self._start) * self.speed + self._shift

    def advance(self, seconds: float) -> None:
        """Move sandbox time on, so that a test in another process need not wait."""
        self._shift += seconds

    def wall(self, moment: float) -> float:
        """When, by the injected clock, the sandbox reaches this moment; callers compare dates with their own clock."""
        return self._start + (moment - self._shift) / self.speed

    def date(self, moment: float) -> str:
        """`wall` as in the sample of sms_status: 2023-01-01T12:00:00.000Z."""
        text = datetime.fromtimestamp(self.wall(moment), UTC).isoformat(timespec="milliseconds")
        return text.replace("+00:00", "Z")
