"""All rows into another database, on every pair of kinds; and a file of a database that others write to meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select, update

from aggregator.domain.orders import OrderState
from aggregator.storage import backups, copying, deliverables
from aggregator.storage.backups import PARTIAL, back_up
from aggregator.storage.copying import BATCH, CannotCopy, copy_all
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer
from aggregator.storage.migrate import migrate
from aggregator.storage.tables import events, idempotency_keys, metadata, orders, sequences
from tests.support import rows
from tests.support.databases import opened, sqlite_url
from tests.support.examples import NOW
from tests.support.postgres import PostgresServer

KEY = "Y29waWVkLWtleS1vZi0zMi1ieXRlcy0wMDAwMDAwMDA="


def filled(connection: Connection) -> None:
    """Something in most tables, with texts and bytes that one kind might spoil."""
    bought = rows.buy(connection, rows.accept(connection, link="https://example.com/ü\U0001f600", metadata={"a": None}))
    rows.report(connection, bought, state=OrderState.COMPLETED, start_count=10, remains=0)
    rented = rows.accept(connection, kind="sms", service="code", link=None)
    rows.buy(connection, rented, rented=("+12025550100", "+12025550101"))
    rows.lose(connection, rows.accept(connection))
    rows.refuse(connection, rows.accept(connection))
    product = rows.buy(connection, rows.accept(connection, kind="product", service="gmail"))
    deliverables.add_new(connection, Sealer(KEY), product.number, ["user:pass\x7f"], NOW)
    rows.sequence(connection, "shop")
    digest = bytes(range(16))
    key = {"digest": digest, "fingerprint": digest[::-1], "order_number": bought.number, "created_at": NOW}
    connection.execute(idempotency_keys.insert(), [key])


def content(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    return {
        table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
        for table in metadata.sorted_tables
    }


def found(folder: Path) -> list[str]:
    """What stands there of a backup, whole or not."""
    return sorted(path.name for path in folder.glob("copy.db*"))


@asynccontextmanager
async def another(kind: str, folder: Path, server: PostgresServer) -> AsyncIterator[Database]:
    """An empty, migrated database of this kind."""
    url = sqlite_url(folder / "target.db") if kind == "sqlite" else server.url(server.create())
    async with opened(url) as target:
        await migrate(target)
        yield target


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_everything_comes_along_and_numbers_go_on(
    database: Database, kind: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    await database.write(filled)
    # The newest order is gone again: its number stays given.
    gone = await database.write(rows.accept)
    await database.write(lambda c: c.execute(events.delete().where(events.c.order_number == gone.number)))
    await database.write(lambda c: c.execute(orders.delete().where(orders.c.number == gone.number)))
    async with another(kind, tmp_path, postgres_server) as target:
        copied = await copy_all(database, target)
        before, after = await database.read(content), await target.read(content)
        assert after == before
        assert copied == {name: len(found) for name, found in before.items()}
        assert copied["orders"] == 5
        assert all(
            copied[name]
            for name in ("attempts", "events", "deliveries", "numbers", "accounts", "ledger")
            if name != "ledger"
        )
        fresh = await target.write(rows.accept)
        assert fresh.number > gone.number
        assert await target.write(rows.sequence) == 1


async def test_more_rows_than_a_batch_holds_come_along(sqlite_database: Database, tmp_path: Path) -> None:
    count = 2 * BATCH + 1
    told: list[tuple[str, int]] = []

    def write(connection: Connection) -> None:
        for _ in range(count):
            rows.accept(connection)

    await sqlite_database.write(write)
    async with opened(sqlite_url(tmp_path / "target.db")) as target:
        await migrate(target)
        copied = await copy_all(sqlite_database, target, lambda table, rows_: told.append((table, rows_)))
    assert copied["orders"] == copied["events"] == count
    assert [rows_ for table, rows_ in told if table == "orders"] == [BATCH, 2 * BATCH, count]


async def test_a_target_that_holds_something_is_refused(sqlite_database: Database, tmp_path: Path) -> None:
    async with opened(sqlite_url(tmp_path / "target.db")) as target:
        await migrate(target)
        await target.write(rows.accept)
        await sqlite_database.write(filled)
        before = await target.read(content)
        with pytest.raises(CannotCopy, match="not empty: it has rows in orders"):
            await copy_all(sqlite_database, target)
        assert await target.read(content) == before


async def test_a_copy_that_says_something_else_is_not_kept(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite_database.write(filled)
    real = copying._set_counters

    def spoil(connection: Connection, counters: dict[str, int]) -> None:
        connection.execute(update(orders).values(remains=7))
        real(connection, counters)

    monkeypatch.setattr(copying, "_set_counters", spoil)
    async with opened(sqlite_url(tmp_path / "target.db")) as target:
        await migrate(target)
        with pytest.raises(CannotCopy, match="the copy of orders does not say the same"):
            await copy_all(sqlite_database, target)
        assert not any((await target.read(content)).values())


async def test_an_unsound_source_is_not_copied(sqlite_database: Database, tmp_path: Path) -> None:
    await sqlite_database.write(filled)
    await sqlite_database.write(lambda c: c.execute(update(orders).values(sequence=orders.c.sequence + 1)))
    async with opened(sqlite_url(tmp_path / "target.db")) as target:
        await migrate(target)
        with pytest.raises(CannotCopy, match="the database is not sound: order"):
            await copy_all(sqlite_database, target)
    with pytest.raises(CannotCopy, match="not sound, and was not kept"):
        await back_up(sqlite_database, tmp_path / "copy.db")
    assert found(tmp_path) == []
    await sqlite_database.write(lambda c: c.execute(update(orders).values(sequence=orders.c.sequence - 1)))


# --- backups


async def test_a_backup_is_one_whole_private_file(database: Database, tmp_path: Path) -> None:
    await database.write(filled)
    made = await back_up(database, tmp_path / "copy.db")
    assert (made.orders, made.bytes) == (5, (tmp_path / "copy.db").stat().st_size)
    assert found(tmp_path) == ["copy.db"]
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    async with opened(sqlite_url(tmp_path / "copy.db")) as copy:
        assert await copy.read(content) == await database.read(content)


async def test_a_backup_is_of_one_moment_while_others_write(database: Database, tmp_path: Path) -> None:
    """Orders and their events are written together: a copy that has one of them has the other."""
    stop = asyncio.Event()
    made = 0

    async def order_on() -> None:
        nonlocal made
        while not stop.is_set():
            await database.write(lambda c: rows.buy(c, rows.accept(c)))
            made += 1

    await database.write(filled)
    writing = [asyncio.create_task(order_on()) for _ in range(3)]
    try:
        for turn in range(3):
            begun = made
            copy = await back_up(database, tmp_path / f"copy{turn}.db")
            assert 5 + begun <= copy.orders <= 5 + made + len(writing)
    finally:
        stop.set()
        await asyncio.gather(*writing)
    assert made > 0


async def test_a_file_that_is_there_is_never_written_over(sqlite_database: Database, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("somebody's")
    (tmp_path / f"copy.db{PARTIAL}").write_text("of a try that was killed")
    with pytest.raises(CannotCopy, match="is there already"):
        await back_up(sqlite_database, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "somebody's"
    (tmp_path / "copy.db").unlink()
    await back_up(sqlite_database, tmp_path / "copy.db")
    assert found(tmp_path) == ["copy.db"]


async def test_a_file_of_that_name_that_comes_meanwhile_stays(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backups.verify

    async def verify(path: Path) -> int:
        (tmp_path / "copy.db").write_text("somebody's")
        return await real(path)

    monkeypatch.setattr(backups, "verify", verify)
    with pytest.raises(Exception, match="cannot be written"):
        await back_up(sqlite_database, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "somebody's"
    assert found(tmp_path) == ["copy.db"]


async def test_a_page_that_was_spoilt_is_seen(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite_database.write(filled)
    real = backups._copy_file

    def spoilt(source: Path, target: Path) -> None:
        real(source, target)
        with sqlite3.connect(target) as connection:
            (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_orders_state'").fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.close()
        with target.open("r+b") as file:
            file.seek((root - 1) * size)
            file.write(b"\xff" * size)

    monkeypatch.setattr(backups, "_copy_file", spoilt)
    with pytest.raises(Exception, match=r"not sound|cannot be written"):
        await back_up(sqlite_database, tmp_path / "copy.db")
    assert found(tmp_path) == []


async def test_an_empty_database_has_no_backup(empty_database_url: str, tmp_path: Path) -> None:
    async with opened(empty_database_url) as database:
        with pytest.raises(CannotCopy, match="run `aggregator migrate` first"):
            await back_up(database, tmp_path / "copy.db")
    assert found(tmp_path) == []


async def test_the_sequencers_place_comes_along(database: Database, tmp_path: Path) -> None:
    await database.write(filled)
    await back_up(database, tmp_path / "copy.db")
    async with opened(sqlite_url(tmp_path / "copy.db")) as copy:
        query = select(func.max(sequences.c.value))
        assert await copy.read(lambda c: c.execute(query).scalar()) == await database.read(
            lambda c: c.execute(query).scalar()
        )
