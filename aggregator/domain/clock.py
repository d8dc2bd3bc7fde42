"""The time: the only place that reads it, and how instants are written.

Every instant in the program is an aware UTC datetime; a naive one is refused where it is made.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the program asks for the time; tests inject their own."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow; for measuring spans, never for storing."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told; for simulations and tests."""

    def __init__(self, start: datetime) -> None:
        self._now = require_utc(start)
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._elapsed += seconds


def require_utc(value: datetime) -> datetime:
    """The same instant in UTC; ValueError for a naive datetime, whose instant nobody knows, and outside the years
    1 to 9999."""
    if value.utcoffset() is None:
        raise ValueError("a naive datetime has no instant; give it a time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("the instant lies outside of the years 1 to 9999 in UTC") from exc


def rfc3339(value: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and a `Z`, as contract.md §2 shows times."""
    return require_utc(value).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime:
    """Read an RFC 3339 instant; ValueError when it is not one or names no zone."""
    return require_utc(datetime.fromisoformat(text.strip().replace("z", "Z")))
