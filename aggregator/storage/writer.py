"""The one writer of a SQLite file: a thread that groups what is waiting into one durable commit.

A transaction crosses into the thread once, not once per statement; `quick` work does not even do that: the event loop's
thread runs its statements while the writer waits, because two threads that take turns at every statement keep one busy
interpreter from its work (deliveries: 4 to 8 % more a second). It never answers before the COMMIT returned, and one
failing transaction of a group never hurts its neighbours: where its failure took the whole group back, everybody is
written once more, alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import Any, Final, Generic, ParamSpec, TypeVar

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError

from aggregator.domain.errors import StorageUnavailable

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")
P = ParamSpec("P")

OUT_OF_SERVICE_ERRORS: Final = ("OperationalError", "InterfaceError", "DatabaseError")
"""Names of the drivers' errors that speak of the database itself, not of a statement: full disk, locked, read-only,
gone; and DatabaseError, as itself and not one of its kinds, a file that is damaged or no database."""

MAX_GROUP: Final = 256
"""Transactions per commit: enough that one fsync serves everybody who waits, few enough to answer soon."""
MAX_QUICK: Final = 64
"""Items of quick work that the event loop does at one go, before it looks at everybody else again."""
MAX_WAITING: Final = 10_000
"""Beyond this the writer is not keeping up, and more waiting would only grow memory."""
USUAL_PATIENCE_S: Final = 5.0
"""How long a transaction waits for another process (a backup, a shell) that holds the file's lock."""
LOOK_EVERY_MS: Final = 100
"""How often it is looked whether somebody's patience is over while another process holds the lock; the busy timeout of
the writer's connection."""
_LOOK_AT_LOOP_S: Final = 0.5
"""How often it is looked whether the event loop still runs that was asked to do quick work."""
_REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: " by another process (a backup, a shell?); end it",
    sqlite3.SQLITE_FULL: "; make room on its disk",
    sqlite3.SQLITE_IOERR: "; is its disk full or broken?",
    sqlite3.SQLITE_READONLY: "; mend the owner or mode of its file and folder, or the mount",
}
"""What a person can do about it, by SQLite's primary error code."""

COMMIT_SECONDS: Final = Histogram(
    "aggregator_database_commit_seconds",
    "How long commits took to reach the disk.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
WRITES: Final = Counter("aggregator_database_writes_total", "Transactions committed; many share one commit.")
WAITING: Final = Gauge("aggregator_database_waiting_writes", "Transactions that wait for their turn.")

_patience_s: ContextVar[float] = ContextVar("patience_s", default=USUAL_PATIENCE_S)


def be_patient(seconds: float) -> Token[float]:
    """Writes made from now on in this context (of a task, and of those that it begins) wait only so long for a lock of
    another process: somebody waits for their answer."""
    return _patience_s.set(seconds)


class patience:
    """`with patience(seconds)`: the same for the writes made inside."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._token = be_patient(self._seconds)

    def __exit__(self, *_: object) -> None:
        _patience_s.reset(self._token)


class quick(Generic[P, T]):
    """Marks work that is over within some milliseconds, however large the database is: the event loop's own thread runs
    it where that saves time."""

    def __init__(self, work: Callable[P, T]) -> None:
        self._work = work

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._work(*args, **kwargs)


_ALONE: Final = object()


@dataclass(slots=True)
class _Job:
    work: Callable[..., Any]
    item: Any
    """What `work` is to do together with the items of others, or _ALONE: then it takes the connection only."""
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    until: float
    """When its patience with another process is over; monotonic."""
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs transactions one after another on one connection; `submit` awaits the commit that holds its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._closed = False
        self._last = False
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
        result: T = await self._put(work, _ALONE)
        return result

    async def submit_together(self, work: Callable[[Connection, Sequence[I]], Sequence[T]], item: I) -> T:
        """The same for an item of many that `work` does at once: all that wait in one group, in their order."""
        result: T = await self._put(work, item)
        return result

    def _put(self, work: Callable[..., Any], item: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._door:
            if self._closed:
                raise StorageUnavailable("the database is closed")
            if self._jobs.qsize() >= MAX_WAITING:
                raise StorageUnavailable("the database does not keep up with the writes")
            WAITING.inc()
            self._jobs.put(_Job(work, item, future, loop, monotonic() + _patience_s.get()))
        return future

    def close(self) -> None:
        """Finish what is queued, then end the thread."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._last:
            job = self._jobs.get()
            if job is None:
                return
            WAITING.dec()
            group = [job]
            self._gather(group)
            self._write(group)
            self._answer(group)

    def _gather(self, group: list[_Job]) -> None:
        """Add whoever waits by now, as far as the group has room."""
        while len(group) < MAX_GROUP and not self._last:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is None:
                self._last = True
            else:
                WAITING.dec()
                group.append(job)

    def _write(self, group: list[_Job]) -> None:
        if not self._commit(group) and len(group) > 1:
            # The transaction did not commit, so nothing that any of them did remains; and whose fault it was is seen
            # when each has a transaction of its own.
            for job in group:
                job.result = job.error = None
                self._commit([job])

    def _commit(self, group: list[_Job]) -> bool:
        """Write the group by one commit; whether it came about. Those who were answered meanwhile leave the group."""
        began = False
        try:
            with self._engine.connect() as connection:
                with self._begin(connection, group):
                    began = True
                    for jobs in _steps(group):
                        if isinstance(jobs[0].work, quick) and threading.current_thread() is self._thread:
                            _Errand(partial(self._step, connection, jobs)).run_by(jobs[0].loop)
                        else:
                            self._step(connection, jobs)
                    done = perf_counter()
                COMMIT_SECONDS.observe(perf_counter() - done)
                WRITES.inc(sum(job.error is None for job in group))
                self.commits += 1
        except Exception as exc:
            for job in group:
                job.error = job.error or _translate(exc)
                job.result = None
            # One that never began is nobody's fault: it would not begin for each of them alone, either.
            return not began
        return True

    def _begin(self, connection: Connection, group: list[_Job]) -> RootTransaction:
        """Begin as soon as no other process holds the lock; raises when nobody of the group waits for it any more."""
        while True:
            try:
                return connection.begin()
            except DBAPIError as exc:
                if not _is_locked(exc):
                    raise
                self._give_up(group, exc)
                self._gather(group)
                if not group:
                    raise

    def _give_up(self, group: list[_Job], exc: DBAPIError) -> None:
        """Answer those who will not wait any longer for another process."""
        now = monotonic()
        over = [job for job in group if job.until <= now]
        group[:] = [job for job in group if job.until > now]
        for job in over:
            job.error = _translate(exc)
        self._answer(over)

    def _step(self, connection: Connection, jobs: list[_Job]) -> None:
        """Jobs that are one piece of work, in a savepoint; where that fails, each in one of its own."""
        # By the driver: SQLAlchemy would take longer for this than the savepoint does.
        raw: Any = connection.connection.dbapi_connection
        raw.execute("SAVEPOINT job")
        try:
            _work(connection, jobs)
        except BaseException as exc:
            if not raw.in_transaction:
                # A full disk or an I/O error makes SQLite roll the whole transaction back by itself.
                for job in jobs:
                    job.error = _translate(exc)
                raise StorageUnavailable("the database rolled the transaction back") from exc
            raw.execute("ROLLBACK TO job")
            raw.execute("RELEASE job")
            if len(jobs) > 1:
                for job in jobs:
                    self._step(connection, [job])
            else:
                jobs[0].error = _translate(exc)
            return
        raw.execute("RELEASE job")

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


def _steps(group: list[_Job]) -> Iterable[list[_Job]]:
    """The group in its order, those that are done together at the place of their first."""
    steps: dict[object, list[_Job]] = {}
    for job in group:
        steps.setdefault(id(job) if job.item is _ALONE else job.work, []).append(job)
    for jobs in steps.values():
        at_once = MAX_QUICK if isinstance(jobs[0].work, quick) else len(jobs)
        for start in range(0, len(jobs), at_once):
            yield jobs[start : start + at_once]


class _Errand:
    """Work that one thread has an event loop do, and waits for."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._taken = threading.Lock()
        self._done = threading.Event()
        self._error: BaseException | None = None

    def run_by(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises what the work raised. A loop that runs no more leaves it to the thread that waits."""
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(self._run)
        while not self._done.wait(_LOOK_AT_LOOP_S):
            if not loop.is_running():
                self._run()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        if not self._taken.acquire(blocking=False):
            return
        try:
            self._work()
        except BaseException as exc:
            self._error = exc
        finally:
            self._done.set()


def _work(connection: Connection, jobs: list[_Job]) -> None:
    if jobs[0].item is _ALONE:
        jobs[0].result = jobs[0].work(connection)
        return
    results = jobs[0].work(connection, [job.item for job in jobs])
    for job, result in zip(jobs, results, strict=True):
        job.result = result


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _is_locked(exc: DBAPIError) -> bool:
    return isinstance(exc.orig, sqlite3.OperationalError) and exc.orig.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _translate(exc: BaseException) -> BaseException:
    """Driver errors that mean "the database cannot write now" become StorageUnavailable; the rest stays itself."""
    if isinstance(exc, StorageUnavailable):
        return exc
    if isinstance(exc, StopIteration):
        # A future refuses to hold it, and the jobs behind this one would wait for ever.
        stopped = RuntimeError("the transaction raised StopIteration")
        stopped.__cause__ = exc
        return stopped
    driver = exc.orig if isinstance(exc, DBAPIError) else exc
    if isinstance(driver, sqlite3.Error) and type(driver).__name__ in OUT_OF_SERVICE_ERRORS:
        remedy = _REMEDIES.get(getattr(driver, "sqlite_errorcode", 0) & 0xFF, "")
        unavailable = StorageUnavailable(f"the database cannot be written: {driver}{remedy}")
        unavailable.__cause__ = exc
        return unavailable
    return exc
