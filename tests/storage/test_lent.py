"""The database that tests are lent one after another: each finds it as after a migration, whatever the last one did."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, func, select, text

from aggregator.storage import tables
from tests.support.databases import apart, opened
from tests.support.lent import LentDatabase
from tests.support.postgres import PostgresServer
from tests.support.rows import accept, buy, lose, sequence


@pytest.fixture(scope="module")
def lent(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[LentDatabase]:
    made = LentDatabase(postgres_server, request.getfixturevalue("_postgres_template"))
    yield made
    made.close()


def write(url: str, *works: Callable[[Connection], object]) -> None:
    async def all_of_them() -> None:
        async with opened(url) as database:
            for work in works:
                await database.write(work)

    apart(all_of_them)


def orders(connection: Connection) -> None:
    buy(connection, accept(connection))
    lose(connection, accept(connection))
    sequence(connection, "shop")


def test_the_next_finds_no_row_and_the_first_number(lent: LentDatabase) -> None:
    urls = set()
    for _ in range(2):
        with lent.lend() as url:
            urls.add(url)
            write(url, first_number_is_one, orders)
            assert lent.violations() == []
    assert len(urls) == 1


def first_number_is_one(connection: Connection) -> None:
    for table in tables.metadata.sorted_tables:
        assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0, table.name
    assert accept(connection).number == 1


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE notes (word TEXT)",
        "CREATE INDEX more ON orders (owner)",
        "ALTER TABLE orders ALTER COLUMN owner DROP NOT NULL",
        "ALTER TABLE orders DROP COLUMN owner CASCADE",
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "UPDATE alembic_version SET version_num = '0001'",
        "ANALYZE orders",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$",
    ],
)
def test_another_schema_is_thrown_away(lent: LentDatabase, change: str) -> None:
    with lent.lend() as first:
        write(first, orders, lambda c: c.execute(text(change)))
    with lent.lend() as second:
        write(second, first_number_is_one)
    assert first != second


def test_what_is_wrong_is_seen(lent: LentDatabase) -> None:
    with lent.lend() as url:
        write(url, orders, lambda c: c.execute(text("UPDATE orders SET sequence = sequence + 1")))
        assert any("numbered from 1 without gap" in line for line in lent.violations())
    with lent.lend() as url:
        assert lent.violations() == []


def test_a_server_that_was_stopped_is_no_end(lent: LentDatabase, postgres_server: PostgresServer) -> None:
    with lent.lend() as url:
        write(url, orders)
        postgres_server.stop()
        postgres_server.start()
    with lent.lend() as url:
        write(url, first_number_is_one)
