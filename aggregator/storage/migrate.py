"""Brings a database to this program's schema: creates an empty one, upgrades an older one, refuses a newer one.

An older SQLite file is copied beside itself first. The migrations travel with the package; no alembic.ini is needed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, NullPool, create_engine, event
from sqlalchemy.exc import OperationalError

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import BUSY_TIMEOUT_MS, Database, SqliteDatabase
from aggregator.storage.files import copy_pages
from aggregator.storage.ownership import check_ours

Told = Callable[[str, float], None]
"""Hears what was done (`copied`, or a schema that was reached) and how many seconds that took; in any thread."""

_PACKAGE: Final = Path(__file__).resolve().parent.parent


class NewerSchema(Exception):
    """The database was written by a newer version of this program; run that version, or restore a backup."""


def migrations_folder() -> Path:
    """Inside an installed package, or at the top of a checkout."""
    shipped = _PACKAGE / "migrations"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "migrations"


def alembic_config(connection: Connection | None = None, reached: Callable[[str], None] | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    if reached is not None:
        config.attributes["reached"] = reached
    return config


def revision(connection: Connection) -> str | None:
    """The schema version that a database says it has; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


async def versions(database: Database) -> tuple[str | None, str]:
    """The schema that a database has (None: it is empty) and the newest one; it is not changed.

    Raises NewerSchema for a database from the future, NotOurDatabase for one of another program.
    """
    await check_ours(database)
    return await _versions(database)


async def _versions(database: Database) -> tuple[str | None, str]:
    scripts = ScriptDirectory.from_config(alembic_config())
    head = scripts.get_current_head() or ""
    before = await database.read(revision)
    if before is not None and before not in {script.revision for script in scripts.walk_revisions()}:
        raise NewerSchema(
            f"the database has schema {before}, which this version does not know (newest here: {head}); "
            "run the version that wrote it, or restore a backup"
        )
    return before, head


async def migrate(database: Database, told: Told = lambda *_: None) -> tuple[str | None, str, Path | None]:
    """Upgrade to the newest schema in one transaction: (version before, version now, backup made or None).

    Raises NewerSchema for a database from the future, NotOurDatabase for one of another program.
    """
    await check_ours(database)
    if isinstance(database, SqliteDatabase):
        database.path.parent.mkdir(parents=True, exist_ok=True)
        # What resellers' customers order is nobody else's business; SQLite gives its other files the same mode.
        database.path.touch(mode=0o600)
    before, head = await _versions(database)
    if before == head:
        return before, head, None
    backup = None
    stopwatch = _Stopwatch(told)
    if before is not None and isinstance(database, SqliteDatabase):
        backup = await asyncio.to_thread(_copy, database.path, before)
        stopwatch("copied")
    if isinstance(database, SqliteDatabase):
        await asyncio.to_thread(_upgrade_file, database.path, stopwatch)
    else:
        await database.write(lambda connection: _upgrade(connection, stopwatch))
    return before, head, backup


class _Stopwatch:
    """Tells how long each step took."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._since = monotonic()

    def __call__(self, reached: str) -> None:
        now = monotonic()
        self._told(reached, now - self._since)
        self._since = now


def _upgrade(connection: Connection, reached: Callable[[str], None]) -> None:
    command.upgrade(alembic_config(connection, reached), "head")


def _upgrade_file(path: Path, reached: Callable[[str], None]) -> None:
    """One transaction with foreign keys off, which cannot be switched inside of one, and checked before the commit.

    SQLite changes a table by building it anew and dropping the old one; with foreign keys on, that deletes the rows
    that refer to it, or is refused.
    """
    engine = create_engine(URL.create("sqlite+pysqlite", database=str(path)), poolclass=NullPool)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            _upgrade(connection, reached)
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise RuntimeError(f"the migration would leave rows without what they refer to: {broken[:5]}")
    except OperationalError as exc:
        raise StorageUnavailable(f"the database cannot be migrated now: {exc.orig}") from exc


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=OFF", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _copy(path: Path, version: str) -> Path:
    """A consistent copy by SQLite's online backup, readable by the owner alone."""
    target = path.with_name(f"{path.name}.before-{version}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    copy_pages(path, target)
    return target
