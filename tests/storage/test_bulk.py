"""Many rows by one statement: all of them, as they are, whatever their number."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import pytest
from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.exc import DBAPIError

from aggregator.storage.bulk import Changes, Fetch, Lookup, Rows
from aggregator.storage.database import Database, open_database
from aggregator.storage.tables import events, idempotency_keys
from tests.support.examples import NOW

T = TypeVar("T")
KEYS = Rows(idempotency_keys, "digest", "fingerprint", "status", "body", "order_number", "created_at")
FOUND = Lookup(idempotency_keys, "digest", "body", "order_number")
EVENTS = Rows(events, "id", "type", "lane", "body", "created_at")
FORGOTTEN = Changes(idempotency_keys, "digest", "status", "body")
ANSWERED = Changes(idempotency_keys, "digest", "status", "body", "created_at", emptied=("order_number",))


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


@pytest.mark.parametrize("count", [0, 1, 5, 64, 103])
async def test_each_row_gets_values_of_its_own_and_no_other_is_touched(database: Database, count: int) -> None:
    later = NOW + timedelta(days=400, microseconds=1)

    def work(connection: Connection) -> list[tuple[object, ...]]:
        KEYS.insert(connection, [key(number, "first") for number in range(200)])
        changes = [
            (number.to_bytes(16, "big"), 200 + number, f"it's {number} \x01 ✓", later) for number in range(count)
        ]
        ANSWERED.make(connection, changes)
        _, status, body, _, at = (
            idempotency_keys.c[name] for name in ("digest", "status", "body", "order_number", "created_at")
        )
        rows = connection.execute(
            select(status, body, idempotency_keys.c.order_number, at).order_by(idempotency_keys.c.digest)
        )
        return [tuple(row) for row in rows]

    changed = [(200 + number, f"it's {number} \x01 ✓", None, later) for number in range(count)]
    assert await tried(database, work) == changed + [(200, "first", number, NOW) for number in range(count, 200)]


async def test_values_may_become_null(database: Database) -> None:
    def work(connection: Connection) -> tuple[object, ...]:
        KEYS.insert(connection, [key(1, "first")])
        FORGOTTEN.make(connection, [((1).to_bytes(16, "big"), None, None)])
        return tuple(connection.execute(select(idempotency_keys.c.status, idempotency_keys.c.body)).one())

    assert await tried(database, work) == (None, None)


async def test_rows_that_come_in_one_piece_are_those_of_the_query(database: Database) -> None:
    """Instants, truth values, NULL and any text, in the query's order."""
    words = ["plain", 'quotes " and \\', "line\nbreak", "\x01\x1f", "ünïcödé ✓ 😀", ""]
    columns = events.c.id, events.c.body, events.c.created_at, events.c.position, (events.c.body == "").label("empty")
    query = (
        select(*columns)
        .where(events.c.type == bindparam("wanted"))
        .order_by(events.c.id.desc())
        .limit(bindparam("most"))
    )

    def work(connection: Connection) -> tuple[list[list[object]], list[list[object]], int]:
        rows = [(f"evt_{place:032x}", "bulk", "lane", word, NOW) for place, word in enumerate(words)]
        EVENTS.insert(connection, rows)
        values = {"wanted": "bulk", "most": 5}
        found = [list(row) for row in Fetch(query).all(connection, values)]
        plain = [list(row) for row in connection.execute(query, values)]
        none = len(Fetch(query).all(connection, values | {"wanted": "none"}))
        connection.execute(delete(events))
        return found, plain, none

    found, plain, none = await database.write(work)
    assert found == plain
    assert [row[1] for row in plain] == words[:0:-1]
    assert none == 0


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
