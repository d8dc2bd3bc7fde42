"""Builds the house, opens its doors, and closes them in the right order. No rule of the business is here.

Start: lock, schema, crash recovery, stages, doors, ready. Stop: doors, ticks, polls at once, purchases when they have
ended or their time is over, database last.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web

from aggregator import __version__, watchdog
from aggregator.config import Address, ConfigError, Settings
from aggregator.domain.clock import Clock, SteadyClock
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
from aggregator.flow.retention import Retention
from aggregator.flow.routing import Routing
from aggregator.flow.sequencing import Sequencing
from aggregator.flow.sms_watch import SmsWatch
from aggregator.log import Redactor, get_logger
from aggregator.notify import Notifier
from aggregator.outbound import Outbound
from aggregator.providers.gateway import build_gateways
from aggregator.reloading import Reloading
from aggregator.schedule import Schedule
from aggregator.storage import catalogue, claims, endpoints, sealing
from aggregator.storage.database import Database, SqliteDatabase, open_database
from aggregator.storage.deliverables import Sealer, SealingError, load_or_create_key
from aggregator.storage.lock import AlreadyRunning, DaemonLock, acquire
from aggregator.storage.migrate import Told, migrate
from aggregator.storage.ownership import NotOurDatabase, check_ours
from aggregator.storage.tables import CLAIMED, metadata
from aggregator.web.activation import check_doors, describe, passed_sockets
from aggregator.web.connections import limits_of
from aggregator.web.server import WebServices, create_app, let_in, start_sites

log = get_logger()

STOP_MARGIN_S: Final = 5.0
PACES_S: Final = {"sequencing": 0.025, "delivery": 0.02}
"""Stages that cost the same for one row and for many: hundreds of events a second share a few dozen rounds."""
LOCK_CHECK_S: Final = 1.0
EXTEND_S: Final = 90
"""How much longer systemd is asked to wait, again and again, while a database is brought to another schema."""
CLOCK_CHECK_S: Final = 1.0


@dataclass(slots=True)
class Daemon:
    """A running house. Build it with `start`, end it with `stop`."""

    house: House
    stages: tuple[Stage, ...]
    schedule: Schedule
    outbound: Outbound
    lock: _LockWatch
    runner: web.AppRunner
    draining: asyncio.Event
    failed: asyncio.Event
    reloading: Reloading

    @property
    def addresses(self) -> list[str]:
        """Where the doors are, as bound: `127.0.0.1:8080`, `unix:/path`."""
        return [describe(address) for address in self.runner.addresses]

    async def stop(self) -> None:
        """contract.md §6: no new work, polls cut at once, purchases in flight get their timeout."""
        self.draining.set()
        self.house.wakeups.wake("feed")  # who waits for events hears that there is nothing to wait for
        for site in list(self.runner.sites):
            await site.stop()
        await self.schedule.stop()
        grace_s = max((g.timeout_s for g in self.house.gateways.values()), default=0.0) + STOP_MARGIN_S
        # Requests that are being answered end first: an order that was taken must still be answered.
        await self.runner.cleanup()
        await asyncio.gather(*(stage.stop(grace_s) for stage in self.stages))
        await self.outbound.close()
        with contextlib.suppress(StorageUnavailable):
            await self.house.database.close()
        await self.lock.release()


def _log_step(reached: str, seconds: float) -> None:
    log.info("schema_step", reached=reached, seconds=round(seconds, 1))


async def open_storage(settings: Settings, told: Told = _log_step) -> tuple[Database, DaemonLock]:
    """The database, locked for this daemon and brought to the newest schema; every earlier claim is void. `told` hears
    of each step to that schema.

    AlreadyRunning, NewerSchema, NotOurDatabase and StorageUnavailable say why it cannot be had.
    """
    try:
        return await _open_storage(settings, told)
    except NotOurDatabase as exc:
        raise NotOurDatabase(f"{settings.database} {exc}") from exc
    except StorageUnavailable as exc:
        raise StorageUnavailable(f"{settings.database}: {exc}") from exc


async def _open_storage(settings: Settings, told: Told) -> tuple[Database, DaemonLock]:
    if settings.database.path is not None:
        _make_folder(settings.database.path.parent)
    database = open_database(settings.database.reveal())
    try:
        # Before the lock, whose file would be made beside somebody else's.
        await check_ours(database)
        lock = await acquire(database)
    except BaseException:
        await database.close()
        raise
    try:
        async with _starting_for_long(Notifier()):
            before, now, backup = await migrate(database, told)
        if before != now:
            log.info("schema_migrated", before=before, now=now, backup=str(backup) if backup else None)
        voided = await database.write(partial(claims.void_all, tables=CLAIMED))
        if voided:
            log.info("claims_voided", rows=voided)
    except BaseException:
        await database.close()
        await lock.release()
        raise
    return database, lock


@contextlib.asynccontextmanager
async def _starting_for_long(notifier: Notifier) -> AsyncIterator[None]:
    """Inside, systemd waits on: a million orders are not brought to another schema in its usual time for a start."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(EXTEND_S / 3)
            notifier.send(f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1_000_000}")

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageUnavailable(f"its folder {folder} cannot be made: {exc.strerror}") from exc


def open_sealer(settings: Settings, redactor: Redactor) -> Sealer:
    """The sealer of delivered accounts; its key file is made when there is none. SealingError: it is no key."""
    key = settings.sealing_key
    try:
        text = key.value.reveal() if key.value is not None else load_or_create_key(key.file) if key.file else ""
    except UnicodeDecodeError as exc:
        raise SealingError(
            f"{key.file} is not a sealing key; make one with: aggregator keys generate --sealing"
        ) from exc
    for line in text.split():
        redactor.add(line)
    try:
        return Sealer(text)
    except SealingError as exc:
        raise SealingError(f"{key.file}: {exc}" if key.file else str(exc)) from exc


async def start(
    settings: Settings,
    redactor: Redactor,
    *,
    clock: Clock | None = None,
    sockets: Sequence[socket.socket] = (),
    reread: Callable[[], Settings] | None = None,
) -> Daemon:
    """Build everything and open the doors; when it returns the daemon is at work. `sockets` were passed in, and win
    over those of the config; BadSocket when they may not be doors. `reread` reads the config once more."""
    check_doors(sockets, keys=not settings.local_admin)
    clock = clock or SteadyClock()
    database, lock = await open_storage(settings)
    outbound = Outbound(user_agent=f"aggregator/{__version__}", allow=settings.callbacks.allow)
    try:
        listen = sockets or settings.listen
        return await _build(settings, redactor, clock, database, lock, outbound, listen, reread or (lambda: settings))
    except BaseException:
        await outbound.close()
        await database.close()
        await lock.release()
        raise


async def _build(
    settings: Settings,
    redactor: Redactor,
    clock: Clock,
    database: Database,
    lock: DaemonLock,
    outbound: Outbound,
    listen: Iterable[Address | socket.socket],
    reread: Callable[[], Settings],
) -> Daemon:
    names = list(settings.providers)
    await database.write(partial(catalogue.ensure_providers, names=names, now=clock.now()))
    health = Health(database, clock, names)
    await health.load()
    house = House(
        settings=settings,
        database=database,
        gateways=build_gateways(settings.providers.items(), outbound, redactor, clock),
        health=health,
        clock=clock,
        sealer=open_sealer(settings, redactor),
        wakeups=Wakeups(),
    )
    await database.write(partial(sealing.adopt, sealer=house.sealer, now=clock.now()))
    house.endpoints.load(await database.read(endpoints.made_by_api), house.sealer)
    for hook in house.endpoints.hooks.values():
        for secret in hook.secret:
            redact_webhook_secret(redactor, secret.value.reveal())
    delivery = Delivery(house, outbound, redact=redactor.text)
    await delivery.prepare()
    schedule = Schedule(clock)
    routing = Routing(house)
    intake = Intake(house)
    await intake.refresh()
    sync = CatalogueSync(house, synced=routing.sync_ended)
    reconcile = Reconcile(house)
    # Purchases that a crash interrupted are found before anything new is sent.
    await reconcile.run_once()
    table: tuple[tuple[Stage, float], ...] = (
        (reconcile, 5),
        (routing, 1),
        (Placement(house), 1),
        (Polling(house), 1),
        (SmsWatch(house), 1),
        (Canceling(house), 1),
        (Dripping(house), 1),
        (Remainders(house), 1),
        (Refilling(house), 5),
        (Counting(house, outbound), 5),
        (sync, 1),
        (Sequencing(house), 1),
        (delivery, 1),
        (Replaying(house), 1),
        (Retention(house), 60),
    )
    for stage, every_s in table:
        schedule.add(stage.name, every_s, stage.run_once, pace_s=PACES_S.get(stage.name, 0.0))
    schedule.add("intake", 60, intake.refresh)
    failed = asyncio.Event()
    watched = _LockWatch(database, lock, failed)
    schedule.add("lock", LOCK_CHECK_S, watched.run_once)
    schedule.add("writer", watchdog.WRITER_EVERY_S, watchdog.WriterWatch(database).run_once)
    if isinstance(clock, SteadyClock):
        schedule.add("clock", CLOCK_CHECK_S, _ClockWatch(database, clock).run_once)
    for name in schedule.ages():
        house.wakeups.on(name, partial(schedule.wake, name))
    draining = asyncio.Event()
    reloading = Reloading(reread, house, outbound, redactor, routing, intake, delivery, lambda keys: let_in(app, keys))
    app = create_app(
        WebServices(
            house=house,
            intake=intake,
            loops=schedule.ages,
            draining=draining.is_set,
            sync=lambda name: sync.sync(house.gateways[name]),
            version=__version__,
            reload=reloading.reload,
            loop_limit_s=watchdog.limit_s,
            redact=partial(redact_webhook_secret, redactor),
        )
    )
    runner = await start_sites(app, listen, limits_of(settings.http))
    schedule.start()
    stages = tuple(stage for stage, _ in table)
    return Daemon(house, stages, schedule, outbound, watched, runner, draining, failed, reloading)


def redact_webhook_secret(redactor: Redactor, secret: str) -> None:
    """No text shows it from now on, with its prefix or without."""
    redactor.add(secret)
    redactor.add(secret.removeprefix("whsec_"))


class _ClockWatch:
    """The machine's clock. When it jumps, all that is due or claimed moves along; only then is the time followed."""

    def __init__(self, database: Database, clock: SteadyClock) -> None:
        self._database = database
        self._clock = clock
        self._pending: tuple[timedelta, int] | None = None

    async def run_once(self) -> None:
        if self._pending is None:
            jump = self._clock.jump
            if not jump:
                return
            # Under its key it is recorded once, however often that is tried; an answer may get lost.
            self._pending = jump, secrets.randbits(62)
            log.warning(
                "clock_jumped",
                seconds=round(jump.total_seconds(), 3),
                direction="forward" if jump > timedelta(0) else "back",
                reason="the machine's clock was set, or it slept; what is due moves along, nothing is given up early",
            )
        jump, key = self._pending
        moved = await self._database.write(partial(claims.shift_once, tables=metadata.sorted_tables, by=jump, key=key))
        self._clock.follow(jump)
        self._pending = None
        log.info("clock_followed", moved=moved)


class _LockWatch:
    """The daemon's lock. One that was lost with its connection is taken again; when somebody else has it, this daemon
    ends."""

    def __init__(self, database: Database, lock: DaemonLock, failed: asyncio.Event) -> None:
        self._database = database
        self._lock: DaemonLock | None = lock
        self._failed = failed
        self.exit_code = 1
        """What the daemon ends with: 2 when nobody should start it again before a person has looked."""

    async def run_once(self) -> None:
        if isinstance(self._database, SqliteDatabase) and not self._database.in_place():
            # What is written now goes into a file that nobody can find again: better no answer than a false 201.
            log.error("database_file_gone", reason="the SQLite file was removed or replaced under the daemon")
            # Started again it would begin with an empty one, and give the same numbers once more.
            self.exit_code = 2
            self._failed.set()
            return
        if self._lock is not None and await self._lock.held():
            return
        await self.release()  # gives its dead connection back, which would else be missing in the pool for ever
        try:
            self._lock = await acquire(self._database)
            log.warning("daemon_lock_taken_again")
        except AlreadyRunning as exc:
            log.error("daemon_lock_lost", reason=str(exc))
            self._failed.set()

    async def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            await lock.release()


async def run(
    settings: Settings,
    redactor: Redactor,
    *,
    ready: Callable[[Daemon], None] = lambda _: None,
    reread: Callable[[], Settings] | None = None,
) -> int:
    """Run until SIGTERM or SIGINT, and go by what `reread` reads after each SIGHUP; the exit code: 0, 1 when it could
    not go on, 2 when it should not be started again as things are."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    hangup, closed = asyncio.Event(), _closed_terminal(stopping)
    loop.add_signal_handler(signal.SIGHUP, lambda: None if closed() else hangup.set())
    notifier = Notifier()
    daemon = await start(settings, redactor, sockets=passed_sockets(os.environ), reread=reread)
    if not daemon.addresses:
        log.warning("no_door_is_open", reason="without keys no TCP port is opened: add keys, or listen on unix:/path")
    log.info("daemon_ready", version=__version__, listen=daemon.addresses, providers=sorted(settings.providers))
    # What the house is made of stays for good: looking through it for garbage again and again would take a tenth of a
    # second each time.
    gc.collect()
    gc.freeze()
    notifier.send("READY=1")
    ready(daemon)
    feeding = asyncio.create_task(watchdog.feed(notifier, daemon.schedule.ages))
    rereading = asyncio.create_task(_reload_after(hangup, notifier, daemon.reloading))
    waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(daemon.failed.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    notifier.send("STOPPING=1")
    feeding.cancel()  # systemd asks no more, and loops that end are not stuck
    log.info("daemon_stopping")
    rereading.cancel()
    await daemon.stop()
    log.info("daemon_stopped")
    return daemon.lock.exit_code if daemon.failed.is_set() else 0


def _closed_terminal(stopping: asyncio.Event) -> Callable[[], bool]:
    """For SIGHUP: whether it says that the daemon's terminal was closed, which ends it, unless nohup shields it."""
    had, shielded = _has_terminal(), signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def look() -> bool:
        if not had or _has_terminal():
            return False
        if not shielded:
            stopping.set()
        return True

    return look


def _has_terminal() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


async def _reload_after(hangup: asyncio.Event, notifier: Notifier, reloading: Reloading) -> None:
    """Read the config again at each SIGHUP, and tell systemd (sd_notify(3)) how that went."""
    while True:
        await hangup.wait()
        hangup.clear()
        notifier.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        status = "the newest config is in use"
        try:
            await reloading.reload()
        except (ConfigError, StorageUnavailable) as exc:  # the log has it whole
            status = f"an older config is in use, the newest was refused: {str(exc).splitlines()[0]}"
        except Exception:
            log.exception("reload_failed")
            status = "the newest config could not be taken over; the log says why"
        notifier.send(f"READY=1\nSTATUS={status}")
