"""A day of the daemon in virtual time: one process from beginning to end, even traffic, and two long absences.

Nothing is killed and nothing is damaged: what is looked for is what only time shows. Each hour everything that could
grow is measured; at the end `verdict` compares late hours with early ones, and what should have happened by the clock
is looked up.
"""

from __future__ import annotations

import asyncio
import gc
import random
import traceback
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Connection, func, select
from structlog.processors import format_exc_info
from structlog.testing import capture_logs

from aggregator.domain.wire import HttpRequest, Outcome
from aggregator.storage import invariants
from aggregator.storage.tables import deliveries, orders
from aggregator.web import feed
from tests.simulation.day import measures, verdict
from tests.simulation.day.callers import HOUR_S, Callers
from tests.simulation.day.door import Door
from tests.simulation.day.scenery import AWAY, BALANCE_S, CATALOGUE_S, DRIP, SLOW, STATUS_S, quiet_config, quiet_world
from tests.simulation.day.walk import Walk, is_within
from tests.simulation.outcome import unexpected
from tests.simulation.planted.bug import swap
from tests.simulation.process import Process, remembering
from tests.simulation.store import SqliteShelf, Weather
from tests.simulation.virtual import Stuck, VirtualClock, VirtualLoop, run_virtual
from tests.simulation.wire import HOST, Endpoint, Wire
from tests.support.due import unfinished
from tests.support.house import load_settings

if TYPE_CHECKING:
    from tests.simulation.life import Life

START: Final = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
ENDPOINT_AWAY: Final = (0.42, 0.52)
PROVIDER_AWAY: Final = (0.56, 0.64)
"""Shares of the day in which somebody is away."""
MOST_STEPS_AN_HOUR: Final = 15_000
"""An hour with more of them spins."""
SETTLE_S: Final = 2 * HOUR_S
SETTLE_EVERY_S: Final = 300.0
BACK_WITHIN_S: Final = 1800.0
"""What an endpoint has missed is there so long after its return."""
_STANDING: Final = (dict, list, set, deque, OrderedDict, defaultdict, Counter)
CURSORS_SWEPT: Final = 201
GROWN: Final = 40
"""Of a collection that was there early in the day: so many more things at its end are no accident."""
FEED_KEPT: Final = 8
"""Of the newest events: what is kept in memory has a bound, which a quiet day would take until the evening to reach, or
which is first filled when somebody listens; fewer than what counts as growth."""


class Day:
    """One day; `violations` are what it showed."""

    def __init__(self, seed: int, shelf: SqliteShelf, folder: Path, hours: int = 24, *, absences: bool = True) -> None:
        self.seed = seed
        self.hours = hours
        self.violations: list[str] = []
        self.levels: list[verdict.Hour] = []
        self.paces: list[verdict.Hour] = []
        self.ran: Counter[str] = Counter()
        """What happened in the hour that runs."""
        self.loop = VirtualLoop()
        self.shelf = shelf
        self.clock = VirtualClock(self.loop, START)
        self.weather = Weather()
        self.dice = random.Random(f"latencies:{seed}")
        self.settings = load_settings(folder, quiet_config())
        self.world = quiet_world(seed, lambda: START.timestamp() + self.loop.time(), hours)
        self.endpoint = Endpoint(random.Random(f"endpoint:{seed}"))
        self.wire = _Heard(self)
        self.callers = Callers(self, random.Random(f"callers:{seed}"))
        self.logged: list[Any] = []
        self._absences = absences
        self._standing: dict[int, tuple[str, int, int]] | None = None
        """Collections by id: their kind, and how much they held early and last."""

    def step(self, what: str) -> None:
        """Something happened between two parties."""
        self.ran["steps"] += 1
        if self.ran["steps"] > MOST_STEPS_AN_HOUR:
            often = ", ".join(f"{name} {count}" for name, count in self.ran.most_common(4))
            self.loop.give_up(f"hot: hour {len(self.levels)} does not end: {often}")

    def run(self) -> list[str]:
        """The whole day; what it showed that should not be."""
        self.shelf.fresh()
        collecting = gc.isenabled()
        gc.disable()  # each hour ends with a collection, which makes what it counts exact
        try:
            with ExitStack() as stack:
                swap(stack, feed, "KEPT", FEED_KEPT)
                self.logged = stack.enter_context(capture_logs(processors=[format_exc_info]))
                run_virtual(self.loop, self._main())
        except Stuck as exc:
            self.violations.append(f"stuck: {exc}")
        except Exception as exc:
            self.violations.append("failed:\n" + "".join(traceback.format_exception(exc)))
        finally:
            if collecting:
                gc.enable()
        self.violations += unexpected(self.logged)
        return self.violations

    async def _main(self) -> None:
        self.loop.set_task_factory(remembering)
        self.process = Process(cast("Life", self), 1)
        for stage in self.process.stages:
            vars(stage)["run_once"] = self._counted(stage.name, stage.run_once)
        assert await self.process.start()
        self.door = Door(self.process)
        async with asyncio.TaskGroup() as everybody:
            everybody.create_task(self.callers.come(self.hours))
            everybody.create_task(self._look_each_hour())
            if self._absences:
                everybody.create_task(self._absences_of_the_day())
        await self._settle()
        self.violations += self._by_the_hours()
        self.violations += self._by_the_clock()
        self.violations += await self.shelf.look(self._by_the_rows)
        await self.process.stop()
        await self.process.gone()

    def _counted(self, name: str, work: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[int]]:
        async def counting() -> int:
            self.ran[f"runs {name}"] += 1
            return await work()

        return counting

    # --- what is away ---

    async def _absences_of_the_day(self) -> None:
        day_s = self.hours * HOUR_S
        await self._when(ENDPOINT_AWAY[0] * day_s)
        self.endpoint.failing = 1.0
        await self._when(ENDPOINT_AWAY[1] * day_s)
        self.endpoint.failing = 0.0
        await self._look_for_what_was_missed()
        await self._when(PROVIDER_AWAY[0] * day_s)
        self.wire.unreachable[AWAY] = 1.0
        await self._when(PROVIDER_AWAY[1] * day_s)
        del self.wire.unreachable[AWAY]

    async def _when(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, moment_s - self.loop.time()))

    async def _look_for_what_was_missed(self) -> None:
        back = self.clock.now()
        await asyncio.sleep(BACK_WITHIN_S)
        missed = deliveries.c.created_at < back
        where = missed & (deliveries.c.state != "delivered")
        left = await self.shelf.look(lambda c: c.execute(select(func.count()).where(where)).scalar_one())
        if left:
            self.violations.append(f"{left} deliveries still wait {BACK_WITHIN_S:g} s after the endpoint was back")

    # --- what is measured ---

    async def _look_each_hour(self) -> None:
        for hour in range(1, self.hours + 1):
            await self._when(hour * HOUR_S)
            self.paces.append(dict(self.ran))
            self.ran.clear()
            now = self.clock.now()
            level = await self.shelf.look(partial(measures.waiting_rows, now=now))
            roots = {"stages": self.process.stages, "house": self.process.house, "app": dict(self.door.app.items())}
            level |= measures.held({**roots, "schedule": self.process.schedule, "intake": self.process.intake})
            gc.collect()
            things = gc.get_objects()
            level |= measures.objects(things) | measures.tasks() | measures.files() | measures.series()
            self.levels.append(level)
            if hour >= round(verdict.EARLY[1] * self.hours):
                self._look_at_what_stands(things)
            del things

    def _ours(self) -> set[int]:
        """What belongs to the world around the daemon, and may grow with its history."""
        walk = Walk({"day": self}, own=lambda module: is_within(module, ("tests", "aggregator.sandbox")))
        return walk.seen | {id(self.logged)}

    def _look_at_what_stands(self, things: Iterable[Any]) -> None:
        """Sizes of all collections of this process, whoever holds them. Only those stay in view that never shrink, and
        by their ids alone: to hold one would keep alive what it holds."""
        known = self._standing
        sizes: dict[int, tuple[str, int]] = {}
        for thing in things:
            if type(thing) in _STANDING and (known is None or id(thing) in known):
                sizes[id(thing)] = (type(thing).__name__, len(thing))
        if self._standing is None:
            self._standing = {key: (kind, size, size) for key, (kind, size) in sizes.items()}
            return
        before = self._standing
        self._standing = {
            key: (kind, first, sizes[key][1])
            for key, (kind, first, last) in before.items()
            if key in sizes and sizes[key][0] == kind and sizes[key][1] >= last
        }

    def _grown_collections(self) -> list[str]:
        """Any collection that was there early in the day and has grown since."""
        standing, ours = self._standing or {}, self._ours()
        grown = {
            key: f"grew: a {kind} from {first} to {last} things"
            for key, (kind, first, last) in standing.items()
            if last > 1.5 * first + GROWN and key not in ours
        }
        for thing in gc.get_objects() if grown else ():
            if id(thing) in grown and type(thing) in _STANDING:
                if _will_be_swept(thing):
                    del grown[id(thing)]
                    continue
                grown[id(thing)] += f", held by {_holders(thing)}, the last of them {_last(thing):.200}"
        return list(grown.values())

    def _by_the_hours(self) -> list[str]:
        grown = [f"grew: {stretch}" for stretch in verdict.levels(self.levels) if stretch.grew]
        hot = [f"hot: {stretch}" for stretch in verdict.paces(self.paces) if stretch.grew]
        return grown + hot + self._grown_collections()

    # --- what should have happened ---

    async def _settle(self) -> None:
        for _ in range(round(SETTLE_S / SETTLE_EVERY_S)):
            if not await self.shelf.look(unfinished):
                return
            await asyncio.sleep(SETTLE_EVERY_S)
        left = await self.shelf.look(unfinished)
        if left:
            self.violations.append(f"never came to rest: {', '.join(left)}")

    def _by_the_clock(self) -> list[str]:
        """Catalogues and balances come as often as the config says, all day, and no order is asked for more often."""
        found = []
        for provider in sorted(self.world.accounts):
            away_s = 0.0 if provider != AWAY or not self._absences else PROVIDER_AWAY[1] * self.hours * HOUR_S
            for action, period_s in (("services", CATALOGUE_S), ("balance", BALANCE_S)):
                at = [moment for moment in self.wire.calls[provider, action] if moment >= away_s]
                gap_s = max((later - sooner for sooner, later in pairwise(at)), default=float("inf"))
                if gap_s > 1.1 * period_s + 5:
                    found.append(f"late: {provider} {action} once came {gap_s:.0f} s apart, every {period_s:g} s")
        found += [
            f"hot: order {order} at {provider} was asked for {len(at)} times in {at[-1] - at[0]:.0f} s"
            for (provider, order), at in self.wire.polls.items()
            if len(at) > 6 + 2 * (at[-1] - at[0]) / STATUS_S[0]  # a batch that has room takes who is due next
        ]
        return found

    def _by_the_rows(self, connection: Connection) -> list[str]:
        """Every order that was answered is there; each run came at its moment, the last as exactly as the first."""
        found = list(invariants.check(connection))
        known = {row.id: row for row in connection.execute(select(orders))}
        found += [f"lost: order {order}" for order in self.callers.placed if order not in known]
        interval = timedelta(minutes=int(DRIP["interval"]))
        for row in known.values():
            if row.role == "run":
                late = row.created_at - known[row.parent].created_at - (row.ordinal - 1) * interval
                if not timedelta(0) <= late <= timedelta(seconds=5):
                    found.append(f"drifted: run {row.ordinal} of {row.parent} came {late.total_seconds():.1f} s late")
        found += self._slow_order(next((row for row in known.values() if row.service == SLOW[0]), None))
        parked = connection.execute(select(func.count()).where(deliveries.c.state != "delivered")).scalar_one()
        if parked:
            found.append(f"{parked} deliveries were never made")
        return found

    def _slow_order(self, row: Any) -> list[str]:
        """It was asked for all the time that it went on, never later than the config allows."""
        if row is None or row.finished_at is None:
            return ["the slow order is not over"]
        over = (row.finished_at - START).total_seconds()
        at = [moment for moment in self.wire.polls[row.provider, row.provider_order] if moment <= over]
        gap_s = max(later - sooner for sooner, later in pairwise(at))
        if gap_s > STATUS_S[1] + 30:
            return [f"late: the slow order was not asked for during {gap_s:.0f} s"]
        return [] if over > 0.5 * self.hours * HOUR_S else [f"the slow order was over after {over:.0f} s"]


class _Heard(Wire):
    """The network, which remembers when each provider was asked for what."""

    def __init__(self, day: Day) -> None:
        super().__init__(day.world, day.endpoint, day.dice, day.step, lambda: None)
        self.calls: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.polls: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        """When each order was asked for."""
        self._day = day

    def _note(self, request: HttpRequest) -> None:
        name = request.url.removeprefix(HOST).strip("/").split("/")[0]
        form, now = dict(request.form), self._day.loop.time()
        self.calls[name, request.action].append(now)
        self._day.ran[f"calls {name} {request.action}"] += 1
        if request.action == "status":
            for order in (form.get("orders") or form.get("order") or "").split(","):
                self.polls[name, order].append(now)

    def refused(self, request: HttpRequest) -> bool:
        self._note(request)
        return super().refused(request)

    def send(self, request: HttpRequest) -> asyncio.Future[Outcome]:
        return super().send(request)

    def webhook(self, body: bytes, headers: Any) -> asyncio.Future[int]:
        self._day.ran["webhooks"] += 1
        return super().webhook(body, headers)


def _will_be_swept(thing: Any) -> bool:
    """Whether it is a connection's list of its cursors: sqlite3 keeps weak references, and drops the dead ones at every
    200th cursor (CPython 3.11, `Modules/_sqlite/connection.c`)."""
    alive = [one for one in thing if not isinstance(one, weakref.ref) or one() is not None]
    return isinstance(thing, list) and len(thing) - len(alive) <= CURSORS_SWEPT and len(alive) <= GROWN


def _holders(thing: object) -> str:
    """Who refers to a collection, as far as that can be named."""
    named = []
    for holder in gc.get_referrers(thing):
        if type(holder).__name__ not in ("frame", "cell"):
            attributes = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
            name = next((name for name, value in attributes.items() if value is thing), "something")
            named.append(f"{name} of a {type(holder).__name__}")
    return ", ".join(named[:3]) or "nobody who can be named"


def _last(thing: Any) -> str:
    try:
        return repr(list(thing)[-1])
    except Exception as exc:
        return repr(exc)
