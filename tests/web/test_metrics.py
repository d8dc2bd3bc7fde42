"""What `/metrics` says of orders, queues, money, providers and the database; that it is well formed, and bounded."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import StorageUnavailable
from aggregator.flow.wishes import wished
from aggregator.storage import cancels, catalogue, tables
from aggregator.storage import orders as order_store
from tests.support.metrics import Scrape
from tests.support.rows import accept, buy, lose, plan
from tests.web.support import READER, Doors

DUE = "aggregator_queue_oldest_due_timestamp_seconds"


async def scrape(doors: Doors) -> Scrape:
    reply = await doors.get("/metrics", key=READER)
    assert reply.status == 200, reply.text
    return Scrape(reply.text)


async def test_unclear_purchases_are_counted_with_their_age_and_what_they_cost(
    doors: Doors, clock: ManualClock
) -> None:
    seen = await scrape(doors)
    assert seen.value("aggregator_unclear_purchases", provider="smmplus") == 0
    assert seen.value("aggregator_unclear_oldest_timestamp_seconds", provider="smmplus") is None
    sent = clock.now()

    def write(connection: Connection) -> None:
        for minutes in (2, 0, 1):
            at = sent + timedelta(minutes=minutes)
            lose(connection, accept(connection, created_at=at), at=at)
        buy(connection, accept(connection))

    await doors.write(write)
    clock.advance(600)
    seen = await scrape(doors)
    assert seen.value("aggregator_unclear_purchases", provider="smmplus") == 3
    assert seen.value("aggregator_unclear_purchases", provider="hstock") == 0
    assert seen.value("aggregator_unclear_oldest_timestamp_seconds", provider="smmplus") == sent.timestamp()
    assert seen.value("aggregator_unclear_cost", provider="smmplus", currency="USD") == pytest.approx(2.70)
    assert seen.value("aggregator_orders", state="unclear") == 3
    assert seen.value("aggregator_orders", state="pending") == 1


async def test_a_queue_says_since_when_something_is_due_there(doors: Doors, clock: ManualClock) -> None:
    began = clock.now()

    def write(connection: Connection) -> None:
        accept(connection)
        plan(connection, accept(connection, created_at=began + timedelta(seconds=5)), at=began + timedelta(seconds=7))
        buy(connection, accept(connection))
        buy(connection, accept(connection, kind="sms", link=None, quantity=1), rented=["+1555"], provider="hstock")
        done = buy(connection, accept(connection))
        asked = began + timedelta(seconds=9)
        cancels.add(connection, "cnl_1", done.number, "smmplus", asked)
        order_store.save(connection, done, wished(done, "asked", asked), (), asked)
        due = began + timedelta(seconds=3)
        orders = tables.orders
        connection.execute(update(orders).where(orders.c.number == done.number).values(next_refill_at=due))

    await doors.write(write)
    clock.advance(60)
    seen = await scrape(doors)
    at = began.timestamp()
    assert seen.value(DUE, queue="routing", provider="") == at
    assert seen.value(DUE, queue="sequencing", provider="") == at
    assert seen.value(DUE, queue="placement", provider="smmplus") == at + 7
    assert seen.value(DUE, queue="polling", provider="smmplus") == at + 15
    assert seen.value(DUE, queue="codes", provider="hstock") == at + 1
    assert seen.value(DUE, queue="refilling", provider="") == at + 3
    assert seen.value(DUE, queue="canceling", provider="smmplus") == at + 9
    assert seen.value(DUE, queue="polling", provider="hstock") is None


async def test_what_is_not_due_yet_makes_no_queue_look_old(doors: Doors, clock: ManualClock) -> None:
    await doors.write(lambda c: buy(c, accept(c)))
    clock.advance(14)
    assert (await scrape(doors)).value(DUE, queue="polling", provider="smmplus") is None
    clock.advance(1)
    assert (await scrape(doors)).value(DUE, queue="polling", provider="smmplus") == clock.now().timestamp()


async def test_orders_that_stand_still_are_counted_until_they_end(doors: Doors, clock: ManualClock) -> None:
    order = await doors.write(lambda c: buy(c, accept(c)))
    assert (await scrape(doors)).value("aggregator_orders_stuck") == 0
    orders = tables.orders
    stuck = update(orders).where(orders.c.number == order.number).values(stuck_at=clock.now())
    await doors.write(lambda c: c.execute(stuck) and None)
    assert (await scrape(doors)).value("aggregator_orders_stuck") == 1


async def test_a_provider_s_balance_breaker_and_catalogue_are_told(doors: Doors, clock: ManualClock) -> None:
    low: dict[str, Any] = {"balance_units": 250_000_000, "balance_currency": "EUR", "balance_at": clock.now()}
    await doors.write(catalogue.set_health, "hstock", clock.now(), **low, balance_low=True)
    synced = clock.now().timestamp()
    clock.advance(5)
    await doors.house.health.failed("hstock", "no answer", fatal=True)
    seen = await scrape(doors)
    assert seen.value("aggregator_provider_balance", provider="hstock", currency="EUR") == 2.5
    assert seen.value("aggregator_provider_balance_timestamp_seconds", provider="hstock") == synced
    assert seen.value("aggregator_provider_catalogue_timestamp_seconds", provider="hstock") == synced
    for provider, told in (("hstock", 1), ("smmplus", 0)):
        assert seen.value("aggregator_provider_balance_low", provider=provider) == told
        assert seen.value("aggregator_provider_breaker_open", provider=provider) == told


async def test_a_provider_that_changes_its_currency_leaves_no_series_behind(doors: Doors, clock: ManualClock) -> None:
    for currency in ("EUR", "USD", "XXX"):
        told: dict[str, Any] = {"balance_units": 1, "balance_currency": currency}
        await doors.write(catalogue.set_health, "hstock", clock.now(), **told)
        seen = [one for one in (await scrape(doors)).samples if one.name == "aggregator_provider_balance"]
        assert [one.labels for one in seen] == [{"provider": "hstock", "currency": currency}]


async def test_loops_and_the_version_are_told(sqlite_doors: Doors, clock: ManualClock) -> None:
    sqlite_doors.ages["polling"] = 31.0
    seen = await scrape(sqlite_doors)
    assert seen.value("aggregator_loop_last_run_timestamp_seconds", loop="polling") == clock.now().timestamp() - 31
    assert seen.value("aggregator_build_info", version="1.2.3") == 1


async def test_the_size_of_the_database_grows_with_what_is_in_it(doors: Doors) -> None:
    def size(seen: Scrape) -> float:
        return seen.total("aggregator_database_size_bytes")

    before = await scrape(doors)
    assert size(before) > 0
    await doors.write(lambda c: [accept(c, link=f"https://example.com/{'x' * 2000}/{n}") for n in range(200)] and None)
    after = await scrape(doors)
    assert size(after) > size(before) + 100_000
    left = after.value("aggregator_database_disk_available_bytes", part="main")
    assert left is None if doors.house.database.kind == "postgresql" else left


async def test_without_its_database_it_says_nothing_that_only_that_knows(
    sqlite_doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite_doors.write(lambda c: lose(c, accept(c)))
    before = await scrape(sqlite_doors)
    assert before.value("aggregator_orders", state="unclear") == 1

    async def fail(*_: Any) -> Any:
        raise StorageUnavailable("gone")

    monkeypatch.setattr(sqlite_doors.house.database, "read", fail)
    after = await scrape(sqlite_doors)
    assert after.value("aggregator_database_up") == 0
    for name in ("aggregator_orders", "aggregator_unclear_purchases", DUE, "aggregator_database_size_bytes"):
        assert name not in after.names, name
    assert after.value("aggregator_provider_up", provider="smmplus") is not None
