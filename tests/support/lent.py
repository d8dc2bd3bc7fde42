"""One migrated PostgreSQL database that is lent to one test after another, wiped in between.

To make a database and to look at a new one costs ten times what wiping one does, and the wiper's connection knows its
statements already. Whatever a wipe does not undo (another schema, gathered statistics, files that grew) makes it a
database to throw away: the next test gets a new one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import Database, open_database
from aggregator.storage.tables import metadata
from tests.support.databases import seen_in
from tests.support.postgres import PostgresServer

T = TypeVar("T")

_TABLES: Final = tuple(reversed(metadata.sorted_tables))
"""Those that refer to others come first."""
_LARGE_BYTES: Final = 256 * 1024
"""What was removed stays in the file, because nobody vacuums. A file that grew so far is not looked through again."""

_OTHERS: Final = text(
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_FILLED: Final = text(
    " UNION ALL ".join(
        f"SELECT '{table.name}', pg_relation_size('{table.name}') WHERE EXISTS (SELECT 1 FROM {table.name})"
        for table in _TABLES
    )
)
# Whoever changes one of these rows leaves a younger transaction in it.
_SCHEMA: Final = text(
    " UNION ALL ".join(
        f"SELECT '{name}', count(*), sum(oid::bigint), max(xmin::text::bigint) FROM {name} WHERE oid >= 16384"
        for name in ("pg_class", "pg_constraint", "pg_proc", "pg_trigger", "pg_type", "pg_namespace", "pg_extension")
    )
    + " UNION ALL SELECT 'columns', count(*), 0, max(xmin::text::bigint) FROM pg_attribute WHERE attrelid >= 16384"
    + " UNION ALL SELECT 'statistics', count(*), 0, 0 FROM pg_statistic WHERE starelid >= 16384"
    + " UNION ALL SELECT 'settings', count(*), 0, 0 FROM pg_db_role_setting"
    + " UNION ALL SELECT version_num, count(*), 0, 0 FROM alembic_version GROUP BY version_num"
)
_COUNTERS: Final = text("SELECT sequencename, start_value, last_value FROM pg_sequences WHERE schemaname = 'public'")


class LentDatabase:
    """`lend` gives its URL; one test at a time."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self._template = template
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wiper", daemon=True)
        self._thread.start()
        self._name: str | None = None
        self._database: Database | None = None
        self._schema: list[Row[Any]] = []

    @contextmanager
    def lend(self) -> Iterator[str]:
        """A database as after its migration."""
        if self._name is None:
            self._make()
        assert self._name is not None
        try:
            yield self._server.url(self._name)
        finally:
            self._wipe()

    def violations(self, *, pruned: bool = False) -> list[str]:
        """As `databases.violations`, of the one that is lent."""
        return self._read(lambda connection: seen_in(connection, pruned=pruned))

    def close(self) -> None:
        self._throw_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _make(self) -> None:
        self._name = self._server.create(template=self._template)
        self._database = open_database(self._server.url(self._name))
        self._schema = self._read(_schema)
        assert not self._read(lambda c: c.execute(_FILLED).all()), "a wipe leaves no row, and a migration leaves some"

    def _wipe(self) -> None:
        assert self._database is not None
        try:
            as_it_was = self._run(self._database.write(partial(_wiped, self._schema)))
        except (StorageUnavailable, DBAPIError):
            as_it_was = False
        if not as_it_was:
            self._throw_away()

    def _throw_away(self) -> None:
        if self._name is not None and self._database is not None:
            self._run(self._database.close())
            self._server.drop(self._name)
        self._name = self._database = None

    def _read(self, work: Callable[[Connection], T]) -> T:
        assert self._database is not None
        return self._run(self._database.read(work))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _wiped(schema: list[Row[Any]], connection: Connection) -> bool:
    """Remove every row; whether it is now as it was after its migration."""
    connection.execute(_OTHERS)
    filled = {row[0]: row[1] for row in connection.execute(_FILLED)}
    if _schema(connection) != schema or any(size > _LARGE_BYTES for size in filled.values()):
        return False
    for table in _TABLES:
        if table.name in filled:
            connection.exec_driver_sql(f"DELETE FROM {table.name}")
    for name, start, last in connection.execute(_COUNTERS).all():
        if last is not None:
            connection.exec_driver_sql(f"SELECT setval('{name}', {start}, false)")
    return True


def _schema(connection: Connection) -> list[Row[Any]]:
    return list(connection.execute(_SCHEMA))
