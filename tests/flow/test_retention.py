"""What is kept no longer, and what is kept however old it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from aggregator.domain.clock import ManualClock
from aggregator.flow.retention import AGAIN, EXCHANGES_AGAIN, STEP, Retention
from aggregator.storage import deliveries as store
from aggregator.storage import endpoints
from aggregator.storage.database import Database
from aggregator.storage.tables import attempts, cancels, deliveries, events, refills
from aggregator.storage.tables import endpoints as endpoints_table
from tests.support import rows
from tests.support.house import make_house

CONFIG = "retention: {deliveries_days: 90}"
DAYS = 86_400


async def some(database: Database, count: int, *names: str) -> None:
    def write(connection: Connection) -> None:
        for _ in range(count):
            rows.accept(connection)
        rows.sequence(connection, *names)

    await database.write(write)


def end(connection: Connection, at: Any, ids: Sequence[int] | None = None) -> None:
    ended = update(deliveries).values(state="delivered", next_at=None, finished_at=at)
    connection.execute(ended if ids is None else ended.where(deliveries.c.id.in_(ids)))


async def left(database: Database) -> list[int]:
    query = select(deliveries.c.id).order_by(deliveries.c.id)
    return await database.read(lambda c: list(c.execute(query).scalars()))


async def test_finished_deliveries_go_when_they_are_old_and_events_stay(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await some(database, 3, "shop")
    ids = await left(database)
    await database.write(lambda c: end(c, clock.now(), ids[:2]))
    retention = Retention(make_house(database, clock, tmp_path, CONFIG))
    clock.advance(90 * DAYS)
    assert await retention.run_once() == 0
    clock.advance(AGAIN.total_seconds() + 1)
    assert await retention.run_once() == 2
    assert await left(database) == ids[2:], "what is still to be sent is kept"
    assert len(await database.read(lambda c: c.execute(select(events.c.seq)).all())) == 3


async def test_what_waits_for_an_endpoint_that_is_off_goes_as_well(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await some(database, 2, "off", "shop@gone.example:443")
    await database.write(lambda c: endpoints.disable(c, "off", clock.now(), "by a person"))
    retention = Retention(make_house(database, clock, tmp_path, CONFIG))
    clock.advance(90 * DAYS + 1)
    assert await retention.run_once() == 2
    kept = await database.read(lambda c: c.execute(select(deliveries.c.endpoint)).scalars().all())
    assert kept == ["shop@gone.example:443"] * 2


async def test_thousands_go_in_small_steps(sqlite_database: Database, clock: ManualClock, tmp_path: Path) -> None:
    await some(sqlite_database, 2 * STEP + 10, "shop")
    await sqlite_database.write(lambda c: end(c, clock.now()))
    retention = Retention(make_house(sqlite_database, clock, tmp_path, CONFIG))
    clock.advance(91 * DAYS)
    before = sqlite_database.commits  # type: ignore[attr-defined]
    assert await retention.run_once() == 2 * STEP + 10
    assert sqlite_database.commits - before >= 3  # type: ignore[attr-defined]
    assert await left(sqlite_database) == []


async def test_nothing_goes_where_it_is_kept_for_ever(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    await some(database, 1, "shop")
    await database.write(lambda c: end(c, clock.now()))
    retention = Retention(make_house(database, clock, tmp_path, "retention: {deliveries_days: 0}"))
    clock.advance(3650 * DAYS)
    assert await retention.run_once() == 0
    assert len(await left(database)) == 1


async def test_one_that_a_replay_sets_back_in_between_is_kept(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await some(database, 1, "shop")
    await database.write(lambda c: end(c, clock.now()))
    before = clock.now() + timedelta(days=1)
    old, _ = await database.read(lambda c: store.look_for_old(c, 0, before, 10))
    assert len(old) == 1

    def set_back(connection: Connection) -> None:
        again = update(deliveries).values(state="pending", finished_at=None, next_at=clock.now())
        connection.execute(again)
        endpoints.wake(connection, ["shop"], clock.now())

    await database.write(set_back)
    assert await database.write(lambda c: store.remove_old(c, old, before)) == 0


async def test_a_callers_host_is_forgotten_when_nothing_is_left_of_it(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await some(database, 1, "shop@a.example:443", "main")
    await database.write(lambda c: end(c, clock.now()))
    await database.write(lambda c: c.execute(update(endpoints_table).values(next_at=None)))
    retention = Retention(make_house(database, clock, tmp_path, CONFIG))
    clock.advance(91 * DAYS)
    assert await retention.run_once() == 3
    names = await database.read(lambda c: list(c.execute(select(endpoints_table.c.name)).scalars()))
    assert names == ["main"]


# --- what was exchanged with providers

WORDS = {"request": {"action": "add"}, "status": 200, "body": '{"order": 23501}'}


def _with_words(connection: Connection) -> None:
    connection.execute(update(attempts).values(exchange=WORDS))


async def words_left(database: Database) -> list[str]:
    query = select(attempts.c.state).where(attempts.c.exchange.is_not(None)).order_by(attempts.c.id)
    return await database.read(lambda c: list(c.execute(query).scalars()))


async def test_what_was_exchanged_goes_when_it_is_old_and_the_attempt_stays(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    def write(connection: Connection) -> None:
        rows.buy(connection, rows.accept(connection))
        rows.refuse(connection, rows.accept(connection))
        rows.lose(connection, rows.accept(connection))
        rows.plan(connection, rows.accept(connection))
        _with_words(connection)

    await database.write(write)
    retention = Retention(make_house(database, clock, tmp_path, "retention: {exchanges_days: 30}"))
    clock.advance(30 * DAYS)
    assert await retention.run_once() == 0
    clock.advance(EXCHANGES_AGAIN.total_seconds() + 1)
    assert await retention.run_once() == 2
    assert sorted(await words_left(database)) == ["planned", "unclear"], "nobody knows how they end"
    kept = await database.read(lambda c: c.execute(select(attempts.c.outcome, attempts.c.detail)).all())
    assert len(kept) == 4


async def test_words_about_refills_and_cancels_go_as_well(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    def write(connection: Connection) -> None:
        at = clock.now()
        for place, (state, finished) in enumerate((("completed", at), ("requested", None), ("rejected", at))):
            order = rows.buy(connection, rows.accept(connection))
            of_order = {"order_number": order.number, "provider": "smmplus", "exchange": WORDS, "requested_at": at}
            of_order |= {"sent_at": at, "finished_at": finished}
            waits = {"next_poll_at": None if finished else at}
            connection.execute(refills.insert().values(id=f"rfl_{place}", state=state, **of_order, **waits))
            asked = {"state": "asked" if finished else "requested", "next_at": None if finished else at}
            connection.execute(cancels.insert().values(id=f"cnl_{place}", **of_order, **asked))

    await database.write(write)
    retention = Retention(make_house(database, clock, tmp_path, "retention: {exchanges_days: 30}"))
    clock.advance(31 * DAYS)
    assert await retention.run_once() == 4
    for table in (refills, cancels):
        query = select(table.c.id).where(table.c.exchange.is_not(None))
        assert len(await database.read(lambda c, query=query: c.execute(query).all())) == 1  # type: ignore[misc]
    # These rows are none that stages would have made.
    await database.write(lambda c: (c.execute(refills.delete()), c.execute(cancels.delete())))


async def test_exchanges_are_looked_through_in_small_steps_and_once_a_day(
    sqlite_database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    def write(connection: Connection) -> None:
        for _ in range(STEP + 10):
            rows.refuse(connection, rows.accept(connection))
        _with_words(connection)

    await sqlite_database.write(write)
    retention = Retention(make_house(sqlite_database, clock, tmp_path, "retention: {exchanges_days: 30}"))
    clock.advance(31 * DAYS)
    before = sqlite_database.commits  # type: ignore[attr-defined]
    assert await retention.run_once() == STEP + 10
    assert sqlite_database.commits - before >= 2  # type: ignore[attr-defined]
    await sqlite_database.write(_with_words)
    clock.advance(EXCHANGES_AGAIN.total_seconds() - 1)
    assert await retention.run_once() == 0
    clock.advance(2)
    assert await retention.run_once() == STEP + 10


async def test_exchanges_are_kept_for_ever_where_the_config_says_so(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await database.write(lambda c: rows.refuse(c, rows.accept(c)))
    await database.write(_with_words)
    retention = Retention(make_house(database, clock, tmp_path, "retention: {exchanges_days: 0}"))
    clock.advance(3650 * DAYS)
    await retention.run_once()
    assert await words_left(database) == ["refused"]
