"""Every row of one database into another of the same schema, between SQLite and PostgreSQL as well.

The source is read in one snapshot, however many write meanwhile; the target is written in one transaction, and read
again before it commits: what does not say the same is not kept. Numbers that were once given stay given.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import URL, Connection, Integer, NullPool, Table, create_engine, event, func, select, text, tuple_
from sqlalchemy.exc import DBAPIError

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage import invariants
from aggregator.storage.database import Database, PostgresDatabase, SqliteDatabase
from aggregator.storage.tables import metadata, orders

T = TypeVar("T")
BATCH: Final = 500
_DIGEST: Final = 1 << 128

Told = Callable[[str, int], None]
"""Hears the table that is at work, and how many of its rows are copied."""


class CannotCopy(Exception):
    """The copy was not made; the text says why. Nothing of it stays."""


class Session(Protocol):
    """An open transaction, which runs plain functions of a Connection."""

    def __call__(self, work: Callable[[Connection], T]) -> Awaitable[T]: ...


@dataclass(slots=True)
class _Sum:
    """What a table holds, whatever the order of its rows: how many, and a sum of their hashes."""

    rows: int = 0
    digest: int = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            plain = [bytes(value) if isinstance(value, bytes | memoryview) else value for value in row]
            seen = hashlib.blake2b(repr(plain).encode("utf-8", "surrogatepass"), digest_size=16).digest()
            self.digest = (self.digest + int.from_bytes(seen)) % _DIGEST
        self.rows += len(rows)


async def copy_all(
    source: Database, target: Database, told: Told = lambda *_: None, *, replace: bool = False
) -> dict[str, int]:
    """Copy all tables into an empty database that has the same schema; the rows of each. `replace`: what the target
    holds is removed first, in the same transaction.

    CannotCopy when the target holds something, or does not say the same afterwards.
    """
    try:
        async with session(source) as read, session(target, write=True) as write:
            if replace:
                await write(_empty)
            sums = {table.name: await _copy(table, read, write, told) for table in metadata.sorted_tables}
            counters = await read(_counters)
            await write(lambda connection: _set_counters(connection, counters))
            for table in metadata.sorted_tables:
                if await _sum(table, write) != sums[table.name]:
                    raise CannotCopy(f"the copy of {table.name} does not say the same; nothing was kept")
            broken = await write(lambda connection: invariants.check(connection, pruned=True))
            if broken:
                raise CannotCopy(f"the database is not sound: {'; '.join(broken[:5])}")
    except DBAPIError as exc:
        raise StorageUnavailable(f"the copy broke off: {exc.orig}") from exc
    return {name: one.rows for name, one in sums.items()}


@asynccontextmanager
async def session(database: Database, *, write: bool = False) -> AsyncIterator[Session]:
    """One transaction of its own, beside whatever else the database is used for; committed at the end."""
    if isinstance(database, PostgresDatabase):
        snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        engine = database.engine if write else database.engine.execution_options(**snapshot)
        async with engine.begin() as connection:

            def run(work: Callable[[Connection], T]) -> Awaitable[T]:
                return connection.run_sync(work)

            yield run
        return
    assert isinstance(database, SqliteDatabase)
    file = create_engine(
        URL.create("sqlite+pysqlite", database=str(database.path)),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"check_same_thread": False},
    )
    event.listen(file, "connect", _prepare)
    event.listen(file, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN"))
    try:
        plain = await asyncio.to_thread(file.connect)
        try:
            begun = await asyncio.to_thread(plain.begin)
            try:
                yield lambda work: asyncio.to_thread(work, plain)
            except BaseException:
                await asyncio.to_thread(begun.rollback)
                raise
            await asyncio.to_thread(begun.commit)
        finally:
            await asyncio.to_thread(plain.close)
    finally:
        file.dispose()


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


def _empty(connection: Connection) -> None:
    for table in reversed(metadata.sorted_tables):
        connection.execute(table.delete())


async def _copy(table: Table, read: Session, write: Session, told: Told) -> _Sum:
    copied = _Sum()

    def insert(connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        names = [column.name for column in table.columns]
        connection.execute(table.insert(), [dict(zip(names, row, strict=True)) for row in rows])

    if await write(lambda connection: connection.execute(select(func.count()).select_from(table)).scalar_one()):
        raise CannotCopy(f"the target is not empty: it has rows in {table.name}; name an empty database")
    async for rows in _batches(table, read):
        await write(lambda connection, rows=rows: insert(connection, rows))  # type: ignore[misc]
        copied.add(rows)
        told(table.name, copied.rows)
    return copied


async def _sum(table: Table, read: Session) -> _Sum:
    found = _Sum()
    async for rows in _batches(table, read):
        found.add(rows)
    return found


async def _batches(table: Table, read: Session) -> AsyncIterator[Sequence[Sequence[Any]]]:
    """The rows in the order of their keys, a few hundred at a time; parents of orders come before their children."""
    key = list(table.primary_key.columns)
    places = [list(table.columns).index(column) for column in key]
    last: tuple[Any, ...] | None = None
    while True:
        query = select(table).order_by(*key).limit(BATCH)
        if last is not None:
            query = query.where(tuple_(*key) > tuple_(*last) if len(key) > 1 else key[0] > last[0])
        rows = await read(lambda connection, query=query: connection.execute(query).all())  # type: ignore[misc]
        if rows:
            yield rows
        if len(rows) < BATCH:
            return
        last = tuple(rows[-1][place] for place in places)


def _numbered() -> list[Table]:
    """Tables whose rows the database numbers by itself."""
    return [table for table in metadata.sorted_tables if _number(table) is not None]


def _number(table: Table) -> str | None:
    column = table.autoincrement_column
    return column.name if column is not None and isinstance(column.type, Integer) else None


def _counters(connection: Connection) -> dict[str, int]:
    """The highest number that each table has given, also to rows that are gone."""
    given: dict[str, int] = {}
    for table in _numbered():
        name = _number(table)
        assert name is not None
        highest = connection.execute(select(func.max(table.c[name]))).scalar() or 0
        given[table.name] = max(highest, _counter(connection, table.name, name))
    return given


def _counter(connection: Connection, table: str, column: str) -> int:
    if connection.dialect.name == "sqlite":
        query = text("SELECT seq FROM sqlite_sequence WHERE name = :table")
        return connection.execute(query, {"table": table}).scalar() or 0
    named = text("SELECT pg_get_serial_sequence(:table, :column)")
    sequence = connection.execute(named, {"table": table, "column": column}).scalar_one()
    row = connection.execute(text(f"SELECT last_value, is_called FROM {sequence}")).one()
    return row.last_value if row.is_called else 0


def _set_counters(connection: Connection, counters: dict[str, int]) -> None:
    for table in _numbered():
        given, name = counters[table.name], _number(table)
        if not given:
            continue
        if connection.dialect.name == "postgresql":
            move = text("SELECT setval(pg_get_serial_sequence(:table, :column), :given)")
            connection.execute(move, {"table": table.name, "column": name, "given": given})
        elif table.dialect_options["sqlite"]["autoincrement"]:
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), {"table": table.name})
            values = {"table": table.name, "given": given}
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :given)"), values)


def orders_in(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(orders)).scalar_one()
