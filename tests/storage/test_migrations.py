"""Migrations: an empty database becomes today's schema, an older one is kept safe first, a newer one is refused."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage import idempotency, invariants, orders
from aggregator.storage import migrate as migrate_module
from aggregator.storage.database import Database, SqliteDatabase
from aggregator.storage.idempotency import Entry, Stored
from aggregator.storage.migrate import NewerSchema, alembic_config, migrate, revision
from aggregator.storage.tables import metadata
from benchmarks.migrating import REWRITTEN, columns_of, sums
from benchmarks.past import KINDS, Past
from tests.support import rows
from tests.support.databases import opened, sqlite_url, violations

HEAD = ScriptDirectory.from_config(alembic_config()).get_current_head()


def schema(connection: Connection) -> dict[str, Any]:
    """Everything that a database knows of its own schema, in its own words."""
    found: dict[str, Any] = {}
    inspector = inspect(connection)
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        found[table] = {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            },
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": sorted(inspector.get_foreign_keys(table), key=repr),
            "unique": sorted(inspector.get_unique_constraints(table), key=repr),
            "checks": sorted((check["name"], check["sqltext"]) for check in inspector.get_check_constraints(table)),
        }
    if connection.dialect.name == "sqlite":
        master = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
        counted = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%' ORDER BY name"
        found["numbered for ever"] = list(connection.execute(text(counted)).scalars())
    else:
        master = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname"
        constraints = (
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
        )
        found["constraints"] = [tuple(row) for row in connection.execute(text(constraints))]
    found["indexes"] = {name: sql for name, sql in connection.execute(text(master)) if "alembic_version" not in name}
    return found


def _without_alembic(found: dict[str, Any]) -> dict[str, Any]:
    if "constraints" in found:
        found["constraints"] = [row for row in found["constraints"] if row[0] != "alembic_version"]
    return found


async def test_the_migrations_make_exactly_the_tables_of_the_program(database: Database) -> None:
    migrated = _without_alembic(await database.read(schema))

    def from_tables(connection: Connection) -> dict[str, Any]:
        metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
        metadata.create_all(connection)
        return schema(connection)

    declared = await database.write(from_tables)
    assert migrated == declared
    assert set(metadata.tables) <= set(migrated)


async def test_alembic_sees_no_difference_to_the_tables_of_the_program(database: Database) -> None:
    assert await database.read(_differences) == []


def _differences(connection: Connection) -> list[Any]:
    # alembic reads SQLite's '' as another default than ""; the test above compares the defaults to the letter.
    defaults = connection.dialect.name != "sqlite"
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": defaults})
    return list(compare_metadata(context, metadata))


def test_every_partial_index_is_partial_on_both_databases() -> None:
    indexes = [index for table in metadata.tables.values() for index in table.indexes]
    partial = [index for index in indexes if index.dialect_options["sqlite"]["where"] is not None]
    assert partial
    for index in indexes:
        where = [index.dialect_options[dialect]["where"] for dialect in ("sqlite", "postgresql")]
        assert str(where[0]) == str(where[1]), index.name


def test_there_is_one_line_of_migrations() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


async def test_an_empty_database_becomes_todays_and_a_second_time_changes_nothing(empty_database_url: str) -> None:
    async with opened(empty_database_url) as database:
        assert await migrate(database) == (None, HEAD, None)
        before = await database.read(schema)
        assert await migrate(database) == (HEAD, HEAD, None)
        assert await database.read(schema) == before
        assert await database.read(revision) == HEAD


async def test_a_database_from_the_future_is_refused_and_left_alone(database: Database) -> None:
    await database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    before = await database.read(schema)

    with pytest.raises(NewerSchema, match="has schema 9999, which this version does not know") as caught:
        await migrate(database)

    assert f"newest here: {HEAD}" in str(caught.value)
    assert await database.read(schema) == before
    assert await database.read(revision) == "9999"


async def _released(url: str) -> AsyncIterator[tuple[str, Database]]:
    """The revision of every release, each with an empty database."""
    for script in ScriptDirectory.from_config(alembic_config()).walk_revisions():
        async with opened(url) as database:
            if isinstance(database, SqliteDatabase):
                database.path.unlink(missing_ok=True)
            await database.write(_nothing_left)
            yield script.revision, database


async def test_the_schema_of_every_earlier_release_becomes_todays(empty_database_url: str) -> None:
    async for released, database in _released(empty_database_url):
        await database.write(lambda c, r=released: command.upgrade(alembic_config(c), r))  # type: ignore[misc]
        before, now, backup = await migrate(database)
        assert (before, now) == (released, HEAD)
        assert (backup is not None) == (database.kind == "sqlite" and released != HEAD)
        assert await database.read(_differences) == []


async def test_no_row_of_any_earlier_release_is_lost(empty_database_url: str) -> None:
    """Every table that a schema has gets rows; what they say reads the same in today's."""
    async for released, database in _released(empty_database_url):
        await database.write(lambda c, r=released: _filled(c, r))  # type: ignore[misc]
        columns = await database.read(columns_of)
        before = await database.read(lambda c, names=columns: sums(c, names))  # type: ignore[misc]
        assert all(count for count, _ in before.values()), f"{released} has an empty table"
        steps: list[str] = []
        await migrate(database, lambda reached, _, steps=steps: steps.append(reached))  # type: ignore[misc]
        assert steps[-1:] == ([HEAD] if released != HEAD else []), "an operator hears of each step"
        left = await database.read(columns_of)
        changed = {table for table in columns if not set(columns[table]) <= set(left[table])}
        assert changed <= REWRITTEN
        assert await database.read(lambda c, names=columns: sums(c, names)) == before  # type: ignore[misc]
        # A wish that its order knows nothing of: no stage would have made it.
        await database.write(lambda c: c.execute(text("DELETE FROM cancels")))
        assert await database.read(invariants.check) == []
        await database.write(_nothing_left)


def _filled(connection: Connection, schema: str) -> None:
    """A database of that schema, with a hundred orders of a year ago and something in every other table."""
    command.upgrade(alembic_config(connection), schema)
    Past(connection, old_keys=schema < "0009").write(1, KINDS)
    at = "18000000000000000" if connection.dialect.name == "sqlite" else "'2026-11-21T18:00:00Z'"
    none = "X'00'" if connection.dialect.name == "sqlite" else "'\\x00'"
    for table, columns in _OTHERS.items():
        if not inspect(connection).has_table(table):
            continue
        given = {name: {"AT": at, "BYTES": none}.get(value, value) for name, value in columns.items()}
        names = ", ".join(f'"{name}"' for name in given)
        connection.exec_driver_sql(f"INSERT INTO {table} ({names}) VALUES ({', '.join(given.values())})")


_OTHERS = {
    "providers": {"name": "'smmplus'", "updated_at": "AT", "balance_units": "5", "balance_currency": "'USD'"},
    "provider_services": {
        **{name: "'1'" for name in ("provider", "service", "name", "type", "category")},
        **{"kind": "'smm'", "currency": "'USD'", "rate_units": "90000000", "minimum": "1", "maximum": "9"},
        **dict.fromkeys(("refill", "cancel", "has_stock", "auto_delivery"), "true"),
        **dict.fromkeys(("first_seen_at", "seen_at"), "AT"),
    },
    "prices": {"provider_service": "1", "rate_units": "90000000", "at": "AT"},
    "offer_history": {"provider": "'smmplus'", "service": "'1'", "completed": "90", "updated_at": "AT"},
    "unknown_words": {"provider": "'x'", "word": "'y'", "seen": "1", "first_at": "AT", "last_at": "AT"},
    "cancels": {
        **{"id": "'cnl_1'", "order_number": "4", "provider": "'smmplus'", "state": "'unclear'"},
        **dict.fromkeys(("requested_at", "sent_at"), "AT"),
    },
    "endpoints": {"name": "'shop'", "created_at": "AT", "updated_at": "AT"},
    "replays": {"endpoint": "'shop'", "kind": "'parked'", "after": "0", "until": "9", "created_at": "AT"},
    "number_ids": {"id": "1000", "order_number": "3"},
    "removed_purchases": {"provider": "'smmplus'", "provider_order": "'1'", "order_number": "9"},
    "sealing_keys": {"fingerprint": "'f'", "seals": "true", "since": "AT"},
}


def _nothing_left(connection: Connection) -> None:
    metadata.drop_all(connection)
    connection.execute(text("DROP TABLE IF EXISTS alembic_version"))


# --- the next release: the same migrations and one more

_NEXT = f'''
"""What a next release might do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = {HEAD!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
'''


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Adds a migration with this body to a copy of the migrations."""
    copy = tmp_path / "migrations 100%"
    shutil.copytree(migrate_module.migrations_folder(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate_module, "migrations_folder", lambda: copy)

    def add(body: str) -> None:
        (copy / "versions" / "next.py").write_text(
            _NEXT.lstrip() + "".join(f"    {line}\n" for line in body.splitlines())
        )

    return add


async def _two_orders(database: Database) -> None:
    def work(connection: Connection) -> None:
        rows.accept(connection)
        rows.buy(connection, rows.accept(connection))

    await database.write(work)


def _orders(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM orders")).scalar_one())


async def test_an_older_database_is_upgraded_and_a_sqlite_file_is_copied_first(
    database: Database, next_release: Callable[[str], None]
) -> None:
    await _two_orders(database)
    next_release('op.create_table("novelties", sa.Column("id", sa.Integer, primary_key=True))')

    before, now, backup = await migrate(database)

    assert (before, now) == (HEAD, "next")
    assert await database.read(lambda c: inspect(c).has_table("novelties"))
    assert await database.read(_orders) == 2
    if not isinstance(database, SqliteDatabase):
        assert backup is None
        return
    assert backup is not None
    assert backup.name.startswith(f"{database.path.name}.before-{HEAD}-")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert violations(sqlite_url(backup)) == []
    async with opened(sqlite_url(backup)) as copy:
        assert await copy.read(revision) == HEAD
        assert await copy.read(_orders) == 2
        assert not await copy.read(lambda c: inspect(c).has_table("novelties"))


async def test_a_migration_that_fails_leaves_the_database_as_it_was(
    database: Database, next_release: Callable[[str], None]
) -> None:
    await _two_orders(database)
    before = await database.read(schema)
    next_release(
        'op.create_table("novelties", sa.Column("id", sa.Integer, primary_key=True))\n'
        'op.add_column("orders", sa.Column("colour", sa.String(10)))\n'
        'op.execute("DELETE FROM events")\n'
        'raise RuntimeError("half way")'
    )

    with pytest.raises(RuntimeError, match="half way"):
        await migrate(database)

    assert await database.read(schema) == before
    assert await database.read(revision) == HEAD
    assert await database.read(_orders) == 2


async def test_a_migration_that_rebuilds_a_table_keeps_what_refers_to_it(
    database: Database, next_release: Callable[[str], None]
) -> None:
    """SQLite builds a changed table anew and drops the old one, with everything that hangs on it unless told not to."""
    await _two_orders(database)
    await database.write(
        lambda c: c.execute(
            text(
                "INSERT INTO provider_services (provider, service, country, kind, name, type, category, currency,"
                " minimum, maximum, refill, cancel, has_stock, auto_delivery, first_seen_at, seen_at)"
                " SELECT 'p', 's', '', 'smm', 'n', 'Default', 'c', 'USD', 1, 9, true, true, true, true,"
                " created_at, created_at FROM orders WHERE number = 1"
            )
        )
    )
    await database.write(
        lambda c: c.execute(
            text(
                "INSERT INTO prices (provider_service, rate_units, at)"
                " SELECT s.id, 5, o.created_at FROM provider_services s, orders o WHERE o.number = 1"
            )
        )
    )
    counts = {table: await database.read(_count_of(table)) for table in ("orders", "events", "attempts", "prices")}
    assert min(counts.values()) > 0
    next_release(
        'for table in ("orders", "provider_services"):\n'
        "    with op.batch_alter_table(table) as batch:\n"
        '        batch.add_column(sa.Column("colour", sa.String(10)))\n'
        '        batch.alter_column("provider", type_=sa.String(120))'
    )

    await migrate(database)

    assert {table: await database.read(_count_of(table)) for table in counts} == counts
    if isinstance(database, SqliteDatabase):
        assert await database.read(lambda c: c.exec_driver_sql("PRAGMA foreign_key_check").fetchall()) == []
    # What the program relies on is still there: numbers go on, and foreign keys are kept.
    await database.write(lambda c: rows.accept(c))
    with pytest.raises(DBAPIError):
        await database.write(lambda c: c.execute(text("DELETE FROM orders WHERE number = 1")))


def _count_of(table: str) -> Callable[[Connection], int]:
    return lambda connection: int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


async def test_a_migration_that_orphans_rows_is_refused(
    sqlite_database: SqliteDatabase, next_release: Callable[[str], None]
) -> None:
    await _two_orders(sqlite_database)
    next_release('op.execute("DELETE FROM orders")')
    with pytest.raises(RuntimeError, match="without what they refer to"):
        await migrate(sqlite_database)
    assert await sqlite_database.read(_orders) == 2


async def test_a_file_locked_by_somebody_else_is_not_migrated(
    sqlite_database_url: str, next_release: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "BUSY_TIMEOUT_MS", 50)
    next_release("pass")
    async with opened(sqlite_database_url) as database, opened(sqlite_database_url) as other:
        assert isinstance(database, SqliteDatabase)

        async def meanwhile() -> None:
            with pytest.raises(StorageUnavailable, match="locked"):
                await migrate(database)

        await other.write(lambda c: c.execute(text("CREATE TABLE notes (word TEXT)")))
        await _while_writing(other, meanwhile)
        assert await database.read(revision) == HEAD


async def _while_writing(database: Database, meanwhile: Callable[[], Awaitable[None]]) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        entered.set()
        assert go_on.wait(20)

    holding = asyncio.create_task(database.write(hold))
    assert await asyncio.to_thread(entered.wait, 20)
    try:
        await meanwhile()
    finally:
        go_on.set()
        await holding


# --- numbers


async def test_a_number_is_never_given_twice_even_after_its_row_is_gone(database: Database) -> None:
    first = await database.write(rows.accept)
    second = await database.write(rows.accept)

    def forget(connection: Connection) -> None:
        connection.execute(text("DELETE FROM events WHERE order_number = :number"), {"number": second.number})
        connection.execute(text("DELETE FROM orders WHERE number = :number"), {"number": second.number})

    await database.write(forget)
    third = await database.write(rows.accept)

    assert first.number < second.number < third.number
    seqs = await database.read(lambda c: list(c.execute(text("SELECT seq FROM events ORDER BY seq")).scalars()))
    assert len(seqs) == 2
    assert seqs[1] > 2
    assert await database.read(lambda c: orders.load(c, second.number)) is None


async def test_orders_of_before_count_all_their_runs_and_their_numbers_go_on(empty_database_url: str) -> None:
    async with opened(empty_database_url) as database:
        await database.write(lambda c: command.upgrade(alembic_config(c), "0004"))

        def fill(connection: Connection) -> None:
            at = "18000000000000000" if connection.dialect.name == "sqlite" else "'2026-11-21T18:00:00Z'"
            for place, params in enumerate(('{"runs":"3","interval":"60"}', '{"runs":"1","interval":"5"}', "{}", "{}")):
                connection.execute(
                    text(
                        "INSERT INTO orders (id, owner, service, kind, state, quantity, params, metadata, created_at,"
                        " updated_at, sequence, version, next_route_at)"
                        f" VALUES (:id, 'shop', 's', 'smm', 'accepted', 200, :params, '{{}}', {at}, {at}, 1, 1, {at})"
                    ),
                    {"id": f"ord_{place}", "params": params},
                )
            connection.execute(text("DELETE FROM orders WHERE id = 'ord_3'"))

        await database.write(fill)
        await migrate(database)

        def found(connection: Connection) -> list[tuple[str, int, str]]:
            rows = connection.execute(text("SELECT id, quantity, role FROM orders ORDER BY number"))
            return [(row[0], row[1], row[2]) for row in rows]

        assert await database.read(found) == [("ord_0", 600, "order"), ("ord_1", 200, "order"), ("ord_2", 200, "order")]
        assert (await database.write(rows.accept)).number == 5

        def forget(connection: Connection) -> None:
            connection.execute(text("DELETE FROM events"))
            connection.execute(text("DELETE FROM orders"))

        # They were put there without their events, which the checker would miss.
        await database.write(forget)


async def test_idempotency_keys_of_before_still_have_their_answers(empty_database_url: str) -> None:
    kept = {("shop", "k-1"): (201, '{"id":"ord_1"}'), ("shop", "käse"): (422, "{}"), ("other", "k-1"): (200, "[]")}
    mark = idempotency.fingerprint("POST", "/v1/orders", b"{}")
    async with opened(empty_database_url) as database:
        await database.write(lambda c: command.upgrade(alembic_config(c), "0007"))

        def fill(connection: Connection) -> None:
            at = "18000000000000000" if connection.dialect.name == "sqlite" else "'2026-11-21T18:00:00Z'"
            for (owner, key), (status, body) in kept.items():
                connection.execute(
                    text(
                        "INSERT INTO idempotency_keys (owner, key, fingerprint, status, body, created_at)"
                        f" VALUES (:owner, :key, :mark, :status, :body, {at})"
                    ),
                    {
                        "owner": owner,
                        "key": key,
                        "mark": hashlib.sha256(b"POST\0/v1/orders\0{}").hexdigest(),
                        "status": status,
                        "body": body,
                    },
                )

        await database.write(fill)
        await migrate(database)
        found = await database.read(lambda c: idempotency.find_all(c, [*kept, ("shop", "none")]))
    assert found == {name: Entry(mark, Stored(*answer)) for name, answer in kept.items()}
