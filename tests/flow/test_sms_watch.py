"""Rented numbers against a provider that sends codes late, twice, never, or cannot be reached when they come."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from sqlalchemy import Connection, update

from aggregator.domain.clock import ManualClock, rfc3339
from aggregator.domain.money import Money
from aggregator.domain.numbers import Number, NumberState
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.sms_watch import SmsWatch
from aggregator.providers import gateway as gateway_module
from aggregator.sandbox.faults import FaultRule
from aggregator.sandbox.numbers import code_at
from aggregator.storage import unknown_words
from aggregator.storage.claims import new_token
from aggregator.storage.database import Database
from aggregator.storage.numbers import claim_due
from aggregator.storage.tables import numbers as numbers_table
from tests.support.flow import Street, a_street, on_sqlite, sms

LIFE_S = 330.0
"""Shorter than the sandbox's own, so that a whole life is a few dozen checks."""
SERVICES = {
    "code": sms("hstock/65f0aa/us"),
    "two": sms("hstock/65f0bb/us"),
    "never": sms("hstock/65f0cc/gb"),
    "taken-back": sms("hstock/65f0dc/gb"),
    "few": sms("hstock/65f0ff/de"),
    "anywhere": sms("hstock/65f0aa"),
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "RATE_LIMIT_PAUSE_S", 0.01)


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        account = one.account("hstock")
        account.projects = [
            replace(row, behaviour=replace(row.behaviour, lifetime_s=LIFE_S)) for row in account.projects
        ]
        yield one


async def rent(street: Street, service: str = "code", count: int = 1) -> Order:
    return await street.bought(service, count, link=None)


async def the_number(street: Street, order: Order) -> Number:
    (number,) = await street.numbers(order)
    return number


def arrives(street: Street, number: Number, code: str) -> None:
    """A code comes in at the provider now."""
    street.rented(number).pushed.append(code_at(street.world.now(), random.Random(0), code))


def says(action: str, count: int | None = None, **answer: object) -> FaultRule:
    return FaultRule("wrong_json_before", account="hstock", action=action, body=json.dumps(answer), count=count)


def silent(fault: str, count: int | None = None) -> list[FaultRule]:
    """Both ways to ask for a code fail."""
    return [FaultRule(fault, account="hstock", action=name, count=count) for name in ("sms_code", "sms_status")]


# --- codes


async def test_each_number_is_told_then_its_code_then_the_end(street: Street) -> None:
    order = await rent(street, count=3)
    numbers = await street.numbers(order)
    assert [number.state for number in numbers] == [NumberState.WAITING] * 3
    told = await street.told(order.number, "sms.number")
    assert [event["data"]["number"]["phone"] for event in told] == [number.phone for number in numbers]
    done = await street.until(order.number)
    assert (done.state, done.remains, done.charge) == (OrderState.COMPLETED, 0, Money.parse("1.50", "USD"))
    codes = await street.told(order.number, "sms.code")
    assert {event["data"]["number"]["phone"] for event in codes} == {number.phone for number in numbers}
    assert {event["data"]["code"]["code"] for event in codes} == {
        street.rented(number).codes[0].code for number in numbers
    }
    assert [kind for kind, _ in await street.booked(order)] == ["charge"] * 3
    waited = (done.finished_at or done.created_at) - order.created_at
    assert waited <= timedelta(seconds=10 + 15)


@on_sqlite
async def test_a_second_code_is_told_after_the_order_has_ended(street: Street) -> None:
    order = await rent(street, "two")
    await street.until(order.number, OrderState.COMPLETED)
    assert len(await street.told(order.number, "sms.code")) == 1
    await street.advance(60)
    assert [event["data"]["code"]["code"] for event in await street.told(order.number, "sms.code")] == [
        code.code for code in street.rented(await the_number(street, order)).codes
    ]
    assert (await street.events(order.number)).count("order.completed") == 1
    assert [len(number.codes) for number in await street.numbers(order)] == [2]


@on_sqlite
async def test_the_same_code_asked_for_many_times_is_told_once(street: Street) -> None:
    order = await rent(street)
    await street.advance(300)
    assert street.calls("hstock", "sms_code") > 15
    assert (await street.events(order.number)).count("sms.code") == 1


@on_sqlite
async def test_a_number_is_asked_quickly_at_first_and_within_the_bounds_later(street: Street) -> None:
    order = await rent(street, "never")
    moments = []
    while (number := await the_number(street, order)).state is NumberState.WAITING:
        moments.append((await street.column(numbers_table, number.id, "next_check_at")) - order.created_at)
        await street.next()
    waits = [(after - before).total_seconds() for before, after in pairwise(moments)]
    assert moments[0] <= timedelta(seconds=3)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (3, 15)


@on_sqlite
async def test_a_phone_that_comes_later_is_learnt(street: Street) -> None:
    street.break_with(
        says("add_sms", orders=[{"order": 77, "phone": None, "country": "us", "status": "active"}]),
        says("sms_code", status="waiting"),
        says("sms_status", status="active", phone="+12025550100", code=None),
    )
    order = await rent(street)
    assert (await the_number(street, order)).phone == ""
    await street.advance(20)
    assert (await the_number(street, order)).phone == "+12025550100"
    street.audited = False


@on_sqlite
async def test_an_order_may_name_the_country(street: Street) -> None:
    order = await street.bought("anywhere", 1, link=None, params={"country": "gb"})
    (entry,) = street.purchases()
    assert (entry.params["country"], entry.charge) == ("gb", "0.60")
    (row,) = await street.attempts(order.number)
    assert row["country"] == "gb"


# --- ends


@on_sqlite
async def test_a_number_that_runs_out_ends_the_order_and_costs_nothing(street: Street) -> None:
    order = await rent(street, "never", 2)
    done = await street.until(order.number)
    assert (done.state, done.charge) == (OrderState.CANCELED, Money.parse("0", "USD"))
    assert [number.state for number in await street.numbers(order)] == [NumberState.EXPIRED] * 2
    told = await street.events(order.number)
    assert (told.count("sms.expired"), told.count("order.canceled")) == (2, 1)
    money = await street.booked(order)
    assert [kind for kind, _ in money] == ["charge", "charge", "refund", "refund"]
    assert sum(units for _, units in money) == 0
    age = ((done.finished_at or done.created_at) - order.created_at).total_seconds()
    assert LIFE_S <= age <= LIFE_S + 15


@on_sqlite
async def test_a_number_that_the_provider_takes_back_ends_the_order(street: Street) -> None:
    order = await rent(street, "taken-back")
    done = await street.until(order.number)
    assert done.state is OrderState.CANCELED
    assert (await the_number(street, order)).state is NumberState.CANCELED
    assert "sms.expired" not in await street.events(order.number)
    asked = street.calls("hstock", "sms_code")
    await street.advance(3600)
    assert street.calls("hstock", "sms_code") == asked


@on_sqlite
async def test_a_number_that_was_taken_back_is_asked_for_its_price_until_it_is_known(street: Street) -> None:
    order = await rent(street, "taken-back")
    street.break_with(FaultRule("reset_before", account="hstock", action="sms_status", count=4))
    await street.advance(600)
    assert (await street.order(order.number)).charge == Money.parse("0", "USD")
    assert sum(units for _, units in await street.booked(order)) == 0


@on_sqlite
async def test_some_received_and_some_not_is_partial(street: Street) -> None:
    order = await rent(street, count=3)
    silent = (await street.numbers(order))[1]
    street.rented(silent).codes.clear()
    done = await street.until(order.number)
    assert (done.state, done.remains, done.charge) == (OrderState.PARTIAL, 1, Money.parse("1.00", "USD"))


@on_sqlite
async def test_fewer_numbers_than_asked_for_are_not_the_whole_order(street: Street) -> None:
    order = await rent(street, "few", 5)
    assert len(await street.numbers(order)) == 3
    done = await street.until(order.number)
    assert (done.state, done.remains, done.charge) == (OrderState.PARTIAL, 2, Money.parse("0.60", "USD"))
    assert (await street.events(order.number))[-1] == "order.partial"


@on_sqlite
async def test_a_code_after_the_end_is_told_and_corrects_the_order(street: Street) -> None:
    order = await rent(street, "never")
    await street.until(order.number, OrderState.CANCELED)
    arrives(street, await the_number(street, order), "777888")
    await street.advance(60)
    assert (await the_number(street, order)).state is NumberState.RECEIVED
    told = await street.events(order.number)
    assert told[-3:] == ["order.canceled", "sms.code", "order.completed"]
    done = await street.order(order.number)
    assert (done.state, done.charge) == (OrderState.COMPLETED, Money.parse("0.75", "USD"))
    assert [kind for kind, _ in await street.booked(order)] == ["charge", "refund", "charge"]


@on_sqlite
async def test_long_after_its_end_a_number_is_not_asked_any_more(street: Street) -> None:
    order = await rent(street, "never")
    await street.until(order.number)
    await street.advance(3600)
    asked = street.calls("hstock", "sms_code")
    arrives(street, await the_number(street, order), "777888")
    await street.advance(86_400)
    assert street.calls("hstock", "sms_code") == asked


@on_sqlite
async def test_after_its_end_a_number_is_asked_ever_more_seldom(street: Street) -> None:
    order = await rent(street, "never")
    await street.until(order.number)
    number = await the_number(street, order)
    moments = []
    while (due := await street.column(numbers_table, number.id, "next_check_at")) is not None:
        moments.append(due)
        await street.next()
    waits = [(after - before).total_seconds() for before, after in pairwise(moments)]
    assert waits == sorted(waits)
    assert waits[0] == 15
    assert 100 < waits[-1] <= 150
    assert len(waits) < 20


async def test_a_number_that_somebody_waits_for_is_asked_first(street: Street) -> None:
    over = await rent(street, "never")
    await street.until(over.number)
    street.break_with(*silent("http_500_before"))
    waiting = await rent(street)
    street.clock.advance(300)
    claim = partial(claim_due, provider="hstock", now=street.clock.now(), limit=1, lease_s=60)
    places = [await street.database.write(partial(claim, token=new_token())) for _ in range(2)]
    assert [row["order_number"] for (row,) in places] == [waiting.number, over.number]


@on_sqlite
async def test_our_own_clock_ends_a_number_that_the_provider_forgot_to_end(street: Street) -> None:
    expiry = rfc3339(street.clock.now() + timedelta(seconds=LIFE_S))
    order = await rent(street)
    street.break_with(
        says("sms_code", status="waiting", message="Waiting for code"),
        says("sms_status", status="active", code=None, charge="0.5", currency="USD", expires_at=expiry),
    )
    await street.advance(LIFE_S)
    assert (await the_number(street, order)).state is NumberState.WAITING
    done = await street.until(order.number, most_s=120)
    assert done.state is OrderState.CANCELED
    assert (await street.events(order.number)).count("sms.expired") == 1


@on_sqlite
async def test_an_expiry_in_the_past_is_another_clocks_and_not_believed(street: Street) -> None:
    """A provider that writes its local time with a Z: hours before the number was rented."""
    expiry = rfc3339(street.clock.now() - timedelta(hours=3) + timedelta(seconds=LIFE_S))
    order = await rent(street)
    street.rented(await the_number(street, order)).codes.clear()
    street.break_with(says("sms_status", status="active", charge="0.5", currency="USD", expires_at=expiry))
    await street.advance(LIFE_S - 60)
    number = await the_number(street, order)
    assert number.state is NumberState.WAITING
    arrives(street, number, "424242")
    await street.advance(20)
    assert (await street.order(order.number)).state is OrderState.COMPLETED


@on_sqlite
async def test_a_number_that_the_provider_no_longer_knows_ends_with_its_time(street: Street) -> None:
    order = await rent(street)
    number = await the_number(street, order)
    await street.advance(5)
    del street.account("hstock").numbers[number.provider_order]
    await street.advance(300)
    assert (await the_number(street, order)).state is NumberState.WAITING
    done = await street.until(order.number)
    assert done.state is OrderState.CANCELED


# --- a provider that cannot be reached

SILENT = ["http_500_before", "html", "close_before", "reset_before", "wrong_json_before", "error_text", "http_429"]


@on_sqlite
@pytest.mark.parametrize("fault", SILENT)
async def test_a_failing_check_changes_nothing_and_is_made_again(street: Street, fault: str) -> None:
    order = await rent(street)
    street.break_with(*silent(fault))
    await street.advance(60)
    assert (await the_number(street, order)).state is NumberState.WAITING
    assert (await street.order(order.number)).state is OrderState.IN_PROGRESS
    assert street.calls("hstock", "sms_code") <= 22
    street.break_with()
    await street.advance(20)
    assert (await street.order(order.number)).state is OrderState.COMPLETED


@on_sqlite
async def test_a_code_that_came_while_the_provider_was_out_of_reach_is_told_however_late(street: Street) -> None:
    """Silence for an hour proves no expiry: the number was paid, and its code is there."""
    order = await rent(street)
    street.break_with(
        *(FaultRule("close_before", account="hstock", action=name) for name in ("sms_code", "sms_status"))
    )
    await street.advance(2 * LIFE_S)
    assert (await the_number(street, order)).state is NumberState.WAITING
    street.break_with()
    await street.advance(600)
    assert (await street.order(order.number)).state is OrderState.COMPLETED
    assert (await street.events(order.number)).count("sms.code") == 1


@pytest.mark.parametrize("service", ["code", "never"])
async def test_after_a_long_stop_a_number_is_looked_at_even_if_the_first_look_fails(
    street: Street, service: str
) -> None:
    order = await rent(street, service)
    street.clock.advance(3 * 3600)
    await street.restart()
    street.break_with(*silent("reset_before", count=2))
    await street.advance(900)
    done = await street.order(order.number)
    assert done.state is (OrderState.COMPLETED if service == "code" else OrderState.CANCELED)
    assert [kind for kind, _ in await street.booked(order)] == (
        ["charge"] if service == "code" else ["charge", "refund"]
    )
    assert sum(units for _, units in await street.booked(order)) == (-50_000_000 if service == "code" else 0)


@on_sqlite
@pytest.mark.parametrize("word", ["on hold", "", "???", "0"])
async def test_an_unknown_word_ends_no_number(street: Street, word: str) -> None:
    order = await rent(street)
    street.break_with(says("sms_code", status=word), says("sms_status", status=word, code=None))
    await street.advance(90)
    assert (await the_number(street, order)).state is NumberState.WAITING


@on_sqlite
async def test_received_without_a_code_is_no_code(street: Street) -> None:
    order = await rent(street)
    street.break_with(says("sms_code", status="completed"), says("sms_status", status="code_received", code=None))
    await street.advance(300)
    assert (await street.order(order.number)).state is OrderState.IN_PROGRESS
    assert "sms.code" not in await street.events(order.number)


@on_sqlite
async def test_a_code_that_comes_as_a_text_only_is_told_once(street: Street) -> None:
    order = await rent(street)
    text = "Your code is 445566"
    street.break_with(
        says("sms_code", status="completed", code="", sms_content=text), says("sms_status", status="code_received")
    )
    await street.advance(300)
    (told,) = await street.told(order.number, "sms.code")
    assert (told["data"]["code"]["code"], told["data"]["code"]["text"]) == ("445566", text)
    assert (await street.order(order.number)).state is OrderState.COMPLETED


@on_sqlite
async def test_a_number_that_the_provider_calls_received_does_not_run_out(street: Street) -> None:
    """Its code is not shown, by neither answer; one of them even calls it expired."""
    order = await rent(street)
    street.break_with(says("sms_code", status="completed"), says("sms_status", status="expired", expires_at=0))
    await street.advance(3600)
    assert (await the_number(street, order)).state is NumberState.WAITING
    assert "sms.expired" not in await street.events(order.number)
    asked = street.calls("hstock", "sms_code")
    await street.advance(86_400)
    assert street.calls("hstock", "sms_code") - asked < 150
    street.break_with(says("sms_code", status="completed", code="7788"), says("sms_status", status="code_received"))
    await street.advance(3600)
    assert (await street.order(order.number)).state is OrderState.COMPLETED


@on_sqlite
async def test_two_answers_that_differ_for_ever_tell_each_code_once(street: Street) -> None:
    order = await rent(street)
    street.break_with(
        says("sms_code", status="completed", code="111 222", sms_content="111 222 came just now"),
        says("sms_status", status="code_received", code="333444", sms_content="333444 came 12 s ago"),
    )
    await street.advance(200)
    await street.restart(synced=False)
    await street.advance(200)
    told = await street.told(order.number, "sms.code")
    assert [event["data"]["code"]["code"] for event in told] == ["111 222", "333444"]


@on_sqlite
@pytest.mark.parametrize("form", ["seconds", "milliseconds", "naive"])
async def test_an_expiry_in_another_form_ends_the_number_in_time(street: Street, form: str) -> None:
    expiry = street.clock.now() + timedelta(seconds=LIFE_S)
    written: dict[str, object] = {
        "seconds": int(expiry.timestamp()),
        "milliseconds": int(expiry.timestamp() * 1000),
        "naive": f"{expiry:%Y-%m-%d %H:%M:%S}",
    }
    order = await rent(street)
    street.break_with(says("sms_code", status="waiting"), says("sms_status", status="active", expires_at=written[form]))
    done = await street.until(order.number)
    age_s = ((done.finished_at or done.created_at) - order.created_at).total_seconds()
    assert LIFE_S <= age_s <= LIFE_S + 120


@on_sqlite
@pytest.mark.parametrize("years", [-3, 3])
async def test_an_expiry_in_another_age_is_not_kept(street: Street, years: int) -> None:
    expiry = rfc3339(street.clock.now() + timedelta(days=years * 365))
    order = await rent(street)
    street.break_with(says("sms_code", status="waiting"), says("sms_status", status="active", expires_at=expiry))
    await street.advance(60)
    assert (await the_number(street, order)).expires_at is None
    assert (await street.until(order.number)).state is OrderState.CANCELED


@on_sqlite
async def test_words_of_numbers_that_no_table_knows_are_counted_and_listed_without_their_digits(
    street: Street,
) -> None:
    order = await rent(street)
    street.break_with(says("sms_code", status="STATUS_OK:565656"), says("sms_status", status="on hold"))
    await street.advance(60)
    listed = await street.database.read(lambda c: unknown_words.of_provider(c, "hstock"))
    assert {(row["word"], row["order_number"]) for row in listed} == {
        ("STATUS_OK:#", order.number), ("on hold", order.number)
    }  # fmt: skip
    assert REGISTRY.get_sample_value("aggregator_unknown_words_total", {"provider": "hstock", "word": "STATUS_OK:#"})


@on_sqlite
async def test_a_word_about_the_stock_beside_rented_numbers_only_says_why_there_are_fewer(street: Street) -> None:
    one = {"order": 77, "phone": "+12025550100", "country": "us", "status": "active"}
    street.break_with(
        says("add_sms", orders=[one], message="Only 1 number available"),
        says("sms_code", status="completed", code="1234"),
        says("sms_status", status="code_received", code="1234"),
    )
    order = await rent(street, count=2)
    done = await street.until(order.number)
    assert (done.state, done.remains) == (OrderState.PARTIAL, 1)
    street.audited = False


# --- crashes and claims


async def test_restarts_at_every_step_tell_each_code_once(street: Street) -> None:
    order = await rent(street, "two", 2)
    for _ in range(14):
        await street.next()
        await street.restart(synced=False)
    told = await street.events(order.number)
    assert (told.count("sms.code"), told.count("order.completed"), told.count("sms.number")) == (4, 1, 2)
    assert len(street.purchases()) == 1


async def test_a_code_that_could_not_be_stored_is_fetched_again(street: Street) -> None:
    order = await rent(street)
    await street.advance(9)
    for _ in range(3):
        street.clock.advance(15)
        await street.sms_watch.run_once()
        street.database.refuse = 1
        await street.sms_watch.idle()
    street.database.refuse = 0
    await street.advance(300)
    assert (await street.events(order.number)).count("sms.code") == 1


async def test_an_overtaken_check_writes_nothing(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await rent(street)
    street.clock.advance(20)
    record = SmsWatch._record

    def late(stage: SmsWatch, connection: Connection, *args: Any) -> int:
        """By the time the answer is here, the claim has run out and another run has it."""
        connection.execute(update(numbers_table).values(claim_token="another"))
        return record(stage, connection, *args)

    before = await the_number(street, order)
    with monkeypatch.context() as broken:
        broken.setattr(SmsWatch, "_record", late)
        await street.sms_watch.run_once()
        await street.sms_watch.idle()
    assert await the_number(street, order) == before
    assert "sms.code" not in await street.events(order.number)


async def test_the_numbers_of_one_order_are_checked_at_once_without_losing_each_others_news(street: Street) -> None:
    order = await rent(street, count=10)
    await street.leap(20)
    for _ in range(5):
        await street.next()
    done = await street.order(order.number)
    assert (done.state, done.remains) == (OrderState.COMPLETED, 0)
    assert (await street.events(order.number)).count("sms.code") == 10
    assert done.charge == Money.parse("5.00", "USD")


@on_sqlite
async def test_a_price_that_changes_later_is_booked_by_its_difference(street: Street) -> None:
    order = await rent(street)
    await street.until(order.number, OrderState.COMPLETED)
    number = street.rented(await the_number(street, order))
    number.charge = replace(number).charge * 2
    await street.advance(120)
    assert (await street.order(order.number)).charge == Money.parse("1.00", "USD")
    assert await street.booked(order) == [("charge", -50_000_000), ("charge", -50_000_000)]
