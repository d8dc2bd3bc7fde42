"""When a provider counts as down: consecutive failures open its breaker for a growing while.

An authentication error opens it at once. After the while one call decides: success closes it, failure doubles the
while.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

FAILURES_TO_OPEN: Final = 5
FIRST_PAUSE: Final = timedelta(seconds=30)
LONGEST_PAUSE: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Breaker:
    """The health of one provider; `open_until` None: closed."""

    failures: int = 0
    down_since: datetime | None = None
    reason: str | None = None
    open_until: datetime | None = None

    def is_open(self, at: datetime) -> bool:
        """Whether calls are held back. A pause that seems longer than any is a clock that was put back: it is over."""
        return self.open_until is not None and at < self.open_until <= at + LONGEST_PAUSE

    def on_trial(self, at: datetime) -> bool:
        """Whether its pause is over and nothing has closed it yet: one call decides."""
        return self.open_until is not None and not self.is_open(at)


CLOSED: Final = Breaker()


def failed(breaker: Breaker, reason: str, at: datetime, *, fatal: bool = False) -> Breaker:
    """After one more failure; `fatal` (a wrong key, an inactive account) opens at once.

    During the pause only the reason is news: what fails then was under way, or asks about orders that go on meanwhile.
    Were it counted, one short break of many calls at once would close a provider off for the longest pause.
    """
    if breaker.is_open(at):
        return replace(breaker, reason=reason)
    failures = breaker.failures + 1
    if fatal:
        failures = max(failures, FAILURES_TO_OPEN)
    if failures < FAILURES_TO_OPEN:
        return Breaker(failures, breaker.down_since, breaker.reason, breaker.open_until)
    doublings = min(failures - FAILURES_TO_OPEN, 10)
    pause = min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE)
    return Breaker(failures, breaker.down_since or at, reason, at + pause)
