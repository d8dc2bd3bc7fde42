"""Many rows by one statement: all of them, as they are, whatever their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import DBAPIError

from aggregator.storage.bulk import Lookup, Rows
from aggregator.storage.database import Database, open_database
from aggregator.storage.tables import events, idempotency_keys
from tests.support.examples import NOW

T = TypeVar("T")
KEYS = Rows(idempotency_keys, "digest", "fingerprint", "status", "body", "order_number", "created_at")
FOUND = Lookup(idempotency_keys, "digest", "body", "order_number")
EVENTS = Rows(events, "id", "type", "lane", "body", "created_at")


def key(number: int, body: str | None = None) -> tuple[object, ...]:
    return (number.to_bytes(16, "big"), b"f" * 16, None if body is None else 200, body, number, NOW)


async def tried(database: Database, work: Callable[[Connection], T]) -> T:
    """What the work gives. Its keys name orders that are not there, so it leaves none."""

    def within(connection: Connection) -> T:
        found = work(connection)
        connection.execute(delete(idempotency_keys))
        return found

    return await database.write(within)


@pytest.mark.parametrize("count", [0, 1, 5, 64, 103])
async def test_all_rows_are_written_and_found(database: Database, count: int) -> None:
    rows = [key(number, None if number % 2 else f"body {number}") for number in range(count)]

    def work(connection: Connection) -> dict[int, str | None]:
        assert KEYS.insert(connection, rows) == count
        wanted = [number.to_bytes(16, "big") for number in range(count + 50)]
        return {number: body for _, body, number in FOUND.find(connection, wanted)}

    assert await tried(database, work) == {number: None if number % 2 else f"body {number}" for number in range(count)}


async def test_rows_whose_key_is_taken_are_left_as_they_are_and_not_counted(database: Database) -> None:
    def work(connection: Connection) -> list[str | None]:
        KEYS.insert(connection, [key(number, "first") for number in range(0, 20, 2)])
        assert KEYS.insert(connection, [key(number, "second") for number in range(20)], unless_there="digest") == 10
        by_number = select(idempotency_keys.c.body).order_by(idempotency_keys.c.order_number)
        return list(connection.execute(by_number).scalars())

    assert await tried(database, work) == ["first", "second"] * 10


async def test_an_instant_comes_back_as_it_was(database: Database) -> None:
    def work(connection: Connection) -> object:
        KEYS.insert(connection, [key(1)])
        return connection.execute(select(idempotency_keys.c.created_at)).scalar_one()

    assert await tried(database, work) == NOW


async def test_what_is_too_long_for_its_column_is_refused_and_not_cut(postgres_database_url: str) -> None:
    database = open_database(postgres_database_url)  # SQLite knows no lengths
    try:
        with pytest.raises(DBAPIError, match="too long"):
            await database.write(lambda c: EVENTS.insert(c, [("evt_" + "0" * 40, "x", "lane", "{}", NOW)]))
    finally:
        await database.close()
