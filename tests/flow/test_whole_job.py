"""An order's whole way, from the caller's wish to the last event, for each kind of service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import Connection, MetaData

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState
from aggregator.flow import placement as placement_module
from aggregator.sandbox.faults import FaultRule
from aggregator.storage import outbox
from aggregator.storage.database import Database
from tests.support.flow import Street, a_street, on_sqlite, product, smm, sms

SERVICES = {
    "followers": smm("smmplus/1", "smmcheap/1", "hstock/1"),
    "likes": smm("smmplus/18", "smmcheap/2"),
    "gmail": product("hstock/2"),
    "outlook": product("hstock/3"),
    "facebook": product("hstock/4"),
    "x": product("hstock/5"),
    "hotmail": product("hstock/8"),
    "yahoo": product("hstock/9"),
    "code": sms("hstock/65f0bb/us"),
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_module, "STORAGE_RETRY_S", 0.01)


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


async def everything_stored(street: Street) -> bytes:
    """All that the database holds, as bytes; for SQLite the very files."""

    def dump(connection: Connection) -> bytes:
        schema = MetaData()
        schema.reflect(connection)
        rows = (row for table in schema.sorted_tables for row in connection.execute(table.select()))
        return b"\n".join(
            bytes(cell) if isinstance(cell, bytes | memoryview) else str(cell).encode() for row in rows for cell in row
        )

    found = await street.database.read(dump)
    path: Path | None = getattr(street.database._real, "path", None)
    if path is not None:
        found += b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))
    return found


def deliveries(told: list[dict[str, object]]) -> list[tuple[object, object]]:
    found = []
    for event in told:
        data = event["data"]
        assert isinstance(data, dict)
        found.append((data["delivered"], data["total"]))
    return found


async def never_in_clear(street: Street, order: Order) -> None:
    """What was delivered can be read by who has the key, and is nowhere else."""
    accounts = await street.accounts(order)
    assert accounts
    stored = await everything_stored(street)
    assert order.id.encode() in stored
    for account in accounts:
        assert account.encode() not in stored
        for part in account.replace("|", ":").replace("----", ":").split(":"):
            assert part.encode() not in stored
        assert account not in str(street.said)


# --- smm


async def test_followers_go_to_the_cheapest_and_run_to_their_end(street: Street) -> None:
    order = await street.take("followers", 1000, reference="shop-778")
    await street.settle()
    bought = await street.order(order.number)
    assert (bought.provider, bought.state, bought.expected_cost) == (
        "hstock",
        OrderState.PENDING,
        Money.parse("0.50", "USD"),
    )
    done = await street.until(order.number)
    upstream = street.upstream(done)
    assert (done.state, done.charge, done.remains) == (OrderState.COMPLETED, Money.parse("0.50", "USD"), 0)
    assert done.start_count == upstream.start_count
    told = await street.told(order.number)
    assert [event["type"] for event in told][:2] == ["order.accepted", "order.placed"]
    assert [event["type"] for event in told][-1] == "order.completed"
    assert set(event["type"] for event in told[2:-1]) == {"order.progress"}
    assert [event["data"]["sequence"] for event in told] == list(range(1, len(told) + 1))
    assert told[-1]["data"]["order"]["state"] == "completed"
    assert told[-1]["data"]["order"]["charge"] == {"amount": "0.50", "currency": "USD"}
    assert -sum(units for _, units in await street.booked(done)) == 50_000_000
    (entry,) = street.purchases()
    assert (entry.link, entry.quantity) == (order.link, 1000)
    feed = await street.database.read(lambda c: outbox.feed(c, after=0, limit=100))
    assert [told.position for told in feed] == list(range(1, len(feed) + 1))


async def test_an_offer_without_stock_is_passed_over_and_a_refusal_falls_to_the_next(street: Street) -> None:
    hstock = street.account("hstock").services
    hstock["1"] = replace(hstock["1"], stock=5)
    street.break_with(FaultRule("error_text", account="smmcheap", action="add", body="Out of stock", count=1))
    street.clock.advance(10)
    order = await street.take("followers", 1000)
    await street.settle()
    bought = await street.order(order.number)
    assert (bought.provider, bought.expected_cost) == ("smmplus", Money.parse("0.90", "USD"))
    first, second = await street.attempts(order.number)
    assert (first["provider"], first["state"], first["outcome"]) == ("smmcheap", "refused", "stock")
    assert (second["provider"], second["state"]) == ("smmplus", "placed")
    reasons = {one["provider"]: one["reason"] for one in second["candidates"]}
    assert reasons["hstock"] == "out of stock: 5 of 1000"
    assert "Out of stock" in reasons["smmcheap"]
    assert reasons["smmplus"].startswith("chosen")
    assert first["exchange"]["body"] == '{"error": "Out of stock"}'
    assert len(street.purchases()) == 1


# --- account products


async def test_accounts_are_delivered_once_each_and_sealed_at_rest(street: Street) -> None:
    order = await street.take("facebook", 4, link=None)
    done = await street.until(order.number)
    assert (done.state, done.charge) == (OrderState.COMPLETED, Money.parse("4.80", "USD"))
    assert await street.accounts(done) == list(street.upstream(done).accounts)
    assert deliveries(await street.told(order.number, "order.delivery")) == [(4, 4)]
    told = await street.events(order.number)
    assert told.index("order.delivery") < told.index("order.completed")
    await never_in_clear(street, done)
    await street.advance(86_400)
    assert len(await street.accounts(done)) == 4


@on_sqlite
@pytest.mark.parametrize("service", ["gmail", "x"])
async def test_every_format_of_accounts_is_handed_over_as_it_is(street: Street, service: str) -> None:
    order = await street.take(service, 2, link=None)
    done = await street.until(order.number)
    assert await street.accounts(done) == list(street.upstream(done).accounts)
    await never_in_clear(street, done)


async def test_what_people_deliver_by_hand_comes_in_steps_each_told_with_its_count(street: Street) -> None:
    order = await street.take("outlook", 6, link=None)
    done = await street.until(order.number, most_s=7200)
    assert done.state is OrderState.COMPLETED
    told = deliveries(await street.told(order.number, "order.delivery"))
    assert told == [(2, 2), (2, 4), (2, 6)]
    assert await street.accounts(done) == list(street.upstream(done).accounts)
    await never_in_clear(street, done)


@on_sqlite
async def test_half_a_delivery_is_partial_and_costs_half(street: Street) -> None:
    order = await street.take("hotmail", 10, link=None)
    done = await street.until(order.number)
    assert (done.state, done.charge) == (OrderState.PARTIAL, Money.parse("0.25", "USD"))
    assert len(await street.accounts(done)) == 5
    assert deliveries(await street.told(order.number, "order.delivery"))[-1][1] == 5
    assert -sum(units for _, units in await street.booked(done)) == 25_000_000


@on_sqlite
async def test_a_supplier_that_is_gone_cancels_and_costs_nothing(street: Street) -> None:
    order = await street.take("yahoo", 3, link=None)
    done = await street.until(order.number)
    assert (done.state, done.charge) == (OrderState.CANCELED, Money.parse("0", "USD"))
    assert await street.accounts(done) == []
    assert sum(units for _, units in await street.booked(done)) == 0


@on_sqlite
async def test_accounts_that_come_after_the_end_are_still_fetched(street: Street) -> None:
    order = await street.take("gmail", 3, link=None)
    await street.settle()
    bought = await street.order(order.number)
    upstream = street.upstream(bought)
    whole, upstream.accounts = upstream.accounts, upstream.accounts[:1]
    await street.until(order.number, OrderState.COMPLETED)
    await street.advance(60)
    assert len(await street.accounts(bought)) == 1
    upstream.accounts = whole
    await street.advance(600)
    assert await street.accounts(bought) == list(whole)
    assert deliveries(await street.told(order.number, "order.delivery")) == [(1, 1), (2, 3)]
    assert (await street.events(order.number)).count("order.completed") == 1


async def test_restarts_while_accounts_come_hand_nothing_over_twice(street: Street) -> None:
    order = await street.take("outlook", 6, link=None)
    await street.settle()
    for _ in range(80):
        await street.next()
        await street.restart(synced=False)
        if (await street.order(order.number)).state is OrderState.COMPLETED:
            break
    done = await street.order(order.number)
    assert await street.accounts(done) == list(street.upstream(done).accounts)
    assert deliveries(await street.told(order.number, "order.delivery")) == [(2, 2), (2, 4), (2, 6)]


@on_sqlite
async def test_two_equal_accounts_are_two_accounts(street: Street) -> None:
    order = await street.take("gmail", 3, link=None)
    await street.settle()
    bought = await street.order(order.number)
    street.upstream(bought).accounts = ("a@example.com:pw", "a@example.com:pw", "b@example.com:pw")
    await street.until(order.number)
    await street.advance(300)
    assert await street.accounts(bought) == ["a@example.com:pw", "a@example.com:pw", "b@example.com:pw"]


# --- numbers


async def test_numbers_are_rented_together_and_end_each_for_itself(street: Street) -> None:
    order = await street.take("code", 3, link=None)
    await street.settle()
    bought = await street.order(order.number)
    assert (bought.state, bought.provider_service) == (OrderState.IN_PROGRESS, "65f0bb")
    (entry,) = street.purchases()
    assert (entry.quantity, bought.provider_order) == (3, entry.orders[0])
    assert [number.provider_order for number in await street.numbers(bought)] == list(entry.orders)
    done = await street.until(order.number)
    assert (done.state, done.charge) == (OrderState.COMPLETED, Money.parse("2.40", "USD"))
    await street.advance(60)
    told = await street.events(order.number)
    assert told[:5] == ["order.accepted", "order.placed", *["sms.number"] * 3]
    assert (told.count("sms.code"), told.count("order.completed"), told.count("sms.expired")) == (6, 1, 0)
    for number in await street.numbers(done):
        assert [code.code for code in number.codes] == [code.code for code in street.rented(number).codes]
    assert -sum(units for _, units in await street.booked(done)) == 240_000_000


# --- many at once


async def test_all_kinds_at_once_each_come_to_their_end(street: Street) -> None:
    wishes = [street.wish("followers", 500, f"https://example.com/{place}") for place in range(10)]
    wishes += [street.wish("gmail", 2) for _ in range(5)] + [street.wish("code", 2) for _ in range(5)]
    taken = (await street.intake.take(wishes)).results
    assert all(isinstance(order, Order) for order in taken)
    for _ in range(12):
        await street.leap(15)
    orders = await street.orders()
    assert {order.state for order in orders} == {OrderState.COMPLETED}
    assert len(street.purchases()) == 20
    assert all([(await street.events(order.number))[0] == "order.accepted" for order in orders])
