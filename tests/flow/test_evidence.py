"""Unclear purchases and what proves how they ended: balances, repetitions under a key, ids between our own.

A purchase that a slow provider accepts late is made here by hand, at any moment that the test wants.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select, update

from aggregator.domain.breaker import FAILURES_TO_OPEN, FIRST_PAUSE
from aggregator.domain.clock import ManualClock
from aggregator.domain.orders import FOLLOWED, Order, OrderState
from aggregator.flow import purchases as purchases_module
from aggregator.flow import recovery as recovery_module
from aggregator.flow.reconcile import resolve
from aggregator.providers.gateway import Gateway
from aggregator.sandbox import panel_v2
from aggregator.sandbox.dialects import answer
from aggregator.sandbox.faults import FaultRule
from aggregator.sandbox.ledger import Call
from aggregator.storage import attempts, books, catalogue
from aggregator.storage.database import Database
from aggregator.storage.tables import events, providers
from tests.support.flow import Street, a_street, on_sqlite, smm, sms
from tests.support.metrics import counted

SERVICES = {
    "followers": smm("smmcheap/1", "smmplus/1"),
    "one": smm("smmplus/1"),
    "cheap": smm("smmcheap/1"),
    "stuck": smm("smmplus/23"),
    "code": sms("hstock/65f0bb/us"),
}
SETTLE_S = 90
OWN = {"exclusive_account": True, "settle_s": SETTLE_S}
CHILD = {"idempotent_add": True, "settle_s": SETTLE_S}
ENOUGH_S = SETTLE_S + 60
"""Time for the settling, two readings after it and the questions in between."""


class Crash(BaseException):
    """The process is gone: nothing that catches Exception sees it."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_module, "STORAGE_RETRY_S", 0.01)


class Scenes:
    """Streets with other settings of a provider."""

    def __init__(self, database: Database, clock: ManualClock, folder: Path) -> None:
        self._database, self._clock, self._folder = database, clock, folder

    def __call__(self, **providers: Any) -> AbstractAsyncContextManager[Street]:
        return a_street(self._database, self._clock, self._folder, SERVICES, **providers)


@pytest.fixture
def scenes(database: Database, clock: ManualClock, tmp_path: Path) -> Scenes:
    return Scenes(database, clock, tmp_path)


@pytest_asyncio.fixture
async def street(scenes: Scenes) -> AsyncIterator[Street]:
    async with scenes(smmplus={"settle_s": SETTLE_S}) as one:
        yield one


async def learnt(street: Street, provider: str, debits: int = 20) -> None:
    """The provider was seen to debit so many purchases at once."""
    await street.database.write(
        lambda c: c.execute(update(providers).where(providers.c.name == provider).values(debits_seen=debits))
    )


async def column(street: Street, name: str, provider: str) -> Any:
    query = select(providers.c[name]).where(providers.c.name == provider)
    return await street.database.read(lambda c: c.execute(query).scalar_one())


async def lost(street: Street, service: str, *, sold: bool, quantity: int = 1000, **fields: Any) -> Order:
    """An order whose purchase got no answer, before anybody looked for evidence."""
    fault = "close_after" if sold else "close_before"
    street.break_with(FaultRule(fault, action="add", count=1), FaultRule(fault, action="add_sms", count=1))
    order = await street.take(service, quantity, **fields)
    await street.routing.run_once()
    await street.routing.idle()
    await street.placement.run_once()
    await street.placement.idle()
    street.break_with()
    found = await street.order(order.number)
    assert found.state is OrderState.UNCLEAR
    return found


async def evidence(street: Street, order: Order, kind: str) -> list[Any]:
    rows = await street.attempts(order.number)
    return [one for one in rows[0]["evidence"] or [] if one["kind"] == kind]


def paid_back(street: Street, order: Order) -> None:
    """The provider cancels it now."""
    upstream = street.upstream(order)
    upstream.forced_status = "Canceled"
    street.account(order.provider or "").settle(upstream, street.world.now())


async def long_pending(street: Street) -> Order:
    """An order that is asked for seldom by now, at a provider that was seen to debit at once."""
    order = await street.bought("cheap", link="https://example.com/other")
    street.upstream(order).forced_status = "Pending"
    await street.advance(5 * 3600)
    await street.restart()
    await learnt(street, "smmcheap")
    return order


async def states(street: Street, order: Order) -> list[tuple[str, str]]:
    return [(row["provider"], row["state"]) for row in await street.attempts(order.number)]


async def sold_late(street: Street, order: Order) -> str:
    """The provider accepts only now what it was sent; its id of the order."""
    row = (await street.attempts(order.number))[0]
    params = {name: value for name, value in row["exchange"]["request"].items() if name not in ("key", "action")}
    call = Call(row["provider"], "add", params, idempotency_key=row["id"], fault="accept_late")
    said: Any = answer(street.world, f"sandbox-{row['provider']}-key", call)
    return str(said["order"])


async def differences(street: Street) -> list[Any]:
    query = select(events.c.body).where(events.c.type == "provider.ledger_difference").order_by(events.c.seq)
    return await street.database.read(lambda c: [json.loads(row[0])["data"] for row in c.execute(query)])


def moves(street: Street, amount: str, provider: str) -> None:
    account, now = street.account(provider), street.world.now()
    account.set_balance(account.balance_at(now) + Decimal(amount), now)


def told(showed: str, outcome: str) -> float:
    """How many unclear purchases of `smmcheap` were found out about so far."""
    return counted("aggregator_unclear_resolved_total", provider="smmcheap", outcome=outcome, evidence=showed)


# --- one at a time while evidence is looked for


async def test_while_the_window_is_open_purchases_go_one_at_a_time_with_a_reading_between(street: Street) -> None:
    await lost(street, "one", sold=False)
    told: list[str] = []
    pick = street.world.faults.pick

    def noted(account: str, action: str) -> Any:
        if account == "smmplus" and action in ("add", "balance"):
            told.append(action)
        return pick(account, action)

    street.world.faults.pick = noted  # type: ignore[method-assign]
    street.world.calls.reset()
    taken = [await street.take("one", link=f"https://example.com/{place}") for place in range(4)]
    await street.routing.run_once()
    await street.routing.idle()
    await street.placement.run_once()
    await street.placement.idle()
    assert told == ["balance", "add"] * 4
    assert {(await street.order(order.number)).state for order in taken} == {OrderState.PENDING}


@on_sqlite
async def test_other_providers_are_not_slowed(street: Street) -> None:
    await lost(street, "one", sold=False)
    before = street.calls("smmcheap", "balance")
    for place in range(3):
        await street.take("cheap", link=f"https://example.com/{place}")
    await street.settle()
    assert len(street.purchases("smmcheap")) == 3
    assert street.calls("smmcheap", "balance") == before


@on_sqlite
async def test_the_window_closes_at_the_settling_time_and_with_the_last_unclear_purchase(street: Street) -> None:
    order = await lost(street, "one", sold=False)
    gateway = street.house.gateways["smmplus"]
    assert await street.placement._careful(gateway)
    await street.advance(SETTLE_S)
    assert await street.placement._careful(gateway)
    await street.advance(1)
    assert not await street.placement._careful(gateway)
    again = await lost(street, "one", sold=False, link="https://example.com/b")
    assert await street.placement._careful(gateway)
    await resolve(street.house, again.id, provider_order=None, by="ada")
    assert not await street.placement._careful(gateway)
    assert (await street.order(order.number)).state is OrderState.UNCLEAR


@on_sqlite
async def test_nobody_looks_for_ever_for_what_cannot_be_proved(street: Street) -> None:
    await lost(street, "one", sold=False)
    await street.advance(ENOUGH_S)
    assert await column(street, "next_evidence_at", "smmplus") is None


@on_sqlite
async def test_a_provider_on_trial_gets_one_purchase(street: Street) -> None:
    for _ in range(FAILURES_TO_OPEN):
        await street.house.health.failed("smmplus", "timeout", purchase=True)
    street.clock.advance(FIRST_PAUSE.total_seconds())
    street.break_with(FaultRule("close_before", account="smmplus", action="add"))
    taken = [await street.take("one", link=f"https://example.com/{place}") for place in range(5)]
    await street.routing.run_once()
    await street.routing.idle()
    await street.placement.run_once()
    await street.placement.idle()
    assert street.calls("smmplus", "add") == 1
    found = [(await street.order(order.number)).state for order in taken]
    assert sorted(found) == [OrderState.ACCEPTED] * 4 + [OrderState.UNCLEAR]
    assert street.house.health.down_reason("smmplus") is not None


@on_sqlite
async def test_a_provider_that_passes_its_trial_gets_the_rest(street: Street) -> None:
    for _ in range(FAILURES_TO_OPEN):
        await street.house.health.failed("smmplus", "timeout", purchase=True)
    street.clock.advance(FIRST_PAUSE.total_seconds())
    for place in range(5):
        await street.take("one", link=f"https://example.com/{place}")
    await street.settle()
    assert len(street.purchases("smmplus")) == 5
    assert not street.house.health.on_trial("smmplus")


async def test_after_a_restart_answers_to_questions_still_do_not_make_it_fit_to_buy_from(street: Street) -> None:
    await lost(street, "one", sold=False)
    for _ in range(FAILURES_TO_OPEN - 1):
        await street.house.health.failed("smmplus", "timeout", purchase=True)
    await street.restart()
    await street.house.health.answered("smmplus")
    assert street.house.health.down_reason("smmplus") is not None
    await street.house.health.answered("smmplus", purchase=True)
    assert street.house.health.down_reason("smmplus") is None


@on_sqlite
async def test_one_whose_questions_failed_is_up_after_a_restart_with_the_first_answer(street: Street) -> None:
    await street.bought("one")
    for _ in range(FAILURES_TO_OPEN):
        await street.house.health.failed("smmplus", "timeout")
    await street.restart(synced=False)
    assert street.house.health.down_reason("smmplus") is not None
    await street.synced()
    assert street.house.health.down_reason("smmplus") is None


# --- bought


async def test_a_debit_proves_the_purchase_and_a_person_brings_the_id(street: Street) -> None:
    order = await lost(street, "one", sold=True)
    await street.settle()
    known = await street.order(order.number)
    assert (known.state, known.error_type) == (OrderState.UNCLEAR, "purchase-unclear")
    assert known.error_detail is not None
    assert "bought" in known.error_detail
    assert "id is unknown" in known.error_detail
    await street.advance(ENOUGH_S)
    assert [one["verdict"] for one in await evidence(street, order, "verdict")] == ["bought"]
    assert await street.events(order.number) == ["order.accepted", "order.unclear"]
    (sold,) = street.purchases()
    await resolve(street.house, order.id, provider_order=sold.order, by="ada")
    assert await street.booked(order) == [("charge", -90_000_000)]
    await street.synced()
    assert (await street.until(order.number)).state is OrderState.COMPLETED
    assert await differences(street) == []


@on_sqlite
async def test_what_was_found_out_later_was_not_seen_to_be_debited_at_once(street: Street) -> None:
    order = await lost(street, "one", sold=True)
    (sold,) = street.purchases()
    await resolve(street.house, order.id, provider_order=sold.order, by="ada")
    await street.restart()
    assert await column(street, "debits_seen", "smmplus") == 0


@on_sqlite
async def test_a_debit_in_other_hands_account_proves_nothing_that_is_acted_on(street: Street) -> None:
    """Somebody else bought for the same price: wrong, and harmless."""
    order = await lost(street, "one", sold=False)
    moves(street, "-0.90", "smmplus")
    await street.advance(ENOUGH_S)
    assert (await street.order(order.number)).state is OrderState.UNCLEAR
    assert street.calls("smmplus", "add") == 1


# --- not bought


async def test_all_conditions_together_free_the_order_once(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        before = told("balance", "not_placed")
        order = await lost(street, "followers", sold=False)
        await street.advance(SETTLE_S)
        assert (await street.order(order.number)).state is OrderState.UNCLEAR
        await street.advance(ENOUGH_S - SETTLE_S)
        assert await states(street, order) == [("smmcheap", "not_placed"), ("smmplus", "placed")]
        assert [one["verdict"] for one in await evidence(street, order, "verdict")] == ["not_bought"]
        await street.advance(ENOUGH_S)
        await street.restart()
        assert len(street.purchases()) == 1
        assert (await street.events(order.number)).count("order.placed") == 1
        assert told("balance", "not_placed") == before + 1


@on_sqlite
@pytest.mark.parametrize(
    ("settings", "debits"),
    [
        ({**OWN, "exclusive_account": False}, 20),
        (OWN, 19),
        ({**OWN, "settle_s": 3600}, 20),
        ({**OWN, "idempotent_add": True}, 20),
    ],
)
async def test_without_one_of_them_it_stays_unclear(scenes: Scenes, settings: dict[str, Any], debits: int) -> None:
    async with scenes(smmcheap=settings) as street:
        street.break_with(FaultRule("close_before", account="smmcheap", action="add"))
        await learnt(street, "smmcheap", debits)
        order = await street.take("followers")
        await street.advance(2 * ENOUGH_S)
        assert (await street.order(order.number)).state is OrderState.UNCLEAR
        assert street.purchases() == []


@on_sqlite
async def test_twenty_purchases_teach_that_a_provider_debits_at_once(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        for place in range(20):
            await street.bought("cheap", 100, link=f"https://example.com/{place}")
        await street.restart()
        assert await column(street, "debits_seen", "smmcheap") == 20
        order = await lost(street, "followers", sold=False)
        await street.advance(2 * ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "not_placed"), ("smmplus", "placed")]


@on_sqlite
@pytest.mark.parametrize("after_s", [1, 30, SETTLE_S - 1])
async def test_a_purchase_that_is_accepted_late_is_found_and_not_made_again(scenes: Scenes, after_s: float) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        await street.advance(after_s)
        theirs = await sold_late(street, order)
        await street.advance(3 * ENOUGH_S)
        await street.restart()
        await street.advance(ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "unclear")]
        assert [one["verdict"] for one in await evidence(street, order, "verdict")] == ["bought"]
        assert await column(street, "debits_seen", "smmcheap") == 0, "its silence is not believed again so soon"
        await resolve(street.house, order.id, provider_order=theirs, by="ada")
        assert (await street.until(order.number)).state is OrderState.COMPLETED


@on_sqlite
async def test_without_an_account_of_our_own_no_lateness_buys_twice(street: Street) -> None:
    await learnt(street, "smmplus")
    order = await lost(street, "one", sold=False)
    await street.advance(10 * SETTLE_S)
    await sold_late(street, order)
    await street.advance(10 * SETTLE_S)
    assert await states(street, order) == [("smmplus", "unclear")]


@on_sqlite
async def test_what_comes_after_the_settling_time_is_told_and_ends_the_trust(scenes: Scenes) -> None:
    """Nothing can prove that it never comes: the setting says how long to wait for it."""
    async with scenes(smmcheap=OWN) as street:
        street.audited = False
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        await street.advance(ENOUGH_S)
        assert (await street.order(order.number)).provider == "smmplus"
        await sold_late(street, order)
        for _ in range(3):
            await street.advance(300)
            await street.restart()
        (told,) = await differences(street)
        (late,) = told["candidates"]
        assert (late["kind"], late["order"], late["amount"]) == ("unclear", order.id, "-0.62")
        assert await column(street, "debits_seen", "smmcheap") == 0


@on_sqlite
async def test_one_that_was_charged_at_another_price_is_never_bought_again(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=True)
        bought = street.account("smmcheap").orders[street.purchases()[0].order]
        street.account("smmcheap").recharge(bought, Decimal("0.60"), street.world.now())
        await street.advance(3 * ENOUGH_S)
        for _ in range(4):
            await street.restart()
        await street.advance(ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "unclear")]


@on_sqlite
@pytest.mark.parametrize("top_up", ["0.62", "10.00"])
async def test_a_top_up_meanwhile_hides_no_purchase(scenes: Scenes, top_up: str) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        await street.advance(20)
        moves(street, top_up, "smmcheap")
        await street.advance(20)
        await sold_late(street, order)
        await street.advance(3 * ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "unclear")]


@on_sqlite
async def test_a_refund_of_the_same_amount_at_the_same_moment_hides_no_purchase(scenes: Scenes) -> None:
    """The refunded order would be asked about much later; it is asked before anything is concluded."""
    async with scenes(smmcheap=OWN) as street:
        other = await long_pending(street)
        order = await lost(street, "followers", sold=True)
        paid_back(street, other)
        await street.advance(3 * ENOUGH_S)
        assert (await street.order(other.number)).state is OrderState.CANCELED
        assert await states(street, order) == [("smmcheap", "unclear")]
        assert [one["verdict"] for one in await evidence(street, order, "verdict")] == ["bought"]


async def test_a_refund_of_one_whose_status_cannot_be_had_hides_no_purchase(scenes: Scenes) -> None:
    """To have asked proves nothing; only an answer does."""
    async with scenes(smmcheap=OWN) as street:
        other = await long_pending(street)
        order = await lost(street, "followers", sold=True)
        street.break_with(FaultRule("http_500_before", account="smmcheap", action="status"))
        paid_back(street, other)
        await street.advance(ENOUGH_S)
        assert len(await evidence(street, order, "asked")) == 1
        assert [one["by"] for one in await evidence(street, order, "kept")] == ["unanswered"]
        assert await states(street, order) == [("smmcheap", "unclear")]
        street.break_with()
        await street.advance(ENOUGH_S)
        assert (await street.order(other.number)).state is OrderState.CANCELED
        assert await states(street, order) == [("smmcheap", "unclear")]
        assert [one["verdict"] for one in await evidence(street, order, "verdict")] == ["bought"]


@on_sqlite
async def test_a_refund_that_is_never_shown_hides_no_purchase(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    status = panel_v2._status
    monkeypatch.setattr(panel_v2, "_status", lambda *given: status(*given) | {"charge": "0.62"})
    async with scenes(smmcheap=OWN) as street:
        other = await street.bought("cheap", link="https://example.com/other")
        street.upstream(other).forced_status = "In progress"
        await street.advance(60)
        await street.restart()
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=True)
        paid_back(street, other)
        await street.advance(3 * ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "unclear")]


async def hidden(street: Street, others: Sequence[Order], order: Order) -> None:
    """The others are paid back without a word, just when the order's purchase is debited."""
    for other in others:
        paid_back(street, other)
    await street.advance(3 * ENOUGH_S)
    assert {(await street.order(other.number)).state for other in others} == {OrderState.CANCELED}
    assert await states(street, order) == [("smmcheap", "unclear")]
    (kept,) = await evidence(street, order, "kept")
    assert (kept["by"], sorted(kept["orders"]), kept["more"]) == ("refunds", sorted(one.id for one in others), 0)


def tells_no_refunds(street: Street, *, surcharge_percent: float = 0.0) -> None:
    account = street.account("smmcheap")
    account.settings = replace(account.settings, gross_charge=True, surcharge_percent=surcharge_percent)


@on_sqlite
async def test_two_refunds_that_make_up_its_price_hide_no_purchase(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        tells_no_refunds(street)
        others = [await street.bought("cheap", 500, link=f"https://example.com/{place}") for place in range(2)]
        await street.advance(60)
        await learnt(street, "smmcheap")
        await hidden(street, others, await lost(street, "followers", sold=True))


@on_sqlite
async def test_the_refund_of_one_that_was_cheaper_than_expected_hides_no_purchase(scenes: Scenes) -> None:
    """What was booked when its charge was told is no refund."""
    async with scenes(smmcheap=OWN) as street:
        tells_no_refunds(street, surcharge_percent=-50.0)
        other = await street.bought("cheap", 2000, link="https://example.com/other")
        street.upstream(other).forced_status = "In progress"
        await street.advance(60)
        tells_no_refunds(street)
        await street.restart()
        await learnt(street, "smmcheap")
        await hidden(street, [other], await lost(street, "followers", sold=True))


async def test_the_refund_of_an_unclear_purchase_hides_no_other(scenes: Scenes) -> None:
    """Nobody can ask for an order whose id is unknown: it is paid back in part just when a cheaper one is debited."""
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        dear = await lost(street, "followers", sold=True)
        await street.advance(30)
        await lost(street, "cheap", sold=True, quantity=500, link="https://example.com/b")
        moves(street, "0.31", "smmcheap")
        await street.advance(3 * ENOUGH_S)
        assert len(street.purchases()) == 2
        for order in (dear, await street.order(dear.number + 1)):
            assert await states(street, order) == [("smmcheap", "unclear")]
            assert {one["sharp"] for one in (await evidence(street, order, "balance"))[-3:]} == {True}


async def test_once_the_other_is_resolved_a_cheaper_one_is_freed(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        dear = await lost(street, "followers", sold=True)
        cheap = await lost(street, "followers", sold=False, quantity=500, link="https://example.com/b")
        await street.advance(ENOUGH_S)
        assert await states(street, cheap) == [("smmcheap", "unclear")]
        (kept,) = await evidence(street, cheap, "kept")
        assert (kept["by"], kept["orders"], kept["more"]) == ("unclear", [dear.id], 0)
        (sale,) = street.purchases()
        await resolve(street.house, dear.id, provider_order=sale.order, by="test")
        await street.advance(ENOUGH_S)
        assert await states(street, cheap) == [("smmcheap", "not_placed"), ("smmplus", "placed")]


@on_sqlite
async def test_one_that_was_debited_at_an_unknown_price_hides_others_of_any_price(scenes: Scenes) -> None:
    """Its debit was told as a difference, and nobody knows how much of it may come back."""
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        odd = await lost(street, "cheap", sold=True, quantity=500, link="https://example.com/b")
        moves(street, "-0.40", "smmcheap")
        await street.advance(ENOUGH_S)
        assert len(await differences(street)) == 1
        dear = await lost(street, "followers", sold=True)
        moves(street, "0.62", "smmcheap")
        await street.advance(3 * ENOUGH_S)
        for order in (odd, dear):
            assert await states(street, order) == [("smmcheap", "unclear")]


@on_sqlite
async def test_other_purchases_and_their_refunds_do_not_stand_in_the_way(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        others = []
        for place in range(3):
            others.append(await street.bought("cheap", 500, link=f"https://example.com/other-{place}"))
            await street.advance(20)
        await street.advance(ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "not_placed"), ("smmplus", "placed")]
        assert {(await street.order(other.number)).provider for other in others} == {"smmcheap"}


@on_sqlite
async def test_two_unclear_purchases_of_different_prices_end_each_in_its_way(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        sold = await lost(street, "followers", sold=True)
        unsold = await lost(street, "followers", sold=False, quantity=2000, link="https://example.com/b")
        await street.advance(2 * ENOUGH_S)
        assert await states(street, sold) == [("smmcheap", "unclear")]
        assert await states(street, unsold) == [("smmcheap", "not_placed"), ("smmplus", "placed")]


@on_sqlite
async def test_of_two_with_the_same_price_neither_is_freed_while_one_was_debited(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        both = [
            await lost(street, "followers", sold=sold, link=f"https://example.com/{sold}") for sold in (True, False)
        ]
        await street.advance(2 * ENOUGH_S)
        assert [await states(street, order) for order in both] == [[("smmcheap", "unclear")]] * 2
        assert len(street.purchases()) == 1


@on_sqlite
async def test_two_with_the_same_price_are_freed_together_when_nothing_was_debited(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        both = [await lost(street, "followers", sold=False, link=f"https://example.com/{place}") for place in range(2)]
        await street.advance(2 * ENOUGH_S)
        assert [(await street.order(order.number)).provider for order in both] == ["smmplus"] * 2
        assert len(street.purchases()) == 2


@on_sqlite
async def test_an_active_order_on_its_link_speaks_against_buying_again(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        street.break_with(
            FaultRule("error_text", account="smmcheap", action="add", body="neworder.error.link_duplicate")
        )
        await street.take("cheap")
        await street.settle()
        assert len(await evidence(street, order, "active_order")) == 1
        await street.advance(ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "unclear")]


@on_sqlite
async def test_a_clock_that_is_put_forward_settles_nothing(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        await street.settle()
        street.clock._now += timedelta(days=1)
        await street.advance(SETTLE_S - 10)
        await street.restart()
        assert await states(street, order) == [("smmcheap", "unclear")]
        assert [one["forward_s"] for one in await evidence(street, order, "clock")] == [86_400.0]
        await sold_late(street, order)
        await street.advance(2 * ENOUGH_S)
        assert [one["verdict"] for one in await evidence(street, order, "verdict")] == ["bought"]


@on_sqlite
async def test_a_clock_that_is_put_forward_and_back_again_keeps_nobody_waiting(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        await street.settle()
        street.clock._now += timedelta(hours=1)
        await street.advance(20)
        street.clock._now -= timedelta(hours=1)
        await street.database.write(lambda c: books.set_next_evidence(c, "smmcheap", street.clock.now()))
        await street.advance(SETTLE_S - 30)
        assert await states(street, order) == [("smmcheap", "unclear")]
        await street.advance(ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "not_placed"), ("smmplus", "placed")]


@on_sqlite
async def test_a_clock_that_is_put_back_loses_nothing(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        await street.settle()
        street.clock._now -= timedelta(seconds=200)
        await street.tick()  # as the daemon's schedule does within seconds, whatever the clock says is due
        await street.advance(200 + 2 * ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "not_placed"), ("smmplus", "placed")]


@on_sqlite
async def test_a_balance_that_went_unread_while_the_clock_was_put_back_proves_nothing(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        await street.settle()
        street.clock._now -= timedelta(seconds=200)
        await street.advance(200 + 2 * ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "unclear")]


async def test_a_crash_at_any_write_of_the_looking_changes_nothing_twice(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        for place in range(40):
            street.database.refuse, street.database.forget = (1, 0) if place % 2 else (0, 1)
            await asyncio.gather(street.reconcile.run_once(), return_exceptions=True)
            await street.reconcile.idle()
            street.database.refuse = street.database.forget = 0
            if place % 5 == 4:
                await street.restart(synced=False)
            street.clock.advance(10)
        await street.restart()
        await street.advance(ENOUGH_S)
        assert await states(street, order) == [("smmcheap", "not_placed"), ("smmplus", "placed")]
        assert len(street.purchases()) == 1


async def test_a_person_and_the_proof_at_once_end_it_once(scenes: Scenes) -> None:
    async with scenes(smmcheap=OWN) as street:
        await learnt(street, "smmcheap")
        order = await lost(street, "followers", sold=False)
        await street.advance(SETTLE_S + 15)
        gateway = street.house.gateways["smmcheap"]
        await asyncio.gather(
            street.reconcile._look(gateway),
            resolve(street.house, order.id, provider_order=None, by="ada"),
            street.reconcile._look(gateway),
            return_exceptions=True,
        )
        await street.advance(ENOUGH_S)
        assert len(street.purchases()) == 1
        assert [state for _, state in await states(street, order)] == ["not_placed", "placed"]


# --- repeated under its key


def honouring(street: Street) -> None:
    account = street.account("smmcheap")
    account.settings = replace(account.settings, honours_idempotency_key=True)


@pytest.mark.parametrize("sold", [True, False])
async def test_a_purchase_is_repeated_under_its_key_until_it_answers(scenes: Scenes, sold: bool) -> None:
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        before = told("repetition", "placed")
        order = await lost(street, "followers", sold=sold)
        await street.settle()
        assert told("repetition", "placed") == before + 1
        bought = await street.order(order.number)
        assert (bought.state, bought.provider) == (OrderState.PENDING, "smmcheap")
        assert len(street.purchases()) == 1
        assert street.calls("smmcheap", "add") == 2
        assert [one["result"] for one in await evidence(street, order, "repeated")] == ["placed"]
        assert await street.booked(order) == [("charge", -62_000_000)]
        assert (await street.until(order.number)).state is OrderState.COMPLETED


@on_sqlite
async def test_the_pauses_grow_and_the_key_stays(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[float, str]] = []
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=True)
        began = street.clock.now()
        add = Gateway.add

        async def noted(gateway: Gateway, request: Any) -> Any:
            keys.append(((street.clock.now() - began).total_seconds(), request.idempotency_key))
            return await add(gateway, request)

        monkeypatch.setattr(Gateway, "add", noted)
        # A breaker would only lengthen the pauses.
        monkeypatch.setattr(recovery_module, "_note_health", _nothing)
        street.break_with(FaultRule("http_500_before", account="smmcheap", action="add"))
        await street.advance(2000)
        at = [moment for moment, _ in keys]
        pauses = [after - before for before, after in pairwise(at)]
        assert pauses[:6] == [5, 10, 20, 40, 80, 160]
        assert set(pauses[6:]) == {300}
        assert {key for _, key in keys} == {order.attempt}
        street.break_with()
        await street.advance(300)
        assert (await street.order(order.number)).state in FOLLOWED | {OrderState.COMPLETED}
        assert len(street.purchases()) == 1


async def _nothing(*_: Any) -> None:
    return None


@on_sqlite
async def test_without_the_setting_nothing_is_ever_repeated(street: Street) -> None:
    account = street.account("smmplus")
    account.settings = replace(account.settings, honours_idempotency_key=True)
    order = await lost(street, "one", sold=True)
    await street.advance(3600)
    assert (await street.order(order.number)).state is OrderState.UNCLEAR
    assert street.calls("smmplus", "add") == 1


@on_sqlite
@pytest.mark.parametrize(
    "said",
    [
        "Invalid API key",
        "Rate limit reached, please slow down",
        "neworder.error.not_enough_funds",
        "neworder.error.link_duplicate",
        "There was an error processing your request. Please try again later",
    ],
)
async def test_what_may_be_said_before_the_key_is_looked_at_decides_nothing(
    scenes: Scenes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.providers.gateway.RATE_LIMIT_PAUSE_S", 0.01)
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=True)
        street.break_with(FaultRule("error_text", account="smmcheap", action="add", body=said))
        await street.advance(SETTLE_S + 400)
        assert street.calls("smmcheap", "add") > 3
        assert await states(street, order) == [("smmcheap", "unclear")]
        street.break_with()
        await street.advance(700)
        assert (await street.order(order.number)).provider_order == street.purchases()[0].order


@on_sqlite
async def test_a_refusal_decides_only_when_the_first_sending_can_no_longer_arrive(scenes: Scenes) -> None:
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=False)
        street.break_with(FaultRule("error_text", account="smmcheap", action="add", body="Out of stock"))
        await street.advance(SETTLE_S - 10)
        assert await states(street, order) == [("smmcheap", "unclear")]
        assert {one["result"] for one in await evidence(street, order, "repeated")} == {"refused"}
        await street.advance(200)
        assert await states(street, order) == [("smmcheap", "refused"), ("smmplus", "placed")]
        assert len(street.purchases()) == 1


@on_sqlite
async def test_a_first_sending_that_arrives_after_a_refused_repetition_is_adopted(scenes: Scenes) -> None:
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=False)
        street.break_with(FaultRule("error_text", account="smmcheap", action="add", body="Out of stock", count=2))
        await street.advance(12)
        theirs = await sold_late(street, order)
        await street.advance(60)
        assert (await street.order(order.number)).provider_order == theirs
        assert len(street.purchases()) == 1


async def test_what_a_person_has_ended_is_not_repeated_even_if_its_turn_comes(
    scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=False)
        load = catalogue.type_of

        async def ended(*_: Any) -> None:
            await resolve(street.house, order.id, provider_order=None, by="ada")

        loop = asyncio.get_running_loop()
        done: list[Any] = []

        def meanwhile(connection: Any, **values: Any) -> Any:
            if not done:
                done.append(asyncio.run_coroutine_threadsafe(ended(), loop))
            return load(connection, **values)

        monkeypatch.setattr(catalogue, "type_of", meanwhile)
        turn = Gateway.turn

        def after_the_person(gateway: Gateway, priority: Any) -> Any:
            return _Waiting(done, turn(gateway, priority))

        monkeypatch.setattr(Gateway, "turn", after_the_person)
        await recovery_module.repeat_under_keys(street.house, street.house.gateways["smmcheap"])
        monkeypatch.undo()
        assert street.calls("smmcheap", "add") == 1
        assert (await street.order(order.number)).state is OrderState.ACCEPTED


class _Waiting:
    """A turn that comes only when the person is done."""

    def __init__(self, done: list[Any], turn: Any) -> None:
        self._done, self._turn = done, turn

    async def __aenter__(self) -> None:
        if self._done:
            await asyncio.wrap_future(self._done[0])
        await self._turn.__aenter__()

    async def __aexit__(self, *given: Any) -> Any:
        return await self._turn.__aexit__(*given)


@on_sqlite
async def test_a_paused_provider_is_sent_nothing_again_until_it_goes_on(scenes: Scenes) -> None:
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=False)
        now = street.clock.now()
        await street.database.write(lambda c: catalogue.set_health(c, "smmcheap", now, paused=True))
        await street.advance(600)
        assert street.calls("smmcheap", "add") == 1
        await street.database.write(lambda c: catalogue.set_health(c, "smmcheap", now, paused=False))
        await street.advance(61)
        assert (await street.order(order.number)).provider == "smmcheap"
        assert len(street.purchases()) == 1


@on_sqlite
async def test_a_service_that_left_the_catalogue_is_not_repeated_and_not_spun_on(
    scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=True)
        monkeypatch.setattr(recovery_module, "service_type", lambda *_: None)
        await street.advance(1000)
        assert street.calls("smmcheap", "add") == 1
        monkeypatch.undo()
        await street.advance(301)
        assert (await street.order(order.number)).provider_order == street.purchases()[0].order


@on_sqlite
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_around_a_repetition_repeats_it_under_the_same_key(
    scenes: Scenes, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=False)
        add = Gateway.add

        async def crash(gateway: Gateway, request: Any) -> Any:
            if when == "after":
                await add(gateway, request)
            raise Crash

        with monkeypatch.context() as broken:
            broken.setattr(Gateway, "add", crash)
            with pytest.raises(Crash):
                await recovery_module.repeat_under_keys(street.house, street.house.gateways["smmcheap"])
        await street.restart()
        await street.advance(61)
        bought = await street.order(order.number)
        assert bought.provider_order == street.purchases()[0].order
        assert len(street.purchases()) == 1
        assert await street.booked(order) == [("charge", -62_000_000)]


@on_sqlite
async def test_a_repetition_whose_answer_cannot_be_stored_is_stored_when_it_can(scenes: Scenes) -> None:
    async with scenes(smmcheap=CHILD) as street:
        honouring(street)
        order = await lost(street, "followers", sold=True)
        gateway = street.house.gateways["smmcheap"]
        add = gateway.add

        async def then_fail(request: Any) -> Any:
            result = await add(request)
            street.database.refuse = 3
            return result

        gateway.add = then_fail  # type: ignore[method-assign]
        await recovery_module.repeat_under_keys(street.house, gateway)
        assert (await street.order(order.number)).state is OrderState.PENDING


async def test_numbers_are_repeated_and_booked_each(scenes: Scenes) -> None:
    async with scenes(hstock=CHILD) as street:
        account = street.account("hstock")
        account.settings = replace(account.settings, honours_idempotency_key=True)
        order = await lost(street, "code", sold=True, quantity=2, link=None)
        await street.settle()
        assert (await street.order(order.number)).state is OrderState.IN_PROGRESS
        assert [units for _, units in await street.booked(order)] == [-80_000_000] * 2
        assert len(street.purchases()) == 1


# --- ids between our own


RECOVER = {"recover_ids": True, "settle_s": SETTLE_S}


async def neighbours(street: Street, *, sold: bool = True) -> Order:
    """An unclear purchase between two that are known."""
    await street.bought("one", link="https://example.com/before")
    street.clock.advance(1)
    order = await lost(street, "one", sold=sold)
    street.clock.advance(1)
    await street.bought("stuck", link="https://example.com/after")
    return order


async def test_the_one_stranger_between_our_ids_with_our_price_is_ours(scenes: Scenes) -> None:
    ends = {"provider": "smmplus", "outcome": "placed", "evidence": "id"}
    before = counted("aggregator_unclear_resolved_total", **ends)
    async with scenes(smmplus=RECOVER) as street:
        order = await neighbours(street)
        await street.advance(60)
        assert counted("aggregator_unclear_resolved_total", **ends) == before + 1
        found = await street.order(order.number)
        assert found.provider_order == street.purchases()[1].order
        assert len(await evidence(street, order, "recovered")) == 1
        assert (await street.until(order.number)).state is OrderState.COMPLETED
        assert street.calls("smmplus", "add") == 3
        assert (await street.events(order.number)).count("order.placed") == 1


@on_sqlite
async def test_ids_are_asked_for_only_where_the_operator_allows_it(street: Street) -> None:
    order = await neighbours(street)
    await street.advance(ENOUGH_S)
    assert (await street.order(order.number)).state is OrderState.UNCLEAR


async def unrecovered(street: Street, order: Order) -> None:
    await street.advance(ENOUGH_S)
    assert (await street.order(order.number)).state is OrderState.UNCLEAR
    assert await evidence(street, order, "recovered") == []


def _elsewhere(street: Street, service: str = "1", quantity: str = "1000") -> None:
    """Somebody else buys with our account, or in a panel that counts all orders of all its customers."""
    call = Call("smmplus", "add", {"service": service, "quantity": quantity, "link": "https://example.com/else"})
    answer(street.world, "sandbox-smmplus-key", call)


@on_sqlite
@pytest.mark.parametrize("case", ["two_strangers", "other_price", "nothing_sold", "no_neighbour", "rival", "beyond"])
async def test_anything_else_than_one_stranger_with_our_price_decides_nothing(scenes: Scenes, case: str) -> None:
    async with scenes(smmplus=RECOVER) as street:
        street.audited = False
        if case == "beyond":
            # The panel answers for somebody else's order below our own: its strangers need not be ours.
            _elsewhere(street)
        if case != "no_neighbour":
            await street.bought("one", link="https://example.com/before")
        street.clock.advance(1)
        if case == "two_strangers":
            _elsewhere(street, "18")
        if case == "other_price":
            _elsewhere(street, "18")
        order = await lost(street, "one", sold=case not in ("nothing_sold", "other_price"))
        if case == "rival":
            await lost(street, "one", sold=False, link="https://example.com/rival")
        street.clock.advance(1)
        await street.bought("stuck", link="https://example.com/after")
        await unrecovered(street, order)


@on_sqlite
async def test_a_purchase_that_a_person_declared_not_made_may_be_the_stranger(scenes: Scenes) -> None:
    async with scenes(smmplus=RECOVER) as street:
        street.audited = False
        await street.bought("one", link="https://example.com/before")
        street.clock.advance(1)
        wrongly = await lost(street, "one", sold=True, link="https://example.com/wrongly")
        order = await lost(street, "one", sold=False)
        await resolve(street.house, wrongly.id, provider_order=None, by="ada")
        street.clock.advance(1)
        await street.bought("stuck", link="https://example.com/after")
        await unrecovered(street, order)


@on_sqlite
async def test_a_panel_that_leaves_ids_out_decides_nothing(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scenes(smmplus=RECOVER) as street:
        order = await neighbours(street)
        statuses = Gateway.statuses

        async def fewer(gateway: Gateway, ids: Any) -> Any:
            told: Any = await statuses(gateway, ids)
            return replace(told, errors=dict(list(told.errors.items())[1:])) if len(ids) > 3 else told

        monkeypatch.setattr(Gateway, "statuses", fewer)
        await unrecovered(street, order)


@on_sqlite
async def test_a_crash_while_an_id_is_adopted_adopts_it_once(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scenes(smmplus=RECOVER) as street:
        order = await neighbours(street)
        book = purchases_module.book_expected

        def crash(*_: Any, **__: Any) -> None:
            raise RuntimeError("the process is gone")

        monkeypatch.setattr(purchases_module, "book_expected", crash)
        await street.reconcile.run_once()
        await street.reconcile.idle()
        assert (await street.order(order.number)).state is OrderState.UNCLEAR
        monkeypatch.setattr(purchases_module, "book_expected", book)
        await street.restart()
        await street.advance(30)
        assert (await street.order(order.number)).provider_order == street.purchases()[1].order
        assert len(await street.booked(order)) == 1


async def test_a_recovery_that_somebody_was_quicker_than_changes_nothing(scenes: Scenes) -> None:
    async with scenes(smmplus=RECOVER) as street:
        order = await neighbours(street)
        row = (await street.attempts(order.number))[0]
        theirs = street.purchases()[1].order
        resolved = await resolve(street.house, order.id, provider_order=theirs, by="ada")
        gateway = street.house.gateways["smmplus"]
        await street.database.write(lambda c: recovery_module._adopt(c, street.house, gateway, row, theirs))
        assert await street.order(order.number) == resolved
        later = street.clock.now()
        assert not await street.database.write(
            lambda c: attempts.note_resend(c, attempts.attempt_from(row).id, 1, later)
        )
