"""A lock that is lost with its connection is taken again, as often as that happens, and given back at the end."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from aggregator.daemon import _LockWatch
from aggregator.storage.database import PostgresDatabase
from aggregator.storage.lock import AdvisoryLock, AlreadyRunning


async def lose(database: PostgresDatabase) -> None:
    """The server ends the session that holds the lock, as its restart would."""

    def end(connection: object) -> None:
        connection.exec_driver_sql(  # type: ignore[attr-defined]
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )

    await database.write(end)


async def test_a_lost_lock_is_taken_again_and_costs_no_connection(postgres_database: PostgresDatabase) -> None:
    failed = asyncio.Event()
    watch = _LockWatch(postgres_database, await AdvisoryLock.take(postgres_database), failed)
    pool = postgres_database.engine.pool
    await watch.run_once()
    before = pool.checkedout()  # type: ignore[attr-defined]
    for _ in range(3):
        await lose(postgres_database)
        with capture_logs() as logs:
            await watch.run_once()
        assert [line["event"] for line in logs] == ["daemon_lock_taken_again"]
    assert pool.checkedout() == before  # type: ignore[attr-defined]
    with pytest.raises(AlreadyRunning):
        await AdvisoryLock.take(postgres_database)
    await watch.release()
    lock = await AdvisoryLock.take(postgres_database)
    await lock.release()
    assert not failed.is_set()


async def test_a_lock_that_somebody_else_has_ends_the_daemon(postgres_database: PostgresDatabase) -> None:
    failed = asyncio.Event()
    watch = _LockWatch(postgres_database, await AdvisoryLock.take(postgres_database), failed)
    await lose(postgres_database)
    other = await AdvisoryLock.take(postgres_database)
    await watch.run_once()
    assert failed.is_set()
    await watch.release()
    await other.release()
