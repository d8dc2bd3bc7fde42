"""Writes that wait for PostgreSQL together share one transaction: its round trips and its COMMIT serve all of them.

What SQLite's writer does, for those kinds of work that can do many items at once. One item that fails never hurts its
neighbours: where their transaction failed, each is written once more, alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.writer import MAX_GROUP, MAX_WAITING, WAITING

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")

Work = Callable[[Connection, Sequence[Any]], Sequence[Any]]
AT_ONCE: Final = 2
"""Transactions of one kind of work: while one waits for the disk, the next is filled."""


class Gathering:
    """`submit` awaits the commit of the transaction that holds its item; `write` is how a transaction is run."""

    def __init__(self, write: Callable[[Callable[[Connection], Any]], Awaitable[Any]]) -> None:
        self._write = write
        self._waiting: dict[Work, deque[tuple[Any, asyncio.Future[Any]]]] = {}
        self._running: dict[Work, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, work: Callable[[Connection, Sequence[I]], Sequence[T]], item: I) -> T:
        """Raises what became of this item: what `work` raised for it alone, or StorageUnavailable."""
        waiting = self._waiting.setdefault(work, deque())
        if len(waiting) >= MAX_WAITING:
            raise StorageUnavailable("the database does not keep up with the writes")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiting.append((item, future))
        WAITING.inc()
        if self._running.get(work, 0) < AT_ONCE:
            self._running[work] = self._running.get(work, 0) + 1
            task = asyncio.create_task(self._run(work), name="gathering")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def close(self) -> None:
        """Finish what waits."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, work: Work) -> None:
        waiting = self._waiting[work]
        try:
            while waiting:
                group = [waiting.popleft() for _ in range(min(len(waiting), MAX_GROUP))]
                WAITING.dec(len(group))
                await self._together(work, group)
        finally:
            self._running[work] -= 1

    async def _together(self, work: Work, group: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        try:
            results = await self._write(partial(_work, work=work, items=[item for item, _ in group]))
        except asyncio.CancelledError:
            for _, future in group:
                _fail(future, StorageUnavailable("the database is closed"))
            raise
        except Exception as exc:
            # Nobody is tried again where the database is at fault: of a COMMIT that got no answer nobody can know.
            if len(group) == 1 or isinstance(exc, StorageUnavailable):
                for _, future in group:
                    _fail(future, exc)
                return
            for one in group:
                await self._together(work, [one])
            return
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)


def _work(connection: Connection, work: Work, items: list[Any]) -> Sequence[Any]:
    return work(connection, items)


def _fail(future: asyncio.Future[Any], exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)
