"""One database, two kinds: opens engines, runs reads and writes, guards against a second daemon.

`read` and `write` take a plain function of a synchronous Connection. A write is one transaction, durable when `write`
returns; nobody may await the network inside. This module knows no table.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy import Connection as Connection
from sqlalchemy import RowMapping as RowMapping
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.gathering import Gathering
from aggregator.storage.writer import COMMIT_SECONDS, LOOK_EVERY_MS, OUT_OF_SERVICE_ERRORS, WRITES, Writer
from aggregator.storage.writer import be_patient as be_patient
from aggregator.storage.writer import patience as patience
from aggregator.storage.writer import quick as quick

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")

READERS: Final = 4
"""Threads that read SQLite beside its writer."""
BUSY_TIMEOUT_MS: Final = 5_000
"""How long SQLite waits for another process (a backup, a shell) where the writer does not wait for it."""
_POSTGRES_TRIES: Final = 5
_SERIALIZATION_FAILURES: Final = frozenset({"40001", "40P01"})
_OUT_OF_SERVICE: Final = ("08", "28", "3D", "40", "53", "55P03", "57", "58", "25006", "XX")
"""SQLSTATEs, whole or their class, that say nothing against the statement: connection, log-in, no such database,
conflict, full disk or too many connections, lock, shutdown or cancel, I/O, read-only standby, broken files."""


class Database(Protocol):
    """What the program asks of a database."""

    kind: str
    """`sqlite` or `postgresql`."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a query; StorageUnavailable when the database is out of reach."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run one transaction; durable when it returns. `work` may run again after a conflict, so it must only
        touch the connection it is given. StorageUnavailable: nothing was written, unless the connection to
        PostgreSQL was lost in the very COMMIT, of which nobody can know. How long it waits for another process that
        holds SQLite's lock is the caller's `patience`."""
        ...

    async def write_together(self, work: Callable[[Connection, Sequence[I]], Sequence[T]], item: I) -> T:
        """The same for one item of many: `work` is given all items of its own that wait at this moment, and answers
        a result for each. Should it raise, it is asked once more for each item alone, so whose fault it is hurts
        nobody else. Give the same function each time: by it the items find each other."""
        ...

    async def close(self) -> None: ...


def open_database(url: str) -> Database:
    """A database by its URL (`sqlite:///file` or `postgresql://…`). Opens lazily; creates no table."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(parsed)
    return PostgresDatabase(parsed)


def _pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # WAL lets readers go on beside the writer; FULL makes each commit reach the disk before it returns.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _look_often(connection: sqlite3.Connection, _record: object) -> None:
    # The writer waits longer, but looks meanwhile whether somebody's patience is over.
    connection.execute(f"PRAGMA busy_timeout={LOOK_EVERY_MS}")


def _no_driver_transactions(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's legacy mode would not BEGIN for reads; we begin ourselves.
    connection.isolation_level = None


def _begin_reading(connection: Connection) -> None:
    # By the driver, because SQLAlchemy's way to a statement would be a third of a small read. It does not touch the
    # file yet, so nothing can go wrong that would have to be translated.
    connection.connection.driver_connection.execute("BEGIN")  # type: ignore[union-attr]


def _read_only(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # A write by way of a reader would wait for the writer, and be rolled back when it was done.
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


class SqliteDatabase:
    """SQLite: one writer thread with group commit, readers on their own connections."""

    kind = "sqlite"

    def __init__(self, url: URL) -> None:
        self._closed = False
        self._identity: tuple[int, int] | None = None
        self.path = Path(url.database or "")
        engine = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            hide_parameters=True,  # links and parameters do not belong in an error's text
            pool_size=1,
            max_overflow=0,
            connect_args={"check_same_thread": False, "cached_statements": 512},
        )
        event.listen(engine, "connect", _no_driver_transactions)
        event.listen(engine, "connect", _pragmas)
        event.listen(engine, "connect", _look_often)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        self._engine: Engine = engine
        readers = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            hide_parameters=True,
            pool_size=READERS,
            max_overflow=0,
            connect_args={"check_same_thread": False},
        )
        event.listen(readers, "connect", _no_driver_transactions)
        event.listen(readers, "connect", _pragmas)
        event.listen(readers, "connect", _read_only)
        # A transaction, so that a read of several statements sees one moment.
        event.listen(readers, "begin", _begin_reading)
        self._readers: Engine = readers
        # One hop into a thread for a whole read; an asynchronous driver would hop for each statement.
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="sqlite-reader")
        self._writer: Writer | None = None

    async def read(self, work: Callable[[Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, work)
        except DBAPIError as exc:
            raise _unavailable(exc) from exc
        except RuntimeError as exc:
            if self._closed:
                raise StorageUnavailable("the database is closed") from exc
            raise

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._readers.connect() as connection, connection.begin():
            return work(connection)

    async def write(self, work: Callable[[Connection], T]) -> T:
        if self._writer is None:
            self._writer = Writer(self._engine)
        return await self._writer.submit(work)

    async def write_together(self, work: Callable[[Connection, Sequence[I]], Sequence[T]], item: I) -> T:
        if self._writer is None:
            self._writer = Writer(self._engine)
        return await self._writer.submit_together(work, item)

    def in_place(self) -> bool:
        """Whether the file is still the one that was opened first."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        identity = (found.st_dev, found.st_ino)
        self._identity = self._identity or identity
        return identity == self._identity

    @property
    def commits(self) -> int:
        """Commits made so far; fewer than the writes, because the writer groups them."""
        return self._writer.commits if self._writer else 0

    async def close(self) -> None:
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        self._readers.dispose()
        self._engine.dispose()


class PostgresDatabase:
    """PostgreSQL by asyncpg: a pool, read committed, conflicts tried again."""

    kind = "postgresql"

    def __init__(self, url: URL) -> None:
        self._engine: AsyncEngine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"),
            hide_parameters=True,
            pool_size=10,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args={"server_settings": {"application_name": "aggregator", "timezone": "UTC"}},
        )
        # The same pool; a read of several statements sees one moment. It costs nothing: it travels with the BEGIN.
        self._gathering = Gathering(self.write)
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await _read(self._snapshots, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        for left in range(_POSTGRES_TRIES - 1, -1, -1):
            try:
                async with self._engine.begin() as connection:
                    result = await connection.run_sync(work)
                    done = perf_counter()
                COMMIT_SECONDS.observe(perf_counter() - done)
                WRITES.inc()
                return result
            except DBAPIError as exc:
                if left and getattr(exc.orig, "sqlstate", None) in _SERIALIZATION_FAILURES:
                    continue
                raise _unavailable(exc) from exc
            except (OSError, TimeoutError, PoolTimeoutError) as exc:
                raise StorageUnavailable(f"the database is out of reach: {exc}") from exc
        raise AssertionError("unreachable")

    async def write_together(self, work: Callable[[Connection, Sequence[I]], Sequence[T]], item: I) -> T:
        return await self._gathering.submit(work, item)

    async def close(self) -> None:
        await self._gathering.close()
        await self._engine.dispose()


async def _read(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    except DBAPIError as exc:
        raise _unavailable(exc) from exc
    except (OSError, TimeoutError, PoolTimeoutError) as exc:
        raise StorageUnavailable(f"the database is out of reach: {exc}") from exc


def _unavailable(exc: DBAPIError) -> Exception:
    """Errors of the connection or of the disk become StorageUnavailable; a broken constraint stays itself."""
    name = type(exc.orig).__name__
    sqlstate = getattr(exc.orig, "sqlstate", None) or ""
    out_of_service = name in OUT_OF_SERVICE_ERRORS or sqlstate.startswith(_OUT_OF_SERVICE)
    if exc.connection_invalidated or out_of_service:
        return StorageUnavailable(f"the database is not available: {exc.orig}")
    return exc
