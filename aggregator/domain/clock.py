"""The time: the only place that reads it, and how instants are written.

Every instant in the program is an aware UTC datetime; a naive one is refused where it is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Protocol

TOLERANCE: Final = timedelta(seconds=2)
"""A clock that moved by more than this against the monotonic one has jumped; less is a correction, as of NTP."""
_TOLERANCE_S: Final = TOLERANCE.total_seconds()


_HELD_UP_S: Final = 0.5
"""Two readings that are further apart are not of one moment."""


class Clock(Protocol):
    """What the program asks for the time; tests inject their own."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow; for measuring spans, never for storing."""
        ...


class SteadyClock:
    """The machine's clock, whose jumps are held back until `follow` is called.

    Whoever keeps deadlines moves them along first; then an hour that the clock skips is no hour that passed. What is
    within TOLERANCE is followed at once. A machine that slept shows as a jump, too.
    """

    def __init__(
        self,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        # One value, replaced whole: threads ask for the time as well.
        self._anchor = self._look()

    def now(self) -> datetime:
        # In one piece: every request asks several times.
        before = self._monotonic()
        wall = self._wall()
        anchor, then = self._anchor
        ahead_s = (wall - anchor).total_seconds() - (before - then)
        if self._monotonic() - before < _HELD_UP_S and -_TOLERANCE_S <= ahead_s <= _TOLERANCE_S:
            self._anchor = wall, before
            return wall
        wall, elapsed = self._look()
        steady = self._steady(elapsed)
        if abs(wall - steady) > TOLERANCE:
            return steady
        self._anchor = wall, elapsed
        return wall

    def monotonic(self) -> float:
        return self._monotonic()

    @property
    def jump(self) -> timedelta:
        """How far the machine's clock has jumped, forward or back, and is not followed yet; zero if it has not."""
        wall, elapsed = self._look()
        jump = wall - self._steady(elapsed)
        return jump if abs(jump) > TOLERANCE else timedelta(0)

    def follow(self, jump: timedelta) -> None:
        """Take a jump over: every stored deadline has been moved by it."""
        wall, elapsed = self._anchor
        self._anchor = wall + jump, elapsed

    def _steady(self, elapsed: float) -> datetime:
        wall, then = self._anchor
        return wall + timedelta(seconds=elapsed - then)

    def _look(self) -> tuple[datetime, float]:
        """Both clocks at one moment; a thread that was held up between the two readings reads them again."""
        while True:
            before = self._monotonic()
            wall = self._wall()
            if self._monotonic() - before < _HELD_UP_S:
                return wall, before


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


@lru_cache(maxsize=64)  # an order's event and its answer tell the same time
def rfc3339(value: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and a `Z`, as contract.md §2 shows times."""
    if value.tzinfo is not UTC:
        value = require_utc(value)
    return value.replace(tzinfo=None).isoformat("T", "milliseconds") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Read an RFC 3339 instant; ValueError when it is not one or names no zone."""
    return require_utc(datetime.fromisoformat(text.strip().replace("z", "Z")))
