"""A backup becomes the daemon's database: checked, brought to the newest schema, held, and put in place at once.

The backup is only read. What was there before is kept beside it (SQLite), or removed in the same transaction
(PostgreSQL); a restore that does not come to its end has changed nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.backups import verify
from aggregator.storage.copying import CannotCopy, Told, copy_all, session
from aggregator.storage.database import Database, SqliteDatabase, open_database
from aggregator.storage.files import copy_pages, flush, one_file
from aggregator.storage.migrate import migrate
from aggregator.storage.orders import any_order
from aggregator.storage.ownership import check_ours

T = TypeVar("T")
WORK: Final = ".restoring"


async def restore(
    backup: Path,
    database: Database,
    hold: Callable[[Connection], T],
    *,
    replace: bool,
    told: Told = lambda *_: None,
) -> tuple[T, Path | None]:
    """Put the backup in the place of `database`, whose lock the caller has, after `hold` in a transaction of its own:
    (what that answered, where the earlier SQLite file is now).

    CannotCopy: the backup cannot be used, or the database holds orders and `replace` is not said. StorageUnavailable:
    a disk or a server is at fault.
    """
    if not replace:
        await _must_be_empty(database)
    with _working_file(database) as work:
        try:
            await asyncio.to_thread(_read, backup, work)
            held = await _prepared(work, hold)
            if isinstance(database, SqliteDatabase):
                return held, await asyncio.to_thread(_put, work, database.path)
            copy = open_database(f"sqlite:///{work}")
            try:
                await migrate(database)
                await copy_all(copy, database, told, replace=replace)
            finally:
                await copy.close()
        except OSError as exc:
            raise StorageUnavailable(f"the backup cannot be put in place: {exc}") from exc
        return held, None


async def _must_be_empty(database: Database) -> None:
    remedy = f"; --replace {'puts it aside' if isinstance(database, SqliteDatabase) else 'removes what it holds'}"
    if isinstance(database, SqliteDatabase) and not await asyncio.to_thread(database.path.exists):
        return
    try:
        await check_ours(database)
        async with session(database) as read:
            holds = await read(lambda c: c.dialect.has_table(c, "orders") and any_order(c))
    except StorageUnavailable as exc:
        raise CannotCopy(f"the database that is there cannot be used: {exc}{remedy}") from exc
    if holds:
        raise CannotCopy(f"the database holds orders{remedy}")


@contextmanager
def _working_file(database: Database) -> Iterator[Path]:
    """Beside a SQLite file, so that it can take that one's place; gone at the end, however it comes."""
    with tempfile.TemporaryDirectory(prefix="aggregator-restore-") as temporary:
        path = Path(temporary) / "work.db"
        if isinstance(database, SqliteDatabase):
            path = database.path.with_name(database.path.name + WORK)
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            # The copy that a migration makes of an older schema among them.
            for left in path.parent.glob(f"{path.name}*"):
                with suppress(OSError):
                    left.unlink()


def _read(backup: Path, work: Path) -> None:
    """Copy the backup's pages; it is opened for reading alone."""
    if not backup.is_file():
        raise CannotCopy(f"there is no file {backup}")
    try:
        copy_pages(backup, work, read_only=True)
    except sqlite3.DatabaseError as exc:
        raise CannotCopy(f"{backup} is not a backup that can be read: {exc}") from exc


async def _prepared(work: Path, hold: Callable[[Connection], T]) -> T:
    """The working file with the newest schema, sound, and held."""
    database = open_database(f"sqlite:///{work}")
    try:
        try:
            before, _, _ = await migrate(database)
        except StorageUnavailable as exc:
            raise CannotCopy(f"the backup cannot be used: {exc}") from exc
        if before is None:
            raise CannotCopy("the backup is empty")
    finally:
        await database.close()
    await verify(work)
    database = open_database(f"sqlite:///{work}")
    try:
        held = await database.write(hold)
    finally:
        await database.close()
    await verify(work)
    await asyncio.to_thread(one_file, work)
    return held


def _put(work: Path, path: Path) -> Path | None:
    """Give the working file the database's name; the earlier one keeps its content under another."""
    kept: Path | None = None
    if path.exists():
        kept = path.with_name(f"{path.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        # A log that stayed beside the name would be read into the restored file.
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(path)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            old.execute("PRAGMA journal_mode=DELETE")
        for ending in ("-wal", "-shm", "-journal"):
            log = path.with_name(path.name + ending)
            if log.exists():
                shutil.move(log, kept.with_name(kept.name + ending))
        os.link(path, kept)
    flush(work)
    os.replace(work, path)
    flush(path.parent)
    return kept
