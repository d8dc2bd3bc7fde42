"""Whose turn it is: purchases first, never too many at once, never too many a second; on a clock that stands still."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from aggregator.providers.limits import LONG_WAIT_S, Limiter, Priority

PURCHASE, CODE, STATUS, CATALOGUE = Priority


@dataclass
class Time:
    """The loop's clock; it moves when the test says so."""

    now: float = 1000.0

    async def passes(self, seconds: float) -> None:
        self.now += seconds
        await settled()


async def settled() -> None:
    """Until everything that can go on without time passing has gone on."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    frozen = Time()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: frozen.now)
    return frozen


@dataclass
class Crowd:
    """Callers of one limiter; each holds its turn until it is told to leave."""

    limiter: Limiter
    clock: Callable[[], float]
    began: list[tuple[float, str]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    most: int = 0
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    doors: dict[str, asyncio.Event] = field(default_factory=dict)

    def come(self, name: str, priority: Priority, *, stay: bool = True) -> None:
        self.doors[name] = asyncio.Event()
        if not stay:
            self.doors[name].set()
        self.tasks[name] = asyncio.create_task(self._call(name, priority))

    async def _call(self, name: str, priority: Priority) -> None:
        async with self.limiter.turn(priority):
            self.began.append((self.clock(), name))
            self.running.add(name)
            self.most = max(self.most, len(self.running))
            try:
                await self.doors[name].wait()
            finally:
                self.running.discard(name)

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.began]

    async def leave(self, *names: str) -> None:
        for name in names:
            self.doors[name].set()
        await settled()

    async def empty(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


def crowd(time: Time, concurrency: int, per_second: float = 0) -> Crowd:
    return Crowd(Limiter(concurrency, per_second), lambda: time.now)


async def can_take(limiter: Limiter, places: int) -> bool:
    """Whether exactly so many purchases find a place now."""
    probe = Crowd(limiter, lambda: 0.0)
    for index in range(places + 1):
        probe.come(f"probe {index}", PURCHASE)
    await settled()
    found = len(probe.running)
    await probe.empty()
    return found == places


# --- order -----------------------------------------------------------------------------------------------------------


async def test_purchases_go_before_codes_before_statuses_before_the_catalogue(time: Time) -> None:
    all_ = crowd(time, 1)
    all_.come("first", STATUS)
    await settled()
    for name, priority in (("catalogue", CATALOGUE), ("status", STATUS), ("code", CODE), ("purchase", PURCHASE)):
        all_.come(name, priority, stay=False)
    await settled()
    assert all_.names == ["first"]
    await all_.leave("first")
    assert all_.names == ["first", "purchase", "code", "status", "catalogue"]


async def test_equals_go_in_the_order_in_which_they_came(time: Time) -> None:
    all_ = crowd(time, 1)
    names = [f"status {index}" for index in range(20)]
    for name in names:
        all_.come(name, STATUS, stay=False)
    await asyncio.gather(*all_.tasks.values())
    assert all_.names == names


async def test_a_hundred_thousand_waiting_statuses_do_not_hold_up_a_purchase(time: Time) -> None:
    limiter = Limiter(1, 0)
    admitted: list[str] = []

    async def call(name: str, priority: Priority) -> None:
        async with limiter.turn(priority):
            admitted.append(name)

    async with limiter.turn(STATUS):
        statuses = [asyncio.create_task(call("status", STATUS)) for _ in range(100_000)]
        await asyncio.sleep(0)
        purchase = asyncio.create_task(call("purchase", PURCHASE))
        await asyncio.sleep(0)
        assert limiter.waiting == 100_001
    await purchase
    assert admitted[0] == "purchase"
    await asyncio.gather(*statuses)
    assert len(admitted) == 100_001


# --- who has waited long ---------------------------------------------------------------------------------------------


async def test_the_catalogue_does_not_starve_behind_statuses_that_are_always_due(time: Time) -> None:
    all_ = crowd(time, 4, per_second=5)
    for index in range(600):
        all_.come(f"status {index}", STATUS, stay=False)
    for index in range(3):
        all_.come(f"catalogue {index}", CATALOGUE, stay=False)
    await settled()
    for _ in range(100):
        await time.passes(0.1)
    when = [moment - 1000 for moment, name in all_.began if name.startswith("catalogue")]
    assert len(when) == 3
    assert LONG_WAIT_S <= when[0] < LONG_WAIT_S + 1
    assert all(later - earlier >= 1.5 for earlier, later in itertools.pairwise(when)), "one of ten turns, five a second"
    await all_.empty()


async def test_who_waits_long_is_never_ahead_of_a_purchase_and_gets_one_turn_of_ten(time: Time) -> None:
    all_ = crowd(time, 1)
    all_.come("first", STATUS)
    await settled()
    for name, priority in (("catalogue", CATALOGUE), ("status", STATUS), ("code", CODE)):
        for index in range(12):
            all_.come(f"{name} {index}", priority, stay=False)
    await settled()
    await time.passes(3600)
    for index in range(30):
        all_.come(f"purchase {index}", PURCHASE, stay=False)
    await settled()
    await all_.leave("first")
    await asyncio.gather(*all_.tasks.values())
    assert all(name.startswith("purchase") for name in all_.names[1:31])
    shares = [name for name in all_.names[31:43] if not name.startswith("code")]
    assert len(shares) == 1, "of the turns that others than purchases get"
    assert len(set(all_.names)) == 67


async def test_who_has_not_waited_long_does_not_go_before_the_more_urgent(time: Time) -> None:
    all_ = crowd(time, 1)
    all_.come("first", STATUS)
    await settled()
    all_.come("catalogue", CATALOGUE, stay=False)
    for index in range(40):
        all_.come(f"status {index}", STATUS, stay=False)
    await time.passes(LONG_WAIT_S / 2)
    await all_.leave("first")
    await asyncio.gather(*all_.tasks.values())
    assert all_.names[-1] == "catalogue"


# --- places ----------------------------------------------------------------------------------------------------------


async def test_never_more_at_once_than_allowed(time: Time) -> None:
    all_ = crowd(time, 4)
    for index in range(40):
        all_.come(str(index), random.choice(list(Priority)))
    await settled()
    while len(all_.began) < 40:
        await all_.leave(random.choice(sorted(all_.running)))
    await all_.leave(*all_.running)
    assert all_.most == 4
    assert await can_take(all_.limiter, 4)


async def test_one_place_is_kept_for_purchases(time: Time) -> None:
    all_ = crowd(time, 4)
    for index in range(10):
        all_.come(f"status {index}", STATUS)
    await settled()
    assert len(all_.running) == 3
    all_.come("purchase", PURCHASE)
    await settled()
    assert "purchase" in all_.running
    await all_.leave("purchase")
    assert len(all_.running) == 3, "the kept place is not given away afterwards either"
    await all_.empty()


async def test_purchases_may_take_every_place(time: Time) -> None:
    all_ = crowd(time, 3)
    for index in range(5):
        all_.come(f"purchase {index}", PURCHASE)
    await settled()
    assert len(all_.running) == 3
    await all_.empty()


async def test_with_a_single_place_everybody_shares_it(time: Time) -> None:
    all_ = crowd(time, 1)
    all_.come("status", STATUS)
    await settled()
    assert all_.running == {"status"}
    await all_.empty()


async def test_a_call_that_fails_gives_its_place_back(time: Time) -> None:
    limiter = Limiter(2, 0)
    for priority in (STATUS, PURCHASE, STATUS):
        with pytest.raises(ZeroDivisionError):
            async with limiter.turn(priority):
                raise ZeroDivisionError
    assert await can_take(limiter, 2)


# --- rate ------------------------------------------------------------------------------------------------------------


async def test_one_seconds_worth_may_go_at_once_and_then_no_second_sees_more(time: Time) -> None:
    all_ = crowd(time, 1000, per_second=5)
    for index in range(23):
        all_.come(str(index), STATUS, stay=False)
    await settled()
    assert len(all_.began) == 5
    for _ in range(60):
        await time.passes(0.1)
    starts = [when for when, _ in all_.began]
    assert len(starts) == 23
    assert all(later - earlier >= 1 - 1e-6 for earlier, later in zip(starts, starts[5:], strict=False))
    assert starts[-1] - starts[0] == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize(
    ("per_second", "at_once", "in_ten_seconds"), [(0.5, 1, 6), (1.0, 1, 11), (2.5, 3, 27), (100.0, 100, 1100)]
)
async def test_fractions_of_a_rate_are_kept_over_time(
    time: Time, per_second: float, at_once: int, in_ten_seconds: int
) -> None:
    all_ = crowd(time, 10_000, per_second)
    for index in range(in_ten_seconds + 500):
        all_.come(str(index), CATALOGUE, stay=False)
    await settled()
    assert len(all_.began) == at_once
    for _ in range(100):
        await time.passes(0.1)
    await time.passes(1e-6)
    assert len(all_.began) == in_ten_seconds
    await all_.empty()


async def test_a_rate_of_zero_is_no_limit(time: Time) -> None:
    all_ = crowd(time, 10_000, per_second=0)
    for index in range(500):
        all_.come(str(index), STATUS)
    await settled()
    assert len(all_.running) == 500
    await all_.empty()


async def test_an_idle_account_does_not_save_up_more_than_one_seconds_worth(time: Time) -> None:
    all_ = crowd(time, 100, per_second=5)
    await time.passes(3600)
    for index in range(20):
        all_.come(str(index), STATUS, stay=False)
    await settled()
    assert len(all_.began) == 5
    await all_.empty()


async def test_a_purchase_takes_the_next_moment_although_others_wait_for_it(time: Time) -> None:
    all_ = crowd(time, 100, per_second=1)
    for index in range(5):
        all_.come(f"status {index}", STATUS, stay=False)
    await settled()
    all_.come("purchase", PURCHASE, stay=False)
    await settled()
    assert all_.names == ["status 0"]
    await time.passes(1)
    assert all_.names == ["status 0", "purchase"]
    await all_.empty()


async def test_calls_that_take_long_do_not_count_against_the_rate_when_they_end(time: Time) -> None:
    all_ = crowd(time, 4, per_second=2)
    all_.come("slow", PURCHASE)
    await settled()
    await time.passes(30)
    await all_.leave("slow")
    for index in range(2):
        all_.come(f"status {index}", STATUS)
    await settled()
    assert len(all_.running) == 2
    await all_.empty()


# --- pauses ----------------------------------------------------------------------------------------------------------


async def test_a_provider_that_asked_for_quiet_gets_it(time: Time) -> None:
    all_ = crowd(time, 4)
    all_.limiter.pause(17)
    all_.come("purchase", PURCHASE)
    await time.passes(16.9)
    assert all_.names == []
    assert all_.limiter.quiet_s == pytest.approx(0.1)
    await time.passes(0.2)
    assert all_.names == ["purchase"]
    assert all_.limiter.quiet_s == 0
    await all_.empty()


async def test_a_shorter_pause_does_not_shorten_a_longer_one(time: Time) -> None:
    all_ = crowd(time, 4)
    all_.limiter.pause(60)
    all_.limiter.pause(1)
    all_.come("status", STATUS)
    await time.passes(59)
    assert all_.names == []
    await time.passes(2)
    assert all_.names == ["status"]
    await all_.empty()


async def test_a_pause_that_is_prolonged_while_callers_wait_is_kept(time: Time) -> None:
    all_ = crowd(time, 4)
    all_.limiter.pause(5)
    all_.come("status", STATUS)
    await time.passes(4)
    all_.limiter.pause(60)
    await time.passes(30)
    assert all_.names == []
    await time.passes(31)
    assert all_.names == ["status"]
    await all_.empty()


def test_who_was_never_paused_is_not_quiet_even_without_a_loop() -> None:
    assert Limiter(1, 1).quiet_s == 0


# --- cancellation ----------------------------------------------------------------------------------------------------


async def test_cancelled_waiters_leak_no_place(time: Time) -> None:
    all_ = crowd(time, 2)
    all_.come("a", PURCHASE)
    all_.come("b", PURCHASE)
    await settled()
    for index in range(10):
        all_.come(f"waiting {index}", random.choice(list(Priority)))
    await settled()
    for index in range(10):
        all_.tasks[f"waiting {index}"].cancel()
    await settled()
    assert all_.limiter.waiting == 0
    await all_.leave("a", "b")
    assert all_.names == ["a", "b"]
    assert await can_take(all_.limiter, 2)


async def test_who_is_cancelled_in_the_moment_of_being_admitted_gives_the_place_to_the_next(time: Time) -> None:
    all_ = crowd(time, 1)
    async with all_.limiter.turn(STATUS):
        all_.come("unlucky", STATUS)
        all_.come("next", STATUS)
        await settled()
    # Its turn was granted as the block ended; the cancellation arrives before it wakes up.
    all_.tasks["unlucky"].cancel()
    await settled()
    assert all_.names == ["next"]
    await all_.leave("next")
    assert await can_take(all_.limiter, 1)


async def test_cancelling_who_holds_a_place_frees_it(time: Time) -> None:
    all_ = crowd(time, 2)
    for name in ("a", "b", "c"):
        all_.come(name, PURCHASE)
    await settled()
    all_.tasks["a"].cancel()
    await settled()
    assert all_.running == {"b", "c"}
    await all_.empty()


async def test_the_head_of_the_queue_may_leave_without_holding_up_the_rest(time: Time) -> None:
    all_ = crowd(time, 4, per_second=1)
    all_.come("first", STATUS, stay=False)
    await settled()
    all_.come("head", PURCHASE)
    all_.come("behind", STATUS)
    await settled()
    all_.tasks["head"].cancel()
    await time.passes(1)
    assert all_.names == ["first", "behind"]
    await all_.empty()


async def test_no_storm_of_comings_and_goings_breaks_the_limits(time: Time) -> None:
    all_ = crowd(time, 3, per_second=7)
    chance = random.Random(random.random())
    for index in range(400):
        all_.come(str(index), chance.choice(list(Priority)), stay=chance.random() < 0.7)
        if chance.random() < 0.3:
            all_.tasks[str(chance.randrange(index + 1))].cancel()
        if all_.running and chance.random() < 0.6:
            all_.doors[chance.choice(sorted(all_.running))].set()
        if chance.random() < 0.02:
            all_.limiter.pause(chance.random())
        await time.passes(chance.random() / 4)
    for door in all_.doors.values():
        door.set()
    while not all(task.done() for task in all_.tasks.values()):
        await time.passes(1)
    starts = [when for when, _ in all_.began]
    assert all_.most <= 3
    assert all(later - earlier >= 1 - 1e-6 for earlier, later in zip(starts, starts[7:], strict=False))
    assert all_.limiter.waiting == 0
    await time.passes(2)
    assert await can_take(all_.limiter, 3)


# --- other limits ----------------------------------------------------------------------------------------------------


async def test_more_places_are_taken_at_once_and_fewer_when_enough_have_left(time: Time) -> None:
    all_ = crowd(time, 2)
    for index in range(9):
        all_.come(f"purchase {index}", PURCHASE)
    await settled()
    assert len(all_.running) == 2
    all_.limiter.change(4, 0)
    await settled()
    assert len(all_.running) == 4
    all_.limiter.change(1, 0)
    await all_.leave(*sorted(all_.running)[:3])
    assert len(all_.running) == 1
    await all_.leave(*all_.running)
    assert len(all_.running) == 1
    await all_.empty()


async def test_what_has_begun_counts_under_another_rate_and_a_pause_goes_on(time: Time) -> None:
    all_ = crowd(time, 100, per_second=4)
    for index in range(20):
        all_.come(str(index), PURCHASE)
    await settled()
    assert len(all_.began) == 4
    all_.limiter.change(100, 2)
    await settled()
    assert len(all_.began) == 4
    await time.passes(1.0)
    assert len(all_.began) == 6, "two a second from now on"
    all_.limiter.pause(10)
    all_.limiter.change(100, 50)
    await time.passes(9.9)
    assert len(all_.began) == 6
    assert all_.limiter.quiet_s > 0
    await time.passes(0.2)
    assert len(all_.began) == 20
    await all_.empty()
