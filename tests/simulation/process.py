"""One process's life in a simulated run: what the daemon builds, started, stopped, or killed between any two steps."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cryptography.fernet import Fernet
from sqlalchemy import Connection

from aggregator.domain.errors import StorageUnavailable
from aggregator.flow.base import House, Stage, Wakeups
from aggregator.flow.canceling import Canceling
from aggregator.flow.catalogue_sync import CatalogueSync
from aggregator.flow.counting import Counting
from aggregator.flow.delivery import Delivery
from aggregator.flow.dripping import Dripping
from aggregator.flow.health import Health
from aggregator.flow.intake import Intake
from aggregator.flow.placement import Placement
from aggregator.flow.polling import Polling
from aggregator.flow.reconcile import Reconcile
from aggregator.flow.refilling import Refilling
from aggregator.flow.remainders import Remainders
from aggregator.flow.replaying import Replaying
from aggregator.flow.routing import Routing
from aggregator.flow.sequencing import Sequencing
from aggregator.flow.sms_watch import SmsWatch
from aggregator.log import Redactor
from aggregator.providers.gateway import Gateway
from aggregator.schedule import Schedule
from aggregator.storage import catalogue, claims
from aggregator.storage.deliverables import Sealer
from aggregator.storage.tables import CLAIMED
from tests.simulation.store import SimulatedDatabase
from tests.simulation.wire import SimulatedOutbound
from tests.support.due import next_due

if TYPE_CHECKING:
    from tests.simulation.life import Life

T = TypeVar("T")

SEALING_KEY: Final = Fernet.generate_key().decode()
_CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class _NoTicker:
    """In place of APScheduler, which knows only real time: the run looks itself what is due."""

    running = False

    def add_job(self, *_: object, **__: object) -> None:
        """Nothing ticks."""

    def start(self) -> None:
        """Nothing ticks."""


class Process:
    """One process's life: what `daemon.start` builds, without doors. `kill` ends it as SIGKILL does."""

    def __init__(self, life: Life, number: int) -> None:
        self.number = number
        self.alive = True
        self.started = False
        self.ended = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        alive = lambda: self.alive  # noqa: E731
        settings, clock = life.settings, life.clock
        shelf, step = life.shelf, life.step
        self.database = _Noticing(
            SimulatedDatabase(shelf.database, life.weather, life.dice, step, alive), self._changed
        )
        self._writer = shelf.writer(self.database.inner.pause, step)
        outbound: Any = SimulatedOutbound(life.wire, step, alive)
        redactor = Redactor(settings.secrets())
        self.house = House(
            settings=settings,
            database=self.database,
            gateways={
                name: Gateway(name, provider, outbound, redactor, clock)
                for name, provider in settings.providers.items()
            },
            health=Health(self.database, clock, settings.providers),
            clock=clock,
            sealer=Sealer(SEALING_KEY),
            wakeups=Wakeups(),
        )
        self.schedule = Schedule(clock)
        self.schedule._ticker = _NoTicker()
        # Virtual time is never late, and whoever was killed would go on to look each second.
        self.schedule._look_again_at = lambda due: None  # type: ignore[method-assign]
        self.routing = Routing(self.house)
        self.intake = Intake(self.house)
        self.reconcile = Reconcile(self.house)
        self.sync = CatalogueSync(self.house, synced=self.routing.sync_ended)
        self.stages: tuple[Stage, ...] = (
            self.reconcile,
            self.routing,
            Placement(self.house),
            Polling(self.house),
            SmsWatch(self.house),
            Canceling(self.house),
            Dripping(self.house),
            Remainders(self.house),
            Refilling(self.house),
            Counting(self.house, outbound),
            self.sync,
            Sequencing(self.house),
            Delivery(self.house, outbound, jitter=life.dice.random),
            Replaying(self.house),
        )

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that dies with this run."""

        def create() -> asyncio.Task[T]:
            _CURRENT.set(self)
            return asyncio.get_running_loop().create_task(work)

        if not self.alive:
            work.close()
            raise asyncio.CancelledError
        return contextvars.copy_context().run(create)

    async def start(self) -> bool:
        """As the daemon starts; False when the database is not there, and the supervisor tries again."""
        try:
            await self.spawn(self._start())
        except (StorageUnavailable, asyncio.CancelledError):
            self.kill()
            return False
        return True

    async def _start(self) -> None:
        names, now = list(self.house.settings.providers), self.house.clock.now()
        await self.database.write(partial(claims.void_all, tables=CLAIMED))
        await self.database.write(partial(catalogue.ensure_providers, names=names, now=now))
        await self.house.health.load()
        await self.intake.refresh()
        await self.reconcile.run_once()
        for stage in self.stages:
            self.schedule.add(stage.name, 1000.0, stage.run_once)
        self.schedule.add("intake", 1000.0, self.intake.refresh)
        for name in self.schedule.ages():
            self.house.wakeups.on(name, partial(self.schedule.wake, name))
        self.schedule.start()
        self._looking = self.spawn(self._look())
        self.started = True

    async def _look(self) -> None:
        """Wake each stage when something is due for it, as its ticks would, without a tick for every second."""
        before: frozenset[tuple[str, datetime]] = frozenset()
        pause_s, again_at = 1.0, 0.0
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            try:
                due = await self.database.read(next_due)
            except StorageUnavailable:
                await asyncio.sleep(1.0)
                continue
            now = self.house.clock.now()
            ready = frozenset((stage, at) for stage, at in due if at <= now)
            # Some work stays due while it cannot be done: a provider is quiet, a lane is held.
            fresh, late = ready - before, loop.time() >= again_at
            for stage in sorted({stage for stage, _ in (ready if late else fresh)}):
                self.schedule.wake(stage)
            if fresh or late:
                pause_s = 1.0 if fresh else min(2 * pause_s, 30.0)
                again_at = loop.time() + pause_s
            wait_s = min(((at - now).total_seconds() for _, at in due if at > now), default=3600.0)
            if ready:
                wait_s = min(wait_s, again_at - loop.time())
            before = ready
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(wait_s, 0.05))
            await asyncio.sleep(0.5)

    def kill(self) -> None:
        """SIGKILL: nobody of it does anything any more, and what it sent is on its way."""
        if not self.alive:
            return
        self.alive = False
        self.ended.set()
        if self._writer is not None:
            self._writer.dead = True
        for task in list(self.tasks):
            task.cancel()

    async def gone(self) -> None:
        """Wait until the last task has noticed."""
        while self.tasks:
            await asyncio.wait(set(self.tasks))

    async def stop(self) -> None:
        """As the daemon stops by SIGTERM."""
        self.schedule._stopping = True
        for entry in self.schedule._entries.values():
            entry.woken.set()
        grace_s = max(gateway.timeout_s for gateway in self.house.gateways.values()) + 5
        await self.spawn(self._stop(grace_s))
        self.kill()

    async def _stop(self, grace_s: float) -> None:
        await asyncio.gather(*self.schedule._loops, return_exceptions=True)
        await asyncio.gather(*(stage.stop(grace_s) for stage in self.stages))


class _Noticing:
    """A database that says when something was written."""

    def __init__(self, inner: SimulatedDatabase, changed: asyncio.Event) -> None:
        self.inner = inner
        self.kind = inner.kind
        self._changed = changed

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self.inner.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self.inner.write(work)
        finally:
            self._changed.set()

    async def write_together(self, work: Callable[[Connection, Sequence[Any]], Sequence[T]], item: Any) -> T:
        return (await self.write(lambda c: work(c, [item])))[0]

    async def close(self) -> None:
        await self.inner.close()


def remembering(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
    """A task factory: each run knows its tasks, so that a crash ends all of them."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
    process = _CURRENT.get()
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
        if not process.alive:
            task.cancel()
    return task
