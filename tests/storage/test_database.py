"""What every database does alike: durable writes, a failure that stays alone, and who may write at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import Database
from tests.support.databases import opened
from tests.support.metrics import counted


@pytest_asyncio.fixture
async def store(database: Database) -> AsyncIterator[Database]:
    """A database with a table `notes` whose words are unique."""
    await database.write(lambda c: c.execute(text("CREATE TABLE notes (word TEXT NOT NULL UNIQUE)")))
    yield database
    await database.write(lambda c: c.execute(text("DROP TABLE notes")))


def note(connection: Connection, word: str) -> str:
    connection.execute(text("INSERT INTO notes VALUES (:word)"), {"word": word})
    return word


def words(connection: Connection) -> list[str]:
    return sorted(connection.execute(text("SELECT word FROM notes")).scalars())


async def test_a_write_answers_with_its_result_and_every_reader_sees_it(store: Database, database_url: str) -> None:
    assert await store.write(lambda c: note(c, "one")) == "one"
    assert await store.read(words) == ["one"]
    async with opened(database_url) as another:
        assert await another.read(words) == ["one"]


async def test_writes_and_the_time_of_their_commits_are_counted(store: Database) -> None:
    written, committed = (
        counted("aggregator_database_writes_total"),
        counted("aggregator_database_commit_seconds_count"),
    )
    took = counted("aggregator_database_commit_seconds_sum")
    await asyncio.gather(*(store.write(lambda c, n=n: note(c, str(n))) for n in range(20)))  # type: ignore[misc]
    with pytest.raises(IntegrityError):
        await store.write(lambda c: note(c, "1"))
    assert counted("aggregator_database_writes_total") - written == 20
    assert 1 <= counted("aggregator_database_commit_seconds_count") - committed <= 21
    assert counted("aggregator_database_commit_seconds_sum") > took


async def test_what_waits_to_be_written_is_counted_until_its_turn(store: Database) -> None:
    """Together, because on PostgreSQL only what is gathered waits with us; the others wait for a connection."""
    entered, go_on = threading.Event(), threading.Event()
    idle = counted("aggregator_database_waiting_writes")

    def slow(connection: Connection, items: Sequence[str]) -> Sequence[str]:
        entered.set()
        return [note(connection, item) for item in items]

    def held(connection: Connection) -> None:
        entered.set()
        assert go_on.wait(10)

    if store.kind == "sqlite":
        first = asyncio.create_task(store.write(held))
        await asyncio.to_thread(entered.wait, 10)
    waiting = [asyncio.create_task(store.write_together(slow, str(n))) for n in range(7)]
    await asyncio.sleep(0)
    assert counted("aggregator_database_waiting_writes") == idle + 7
    go_on.set()
    await asyncio.gather(*waiting)
    if store.kind == "sqlite":
        await first
    assert counted("aggregator_database_waiting_writes") == idle


async def test_an_error_rolls_back_all_of_its_transaction_and_comes_out_as_itself(store: Database) -> None:
    def half(connection: Connection) -> None:
        note(connection, "one")
        raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        await store.write(half)
    assert await store.read(words) == []


async def test_a_broken_constraint_is_an_integrity_error_and_no_outage(store: Database) -> None:
    await store.write(lambda c: note(c, "one"))

    def twice(connection: Connection) -> None:
        note(connection, "two")
        note(connection, "one")

    with pytest.raises(IntegrityError):
        await store.write(twice)
    assert await store.read(words) == ["one"]


async def test_one_failing_transaction_does_not_hurt_those_beside_it(store: Database) -> None:
    await store.write(lambda c: note(c, "taken"))

    def work(number: int) -> str:
        return "taken" if number % 7 == 3 else f"word {number:03}"

    results = await asyncio.gather(
        *(store.write(lambda c, n=number: note(c, work(n))) for number in range(100)),  # type: ignore[misc]
        return_exceptions=True,
    )

    for number, result in enumerate(results):
        if number % 7 == 3:
            assert isinstance(result, IntegrityError)
        else:
            assert result == work(number)
    assert await store.read(words) == sorted({work(number) for number in range(100)})


async def test_what_waits_for_the_same_work_is_done_together_and_each_gets_its_own_result(store: Database) -> None:
    groups: list[int] = []

    def work(connection: Connection, items: Sequence[str]) -> list[str]:
        groups.append(len(items))
        return [note(connection, item).upper() for item in items]

    sent = [f"word {number:03}" for number in range(100)]
    results = await asyncio.gather(*(store.write_together(work, word) for word in sent))
    assert results == [word.upper() for word in sent]
    assert await store.read(words) == sent
    assert sum(groups) == 100
    assert len(groups) < 20


async def test_one_that_fails_does_not_hurt_those_done_together_with_it(store: Database) -> None:
    def work(connection: Connection, items: Sequence[str]) -> list[str]:
        for item in items:
            if item == "bad":
                raise KeyError("bad")
        return [note(connection, item) for item in items]

    sent = ["one", "bad", "two", "two", "three", "bad"]
    results = await asyncio.gather(*(store.write_together(work, word) for word in sent), return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        *("str", "KeyError", "str", "IntegrityError", "str", "KeyError")
    ]
    assert await store.read(words) == ["one", "three", "two"]


async def test_together_and_alone_go_side_by_side_in_turn(store: Database) -> None:
    def together(connection: Connection, items: Sequence[str]) -> list[str]:
        return [note(connection, item) for item in items]

    def others(connection: Connection, items: Sequence[str]) -> list[str]:
        return [note(connection, f"other {item}") for item in items]

    await asyncio.gather(
        *(store.write_together(together, f"a {n}") for n in range(5)),
        *(store.write(lambda c, n=n: note(c, f"b {n}")) for n in range(5)),  # type: ignore[misc]
        *(store.write_together(others, f"c {n}") for n in range(5)),
    )
    assert len(await store.read(words)) == 15


async def test_stop_iteration_inside_a_write_is_an_error_and_nobody_waits_for_ever(store: Database) -> None:
    def empty(connection: Connection) -> str:
        note(connection, "gone")
        return next(iter([]))

    async with asyncio.timeout(20):
        first, second = await asyncio.gather(
            store.write(empty), store.write(lambda c: note(c, "kept")), return_exceptions=True
        )
    assert isinstance(first, RuntimeError)
    assert second == "kept"
    assert await store.read(words) == ["kept"]


async def test_a_read_cannot_write(store: Database) -> None:
    with pytest.raises(StorageUnavailable):
        await store.read(lambda c: note(c, "one"))
    assert await store.read(words) == []


async def test_a_caller_that_gave_up_waiting_does_not_stop_the_others(store: Database) -> None:
    impatient = asyncio.create_task(store.write(lambda c: note(c, "impatient")))
    patient = asyncio.create_task(store.write(lambda c: note(c, "patient")))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == "patient"
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert "patient" in await store.read(words)


async def test_a_database_may_be_closed_twice_and_reads_after_reopening(database_url: str) -> None:
    async with opened(database_url) as first:
        await first.write(lambda c: c.execute(text("CREATE TABLE notes (word TEXT)")))
        await first.write(lambda c: note(c, "one"))
        await first.close()
    async with opened(database_url) as second:
        assert await second.read(words) == ["one"]
