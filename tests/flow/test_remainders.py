"""The rest of an order that ended short: bought elsewhere once the refund is in the books, once, or not and said so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState, Role
from aggregator.flow.canceling import cancel
from aggregator.sandbox.behaviour import Behaviour
from aggregator.storage.database import Database
from aggregator.storage.tables import orders as orders_table
from tests.support.flow import Street, a_street, on_sqlite, smm

SERVICES = {
    "followers": smm("smmcheap/1", "smmplus/1", reroute_remainder=True, refill={"auto": False}),
    "three": smm("smmcheap/1", "smmplus/1", "hstock/1", reroute_remainder=True, refill={"auto": False}),
    "short": smm("smmcheap/1", "smmplus/1", reroute_remainder=True, give_up_after_s=600),
    "as-it-is": smm("smmcheap/1", "smmplus/1"),
    "alone": smm("smmcheap/1", reroute_remainder=True),
    "comments": smm("smmcheap/3", "smmplus/2", reroute_remainder=True),
    "drip": smm("hstock/7", "hstock/10", reroute_remainder=True),
}
HOUR_S = 3600.0
USD = "USD"


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


def goes(street: Street, account: str, service: str, kind: Any, percent: int = 40) -> None:
    """How orders of a provider's service end from now on."""
    goods = street.account(account).services
    goods[service] = replace(goods[service], behaviour=Behaviour(kind, delivered_percent=percent))


async def remainder(street: Street, order: Order) -> Order:
    (child,) = [one for one in await street.orders() if one.parent == order.id]
    return child


async def nothing_bought(street: Street, order: Order) -> str:
    """Why the rest of an order was not bought, as the order and its last event say."""
    assert [one for one in await street.orders() if one.parent == order.id] == []
    now = await street.order(order.number)
    assert now.error_type == "remainder"
    assert now.error_detail is not None
    assert await street.column(orders_table, order.number, "next_remainder_at") is None
    event = (await street.told(order.number))[-1]
    assert event["type"] == "order.progress"
    assert event["data"]["remainder"] is None
    assert now.error_detail == f"the rest was not bought: {event['data']['reason']}"
    return str(event["data"]["reason"])


# --- bought elsewhere


async def test_the_rest_of_a_partial_order_is_bought_at_the_next_offer_when_its_refund_is_told(street: Street) -> None:
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("followers", 1000, max_cost=Money.parse("2", USD))
    done = await street.until(order.number)
    assert (done.state, done.remains, done.provider) == (OrderState.PARTIAL, 600, "smmcheap")
    assert await street.booked(order) == [("charge", -62_000_000), ("refund", 37_200_000)]
    await street.settle()
    rest = await remainder(street, order)
    assert (rest.role, rest.quantity, rest.provider) == (Role.REMAINDER, 600, "smmplus")
    assert rest.max_cost == Money.parse("1.752", USD)
    reasons = {one["provider"]: one["reason"] for one in (await street.attempts(rest.number))[0]["candidates"]}
    assert reasons["smmcheap"] == "it did not finish the order whose rest this is"
    assert (await street.until(rest.number)).state is OrderState.COMPLETED
    await street.advance(HOUR_S)
    assert len(street.purchases()) == 2
    told = await street.told(order.number)
    assert [event["type"] for event in told][-2:] == ["order.partial", "order.progress"]
    assert told[-1]["data"]["remainder"] == {"id": rest.id, "number": rest.number, "quantity": 600}
    assert told[-1]["data"]["order"]["children"] == [rest.id]
    assert (await street.order(order.number)).state is OrderState.PARTIAL


@on_sqlite
async def test_an_order_that_its_provider_canceled_is_bought_elsewhere_as_a_whole(street: Street) -> None:
    goes(street, "smmcheap", "1", "cancel")
    order = await street.take("followers", 500)
    assert (await street.until(order.number)).state is OrderState.CANCELED
    await street.settle()
    rest = await remainder(street, order)
    assert (rest.quantity, rest.provider) == (500, "smmplus")


@on_sqlite
async def test_one_offer_after_the_other_until_there_is_no_other(street: Street) -> None:
    for account, service in (("smmcheap", "1"), ("smmplus", "1"), ("hstock", "1")):
        goes(street, account, service, "partial", 50)
    order = await street.take("three", 1000)
    await street.advance(600)
    chain = await street.orders()
    assert [(one.quantity, one.state, one.provider) for one in chain] == [
        (1000, OrderState.PARTIAL, "hstock"),
        (500, OrderState.PARTIAL, "smmcheap"),
        (250, OrderState.PARTIAL, "smmplus"),
    ]
    assert [one.parent for one in chain] == [None, order.id, chain[1].id]
    assert await nothing_bought(street, chain[2]) == "the service has no other offer"


async def test_a_remainder_is_made_once_although_the_answer_of_the_database_is_lost(street: Street) -> None:
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("followers", 1000)
    while (await street.order(order.number)).state is not OrderState.PARTIAL:
        await street.polling.run_once()
        await street.polling.idle()
        await street.routing.run_once()
        await street.routing.idle()
        await street.placement.run_once()
        await street.placement.idle()
        street.clock.advance(5)
    street.database.forget = 1
    with pytest.raises(StorageUnavailable):
        await street.remainders.run_once()
    await street.restart()
    await street.advance(600)
    assert (await remainder(street, order)).state is OrderState.COMPLETED
    assert len(street.purchases()) == 2


async def test_a_run_that_ends_short_is_made_good_by_its_remainder(street: Street) -> None:
    parent = await street.take("drip", 1000, params={"runs": "2", "interval": "60"})
    assert parent.role is Role.PARENT
    done = await street.until(parent.number, most_s=2 * HOUR_S)
    runs = [one for one in await street.orders() if one.role is Role.RUN]
    rests = [await remainder(street, run) for run in runs]
    assert [(one.state, one.quantity, one.provider_service) for one in (*runs, *rests)] == [
        *((OrderState.PARTIAL, 1000, "7"),) * 2,
        *((OrderState.COMPLETED, 600, "10"),) * 2,
    ]
    assert (done.state, done.remains, done.quantity) == (OrderState.COMPLETED, 0, 2000)
    assert done.charge == Money.parse("1.344", USD)
    ends = [event for event in await street.events(parent.number) if event not in ("order.accepted", "order.progress")]
    assert ends == ["order.completed"], "while a remainder may come, a parent does not end"


@on_sqlite
async def test_canceling_a_parent_buys_no_rest_of_its_runs(street: Street) -> None:
    account = street.account("hstock")
    account.settings = replace(account.settings, gross_charge=True)
    parent = await street.take("drip", 1000, params={"runs": "2", "interval": "60"})
    await street.advance(300)
    (run,) = [one for one in await street.orders() if one.role is Role.RUN]
    assert run.state is OrderState.PARTIAL
    assert (await street.order(parent.number)).state is OrderState.IN_PROGRESS
    await cancel(street.house, parent.number, by="shop")
    await street.settle()
    assert (await street.order(parent.number)).state is OrderState.PARTIAL
    await street.advance(2 * HOUR_S)
    assert len(street.purchases()) == 1


# --- not bought


@on_sqlite
async def test_without_the_opt_in_nothing_is_bought(street: Street) -> None:
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("as-it-is", 1000)
    await street.until(order.number)
    await street.advance(HOUR_S)
    assert len(street.purchases()) == 1
    assert (await street.order(order.number)).error_type is None


@on_sqlite
async def test_what_the_caller_canceled_is_not_bought_elsewhere(street: Street) -> None:
    goods = street.account("smmcheap").services
    goods["1"] = replace(goods["1"], behaviour=Behaviour("complete", pending_s=600, run_s=600))
    order = await street.bought("followers", 1000)
    await street.advance(900)
    await cancel(street.house, order.number, by="shop")
    assert (await street.until(order.number)).state is OrderState.PARTIAL
    await street.advance(HOUR_S)
    assert len(street.purchases()) == 1


@on_sqlite
async def test_a_rest_below_every_minimum_is_not_bought_and_said_so(street: Street) -> None:
    goes(street, "smmcheap", "1", "partial", 99)
    order = await street.take("followers", 1000)
    await street.until(order.number)
    await street.settle()
    expected = "no other offer takes the rest of 10: smmplus/1 takes 50 to 10000"
    assert await nothing_bought(street, order) == expected


@on_sqlite
async def test_a_service_with_one_offer_has_nowhere_to_go(street: Street) -> None:
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("alone", 1000)
    await street.until(order.number)
    await street.settle()
    assert await nothing_bought(street, order) == "the service has no other offer"


@on_sqlite
async def test_nobody_knows_which_comments_are_missing(street: Street) -> None:
    goes(street, "smmcheap", "3", "partial", 50)
    order = await street.take("comments", None, params={"comments": "\n".join("abcdefghijkl")})
    await street.until(order.number)
    await street.settle()
    assert await nothing_bought(street, order) == "nobody knows which of its pieces are missing"


@on_sqlite
async def test_a_spent_max_cost_buys_nothing_more(street: Street) -> None:
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("followers", 1000, max_cost=Money.parse("0.62", USD))
    account = street.account("smmcheap")
    await street.settle()
    await street.advance(20)
    upstream = street.upstream(await street.order(order.number))
    account.recharge(upstream, 3 * upstream.charge, street.world.now())
    await street.until(order.number)
    await street.settle()
    assert await nothing_bought(street, order) == "its max_cost is spent"


@on_sqlite
async def test_a_rest_that_is_not_wanted_any_more_is_not_bought(street: Street) -> None:
    account = street.account("smmcheap")
    account.settings = replace(account.settings, gross_charge=True)
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("followers", 1000)
    await street.until(order.number)
    left = await cancel(street.house, order.number, by="shop")
    assert (left.state, left.cancel_state) == (OrderState.PARTIAL, None)
    assert await street.column(orders_table, order.number, "next_remainder_at") is None


# --- the refund


async def test_where_charges_stay_gross_the_rest_waits_for_the_refund_in_the_balance(street: Street) -> None:
    account = street.account("smmcheap")
    account.settings = replace(account.settings, gross_charge=True)
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("followers", 1000)
    await street.until(order.number)
    await street.advance(60)
    assert len(street.purchases()) == 1
    assert await street.column(orders_table, order.number, "next_remainder_at") is not None
    for _ in range(6):
        await street.advance(301)
        await street.synced()
    assert await street.booked(order) == [("charge", -62_000_000), ("refund", 37_200_000)]
    await street.advance(600)
    rest = await remainder(street, order)
    assert (rest.quantity, rest.provider) == (600, "smmplus")


@on_sqlite
async def test_a_refund_that_never_comes_buys_nothing(street: Street) -> None:
    account = street.account("smmcheap")
    account.settings = replace(account.settings, gross_charge=True)
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("short", 1000)
    await street.until(order.number)
    await street.advance(590)
    assert (await street.order(order.number)).error_type is None
    await street.advance(60)
    assert await nothing_bought(street, order) == "smmcheap gave no refund that the books could see"


@on_sqlite
async def test_a_price_that_is_corrected_with_the_end_is_not_taken_for_the_refund(street: Street) -> None:
    account = street.account("smmcheap")
    account.settings = replace(account.settings, gross_charge=True, surcharge_percent=-10.0)
    goes(street, "smmcheap", "1", "partial")
    order = await street.take("followers", 1000)
    await street.settle()
    street.clock.advance(120)
    await street.until(order.number)
    assert await street.booked(order) == [("charge", -62_000_000), ("refund", 6_200_000)]
    await street.advance(600)
    assert len(street.purchases()) == 1
