"""The program's own databases, stepped by a simulated run: each read, commit and answer is a moment of its own.

On SQLite the real reads, the real writer's groups and the real transactions run, on this thread and in virtual time.
A PostgreSQL works in its own time, during which virtual time stands still. `Weather` makes either fail.
"""

from __future__ import annotations

import asyncio
import queue
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import Database, SqliteDatabase, open_database
from aggregator.storage.writer import Writer, _Job
from tests.simulation.virtual import VirtualLoop
from tests.support.databases import copy_sqlite
from tests.support.postgres import PostgresServer

T = TypeVar("T")

MOST_COMMIT_S: Final = 0.02


@dataclass(slots=True)
class Weather:
    """What the database is going through."""

    out: bool = False
    """Nothing can be read or written: a full disk, a server that is down."""
    slow_s: float = 0.0
    """How much longer everything takes: a disk that hangs."""
    forgetful: float = 0.0
    """How likely a write is carried out and its answer lost, as a connection that breaks in the very COMMIT does."""


class _Inline(ThreadPoolExecutor):
    """Readers without threads."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


class _SteppedWriter(Writer):
    """The one writer, whose groups commit when virtual time says so, and whose answers come a moment later."""

    def __init__(self, engine: Any, pause: Callable[[], float], step: Callable[[str], None]) -> None:
        super().__init__(engine)
        self._pause = pause
        self._moment = step
        self.dead = False

    def _run(self) -> None:
        """The thread has nothing to do."""

    async def submit(self, work: Callable[[Connection], T]) -> T:
        asyncio.get_running_loop().call_later(self._pause(), self._commit_next)
        return await super().submit(work)

    def _commit_next(self) -> None:
        """One group, if another commit has not taken what was waiting."""
        if self.dead:
            return
        try:
            first = self._jobs.get_nowait()
        except queue.Empty:
            return
        assert first is not None
        group = [first]
        self._gather(group)
        self._moment("before a commit")
        if self.dead:
            return
        self._write(group)
        self._moment("committed")
        asyncio.get_running_loop().call_later(self._pause(), self._tell, group)

    def _tell(self, group: list[_Job]) -> None:
        if self.dead:
            return
        for job in group:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)


class SqliteShelf:
    """One SQLite file of this process, made anew for each run: engines and their compiled statements are kept."""

    kind = "sqlite"

    def __init__(self, folder: Path, template: Path) -> None:
        self.path = folder / "simulated.db"
        self._template = template
        self.database = open_database(f"sqlite:///{self.path}")
        assert isinstance(self.database, SqliteDatabase)
        self._sqlite: SqliteDatabase = self.database
        self._sqlite._threads.shutdown()
        self._sqlite._threads = _Inline()

    def fresh(self) -> None:
        self._sqlite._engine.dispose()
        self._sqlite._readers.dispose()
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        copy_sqlite(self._template, self.path)

    def writer(self, pause: Callable[[], float], step: Callable[[str], None]) -> _SteppedWriter:
        """The writer of one run of the daemon."""
        writer = _SteppedWriter(self._sqlite._engine, pause, step)
        self._sqlite._writer = writer
        return writer

    async def look(self, work: Callable[[Connection], T]) -> T:
        """Read at once, from outside of the run."""
        return self._sqlite._read(work)

    async def change(self, work: Callable[[Connection], T]) -> T:
        """Write at once, from outside of the run."""
        with self._sqlite._engine.connect() as connection, connection.begin():
            return work(connection)

    async def done(self) -> None:
        """The file is made anew by the next run."""

    def close(self) -> None:
        self._sqlite._engine.dispose()
        self._sqlite._readers.dispose()


class PostgresShelf:
    """A database of its own for each run; while it works, virtual time stands still."""

    kind = "postgresql"
    database: Database

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self._template = template
        self._name: str | None = None

    def fresh(self) -> None:
        self.close()
        self._name = self._server.create(template=self._template)
        self.database = open_database(self._server.url(self._name))

    def writer(self, pause: Callable[[], float], step: Callable[[str], None]) -> None:
        """There is no thread to replace."""

    async def look(self, work: Callable[[Connection], T]) -> T:
        with _elsewhere():
            return await self.database.read(work)

    async def change(self, work: Callable[[Connection], T]) -> T:
        with _elsewhere():
            return await self.database.write(work)

    async def done(self) -> None:
        with _elsewhere():
            await self.database.close()

    def close(self) -> None:
        if self._name is not None:
            self._server.drop(self._name)
            self._name = None


def _elsewhere() -> AbstractContextManager[None]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.elsewhere()


class SimulatedDatabase:
    """What a house takes for its database. It dies with its run."""

    def __init__(
        self,
        real: Database,
        weather: Weather,
        rng: random.Random,
        step: Callable[[str], None],
        alive: Callable[[], bool],
    ) -> None:
        self.kind = real.kind
        self._real = real
        self._weather = weather
        self._rng = rng
        self._step = step
        self._alive = alive

    def _check(self) -> None:
        if not self._alive():
            raise asyncio.CancelledError

    def pause(self) -> float:
        return self._rng.random() * MOST_COMMIT_S + self._weather.slow_s

    async def read(self, work: Callable[[Connection], T]) -> T:
        self._check()
        await asyncio.sleep(self.pause())
        self._check()
        if self._weather.out:
            raise StorageUnavailable("the database is out of reach, says the simulation")
        result: T = await self._reach(self._real.read, work)
        self._check()
        self._step("read")
        self._check()
        return result

    async def write(self, work: Callable[[Connection], T]) -> T:
        self._check()
        if self._weather.out:
            await asyncio.sleep(self.pause())
            self._check()
            raise StorageUnavailable("the disk is full, says the simulation")
        result: T = await self._reach(self._real.write, work)
        self._check()
        self._step("written")
        self._check()
        if self._weather.forgetful and self._rng.random() < self._weather.forgetful:
            raise StorageUnavailable("the connection was lost in the COMMIT, says the simulation")
        return result

    async def write_together(self, work: Callable[[Connection, Sequence[Any]], Sequence[T]], item: Any) -> T:
        return (await self.write(lambda c: work(c, [item])))[0]

    async def _reach(self, call: Callable[[Callable[[Connection], T]], Any], work: Callable[[Connection], T]) -> T:
        if self.kind == "sqlite":
            result: T = await call(work)
            return result
        await asyncio.sleep(self.pause())
        self._check()
        self._step("before a commit")
        self._check()
        with _elsewhere():
            result = await call(work)
        return result

    async def close(self) -> None:
        """The shelf is closed by who opened it."""
