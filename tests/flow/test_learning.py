"""Real charges teach what an offer costs; refunds that only the balance shows are learned per provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from aggregator.domain.clock import ManualClock
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.catalogue_sync import release_rows
from aggregator.flow.readings import describe, take_reading
from aggregator.providers.contract import Failure
from aggregator.providers.limits import Priority
from aggregator.sandbox.edits import edit_account, edit_service
from aggregator.sandbox.fields import Fields
from aggregator.storage import catalogue
from aggregator.storage.database import Database
from aggregator.storage.tables import events, provider_services
from tests.support.flow import Street, a_street, on_sqlite, product, smm, sms

SERVICES = {
    "followers": smm("smmplus/1", "smmcheap/1"),
    "half": smm("smmplus/19"),
    "never": smm("smmplus/20"),
    "gmail": product("hstock/2"),
    "code": sms("hstock/65f0aa/us"),
}


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


def change(street: Street, account: str, **settings: object) -> None:
    edit_account(street.world, street.account(account), Fields(settings))


async def told(street: Street, kind: str = "catalogue.price_changed") -> list[dict[str, Any]]:
    query = select(events.c.body).where(events.c.type == kind).order_by(events.c.seq)
    return await street.database.read(lambda c: [json.loads(row[0])["data"] for row in c.execute(query)])


async def done(
    street: Street, service: str, *quantities: int, link: str | None = "https://example.com/a"
) -> list[Order]:
    """Orders one after another, each to its end."""
    orders = []
    for quantity in quantities:
        order = await street.bought(service, quantity, link=link)
        orders.append(await street.until(order.number, most_s=6 * 3600))
    return orders


async def learned(street: Street, provider: str, service: str) -> tuple[int | None, int | None]:
    columns = (provider_services.c.learned_per, provider_services.c.charged_rate_units)
    query = select(*columns).where(provider_services.c.provider == provider, provider_services.c.service == service)
    row = await street.database.read(lambda c: c.execute(query).first())
    assert row is not None
    return row[0], row[1]


async def test_three_charges_settle_that_a_products_rate_is_per_thousand(street: Street) -> None:
    change(street, "hstock", product_rate_per=1000)
    first, _, third = await done(street, "gmail", 10, 20, 30, link=None)
    fourth = await street.bought("gmail", 10, link=None)
    assert first.expected_cost is not None
    assert fourth.expected_cost is not None
    assert (first.expected_cost.units, fourth.expected_cost.units) == (
        1000 * fourth.expected_cost.units,
        fourth.expected_cost.units,
    )
    assert third.charge is not None
    assert third.charge.units == 3 * fourth.expected_cost.units
    assert await learned(street, "hstock", "2") == (1000, None)
    (event,) = await told(street)
    assert (event["provider"], event["service"], event["cause"]) == ("hstock", "2", "charges")
    assert event["per"] == {"before": 1, "after": 1000}


async def test_a_provider_that_charges_more_than_it_says_is_no_longer_the_cheapest(street: Street) -> None:
    """smmcheap says 0.62 and takes 60 % more; after three charges smmplus gets the order, and all may know why."""
    change(street, "smmcheap", surcharge_percent=60.0)
    orders = await done(street, "followers", 1000, 2000, 500)
    assert {order.provider for order in orders} == {"smmcheap"}
    next_one = await street.bought("followers", 1000)
    assert next_one.provider == "smmplus"
    (event,) = await told(street)
    assert event["provider"] == "smmcheap"
    assert float(event["after"]["amount"]) / float(event["before"]["amount"]) == pytest.approx(1.6)
    (attempt,) = await street.attempts(next_one.number)
    assert "dearer" in attempt["candidates"][1]["reason"]


async def test_a_new_price_in_the_catalogue_forgets_what_charges_taught(street: Street) -> None:
    change(street, "smmcheap", surcharge_percent=20.0)
    await done(street, "followers", 1000, 1000, 1000)
    assert (await learned(street, "smmcheap", "1"))[1] is not None
    account = street.account("smmcheap")
    edit_service(account, account.services["1"], Fields({"rate": "0.30"}))
    await street.advance(1000)
    await street.synced()
    assert await learned(street, "smmcheap", "1") == (1000, None)
    assert (await street.bought("followers", 1000)).provider == "smmcheap"


@on_sqlite
async def test_what_became_another_thing_is_known_by_nothing_that_was_learned(street: Street) -> None:
    change(street, "hstock", product_rate_per=1000)
    await done(street, "gmail", 10, 20, 30, link=None)
    assert await learned(street, "hstock", "2") == (1000, None)
    account = street.account("hstock")
    edit_service(account, account.services["2"], Fields({"name": "Dedicated servers, one month"}))
    await street.advance(1000)
    await street.synced()
    assert await learned(street, "hstock", "2") == (1000, None)
    await street.database.write(lambda c: release_rows(c, street.house, "hstock", "2", None))
    assert await learned(street, "hstock", "2") == (None, None)


@on_sqlite
async def test_numbers_teach_no_unit(street: Street) -> None:
    await done(street, "code", 1, 1, 1, link=None)
    assert await learned(street, "hstock", "65f0aa") == (None, None)


@on_sqlite
async def test_charges_as_expected_tell_nothing(street: Street) -> None:
    await done(street, "followers", 1000, 300, 100)
    await done(street, "code", 1, 1, 1, link=None)
    assert await told(street) == []
    assert await learned(street, "smmcheap", "1") == (1000, None)


@on_sqlite
async def test_a_partial_order_teaches_no_price(street: Street) -> None:
    orders = await done(street, "half", 1000, 1000, 1000)
    assert {order.state for order in orders} == {OrderState.PARTIAL}
    assert await told(street) == []
    row = await street.database.read(lambda c: catalogue.find_row(c, "smmplus", "19", ""))
    assert row is not None
    assert row["charged_rate_units"] is None


# --- refunds


async def readings(street: Street, count: int) -> None:
    for _ in range(count):
        assert not isinstance(
            await take_reading(street.house, street.house.gateways["smmplus"], Priority.STATUS), Failure
        )
        await street.leap(60)


async def ledger(street: Street) -> Mapping[str, Any]:
    found = await street.database.read(lambda c: describe(c, "smmplus", street.clock.now()))
    assert found is not None
    return found


async def test_a_provider_whose_charges_tell_refunds_is_known_as_net(street: Street) -> None:
    for _ in range(3):
        await done(street, "half", 1000)
        await readings(street, 1)
    assert (await ledger(street))["refunds"] == "net"
    assert await told(street, "provider.ledger_difference") == []


async def test_a_provider_whose_charges_hide_refunds_is_learned_and_then_trusted(street: Street) -> None:
    """Three refunds are told as differences with the order that explains them; the fourth is only booked."""
    change(street, "smmplus", gross_charge=True)
    for count in range(1, 4):
        (order,) = await done(street, "half", 1000)
        assert order.charge is not None
        assert await street.booked(order) == [("charge", -order.charge.units)]
        await readings(street, 3)
        events = await told(street, "provider.ledger_difference")
        assert len(events) == count
        assert [one["order"] for one in events[-1]["candidates"]] == [order.id]
        assert len(await street.booked(order)) == 2
    assert (await ledger(street))["refunds"] == "gross"
    (order,) = await done(street, "never", 1000)
    await readings(street, 1)
    assert order.charge is not None
    assert await street.booked(order) == [("charge", -order.charge.units), ("refund", order.charge.units)]
    assert len(await told(street, "provider.ledger_difference")) == 3
    assert (await ledger(street))["difference"] is None
