"""What is kept no longer, and what is kept however old it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from aggregator.domain.clock import ManualClock
from aggregator.flow.retention import AGAIN, STEP, Retention
from aggregator.storage import deliveries as store
from aggregator.storage import endpoints
from aggregator.storage.database import Database
from aggregator.storage.tables import deliveries, events
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
