"""SQLite: a file with WAL and synchronous=FULL, one writer that groups commits, and what a full disk or a lock does."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import IntegrityError

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage import writer as writer_module
from aggregator.storage.database import Database, SqliteDatabase, open_database, patience, quick
from aggregator.storage.migrate import migrate
from tests.support.databases import opened, sqlite_url


@pytest.fixture
def path(sqlite_database_url: str) -> Path:
    return Path(make_url(sqlite_database_url).database or "")


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else to the same file, with a table `notes` made by it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE notes (word TEXT NOT NULL)")
        yield connection


def note(connection: Connection, word: str) -> str:
    connection.execute(text("INSERT INTO notes VALUES (:word)"), {"word": word})
    return word


def count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM notes")).scalar_one())


def pragmas(connection: Connection) -> dict[str, object]:
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}


class Held:
    """Holds the writer inside a transaction, so that a test knows what waits behind it."""

    def __init__(self) -> None:
        self.entered, self._go = threading.Event(), threading.Event()

    def __call__(self, connection: Connection) -> None:
        self.entered.set()
        assert self._go.wait(20)

    def release(self) -> None:
        self._go.set()


async def test_every_connection_writes_ahead_and_flushes_each_commit(sqlite_database: SqliteDatabase) -> None:
    safe = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    # The writer waits in turns, between which it looks whether somebody's patience is over.
    assert await sqlite_database.write(pragmas) == safe | {"busy_timeout": 100}
    assert await asyncio.gather(*(sqlite_database.read(pragmas) for _ in range(6))) == [safe] * 6


async def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "aggregator.db"
    async with opened(sqlite_url(path)) as database:
        await migrate(database)
        await database.write(lambda c: c.execute(text("CREATE TABLE notes (word TEXT)")))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert "aggregator.db-wal" in modes


async def test_what_waits_is_written_with_one_commit(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    held = Held()
    first = asyncio.create_task(sqlite_database.write(held))
    assert await asyncio.to_thread(held.entered.wait, 20)
    waiting = [asyncio.create_task(sqlite_database.write(lambda c: note(c, "x"))) for _ in range(200)]
    await asyncio.sleep(0)
    held.release()
    await asyncio.gather(first, *waiting)

    assert sqlite_database.commits == 2
    assert other.execute("SELECT count(*) FROM notes").fetchone() == (200,)


async def test_a_group_is_bounded(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_GROUP", 10)
    held = Held()
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(sqlite_database.write(held))]
    assert await asyncio.to_thread(held.entered.wait, 20)
    tasks += [asyncio.create_task(sqlite_database.write(lambda c: note(c, "x"))) for _ in range(95)]
    await asyncio.sleep(0)
    held.release()
    await asyncio.gather(*tasks)
    assert sqlite_database.commits == 11


async def test_a_write_is_answered_only_after_the_commit(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    at_commit, go_on = threading.Event(), threading.Event()

    def wait_before_the_commit(_connection: Connection) -> None:
        at_commit.set()
        assert go_on.wait(20)

    event.listen(sqlite_database._engine, "commit", wait_before_the_commit)
    write = asyncio.create_task(sqlite_database.write(lambda c: note(c, "x")))
    assert await asyncio.to_thread(at_commit.wait, 20)
    await asyncio.sleep(0)

    assert not write.done()
    assert other.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    go_on.set()
    await write
    assert other.execute("SELECT count(*) FROM notes").fetchone() == (1,)


async def _behind(database: SqliteDatabase, *works: Callable[[Connection], object]) -> list[object]:
    """What becomes of writes that are one group."""
    held = Held()
    first = asyncio.create_task(database.write(held))
    assert await asyncio.to_thread(held.entered.wait, 20)
    group = [asyncio.create_task(database.write(work)) for work in works]
    await asyncio.sleep(0)
    held.release()
    await first
    return list(await asyncio.gather(*group, return_exceptions=True))


async def test_a_commit_that_one_of_the_group_spoils_is_made_without_it(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    """The failure comes at COMMIT, after every transaction of the group ran without an error."""

    def sabotage(connection: Connection) -> None:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.execute("PRAGMA defer_foreign_keys=ON")
        raw.execute("INSERT INTO accounts (order_number, ordinal, sealed, delivered_at) VALUES (999, 0, x'00', 0)")

    before, spoiled, after = await _behind(
        sqlite_database, lambda c: note(c, "before"), sabotage, lambda c: note(c, "after")
    )

    assert (before, after) == ("before", "after")
    assert isinstance(spoiled, IntegrityError)
    assert other.execute("SELECT word FROM notes").fetchall() == [("before",), ("after",)]


async def test_nothing_is_answered_when_no_commit_is_made(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    def broken(_connection: Connection) -> None:
        raise OSError("the disk is gone")

    works = [partial(note, word=str(number)) for number in range(3)]
    await sqlite_database.write(count)
    event.listen(sqlite_database._engine, "commit", broken)
    results = await asyncio.gather(*map(sqlite_database.write, works), return_exceptions=True)
    event.remove(sqlite_database._engine, "commit", broken)

    assert all(isinstance(result, OSError) for result in results)
    assert other.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    assert await sqlite_database.write(lambda c: note(c, "later")) == "later"


async def test_what_failed_because_of_a_neighbour_that_failed_itself_is_written_after_all(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    """The second's word was taken by the first, which did not come about: the group was taken back by the third."""
    other.execute("CREATE UNIQUE INDEX once ON notes (word)")
    tried: list[str] = []

    def only_in_company(connection: Connection) -> None:
        tried.append("only in company")
        if len(tried) > 1:
            raise KeyError("not alone")
        note(connection, "taken")

    def rolled_back(connection: Connection) -> None:
        connection.connection.dbapi_connection.execute("ROLLBACK")  # type: ignore[union-attr]
        raise KeyError("as a full disk does")

    first, second, third = await _behind(sqlite_database, only_in_company, lambda c: note(c, "taken"), rolled_back)
    assert isinstance(first, KeyError)
    assert second == "taken"
    assert isinstance(third, KeyError)
    assert other.execute("SELECT word FROM notes").fetchall() == [("taken",)]


async def test_more_waiting_than_the_limit_is_refused_at_once(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING", 5)
    held = Held()
    first = asyncio.create_task(sqlite_database.write(held))
    assert await asyncio.to_thread(held.entered.wait, 20)
    waiting = [asyncio.create_task(sqlite_database.write(lambda c: note(c, "x"))) for _ in range(8)]
    await asyncio.sleep(0)
    held.release()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)

    assert [isinstance(result, StorageUnavailable) for result in results[1:]] == [False] * 5 + [True] * 3
    assert other.execute("SELECT count(*) FROM notes").fetchone() == (5,)


async def test_closing_finishes_what_is_queued_and_refuses_what_comes_later(
    sqlite_database_url: str, other: sqlite3.Connection
) -> None:
    database = open_database(sqlite_database_url)
    held = Held()
    first = asyncio.create_task(database.write(held))
    assert await asyncio.to_thread(held.entered.wait, 20)
    queued = [asyncio.create_task(database.write(lambda c: note(c, "x"))) for _ in range(20)]
    await asyncio.sleep(0)
    closing_down = asyncio.create_task(database.close())
    held.release()
    await asyncio.gather(first, *queued, closing_down)

    assert other.execute("SELECT count(*) FROM notes").fetchone() == (20,)
    with pytest.raises(StorageUnavailable, match="closed"):
        await database.write(lambda c: note(c, "late"))


# --- quick work


async def test_quick_work_runs_on_the_loop_s_thread_and_is_answered_after_the_commit(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    seen: list[tuple[str, bool]] = []

    def said(connection: Connection, word: str) -> str:
        seen.append((word, threading.current_thread() is threading.main_thread()))
        return note(connection, word)

    await sqlite_database.write(partial(said, word="other"))
    assert await sqlite_database.write(quick(partial(said, word="quick"))) == "quick"
    assert other.execute("SELECT word FROM notes").fetchall() == [("other",), ("quick",)]
    assert seen == [("other", False), ("quick", True)]


async def test_quick_work_that_fails_hurts_none_of_its_group(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    def fails(connection: Connection) -> None:
        note(connection, "half")
        raise KeyError("no")

    def rolled_back(connection: Connection) -> None:
        connection.connection.dbapi_connection.execute("ROLLBACK")  # type: ignore[union-attr]
        raise KeyError("as a full disk does")

    works: list[Callable[[Connection], object]] = [
        quick(partial(note, word="one")),
        quick(fails),
        partial(note, word="two"),
        quick(partial(note, word="three")),
    ]
    results = await _behind(sqlite_database, *works)
    assert results[0] == "one"
    assert isinstance(results[1], KeyError)
    assert results[2:] == ["two", "three"]
    four, taken_back = await _behind(sqlite_database, quick(partial(note, word="four")), quick(rolled_back))
    assert four == "four"
    assert isinstance(taken_back, KeyError)
    assert sorted(row[0] for row in other.execute("SELECT word FROM notes")) == ["four", "one", "three", "two"]


async def test_quick_work_done_together_takes_turns_with_everybody_else(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_QUICK", 4)
    sizes: list[int] = []

    def together(connection: Connection, words: Sequence[str]) -> list[str]:
        sizes.append(len(words))
        return [note(connection, word) for word in words]

    work, held = quick(together), Held()
    first = asyncio.create_task(sqlite_database.write(held))
    assert await asyncio.to_thread(held.entered.wait, 20)
    waiting = [asyncio.create_task(sqlite_database.write_together(work, str(number))) for number in range(10)]
    await asyncio.sleep(0)
    held.release()
    await first
    assert await asyncio.gather(*waiting) == [str(number) for number in range(10)]
    assert sizes == [4, 4, 2]
    assert sqlite_database.commits == 2


def test_quick_work_of_a_loop_that_has_ended_is_still_done(sqlite_database_url: str, other: sqlite3.Connection) -> None:
    """Nobody waits for it any more, but the writer must not wait for ever either."""
    database = open_database(sqlite_database_url)
    held = Held()

    async def leave() -> None:
        first = asyncio.ensure_future(database.write(held))
        assert await asyncio.to_thread(held.entered.wait, 20)
        second = asyncio.ensure_future(database.write(quick(partial(note, word="left"))))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()

    asyncio.run(leave())
    held.release()
    asyncio.run(database.close())
    assert other.execute("SELECT word FROM notes").fetchall() == [("left",)]


# --- a full disk


def _full(database: Database) -> Callable[[bool], Any]:
    """Fills or frees the disk: SQLite's own limit of pages, on the writer's connection."""

    def limit(connection: Connection, full: bool) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one() if full else 1_000_000
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    return lambda full: database.write(lambda c: limit(c, full))


async def test_a_full_disk_refuses_writes_still_reads_and_recovers(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    await sqlite_database.write(lambda c: note(c, "before"))
    full = _full(sqlite_database)
    await full(True)

    for _ in range(3):
        with pytest.raises(StorageUnavailable, match="full"):
            await sqlite_database.write(lambda c: note(c, "x" * 1_000_000))
    assert await sqlite_database.read(count) == 1

    await full(False)
    assert await sqlite_database.write(lambda c: note(c, "after")) == "after"
    assert await sqlite_database.read(count) == 2


async def test_after_a_full_disk_every_answer_tells_the_truth(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    """SQLite may roll a whole group back by itself: nobody of it may then be told that it was written."""
    await _full(sqlite_database)(True)
    sizes = [10, 10, 2_000_000, 10, 10, 3_000_000, 10]
    results = await asyncio.gather(
        *(
            sqlite_database.write(lambda c, n=number, s=size: note(c, f"{n}:" + "x" * s))  # type: ignore[misc]
            for number, size in enumerate(sizes)
        ),
        return_exceptions=True,
    )

    promised = {number for number, result in enumerate(results) if isinstance(result, str)}
    stored = {int(word.split(":")[0]) for (word,) in other.execute("SELECT word FROM notes")}
    assert stored == promised == {0, 1, 3, 4, 6}, "what has room is written, whoever has none"
    assert all(isinstance(result, str | StorageUnavailable) for result in results)
    assert all("full" in str(result) or "rolled" in str(result) for result in results if not isinstance(result, str))


_NO_ROOM = """
import asyncio, resource, signal, sys
from pathlib import Path
from sqlalchemy import text
from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import open_database

async def main(url):
    database = open_database(url)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = max(file.stat().st_size for file in Path(url.removeprefix("sqlite:///")).parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, resource.RLIM_INFINITY))
    insert = text("INSERT INTO notes VALUES (:w)")
    write = lambda length: database.write(lambda c: c.execute(insert, {"w": "x" * length}))
    try:
        await write(3_000_000)
    except StorageUnavailable as exc:
        print("refused:", exc)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await write(10)
    print("written")
    await database.close()

asyncio.run(main(sys.argv[1]))
"""


def test_a_file_that_may_not_grow_is_an_outage_and_ends_with_it(
    sqlite_database_url: str, other: sqlite3.Connection
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_ROOM, sqlite_database_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: the database")
    assert done.stdout.endswith("written\n")
    assert other.execute("SELECT length(word) FROM notes").fetchall() == [(10,)]


# --- somebody else at the file


async def test_a_lock_held_by_another_process_is_an_outage_and_ends_with_it(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    with patience(0.05), pytest.raises(StorageUnavailable, match="locked by another process"):
        await sqlite_database.write(lambda c: note(c, "x"))
    assert await sqlite_database.read(count) == 0
    other.execute("ROLLBACK")
    assert await sqlite_database.write(lambda c: note(c, "x")) == "x"


async def test_the_impatient_are_answered_while_the_patient_wait_on(
    sqlite_database: SqliteDatabase, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    with patience(60):
        patient = asyncio.create_task(sqlite_database.write(lambda c: note(c, "patient")))
    for number in range(3):  # each comes when the others wait already
        with patience(0.05), pytest.raises(StorageUnavailable, match="locked"):
            await sqlite_database.write(lambda c, n=number: note(c, f"hasty {n}"))  # type: ignore[misc]
    assert not patient.done()
    other.execute("ROLLBACK")
    assert await patient == "patient"
    assert other.execute("SELECT word FROM notes").fetchall() == [("patient",)]


async def test_closing_does_not_wait_for_a_lock_longer_than_anybody_would(
    sqlite_database_url: str, other: sqlite3.Connection
) -> None:
    database = open_database(sqlite_database_url)
    other.execute("BEGIN IMMEDIATE")
    with patience(0.2):
        write = asyncio.create_task(database.write(lambda c: note(c, "x")))
    await asyncio.sleep(0)
    await asyncio.wait_for(database.close(), 20)
    with pytest.raises(StorageUnavailable, match="locked"):
        await write


async def test_a_short_lock_is_waited_for(sqlite_database: SqliteDatabase, other: sqlite3.Connection) -> None:
    beginning = threading.Event()

    def about_to(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if statement == "BEGIN IMMEDIATE":
            beginning.set()

    event.listen(sqlite_database._engine, "before_cursor_execute", about_to)
    other.execute("BEGIN IMMEDIATE")
    write = asyncio.create_task(sqlite_database.write(lambda c: note(c, "x")))
    assert await asyncio.to_thread(beginning.wait, 20)
    for _ in range(5):
        assert await sqlite_database.read(count) == 0
    assert not write.done()
    other.execute("COMMIT")
    assert await write == "x"


async def test_a_file_that_is_no_database_is_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "aggregator.db"
    path.write_bytes(b"this is no database " * 100)
    async with opened(sqlite_url(path)) as database:
        with pytest.raises(StorageUnavailable, match="not a database"):
            await database.read(count)
        with pytest.raises(StorageUnavailable, match="not a database"):
            await database.write(count)


async def test_a_folder_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    async with opened(sqlite_url(tmp_path / "nowhere" / "aggregator.db")) as database:
        with pytest.raises(StorageUnavailable, match="unable to open"):
            await database.read(count)
        with pytest.raises(StorageUnavailable, match="unable to open"):
            await database.write(count)


# --- a crash

_CRASH = """
import asyncio, os, signal, sys
from sqlalchemy import text
from aggregator.storage.database import open_database

async def main(url):
    database = open_database(url)
    async def one(number):
        await database.write(lambda c: c.execute(text("INSERT INTO notes VALUES (:w)"), {"w": str(number)}))
        os.write(1, f"{number}\\n".encode())
        if number == 150:
            os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.gather(*(one(number) for number in range(1000)))

asyncio.run(main(sys.argv[1]))
"""


def test_what_was_answered_before_a_kill_is_there_afterwards(
    sqlite_database_url: str, other: sqlite3.Connection
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CRASH, sqlite_database_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    answered = set(done.stdout.split())
    stored = [word for (word,) in other.execute("SELECT word FROM notes")]

    assert done.returncode == -9, done.stderr
    assert "150" in answered
    assert answered <= set(stored)
    assert len(stored) == len(set(stored))
