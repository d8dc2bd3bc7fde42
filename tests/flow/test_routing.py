"""Finding the offer for an order: the cheapest that can take it now, with every candidate's reason in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection, update

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.routing import LEASE_S, PLAN_GOOD_FOR_S, Routing
from aggregator.providers import gateway as gateway_module
from aggregator.sandbox.faults import FaultRule
from aggregator.storage import catalogue, history
from aggregator.storage.database import Database
from aggregator.storage.tables import orders as orders_table
from aggregator.storage.tables import provider_services
from tests.support.flow import Street, a_street, on_sqlite, product, smm, sms

SERVICES = {
    "followers": smm("smmplus/1", "smmcheap/1", "hstock/1"),
    "comments": smm("smmplus/2", "smmcheap/3"),
    "last-ones": product("hstock/5"),
    "half": product("hstock/8"),
    "code": sms("hstock/65f0aa/us", "hstock/65f0bb/us"),
    "anywhere": sms("hstock/65f0bb"),
    "missing": smm("smmplus/999", "smmplus/1"),
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "RATE_LIMIT_PAUSE_S", 0.01)


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


async def route(street: Street) -> None:
    await street.routing.run_once()
    await street.routing.idle()


async def reasons(street: Street, order: Order) -> dict[str, str]:
    """Why each candidate of the latest round was or was not chosen, by provider and service."""
    row = (await street.attempts(order.number))[-1]
    return {f"{one['provider']}/{one['service']}": one["reason"] for one in row["candidates"]}


# --- who wins


async def test_the_cheapest_wins_and_every_candidate_has_its_reason(street: Street) -> None:
    order = await street.take("followers", 1000)
    await route(street)
    (row,) = await street.attempts(order.number)
    assert (row["state"], row["provider"], row["service"], row["ordinal"], row["round"]) == (
        "planned",
        "hstock",
        "1",
        1,
        0,
    )
    assert (row["expected_units"], row["expected_currency"]) == (50_000_000, "USD")
    assert [one["provider"] for one in row["candidates"]] == ["hstock", "smmcheap", "smmplus"]
    assert await reasons(street, order) == {
        "hstock/1": "chosen: the cheapest that can take it",
        "smmcheap/1": "eligible, dearer by 0.12 USD",
        "smmplus/1": "eligible, dearer by 0.40 USD",
    }
    assert row["candidates"][1]["expected_cost"] == {"amount": "0.62", "currency": "USD"}
    assert (await street.order(order.number)).state is OrderState.ACCEPTED
    assert street.purchases() == []


@on_sqlite
async def test_prices_are_compared_in_one_currency(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    settings = {"exchange_rates": {"EUR": "2"}}
    abroad = {"currency": "EUR"}, {"currency": "GBP"}
    async with a_street(
        database, clock, tmp_path, SERVICES, settings=settings, hstock=abroad[0], smmcheap=abroad[1]
    ) as street:
        order = await street.take("followers", 1000)
        await route(street)
        assert await reasons(street, order) == {
            "smmplus/1": "chosen: the cheapest that can take it",
            "hstock/1": "eligible, dearer by 0.10 USD",
            "smmcheap/1": "no exchange rate from GBP to USD (config `exchange_rates`)",
        }


LIMITS: list[tuple[dict[str, Any], str, dict[str, str]]] = [
    ({"provider": "smmplus"}, "smmplus", {"hstock/1": "the order is pinned to smmplus"}),
    ({"max_cost": Money.parse("0.50", "USD")}, "hstock", {"smmplus/1": "costs 0.90 USD, more than max_cost 0.50 USD"}),
    ({"quantity": 60}, "smmcheap", {"hstock/1": "takes 100 to 10000, the order wants 60"}),
    ({"quantity": 6000}, "hstock", {"smmcheap/1": "takes 50 to 5000, the order wants 6000"}),
]


@on_sqlite
@pytest.mark.parametrize(("fields", "winner", "why"), LIMITS)
async def test_an_order_may_limit_who_takes_it(
    street: Street, fields: dict[str, Any], winner: str, why: dict[str, str]
) -> None:
    order = await street.take("followers", **{"quantity": 1000, **fields})
    await route(street)
    assert (await street.attempts(order.number))[-1]["provider"] == winner
    said = await reasons(street, order)
    assert {name: said[name] for name in why} == why


@on_sqlite
async def test_what_nobody_can_take_says_why_of_each_and_waits(street: Street) -> None:
    order = await street.take("followers", 1000, max_cost=Money.parse("0.10", "USD"))
    await street.settle()
    waiting = await street.order(order.number)
    assert (waiting.state, waiting.error_type) == (OrderState.ACCEPTED, "waiting")
    assert str(waiting.error_detail).count("more than max_cost 0.10 USD") == 3
    (row,) = await street.attempts(order.number)
    assert (row["state"], row["provider"]) == ("no_offer", None)
    assert await street.events(order.number) == ["order.accepted"]


@on_sqlite
async def test_the_same_reasons_again_only_count_up(street: Street) -> None:
    order = await street.take("followers", 1000, max_cost=Money.parse("0.10", "USD"))
    await street.advance(600)
    (row,) = await street.attempts(order.number)
    assert row["seen"] > 5
    assert (await street.order(order.number)).sequence == 1


@on_sqlite
async def test_a_disabled_provider_and_an_unknown_service_are_no_candidates(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with a_street(database, clock, tmp_path, SERVICES, hstock={"enabled": False}) as street:
        order = await street.take("followers")
        missing = await street.take("missing")
        await route(street)
        assert (await reasons(street, order))["hstock/1"] == "the provider is disabled in the config"
        said = await reasons(street, missing)
        assert said["smmplus/999"] == "not in the provider's catalogue"
        assert said["smmplus/1"].startswith("chosen")


async def test_paused_quarantined_poor_and_down_providers_are_passed_over(street: Street) -> None:
    now = street.clock.now()

    def spoil(connection: Any) -> None:
        catalogue.set_health(connection, "hstock", now, paused=True)
        bad = update(provider_services).where(provider_services.c.provider == "smmcheap")
        connection.execute(bad.values(problem="the rate 0 is not above 0"))
        catalogue.set_health(connection, "smmplus", now, balance_units=80_000_000)

    await street.database.write(spoil)
    order = await street.take("followers")
    await route(street)
    assert await reasons(street, order) == {
        "hstock/1": "the provider is paused",
        "smmcheap/1": "quarantined: the rate 0 is not above 0",
        "smmplus/1": "the wallet has 0.80 USD free, the order costs 0.90",
    }
    await street.house.health.failed("smmplus", "Invalid API key", fatal=True)
    second = await street.take("followers")
    await route(street)
    assert (await reasons(street, second))["smmplus/1"] == "the provider is down: Invalid API key"


async def test_the_wallet_is_not_promised_twice(street: Street) -> None:
    now = street.clock.now()

    def poor(connection: Any) -> None:
        catalogue.set_health(connection, "hstock", now, balance_units=60_000_000)

    await street.database.write(poor)
    first, second = await street.take("followers"), await street.take("followers", link="https://example.com/b")
    await route(street)
    third = await street.take("followers", link="https://example.com/c")
    await route(street)
    planned = [(await street.attempts(order.number))[-1]["provider"] for order in (first, second, third)]
    assert planned == ["hstock", "smmcheap", "smmcheap"], "also where one look at the world serves a whole batch"
    await street.settle()
    assert all([(await street.order(order.number)).provider_order for order in (first, second, third)])


@on_sqlite
async def test_among_equals_the_configs_order_decides(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    services = {"same": smm("smmplus/1", "smmcheap/1")}
    async with a_street(database, clock, tmp_path, services) as street:
        cheap = street.account("smmcheap").services
        cheap["1"] = replace(cheap["1"], rate="0.90")
        street.clock.advance(901)
        await street.synced()
        order = await street.take("same")
        await route(street)
        assert await reasons(street, order) == {
            "smmplus/1": "chosen: the cheapest that can take it",
            "smmcheap/1": "eligible at the same cost; the chosen one comes first in the config",
        }


@on_sqlite
async def test_types_must_fit_whatever_they_cost(street: Street) -> None:
    order = await street.take("comments", None, params={"comments": "\n".join("abcdefghij")})
    await street.settle()
    bought = await street.order(order.number)
    assert (bought.provider, bought.expected_cost) == ("smmcheap", Money.parse("0.055", "USD"))


# --- stock


async def test_stock_is_asked_just_before_and_too_little_passes_the_offer_over(street: Street) -> None:
    services = street.account("hstock").services
    services["1"] = replace(services["1"], stock=400)
    street.clock.advance(5)
    order = await street.take("followers", 1000)
    await route(street)
    assert street.calls("hstock", "inventory") == 1
    (row,) = await street.attempts(order.number)
    assert row["provider"] == "smmcheap"
    assert (await reasons(street, order))["hstock/1"] == "out of stock: 400 of 1000"
    small = await street.take("followers", 300)
    await route(street)
    assert (await street.attempts(small.number))[-1]["provider"] == "hstock"


async def test_the_last_ones_go_to_those_who_came_first(street: Street) -> None:
    taken = [await street.take("last-ones", 1, link=None) for _ in range(5)]
    await street.settle()
    states = [(await street.order(order.number)).state for order in taken]
    assert states.count(OrderState.ACCEPTED) == 2
    assert sum(entry.quantity for entry in street.purchases()) == 3
    assert street.calls("hstock", "add") == 3, "what others have taken is not asked for"
    waiting = [order for order in taken if (await street.order(order.number)).state is OrderState.ACCEPTED]
    said = str((await street.order(waiting[0].number)).error_detail)
    assert "stock" in said
    services = street.account("hstock").services
    services["5"] = replace(services["5"], stock=9)
    await street.advance(60)
    assert all([(await street.order(order.number)).provider_order for order in taken])


@on_sqlite
@pytest.mark.parametrize("fault", ["http_500_before", "html", "wrong_json_before", "error_text", "reset_before"])
async def test_an_inventory_that_fails_keeps_what_was_known(street: Street, fault: str) -> None:
    street.break_with(FaultRule(fault, account="hstock", action="inventory"))
    street.clock.advance(5)
    order = await street.take("followers", 1000)
    await street.settle()
    assert (await street.order(order.number)).provider == "hstock"
    assert street.calls("hstock", "inventory") == 1


@on_sqlite
async def test_stock_that_nobody_knows_is_not_none(street: Street) -> None:
    services = street.account("hstock").services
    services["1"] = replace(services["1"], stock=None)
    street.clock.advance(5)
    order = await street.take("followers", 1000)
    await street.settle()
    assert (await street.order(order.number)).provider == "hstock"


# --- numbers


@on_sqlite
async def test_of_several_projects_the_cheapest_wins(street: Street) -> None:
    order = await street.take("code", 2, link=None)
    await street.settle()
    bought = await street.order(order.number)
    assert (bought.provider_service, bought.expected_cost) == ("65f0aa", Money.parse("1.00", "USD"))


@on_sqlite
async def test_without_a_country_the_dearest_row_is_what_it_may_cost(street: Street) -> None:
    order = await street.take("anywhere", 1, link=None)
    await route(street)
    (row,) = await street.attempts(order.number)
    assert (row["country"], row["cost_units"]) == ("", 80_000_000)
    local = await street.take("anywhere", 1, link=None, params={"country": "+93"})
    await route(street)
    (row,) = await street.attempts(local.number)
    assert (row["country"], row["cost_units"]) == ("+93", 35_000_000)


@on_sqlite
async def test_an_offers_country_and_the_orders_must_agree(street: Street) -> None:
    order = await street.take("code", 1, link=None, params={"country": "gb"})
    await route(street)
    row = (await street.attempts(order.number))[-1]
    assert row["state"] == "no_offer"
    assert "not in the provider's catalogue" in (await reasons(street, order))["hstock/65f0aa"]


# --- after a start


@on_sqlite
async def test_after_a_start_orders_wait_for_the_first_sync_of_each_provider(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with a_street(database, clock, tmp_path, SERVICES, synced=False) as street:
        order = await street.take("followers")
        await street.advance(3)
        street.routing.sync_ended("hstock")
        street.routing.sync_ended("smmplus")
        await street.advance(3)
        assert await street.attempts(order.number) == []
        await street.synced()
        await street.advance(1)
        assert (await street.order(order.number)).provider == "hstock"


@on_sqlite
async def test_a_first_sync_that_failed_counts_and_the_others_are_asked(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with a_street(database, clock, tmp_path, SERVICES, synced=False) as street:
        street.break_with(FaultRule("http_500_before", account="hstock", action="services"))
        order = await street.take("followers")
        await street.synced()
        await street.settle()
        assert (await street.order(order.number)).provider == "smmcheap"
        why = (await reasons(street, order))["hstock/1"]
        assert why.startswith("the provider's catalogue is not synced yet: ")


@on_sqlite
async def test_a_sync_that_never_ends_is_waited_for_no_longer_than_its_timeout(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with a_street(database, clock, tmp_path, SERVICES, synced=False, hstock={"timeout_s": 3}) as street:
        order = await street.take("followers")
        for name in ("smmplus", "smmcheap"):
            await street.sync.sync(street.house.gateways[name])
            street.routing.sync_ended(name)
        await street.advance(2)
        assert await street.attempts(order.number) == []
        await street.advance(2)
        assert (await street.order(order.number)).provider == "smmcheap"


# --- somebody is there who was not


async def waits_long(street: Street) -> Order:
    """An order that hstock alone could take, and did not for so often that its next round is minutes away."""
    order = await street.take("last-ones", 1, None)
    await street.advance(200)
    due = await street.column(orders_table, order.number, "next_route_at")
    assert due - street.clock.now() > timedelta(seconds=60)
    return order


async def test_an_order_that_nobody_could_take_goes_when_the_catalogue_shows_the_stock(street: Street) -> None:
    services = street.account("hstock").services
    full = services["5"]
    services["5"] = replace(full, stock=0)
    await street.sync.sync(street.house.gateways["hstock"])
    order = await waits_long(street)
    due = await street.column(orders_table, order.number, "next_route_at")
    await street.sync.sync(street.house.gateways["hstock"])
    assert await street.column(orders_table, order.number, "next_route_at") == due, "nothing is new"
    services["5"] = full
    await street.sync.sync(street.house.gateways["hstock"])
    await street.settle()
    assert (await street.order(order.number)).provider_order


async def test_an_order_that_nobody_could_take_goes_when_its_provider_is_up_again(street: Street) -> None:
    health = street.house.health
    street.break_with(FaultRule("http_500_before", account="hstock"))
    await health.failed("hstock", "Invalid API key", fatal=True)
    for _ in range(6):
        await street.advance(600)
        await street.sync.sync(street.house.gateways["hstock"])
    order = await waits_long(street)
    street.break_with()
    await health.answered("hstock")
    await street.settle()
    assert (await street.order(order.number)).provider_order


# --- what became of earlier orders


async def ended(street: Street, provider: str, state: OrderState, count: int, delivered: int = 0) -> None:
    def write(connection: Connection) -> None:
        for _ in range(count):
            history.note_end(
                connection,
                provider,
                "1",
                state=state,
                ordered=1000,
                delivered=delivered,
                duration=timedelta(hours=1),
                at=street.clock.now(),
            )

    await street.database.write(write)


@pytest.mark.parametrize(("strategy", "winner"), [("cheapest", "hstock"), ("best_value", "smmplus")])
async def test_a_strategy_decides_whether_canceled_orders_make_an_offer_dearer(
    database: Database, clock: ManualClock, tmp_path: Path, strategy: str, winner: str
) -> None:
    services = {"followers": {**smm("smmplus/1", "hstock/1"), "strategy": strategy}}
    async with a_street(database, clock, tmp_path, services) as street:
        await ended(street, "hstock", OrderState.CANCELED, 6)
        await ended(street, "hstock", OrderState.COMPLETED, 4, 1000)
        await ended(street, "smmplus", OrderState.COMPLETED, 10, 1000)
        order = await street.take("followers", 1000)
        await route(street)
        row = (await street.attempts(order.number))[-1]
        assert row["provider"] == winner
        said = await reasons(street, order)
        if strategy == "best_value":
            assert said["smmplus/1"].startswith(
                "chosen: the best value; counts as 0.90 USD: 100.0% of what was ordered"
            )
            assert said["hstock/1"].startswith("eligible, worse by 0.35 USD; counts as 1.25 USD: 40.0% of what")


@on_sqlite
async def test_among_equal_costs_the_more_reliable_wins(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    async with a_street(database, clock, tmp_path, {"same": smm("smmplus/1", "smmcheap/1")}) as street:
        cheap = street.account("smmcheap").services
        cheap["1"] = replace(cheap["1"], rate="0.90")
        street.clock.advance(901)
        await street.synced()
        await ended(street, "smmplus", OrderState.FAILED, 5)
        order = await street.take("same")
        await route(street)
        # Nothing is known of smmcheap: it counts as the others do, and the config decides.
        assert (await street.attempts(order.number))[-1]["provider"] == "smmplus"
        await ended(street, "smmcheap", OrderState.COMPLETED, 5, 1000)
        order = await street.take("same", link="https://example.com/b")
        await route(street)
        assert await reasons(street, order) == {
            "smmcheap/1": "chosen: the cheapest that can take it",
            "smmplus/1": "eligible at the same cost; the chosen one completed more of its orders",
        }


@on_sqlite
async def test_a_service_may_require_refills(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    services = {"followers": {**smm("smmplus/1", "hstock/1"), "refill": {"required": True}}}
    async with a_street(database, clock, tmp_path, services) as street:
        order = await street.take("followers", 1000)
        await route(street)
        assert await reasons(street, order) == {
            "smmplus/1": "chosen: the cheapest that can take it",
            "hstock/1": "it cannot be refilled, which the service requires (config `refill.required`)",
        }


@on_sqlite
async def test_parameters_that_no_offer_takes_are_refused_at_the_door(street: Street) -> None:
    problem = await street.refused(street.wish("followers", 1000, "https://example.com/a", params={"comments": "nice"}))
    assert problem.field == "params.comments"
    assert problem.detail == "is not taken by services of type Default; leave it out"
    both = await street.take("comments", None, params={"comments": "nice\n" * 10})
    await route(street)
    assert (await street.attempts(both.number))[-1]["provider"]


async def test_a_quarantined_offer_is_passed_over_until_it_is_as_it_was(street: Street) -> None:
    services = street.account("hstock").services
    known = services["1"]
    services["1"] = replace(known, rate="0.01")
    street.clock.advance(901)
    await street.synced()
    order = await street.take("followers", 1000)
    await route(street)
    assert (await street.attempts(order.number))[-1]["provider"] == "smmcheap"
    why = "quarantined: the price was 0.50 USD and is 0.01 USD now, less than a fifth of it"
    assert (await reasons(street, order))["hstock/1"] == why
    assert await street.general_events() == ["catalogue.quarantined"]
    services["1"] = known
    street.clock.advance(901)
    await street.synced()
    later = await street.take("followers", 1000, link="https://example.com/b")
    await route(street)
    assert (await street.attempts(later.number))[-1]["provider"] == "hstock"


async def test_stock_that_our_own_orders_used_up_is_told_when_the_provider_says_so(street: Street) -> None:
    services = street.account("hstock").services
    stock = int(services["5"].stock or 0)
    order = await street.bought("last-ones", stock)
    assert (await street.database.read(lambda c: catalogue.stock_of(c, "hstock", "5")))[0] == 0
    assert "catalogue.out_of_stock" not in await street.general_events()
    street.clock.advance(901)
    await street.synced()
    assert (await street.general_events()).count("catalogue.out_of_stock") == 1
    street.clock.advance(901)
    await street.synced()
    assert (await street.general_events()).count("catalogue.out_of_stock") == 1
    assert order.provider == "hstock"


# --- claims, rounds, neighbours


async def test_a_service_that_left_the_config_fails_at_the_deadline(street: Street) -> None:
    order = await street.take("followers")
    await street.database.write(
        lambda c: c.execute(update(orders_table).values(service="of-old", give_up_at=street.clock.now()))
    )
    await street.settle()
    failed = await street.order(order.number)
    assert (failed.state, failed.error_type) == (OrderState.FAILED, "no-offer")
    assert "no longer in the config" in str(failed.error_detail)


async def test_an_order_whose_routing_broke_does_not_hurt_its_neighbours_and_comes_again(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = await street.take("followers"), await street.take("followers", link="https://example.com/b")
    rank = Routing._rank

    def ranked(stage: Routing, order: Order, service: Any, offers: Any) -> Any:
        if order.number == bad.number:
            raise ValueError("a rule has a mistake")
        return rank(stage, order, service, offers)

    with monkeypatch.context() as broken:
        broken.setattr(Routing, "_rank", ranked)
        await street.settle()
    assert (await street.order(good.number)).provider == "hstock"
    assert (await street.order(bad.number)).state is OrderState.ACCEPTED
    await street.advance(LEASE_S)
    assert (await street.order(bad.number)).provider == "hstock"


async def test_two_routers_at_once_plan_each_order_once(street: Street) -> None:
    other = Routing(street.house)
    for name in street.house.gateways:
        other.sync_ended(name)
    taken = [await street.take("followers", link=f"https://example.com/{place}") for place in range(15)]
    await asyncio.gather(street.routing.run_once(), other.run_once())
    await asyncio.gather(street.routing.idle(), other.idle())
    assert [len(await street.attempts(order.number)) for order in taken] == [1] * 15


async def test_a_plan_that_nobody_carried_out_is_made_anew(street: Street) -> None:
    order = await street.take("followers")
    await route(street)
    services = street.account("hstock").services
    services["1"] = replace(services["1"], rate="9.00")
    street.clock.advance(901)
    await street.synced()
    assert timedelta(seconds=901) > timedelta(seconds=PLAN_GOOD_FOR_S)
    await street.settle()
    assert (await street.order(order.number)).provider == "smmcheap"
    assert [row["state"] for row in await street.attempts(order.number)] == ["dropped", "placed"]
    assert len(street.purchases()) == 1


async def test_a_plan_is_not_carried_out_after_its_time_though_placement_comes_first(street: Street) -> None:
    order = await street.take("followers")
    await route(street)
    street.clock.advance(PLAN_GOOD_FOR_S)
    await street.placement.run_once()
    await street.placement.idle()
    assert street.purchases() == []
    await street.settle()
    assert (await street.order(order.number)).provider_order


async def test_a_router_that_was_cut_leaves_its_orders_to_the_next(street: Street) -> None:
    order = await street.take("followers")
    street.clock.advance(5)
    street.hurry("hstock", 30)
    street.break_with(FaultRule("timeout_before", account="hstock", action="inventory"))
    await street.routing.run_once()
    await street.routing.stop(0)
    assert await street.attempts(order.number) == []
    street.break_with()
    await street.restart()
    await street.settle()
    assert (await street.order(order.number)).provider == "hstock"


async def test_a_plan_that_could_not_be_stored_is_made_again(street: Street) -> None:
    order = await street.take("followers")
    await street.routing.run_once()
    street.database.refuse = 1
    await street.routing.idle()
    street.database.refuse = 0
    await street.advance(LEASE_S)
    assert (await street.order(order.number)).provider == "hstock"
    assert len(street.purchases()) == 1
