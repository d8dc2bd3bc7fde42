"""A wish to cancel: at once before the purchase, by one journaled call after it, and only the status ends the order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.orders import Order, OrderState
from aggregator.flow import canceling as canceling_module
from aggregator.flow.canceling import cancel
from aggregator.providers import gateway as gateway_module
from aggregator.providers.gateway import Gateway
from aggregator.sandbox.faults import FaultRule
from aggregator.storage import cancels
from aggregator.storage.database import Database
from tests.support.flow import Street, a_street, on_sqlite, smm

SERVICES = {
    "slow": smm("smmplus/24"),
    "followers": smm("smmplus/1"),
    "cheap": smm("smmcheap/1"),
    "never": smm("smmcheap/7"),
    "stock": smm("hstock/1"),
    "stuck": smm("smmplus/23"),
}
LOSING = ["timeout_before", "timeout_after", "reset_after", "http_500_after", "html_after", "truncated_after"]


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "RATE_LIMIT_PAUSE_S", 0.01)
    monkeypatch.setattr(canceling_module, "STORAGE_RETRY_S", 0.01)


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


async def wishes(street: Street, order: Order) -> list[dict[str, Any]]:
    return await street.database.read(lambda c: [dict(row) for row in cancels.of_order(c, order.number)])


async def conflict(street: Street, order: Order) -> str:
    """Why an order cannot be canceled."""
    with pytest.raises(Problem) as caught:
        await cancel(street.house, order.number, by="shop")
    assert caught.value.kind is ProblemKind.CONFLICT
    return caught.value.detail


def asked(street: Street) -> int:
    """Wishes that providers took."""
    return len([entry for entry in street.world.ledger.entries() if entry.action == "cancel"])


# --- the whole way


async def test_an_asked_cancel_ends_the_order_only_when_the_status_says_so_and_then_the_money_is_back(
    street: Street,
) -> None:
    order = await street.bought("slow")
    wished = await cancel(street.house, order.number, by="shop")
    assert (wished.state, wished.cancel_state) == (OrderState.PENDING, "asked")
    assert street.calls("smmplus", "cancel") == 0, "the wish is on disk before it is sent"
    await street.settle()
    assert asked(street) == 1
    now = await street.order(order.number)
    assert now.state is OrderState.PENDING
    assert await street.booked(order) == [("charge", -180_000_000)]
    (event,) = await street.told(order.number, "order.cancel_asked")
    assert event["data"]["order"]["cancel"]["state"] == "asked"

    done = await street.until(order.number, OrderState.CANCELED, most_s=180)
    assert done.charge is not None
    assert done.charge.units == 0
    assert await street.booked(order) == [("charge", -180_000_000), ("refund", 180_000_000)]
    (row,) = await wishes(street, order)
    assert (row["state"], row["outcome"], row["claim_token"]) == ("asked", "asked", None)
    assert row["exchange"]["request"]["action"] == "cancel"
    assert (await street.events(order.number))[-2:] == ["order.cancel_asked", "order.canceled"]
    await street.advance(600)
    assert street.calls("smmplus", "cancel") == 1
    assert (await wishes(street, order))[0]["next_at"] is None


async def test_a_cancel_on_the_way_makes_it_partial_and_only_the_rest_comes_back(street: Street) -> None:
    order = await street.bought("slow")
    await street.advance(600 + 3600)
    await cancel(street.house, order.number, by="shop")
    done = await street.until(order.number, most_s=3600)
    assert done.state is OrderState.PARTIAL
    (kind, taken), (back, returned) = await street.booked(order)
    assert (kind, back) == ("charge", "refund")
    assert 0 < returned < -taken


async def test_many_wishes_go_by_one_call(street: Street) -> None:
    orders = [await street.bought("slow", link=f"https://example.com/{place}") for place in range(5)]
    for order in orders:
        await cancel(street.house, order.number, by="shop")
    await street.settle()
    assert street.ids_asked("smmplus", "cancel") == [5]
    for order in orders:
        await street.until(order.number, OrderState.CANCELED, most_s=180)


async def test_an_order_that_is_not_bought_is_canceled_at_once(street: Street) -> None:
    order = await street.take("slow")
    assert (await cancel(street.house, order.number, by="shop")).state is OrderState.CANCELED
    await street.settle()
    assert street.purchases() == []
    assert await conflict(street, order) == "the order is canceled already"


# --- no


@on_sqlite
async def test_where_nobody_can_cancel_it_is_said_at_once(street: Street) -> None:
    elsewhere = await street.bought("stock", link="https://example.com/b")
    never = await street.bought("never", link="https://example.com/c")
    assert await conflict(street, elsewhere) == "hstock knows no cancel: its protocol (hstockplus) has none"
    assert await conflict(street, never) == "smmcheap sells service 7 without cancel"
    assert (await street.order(never.number)).cancel_state is None
    await street.advance(60)
    assert street.calls("smmcheap", "cancel") == street.calls("hstock", "cancel") == 0


@on_sqlite
async def test_an_unclear_order_is_not_canceled(street: Street) -> None:
    street.break_with(FaultRule("reset_after", action="add"))
    order = await street.take("slow")
    await street.settle()
    assert "must be resolved first" in await conflict(street, order)


async def test_a_refusal_says_the_providers_words_and_the_wish_may_be_repeated(street: Street) -> None:
    order = await street.bought("slow")
    body = json.dumps([{"order": order.provider_order, "cancel": {"error": "Order is already in work"}}])
    street.break_with(FaultRule("wrong_json_before", action="cancel", body=body, count=1))
    await cancel(street.house, order.number, by="shop")
    await street.settle()
    (event,) = await street.told(order.number, "order.cancel_refused")
    assert event["data"]["reason"] == "Order is already in work"
    shown = event["data"]["order"]["cancel"]
    assert (shown["state"], shown["detail"]) == ("refused", "Order is already in work")
    assert (await street.order(order.number)).state is OrderState.PENDING

    await cancel(street.house, order.number, by="shop")
    await street.until(order.number, OrderState.CANCELED, most_s=180)
    assert [row["state"] for row in await wishes(street, order)] == ["refused", "asked"]


@on_sqlite
async def test_what_was_asked_is_not_asked_again_before_it_could_have_helped(street: Street) -> None:
    order = await street.bought("stuck")
    account = street.account("smmplus")
    account.settings = replace(account.settings, cancel_s=1e9)
    await cancel(street.house, order.number, by="shop")
    assert "is being asked to cancel since" in await conflict(street, order)
    await street.settle()
    assert "its status says when the order ends" in await conflict(street, order)
    await street.advance(25 * 3600)
    await cancel(street.house, order.number, by="shop")
    await street.settle()
    assert asked(street) == 2


@on_sqlite
async def test_an_order_that_ends_before_its_wish_is_sent_is_not_asked_for(street: Street) -> None:
    order = await street.bought("followers")
    street.break_with(FaultRule("http_429", action="cancel", count=1))
    await cancel(street.house, order.number, by="shop")
    await street.settle()
    assert street.calls("smmplus", "cancel") == 1
    upstream = street.upstream(order)
    upstream.forced_status = "Completed"
    await street.until(order.number, OrderState.COMPLETED)
    await street.advance(600)
    assert street.calls("smmplus", "cancel") == 1
    (event,) = await street.told(order.number, "order.cancel_refused")
    assert event["data"]["reason"] == "the order was completed before the provider was asked"


LATER = ["Rate limit reached, please slow down", "Invalid API key", "Incorrect order ID"]


@on_sqlite
@pytest.mark.parametrize("text", LATER)
async def test_a_refusal_of_the_moment_is_asked_again_by_itself(street: Street, text: str) -> None:
    order = await street.bought("slow")
    street.break_with(FaultRule("error_text", action="cancel", body=text, count=1))
    await cancel(street.house, order.number, by="shop")
    await street.settle()
    assert (await wishes(street, order))[0]["state"] == "requested"
    await street.advance(700)
    assert (street.calls("smmplus", "cancel"), asked(street)) == (2, 1)
    # Whoever waits for a mended key may find that work has begun meanwhile.
    assert (await street.order(order.number)).state in (OrderState.CANCELED, OrderState.PARTIAL)


@on_sqlite
async def test_a_wish_that_never_left_is_sent_later(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await street.bought("slow")
    gateway = street.house.gateways["smmplus"]
    url = gateway._dialect.account.url  # type: ignore[attr-defined]
    account = gateway._dialect.account  # type: ignore[attr-defined]
    gateway._dialect.account = replace(account, url="http://127.0.0.1:9/")  # type: ignore[attr-defined]
    await cancel(street.house, order.number, by="shop")
    await street.settle()
    (row,) = await wishes(street, order)
    assert (row["state"], row["sent_at"]) == ("requested", None)
    gateway._dialect.account = replace(account, url=url)  # type: ignore[attr-defined]
    await street.advance(61)
    assert asked(street) == 1


# --- nobody knows


@pytest.mark.parametrize("fault", LOSING)
@on_sqlite
async def test_a_lost_answer_makes_the_wish_unclear_and_it_is_never_sent_again_by_itself(
    street: Street, fault: str
) -> None:
    street.hurry("smmplus")
    order = await street.bought("slow")
    street.break_with(FaultRule(fault, action="cancel", count=1))
    await cancel(street.house, order.number, by="shop")
    await street.settle()
    if not fault.endswith("before"):
        assert asked(street) == 1
    (event,) = await street.told(order.number, "order.cancel_asked")
    assert event["data"]["order"]["cancel"]["state"] == "unclear"
    await street.advance(900)
    assert street.calls("smmplus", "cancel") == 1
    now = await street.order(order.number)
    assert now.cancel_state == "unclear"
    heard = not fault.endswith("before")
    assert now.state is (OrderState.CANCELED if heard else OrderState.IN_PROGRESS)
    if not heard:
        await cancel(street.house, order.number, by="shop")
        await street.until(order.number, most_s=3600)
        assert [row["state"] for row in await wishes(street, order)] == ["unclear", "asked"]
        assert street.calls("smmplus", "cancel") == 2


@on_sqlite
async def test_an_unclear_wish_is_repeated_only_after_the_status_was_looked_at(street: Street) -> None:
    street.hurry("smmplus")
    order = await street.bought("slow")
    street.break_with(
        FaultRule("timeout_before", action="cancel", count=1), FaultRule("timeout_before", action="status")
    )
    await cancel(street.house, order.number, by="shop")
    await street.canceling.run_once()
    await street.canceling.idle()
    assert "its status is looked at first" in await conflict(street, order)
    street.break_with()
    await street.advance(60)
    await cancel(street.house, order.number, by="shop")
    await street.settle()
    assert asked(street) == 1


# --- crashes


async def test_a_crash_between_sending_and_recording_makes_the_wish_unclear(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await street.bought("slow")
    await cancel(street.house, order.number, by="shop")
    real = Gateway.cancels

    async def dies(self: Gateway, orders: Any, key: str | None = None) -> Any:
        await real(self, orders, key)
        raise Crash

    monkeypatch.setattr(Gateway, "cancels", dies)
    await street.canceling.run_once()
    with pytest.raises((Crash, asyncio.CancelledError)):
        await asyncio.gather(*street.canceling._crews._workers["smmplus"]._tasks)
    monkeypatch.setattr(Gateway, "cancels", real)
    assert asked(street) == 1
    await street.restart()
    await street.settle()
    assert (await street.order(order.number)).cancel_state == "unclear"
    assert (await wishes(street, order))[0]["outcome"] == "interrupted"
    await street.until(order.number, OrderState.CANCELED, most_s=180)
    assert street.calls("smmplus", "cancel") == 1


@on_sqlite
async def test_a_crash_before_sending_sends_it_after_the_start(street: Street) -> None:
    order = await street.bought("slow")
    await cancel(street.house, order.number, by="shop")
    await street.restart()
    await street.until(order.number, OrderState.CANCELED, most_s=180)
    assert street.calls("smmplus", "cancel") == 1


@on_sqlite
async def test_a_result_is_recorded_when_the_database_is_there_again(street: Street) -> None:
    order = await street.bought("slow")
    await cancel(street.house, order.number, by="shop")
    with street.refusing_after("cancels", 2):
        await street.canceling.run_once()
        await street.canceling.idle()
    assert street.database.refuse == 0
    assert (await wishes(street, order))[0]["state"] == "asked"
    assert street.calls("smmplus", "cancel") == 1
