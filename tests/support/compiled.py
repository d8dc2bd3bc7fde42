"""Compiled SQL that all databases of one test process share.

An engine compiles each statement once. A test has an engine of its own and says a hundred different statements, so
that compiling was a good part of the suite's time.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from aggregator.storage import database

_STATEMENTS: Final = 5000
_CACHES: Final[dict[str, Any]] = {}


def share() -> None:
    """From now on all databases that are opened here share what they compile."""
    for dialect in (PGDialect_asyncpg, SQLiteDialect_pysqlite):
        # The cache's key holds the dialect. Those of one process differ in nothing: one library, one server's version.
        dialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]
        dialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]
    vars(database).update(create_engine=_create_engine, create_async_engine=_create_async_engine)


def _create_engine(*args: Any, **options: Any) -> Engine:
    return _sharing(sqlalchemy.create_engine(*args, query_cache_size=_STATEMENTS, **options))


def _create_async_engine(*args: Any, **options: Any) -> AsyncEngine:
    engine = sqlalchemy_asyncio.create_async_engine(*args, query_cache_size=_STATEMENTS, **options)
    _sharing(engine.sync_engine)
    return engine


def _sharing(engine: Engine) -> Engine:
    engine._compiled_cache = _CACHES.setdefault(engine.dialect.name, engine._compiled_cache)
    return engine
