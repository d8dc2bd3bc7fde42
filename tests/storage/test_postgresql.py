"""PostgreSQL: lost connections, a stopped server, conflicts tried again, and reads of one moment."""

from __future__ import annotations

import asyncio
import signal

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import PostgresDatabase
from tests.support.databases import opened
from tests.support.postgres import PostgresServer
from tests.support.rows import wait_inside


def one(connection: Connection) -> int:
    return int(connection.execute(text("SELECT 1")).scalar_one())


def kill_others(connection: Connection) -> None:
    """Ends every other connection to this database, as an administrator or a failover would."""
    connection.execute(
        text(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )


async def test_a_pool_of_dead_connections_is_replaced_unnoticed(
    postgres_database: PostgresDatabase, postgres_database_url: str
) -> None:
    await asyncio.gather(*(postgres_database.read(one) for _ in range(8)))
    async with opened(postgres_database_url) as administrator:
        await administrator.write(kill_others)
    assert await asyncio.gather(*(postgres_database.write(one) for _ in range(8))) == [1] * 8
    assert await postgres_database.read(one) == 1


async def test_a_connection_lost_in_a_transaction_is_an_outage_and_writes_nothing(
    postgres_database: PostgresDatabase,
) -> None:
    await postgres_database.write(lambda c: c.execute(text("CREATE TABLE notes (word TEXT)")))

    def cut(connection: Connection) -> None:
        connection.execute(text("INSERT INTO notes VALUES ('lost')"))
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StorageUnavailable):
        await postgres_database.write(cut)
    found = await postgres_database.read(lambda c: c.execute(text("SELECT count(*) FROM notes")).scalar())
    assert found == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["shutdown", "crash"])
async def test_a_stopped_server_is_an_outage_and_ends_with_it(
    postgres_database: PostgresDatabase, postgres_server: PostgresServer, how: signal.Signals
) -> None:
    await postgres_database.write(lambda c: c.execute(text("CREATE TABLE notes (word TEXT)")))
    postgres_server.stop(how)
    try:
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await postgres_database.read(one)
            with pytest.raises(StorageUnavailable):
                await postgres_database.write(one)
    finally:
        postgres_server.start()
    assert await postgres_database.write(one) == 1
    assert await postgres_database.read(lambda c: c.execute(text("SELECT count(*) FROM notes")).scalar()) == 0


async def test_a_server_that_stops_in_a_transaction_is_an_outage(
    postgres_database: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    def stopped_in_the_middle(connection: Connection) -> int:
        one(connection)
        postgres_server.stop()
        return one(connection)

    def stopped_before_the_commit(connection: Connection) -> int:
        one(connection)
        postgres_server.stop()
        return 1

    for work in (stopped_in_the_middle, stopped_before_the_commit):
        try:
            with pytest.raises(StorageUnavailable):
                await postgres_database.write(work)
        finally:
            postgres_server.start()
        assert await postgres_database.write(one) == 1


@pytest.mark.parametrize(
    "sqlstate",
    [
        "53100",  # disk full
        "53300",  # too many connections
        "57P01",  # the administrator shuts it down
        "57014",  # a statement was canceled
        "25006",  # a read-only standby
        "55P03",  # a lock that did not come
        "58030",  # an I/O error
        "08006",
        "40001",  # a conflict that does not end
    ],
)
async def test_what_says_nothing_against_the_statement_is_an_outage(
    postgres_database: PostgresDatabase, sqlstate: str
) -> None:
    raises = text(f"DO $$ BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = '{sqlstate}'; END $$")
    with pytest.raises(StorageUnavailable, match="so it is"):
        await postgres_database.write(lambda c: c.execute(raises))
    with pytest.raises(StorageUnavailable, match="so it is"):
        await postgres_database.read(lambda c: c.execute(raises))


async def test_a_wrong_statement_is_no_outage(postgres_database: PostgresDatabase) -> None:
    for statement in ("SELECT nonsense", "SELEC 1"):
        with pytest.raises(ProgrammingError):
            await postgres_database.read(lambda c, s=statement: c.execute(text(s)))  # type: ignore[misc]
    with pytest.raises(DBAPIError, match="division by zero"):
        await postgres_database.write(lambda c: c.execute(text("SELECT 1 / 0")))


async def test_a_database_that_refuses_connections_is_an_outage(
    postgres_server: PostgresServer, postgres_database_url: str
) -> None:
    async with opened(postgres_server.url("nowhere")) as database:
        with pytest.raises(StorageUnavailable, match='database "nowhere" does not exist'):
            await database.read(one)
        with pytest.raises(StorageUnavailable, match='database "nowhere" does not exist'):
            await database.write(one)
    async with opened(postgres_database_url.replace("postgres@", "stranger@")) as database:
        with pytest.raises(StorageUnavailable, match='role "stranger" does not exist'):
            await database.write(one)


async def test_a_deadlock_is_tried_again_and_both_are_written(postgres_database: PostgresDatabase) -> None:
    await postgres_database.write(lambda c: c.execute(text("CREATE TABLE counters (name TEXT, value INTEGER)")))
    await postgres_database.write(lambda c: c.execute(text("INSERT INTO counters VALUES ('a', 0), ('b', 0)")))
    arrived = 0
    both_hold_one = asyncio.Event()
    runs = 0

    def raise_both(connection: Connection, first: str, second: str) -> None:
        nonlocal runs
        runs += 1
        for name in (first, second):
            connection.execute(text("UPDATE counters SET value = value + 1 WHERE name = :name"), {"name": name})
            if name == first:
                meet(connection)

    def meet(connection: Connection) -> None:
        """Only the first two runs wait for each other; whoever is tried again finds the way free."""
        nonlocal arrived
        arrived += 1
        if arrived == 2:
            both_hold_one.set()
        if arrived <= 2:
            wait_inside(both_hold_one.wait())

    await asyncio.gather(
        postgres_database.write(lambda c: raise_both(c, "a", "b")),
        postgres_database.write(lambda c: raise_both(c, "b", "a")),
    )

    values = await postgres_database.read(lambda c: c.execute(text("SELECT value FROM counters")).scalars().all())
    assert values == [2, 2]
    assert runs == 3


async def test_a_read_of_several_statements_sees_one_moment(postgres_database: PostgresDatabase) -> None:
    await postgres_database.write(lambda c: c.execute(text("CREATE TABLE notes (word TEXT)")))
    first_look, written = asyncio.Event(), asyncio.Event()

    def look_twice(connection: Connection) -> list[int]:
        looks = [connection.execute(text("SELECT count(*) FROM notes")).scalar_one()]
        first_look.set()
        wait_inside(written.wait())
        return [*looks, connection.execute(text("SELECT count(*) FROM notes")).scalar_one()]

    async def write_between() -> None:
        await first_look.wait()
        await postgres_database.write(lambda c: c.execute(text("INSERT INTO notes VALUES ('new')")))
        written.set()

    looks, _ = await asyncio.gather(postgres_database.read(look_twice), write_between())
    assert looks == [0, 0]
