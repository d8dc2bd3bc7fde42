"""Time that costs nothing: an event loop that jumps to its next timer, and the program's clock on top of it.

Nothing in a simulated run waits for the machine, so the same seed makes the same run. While work goes on elsewhere (a
real PostgreSQL), time stands still and the loop waits for it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

REAL_WAIT_S: Final = 30.0
"""How long the work that goes on elsewhere may take before the run is given up."""


class Stuck(BaseException):
    """Nothing is left that could ever happen. No `except Exception` of the program may swallow that."""


class _Selector(selectors.DefaultSelector):
    """Where the loop would sleep, the clock is moved instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.elsewhere = 0
        self.given_up: str | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.given_up is not None:
            reason, self.given_up = self.given_up, None
            raise Stuck(reason)
        if self.elsewhere:
            found: list[tuple[selectors.SelectorKey, int]] = super().select(
                REAL_WAIT_S if timeout is None or timeout > 0 else 0
            )
            if not found and timeout != 0:
                raise Stuck(f"the work elsewhere did not end within {REAL_WAIT_S:g} s")
            return found
        if timeout is None:
            raise Stuck("every task waits, and no timer is left")
        if timeout > 0:
            self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time; `elsewhere` marks what happens in real time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def give_up(self, reason: str) -> None:
        """End the run as stuck, after the callbacks that are ready now."""
        self._virtual.given_up = reason

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Time stands still until the block ends, and sockets are looked at."""
        self._virtual.elsewhere += 1
        try:
            yield
        finally:
            self._virtual.elsewhere -= 1

    def _write_to_self(self) -> None:
        # Only threads need to wake a loop that sleeps, and this one does so for nobody else.
        if self._virtual.elsewhere:
            super()._write_to_self()  # type: ignore[misc]


class VirtualClock:
    """The program's clock: the loop's time, and jumps of the wall clock on top of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: datetime) -> None:
        self._loop = loop
        self._start = start
        self._jumped_s = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._loop.time() + self._jumped_s)

    def monotonic(self) -> float:
        return self._loop.time()

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as a machine does that slept or was corrected."""
        self._jumped_s += seconds

    def elapsed(self) -> float:
        """Seconds since the start by the wall clock, for what shares it."""
        return self._loop.time() + self._jumped_s


def run_virtual(loop: VirtualLoop, main: Any) -> Any:
    """Run a coroutine to its end and close the loop, whatever is left."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
