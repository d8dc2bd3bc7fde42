"""A database as one file, made while the daemon is at work: consistent, verified, and whole or not there at all.

The file is a SQLite database of this program, whichever kind it was made of. The key that seals delivered accounts is
not in it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage import invariants
from aggregator.storage.copying import CannotCopy, Told, copy_all, orders_in, session
from aggregator.storage.database import Database, SqliteDatabase, open_database
from aggregator.storage.files import copy_pages, flush, make_private, one_file
from aggregator.storage.migrate import migrate, versions

PARTIAL: Final = ".partial"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was verified."""

    path: Path
    bytes: int
    orders: int
    schema: str


async def back_up(database: Database, target: Path, told: Told = lambda *_: None) -> Backup:
    """Write the database to the file `target`, which must not be there yet; only its owner can read it.

    CannotCopy says why it was not made, StorageUnavailable that the database or the disk is at fault.
    """
    before, newest = await versions(database)
    if before != newest:
        have = f"has schema {before}" if before else "is empty"
        raise CannotCopy(f"the database {have}, this version's is {newest}; run `aggregator migrate` first")
    if await asyncio.to_thread(target.exists):
        raise CannotCopy(f"{target} is there already; name another file, or remove it")
    partial = target.with_name(target.name + PARTIAL)
    try:
        if isinstance(database, SqliteDatabase):
            await asyncio.to_thread(_copy_file, database.path, partial)
        else:
            await _copy_rows(database, partial, told)
        orders = await verify(partial)
        size = await asyncio.to_thread(_publish, partial, target)
    except (OSError, sqlite3.Error, DBAPIError) as exc:
        raise StorageUnavailable(f"{target} cannot be written: {getattr(exc, 'orig', None) or exc}") from exc
    finally:
        for left in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                partial.with_name(partial.name + left).unlink(missing_ok=True)
    return Backup(target, size, orders, newest)


def _copy_file(source: Path, target: Path) -> None:
    copy_pages(source, target)
    # One file, to be moved about: nothing of it may stand in a second one.
    one_file(target)


async def _copy_rows(database: Database, target: Path, told: Told) -> None:
    await asyncio.to_thread(make_private, target)
    made = open_database(f"sqlite:///{target}")
    try:
        await migrate(made)
        await copy_all(database, made, told)
    finally:
        await made.close()
    await asyncio.to_thread(one_file, target)


async def verify(path: Path) -> int:
    """Read a whole copy: pages, references and the program's own promises; how many orders it has.

    CannotCopy: it is not sound.
    """
    broken = await asyncio.to_thread(_broken_pages, path)
    database = open_database(f"sqlite:///{path}")
    try:
        async with session(database) as read:
            broken += await read(lambda connection: invariants.check(connection, pruned=True))
            orders = await read(orders_in)
    finally:
        await database.close()
    if broken:
        raise CannotCopy(f"the copy is not sound, and was not kept: {'; '.join(broken[:5])}")
    return orders


def _broken_pages(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        lost = connection.execute("PRAGMA foreign_key_check").fetchall()
    return [line for line in found if line != "ok"] + [f"row {row[1]} of {row[0]} refers to nothing" for row in lost]


def _publish(partial: Path, target: Path) -> int:
    """Give it its name once it is on the disk; its size in bytes."""
    flush(partial)
    size = partial.stat().st_size
    os.link(partial, target)  # refuses a name that somebody took meanwhile
    flush(target.parent)
    return size
