"""Buying over real sockets against providers that break in every way: never twice, never unknown, never forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import update

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import ClaimLost
from aggregator.domain.orders import FOLLOWED, Order, OrderState
from aggregator.flow import placement as placement_module
from aggregator.flow.placement import Placement
from aggregator.flow.reconcile import resolve
from aggregator.providers import gateway as gateway_module
from aggregator.providers.gateway import Gateway
from aggregator.sandbox.faults import FAULTS, FaultRule
from aggregator.storage import attempts, catalogue, claims
from aggregator.storage.database import Database
from aggregator.storage.tables import attempts as attempts_table
from tests.support.flow import Street, a_street, on_sqlite, product, smm, sms

SERVICES = {
    "followers": smm("smmplus/1", "smmcheap/1"),
    "one": smm("smmplus/1"),
    "gone": smm("smmplus/1", give_up_after_s=100),
    "gmail": product("hstock/2"),
    "code": sms("hstock/65f0bb/us"),
}
SEED = 7
WAY_PAST_S = 2000.0
"""Longer than any breaker's pause, shorter than an order's deadline."""
LOSING = sorted(name for name, fault in FAULTS.items() if fault.stage != "intact" and name != "http_429")
"""Faults after which nobody can know whether anything was bought."""


class Crash(BaseException):
    """The process is gone: nothing that catches Exception sees it."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "RATE_LIMIT_PAUSE_S", 0.01)
    monkeypatch.setattr(placement_module, "STORAGE_RETRY_S", 0.01)


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES, seed=SEED) as one:
        yield one


async def one_attempt(street: Street, order: Order) -> Any:
    (row,) = await street.attempts(order.number)
    return row


async def placed_elsewhere(street: Street, order: Order, *, first: str = "smmcheap") -> None:
    """The cheapest turned it away, the other one took it."""
    bought = await street.order(order.number)
    assert (bought.provider, bought.state) == ("smmplus", OrderState.PENDING)
    states = [(row["provider"], row["state"]) for row in await street.attempts(order.number)]
    assert states == [(first, "refused"), ("smmplus", "placed")]


# --- what the wire does to a purchase


@on_sqlite
@pytest.mark.parametrize("fault", LOSING)
async def test_a_purchase_whose_answer_is_lost_is_unclear_and_never_sent_again(street: Street, fault: str) -> None:
    """The order, whatever happens to it later; and its neighbour by the other action."""
    if "timeout" in fault:
        street.hurry("smmplus")
        street.hurry("hstock")
    street.break_with(
        FaultRule(fault, account="smmplus", action="add"), FaultRule(fault, account="hstock", action="add_sms")
    )
    taken = [await street.take("one"), await street.take("code", 2, link=None)]
    await street.settle()
    for order in taken:
        unclear = await street.order(order.number)
        assert (unclear.state, unclear.error_type) == (OrderState.UNCLEAR, "purchase-unclear")
        assert unclear.error_detail
        row = await one_attempt(street, order)
        assert (row["state"], row["id"]) == ("unclear", unclear.attempt)
        assert row["outcome"]
        assert row["exchange"]["request"]["action"] == ("add" if order.kind == "smm" else "add_sms")
        assert "sandbox-" not in str(row["exchange"])
        assert await street.events(order.number) == ["order.accepted", "order.unclear"]
    sold = 1 if FAULTS[fault].stage == "after" else 0
    assert [len(street.purchases(name)) for name in ("smmplus", "hstock")] == [sold, sold]

    street.break_with()
    await street.leap(WAY_PAST_S)
    await street.restart()
    for _ in range(3):
        await street.leap(50_000)
    assert [(await street.order(order.number)).state for order in taken] == [OrderState.UNCLEAR] * 2
    assert [street.calls("smmplus", "add"), street.calls("hstock", "add_sms")] == [1, 1]


@on_sqlite
async def test_nothing_follows_a_redirect_with_the_key(street: Street) -> None:
    street.break_with(FaultRule("redirect", account="smmplus", action="add"))
    order = await street.take("one")
    await street.settle()
    assert (await street.order(order.number)).state is OrderState.UNCLEAR
    assert street.calls("smmplus", "(redirected)") == 0


@on_sqlite
async def test_a_rate_limit_before_processing_bought_nothing_and_the_order_waits(street: Street) -> None:
    street.break_with(FaultRule("http_429", account="smmplus", action="add", count=1))
    order = await street.take("one")
    await street.settle()
    waiting = await street.order(order.number)
    assert waiting.state is OrderState.ACCEPTED
    row = await one_attempt(street, order)
    assert (row["state"], row["outcome"], row["consequence"]) == ("refused", "rate_limit", "later")
    await street.advance(5)
    assert (await street.order(order.number)).state is OrderState.PENDING
    assert len(street.purchases()) == 1


@on_sqlite
async def test_a_provider_that_refuses_connections_was_never_sent_anything(
    street: Street, unused_tcp_port: int
) -> None:
    gateway = street.house.gateways["smmcheap"]
    elsewhere = f"http://127.0.0.1:{unused_tcp_port}/api/v2"
    object.__setattr__(gateway._dialect.account, "url", elsewhere)  # type: ignore[attr-defined]
    order = await street.take("followers")
    await street.settle()
    assert (await street.order(order.number)).provider == "smmplus"
    first, second = await street.attempts(order.number)
    assert (first["state"], first["provider"], second["state"]) == ("not_sent", "smmcheap", "placed")
    assert "not sent" in first["detail"]


@on_sqlite
@pytest.mark.parametrize("fault", ["timeout_after", "http_500_before", "error_text"])
async def test_an_account_product_that_is_unclear_is_not_bought_from_anyone_else(street: Street, fault: str) -> None:
    street.hurry("hstock")
    street.break_with(FaultRule(fault, account="hstock", action="add"))
    order = await street.take("gmail", 3, link=None)
    await street.settle()
    await street.advance(WAY_PAST_S)
    assert (await street.order(order.number)).state is OrderState.UNCLEAR
    assert street.calls("hstock", "add") == 1


async def test_orders_planned_at_a_provider_that_went_down_meanwhile_are_not_sent_there(street: Street) -> None:
    """A hanging provider makes at most a handful of orders unclear, not the whole queue."""
    street.hurry("smmplus")
    street.break_with(FaultRule("timeout_before", account="smmplus", action="add"))
    taken = [await street.take("one", link=f"https://example.com/{place}") for place in range(20)]
    await street.settle()
    states = [(await street.order(order.number)).state for order in taken]
    sent = states.count(OrderState.UNCLEAR)
    assert street.calls("smmplus", "add") == sent
    concurrency = street.house.gateways["smmplus"].settings.max_concurrency
    assert 5 <= sent <= 5 + concurrency - 1
    assert states.count(OrderState.ACCEPTED) == 20 - sent
    street.break_with()
    for _ in range(8):
        await street.leap(WAY_PAST_S / 8)
    states = [(await street.order(order.number)).state for order in taken]
    assert (states.count(OrderState.UNCLEAR), len(street.purchases())) == (sent, 20 - sent)


async def test_a_plan_at_a_provider_that_was_paused_meanwhile_is_not_carried_out(street: Street) -> None:
    order = await street.take("followers")
    await street.routing.run_once()
    await street.routing.idle()
    now = street.clock.now()
    await street.database.write(lambda c: catalogue.set_health(c, "smmcheap", now, paused=True))
    await street.settle()
    bought = await street.order(order.number)
    assert (bought.provider, street.calls("smmcheap", "add")) == ("smmplus", 0)


async def test_a_plan_from_before_a_long_stop_is_made_anew(street: Street) -> None:
    """Prices and stock have moved on, and the first sync has not told them yet."""
    order = await street.take("followers")
    await street.routing.run_once()
    await street.routing.idle()
    street.account("smmcheap").services["1"] = _dearer(street.account("smmcheap").services["1"])
    street.clock.advance(3600)
    await street.restart(synced=False)
    await street.settle()
    assert street.purchases() == []
    await street.synced()
    await street.advance(1)
    bought = await street.order(order.number)
    assert bought.provider == "smmplus"
    assert [row["state"] for row in await street.attempts(order.number)] == ["dropped", "placed"]


async def test_a_plan_from_before_a_short_stop_waits_for_the_first_sync_too(street: Street) -> None:
    order = await street.take("followers")
    await street.routing.run_once()
    await street.routing.idle()
    street.account("smmcheap").services["1"] = _dearer(street.account("smmcheap").services["1"])
    await street.restart(synced=False)
    await street.settle()
    assert street.purchases() == []
    await street.synced()
    await street.advance(1)
    assert (await street.order(order.number)).provider == "smmplus"


def _dearer(service: Any) -> Any:
    return replace(service, rate="99.00")


# --- refusals


REFUSALS = [
    ("Not enough funds on balance", "funds"),
    ("neworder.error.service_inactive", "service"),
    ("Quantity less than minimal 100", "quantity"),
    ("Out of stock", "stock"),
    ("neworder.error.not_enough_quantity", "stock"),
    ("Incorrect comments", "parameters"),
]


@on_sqlite
@pytest.mark.parametrize(("text", "meaning"), REFUSALS)
async def test_a_listed_refusal_falls_to_the_next_offer(street: Street, text: str, meaning: str) -> None:
    street.break_with(FaultRule("error_text", account="smmcheap", action="add", body=text))
    order = await street.take("followers")
    await street.settle()
    await placed_elsewhere(street, order)
    first, second = await street.attempts(order.number)
    assert (first["outcome"], first["consequence"]) == (meaning, "next_offer")
    assert text in first["detail"]
    tried = {candidate["provider"]: candidate["reason"] for candidate in second["candidates"]}
    assert text in tried["smmcheap"]
    assert len(street.purchases()) == 1


@on_sqlite
async def test_each_offer_is_asked_once_a_round_and_rounds_grow_apart(street: Street) -> None:
    street.break_with(FaultRule("error_text", action="add", body="Insufficient balance"))
    order = await street.take("followers")
    await street.settle()
    moments = [street.clock.now()]
    for _ in range(4):
        before = street.calls("smmplus", "add")
        while street.calls("smmplus", "add") == before:
            await street.next()
        moments.append(street.clock.now())
        assert street.calls("smmplus", "add") == street.calls("smmcheap", "add") == before + 1
    waits = [(after - earlier).total_seconds() for earlier, after in pairwise(moments)]
    assert waits == [5, 10, 20, 40]
    waiting = await street.order(order.number)
    assert (waiting.state, waiting.error_type) == (OrderState.ACCEPTED, "waiting")
    assert waiting.error_detail is not None
    assert waiting.error_detail.count("Insufficient balance") == 2


@on_sqlite
@pytest.mark.parametrize("text", ["Bad Link", "neworder.error.invalid_link", "post not found"])
async def test_a_bad_link_is_the_callers_fault_and_ends_the_order(street: Street, text: str) -> None:
    street.break_with(FaultRule("error_text", account="smmcheap", action="add", body=text))
    order = await street.take("followers")
    await street.settle()
    failed = await street.order(order.number)
    assert (failed.state, failed.error_type) == (OrderState.FAILED, "refused")
    assert failed.error_detail == f"smmcheap: {text}"
    assert await street.events(order.number) == ["order.accepted", "order.failed"]
    assert street.calls("smmplus", "add") == 0


async def test_a_wrong_key_takes_the_provider_down_and_the_order_goes_elsewhere(street: Street) -> None:
    street.break_with(FaultRule("error_text", account="smmcheap", action="add", body="Invalid API key"))
    taken = [await street.take("followers", link=f"https://example.com/{place}") for place in range(12)]
    await street.settle()
    assert {(await street.order(order.number)).provider for order in taken} == {"smmplus"}
    concurrency = street.house.gateways["smmcheap"].settings.max_concurrency
    assert street.calls("smmcheap", "add") <= concurrency
    assert (await street.general_events()).count("provider.down") == 1
    later = await street.bought("followers", link="https://example.com/later")
    assert later.provider == "smmplus"
    (row,) = await street.attempts(later.number)
    reasons = {candidate["provider"]: candidate["reason"] for candidate in row["candidates"]}
    assert "the provider is down: Invalid API key" in reasons["smmcheap"]


async def test_an_active_order_on_the_link_waits_with_growing_pauses_and_is_bought_in_the_end(street: Street) -> None:
    text = "You have active order with this link. Please wait until order being completed."
    street.break_with(FaultRule("error_text", account="smmplus", action="add", body=text, count=3))
    order = await street.take("one")
    await street.settle()
    moments = [street.clock.now()]
    for _ in range(3):
        before = street.calls("smmplus", "add")
        while street.calls("smmplus", "add") == before:
            await street.next()
        moments.append(street.clock.now())
    waits = [(after - earlier).total_seconds() for earlier, after in pairwise(moments)]
    assert waits == [5, 10, 20]
    assert (await street.order(order.number)).state is OrderState.PENDING
    assert [row["state"] for row in await street.attempts(order.number)] == ["refused"] * 3 + ["placed"]


@on_sqlite
@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("You have active order with this link. Please wait until order being completed.", {}),
        ("Rate limit reached, please slow down", {}),
        ("Rate limit reached, please slow down", {"retry-after": "50000"}),
        ("Insufficient balance", {}),
    ],
)
async def test_an_order_that_nobody_takes_fails_at_its_deadline_with_the_whole_story(
    street: Street, text: str, headers: dict[str, str]
) -> None:
    street.break_with(FaultRule("error_text", account="smmplus", action="add", body=text, headers=headers))
    order = await street.take("gone")
    await street.settle()
    await street.advance(99)
    assert (await street.order(order.number)).state is OrderState.ACCEPTED
    await street.advance(1)
    failed = await street.order(order.number)
    assert (failed.state, failed.error_type) == (OrderState.FAILED, "no-offer")
    assert failed.finished_at == street.clock.now()
    assert failed.error_detail is not None
    assert "smmplus/1" in failed.error_detail
    assert (text if not headers else "rate limit") in failed.error_detail
    assert (await street.events(order.number)) == ["order.accepted", "order.failed"]
    await street.advance(100_000)
    assert street.purchases() == []


@on_sqlite
async def test_an_unclear_order_never_gives_up(street: Street) -> None:
    street.break_with(FaultRule("reset_before", account="smmplus", action="add"))
    order = await street.take("gone")
    await street.settle()
    await street.advance(100_000)
    assert (await street.order(order.number)).state is OrderState.UNCLEAR


async def test_a_provider_that_answers_another_orders_id_makes_the_order_unclear(street: Street) -> None:
    first = await street.bought("one")
    street.break_with(
        FaultRule("wrong_json_before", account="smmplus", action="add", body=f'{{"order": {first.provider_order}}}')
    )
    second = await street.take("one", link="https://example.com/b")
    await street.settle()
    unclear = await street.order(second.number)
    assert (unclear.state, unclear.provider_order) == (OrderState.UNCLEAR, None)
    assert first.provider_order is not None
    assert first.provider_order in str(unclear.error_detail)
    row = await one_attempt(street, second)
    assert row["outcome"] == "duplicate_id"


async def test_a_rented_number_that_another_order_has_already_makes_the_order_unclear(street: Street) -> None:
    first = await street.bought("code", 2, link=None)
    taken = (await street.numbers(first))[1].provider_order
    body = f'{{"orders": [{{"order": 999, "phone": "+1"}}, {{"order": {taken}, "phone": "+2"}}]}}'
    street.break_with(FaultRule("wrong_json_before", account="hstock", action="add_sms", body=body))
    second = await street.take("code", 2, link=None)
    await street.settle()
    assert (await street.order(second.number)).state is OrderState.UNCLEAR
    assert await street.numbers(second) == ()


# --- crashes


def crashing(method: str) -> Callable[..., Awaitable[Any]]:
    async def crash(*_: Any, **__: Any) -> Any:
        raise Crash(method)

    return crash


async def after_the_crash(street: Street, order: Order) -> None:
    """The next run finds it unclear, tells so once, and never sends it."""
    await street.restart()
    for _ in range(2):
        unclear = await street.order(order.number)
        assert unclear.state is OrderState.UNCLEAR
        row = await one_attempt(street, order)
        assert (row["state"], row["outcome"]) == ("unclear", "interrupted")
        assert await street.events(order.number) == ["order.accepted", "order.unclear"]
        (told,) = await street.told(order.number, "order.unclear")
        assert told["data"]["cause"] == "interrupted"
        await street.leap(WAY_PAST_S)
        await street.restart()


@pytest.mark.parametrize(("service", "quantity"), [("one", 1000), ("code", 1)])
async def test_a_crash_between_the_intent_and_the_send_leaves_an_unclear_order(
    street: Street, monkeypatch: pytest.MonkeyPatch, service: str, quantity: int
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "add", crashing("add"))
        broken.setattr(Gateway, "add_sms", crashing("add_sms"))
        order = await street.take(service, quantity)
        await street.settle()
    assert (await street.order(order.number)).state is OrderState.PLACING
    await after_the_crash(street, order)
    assert street.purchases() == []


@pytest.mark.parametrize(("service", "quantity"), [("one", 1000), ("code", 1)])
async def test_a_crash_between_the_answer_and_its_record_leaves_an_unclear_order(
    street: Street, monkeypatch: pytest.MonkeyPatch, service: str, quantity: int
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Placement, "_record", crashing("_record"))
        order = await street.take(service, quantity)
        await street.settle()
    assert (await street.order(order.number)).state is OrderState.PLACING
    await after_the_crash(street, order)
    assert len(street.purchases()) == 1


async def test_a_purchase_that_was_cut_in_flight_is_unclear(street: Street) -> None:
    street.break_with(FaultRule("timeout_after", account="smmplus", action="add"))
    order = await street.take("one")
    await street.routing.run_once()
    await street.routing.idle()
    await street.placement.run_once()
    async with asyncio.timeout(10):
        await street.sold.wait()
    await street.placement.stop(0)
    await after_the_crash(street, order)
    assert len(street.purchases()) == 1


async def test_without_a_restart_a_purchase_whose_sender_is_gone_is_unclear_when_its_lease_is_over(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "add", crashing("add"))
        order = await street.take("one")
        await street.settle()
    await street.advance(89)
    assert (await street.order(order.number)).state is OrderState.PLACING
    await street.advance(1)
    assert (await street.order(order.number)).state is OrderState.UNCLEAR


async def test_a_crash_before_the_intent_loses_nothing(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Placement, "_start", crashing("_start"))
        order = await street.take("one")
        await street.tick()
    assert [row["state"] for row in await street.attempts(order.number)] == ["planned"]
    await street.restart()
    await street.advance(1)
    assert (await street.order(order.number)).state is OrderState.PENDING
    assert len(street.purchases()) == 1


async def test_a_purchase_result_is_recorded_however_long_the_database_takes(street: Street) -> None:
    with street.refusing_after("add", 5):
        order = await street.take("one")
        await street.settle()
    assert street.database.refuse == 0
    bought = await street.order(order.number)
    assert (bought.state, bought.provider_order) == (OrderState.PENDING, street.purchases()[0].order)
    assert street.calls("smmplus", "add") == 1


async def test_a_result_whose_commit_was_not_confirmed_is_recorded_once(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Gateway.add

    async def sent(gateway: Gateway, request: Any) -> Any:
        answer = await send(gateway, request)
        street.database.forget = 1
        return answer

    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "add", sent)
        order = await street.take("one")
        await street.settle()
    assert (await street.order(order.number)).state is OrderState.PENDING
    assert await street.events(order.number) == ["order.accepted", "order.placed"]


async def test_an_intent_whose_commit_was_not_confirmed_is_not_sent(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Placement._start

    async def started(stage: Placement, gateway: Gateway) -> Any:
        street.database.forget = 1
        return await start(stage, gateway)

    with monkeypatch.context() as broken:
        broken.setattr(Placement, "_start", started)
        order = await street.take("one")
        await street.settle()
    assert street.calls("smmplus", "add") == 0
    await after_the_crash(street, order)
    assert street.purchases() == []


async def test_a_result_that_cannot_be_stored_is_unclear_and_keeps_the_providers_id(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = attempts.finish

    def finished(connection: Any, attempt: Any, token: Any, state: str, *args: Any, **values: Any) -> None:
        if state == "placed":
            raise ValueError("some column does not take it")
        finish(connection, attempt, token, state, *args, **values)

    with monkeypatch.context() as broken:
        broken.setattr(attempts, "finish", finished)
        order = await street.take("one")
        await street.settle()
    unclear = await street.order(order.number)
    assert unclear.state is OrderState.UNCLEAR
    (sold,) = street.purchases()
    assert f"placed as {sold.order}" in str(unclear.error_detail)
    row = await one_attempt(street, order)
    assert (row["outcome"], row["exchange"]["status"]) == ("not_stored", 200)


@on_sqlite
async def test_whatever_stands_where_a_phone_should_be_a_rented_number_is_recorded(street: Street) -> None:
    odd = "call our office, " * 20
    body = f'{{"orders": [{{"order": 31337, "phone": "{odd}", "country": "{odd}", "status": "active"}}]}}'
    street.break_with(FaultRule("wrong_json_before", account="hstock", action="add_sms", body=body))
    order = await street.take("code", 1, link=None)
    await street.routing.run_once()
    await street.routing.idle()
    await street.placement.run_once()
    await street.placement.idle()
    bought = await street.order(order.number)
    assert (bought.state, bought.provider_order) == (OrderState.IN_PROGRESS, "31337")
    (number,) = await street.numbers(bought)
    assert number.phone == odd[:64]
    street.audited = False


async def test_an_answer_that_comes_after_reconciliation_is_taken_as_proof(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away for longer than the lease: the journal says unclear by then, the answer says more."""
    send = Gateway.add

    async def sent(gateway: Gateway, request: Any) -> Any:
        answer = await send(gateway, request)
        street.clock.advance(1000)
        await street.reconcile.run_once()
        return answer

    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "add", sent)
        order = await street.take("one")
        await street.settle()
    bought = await street.order(order.number)
    assert (bought.state in FOLLOWED, bought.provider_order) == (True, street.purchases()[0].order)
    assert await street.events(order.number) == ["order.accepted", "order.unclear", "order.placed"]


async def test_an_answer_that_comes_after_a_person_has_decided_writes_nothing(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Gateway.add

    async def sent(gateway: Gateway, request: Any) -> Any:
        answer = await send(gateway, request)
        street.clock.advance(1000)
        await street.reconcile.run_once()
        await resolve(street.house, "1", provider_order="4711", by="ada")
        return answer

    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "add", sent)
        order = await street.take("one")
        await street.placement.idle()
        await street.routing.run_once()
        await street.routing.idle()
        await street.placement.run_once()
        await street.placement.idle()
    assert (await street.order(order.number)).provider_order == "4711"
    assert (await one_attempt(street, order))["provider_order"] == "4711"
    street.audited = False


async def test_a_plan_that_somebody_else_claims_meanwhile_is_started_once(street: Street) -> None:
    """Two placements over one database, as when an old daemon has not noticed yet that it lost its lock."""
    other = Placement(street.house)
    taken = [await street.take("one", link=f"https://example.com/{place}") for place in range(12)]
    await street.routing.run_once()
    await street.routing.idle()
    await asyncio.gather(street.placement.run_once(), other.run_once())
    await asyncio.gather(street.placement.idle(), other.idle())
    await other.stop(0)
    assert {(await street.order(order.number)).state for order in taken} == {OrderState.PENDING}
    assert len(street.purchases()) == street.calls("smmplus", "add") == len(taken)


async def test_an_overtaken_claim_starts_nothing(street: Street) -> None:
    order = await street.take("one")
    await street.routing.run_once()
    await street.routing.idle()
    now, old = street.clock.now(), claims.new_token()
    claimed = await street.database.write(lambda c: attempts.claim_planned(c, "smmplus", now, lease_s=1, token=old))
    assert claimed is not None
    await street.database.write(lambda c: c.execute(update(attempts_table).values(claim_token="somebody")))
    with pytest.raises(ClaimLost):
        await street.database.write(lambda c: attempts.start(c, claimed.id, old, now))
    assert (await street.order(order.number)).state is OrderState.ACCEPTED
    assert (await one_attempt(street, order))["state"] == "planned"


# --- many at once


async def test_a_storm_of_faults_buys_no_order_twice(street: Street) -> None:
    """Everything at once, over rounds and restarts; the audit at the end holds the ledger against the journal."""
    for name in ("smmplus", "smmcheap", "hstock"):
        street.hurry(name, 0.5)
    rules = [
        FaultRule(fault, action=action, probability=0.06)
        for fault in [*LOSING, "http_429"]
        if fault not in ("huge", "huge_after")
        for action in ("add", "add_sms")
    ]
    rules.append(FaultRule("error_text", action="add", body="Out of stock", probability=0.2))
    street.break_with(*rules)
    print(f"sandbox seed {SEED}")
    taken = []
    for wave in range(2):
        for place in range(10):
            taken.append(await street.take("followers", 100, link=f"https://example.com/{wave}-{place}"))
        taken += [await street.take("gmail", 1, link=None), await street.take("code", 1, link=None)]
        for _ in range(5):
            await street.leap(60)
        await street.restart()
        for name in ("smmplus", "smmcheap", "hstock"):
            street.hurry(name, 0.5)
    street.break_with()
    for _ in range(5):
        await street.leap(700)
    states = [(await street.order(order.number)).state for order in taken]
    assert OrderState.PLACING not in states
    assert OrderState.ACCEPTED not in states
    assert OrderState.UNCLEAR in states
    assert states.count(OrderState.UNCLEAR) < len(states)
