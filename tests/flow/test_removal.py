"""Finished orders that are old: what goes with them, what keeps them, and what is known of them afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update

from aggregator.domain.clock import ManualClock
from aggregator.domain.events import Draft
from aggregator.domain.ids import AttemptId, RefillId
from aggregator.domain.money import Money
from aggregator.domain.orders import NotPurchased, Order, OrderState, Role, Summed, apply
from aggregator.flow import removal as stage
from aggregator.flow.removal import AGAIN, ANEW, STEP
from aggregator.flow.retention import Retention
from aggregator.storage import (
    books,
    cancels,
    catalogue,
    deliverables,
    endpoints,
    idempotency,
    invariants,
    ledger,
    outbox,
    refills,
    replays,
    reports,
)
from aggregator.storage import orders as order_store
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer
from aggregator.storage.idempotency import Entry, Stored
from aggregator.storage.tables import (
    accounts,
    attempts,
    deliveries,
    events,
    idempotency_keys,
    number_ids,
    numbers,
    orders,
)
from aggregator.storage.tables import refills as refills_table
from tests.support import rows
from tests.support.house import make_house

SEALER = Sealer("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
CONFIG = """
retention: {orders_days: 100, exchanges_days: 0, deliveries_days: 0}
providers:
  smmplus: {dialect: panel_v2, url: "http://127.0.0.1:1/api/v2", api_key: key}
services:
  ig-followers: {kind: smm, offers: [{provider: smmplus, service: "1"}]}
"""
DAYS = 86_400
LATE = 101 * DAYS
LOST = Money.parse("0.90", "USD")


def told(connection: Connection, *endpoints: str) -> None:
    """All events have their positions, and every endpoint was told."""
    rows.sequence(connection, *endpoints)
    at = select(func.max(events.c.created_at)).scalar_subquery()
    connection.execute(update(deliveries).values(state="delivered", next_at=None, finished_at=at))


def bought(connection: Connection, **fields: Any) -> Order:
    """An order that was bought, paid and completed."""
    order = rows.buy(connection, rows.accept(connection, **fields))
    charge = Money.parse("0.27", "USD")
    ledger.book_charge(connection, "smmplus", order.number, LOST, order.created_at)
    ledger.book_charge(connection, "smmplus", order.number, charge, order.created_at)
    return rows.report(connection, order, state=OrderState.COMPLETED, charge=charge, remains=0)


def failed(connection: Connection, **fields: Any) -> Order:
    return rows.end(connection, rows.accept(connection, **fields), OrderState.FAILED)


def a_retention(database: Database, clock: ManualClock, folder: Path, config: str = CONFIG) -> Retention:
    return Retention(make_house(database, clock, folder, config))


async def left(database: Database) -> list[int]:
    query = select(orders.c.number).order_by(orders.c.number)
    return await database.read(lambda c: list(c.execute(query).scalars()))


async def count(database: Database, table: Any) -> int:
    return await database.read(lambda c: int(c.execute(select(func.count()).select_from(table)).scalar_one()))


async def healthy(database: Database) -> None:
    assert await database.read(invariants.check) == []


# --- what goes


def everything(connection: Connection) -> Order:
    """A finished order with something of everything that belongs to orders."""
    order = bought(connection, kind="product", link=None)
    now = order.created_at
    deliverables.add_new(connection, SEALER, order.number, ["user1:pass1"], now)
    refill = refills.add(connection, RefillId("ref_1"), order.number, "smmplus", 50, now)
    ended = {"state": "completed", "finished_at": now, "next_poll_at": None}
    connection.execute(update(refills_table).where(refills_table.c.number == refill).values(**ended))
    cancel = cancels.add(connection, "cnl_1", order.number, "smmplus", now)
    cancels.mark_sent(connection, [cancel], now)
    cancels.change(connection, cancel, state="refused", finished_at=now, next_at=None)
    refused = replace(order, cancel_state="refused", cancel_at=now)
    order = order_store.save(connection, order, refused, (Draft("order.cancel_refused"),), now)
    idempotency.keep(connection, "shop", "k-1", Entry(b"f", None, order.number), now)
    rented = rows.buy(
        connection, rows.accept(connection, kind="sms", link=None, quantity=2), rented=["15550100", "15550101"]
    )
    over = {"state": "expired", "next_check_at": None}
    connection.execute(update(numbers).where(numbers.c.order_number == rented.number).values(**over))
    rows.report(connection, rented, state=OrderState.CANCELED)
    told(connection, "shop", "other")
    return order


async def test_an_old_order_goes_with_all_that_belongs_to_it(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await database.write(everything)
    retention = a_retention(database, clock, tmp_path)
    clock.advance(100 * DAYS)
    await retention.run_once()
    assert len(await left(database)) == 2, "not yet"
    clock.advance(AGAIN.total_seconds() + 1)
    await retention.run_once()
    for table in (orders, attempts, events, deliveries, accounts, numbers, number_ids, refills_table, idempotency_keys):
        assert await count(database, table) == 0, table.name
    await healthy(database)


async def test_its_number_is_not_given_again_and_positions_go_on(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await database.write(everything)
    last = (await left(database))[-1]
    head = await database.read(reports.feed_head)
    clock.advance(LATE)
    await a_retention(database, clock, tmp_path).run_once()
    assert await left(database) == []
    assert await database.read(reports.feed_head) == head, "who has read all is not told of a position from nowhere"

    def more(connection: Connection) -> int:
        order = rows.accept(connection)
        rows.sequence(connection)
        return order.number

    number = await database.write(more)
    assert number > last + 1, "the rented numbers' ids are not given again, either"
    (told_next,) = await database.read(lambda c: outbox.feed(c, after=head, limit=10))
    assert told_next.position == head + 1
    await healthy(database)


async def test_the_books_stay_and_name_the_order_by_its_number(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    order = await database.write(bought)
    await database.write(lambda c: told(c))
    before = await database.read(lambda c: [dict(row) for row in ledger.page(c, "smmplus", before=None, limit=10)])
    clock.advance(LATE)
    await a_retention(database, clock, tmp_path).run_once()
    assert await left(database) == []
    after = await database.read(lambda c: [dict(row) for row in ledger.page(c, "smmplus", before=None, limit=10)])
    assert after == before
    shown = await database.read(lambda c: reports.ledger_page(c, "smmplus", before=None, limit=10))
    assert {(row["order_number"], row["order_id"]) for row in shown} == {(order.number, None)}


async def test_a_providers_order_that_was_ours_is_never_another_ones(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    order = await database.write(bought)
    rented = await database.write(
        lambda c: rows.buy(c, rows.accept(c, kind="sms", link=None, quantity=1), rented=["15550100"])
    )

    def over(connection: Connection) -> None:
        connection.execute(update(numbers).values(state="expired", next_check_at=None))
        rows.report(connection, rented, state=OrderState.CANCELED)
        told(connection)

    await database.write(over)
    number = await database.read(lambda c: c.execute(select(numbers.c.provider_order)).scalar_one())
    clock.advance(LATE)
    await a_retention(database, clock, tmp_path).run_once()
    assert await left(database) == []
    for one in (order.provider_order, rented.provider_order, number):
        assert await database.read(lambda c, o=one: order_store.known_elsewhere(c, "smmplus", o, 999))  # type: ignore[misc]
    assert not await database.read(lambda c: order_store.known_elsewhere(c, "hstock", number, 999))
    assert not await database.read(lambda c: order_store.known_elsewhere(c, "smmplus", "1", 999))


async def test_ids_of_removed_orders_are_no_strangers_between_neighbours(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    """Three purchases in a row, and the one between two known ones is gone: it must not be taken for the lost one."""

    def write(connection: Connection) -> Any:
        ours = rows.buy(connection, rows.accept(connection), provider_order="5001")
        rows.report(connection, ours, state=OrderState.CANCELED)
        told(connection)
        return ours

    await database.write(write)
    clock.advance(LATE)
    await a_retention(database, clock, tmp_path).run_once()
    now = clock.now()

    def lost(connection: Connection) -> Any:
        rows.buy(connection, rows.accept(connection), provider_order="5000", at=now)
        rows.lose(connection, rows.accept(connection), at=now + timedelta(seconds=1))
        rows.buy(connection, rows.accept(connection), provider_order="5003", at=now + timedelta(seconds=2))
        (row,) = books.unclear(connection, "smmplus")
        return books.ids_between_neighbours(connection, row, 10, 1)

    between = await database.write(lost)
    assert between.unknown == ["5002"]


# --- what stays


def _refill(connection: Connection, order: Order) -> None:
    refills.add(connection, RefillId("ref_1"), order.number, "smmplus", 50, order.created_at)


def _wish(connection: Connection, order: Order) -> None:
    cancels.add(connection, "cnl_1", order.number, "smmplus", order.created_at)
    asked = replace(order, cancel_state="asked", cancel_at=order.created_at)
    order_store.save(connection, order, asked, (), order.created_at)


def _due(name: str) -> Callable[[Connection, Order], None]:
    def plant(connection: Connection, order: Order) -> None:
        connection.execute(update(orders).where(orders.c.number == order.number).values({name: order.created_at}))

    return plant


def _pending(connection: Connection, order: Order) -> None:
    first = select(func.min(deliveries.c.id)).scalar_subquery()
    waits = {"state": "pending", "next_at": order.created_at, "finished_at": None}
    connection.execute(update(deliveries).where(deliveries.c.id == first).values(**waits))


def _parked(connection: Connection, order: Order) -> None:
    first = select(func.min(deliveries.c.id)).scalar_subquery()
    connection.execute(update(deliveries).where(deliveries.c.id == first).values(state="parked"))


def _untold(connection: Connection, order: Order) -> None:
    order_store.save(connection, order, order, (Draft("order.dropped", {"drop": 1}),), order.created_at)


STAYS: dict[str, Callable[[Connection, Order], None]] = {
    "a refill that is open": _refill,
    "a wish to cancel that is not sent": _wish,
    "a status that is looked at again": _due("next_poll_at"),
    "a drop that is to be refilled": _due("next_refill_at"),
    "a count that is asked for": _due("next_count_at"),
    "a rest that is to be bought elsewhere": _due("next_remainder_at"),
    "an event that is still to be sent": _pending,
    "an event that may be sent again": _parked,
    "an event without a position": _untold,
}


async def test_what_somebody_still_looks_after_stays_however_old(
    database: Database, clock: ManualClock, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    class Undo(Exception):
        pass

    order = await database.write(bought)
    await database.write(lambda c: told(c, "shop"))
    clock.advance(LATE)
    before = clock.now() - timedelta(days=100)
    for what, plant in STAYS.items():
        results: list[Any] = []

        def attempt(connection: Connection, plant: Any = plant, results: list[Any] = results) -> None:
            plant(connection, order)
            results.append(stage._step(connection, [order.number], before))
            raise Undo

        with subtests.test(what):
            with pytest.raises(Undo):
                await database.write(attempt)
            assert results[-1] == (0, [])
    assert await database.write(lambda c: stage._step(c, [order.number], before)) == (1, [])


async def test_nothing_that_goes_on_is_removed(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    def write(connection: Connection) -> None:
        rows.accept(connection)
        rows.plan(connection, rows.accept(connection))
        rows.place(connection, rows.accept(connection))
        rows.lose(connection, rows.accept(connection))
        rows.buy(connection, rows.accept(connection))
        rows.buy(connection, rows.accept(connection, kind="sms", link=None, quantity=1), rented=["15550100"])
        told(connection)

    await database.write(write)
    clock.advance(3650 * DAYS)
    assert await a_retention(database, clock, tmp_path).run_once() == 0
    assert len(await left(database)) == 6


async def test_zero_keeps_orders_for_ever(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    await database.write(bought)
    await database.write(lambda c: told(c))
    clock.advance(3650 * DAYS)
    config = CONFIG.replace("orders_days: 100", "orders_days: 0")
    assert await a_retention(database, clock, tmp_path, config).run_once() == 0
    assert len(await left(database)) == 1


async def test_a_key_lives_for_thirty_days_so_its_order_does(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    order = await database.write(failed)
    await database.write(lambda c: idempotency.keep(c, "shop", "k", Entry(b"f", None, order.number), clock.now()))
    await database.write(lambda c: told(c))
    retention = a_retention(database, clock, tmp_path, CONFIG.replace("orders_days: 100", "orders_days: 1"))
    clock.advance(30 * DAYS)
    await retention.run_once()
    assert await database.read(lambda c: idempotency.find(c, "shop", "k")) is not None
    clock.advance(ANEW.total_seconds())
    await retention.run_once()
    assert await left(database) == []
    assert await database.read(lambda c: idempotency.find(c, "shop", "k")) is None


async def test_a_batchs_key_lives_as_long_as_the_last_of_its_orders(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    def write(connection: Connection) -> Order:
        ends, goes_on = failed(connection), rows.accept(connection)
        answer = Stored(
            200, f'{{"results": [{{"order": {{"id": "{ends.id}"}}}}, {{"order": {{"id": "{goes_on.id}"}}}}]}}'
        )
        idempotency.keep(connection, "shop", "k", Entry(b"f", answer, ends.number), ends.created_at)
        told(connection)
        return goes_on

    goes_on = await database.write(write)
    clock.advance(LATE)
    retention = a_retention(database, clock, tmp_path)
    await retention.run_once()
    assert await left(database) == [goes_on.number]
    found = await database.read(lambda c: idempotency.find(c, "shop", "k"))
    assert found is not None
    assert found.order_number == goes_on.number
    await database.write(lambda c: rows.end(c, goes_on, OrderState.FAILED))
    await database.write(lambda c: told(c))
    clock.advance(ANEW.total_seconds())
    await retention.run_once()
    assert await database.read(lambda c: idempotency.find(c, "shop", "k")) is None


async def test_a_guarantee_keeps_a_completed_order(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    completed = await database.write(bought)
    await database.write(
        lambda c: rows.report(c, rows.buy(c, rows.accept(c, link="https://example.com/b")), state=OrderState.CANCELED)
    )
    await database.write(lambda c: told(c))
    config = CONFIG.replace("kind: smm,", "kind: smm, refill: {window_days: 365},")
    retention = a_retention(database, clock, tmp_path, config)
    clock.advance(LATE)
    await retention.run_once()
    assert await left(database) == [completed.number]
    clock.advance(365 * DAYS)
    await retention.run_once()
    assert await left(database) == []


async def test_an_order_that_may_explain_anothers_drops_stays_as_long_as_that_one_is_watched(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    def write(connection: Connection) -> tuple[Order, Order]:
        watched, other = bought(connection), bought(connection)
        failed(connection)  # never worked on the link
        connection.execute(
            update(orders)
            .where(orders.c.number == watched.number)
            .values(next_poll_at=clock.now() + timedelta(days=150))
        )
        connection.execute(
            update(orders).where(orders.c.number == watched.number).values(placed_at=clock.now() - timedelta(hours=1))
        )
        told(connection)
        return watched, other

    watched, other = await database.write(write)
    clock.advance(LATE)
    retention = a_retention(database, clock, tmp_path)
    await retention.run_once()
    assert await left(database) == [watched.number, other.number]
    assert await database.read(lambda c: order_store.other_on_link(c, watched, watched.created_at - timedelta(hours=1)))
    await database.write(lambda c: c.execute(update(orders).values(next_poll_at=None)))
    clock.advance(ANEW.total_seconds())
    await retention.run_once()
    assert await left(database) == []


async def test_what_may_tell_how_an_unclear_purchase_ended_stays_with_it(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    """A refund of another order may have hidden its debit, and a stranger's id may be of one that was given up."""
    early = clock.now() - timedelta(days=30)

    def write(connection: Connection) -> list[Order]:
        given_up = rows.lose(connection, rows.accept(connection, created_at=early), at=early)
        assert given_up.attempt is not None
        connection.execute(update(attempts).where(attempts.c.id == given_up.attempt).values(state="not_placed"))
        given_up = rows.end(connection, _freed(connection, given_up, early), OrderState.FAILED, at=early)
        long_before = rows.report(
            connection,
            rows.buy(connection, rows.accept(connection, created_at=early), at=early),
            at=early,
            state=OrderState.CANCELED,
        )
        near = rows.report(connection, rows.buy(connection, rows.accept(connection)), state=OrderState.CANCELED)
        elsewhere = rows.buy(connection, rows.accept(connection), provider="hstock")
        elsewhere = rows.report(connection, elsewhere, state=OrderState.CANCELED)
        unclear = rows.lose(connection, rows.accept(connection))
        told(connection)
        return [given_up, long_before, near, elsewhere, unclear]

    given_up, _, near, _, unclear = await database.write(write)
    clock.advance(LATE)
    retention = a_retention(database, clock, tmp_path)
    await retention.run_once()
    assert await left(database) == [given_up.number, near.number, unclear.number]
    await healthy(database)


def _freed(connection: Connection, order: Order, at: datetime) -> Order:
    freed = apply(order, NotPurchased(AttemptId(order.attempt or "")), at)
    return order_store.save(connection, order, freed.order, freed.events, at, next_route_at=at)


async def test_what_waits_at_a_provider_that_the_config_has_no_more_is_over_with_its_guarantee(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    """Nobody asks it any more, so that nobody would find out that there is nothing to ask."""
    config = CONFIG.replace("  smmplus:", "  another:").replace("provider: smmplus", "provider: another")

    def write(connection: Connection) -> None:
        catalogue.ensure_providers(connection, ["smmplus", "another"], clock.now())
        order = bought(connection)
        connection.execute(update(orders).where(orders.c.number == order.number).values(next_poll_at=clock.now()))
        rented = rows.buy(connection, rows.accept(connection, kind="sms", link=None, quantity=1), rented=["15550100"])
        connection.execute(update(numbers).values(state="expired"))
        rows.report(connection, rented, state=OrderState.CANCELED)
        told(connection)

    await database.write(write)
    clock.advance(LATE)
    await a_retention(database, clock, tmp_path, config).run_once()
    assert await left(database) == []


# --- families


def a_family(connection: Connection, runs: int = 2, *, open_run: bool = False) -> list[int]:
    """A drip-feed whose runs have ended, the first with a remainder; `open_run`: but for the last one."""
    params = {"runs": str(runs), "interval": "60"}
    parent = rows.accept(connection, role=Role.PARENT, quantity=1000 * runs, params=params)
    going_on = apply(parent, Summed(OrderState.IN_PROGRESS), parent.created_at)
    parent = order_store.save(connection, parent, going_on.order, going_on.events, parent.created_at, next_run_at=None)
    made: list[int] = [parent.number]
    for place in range(1, runs + 1):
        run = rows.accept(connection, role=Role.RUN, parent=parent.id, ordinal=place)
        made.append(run.number)
        if open_run and place == runs:
            continue
        if place > 1:
            rows.end(connection, run, OrderState.FAILED)
            continue
        short = rows.report(connection, rows.buy(connection, run), state=OrderState.PARTIAL, remains=157)
        rest = rows.accept(connection, role=Role.REMAINDER, parent=short.id, ordinal=1, quantity=157)
        rows.end(connection, rest, OrderState.FAILED)
        made.append(rest.number)
    parent = order_store.load_for_update(connection, parent.number)
    if not open_run:
        ended = apply(parent, Summed(OrderState.PARTIAL), parent.created_at)
        order_store.save(connection, parent, ended.order, ended.events, parent.created_at, next_sum_at=None)
    told(connection)
    return made


async def test_a_family_goes_together(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    await database.write(a_family)
    clock.advance(LATE)
    assert await a_retention(database, clock, tmp_path).run_once() == 4
    assert await left(database) == []


async def test_one_open_child_keeps_the_family(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    made = await database.write(lambda c: a_family(c, open_run=True))
    clock.advance(LATE)
    retention = a_retention(database, clock, tmp_path)
    assert await retention.run_once() == 0
    assert await left(database) == sorted(made)
    await healthy(database)


async def test_a_young_child_keeps_the_family(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    made = await database.write(a_family)
    clock.advance(LATE)
    young = update(orders).where(orders.c.number == made[-1]).values(finished_at=clock.now())
    await database.write(lambda c: c.execute(young))
    assert await a_retention(database, clock, tmp_path).run_once() == 0
    assert await left(database) == sorted(made)


async def test_a_large_family_goes_in_steps_of_which_each_leaves_a_family(
    database: Database, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after any step leaves the invariants holding, and the next daemon goes on."""
    monkeypatch.setattr(stage, "STEP", 3)
    made = await database.write(lambda c: a_family(c, runs=7))
    other = await database.write(failed)
    await database.write(lambda c: told(c))
    clock.advance(LATE)
    steps = 0
    while len(await left(database)) > 1:
        before = len(await left(database))
        with monkeypatch.context() as patch:
            patch.setattr(stage, "STEPS_AT_ONCE", 1)
            # A new one each time: what the last one knew died with it.
            await a_retention(database, clock, tmp_path).run_once()
        await healthy(database)
        assert before - 3 <= len(await left(database)) < before
        steps += 1
    assert steps >= len(made) // 3
    assert await left(database) in ([], [other.number])


# --- small steps


async def test_hundreds_go_in_small_steps_and_callers_order_meanwhile(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    def write(connection: Connection) -> None:
        for place in range(4 * STEP):
            failed(connection, link=f"https://example.com/{place}")
        told(connection, "shop")

    await database.write(write)
    old = await left(database)
    clock.advance(LATE)
    retention, done = a_retention(database, clock, tmp_path), asyncio.Event()

    async def ordering() -> list[int]:
        made: list[int] = []
        while not done.is_set():
            made.append((await database.write(lambda c: rows.accept(c, created_at=clock.now()))).number)
        return made

    async def removing() -> None:
        assert await retention.run_once() == 4 * STEP
        done.set()

    made, _ = await asyncio.gather(ordering(), removing())
    assert len(made) >= 4, "an order got in between two steps"
    assert await left(database) == made
    assert not set(made) & set(old)
    await healthy(database)


async def test_it_stops_between_two_steps(sqlite_database: Database, clock: ManualClock, tmp_path: Path) -> None:
    def write(connection: Connection) -> None:
        for _ in range(3 * STEP):
            failed(connection)
        told(connection)

    await sqlite_database.write(write)
    clock.advance(LATE)
    retention = a_retention(sqlite_database, clock, tmp_path)
    await retention.stop(0)
    assert await retention.run_once() == 0
    assert len(await left(sqlite_database)) == 3 * STEP


async def test_what_an_operator_wants_sent_again_is_sent_before_anything_goes(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await database.write(bought)
    await database.write(lambda c: told(c, "shop"))
    clock.advance(LATE)
    await database.write(lambda c: replays.ask_events(c, "shop", clock.now(), after=0, until=100))
    retention = a_retention(database, clock, tmp_path)
    assert await retention.run_once() == 0
    await database.write(
        lambda c: (endpoints.ensure(c, ["shop"], clock.now()), replays.step(c, clock.now(), lambda _: lambda _: True))
    )
    assert await retention.run_once() == 0, "its deliveries wait"
    await database.write(lambda c: told(c))
    clock.advance(ANEW.total_seconds())
    assert await retention.run_once() == 1


async def test_a_replay_of_positions_that_are_gone_goes_on_with_those_that_are_there(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    await database.write(bought)
    await database.write(lambda c: told(c, "shop"))
    clock.advance(LATE)
    assert await a_retention(database, clock, tmp_path).run_once() == 1
    await database.write(lambda c: (rows.accept(c), rows.sequence(c)))
    head = await database.read(reports.feed_head)
    await database.write(lambda c: replays.ask_events(c, "shop", clock.now(), after=0, until=head))
    await database.write(lambda c: endpoints.ensure(c, ["shop"], clock.now()))
    (step,) = await database.write(lambda c: replays.step(c, clock.now(), lambda _: lambda _: True))
    assert (step.count, step.more) == (1, False)


# --- what belongs to no order


async def test_events_and_keys_of_no_order_go_by_their_age(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    def write(connection: Connection) -> None:
        for _ in range(3):
            outbox.append_general(connection, Draft("provider.up", {"provider": "smmplus"}), clock.now())
        idempotency.keep(connection, "shop", "old", Entry(b"f", Stored(422, "{}")), clock.now())
        told(connection, "shop")

    def young(connection: Connection) -> None:
        outbox.append_general(connection, Draft("provider.up", {"provider": "smmplus"}), clock.now())
        outbox.append_general(
            connection, Draft("provider.up", {"provider": "smmplus"}), clock.now() - timedelta(days=200)
        )
        idempotency.keep(connection, "shop", "young", Entry(b"f", Stored(422, "{}")), clock.now())

    await database.write(write)
    clock.advance(LATE)
    await database.write(young)
    await a_retention(database, clock, tmp_path).run_once()
    assert await count(database, events) == 2, "what has no position yet is still to be told"
    assert await database.read(lambda c: idempotency.find(c, "shop", "old")) is None
    assert await database.read(lambda c: idempotency.find(c, "shop", "young")) is not None
    await healthy(database)
