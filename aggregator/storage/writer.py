"""The one writer of a SQLite file: a thread that groups what is waiting into one durable commit.

A transaction crosses into the thread once, not once per statement. It never answers before the COMMIT returned, and
one failing transaction of a group never hurts its neighbours.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from aggregator.domain.errors import StorageUnavailable

T = TypeVar("T")

OUT_OF_SERVICE_ERRORS: Final = ("OperationalError", "InterfaceError", "DatabaseError")
"""Names of the drivers' errors that speak of the database itself, not of a statement: full disk, locked, read-only,
gone; and DatabaseError, as itself and not one of its kinds, a file that is damaged or no database."""

MAX_GROUP: Final = 256
"""Transactions per commit: enough that one fsync serves everybody who waits, few enough to answer soon."""
MAX_WAITING: Final = 10_000
"""Beyond this the writer is not keeping up, and more waiting would only grow memory."""


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs transactions one after another on one connection; `submit` awaits the commit that holds its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._closed = False
        # Between a look at `_closed` and the put, `close` must not slip in: nobody would ever answer that job.
        self._door = threading.Lock()
        self.commits = 0
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    async def submit(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction and return its result once it is durable.

        Raises what `work` raised, or StorageUnavailable when nothing could be written.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._door:
            if self._closed:
                raise StorageUnavailable("the database is closed")
            if self._jobs.qsize() >= MAX_WAITING:
                raise StorageUnavailable("the database does not keep up with the writes")
            self._jobs.put(_Job(work, future, loop))
        return await future

    def close(self) -> None:
        """Finish what is queued, then end the thread."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            group, last = self._gather(job)
            self._write(group)
            self._answer(group)
            if last:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return group, True
            group.append(job)
        return group, False

    def _write(self, group: list[_Job]) -> None:
        try:
            with self._engine.connect() as connection:
                with connection.begin():
                    for job in group:
                        self._step(connection, job)
                self.commits += 1
        except Exception as exc:
            # The transaction did not commit, so nothing that any of them did remains.
            for job in group:
                job.error = job.error or _translate(exc)
                job.result = None

    def _step(self, connection: Connection, job: _Job) -> None:
        connection.exec_driver_sql("SAVEPOINT job")
        try:
            job.result = job.work(connection)
        except BaseException as exc:
            job.error = _translate(exc)
            if not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
                # A full disk or an I/O error makes SQLite roll the whole transaction back by itself.
                raise StorageUnavailable("the database rolled the transaction back") from exc
            connection.exec_driver_sql("ROLLBACK TO job")
        connection.exec_driver_sql("RELEASE job")

    @staticmethod
    def _answer(group: list[_Job]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in group:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, jobs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, jobs)
            except RuntimeError:  # the loop is closed: nobody waits any more
                continue


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _translate(exc: BaseException) -> BaseException:
    """Driver errors that mean "the database cannot write now" become StorageUnavailable; the rest stays itself."""
    if isinstance(exc, StorageUnavailable):
        return exc
    if isinstance(exc, StopIteration):
        # A future refuses to hold it, and the jobs behind this one would wait for ever.
        stopped = RuntimeError("the transaction raised StopIteration")
        stopped.__cause__ = exc
        return stopped
    if isinstance(exc, DBAPIError) and type(exc.orig).__name__ in OUT_OF_SERVICE_ERRORS:
        unavailable = StorageUnavailable(f"the database cannot be written: {exc.orig}")
        unavailable.__cause__ = exc
        return unavailable
    return exc
