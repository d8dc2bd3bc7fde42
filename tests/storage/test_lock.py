"""One daemon per database: the second one is refused in clear words, and a killed one leaves no lock behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import Database, PostgresDatabase, SqliteDatabase
from aggregator.storage.lock import _ADVISORY_KEY, AlreadyRunning, acquire
from tests.support.databases import opened, sqlite_url
from tests.support.postgres import PostgresServer

_HOLDER = """
import asyncio, sys
from aggregator.storage.database import open_database
from aggregator.storage.lock import acquire

async def main(url):
    lock = await acquire(open_database(url))
    print("held" if await lock.held() else "not held", flush=True)
    sys.stdin.read()

asyncio.run(main(sys.argv[1]))
"""


@contextmanager
def another_daemon(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


async def free_again(database: Database) -> None:
    """Wait until the server noticed that the holder is gone, however it takes it; for a file there is no waiting."""
    if isinstance(database, PostgresDatabase):
        async with asyncio.timeout(20):
            await database.write(
                lambda c: c.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
            )


async def test_a_second_daemon_is_refused_and_a_killed_one_leaves_no_lock(
    database: Database, database_url: str
) -> None:
    with another_daemon(database_url) as holder:
        with pytest.raises(AlreadyRunning, match="another daemon") as caught:
            await acquire(database)
        assert "stop it first" in str(caught.value)
        if isinstance(database, SqliteDatabase):
            assert f"process {holder.pid}" in str(caught.value)
            assert str(database.path) in str(caught.value)
        holder.kill()
        holder.wait(20)
        await free_again(database)
        lock = await acquire(database)
        assert await lock.held()
        await lock.release()


async def test_a_released_lock_can_be_taken_at_once(database: Database, database_url: str) -> None:
    async with opened(database_url) as second:
        for holder, waiting in ((database, second), (second, database)) * 3:
            lock = await acquire(holder)
            with pytest.raises(AlreadyRunning):
                await acquire(waiting)
            await lock.release()
            assert not await lock.held()


async def test_readers_and_writers_do_not_mind_the_lock(database: Database, database_url: str) -> None:
    lock = await acquire(database)
    async with opened(database_url) as tool:
        assert await tool.read(lambda c: c.execute(text("SELECT 1")).scalar()) == 1
        assert await tool.write(lambda c: c.execute(text("SELECT 1")).scalar()) == 1
    assert await lock.held()
    await lock.release()


async def test_two_databases_have_two_locks(database: Database, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if isinstance(database, SqliteDatabase):
        url = sqlite_url(tmp_path / "another.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.url("postgres")
    async with opened(url) as another:
        first, second = await acquire(database), await acquire(another)
        assert await first.held()
        assert await second.held()
        await first.release()
        await second.release()


# --- SQLite


async def test_another_name_of_the_same_file_is_the_same_database(
    tmp_path: Path, sqlite_database: SqliteDatabase
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(sqlite_database.path)
    folder = tmp_path / "folder"
    folder.symlink_to(tmp_path, target_is_directory=True)
    lock = await acquire(sqlite_database)
    for name in (link, folder / sqlite_database.path.name, tmp_path / ".." / tmp_path.name / "aggregator.db"):
        async with opened(sqlite_url(name)) as same:
            with pytest.raises(AlreadyRunning):
                await acquire(same)
    await lock.release()


async def test_the_lock_comes_before_the_file_and_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "state" / "aggregator.db"
    async with opened(sqlite_url(path)) as database:
        lock = await acquire(database)
        assert not path.exists()
        assert (path.parent / "aggregator.db.lock").read_text() == str(os.getpid())
        await lock.release()


async def test_a_lock_that_cannot_be_asked_for_is_no_other_daemon(
    sqlite_database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_file: int, _how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(OSError, match="No locks available"):
        await acquire(sqlite_database)


async def test_a_child_process_does_not_keep_the_lock(sqlite_database: SqliteDatabase) -> None:
    lock = await acquire(sqlite_database)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE, close_fds=False
    )
    await lock.release()
    again = await acquire(sqlite_database)
    await again.release()
    child.kill()
    await child.wait()


# --- PostgreSQL


async def test_a_lost_connection_is_a_lost_lock_for_ever(
    postgres_database: PostgresDatabase, postgres_database_url: str
) -> None:
    lock = await acquire(postgres_database)
    async with opened(postgres_database_url) as administrator:
        await administrator.write(
            lambda c: c.execute(
                text("SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'")
            )
        )
        assert not await lock.held()
        other = await acquire(administrator)
        for _ in range(3):
            assert not await lock.held()
        assert await other.held()
        await other.release()
    await lock.release()


async def test_a_lock_that_was_taken_back_is_noticed(postgres_database: PostgresDatabase) -> None:
    lock = await acquire(postgres_database)
    await lock._connection.execute(text("SELECT pg_advisory_unlock_all()"))  # type: ignore[attr-defined]
    assert not await lock.held()
    await lock.release()


async def test_a_stopped_server_is_an_outage_and_no_other_daemon(
    postgres_database: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    lock = await acquire(postgres_database)
    postgres_server.stop()
    try:
        assert not await lock.held()
        with pytest.raises(StorageUnavailable):
            await acquire(postgres_database)
    finally:
        postgres_server.start()
    await lock.release()
