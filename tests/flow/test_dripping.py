"""Drip-feeds: native where an offer takes runs, else runs of our own, exactly as many as were ordered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.money import Money
from aggregator.domain.orders import FINAL, Order, OrderState, Role
from aggregator.flow.canceling import cancel
from aggregator.flow.purchases import send
from aggregator.providers.limits import Priority
from aggregator.sandbox.behaviour import Behaviour
from aggregator.sandbox.faults import FaultRule
from aggregator.storage import orders as order_store
from aggregator.storage.database import Database
from aggregator.storage.orders import Filters
from aggregator.storage.tables import orders as orders_table
from tests.support.flow import Street, a_street, on_sqlite, smm

SERVICES = {
    "native": smm("smmplus/1"),
    "own": smm("hstock/1"),
    "both": smm("hstock/1", "smmplus/1"),
    "mentions": smm("smmplus/6"),
    "comments": smm("smmplus/2"),
    "likes": smm("smmplus/12"),
    "subscription": smm("smmplus/16"),
}
DRIP = {"runs": "3", "interval": "60"}
HOUR_S = 3600.0


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


async def family(street: Street, parent: Order) -> list[Order]:
    return [order for order in await street.orders() if order.parent == parent.id]


async def taken(street: Street, service: str = "own", quantity: int = 200, **fields: Any) -> Order:
    return await street.take(service, quantity, **{"params": DRIP, **fields})


# --- runs of our own


async def test_a_service_without_drip_feed_gets_its_runs_one_by_one_and_the_parent_tells_the_sums(
    street: Street,
) -> None:
    parent = await taken(street)
    assert (parent.role, parent.quantity, parent.state) == (Role.PARENT, 600, OrderState.ACCEPTED)
    await street.settle()
    (first,) = await family(street, parent)
    assert (first.role, first.ordinal, first.quantity, first.params) == (Role.RUN, 1, 200, {})
    assert first.provider == "hstock"
    assert (await street.order(parent.number)).state is OrderState.IN_PROGRESS
    await street.advance(HOUR_S / 2)
    assert len(street.purchases()) == 1
    assert (await street.order(parent.number)).remains == 400
    done = await street.until(parent.number, most_s=3 * HOUR_S)
    runs = await family(street, parent)
    assert [run.ordinal for run in runs] == [1, 2, 3]
    moments = [entry.at for entry in street.purchases("hstock")]
    assert [round(b - a) for a, b in pairwise(moments)] == [3600, 3600]
    assert (done.state, done.remains, done.provider, done.provider_order) == (OrderState.COMPLETED, 0, None, None)
    assert done.charge == done.expected_cost == Money.parse("0.30", "USD")
    assert done.start_count == runs[0].start_count
    told = await street.events(parent.number)
    assert told[0] == "order.accepted"
    assert told[-1] == "order.completed"
    assert told.count("order.progress") >= 2
    assert "order.placed" not in told
    (event,) = await street.told(parent.number, "order.completed")
    assert event["data"]["order"]["children"] == [run.id for run in runs]
    assert await street.booked(parent) == []


@on_sqlite
async def test_children_are_listed_by_their_parent_and_do_not_look_like_the_callers_order(street: Street) -> None:
    parent = await taken(street, reference="shop-1", metadata={"cart": 7})
    await street.settle()
    other = await taken(street, link="https://example.com/other")
    await street.settle()
    found = await street.database.read(lambda c: order_store.page(c, Filters(parent=parent.id), before=None, limit=9))
    assert [order.number for order in found] == [order.number for order in await family(street, parent)]
    assert [(order.reference, order.metadata) for order in found] == [(None, {})]
    assert other.id != parent.id


async def test_a_restart_between_runs_makes_exactly_the_missing_ones(street: Street) -> None:
    parent = await taken(street)
    for _ in range(4):
        await street.settle()
        await street.restart()
        await street.advance(HOUR_S * 0.7)
    await street.until(parent.number, OrderState.COMPLETED, most_s=HOUR_S)
    assert len(await family(street, parent)) == len(street.purchases()) == 3


async def test_a_database_that_loses_the_answer_of_a_run_makes_it_once(street: Street) -> None:
    parent = await taken(street)
    street.database.forget = 1
    with pytest.raises(Exception, match="connection is gone"):
        await street.dripping.run_once()
    await street.until(parent.number, OrderState.COMPLETED, most_s=3 * HOUR_S)
    assert len(await family(street, parent)) == len(street.purchases()) == 3


@on_sqlite
async def test_runs_that_were_missed_are_not_made_up_for_at_once(street: Street) -> None:
    parent = await taken(street)
    await street.settle()
    await street.leap(10 * HOUR_S)
    assert len(await family(street, parent)) == 2
    await street.advance(HOUR_S - 60)
    assert len(await family(street, parent)) == 2
    await street.advance(120)
    assert len(await family(street, parent)) == 3


@on_sqlite
async def test_each_run_may_cost_its_part_of_what_is_left(street: Street) -> None:
    parent = await taken(street, max_cost=Money.parse("0.36", "USD"))
    await street.settle()
    (first,) = await family(street, parent)
    assert first.max_cost == Money.parse("0.12", "USD")
    await street.until(parent.number, OrderState.COMPLETED, most_s=3 * HOUR_S)
    limits = [run.max_cost for run in await family(street, parent)]
    assert limits == [Money.parse(text, "USD") for text in ("0.12", "0.13", "0.16")]


@on_sqlite
async def test_a_parent_of_which_a_run_ends_short_is_partial(street: Street) -> None:
    parent = await taken(street)
    await street.settle()
    (first,) = await family(street, parent)
    street.upstream(first).forced_status = "Canceled"
    street.account("hstock").settle(street.upstream(first), street.world.now())
    done = await street.until(parent.number, most_s=3 * HOUR_S)
    assert (done.state, done.remains) == (OrderState.PARTIAL, 200)
    assert done.charge == Money.parse("0.20", "USD")


@on_sqlite
async def test_a_late_correction_of_a_run_corrects_the_parent(street: Street) -> None:
    parent = await taken(street)
    await street.until(parent.number, OrderState.COMPLETED, most_s=3 * HOUR_S)
    (first, *_) = await family(street, parent)
    street.upstream(first).forced_status = "Canceled"
    street.account("hstock").settle(street.upstream(first), street.world.now())
    await street.advance(24 * HOUR_S)
    assert (await street.order(first.number)).state is OrderState.CANCELED
    corrected = await street.order(parent.number)
    assert (corrected.state, corrected.charge) == (OrderState.PARTIAL, Money.parse("0.20", "USD"))
    assert (await street.events(parent.number))[-1] == "order.partial"


@on_sqlite
async def test_a_parent_whose_runs_nobody_takes_has_failed(street: Street) -> None:
    street.break_with(FaultRule("error_text", action="add", body="Bad Link"))
    parent = await taken(street)
    done = await street.until(parent.number, most_s=3 * HOUR_S)
    assert done.state is OrderState.FAILED
    assert [run.state for run in await family(street, parent)] == [OrderState.FAILED] * 3


# --- canceling a parent


async def test_canceling_a_parent_stops_its_runs_and_asks_for_those_that_run(street: Street) -> None:
    goods = street.account("smmplus").services
    goods["12"] = replace(goods["12"], behaviour=Behaviour("complete", pending_s=7200, run_s=7200))
    parent = await street.take("likes", 200, params={**DRIP, "username": "shop"})
    assert parent.role is Role.PARENT, "Comment Likes takes no runs"
    await street.advance(HOUR_S + 60)
    assert len(await family(street, parent)) == 2
    asked = await cancel(street.house, parent.number, by="shop")
    assert (asked.state, asked.cancel_state) == (OrderState.IN_PROGRESS, "asked")
    done = await street.until(parent.number, most_s=600)
    assert done.state is OrderState.CANCELED
    runs = await family(street, parent)
    assert [(run.state, run.cancel_state) for run in runs] == [(OrderState.CANCELED, "asked")] * 2
    assert street.ids_asked("smmplus", "cancel") == [2]
    await street.advance(5 * HOUR_S)
    assert len(await family(street, parent)) == 2
    assert [units for run in runs for _, units in await street.booked(run)] == [-24_000_000, 24_000_000] * 2


async def test_a_parent_without_runs_is_canceled_at_once(street: Street) -> None:
    parent = await taken(street)
    done = await cancel(street.house, parent.number, by="shop")
    assert done.state is OrderState.CANCELED
    await street.advance(2 * HOUR_S)
    assert await family(street, parent) == []
    assert await street.events(parent.number) == ["order.accepted", "order.cancel_asked", "order.canceled"]


@on_sqlite
async def test_a_run_that_cannot_be_canceled_goes_on_and_the_others_are_not_made(street: Street) -> None:
    parent = await taken(street)
    await street.settle()
    await cancel(street.house, parent.number, by="shop")
    with pytest.raises(Problem) as caught:
        await cancel(street.house, parent.number, by="shop")
    assert caught.value.kind is ProblemKind.CONFLICT
    done = await street.until(parent.number, most_s=HOUR_S)
    assert (done.state, done.remains) == (OrderState.PARTIAL, 400)
    assert len(street.purchases()) == 1


@on_sqlite
async def test_a_parent_whose_runs_have_all_ended_is_not_canceled_in_the_moment_before_their_sum(
    street: Street,
) -> None:
    parent = await taken(street)
    await street.advance(2 * HOUR_S)
    street.stages = tuple(stage for stage in street.stages if stage is not street.dripping)
    await street.advance(HOUR_S)
    assert all(run.state in FINAL for run in await family(street, parent))
    with pytest.raises(Problem, match="every run is made, and all have ended"):
        await cancel(street.house, parent.number, by="shop")


@on_sqlite
async def test_a_parent_whose_last_run_nobody_can_cancel_says_why(street: Street) -> None:
    parent = await taken(street)
    await street.advance(2 * HOUR_S)
    with pytest.raises(Problem, match="every run is made, and none can be canceled: hstock knows no cancel"):
        await cancel(street.house, parent.number, by="shop")


@on_sqlite
async def test_a_run_that_was_being_bought_is_canceled_when_its_end_is_known(street: Street) -> None:
    goods = street.account("smmplus").services
    goods["12"] = replace(goods["12"], behaviour=Behaviour("complete", pending_s=7200, run_s=7200))
    parent = await street.take("likes", 200, params={**DRIP, "username": "shop"})
    await street.dripping.run_once()
    (run,) = await family(street, parent)
    await street.routing.run_once()
    await street.routing.idle()
    placing = await street.placement._start(street.house.gateways["smmplus"])
    assert placing is not None
    await cancel(street.house, parent.number, by="shop")
    await street.dripping.run_once()
    assert (await street.order(run.number)).cancel_state is None
    gateway = street.house.gateways["smmplus"]
    async with gateway.turn(Priority.PURCHASE):
        sent = await send(gateway, placing.order, placing.attempt, placing.type)
    await street.placement._record(gateway, placing, *sent)
    done = await street.until(parent.number, most_s=600)
    assert (done.state, (await street.order(run.number)).state) == (OrderState.CANCELED, OrderState.CANCELED)


# --- native


async def test_an_offer_that_takes_runs_gets_them_and_the_books_count_all_of_them(street: Street) -> None:
    order = await street.take("both", 200, params=DRIP)
    assert (order.role, order.quantity) == (Role.ORDER, 600)
    await street.settle()
    bought = await street.order(order.number)
    assert bought.provider == "smmplus", "hstock is cheaper, but would forget the runs"
    (attempt,) = await street.attempts(order.number)
    reasons = {one["provider"]: one["reason"] for one in attempt["candidates"]}
    assert reasons["hstock"] == "it has no drip-feed, the order wants 3 runs"
    (entry,) = street.purchases()
    assert {name: entry.params[name] for name in ("quantity", "runs", "interval")} == {
        "quantity": "200",
        "runs": "3",
        "interval": "60",
    }
    assert bought.expected_cost == Money.parse("0.54", "USD")
    assert await street.booked(order) == [("charge", -54_000_000)]
    done = await street.until(order.number, most_s=4 * HOUR_S)
    assert (done.state, done.remains, done.charge) == (OrderState.COMPLETED, 0, Money.parse("0.54", "USD"))
    assert len(done.provider_children) == 3
    assert await family(street, order) == []
    (event,) = await street.told(order.number, "order.completed")
    assert event["data"]["order"]["provider_children"] == list(done.provider_children)


@on_sqlite
async def test_a_quantity_is_that_of_one_run_where_min_and_max_are_concerned(street: Street) -> None:
    order = await street.take("native", 9_000, params=DRIP)
    await street.settle()
    assert (await street.order(order.number)).provider == "smmplus"
    problem = await street.refused(street.wish("native", 40, "https://example.com/a", params=DRIP))
    assert (problem.field, problem.detail) == ("quantity", "must be 50 to 10000, got 40")


@on_sqlite
async def test_an_order_pinned_to_a_provider_without_drip_feed_runs_by_our_schedule(street: Street) -> None:
    order = await street.take("both", 200, params=DRIP, provider="hstock")
    assert order.role is Role.PARENT
    await street.until(order.number, OrderState.COMPLETED, most_s=3 * HOUR_S)
    assert len(street.purchases("hstock")) == 3


@on_sqlite
async def test_one_run_is_an_order_like_any_other(street: Street) -> None:
    order = await street.take("own", 200, params={"runs": "1", "interval": "60"})
    assert (order.role, order.quantity, order.params) == (Role.ORDER, 200, {})


@on_sqlite
@pytest.mark.parametrize(
    ("service", "fields", "field"),
    [
        ("own", {"params": {"runs": "0", "interval": "5"}}, "params.runs"),
        ("own", {"params": {"runs": "1001", "interval": "5"}}, "params.runs"),
        ("own", {"params": {"runs": "2", "interval": "0"}}, "params.interval"),
        ("comments", {"quantity": None, "params": {**DRIP, "comments": "a\n" * 10}}, "params.runs"),
    ],
)
async def test_runs_that_make_no_sense_are_refused(
    street: Street, service: str, fields: dict[str, Any], field: str
) -> None:
    wish = street.wish(service, **{"quantity": 200, "link": "https://example.com/a", **fields})
    assert (await street.refused(wish)).field == field


# --- what providers run themselves


@on_sqlite
async def test_a_subscription_is_passed_through_and_followed_to_its_end(street: Street) -> None:
    params = {"username": "shop", "min": "10", "max": "20", "posts": "2", "delay": "0"}
    order = await street.take("subscription", None, None, params=params)
    await street.settle()
    (entry,) = street.purchases()
    assert {name: entry.params[name] for name in params} == params
    await street.advance(HOUR_S * 1.5)
    active = await street.order(order.number)
    assert active.state is OrderState.IN_PROGRESS
    assert len(active.provider_children) == 1
    done = await street.until(order.number, most_s=12 * HOUR_S)
    assert done.state is OrderState.COMPLETED
    assert len(done.provider_children) == 2


@on_sqlite
@pytest.mark.parametrize("word", ["Paused", "Expired", "Limit reached"])
async def test_a_word_that_nobody_knows_ends_no_subscription(street: Street, word: str) -> None:
    params = {"username": "shop", "min": "10", "max": "20", "posts": "2", "delay": "0"}
    order = await street.take("subscription", None, None, params=params)
    await street.settle()
    body = f'{{"status": "{word}", "posts": 10, "orders": [101, 102]}}'
    street.break_with(FaultRule("wrong_json_before", action="status", body=body))
    await street.advance(HOUR_S)
    now = await street.order(order.number)
    assert now.state not in FINAL
    assert now.provider_children == ("101", "102")


@on_sqlite
async def test_a_drip_parent_at_the_provider_is_one_order_of_ours(street: Street) -> None:
    order = await street.bought("native", 200, params=DRIP)
    body = '{"status": "In progress", "runs": 5, "orders": [101, 102]}'
    street.break_with(FaultRule("wrong_json_before", action="status", body=body))
    await street.advance(600)
    now = await street.order(order.number)
    assert (now.state, now.provider_children, now.remains) == (OrderState.IN_PROGRESS, ("101", "102"), None)
    assert await street.column(orders_table, order.number, "next_poll_at") is not None
