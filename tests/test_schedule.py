"""Loops that tick, wake, never overlap, never die of a failure, and end between two runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import ClaimLost, StorageUnavailable
from aggregator.schedule import Schedule
from tests.support.metrics import counted

NEVER_S = 1000.0
"""No tick comes within a test: what runs was woken."""
SOON_S = 0.001
LIMIT_S = 10.0


class Work:
    """A stage's `run_once`: counts its runs, and each run waits for `gate`."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.at_once = 0
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.threads: set[int] = set()
        self._changed = asyncio.Condition()

    async def run_once(self) -> int:
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.threads.add(threading.get_ident())
        await self._tell()
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            return 1
        finally:
            self.at_once -= 1
            self.ended += 1
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S), self._changed:
            await self._changed.wait_for(true)


async def quiet() -> None:
    """Let everything that can run, run."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def schedule(clock: ManualClock) -> AsyncIterator[Schedule]:
    one = Schedule(clock)
    yield one
    await one.stop()


@pytest_asyncio.fixture
async def work() -> Work:
    return Work()


async def test_each_entry_runs_at_the_start_without_waiting_for_a_tick(schedule: Schedule, work: Work) -> None:
    schedule.add("stage", NEVER_S, work.run_once)
    schedule.start()
    await work.until(lambda: work.ended == 1)
    await quiet()
    assert work.begun == 1


async def test_ticks_run_it_again_and_again(schedule: Schedule, work: Work) -> None:
    schedule.add("stage", SOON_S, work.run_once)
    schedule.start()
    await work.until(lambda: work.ended >= 4)


async def test_waking_runs_it_at_once(schedule: Schedule, work: Work) -> None:
    schedule.add("stage", NEVER_S, work.run_once)
    schedule.start()
    for runs in range(1, 5):
        await work.until(lambda: work.ended == runs)  # noqa: B023
        schedule.wake("stage")
    await work.until(lambda: work.ended == 5)


async def test_many_wakes_at_once_are_one_run(schedule: Schedule, work: Work) -> None:
    schedule.add("stage", NEVER_S, work.run_once)
    schedule.start()
    await work.until(lambda: work.ended == 1)
    for _ in range(100):
        schedule.wake("stage")
    await work.until(lambda: work.ended == 2)
    await quiet()
    assert work.begun == 2


async def test_never_two_runs_at_once_and_a_wake_during_a_run_is_remembered(schedule: Schedule, work: Work) -> None:
    schedule.add("stage", SOON_S, work.run_once)
    work.gate.clear()
    schedule.start()
    await work.until(lambda: work.begun == 1)
    for _ in range(100):
        schedule.wake("stage")
        await asyncio.sleep(0)
    assert work.begun == 1
    work.gate.set()
    await work.until(lambda: work.ended >= 2)
    assert work.most_at_once == 1


async def test_after_a_run_it_rests_however_often_it_is_woken_and_a_stop_ends_the_rest(
    clock: ManualClock, work: Work
) -> None:
    schedule = Schedule(clock)
    other = Work()
    schedule.add("work", NEVER_S, work.run_once, pace_s=NEVER_S)
    schedule.add("other", NEVER_S, other.run_once)
    schedule.start()
    await work.until(lambda: work.ended == 1)
    await other.until(lambda: other.ended == 1)
    for runs in range(2, 5):
        schedule.wake("work")
        schedule.wake("other")
        await other.until(lambda: other.ended == runs)  # noqa: B023
    assert work.begun == 1
    async with asyncio.timeout(LIMIT_S):
        await schedule.stop()


async def test_waking_a_name_that_is_not_in_the_table_harms_nothing(schedule: Schedule) -> None:
    schedule.wake("nobody")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a defect"),
        StorageUnavailable("the disk is full"),
        ClaimLost("attempt att_1"),
        TimeoutError(),
        asyncio.CancelledError("something that the stage waited for was cancelled"),
    ],
)
async def test_a_run_that_fails_does_not_end_the_loop(schedule: Schedule, work: Work, error: BaseException) -> None:
    schedule.add("stage", NEVER_S, work.run_once)
    work.error = error
    schedule.start()
    await work.until(lambda: work.ended == 1)
    work.error = None
    schedule.wake("stage")
    await work.until(lambda: work.ended == 2)


async def test_one_stage_that_hangs_does_not_hold_up_another(schedule: Schedule, work: Work) -> None:
    other = Work()
    schedule.add("stuck", SOON_S, work.run_once)
    schedule.add("stage", SOON_S, other.run_once)
    work.gate.clear()
    schedule.start()
    await other.until(lambda: other.ended >= 3)
    assert (work.begun, work.ended) == (1, 0)
    work.gate.set()


async def test_ticks_touch_the_loop_from_its_own_thread(
    schedule: Schedule, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An asyncio.Event that another thread sets may be noticed late, or never."""
    threads: set[int] = set()
    wake = schedule.wake
    ticked = asyncio.Event()

    def watched(name: str) -> None:
        threads.add(threading.get_ident())
        wake(name)
        ticked.set()

    monkeypatch.setattr(schedule, "wake", watched)
    schedule.add("stage", SOON_S, work.run_once)
    schedule.start()
    async with asyncio.timeout(LIMIT_S):
        await ticked.wait()
    await work.until(lambda: work.ended >= 2)
    assert threads == {threading.get_ident()}


# --- ages ------------------------------------------------------------------------------------------------------------


async def test_the_age_of_a_loop_grows_while_it_is_stuck_and_falls_when_it_comes_round(
    schedule: Schedule, work: Work, clock: ManualClock
) -> None:
    schedule.add("stage", NEVER_S, work.run_once)
    work.gate.clear()
    schedule.start()
    await work.until(lambda: work.begun == 1)
    clock.advance(31)
    assert schedule.ages() == {"stage": 31}
    work.gate.set()
    await work.until(lambda: work.ended == 1)
    await quiet()
    assert schedule.ages() == {"stage": 0}


async def test_a_loop_that_fails_every_time_comes_round_all_the_same(
    schedule: Schedule, work: Work, clock: ManualClock
) -> None:
    schedule.add("stage", NEVER_S, work.run_once)
    work.error = RuntimeError("a defect")
    clock.advance(31)
    schedule.start()
    await work.until(lambda: work.ended == 1)
    await quiet()
    assert schedule.ages() == {"stage": 0}


# --- stopping --------------------------------------------------------------------------------------------------------


async def test_stopping_waits_for_the_run_and_begins_no_other(clock: ManualClock, work: Work) -> None:
    schedule = Schedule(clock)
    schedule.add("stage", SOON_S, work.run_once)
    work.gate.clear()
    schedule.start()
    await work.until(lambda: work.begun == 1)
    stopping = asyncio.create_task(schedule.stop())
    schedule.wake("stage")
    await quiet()
    assert not stopping.done()
    assert work.ended == 0, "a run is not cut"
    work.gate.set()
    async with asyncio.timeout(LIMIT_S):
        await stopping
    schedule.wake("stage")
    await quiet()
    assert (work.begun, work.ended) == (1, 1)


async def test_a_wake_and_a_stop_in_the_same_moment_begin_nothing(clock: ManualClock, work: Work) -> None:
    schedule = Schedule(clock)
    schedule.add("stage", NEVER_S, work.run_once)
    schedule.start()
    await work.until(lambda: work.ended == 1)
    schedule.wake("stage")
    await schedule.stop()
    assert work.begun == 1


async def test_ticks_that_come_just_when_it_is_stopped_are_not_told_as_failures(
    clock: ManualClock, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = Schedule(clock)
    schedule.add("work", NEVER_S, work.run_once)
    schedule.start()
    await work.until(lambda: work.ended == 1)
    stopping = asyncio.create_task(schedule.stop())
    # After the first step of the stop, and before the ticker is shut down.
    schedule._ticker.modify_job("work", next_run_time=datetime.now(UTC))
    await stopping
    for _ in range(5):
        await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_stopping_before_the_start_and_twice_is_no_error(clock: ManualClock, work: Work) -> None:
    schedule = Schedule(clock)
    schedule.add("stage", NEVER_S, work.run_once)
    await schedule.stop()
    started = Schedule(clock)
    started.add("stage", NEVER_S, work.run_once)
    started.start()
    await started.stop()
    await started.stop()


async def test_cancelling_a_loop_ends_it(clock: ManualClock, work: Work) -> None:
    schedule = Schedule(clock)
    schedule.add("stage", NEVER_S, work.run_once)
    work.gate.clear()
    schedule.start()
    await work.until(lambda: work.begun == 1)
    [loop] = schedule._loops
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    await schedule.stop()


async def test_what_fails_while_it_is_being_stopped_does_not_spoil_the_stop(clock: ManualClock) -> None:
    stopping = asyncio.Event()

    async def fails() -> None:
        await stopping.wait()
        raise RuntimeError("a defect")

    run: Callable[[], Awaitable[object]] = fails
    schedule = Schedule(clock)
    schedule.add("stage", NEVER_S, run)
    schedule.start()
    await quiet()
    ending = asyncio.create_task(schedule.stop())
    await quiet()
    stopping.set()
    async with asyncio.timeout(LIMIT_S):
        await ending


# --- how late the loop is


def looks() -> tuple[float, float]:
    return counted("aggregator_event_loop_lag_seconds_count"), counted("aggregator_event_loop_lag_seconds_sum")


async def test_a_loop_that_comes_late_says_by_how_much(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    began, late_s = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: began() + late_s)
    schedule.start()
    count, total = looks()
    late_s = 1.0 + 3.0  # a call that was due after a second comes three too late
    await quiet()
    assert looks()[0] > count
    assert looks()[1] - total >= 3.0


async def test_the_look_at_the_loop_ends_with_the_schedule(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    schedule = Schedule(clock)
    schedule.start()
    await schedule.stop()
    began = loop.time
    monkeypatch.setattr(loop, "time", lambda: began() + 10.0)
    before = looks()
    await quiet()
    assert looks() == before
