"""Ticks: each stage looks for due work every so often, and sooner when it is woken.

The only file that knows APScheduler, which only ticks, in memory: what is due is asked of the database by the stage
itself. A stage never runs twice at once, and a tick that comes while it runs is remembered, not queued.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from prometheus_client import Histogram

from aggregator.domain.clock import Clock
from aggregator.domain.errors import ClaimLost, StorageUnavailable
from aggregator.log import get_logger

log = get_logger()


_MISSED_TICKS: Final = 5
LAG_EVERY_S: Final = 1.0
"""As often as most stages tick: it wakes nobody who would sleep."""
LAG: Final = Histogram(
    "aggregator_event_loop_lag_seconds",
    "How late the event loop came to a call that was due, looked at once a second.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


@dataclass(slots=True)
class Entry:
    """One row of the table: a name, the seconds between ticks, what to run.

    `pace_s` is the least time from one run to the next, however often it is woken: what comes meanwhile is done
    together. Whoever comes after a pause is served at once.
    """

    name: str
    every_s: float
    run_once: Callable[[], Awaitable[object]]
    pace_s: float = 0.0
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    ticked_at: float = 0.0


class Schedule:
    """The table and its loops."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._ticker = AsyncIOScheduler(timezone="UTC")
        self._stopping = False
        self._stopped = asyncio.Event()
        self._lag: asyncio.TimerHandle | None = None

    def add(self, name: str, every_s: float, run_once: Callable[[], Awaitable[object]], *, pace_s: float = 0.0) -> None:
        self._entries[name] = Entry(name, every_s, run_once, pace_s, ticked_at=self._clock.monotonic())

    def wake(self, name: str) -> None:
        """Look now. Safe to call at any time, as often as you like."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.woken.set()

    async def _tick(self, name: str) -> None:
        # A coroutine, because APScheduler runs plain functions in a thread, where an asyncio.Event must not be set.
        self.wake(name)

    def start(self) -> None:
        for entry in self._entries.values():
            self._ticker.add_job(
                self._tick,
                IntervalTrigger(seconds=entry.every_s),
                args=[entry.name],
                id=entry.name,
                # A tick that comes late because the loop was busy still counts, once.
                misfire_grace_time=None,
                coalesce=True,
            )
            entry.woken.set()
            self._loops.append(asyncio.create_task(self._loop(entry), name=f"loop:{entry.name}"))
        self._ticker.start()
        self._look_again_at(asyncio.get_running_loop().time() + LAG_EVERY_S)

    def _look_again_at(self, due: float) -> None:
        """One timer and no task: what is late here is the loop itself."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            now = loop.time()
            LAG.observe(max(0.0, now - due))
            self._look_again_at(now + LAG_EVERY_S)

        self._lag = loop.call_at(due, look)

    def ages(self) -> dict[str, float]:
        """Seconds since each loop last came round; one that grows beyond its interval is stuck."""
        now = self._clock.monotonic()
        return {entry.name: now - entry.ticked_at for entry in self._entries.values()}

    async def stop(self) -> None:
        """Tick no more and end the loops between two runs; work that stages have begun is theirs to end."""
        self._stopping = True
        self._stopped.set()
        if self._lag is not None:
            self._lag.cancel()
        if self._ticker.running:
            # It shuts down by a later turn of the loop, where it would cancel the ticks made until then, and tell each
            # as a failure.
            self._ticker.pause()
            self._ticker.shutdown(wait=False)
        for entry in self._entries.values():
            entry.woken.set()
        if self._loops:
            await asyncio.gather(*self._loops, return_exceptions=True)

    async def _loop(self, entry: Entry) -> None:
        while True:
            # APScheduler's ticks follow the wall clock, and stay away while that is set back; this wait does not.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(entry.woken.wait(), _MISSED_TICKS * entry.every_s)
            if self._stopping:
                return
            entry.woken.clear()
            began = asyncio.get_running_loop().time()
            try:
                await entry.run_once()
            except StorageUnavailable as exc:
                log.warning("storage_unavailable", stage=entry.name, reason=str(exc))
            except ClaimLost as exc:
                log.info("claim_lost", stage=entry.name, row=str(exc))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Not this loop was cancelled, but something that the stage waited for.
                log.warning("stage_cancelled", stage=entry.name)
            except Exception:
                # A stage that failed once is asked again at the next tick; its rows are still due.
                log.exception("stage_failed", stage=entry.name)
            entry.ticked_at = self._clock.monotonic()
            left_s = began + entry.pace_s - asyncio.get_running_loop().time()
            if left_s > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), left_s)
