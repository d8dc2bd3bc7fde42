"""Purchases that nobody knows the end of: found once, left alone, and ended by what a person says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem, ProblemKind, StorageUnavailable
from aggregator.domain.numbers import NumberState
from aggregator.domain.orders import Order, OrderState
from aggregator.flow import placement as placement_module
from aggregator.flow.reconcile import Reconcile, resolve
from aggregator.providers.gateway import Gateway
from aggregator.sandbox.faults import FaultRule
from aggregator.storage.database import Database
from tests.support.flow import Street, a_street, on_sqlite, product, smm, sms
from tests.support.metrics import counted

SERVICES = {
    "followers": smm("smmplus/1", "smmcheap/1"),
    "one": smm("smmplus/1"),
    "gmail": product("hstock/2"),
    "code": sms("hstock/65f0bb/us"),
    "never": sms("hstock/65f0cc/gb"),
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_module, "STORAGE_RETRY_S", 0.01)


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


async def unclear(street: Street, service: str = "one", quantity: int = 1000, *, sold: bool, **fields: Any) -> Order:
    """An order whose purchase got no answer; `sold` whether the provider took it."""
    fault = "close_after" if sold else "close_before"
    street.break_with(FaultRule(fault, action="add"), FaultRule(fault, action="add_sms"))
    order = await street.take(service, quantity, **fields)
    await street.settle()
    street.break_with()
    lost = await street.order(order.number)
    assert lost.state is OrderState.UNCLEAR
    return lost


async def refused(street: Street, reference: str, provider_order: str | None) -> Problem:
    """Why a resolution was not taken; it changed nothing."""
    before = await street.orders()
    with pytest.raises(Problem) as raised:
        await resolve(street.house, reference, provider_order=provider_order, by="ada")
    assert await street.orders() == before
    return raised.value


def said_by_a_person(provider: str, outcome: str) -> float:
    return counted("aggregator_unclear_resolved_total", provider=provider, outcome=outcome, evidence="person")


# --- what a crash leaves


async def test_only_purchases_whose_claim_is_over_are_taken_for_interrupted(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = asyncio.Event()
    go_on = asyncio.Event()
    send = Gateway.add

    async def slowly(gateway: Gateway, request: Any) -> Any:
        sending.set()
        await go_on.wait()
        return await send(gateway, request)

    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "add", slowly)
        order = await street.take("one")
        await street.routing.run_once()
        await street.routing.idle()
        await street.placement.run_once()
        await sending.wait()
        assert await street.reconcile.run_once() == 0
        assert (await street.order(order.number)).state is OrderState.PLACING
        go_on.set()
        await street.placement.idle()
    assert (await street.order(order.number)).state is OrderState.PENDING
    assert await street.reconcile.run_once() == 0


async def test_each_interrupted_purchase_is_found_once_and_told_once(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    async def crash(*_: Any) -> Any:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "add", crash)
        broken.setattr(Gateway, "add_sms", crash)
        taken = [await street.take("one", link=f"https://example.com/{place}") for place in range(3)]
        taken.append(await street.take("code", 1, link=None))
        await street.settle()
    states = {(await street.order(order.number)).state for order in taken}
    assert states == {OrderState.PLACING}
    ends = {"provider": "smmplus", "outcome": "unclear"}
    before = counted("aggregator_attempts_total", **ends)
    await street.restart()
    assert counted("aggregator_attempts_total", **ends) == before + 3
    await street.reconcile.idle()  # its first look is over, so that nobody has one to begin
    first, second = Reconcile(street.house), Reconcile(street.house)
    found = await asyncio.gather(first.run_once(), second.run_once(), street.reconcile.run_once())
    assert sum(found) == 0
    for order in taken:
        assert await street.events(order.number) == ["order.accepted", "order.unclear"]
    assert street.calls("smmplus", "add") == street.calls("hstock", "add_sms") == 0


async def test_what_was_planned_and_not_begun_is_bought_after_a_restart(street: Street) -> None:
    taken = [await street.take("followers", link=f"https://example.com/{place}") for place in range(3)]
    await street.routing.run_once()
    await street.routing.idle()
    await street.restart()
    await street.settle()
    assert {(await street.order(order.number)).state for order in taken} == {OrderState.PENDING}
    assert len(street.purchases()) == 3


# --- what a person says: placed


async def test_an_order_declared_placed_is_followed_under_the_providers_id(street: Street) -> None:
    before = said_by_a_person("smmplus", "placed")
    order = await unclear(street, sold=True)
    (sold,) = street.purchases()
    resolved = await resolve(street.house, str(order.number), provider_order=sold.order, by="ada")
    assert said_by_a_person("smmplus", "placed") == before + 1
    assert (resolved.state, resolved.provider_order) == (OrderState.PENDING, sold.order)
    assert (resolved.error_type, resolved.error_detail) == (None, None)
    (row,) = await street.attempts(order.number)
    assert (row["state"], row["provider_order"]) == ("placed", sold.order)
    said = row["evidence"][-1]
    assert (said["kind"], said["by"], said["outcome"]) == ("person", "ada", "placed")
    done = await street.until(order.number)
    assert (done.state, done.charge) == (OrderState.COMPLETED, resolved.expected_cost)
    told = await street.events(order.number)
    assert told[:3] == ["order.accepted", "order.unclear", "order.placed"]
    assert (told.count("order.placed"), told[-1]) == (1, "order.completed")
    assert street.calls("smmplus", "add") == 1


@on_sqlite
async def test_a_product_declared_placed_delivers_its_accounts(street: Street) -> None:
    order = await unclear(street, "gmail", 2, sold=True, link=None)
    (sold,) = street.purchases()
    await resolve(street.house, order.id, provider_order=sold.order, by="ada")
    done = await street.until(order.number)
    assert done.state is OrderState.COMPLETED
    assert await street.accounts(done) == list(street.upstream(done).accounts)


async def test_a_number_declared_rented_is_watched_and_its_phone_learnt(street: Street) -> None:
    order = await unclear(street, "code", 1, sold=True, link=None)
    (sold,) = street.purchases()
    resolved = await resolve(street.house, order.id, provider_order=sold.order, by="ada")
    assert resolved.state is OrderState.IN_PROGRESS
    done = await street.until(order.number)
    (number,) = await street.numbers(done)
    assert (done.state, number.state) == (OrderState.COMPLETED, NumberState.RECEIVED)
    assert number.phone == street.rented(number).phone
    assert (await street.events(order.number)).count("sms.code") == 1


@on_sqlite
async def test_of_several_numbers_only_the_declared_one_counts(street: Street) -> None:
    order = await unclear(street, "code", 3, sold=True, link=None)
    (sold,) = street.purchases()
    await resolve(street.house, order.id, provider_order=sold.order, by="ada")
    done = await street.until(order.number)
    assert (done.state, done.remains, len(await street.numbers(done))) == (OrderState.PARTIAL, 2, 1)


# --- what a person says: not placed


async def test_an_order_declared_not_placed_goes_to_the_next_offer(street: Street) -> None:
    order = await unclear(street, "followers", sold=False)
    assert order.provider == "smmcheap"
    before = said_by_a_person("smmcheap", "not_placed")
    resolved = await resolve(street.house, order.id, provider_order=None, by="ada")
    assert said_by_a_person("smmcheap", "not_placed") == before + 1
    assert (resolved.state, resolved.provider, resolved.attempt) == (OrderState.ACCEPTED, None, None)
    await street.settle()
    bought = await street.order(order.number)
    assert (bought.state, bought.provider) == (OrderState.PENDING, "smmplus")
    first, second = await street.attempts(order.number)
    assert (first["state"], second["state"]) == ("not_placed", "placed")
    said = first["evidence"][-1]
    assert (said["kind"], said["by"], said["outcome"]) == ("person", "ada", "not_placed")
    reasons = {candidate["provider"]: candidate["reason"] for candidate in second["candidates"]}
    assert reasons["smmcheap"] == "not placed, says ada"
    assert len(street.purchases()) == 1


async def test_with_one_offer_only_it_is_asked_again_a_round_later(street: Street) -> None:
    order = await unclear(street, sold=False)
    await resolve(street.house, order.id, provider_order=None, by="ada")
    await street.settle()
    assert (await street.order(order.number)).state is OrderState.ACCEPTED
    await street.advance(10)
    assert (await street.order(order.number)).state is OrderState.PENDING
    assert street.calls("smmplus", "add") == 2
    assert len(street.purchases()) == 1


async def test_numbers_declared_not_rented_are_rented_again(street: Street) -> None:
    order = await unclear(street, "code", 2, sold=False, link=None)
    await resolve(street.house, order.id, provider_order=None, by="ada")
    done = await street.until(order.number)
    assert (done.state, len(await street.numbers(done))) == (OrderState.COMPLETED, 2)


@on_sqlite
@pytest.mark.parametrize("between", [",", ", "])
async def test_every_number_that_a_person_names_is_told_and_watched(street: Street, between: str) -> None:
    order = await unclear(street, "code", 3, sold=True, link=None)
    rented = list(street.account("hstock").numbers)
    resolved = await resolve(street.house, order.id, provider_order=between.join(rented), by="ada")
    assert (resolved.state, resolved.provider_order) == (OrderState.IN_PROGRESS, rented[0])
    told = await street.told(order.number, "sms.number")
    assert [event["data"]["number"] for event in told] == [{"phone": "", "provider_order": one} for one in rented]
    done = await street.until(order.number)
    assert (done.state, done.remains) == (OrderState.COMPLETED, 0)
    assert [number.provider_order for number in await street.numbers(done)] == rented
    assert all(number.phone for number in await street.numbers(done))


@on_sqlite
@pytest.mark.parametrize("odd", ["1,", ",1", "1,,2", "1,null", "1,a b", ","])
async def test_of_several_ids_each_must_be_one(street: Street, odd: str) -> None:
    lost = await unclear(street, "code", 3, sold=False, link=None)
    problem = await refused(street, lost.id, odd)
    assert (problem.kind, problem.field) == (ProblemKind.INVALID_FIELD, "provider_order")


async def test_no_number_of_another_order_is_among_those_that_a_person_names(street: Street) -> None:
    rented = await street.bought("code", 2, link=None)
    second = (await street.numbers(rented))[1].provider_order
    lost = await unclear(street, "code", 2, sold=False, link=None)
    assert (await refused(street, lost.id, f"4711,{second}")).kind is ProblemKind.CONFLICT


# --- conflicts


async def test_only_an_unclear_order_can_be_resolved(street: Street) -> None:
    street.break_with(FaultRule("error_text", action="add", body="Out of stock"))
    waiting = await street.take("one")
    await street.settle()
    street.break_with()
    bought = await street.bought("followers")
    for order in (waiting, bought):
        for outcome in ("4711", None):
            problem = await refused(street, order.id, outcome)
            assert problem.kind is ProblemKind.CONFLICT
            assert "only an unclear order" in problem.detail
    for unknown in ("ord_0", "999", "0", "-1", "", "x" * 5000, "9" * 30):
        assert (await refused(street, unknown, None)).kind is ProblemKind.UNKNOWN_ORDER


async def test_two_orders_cannot_have_one_purchase(street: Street) -> None:
    bought = await street.bought("one")
    rented = await street.bought("code", 2, link=None)
    second = (await street.numbers(rented))[1].provider_order
    lost = await unclear(street, sold=False, link="https://example.com/b")
    problem = await refused(street, lost.id, bought.provider_order)
    assert (problem.kind, problem.field) == (ProblemKind.CONFLICT, "provider_order")
    number = await unclear(street, "code", 1, sold=False, link=None)
    assert (await refused(street, number.id, second)).kind is ProblemKind.CONFLICT
    assert (await refused(street, number.id, rented.provider_order)).kind is ProblemKind.CONFLICT
    # The same id at another provider is another purchase.
    assert (await resolve(street.house, number.id, provider_order=bought.provider_order, by="ada")).provider == "hstock"
    street.audited = False


@on_sqlite
@pytest.mark.parametrize("odd", ["", " ", "0", "null", "1,2", "a b", "x" * 129])
async def test_what_is_no_id_is_refused(street: Street, odd: str) -> None:
    lost = await unclear(street, sold=False)
    problem = await refused(street, lost.id, odd)
    assert (problem.kind, problem.field) == (ProblemKind.INVALID_FIELD, "provider_order")


async def test_two_people_at_once_resolve_it_once(street: Street) -> None:
    order = await unclear(street, sold=True)
    (sold,) = street.purchases()
    says = [sold.order, None, sold.order, None]
    results = await asyncio.gather(
        *(resolve(street.house, order.id, provider_order=one, by="ada") for one in says), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Order", "Problem", "Problem", "Problem"]
    street.audited = False  # the first may have been the one that lied


async def test_a_resolution_that_could_not_be_stored_changed_nothing(street: Street) -> None:
    order = await unclear(street, sold=True)
    street.database.refuse = 1
    with pytest.raises(StorageUnavailable):
        await resolve(street.house, order.id, provider_order="4711", by="ada")
    assert await street.order(order.number) == order
