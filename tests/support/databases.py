"""Databases for the tests: migrated templates to copy from, opened databases, and the invariants' check of a URL."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import inspect, make_url

from aggregator.storage import invariants
from aggregator.storage.database import Database, open_database
from aggregator.storage.migrate import migrate

T = TypeVar("T")

KINDS = ("sqlite", "postgresql")


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
    """What the database at `url` shows of broken invariants; nothing for one that was never migrated."""
    if url.startswith("sqlite:") and not Path(make_url(url).database or "").exists():
        return []
    return apart(lambda: _violations(url, pruned))


async def _violations(url: str, pruned: bool) -> list[str]:
    async with opened(url) as database:
        if not await database.read(lambda connection: inspect(connection).has_table("orders")):
            return []
        return await database.read(lambda connection: invariants.check(connection, pruned=pruned))


def apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop of its own, on a thread of its own: for fixtures that are not async."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def copy_sqlite(template: Path, target: Path) -> str:
    """A copy of a closed SQLite file; answers its URL."""
    shutil.copyfile(template, target)
    return sqlite_url(target)
