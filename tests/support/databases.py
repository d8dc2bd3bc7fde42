"""Databases for the tests: migrated templates to copy from, opened databases, and the invariants' check of a URL."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, inspect, make_url, select
from sqlalchemy.pool import NullPool

from aggregator.storage import invariants
from aggregator.storage.database import Database, open_database
from aggregator.storage.migrate import migrate
from aggregator.storage.tables import events
from tests.support import leaks
from tests.support.described import undescribed_event

T = TypeVar("T")

KINDS = ("sqlite", "postgresql")
MOST_EVENTS = 3000
"""How many of a database's newest events are held against their description."""


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """The database at `url`, closed at the end."""
    database = open_database(url)
    try:
        yield database
    finally:
        await database.close()


async def migrated(url: str) -> None:
    """Bring the database at `url` to the newest schema."""
    async with opened(url) as database:
        await migrate(database)


def violations(url: str, *, pruned: bool = False) -> list[str]:
    """What the database at `url` shows of broken invariants, of secrets, and of events that are not as the API's own
    description says; nothing for one that was never migrated."""
    look = partial(_seen_if_migrated, pruned=pruned)
    if url.startswith("postgresql"):
        return apart(lambda: _read(url, look))
    if not Path(make_url(url).database or "").exists():
        return []
    # One connection for a moment needs no threads.
    engine = create_engine(make_url(url).set(drivername="sqlite+pysqlite"), poolclass=NullPool)
    with engine.connect() as connection:
        return look(connection)


async def _read(url: str, look: Callable[[Connection], T]) -> T:
    async with opened(url) as database:
        return await database.read(look)


def _seen_if_migrated(connection: Connection, *, pruned: bool) -> list[str]:
    return seen_in(connection, pruned=pruned) if inspect(connection).has_table("orders") else []


def seen_in(connection: Connection, *, pruned: bool = False) -> list[str]:
    """What is wrong in a migrated database."""
    broken = invariants.check(connection, pruned=pruned)
    told = [f"the secret {one} is stored" for one in leaks.in_rows(connection)]
    return broken + told + _undescribed_events(connection)


def _undescribed_events(connection: Connection) -> list[str]:
    """Events whose bytes are not what the API's own description says of their type."""
    rows = connection.execute(select(events.c.id, events.c.body).order_by(events.c.seq.desc()).limit(MOST_EVENTS))
    found = ((row.id, undescribed_event(row.body)) for row in rows)
    return [f"event {event_id} is not as described: {lacking}" for event_id, lacking in found if lacking is not None]


def apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop of its own, on a thread of its own: for fixtures that are not async."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def copy_sqlite(template: Path, target: Path) -> str:
    """A copy of a closed SQLite file; answers its URL."""
    shutil.copyfile(template, target)
    return sqlite_url(target)
