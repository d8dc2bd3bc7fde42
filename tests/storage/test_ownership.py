"""A database that holds something else is refused in words, and nothing in it is changed."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, text

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import Database, PostgresDatabase, SqliteDatabase
from aggregator.storage.migrate import migrate
from aggregator.storage.ownership import NotOurDatabase, check_ours
from tests.support.databases import opened, sqlite_url

PROGRAMS = {
    "with our names": "CREATE TABLE orders (id integer PRIMARY KEY); CREATE TABLE events (id integer)",
    "with other names": "CREATE TABLE shops (id integer)",
    "with a view": "CREATE VIEW orders AS SELECT 1 AS id",
    "of alembic, too": "CREATE TABLE shops (id integer); CREATE TABLE alembic_version (version_num varchar(32));"
    " INSERT INTO alembic_version VALUES ('0001')",
}


def content(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


async def refusal(database: Database) -> str:
    with pytest.raises(NotOurDatabase) as caught:
        await migrate(database)
    said = str(caught.value)
    assert said.startswith("is not an aggregator database: ")
    assert "`database` in the config must name one of its own: " in said
    assert said.endswith("Nothing in it was changed")
    return said


@pytest.mark.parametrize("script", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_another_programs_file_is_refused_and_not_touched(tmp_path: Path, script: str, journal: str) -> None:
    path = tmp_path / "shop 100%?.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute(f"PRAGMA journal_mode={journal}")
        theirs.executescript(script)
    before = content(tmp_path)
    database = SqliteDatabase(URL.create("sqlite", database=str(path)))
    try:
        said = await refusal(database)
    finally:
        await database.close()
    assert "it has the tables of another program" in said
    assert {name: what for name, what in content(tmp_path).items() if name == path.name} == before


@pytest.mark.parametrize("written", [b"hi", b"hello, this is a text\n" * 50])
async def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(written)
    async with opened(sqlite_url(path)) as database:
        assert "it is no SQLite file" in await refusal(database)
    assert content(tmp_path) == {"notes.txt": hashlib.sha256(written).hexdigest()}


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    async with opened(sqlite_url(tmp_path)) as database:
        assert "it is a directory. " in await refusal(database)


async def test_a_damaged_file_is_an_outage_and_no_other_program(tmp_path: Path) -> None:
    path = tmp_path / "aggregator.db"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    async with opened(sqlite_url(path)) as database:
        with pytest.raises(StorageUnavailable, match="the file cannot be read: ") as caught:
            await check_ours(database)
        assert not isinstance(caught.value, NotOurDatabase)


async def test_a_file_that_a_crash_left_half_written_is_looked_at_all_the_same(tmp_path: Path) -> None:
    """A reader alone may not finish what SQLite's journal holds."""
    path, copy = tmp_path / "theirs.db", tmp_path / "copy" / "theirs.db"
    copy.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
        theirs.execute("PRAGMA cache_size=1")
        theirs.execute("CREATE TABLE shops (name text)")
        theirs.execute("BEGIN")
        theirs.executemany("INSERT INTO shops VALUES (?)", [("x" * 3000,)] * 200)
        for name in ("theirs.db", "theirs.db-journal"):
            (copy.parent / name).write_bytes((tmp_path / name).read_bytes())
        theirs.execute("ROLLBACK")
    async with opened(sqlite_url(copy)) as database:
        assert "(shops)" in await refusal(database)


async def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "aggregator.db"
    path.touch()
    async with opened(sqlite_url(path)) as database:
        assert (await migrate(database))[0] is None
        await check_ours(database)


async def test_our_own_database_is_ours_with_guests_in_it(database: Database) -> None:
    await database.write(lambda c: c.execute(text("CREATE TABLE notes (word text)")))
    await check_ours(database)


def _run(connection: Connection, script: str) -> None:
    for statement in script.split(";"):
        connection.execute(text(statement))


def _theirs(connection: Connection) -> list[tuple[str, str]]:
    rows = connection.execute(
        text(
            "SELECT c.relname, c.relkind::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1"
        )
    )
    return [(name, kind) for name, kind in rows]


@pytest.mark.corrupts_database
@pytest.mark.parametrize(
    "script",
    [
        *PROGRAMS.values(),
        "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far;"
        " CREATE FOREIGN TABLE orders (id integer) SERVER away",
    ],
    ids=[*PROGRAMS.keys(), "with foreign tables"],
)
@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
async def test_another_programs_postgresql_database_is_refused_and_not_touched(
    empty_database_url: str, script: str
) -> None:
    async with opened(empty_database_url) as database:
        assert isinstance(database, PostgresDatabase)
        await database.write(lambda c: _run(c, script))
        before = await database.read(_theirs)
        assert "an empty database" in await refusal(database)
        assert await database.read(_theirs) == before


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
async def test_what_an_extension_brings_along_is_no_other_program(empty_database_url: str) -> None:
    async with opened(empty_database_url) as database:
        await database.write(lambda c: c.execute(text("CREATE TABLE guide (word text)")))
        with pytest.raises(NotOurDatabase):
            await check_ours(database)
        await database.write(lambda c: c.execute(text("ALTER EXTENSION plpgsql ADD TABLE guide")))
        assert (await migrate(database))[0] is None
