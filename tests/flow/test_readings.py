"""Balances held against the books: what is explained, what stands and is told, and what a reading teaches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from sqlalchemy import select, update

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.readings import Reading, describe, take_reading
from aggregator.providers.contract import Failure
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.sandbox import panel_v2
from aggregator.sandbox.faults import FaultRule
from aggregator.sandbox.money import shown as shown_money
from aggregator.storage import books, ledger
from aggregator.storage.database import Database
from aggregator.storage.tables import attempts as attempts_table
from aggregator.storage.tables import events, providers
from aggregator.storage.tables import ledger as ledger_table
from tests.support.flow import Street, a_street, on_sqlite, smm, sms

SERVICES = {
    "one": smm("smmplus/1"),
    "half": smm("smmplus/19"),
    "never": smm("smmplus/20"),
    "stuck": smm("smmplus/23"),
    "code": sms("hstock/65f0bb/us"),
    "canceled": sms("hstock/65f0dc/gb"),
}
UNIT = 10**8


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


async def read(street: Street, provider: str = "smmplus", priority: Priority = Priority.STATUS) -> Reading:
    reading = await take_reading(street.house, street.house.gateways[provider], priority)
    assert not isinstance(reading, Failure)
    return reading


async def difference(street: Street, provider: str = "smmplus") -> int:
    judged = (await read(street, provider)).judged
    assert judged is not None
    return judged.difference


async def column(street: Street, name: str, provider: str = "smmplus") -> Any:
    query = select(providers.c[name]).where(providers.c.name == provider)
    return await street.database.read(lambda c: c.execute(query).scalar_one())


async def told(street: Street) -> list[dict[str, Any]]:
    """The differences that were told."""
    query = select(events.c.body).where(events.c.type == "provider.ledger_difference").order_by(events.c.seq)
    return await street.database.read(lambda c: [json.loads(row[0])["data"] for row in c.execute(query)])


async def rows(street: Street, provider: str, *kinds: str) -> list[tuple[str, int]]:
    query = select(ledger_table.c.kind, ledger_table.c.units).where(ledger_table.c.provider == provider)
    found = await street.database.read(lambda c: [(r[0], r[1]) for r in c.execute(query.order_by(ledger_table.c.id))])
    return [row for row in found if not kinds or row[0] in kinds]


def moves(street: Street, amount: str, provider: str = "smmplus") -> None:
    """Money comes or goes that is none of ours."""
    account, now = street.account(provider), street.world.now()
    account.set_balance(account.balance_at(now) + Decimal(amount), now)


async def lost(street: Street, service: str = "one", *, sold: bool, quantity: int = 1000, link: str = "l") -> Order:
    """An order whose purchase got no answer."""
    street.break_with(FaultRule("close_after" if sold else "close_before", action="add"))
    order = await street.take(service, quantity, f"https://example.com/{link}")
    await street.routing.run_once()
    await street.routing.idle()
    await street.placement.run_once()
    await street.placement.idle()
    street.break_with()
    found = await street.order(order.number)
    assert found.state is OrderState.UNCLEAR
    return found


async def sharp(street: Street, order: Order) -> list[tuple[str, bool]]:
    (row,) = await street.attempts(order.number)
    return [(one["shown"], one["sharp"]) for one in row["evidence"] or [] if one["kind"] == "balance"]


# --- the books


@on_sqlite
async def test_the_first_reading_is_where_the_books_begin(street: Street) -> None:
    assert await rows(street, "smmplus") == [("reading", 1000 * UNIT)]
    assert await difference(street) == 0
    described = await street.database.read(lambda c: describe(c, "smmplus", street.clock.now()))
    assert described == {
        "certain": {"amount": "1000.00", "currency": "USD"},
        "difference": None,
        "readings": 0,
        "candidates": [],
        "debits_seen": 0,
        "refunds": None,
    }
    assert await street.database.read(lambda c: describe(c, "nobody", street.clock.now())) is None


async def test_a_purchase_is_booked_when_it_is_made_and_the_next_reading_agrees(street: Street) -> None:
    order = await street.bought("one")
    assert await street.booked(order) == [("charge", -90_000_000)]
    assert await difference(street) == 0
    await street.until(order.number)
    assert await difference(street) == 0
    assert await rows(street, "smmplus", "charge", "refund") == [("charge", -90_000_000)]


async def test_each_number_is_booked_and_refunded_as_its_own(street: Street) -> None:
    order = await street.bought("canceled", 3, link=None)
    price = await rows(street, "hstock", "charge")
    assert len(price) == 3
    assert {units for _, units in price} == {-25_000_000}
    assert await difference(street, "hstock") == 0
    await street.until(order.number)
    assert await rows(street, "hstock", "refund") == [("refund", 25_000_000)] * 3
    assert await difference(street, "hstock") == 0


@on_sqlite
@pytest.mark.parametrize("service", ["half", "never"])
async def test_a_refund_that_the_charge_shows_is_never_a_difference(street: Street, service: str) -> None:
    order = await street.bought(service)
    done = await street.until(order.number)
    assert done.state in (OrderState.PARTIAL, OrderState.CANCELED)
    assert len(await rows(street, "smmplus", "refund")) == 1
    for _ in range(4):
        assert await difference(street) == 0
    assert await told(street) == []


@on_sqlite
async def test_a_refund_that_nobody_has_asked_for_yet_is_asked_for_and_not_told(street: Street) -> None:
    """An old order is asked about once an hour, and the balance is read more often than that."""
    order = await street.bought("stuck")
    await street.advance(4 * 3600)
    upstream = street.upstream(order)
    upstream.forced_status = "Canceled"
    street.account("smmplus").settle(upstream, street.world.now())
    for _ in range(4):
        await read(street)
        await street.settle()
        street.clock.advance(300)
    assert (await street.order(order.number)).state is OrderState.CANCELED
    assert await difference(street) == 0
    assert await told(street) == []


async def test_an_end_that_is_taken_back_is_found_by_its_money(street: Street) -> None:
    order = await street.bought("one")
    await street.until(order.number, OrderState.COMPLETED)
    await street.advance(3600)
    upstream = street.upstream(order)
    upstream.forced_status = "Refunded"
    street.account("smmplus").settle(upstream, street.world.now())
    assert await difference(street) == 90_000_000
    await street.settle()
    assert (await street.order(order.number)).state is OrderState.CANCELED
    assert await difference(street) == 0
    assert await told(street) == []


@on_sqlite
async def test_what_was_charged_in_other_money_is_not_mixed_in(street: Street) -> None:
    order = await street.bought("one")
    await street.database.write(
        lambda c: ledger.book_charge(c, "smmplus", order.number, Money(77, "EUR"), street.clock.now())
    )
    assert await difference(street) == 0


# --- what a reading may mean


@on_sqlite
async def test_a_reading_while_a_purchase_moves_proves_nothing(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    sending, go_on, add = asyncio.Event(), asyncio.Event(), Gateway.add

    async def slowly(gateway: Gateway, request: Any) -> Any:
        sending.set()
        await go_on.wait()
        return await add(gateway, request)

    monkeypatch.setattr(Gateway, "add", slowly)
    order = await street.take("one")
    await street.routing.run_once()
    await street.routing.idle()
    await street.placement.run_once()
    await sending.wait()
    assert (await read(street)).judged is None
    go_on.set()
    await street.placement.idle()
    (row,) = await street.attempts(order.number)
    assert row["evidence"] is None
    assert await difference(street) == 0


@pytest.mark.parametrize("what", ["bought", "refunded", "lost"])
async def test_whatever_moves_while_a_balance_is_read_makes_it_prove_nothing(
    street: Street, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Even at the same instant: no clock is asked."""
    before = await street.bought("stuck")
    await read(street)
    balance = Gateway.balance

    async def meanwhile(gateway: Gateway) -> Any:
        answer = await balance(gateway)
        monkeypatch.setattr(Gateway, "balance", balance)
        if what == "bought":
            await street.bought("one", link="https://example.com/b")
        elif what == "lost":
            await lost(street, sold=False)
        else:
            upstream = street.upstream(before)
            upstream.forced_status = "Canceled"
            street.account("smmplus").settle(upstream, street.world.now())
            await street.leap(60)
        return answer

    monkeypatch.setattr(Gateway, "balance", meanwhile)
    assert (await read(street)).judged is None
    assert await difference(street) == 0


@on_sqlite
async def test_a_debit_or_its_absence_shows_in_the_evidence(street: Street) -> None:
    sold = await lost(street, sold=True)
    await read(street)
    assert await sharp(street, sold) == [("debited", True)]
    (row,) = await street.attempts(sold.number)
    (evidence,) = row["evidence"]
    assert (evidence["balance"], evidence["certain"], evidence["difference"]) == ("999.10", "1000.00", "-0.90")
    unsold = await lost(street, "half", sold=False, quantity=5000, link="b")
    await read(street)
    assert await sharp(street, unsold) == [("unmoved", True)]


@on_sqlite
@pytest.mark.parametrize(
    ("quantities", "sold", "says"),
    [
        ((1000, 1000), (False, False), ["unmoved", "unmoved"]),
        ((1000, 1000), (True, False), ["undecided", "undecided"]),
        ((1000, 1000), (True, True), ["debited", "debited"]),
        ((1000, 2000), (True, False), ["debited", "unmoved"]),
        ((1000, 2000), (False, True), ["unmoved", "debited"]),
    ],
)
async def test_two_unclear_purchases_are_told_apart_only_by_their_price(
    street: Street, quantities: tuple[int, int], sold: tuple[bool, bool], says: list[str]
) -> None:
    both = [await lost(street, sold=sold[n], quantity=quantities[n], link=str(n)) for n in range(2)]
    await read(street)
    assert [(await sharp(street, order))[-1][0] for order in both] == says


# --- what a reading teaches


async def test_purchases_that_the_next_reading_shows_were_debited_at_once(street: Street) -> None:
    for place in range(3):
        await street.bought("stuck", link=f"https://example.com/{place}")
    await street.bought("code", 3, link=None)
    await read(street)
    await read(street, "hstock")
    assert [await column(street, "debits_seen"), await column(street, "debits_seen", "hstock")] == [3, 1]
    await read(street)
    assert await column(street, "debits_seen") == 3


@on_sqlite
async def test_a_purchase_that_is_debited_later_teaches_nothing(street: Street) -> None:
    await street.bought("stuck")
    moves(street, "0.40")  # what the provider has not taken yet
    assert await difference(street) == 40_000_000
    moves(street, "-0.40")
    assert await difference(street) == 0
    assert await column(street, "debits_seen") == 0


@on_sqlite
async def test_refunds_and_what_was_found_out_later_are_no_purchases_debited_at_once(street: Street) -> None:
    order = await street.bought("never")
    await read(street)
    await street.until(order.number)
    await read(street)
    assert await column(street, "debits_seen") == 1


@on_sqlite
async def test_a_reading_among_open_purchases_teaches_nothing(street: Street) -> None:
    await lost(street, sold=False)
    await street.bought("stuck", link="https://example.com/b")
    await read(street)
    assert await column(street, "debits_seen") == 0


# --- differences


async def test_a_difference_that_stands_for_three_readings_is_told_and_then_booked(street: Street) -> None:
    moves(street, "-5")
    assert [await difference(street), await difference(street)] == [-5 * UNIT] * 2
    assert await told(street) == []
    described = await street.database.read(lambda c: describe(c, "smmplus", street.clock.now()))
    assert described is not None
    assert (described["difference"], described["readings"]) == ({"amount": "-5.00", "currency": "USD"}, 2)
    assert described["candidates"] == [{"kind": "outside", "amount": "-5.00"}]
    assert await difference(street) == -5 * UNIT
    gauge = ("aggregator_ledger_difference", {"provider": "smmplus"})
    assert REGISTRY.get_sample_value(*gauge) == -5
    (data,) = await told(street)
    assert data == {
        "provider": "smmplus",
        "difference": {"amount": "-5.00", "currency": "USD"},
        "balance": {"amount": "995.00", "currency": "USD"},
        "candidates": [{"kind": "outside", "amount": "-5.00"}],
    }
    assert await rows(street, "smmplus", "unexplained") == [("unexplained", -5 * UNIT)]
    assert await difference(street) == 0
    assert REGISTRY.get_sample_value(*gauge) == 0
    assert len(await told(street)) == 1


@on_sqlite
async def test_a_top_up_is_booked_as_one(street: Street) -> None:
    moves(street, "25")
    for _ in range(3):
        await read(street)
    (data,) = await told(street)
    assert data["candidates"] == [{"kind": "top_up", "amount": "25.00"}]
    assert await rows(street, "smmplus", "top_up", "unexplained") == [("top_up", 25 * UNIT)]
    assert await difference(street) == 0


@on_sqlite
async def test_a_difference_that_goes_away_is_never_told(street: Street) -> None:
    for amount in ("5", "-5", "-5", "5"):
        moves(street, amount)
        await read(street)
        await read(street)
    assert await told(street) == []


@on_sqlite
async def test_money_that_goes_away_bit_by_bit_is_told_as_far_as_it_stood(street: Street) -> None:
    for _ in range(3):
        moves(street, "-1")
        await read(street)
    (data,) = await told(street)
    assert data["difference"]["amount"] == "-1.00"
    assert await difference(street) == -2 * UNIT
    await read(street)
    assert [one["difference"]["amount"] for one in await told(street)] == ["-1.00", "-2.00"]
    assert await difference(street) == 0


@on_sqlite
async def test_readings_between_purchases_do_not_make_a_difference_stand(street: Street) -> None:
    moves(street, "-5")
    for _ in range(10):
        await read(street, priority=Priority.PURCHASE)
    assert await told(street) == []
    assert await column(street, "difference_seen") == 1


@on_sqlite
async def test_a_difference_goes_on_standing_over_a_restart(street: Street) -> None:
    moves(street, "-5")
    await read(street)
    await street.restart()
    assert await told(street) == []
    await street.restart()
    assert len(await told(street)) == 1
    await street.restart()
    assert len(await told(street)) == 1


@on_sqlite
async def test_a_difference_that_could_not_be_stored_is_told_by_the_next_reading(street: Street) -> None:
    moves(street, "-5")
    await read(street)
    await read(street)
    street.database.refuse = 1
    with pytest.raises(Exception, match="disk is full"):
        await read(street)
    assert await told(street) == []
    await read(street)
    assert len(await told(street)) == 1


async def test_a_refund_that_the_charge_never_shows_is_told_with_its_order(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider whose `charge` is gross."""
    status = panel_v2._status

    def gross(world: Any, account: Any, order_id: str) -> dict[str, object]:
        return status(world, account, order_id) | {"charge": shown_money(account.orders[order_id].charge)}

    monkeypatch.setattr(panel_v2, "_status", gross)
    partly = await street.bought("half", 10_000)
    done = await street.until(partly.number)
    assert (done.state, done.charge) == (OrderState.PARTIAL, done.expected_cost)
    for _ in range(3):
        await read(street)
        await street.leap(60)
    (data,) = await told(street)
    assert data["candidates"] == [{"kind": "refund", "order": partly.id, "amount": data["difference"]["amount"]}]
    assert await rows(street, "smmplus", "top_up", "refund") == [("refund", 12_000_000)]
    assert await difference(street) == 0


@on_sqlite
async def test_a_difference_whose_orders_do_not_answer_waits_but_not_for_ever(street: Street) -> None:
    await street.bought("stuck")
    moves(street, "-5")
    for _ in range(9):
        await read(street)  # and nobody polls
    assert await told(street) == []
    await read(street)
    assert len(await told(street)) == 1


# --- differences among open purchases


@on_sqlite
async def test_what_an_open_purchase_may_have_cost_is_no_difference(street: Street) -> None:
    """It was charged at another price than the catalogue said."""
    order = await lost(street, sold=True)
    upstream = street.account("smmplus").orders[street.purchases()[0].order]
    street.account("smmplus").recharge(upstream, Decimal("0.85"), street.world.now())
    for _ in range(5):
        assert await difference(street) == -85_000_000
    assert await told(street) == []
    assert set(await sharp(street, order)) == {("undecided", False)}


async def test_more_than_all_open_purchases_cost_is_told_and_spoils_their_evidence(street: Street) -> None:
    order = await lost(street, sold=True)
    moves(street, "-3")
    for _ in range(3):
        await read(street)
    (data,) = await told(street)
    assert data["difference"]["amount"] == "-3.90"
    assert [one["kind"] for one in data["candidates"]] == ["unclear", "outside"]
    assert data["candidates"][0]["order"] == order.id
    assert await difference(street) == 0
    (row,) = await street.attempts(order.number)
    assert [one["kind"] for one in row["evidence"]].count("difference") == 1


@on_sqlite
async def test_a_difference_from_before_a_purchase_spoils_its_evidence(street: Street) -> None:
    """A refund that nobody told yet, and a debit of the same amount: together nothing."""
    moves(street, "0.90")
    await read(street)
    order = await lost(street, sold=True)
    assert await difference(street) == 0
    (row,) = await street.attempts(order.number)
    assert [one["kind"] for one in row["evidence"]] == ["difference", "balance"]


@on_sqlite
async def test_an_open_purchase_in_other_money_makes_readings_mean_nothing(street: Street) -> None:
    order = await lost(street, sold=False)
    await street.database.write(
        lambda c: c.execute(
            update(attempts_table).where(attempts_table.c.order_number == order.number).values(expected_currency="EUR")
        )
    )
    assert (await read(street)).judged is None


@on_sqlite
async def test_a_balance_in_other_money_begins_the_books_anew(street: Street) -> None:
    moves(street, "-5")
    await read(street)
    account = street.account("smmplus")
    account.settings = type(account.settings)(account.settings.key, currency="EUR")
    assert (await read(street)).judged is None
    assert await difference(street) == 0
    assert await column(street, "difference_seen") == 0


@on_sqlite
async def test_the_evidence_of_many_readings_keeps_what_matters(street: Street) -> None:
    order = await lost(street, sold=False)
    await read(street)
    moves(street, "0.30")
    await read(street)
    moves(street, "-0.30")
    for _ in range(books.MOST_EVIDENCE + 5):
        await read(street)
    (row,) = await street.attempts(order.number)
    assert len(row["evidence"]) == books.MOST_EVIDENCE
    assert [one["sharp"] for one in row["evidence"]].count(False) == 1
