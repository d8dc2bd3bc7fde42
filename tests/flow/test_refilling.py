"""Orders that dropped are refilled: told once, asked for once, followed to the end, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from aiohttp import web
from sqlalchemy import update

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.orders import Order, OrderState
from aggregator.domain.refills import Refill, RefillState
from aggregator.flow import refilling as refilling_module
from aggregator.flow.counting import count_in, take_count
from aggregator.flow.refilling import Refilling, request_by_hand
from aggregator.providers import gateway as gateway_module
from aggregator.providers.gateway import Gateway
from aggregator.sandbox import aftercare, panel_v2
from aggregator.sandbox.account import Account
from aggregator.sandbox.edits import edit_service
from aggregator.sandbox.faults import FAULTS, FaultRule
from aggregator.sandbox.fields import Fields
from aggregator.sandbox.ledger import Call
from aggregator.sandbox.orders import Drop
from aggregator.sandbox.world import World
from aggregator.storage import unknown_words
from aggregator.storage.database import Database
from aggregator.storage.tables import orders as orders_table
from tests.support.flow import Street, a_street, on_sqlite, smm

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
SERVICES = {
    "likes": smm("smmplus/18"),
    "followers": smm("smmplus/1"),
    "often": smm("smmplus/1", refill={"min_age_h": 0, "check_every_h": 1, "cooldown_h": 6, "max_refills": 2}),
    "by-hand": smm("smmplus/1", refill={"auto": False}),
    "plain": smm("smmplus/20"),
    "rejecting": smm("smmcheap/7"),
    "elsewhere": smm("hstock/1"),
}
LOSING = ["timeout_before", "timeout_after", "reset_after", "http_500_after", "html_after", "truncated_after"]


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "RATE_LIMIT_PAUSE_S", 0.01)
    monkeypatch.setattr(refilling_module, "STORAGE_RETRY_S", 0.01)


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


async def completed(street: Street, service: str = "followers", **fields: Any) -> Order:
    """An order that its provider has finished."""
    order = await street.bought(service, **fields)
    return await street.until(order.number, OrderState.COMPLETED)


def loses(street: Street, order: Order, units: int) -> None:
    """So many fall off now."""
    street.upstream(order).drops.append(Drop(street.world.now(), units))


async def dropped(street: Street, service: str = "followers", units: int = 200, **fields: Any) -> Order:
    """A finished order whose loss was noticed, a day after; its refill has not been asked for yet."""
    order = await completed(street, service, **fields)
    loses(street, order, units)
    return order


async def the_refill(street: Street, order: Order) -> Refill:
    (refill,) = await street.refills(order)
    return refill


# --- the whole way


async def test_a_drop_is_told_once_refilled_once_and_made_good(street: Street) -> None:
    order = await completed(street, "likes")
    await street.advance(3 * DAY_S)
    told = await street.events(order.number)
    assert told[-4:] == ["order.completed", "order.dropped", "refill.requested", "refill.completed"]
    (event,) = await street.told(order.number, "order.dropped")
    assert event["data"]["drop"] == 200
    refill = await the_refill(street, order)
    assert (refill.state, refill.dropped, refill.provider_refill) == (RefillState.COMPLETED, 200, "1")
    assert refill.finished_at is not None
    assert len(street.refills_asked()) == street.calls("smmplus", "refill") == 1
    assert (await street.order(order.number)).remains == 0
    (event,) = await street.told(order.number, "refill.completed")
    assert event["data"]["refill"] == {"id": refill.id, "number": refill.number}
    assert event["data"]["order"]["refills"][0]["state"] == "completed"


@on_sqlite
async def test_a_loss_below_the_threshold_is_not_told(street: Street) -> None:
    order = await dropped(street, units=49)
    await street.advance(3 * DAY_S)
    assert (await street.events(order.number))[-1] == "order.completed"
    loses(street, order, 1)
    await street.advance(3 * DAY_S)
    assert (await street.events(order.number)).count("order.dropped") == 1


@on_sqlite
async def test_a_refill_waits_for_the_least_age(street: Street) -> None:
    order = await completed(street, "often")
    loses(street, order, 200)
    await street.advance(HOUR_S)
    assert len(street.refills_asked()) == 1
    late = await completed(street, link="https://example.com/late")
    loses(street, late, 200)
    await street.advance(DAY_S - 60)
    assert await street.refills(late) == ()


@on_sqlite
async def test_a_drop_after_a_drop_is_refilled_after_the_cooldown_up_to_the_most(street: Street) -> None:
    order = await completed(street, "often")
    account = street.account("smmplus")
    account.settings = replace(account.settings, refill_cooldown_s=0)
    moments = []
    for _ in range(4):
        loses(street, order, 200)
        before = len(street.refills_asked())
        await street.advance(7 * HOUR_S)
        moments += [entry.at for entry in street.refills_asked()[before:]]
    assert len(moments) == 2
    assert moments[1] - moments[0] >= 6 * HOUR_S
    assert (await street.events(order.number)).count("order.dropped") == 4
    assert await street.column(orders_table, order.number, "next_refill_at") is None
    assert [refill.state for refill in await street.refills(order)] == [RefillState.COMPLETED] * 2


@on_sqlite
async def test_what_a_refill_did_not_make_good_is_asked_for_again_after_the_cooldown(street: Street) -> None:
    order = await completed(street, "often")
    loses(street, order, 200)
    street.upstream(order).forced_status, street.upstream(order).forced_remains = "Completed", 200
    account = street.account("smmplus")
    account.settings = replace(account.settings, refill_cooldown_s=0)
    await street.advance(5 * HOUR_S)
    assert len(street.refills_asked()) == 1
    await street.advance(3 * HOUR_S)
    assert len(street.refills_asked()) == 2


@on_sqlite
async def test_a_loss_that_came_back_by_itself_is_not_refilled(street: Street) -> None:
    order = await dropped(street)
    street.break_with(FaultRule("error_text", account="smmplus", action="refill", body="drop_not_detected"))
    await street.advance(DAY_S + HOUR_S)
    assert (await the_refill(street, order)).outcome == "no_drop"
    street.upstream(order).drops.clear()
    asked = street.calls("smmplus", "refill")
    await street.advance(5 * DAY_S)
    assert (await street.order(order.number)).remains == 0
    assert street.calls("smmplus", "refill") == asked


@on_sqlite
async def test_nothing_is_refilled_by_itself_without_a_start_count(street: Street) -> None:
    order = await street.bought("followers")
    street.break_with(
        FaultRule("wrong_json_before", action="status", body='{"status": "Completed", "charge": "0.9", "remains": "0"}')
    )
    await street.until(order.number, OrderState.COMPLETED)
    body = '{"status": "Completed", "charge": "0.9", "remains": "300"}'
    street.break_with(FaultRule("wrong_json_before", action="status", body=body))
    await street.advance(3 * DAY_S)
    assert (await street.order(order.number)).start_count is None
    assert (await street.events(order.number)).count("order.dropped") == 1
    assert await street.refills(order) == ()


@on_sqlite
async def test_nothing_is_refilled_where_the_config_or_the_provider_says_no(street: Street) -> None:
    orders = [await dropped(street, name, link=f"https://example.com/{name}") for name in ("by-hand", "elsewhere")]
    await street.advance(4 * DAY_S)
    assert [await street.refills(order) for order in orders] == [(), ()]
    assert street.refills_asked() == []


@on_sqlite
async def test_after_the_window_nothing_is_asked_any_more(street: Street) -> None:
    order = await completed(street)
    await street.advance(30.5 * DAY_S)
    loses(street, order, 500)
    asked = street.calls("smmplus", "status")
    await street.advance(5 * DAY_S)
    assert await street.refills(order) == ()
    assert street.calls("smmplus", "status") == asked


@on_sqlite
async def test_a_rejected_refill_is_told_and_asked_for_again_only_after_the_cooldown(street: Street) -> None:
    order = await dropped(street, "rejecting")
    await street.advance(DAY_S + HOUR_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.detail) == (RefillState.REJECTED, "Rejected")
    assert (await street.events(order.number))[-1] == "refill.rejected"
    await street.advance(DAY_S - 2 * HOUR_S)
    assert len(street.refills_asked()) == 1
    await street.advance(3 * HOUR_S)
    assert len(street.refills_asked()) == 2


@on_sqlite
async def test_many_drops_are_asked_for_by_one_call(street: Street) -> None:
    orders = [await completed(street, link=f"https://example.com/{place}") for place in range(5)]
    for order in orders:
        loses(street, order, 200)
    await street.leap(2 * DAY_S)
    assert street.ids_asked("smmplus", "refill") == [5]
    assert len(street.refills_asked()) == 5
    await street.advance(HOUR_S)
    assert max(street.ids_asked("smmplus", "refill_status")) == 5
    for order in orders:
        assert (await the_refill(street, order)).state is RefillState.COMPLETED


# --- what the provider says

REFUSALS = [
    ("Refill is not available", "never", False),
    ("Service does not support refill", "never", False),
    ("guarantee_expired", "window_over", False),
    ("too soon to refill, wait 48 hours", "later_at", True),
    ("order is not completed", "later", True),
    ("drop_not_detected", "no_drop", True),
    ("refill limit reached", "never", False),
    ("order canceled", "never", False),
    ("Incorrect order ID", "unknown_order", False),
]


@on_sqlite
@pytest.mark.parametrize(("text", "outcome", "again"), REFUSALS)
async def test_each_refusal_ends_the_refill_with_its_reason(
    street: Street, text: str, outcome: str, again: bool
) -> None:
    order = await dropped(street)
    street.break_with(FaultRule("error_text", account="smmplus", action="refill", body=text))
    await street.advance(DAY_S + HOUR_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.outcome, refill.detail) == (RefillState.REJECTED, outcome, text)
    (event,) = await street.told(order.number, "refill.rejected")
    assert event["data"]["reason"] == text
    due = await street.column(orders_table, order.number, "next_refill_at")
    if not again:
        assert due is None
        await street.advance(10 * DAY_S)
        assert street.calls("smmplus", "refill") == 1
        return
    least = {"no_drop": timedelta(days=7)}.get(outcome, timedelta(hours=24))
    least = timedelta(hours=48) if "48" in text else least
    assert due >= refill.requested_at + least
    street.break_with()
    await street.advance(9 * DAY_S)
    assert [one.state for one in await street.refills(order)] == [RefillState.REJECTED, RefillState.COMPLETED]


@on_sqlite
async def test_a_running_refill_that_is_named_is_adopted_and_followed(street: Street) -> None:
    order = await about_to_ask(street)
    # Somebody asked for it on the provider's page.
    running = aftercare.refill(street.account("smmplus"), order.provider_order or "", street.world.now())
    running.forced = "In progress"
    street.break_with(
        FaultRule(
            "wrong_json_before",
            account="smmplus",
            action="refill",
            body=f'{{"error": "refill already in progress", "refill": {running.id}}}',
        )
    )
    await street.advance(2 * HOUR_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.provider_refill) == (RefillState.IN_PROGRESS, str(running.id))
    running.forced = "Completed"
    await street.advance(2 * HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.COMPLETED
    assert street.calls("smmplus", "refill") == 1


@on_sqlite
@pytest.mark.parametrize("fault", LOSING)
async def test_a_refill_whose_answer_is_lost_is_not_asked_for_again_in_its_cooldown(street: Street, fault: str) -> None:
    order = await dropped(street)
    if "timeout" in fault:
        street.hurry("smmplus")
    street.break_with(FaultRule(fault, account="smmplus", action="refill", count=1))
    await street.advance(DAY_S + HOUR_S)
    refill = await the_refill(street, order)
    assert refill.state is RefillState.UNCLEAR
    await street.restart()
    await street.advance(DAY_S - 2 * HOUR_S)
    await street.restart()
    assert street.calls("smmplus", "refill") == 1
    await street.advance(3 * HOUR_S)
    first, *more = await street.refills(order)
    assert (first.state, first.finished_at is not None) == (RefillState.REJECTED, True)
    assert len(street.refills_asked()) <= 2
    if FAULTS[fault].stage == "before":
        # What was really lost is asked for again, now that it may be.
        assert [one.state for one in more] == [RefillState.COMPLETED]


@on_sqlite
async def test_a_refill_that_was_not_sent_is_asked_for_a_little_later(
    street: Street, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    order = await about_to_ask(street)
    ask = Gateway.refills
    account = street.house.gateways["smmplus"]._dialect.account  # type: ignore[attr-defined]
    url = account.url

    async def nobody_there(gateway: Gateway, *args: Any) -> Any:
        object.__setattr__(account, "url", f"http://127.0.0.1:{unused_tcp_port}/api/v2")
        try:
            return await ask(gateway, *args)
        finally:
            object.__setattr__(account, "url", url)

    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "refills", nobody_there)
        while not await street.refills(order):
            await street.next()
        await street.restart()
        await street.settle()
    refill = await the_refill(street, order)
    assert (refill.state, street.calls("smmplus", "refill")) == (RefillState.REQUESTED, 0)
    await street.advance(HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.COMPLETED
    assert len(street.refills_asked()) == 1


@on_sqlite
@pytest.mark.parametrize("fault", ["http_500_before", "html", "reset_before", "error_text", "wrong_json_before"])
async def test_a_refills_status_that_fails_changes_nothing_and_is_asked_again(street: Street, fault: str) -> None:
    order = await dropped(street)
    street.break_with(FaultRule(fault, account="smmplus", action="refill_status", count=4))
    await street.advance(DAY_S + 2 * HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.COMPLETED
    assert street.calls("smmplus", "refill_status") >= 5
    assert (await street.events(order.number)).count("refill.completed") == 1


@on_sqlite
@pytest.mark.parametrize("word", ["Awaiting approval", "???", "order completed"])
async def test_an_unknown_word_does_not_end_a_refill(street: Street, word: str) -> None:
    order = await dropped(street)
    await street.advance(DAY_S - HOUR_S)
    street.break_with(
        FaultRule("wrong_json_before", account="smmplus", action="refill_status", body=f'{{"status": "{word}"}}')
    )
    await street.advance(3 * HOUR_S)
    assert (await the_refill(street, order)).state in (RefillState.PENDING, RefillState.IN_PROGRESS)


# --- crashes


async def about_to_ask(street: Street) -> Order:
    """A drop whose refill is journaled at the next tick."""
    order = await dropped(street)
    await street.advance(DAY_S - HOUR_S)
    assert await street.refills(order) == ()
    return order


async def test_a_refill_is_journaled_before_the_call(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await about_to_ask(street)
    seen: list[Refill] = []
    ask = Gateway.refills

    async def asked(gateway: Gateway, *args: Any) -> Any:
        seen.extend(await street.refills(order))
        return await ask(gateway, *args)

    monkeypatch.setattr(Gateway, "refills", asked)
    await street.advance(2 * HOUR_S)
    assert [refill.state for refill in seen] == [RefillState.REQUESTED]


@pytest.mark.parametrize("method", ["refills", "_record_asked"])
async def test_a_crash_while_a_refill_is_asked_for_does_not_ask_again_in_the_cooldown(
    street: Street, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    order = await about_to_ask(street)

    async def crash(*_: Any) -> Any:
        raise Crash(method)

    def crash_in_the_transaction(*_: Any) -> Any:
        raise Crash(method)

    with monkeypatch.context() as broken:
        if method == "refills":
            broken.setattr(Gateway, "refills", crash)
        else:
            broken.setattr(Refilling, "_record_asked", crash_in_the_transaction)
        while not await street.refills(order):
            await street.next()
    assert (await the_refill(street, order)).state is RefillState.REQUESTED
    asked = street.calls("smmplus", "refill")
    # Without the start-up's reconciliation too: the claim runs out, the refilling stage comes first.
    street.clock.advance(1000)
    await street.refilling.run_once()
    await street.refilling.idle()
    assert street.calls("smmplus", "refill") == asked
    await street.restart()
    refill = await the_refill(street, order)
    assert (refill.state, refill.outcome) == (RefillState.UNCLEAR, "interrupted")
    await street.advance(20 * HOUR_S)
    assert street.calls("smmplus", "refill") == asked
    assert (await street.events(order.number)).count("refill.requested") == 1


async def test_a_refill_that_was_given_is_recorded_however_long_the_database_takes(street: Street) -> None:
    order = await about_to_ask(street)
    with street.refusing_after("refills", 5):
        await street.advance(2 * HOUR_S)
    refill = await the_refill(street, order)
    assert refill.provider_refill == street.refills_asked()[0].refill


async def test_restarts_at_every_step_ask_and_tell_once(street: Street) -> None:
    order = await completed(street, "likes")
    for _ in range(40):
        await street.next()
        await street.restart(synced=False)
        if (await street.events(order.number))[-1] == "refill.completed":
            break
    told = await street.events(order.number)
    assert told[-4:] == ["order.completed", "order.dropped", "refill.requested", "refill.completed"]
    assert len(street.refills_asked()) == 1


# --- by hand


async def why_not(street: Street, order: Order) -> str:
    with pytest.raises(Problem) as refused:
        await request_by_hand(street.house, await street.order(order.number))
    assert refused.value.kind is ProblemKind.CONFLICT
    return refused.value.detail


async def test_a_caller_may_ask_for_a_refill_and_follow_it(street: Street) -> None:
    order = await dropped(street, "by-hand")
    await street.advance(DAY_S)
    asked = await request_by_hand(street.house, await street.order(order.number))
    assert (await the_refill(street, order)).state is RefillState.REQUESTED
    assert asked.sequence == len(await street.events(order.number))
    await street.advance(HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.COMPLETED
    assert "less than" in await why_not(street, order)


@on_sqlite
async def test_a_refill_that_cannot_be_is_a_conflict_with_the_reason(street: Street) -> None:
    running = await street.bought("followers", link="https://example.com/running")
    assert "the order is pending" in await why_not(street, running)
    young = await completed(street, link="https://example.com/young")
    assert "finished less than" in await why_not(street, young)
    never = await completed(street, "elsewhere", link="https://example.com/elsewhere")
    await street.advance(DAY_S)
    assert "gives no refills" in await why_not(street, never)
    await request_by_hand(street.house, await street.order(young.number))
    assert "is running" in await why_not(street, young)
    await street.advance(31 * DAY_S)
    assert "window" in await why_not(street, running)


@on_sqlite
async def test_a_refusal_for_good_is_final_for_callers_too(street: Street) -> None:
    order = await dropped(street)
    street.break_with(FaultRule("error_text", account="smmplus", action="refill", body="Refill is not available"))
    await street.advance(DAY_S + HOUR_S)
    street.break_with()
    await street.advance(3 * DAY_S)
    assert "refused for good: Refill is not available" in await why_not(street, order)


async def test_two_wishes_at_once_make_one_refill(street: Street) -> None:
    order = await completed(street)
    street.clock.advance(2 * DAY_S)
    current = await street.order(order.number)
    results = await asyncio.gather(*(request_by_hand(street.house, current) for _ in range(6)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Order", *["Problem"] * 5]
    await street.advance(HOUR_S)
    assert len(street.refills_asked()) == 1


# --- the same link


async def test_with_another_order_on_the_link_nothing_is_refilled_by_itself(street: Street) -> None:
    order = await dropped(street)
    other = await street.bought("followers")
    assert other.link == order.link
    await street.advance(3 * DAY_S)
    assert (await street.events(order.number)).count("order.dropped") == 1
    assert await street.refills(order) == ()
    # A person may know better.
    asked = await request_by_hand(street.house, await street.order(order.number))
    assert [refill.state for refill in await street.refills(asked)] == [RefillState.REQUESTED]


async def test_an_order_on_the_link_that_was_never_bought_does_not_stand_in_the_way(street: Street) -> None:
    order = await dropped(street)
    street.break_with(FaultRule("error_text", account="smmplus", action="add", body="Bad Link"))
    failed = await street.take("followers")
    await street.settle()
    assert (await street.order(failed.number)).state is OrderState.FAILED
    street.break_with()
    await street.advance(DAY_S + HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.COMPLETED


async def refused_by_hand(street: Street, text: str) -> Order:
    """An order whose refill the provider has just refused with these words."""
    order = await dropped(street, "by-hand")
    await street.advance(DAY_S + 60)
    street.break_with(FaultRule("error_text", account="smmplus", action="refill", body=text))
    await request_by_hand(street.house, await street.order(order.number))
    await street.advance(60)
    assert (await the_refill(street, order)).state is RefillState.REJECTED
    street.break_with()
    return order


async def test_a_refusal_that_names_no_time_begins_the_cooldown_for_callers_too(street: Street) -> None:
    order = await refused_by_hand(street, "order is not completed")
    assert "asked for less than" in await why_not(street, order)
    await street.leap(DAY_S)
    await request_by_hand(street.house, await street.order(order.number))


async def test_a_time_that_the_provider_names_counts_for_callers_and_new_losses_too(street: Street) -> None:
    order = await refused_by_hand(street, "too soon to refill, wait 3 hours")
    assert "gives none before" in await why_not(street, order)
    loses(street, order, 100)
    await street.advance(2 * HOUR_S)
    assert "gives none before" in await why_not(street, order)
    await street.leap(HOUR_S)
    await request_by_hand(street.house, await street.order(order.number))


async def test_a_new_loss_is_asked_for_at_the_time_that_the_provider_named(street: Street) -> None:
    order = await dropped(street, "often")
    street.break_with(FaultRule("error_text", account="smmplus", action="refill", body="too soon, wait 20 hours"))
    await street.advance(HOUR_S)
    assert street.calls("smmplus", "refill") == 1
    for _ in range(5):
        loses(street, order, 50)
        await street.advance(2 * HOUR_S)
    assert len(await street.told(order.number, "order.dropped")) > 1
    assert street.calls("smmplus", "refill") == 1
    street.break_with()
    await street.advance(11 * HOUR_S)
    assert street.calls("smmplus", "refill") == 2


@on_sqlite
async def test_a_refill_by_hand_begins_none_by_itself_where_nobody_knows_the_start_count(street: Street) -> None:
    order = await completed(street, "often")
    await street.database.write(
        lambda c: c.execute(
            update(orders_table)
            .where(orders_table.c.number == order.number)
            .values(start_count=None, next_poll_at=None)
        )
    )
    street.break_with(FaultRule("error_text", account="smmplus", action="refill", body="order is not completed"))
    await request_by_hand(street.house, await street.order(order.number))
    await street.advance(60)
    await street.database.write(
        lambda c: c.execute(update(orders_table).where(orders_table.c.number == order.number).values(remains=500))
    )
    await street.advance(2 * DAY_S)
    assert len(await street.refills(order)) == 1


@on_sqlite
async def test_an_unclear_purchase_for_the_link_stands_in_the_way_of_a_refill(street: Street) -> None:
    order = await dropped(street, link="https://example.com/same")
    street.break_with(FaultRule("timeout_before", action="add"))
    street.hurry("smmplus")
    other = await street.take("followers", link="https://example.com/same")
    await street.settle()
    assert (await street.order(other.number)).state is OrderState.UNCLEAR
    street.break_with()
    await street.advance(2 * DAY_S)
    assert await street.refills(order) == ()


# --- counts that somebody else than the provider saw


async def counted(street: Street, order: Order, count: int) -> Order:
    return await take_count(street.house, await street.order(order.number), count, by="shop")


async def test_a_callers_count_shows_a_drop_that_is_refilled(street: Street) -> None:
    order = await completed(street)
    assert order.start_count is not None
    full = order.start_count + order.quantity
    assert "order.dropped" not in await street.events((await counted(street, order, full - 10)).number)
    loses(street, order, 200)
    dropped_now = await counted(street, order, full - 200)
    (event,) = await street.told(order.number, "order.dropped")
    assert event["data"]["drop"] == 200
    assert (dropped_now.count, dropped_now.count_at) == (full - 200, street.clock.now())
    await counted(street, order, full - 190)
    assert len(await street.told(order.number, "order.dropped")) == 1
    await street.advance(DAY_S + HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.COMPLETED


async def test_after_a_refill_an_old_count_says_nothing(street: Street) -> None:
    order = await completed(street, "often")
    assert order.start_count is not None
    loses(street, order, 200)
    await counted(street, order, order.start_count + order.quantity - 200)
    await street.advance(2 * HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.COMPLETED
    assert (await street.order(order.number)).count is None
    await street.advance(3 * DAY_S)
    assert len(await street.refills(order)) == 1


@on_sqlite
async def test_only_a_completed_order_takes_a_count(street: Street) -> None:
    order = await street.bought("followers")
    with pytest.raises(Problem, match="only a completed panel order") as refused:
        await counted(street, order, 5)
    assert refused.value.kind is ProblemKind.CONFLICT


@on_sqlite
async def test_a_guarantee_in_the_name_counts_where_the_config_states_none(street: Street) -> None:
    account = street.account("smmplus")
    order = await completed(street)
    edit_service(account, account.services["1"], Fields({"name": "Followers [No Refill]"}))
    await street.leap(1000)
    await street.synced()
    assert "says that there are no refills" in await why_not(street, order)
    edit_service(account, account.services["1"], Fields({"name": "Followers R10"}))
    await street.leap(1000)
    await street.synced()
    await street.leap(11 * DAY_S)
    assert "window of 10 days" in await why_not(street, order)


class Counter:
    """A service that counts; `answer` is what it says."""

    def __init__(self) -> None:
        self.answer: object = {"count": "12"}
        self.asked: list[str] = []

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append(request.query["link"])
        return web.json_response(self.answer)


@asynccontextmanager
async def counting(pointer: str) -> AsyncIterator[tuple[Counter, dict[str, str]]]:
    """A counter that is listened to, and the `count_source` that asks it."""
    counter = Counter()
    app = web.Application()
    app.router.add_get("/count", counter.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield counter, {"url": f"http://127.0.0.1:{runner.addresses[0][1]}/count?link={{link}}", "pointer": pointer}
    finally:
        await runner.cleanup()


@on_sqlite
async def test_a_count_source_that_never_answers_is_not_asked_for_ever(
    database: Database, clock: ManualClock, tmp_path: Path, unused_tcp_port: int
) -> None:
    source = {"url": f"http://127.0.0.1:{unused_tcp_port}/count?link={{link}}", "pointer": "/n"}
    services = {"followers": smm("smmplus/1", refill={"window_days": 3}, count_source=source)}
    async with a_street(database, clock, tmp_path, services) as street:
        order = await completed(street)
        await street.advance(2 * DAY_S)
        assert await street.column(orders_table, order.number, "next_count_at") is not None
        await street.advance(DAY_S)
        assert await street.column(orders_table, order.number, "next_count_at") is None


async def test_a_count_source_is_asked_within_the_window_and_shows_drops(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with counting("/data/0/n") as (counter, source):
        services = {"followers": smm("smmplus/1", refill={"window_days": 3}, count_source=source)}
        async with a_street(database, clock, tmp_path, services) as street:
            order = await completed(street, link="https://example.com/ä?a=1&b=2")
            assert order.start_count is not None
            nonsense: object
            for nonsense in ({"data": []}, "???", {"data": [{"n": -1}]}, {"data": [{"n": 1.5}]}, [], None):
                counter.answer = nonsense
                asked = len(counter.asked)
                await street.advance(DAY_S if not asked else HOUR_S)
                assert len(counter.asked) > asked
                assert (await street.order(order.number)).count is None
            assert set(counter.asked) == {"https://example.com/ä?a=1&b=2"}
            counter.answer = {"data": [{"n": order.start_count + order.quantity - 300}]}
            await street.advance(HOUR_S)
            assert (await street.told(order.number, "order.dropped"))[0]["data"]["drop"] == 300
            await street.advance(10 * DAY_S)
            asked = len(counter.asked)
            await street.advance(10 * DAY_S)
            assert len(counter.asked) == asked


@on_sqlite
async def test_a_count_that_is_never_confirmed_is_forgotten_after_the_window(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with counting("/n") as (counter, source):
        services = {"followers": smm("smmplus/1", refill={"window_days": 3}, count_source=source)}
        async with a_street(database, clock, tmp_path, services) as street:
            counter.answer = {"n": 0}
            order = await completed(street)
            while not counter.asked:
                await street.next()
            assert street.counting._unconfirmed == {order.number}
            counter.answer = "a page that does not load any more"
            await street.advance(4 * DAY_S)
            assert await street.column(orders_table, order.number, "next_count_at") is None
            assert street.counting._unconfirmed == set()


@pytest.mark.parametrize(
    ("body", "pointer", "count"),
    [
        (b'{"count": 5}', "/count", 5),
        (b'{"count": "5"}', "/count", 5),
        (b"7", "", 7),
        (b'{"a/b": {"~": [1, 2]}}', "/a~1b/~0/1", 2),
        (b'{"count": true}', "/count", None),
        (b'{"count": 5}', "/other", None),
        (b"[1]", "/1", None),
        (b"<html>", "/count", None),
        (b"\xff", "", None),
    ],
)
def test_a_count_is_read_by_its_pointer(body: bytes, pointer: str, count: int | None) -> None:
    assert count_in(body, pointer) == count


# --- providers whose batches are none, or are spoiled by one id


async def several_dropped(street: Street, count: int = 3) -> list[Order]:
    """Finished orders whose losses will be noticed at one moment."""
    orders = [await completed(street, link=f"https://example.com/{place}") for place in range(count)]
    for order in orders:
        loses(street, order, 200)
    return orders


def answers(
    monkeypatch: pytest.MonkeyPatch, action: str, instead: Callable[[Mapping[str, str]], object | None]
) -> None:
    """Whatever `instead` does not answer is answered as ever."""
    usual = panel_v2.ACTIONS[action]

    def answer(world: World, account: Account, call: Call) -> object:
        found = instead(call.params)
        return usual(world, account, call) if found is None else found

    monkeypatch.setitem(cast(dict[str, object], panel_v2.ACTIONS), action, answer)


@on_sqlite
@pytest.mark.parametrize("text", ["Missing order parameter", "Incorrect order ID"])
async def test_a_provider_without_batched_refills_is_asked_one_by_one(
    street: Street, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    answers(monkeypatch, "refill", lambda params: {"error": text} if "orders" in params else None)
    orders = await several_dropped(street)
    await street.leap(2 * DAY_S)
    await street.advance(HOUR_S)
    assert street.ids_asked("smmplus", "refill") == [3, 1, 1, 1]
    assert len(street.refills_asked()) == 3
    for order in orders:
        assert (await the_refill(street, order)).state is RefillState.COMPLETED
        told = await street.events(order.number)
        assert told[-3:] == ["order.dropped", "refill.requested", "refill.completed"]
    for order in orders:
        loses(street, order, 300)
    await street.leap(2 * DAY_S)
    await street.advance(HOUR_S)
    assert street.ids_asked("smmplus", "refill") == [3, 1, 1, 1, 1, 1, 1]


@on_sqlite
@pytest.mark.parametrize("fault", ["timeout_after", "html_after", "wrong_json_after"])
async def test_a_lost_answer_to_a_batch_is_not_followed_by_single_asks(street: Street, fault: str) -> None:
    if "timeout" in fault:
        street.hurry("smmplus")
    orders = await several_dropped(street)
    street.break_with(FaultRule(fault, account="smmplus", action="refill", count=1))
    await street.leap(2 * DAY_S)
    await street.advance(HOUR_S)
    assert street.ids_asked("smmplus", "refill") == [3]
    for order in orders:
        assert (await the_refill(street, order)).state is RefillState.UNCLEAR


@on_sqlite
@pytest.mark.parametrize("text", ["Refill not found", "Missing refill parameter", "There was an error"])
async def test_refills_are_followed_one_by_one_where_no_batch_is_answered(
    street: Street, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    answers(monkeypatch, "refill_status", lambda params: {"error": text} if "refills" in params else None)
    orders = await several_dropped(street)
    await street.leap(2 * DAY_S)
    await street.advance(2 * HOUR_S)
    for order in orders:
        assert (await the_refill(street, order)).state is RefillState.COMPLETED
    assert street.ids_asked("smmplus", "refill_status").count(3) == 1


@on_sqlite
async def test_an_id_that_spoils_a_batch_of_refills_touches_only_itself(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(params: Mapping[str, str]) -> object | None:
        ids = params.get("refills", params.get("refill", "")).split(",")
        return {"error": "Refill not found"} if "2" in ids else None

    answers(monkeypatch, "refill_status", spoiled)
    orders = await several_dropped(street)
    await street.leap(2 * DAY_S)
    await street.advance(2 * HOUR_S)
    states = sorted([(one.provider_refill, one.state) for order in orders for one in await street.refills(order)])
    assert [state for _, state in states] == [RefillState.COMPLETED, RefillState.PENDING, RefillState.COMPLETED]


@on_sqlite
async def test_refills_that_are_all_refused_alone_too_are_not_all_asked_for(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, "refill_status", lambda params: {"error": "There was an error"})
    await several_dropped(street, 9)
    await street.leap(2 * DAY_S)
    assert street.ids_asked("smmplus", "refill_status") == [9, 1, 1, 1, 1]


@on_sqlite
async def test_a_refill_that_the_provider_does_not_know_is_shown_and_then_over(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, "refill_status", lambda params: {"error": "Refill not found"})
    order = await dropped(street, "by-hand")
    await street.advance(DAY_S + 60)
    await request_by_hand(street.house, await street.order(order.number))
    await street.advance(DAY_S - 2 * HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.PENDING
    await street.advance(4 * HOUR_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.outcome, refill.detail) == (RefillState.UNCLEAR, "not_found", "Refill not found")
    assert "is running" in await why_not(street, order)
    await street.advance(DAY_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.outcome) == (RefillState.REJECTED, "not_found")
    (event,) = await street.told(order.number, "refill.rejected")
    assert event["data"]["reason"] == "smmplus does not know the refill 1: Refill not found"
    await request_by_hand(street.house, await street.order(order.number))


@on_sqlite
async def test_a_refill_that_is_known_again_is_followed_to_its_end(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await about_to_ask(street)
    with monkeypatch.context() as unknown:
        answers(unknown, "refill_status", lambda params: {"error": "Refill not found"})
        await street.advance(DAY_S + 5 * HOUR_S)
        assert (await the_refill(street, order)).state is RefillState.UNCLEAR
    await street.advance(DAY_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.outcome) == (RefillState.COMPLETED, None)


@on_sqlite
async def test_an_unknown_word_of_a_refill_is_counted_and_listed(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, "refill_status", lambda params: {"status": "Approved"})
    order = await about_to_ask(street)
    await street.advance(3 * HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.PENDING
    (found,) = await street.database.read(lambda c: unknown_words.of_provider(c, "smmplus"))
    assert (found["word"], found["order_number"]) == ("Approved", order.number)
    assert found["seen"] >= 1


# --- calls that are turned away


@on_sqlite
@pytest.mark.parametrize(
    ("fault", "body"),
    [("error_text", "Rate limit reached, please slow down"), ("http_429", None), ("error_text", "Invalid API key")],
)
async def test_a_refill_that_was_turned_away_is_sent_again_soon_and_nothing_is_told(
    street: Street, fault: str, body: str | None
) -> None:
    order = await about_to_ask(street)
    street.break_with(FaultRule(fault, account="smmplus", action="refill", body=body, count=2))
    await street.advance(2 * HOUR_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.detail) == (RefillState.COMPLETED, None)
    assert street.calls("smmplus", "refill") == 3
    assert (await street.events(order.number))[-2:] == ["refill.requested", "refill.completed"]


@on_sqlite
async def test_a_provider_that_turns_every_refill_away_is_not_asked_for_ever(street: Street) -> None:
    order = await about_to_ask(street)
    body = "Rate limit reached, please slow down"
    street.break_with(FaultRule("error_text", account="smmplus", action="refill", body=body))
    await street.advance(DAY_S + 3 * HOUR_S)
    refill = (await street.refills(order))[0]
    assert (refill.state, refill.outcome) == (RefillState.REJECTED, "later")
    assert street.calls("smmplus", "refill") < 40


@on_sqlite
async def test_a_running_refill_that_nobody_names_is_shown_as_running_and_asked_for_after_the_cooldown(
    street: Street,
) -> None:
    order = await about_to_ask(street)
    street.break_with(
        FaultRule("error_text", account="smmplus", action="refill", body="refill already in progress", count=2)
    )
    await street.advance(DAY_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.outcome) == (RefillState.IN_PROGRESS, "running")
    assert "is running" in await why_not(street, order)
    assert street.calls("smmplus", "refill") == 1
    await street.advance(2 * DAY_S + 2 * HOUR_S)
    assert (await the_refill(street, order)).state is RefillState.COMPLETED
    assert street.calls("smmplus", "refill") == 3
    assert (await street.events(order.number))[-2:] == ["refill.requested", "refill.completed"]


@on_sqlite
async def test_a_running_refill_that_nobody_names_is_over_when_nothing_is_missing_any_more(street: Street) -> None:
    order = await about_to_ask(street)
    street.break_with(FaultRule("error_text", account="smmplus", action="refill", body="refill already in progress"))
    await street.advance(2 * HOUR_S)
    street.upstream(order).drops.clear()
    await street.advance(2 * DAY_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.outcome) == (RefillState.REJECTED, "running")
    assert street.calls("smmplus", "refill") == 1
    assert (await street.events(order.number))[-1] == "refill.rejected"


@on_sqlite
@pytest.mark.parametrize("word", ["failed", "Rejected", "Pending"])
async def test_a_word_in_the_place_of_a_refills_id_is_no_refill(street: Street, word: str) -> None:
    order = await about_to_ask(street)
    body = f'{{"refill": "{word}"}}'
    street.break_with(FaultRule("wrong_json_before", account="smmplus", action="refill", body=body))
    await street.advance(2 * HOUR_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.provider_refill) == (RefillState.UNCLEAR, None)


# --- figures that say nothing


async def ended_with(street: Street, said: str, service: str = "often") -> Order:
    """An order whose provider calls it completed in these words, after 500 of 1,000 remained."""
    order = await street.bought(service)
    for body in ('{"status": "In progress", "charge": "0.9", "start_count": "100", "remains": "500"}', said):
        street.break_with(FaultRule("wrong_json_before", action="status", body=body))
        await street.advance(HOUR_S)
    return await street.until(order.number, OrderState.COMPLETED)


@on_sqlite
async def test_what_remained_before_the_end_is_no_loss_after_it(street: Street) -> None:
    order = await ended_with(street, '{"status": "Completed", "charge": "0.9", "remains": null}')
    assert (order.remains, order.start_count) == (None, 100)
    await counted(street, order, 100 + 1000 - 300)
    (event,) = await street.told(order.number, "order.dropped")
    assert event["data"]["drop"] == 300
    await street.advance(2 * HOUR_S)
    assert (await the_refill(street, order)).dropped == 300
    await counted(street, order, 100 + 1000)
    await street.advance(3 * DAY_S)
    assert len(await street.refills(order)) == 1


@on_sqlite
@pytest.mark.parametrize("remained", [1000, 400])
async def test_what_remains_at_the_completion_is_no_loss(street: Street, remained: int) -> None:
    said = f'{{"status": "Completed", "charge": "0.9", "remains": "{remained}"}}'
    order = await ended_with(street, said)
    await request_by_hand(street.house, await street.order(order.number))
    await street.advance(3 * DAY_S)
    refill = await the_refill(street, order)
    assert (refill.state, refill.dropped) == (RefillState.COMPLETED, 0)
    await counted(street, order, 100 + 1000 - 100)
    await street.advance(3 * DAY_S)
    assert [one.dropped for one in await street.refills(order)] == [0, 100]
    assert (await street.told(order.number, "order.dropped"))[0]["data"]["drop"] == 100


@on_sqlite
async def test_more_remaining_than_was_ordered_is_no_figure_to_act_on(street: Street) -> None:
    order = await ended_with(street, '{"status": "Completed", "charge": "0.9", "remains": "0"}')
    street.break_with(
        FaultRule(
            "wrong_json_before", action="status", body='{"status": "Completed", "charge": "0.9", "remains": "7000"}'
        )
    )
    await street.advance(3 * DAY_S)
    assert (await street.order(order.number)).remains == 7000
    assert "order.dropped" not in await street.events(order.number)
    assert await street.refills(order) == ()


@on_sqlite
async def test_all_gone_at_once_is_refilled_when_the_next_look_says_so_too(street: Street) -> None:
    order = await completed(street, "often")
    upstream = street.upstream(order)
    upstream.forced_status, upstream.forced_remains = "Completed", 1000
    while "order.dropped" not in await street.events(order.number):
        await street.next()
    upstream.forced_remains = 0
    await street.advance(DAY_S)
    assert await street.refills(order) == ()
    upstream.forced_remains = 1000
    await street.advance(5 * HOUR_S)
    assert (await street.refills(order))[0].dropped == 1000


@on_sqlite
async def test_a_callers_count_of_nothing_is_told_and_refilled_when_it_is_said_twice(street: Street) -> None:
    order = await completed(street, "often")
    await counted(street, order, 0)
    assert (await street.told(order.number, "order.dropped"))[0]["data"]["drop"] == 1000
    await street.advance(2 * HOUR_S)
    assert await street.refills(order) == ()
    await counted(street, order, 3)
    await street.advance(2 * HOUR_S)
    assert (await the_refill(street, order)).dropped == 1000
    assert len(await street.told(order.number, "order.dropped")) == 1


@on_sqlite
async def test_a_count_of_nothing_does_not_hide_a_loss_that_is_counted_after_it(street: Street) -> None:
    order = await completed(street, "often")
    assert order.start_count is not None
    await counted(street, order, 0)
    await street.advance(60)
    await counted(street, order, order.start_count + order.quantity - 300)
    await street.advance(2 * HOUR_S)
    assert (await the_refill(street, order)).dropped == 300


@on_sqlite
async def test_a_count_source_that_reads_nothing_once_is_not_believed(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with counting("/n") as (counter, source):
        services = {"followers": smm("smmplus/1", count_source=source)}
        async with a_street(database, clock, tmp_path, services) as street:
            order = await completed(street)
            assert order.start_count is not None
            for _ in range(2):
                counter.answer = {"n": 0}
                asked = len(counter.asked)
                while len(counter.asked) == asked:
                    await street.next()
                counter.answer = {"n": order.start_count + order.quantity}
                while len(counter.asked) == asked + 1:
                    await street.next()
            assert "order.dropped" not in await street.events(order.number)
            assert await street.refills(order) == ()
            counter.answer = {"n": 0}
            await street.advance(3 * DAY_S)
            assert (await street.told(order.number, "order.dropped"))[0]["data"]["drop"] == order.quantity
            assert (await street.refills(order))[0].dropped == order.quantity
