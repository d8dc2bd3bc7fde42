"""Everybody at a provider is asked for, because a refund could hide a purchase: who counts as answered for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import update

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import UNIT
from aggregator.flow.readings import LOOK_BACK
from aggregator.sandbox.faults import FaultRule
from aggregator.storage import books, ledger
from aggregator.storage.database import Database
from aggregator.storage.tables import numbers, orders
from tests.support.flow import Street, a_street, after_each, on_sqlite, smm, sms

SERVICES = {"one": smm("smmplus/1"), "code": sms("hstock/65f0bb/us")}
COST = 90 * UNIT // 100


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


async def ask(street: Street, provider: str) -> None:
    now = street.clock.now()
    await street.database.write(lambda c: books.ask_again(c, provider, now, now - LOOK_BACK))


async def ask_later(street: Street, provider: str) -> None:
    street.clock.advance(1)
    await ask(street, provider)


async def press(street: Street, provider: str) -> None:
    now = street.clock.now()
    await street.database.write(lambda c: books.press(c, provider, now))


async def unanswered(street: Street, provider: str = "smmplus") -> int | None:
    since = street.clock.now() - LOOK_BACK
    return await street.database.read(lambda c: books.unanswered(c, provider, since))


async def test_an_order_is_answered_for_by_a_report(street: Street) -> None:
    await street.bought("one")
    assert await unanswered(street) == 0
    await ask(street, "smmplus")
    assert await unanswered(street) == COST
    assert await unanswered(street, "smmcheap") == 0
    await street.settle()
    assert await unanswered(street) == 0


@on_sqlite
@pytest.mark.parametrize("fault", ["http_500_before", "close_before", "html"])
async def test_what_is_no_report_answers_for_nobody(street: Street, fault: str) -> None:
    await street.bought("one")
    street.break_with(FaultRule(fault, account="smmplus", action="status"))
    await ask(street, "smmplus")
    await street.advance(60)
    assert await unanswered(street) == COST
    street.break_with()
    await street.advance(300)
    assert await unanswered(street) == 0


@on_sqlite
async def test_an_order_that_its_provider_does_not_know_is_not_answered_for(street: Street) -> None:
    order = await street.bought("one")
    del street.account("smmplus").orders[order.provider_order or ""]
    street.audited = False
    await ask(street, "smmplus")
    await street.advance(600)
    assert await unanswered(street) == COST


@on_sqlite
async def test_a_report_that_cannot_be_stored_answers_for_nobody(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await street.bought("one")
    street.upstream(order).forced_status = "Completed"
    await ask(street, "smmplus")

    def full(*_: Any, **__: Any) -> None:
        raise ValueError("no column takes this")

    with monkeypatch.context() as broken:
        broken.setattr(ledger, "book_charge", full)
        await street.advance(60)
        assert street.calls("smmplus", "status") > 1
        assert await unanswered(street) == COST
    await street.advance(60)
    assert await unanswered(street) == 0


async def test_an_answer_to_an_earlier_question_is_none_to_a_later_one(street: Street) -> None:
    await street.bought("one")
    await ask(street, "smmplus")
    with after_each("statuses", partial(ask_later, street, "smmplus")):
        await street.polling.run_once()
        await street.polling.idle()
    assert await unanswered(street) == COST
    await street.settle()
    assert await unanswered(street) == 0


async def test_a_number_is_answered_for_by_its_status(street: Street) -> None:
    await street.bought("code", 1, link=None)
    street.break_with(*(FaultRule("http_500_before", action=one) for one in ("sms_code", "sms_status")))
    await ask(street, "hstock")
    await street.advance(60)
    assert (await unanswered(street, "hstock") or 0) > 0
    street.break_with()
    with after_each("sms_code", partial(ask_later, street, "hstock")):
        street.clock.advance(30)
        await street.sms_watch.run_once()
        await street.sms_watch.idle()
    assert (await unanswered(street, "hstock") or 0) > 0
    await street.advance(60)
    assert await unanswered(street, "hstock") == 0


async def test_who_is_over_for_long_stands_in_nobodys_way(street: Street) -> None:
    order = await street.bought("one")
    await street.until(order.number)
    street.break_with(FaultRule("http_500_before", account="smmplus", action="status"))
    await ask(street, "smmplus")
    await street.advance(60)
    assert await unanswered(street) == COST
    since = street.clock.now() + timedelta(days=1)
    assert await street.database.read(lambda c: books.unanswered(c, "smmplus", since)) == 0


@on_sqlite
async def test_who_was_not_answered_for_is_pressed(street: Street) -> None:
    """An order that is over, or whose turn is far off, is asked for again at once."""
    order = await street.bought("one")
    await street.until(order.number)
    rented = await street.bought("code", 1, link=None)
    await street.until(rented.number)
    street.break_with(*(FaultRule("http_500_before", action=one) for one in ("status", "sms_code", "sms_status")))
    for provider in ("smmplus", "hstock"):
        await ask(street, provider)
    await street.leap(1)
    street.break_with()
    before = [await unanswered(street), await unanswered(street, "hstock")]
    assert all(before)
    for provider in ("smmplus", "hstock"):
        await press(street, provider)
    await street.settle()
    assert [await unanswered(street), await unanswered(street, "hstock")] == [0, 0]


async def test_who_is_due_keeps_the_place_unless_a_call_is_under_way(street: Street) -> None:
    """To ask often must not let those wait for ever who were due first."""
    order = await street.bought("one")
    rented = await street.bought("code", 1, link=None)
    (number,) = await street.numbers(rented)
    await street.advance(5)
    street.clock.advance(600)
    places = ((orders, order.number, "next_poll_at"), (numbers, number.id, "next_check_at"))
    before = [await street.column(*place) for place in places]
    assert all(due < street.clock.now() for due in before)
    for again in (ask, press):
        for provider in ("smmplus", "hstock"):
            await again(street, provider)
        assert [await street.column(*place) for place in places] == before
    for table in (orders, numbers):
        claim = update(table).values(claim_token="x", claimed_until=street.clock.now())
        await street.database.write(lambda c, claim=claim: c.execute(claim))  # type: ignore[misc]
    for provider in ("smmplus", "hstock"):
        await press(street, provider)
    assert [await street.column(*place) for place in places] == [street.clock.now()] * 2
