"""Whether a database is ours: empty, or made by this program. Anybody else's is refused, and nothing in it is changed.

It is looked at before anything is opened for writing: SQLite's switch to WAL alone would rewrite another's file.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, text

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import Database, SqliteDatabase

VERSION_TABLE: Final = "alembic_version"
_OURS: Final = frozenset({VERSION_TABLE, "orders", "attempts", "events", "deliveries", "provider_services"})
"""Tables that every version of this program has had."""
_MAGIC: Final = b"SQLite format 3\0"
_MOST_NAMED: Final = 5
_REMEDY: Final = "`database` in the config must name one of its own"
# What an extension brought along belongs to the server, not to another program.
_POSTGRES_TABLES: Final = text(
    "SELECT c.relname FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace"
    " AND c.relkind IN ('r', 'p', 'f', 'v', 'm')"
    " AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')"
)
_SQLITE_TABLES: Final = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%'"


class NotOurDatabase(StorageUnavailable):
    """The database holds something else; name another one in the config. Nothing in it was changed."""


async def check_ours(database: Database) -> None:
    """NotOurDatabase for anything but an empty database or one of this program; StorageUnavailable when it cannot be
    looked at."""
    if isinstance(database, SqliteDatabase):
        found = await asyncio.to_thread(_in_file, database.path)
        another = "a file that does not exist yet"
    else:
        found = await database.read(_in_schema)
        another = "an empty database"
    if found and not found >= _OURS:
        shown = ", ".join(sorted(found)[:_MOST_NAMED]) + (", …" if len(found) > _MOST_NAMED else "")
        raise _refusal(f"it has the tables of another program ({shown})", f"an aggregator database or {another}")


def _refusal(why: str, remedy: str) -> NotOurDatabase:
    return NotOurDatabase(f"is not an aggregator database: {why}. {_REMEDY}: {remedy}. Nothing in it was changed")


def _in_schema(connection: Connection) -> frozenset[str]:
    return frozenset(connection.execute(_POSTGRES_TABLES).scalars())


def _in_file(path: Path) -> frozenset[str]:
    """The tables of a SQLite file; none when there is no file yet, or an empty one."""
    file = "sqlite:///aggregator.db, or from the root sqlite:////srv/aggregator.db"
    try:
        if path.is_dir():
            raise _refusal("it is a directory", f"a file, such as {file}")
        if path.exists() and not path.is_file():
            raise _refusal("it is no file", f"a file, such as {file}")
        with path.open("rb") as content:
            beginning = content.read(len(_MAGIC))
    except FileNotFoundError:
        return frozenset()
    except OSError as exc:
        raise StorageUnavailable(f"the file cannot be read: {exc.strerror}; mend its owner or mode") from exc
    if not beginning:
        return frozenset()
    if beginning != _MAGIC:
        raise _refusal("it is no SQLite file", "an aggregator database or a file that does not exist yet")
    try:
        try:
            return _tables(path, "ro")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
            # What a crash left half done cannot be finished by a reader; whoever opens the file next finishes it.
            return _tables(path, "rw")
    except sqlite3.Error as exc:
        # Its log lies beside it, so even to read it SQLite writes.
        hint = "" if _writable(path.parent) else f"; {path.parent} cannot be written, which SQLite needs even to read"
        raise StorageUnavailable(f"the file cannot be read: {exc}{hint}") from exc


def _writable(folder: Path) -> bool:
    """Asked of the system, whose root may write everywhere but on a read-only disk."""
    return os.access(folder, os.W_OK)


def _tables(path: Path, mode: str) -> frozenset[str]:
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True)) as connection:
        return frozenset(name for (name,) in connection.execute(_SQLITE_TABLES + " ESCAPE '\\'"))
