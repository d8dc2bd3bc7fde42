"""Following bought orders by full batches of calls: what changes an order, what does not, and how often is asked."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import update

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.batches import MAX_CALLS
from aggregator.flow.polling import Polling
from aggregator.providers import gateway as gateway_module
from aggregator.providers.contract import BatchForm
from aggregator.providers.gateway import BATCHES_AGAIN_S, Batch, Gateway
from aggregator.sandbox import panel_v2
from aggregator.sandbox.faults import FaultRule
from aggregator.sandbox.refusals import Reason, Refusal
from aggregator.storage import ledger, polls, unknown_words
from aggregator.storage.claims import new_token
from aggregator.storage.database import Connection, Database
from aggregator.storage.tables import orders as orders_table
from tests.support.flow import Street, a_street, on_sqlite, product, smm

SERVICES = {
    "one": smm("smmplus/1"),
    "slow": smm("smmplus/24", refill={"auto": False}),
    "stuck": smm("smmplus/23"),
    "cheap": smm("smmcheap/1"),
    "views": smm("hstock/10"),
    "gmail": product("hstock/2"),
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "RATE_LIMIT_PAUSE_S", 0.01)


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


def flat(**values: object) -> str:
    usual = {"charge": "0.5", "start_count": "10", "status": "Completed", "remains": "0", "currency": "USD"}
    return json.dumps(usual | values)


def says(body: str, *, count: int | None = None, account: str = "smmplus") -> FaultRule:
    """The provider's answer to the next status calls, word for word."""
    return FaultRule("wrong_json_before", account=account, action="status", body=body, count=count)


# --- how often


@on_sqlite
async def test_250_open_orders_cost_three_calls_a_round(street: Street) -> None:
    orders = await street.given("slow", 250)
    await street.advance(15)
    assert sorted(street.ids_asked("smmplus")) == [50, 100, 100]
    street.world.calls.reset()
    await street.advance(15)
    assert street.calls("smmplus", "status") <= math.ceil(len(orders) / 100)


@on_sqlite
async def test_no_batch_is_larger_than_the_provider_takes(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with a_street(database, clock, tmp_path, SERVICES, smmplus={"batch_size": 7}) as street:
        await street.given("slow", 15)
        await street.advance(15)
        assert sorted(street.ids_asked("smmplus")) == [1, 7, 7]


@on_sqlite
async def test_a_call_for_a_few_is_filled_with_those_due_next(street: Street) -> None:
    first = await street.bought("slow", link="https://example.com/first")
    street.clock.advance(8)
    second = await street.bought("slow", link="https://example.com/second")
    street.world.calls.reset()
    await street.advance(7)
    assert street.ids_asked("smmplus") == [2]
    await street.advance(8)
    assert street.calls("smmplus", "status") == 1
    for order in (first, second):
        assert await street.column(orders_table, order.number, "polls") == 1


@on_sqlite
async def test_a_dialect_without_batches_is_asked_one_by_one(street: Street) -> None:
    for place in range(3):
        await street.bought("views", link=f"https://example.com/{place}")
    await street.advance(15)
    assert street.ids_asked("hstock") == [1, 1, 1]


@on_sqlite
async def test_the_longer_nothing_changes_the_less_often_is_asked(street: Street) -> None:
    order = await street.bought("stuck")
    asked = [street.clock.now()]
    for _ in range(40):
        await street.next()
        asked.append(street.clock.now())
    assert street.calls("smmplus", "status") == 40
    waits = [(after - before).total_seconds() for before, after in pairwise(asked)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (15, 3600)
    assert (await street.order(order.number)).state is OrderState.PENDING


# --- what changes nothing


@on_sqlite
@pytest.mark.parametrize("word", ["Awaiting moderation", "Completed?", "???", "0", "выполнено"])
async def test_an_unknown_word_leaves_the_state_and_is_not_final(street: Street, word: str) -> None:
    order = await street.bought("one")
    street.upstream(order).forced_status = word
    await street.advance(60)
    after = await street.order(order.number)
    assert (after.state, after.finished_at) == (OrderState.PENDING, None)
    street.upstream(order).forced_status = "Completed"
    await street.advance(60)
    assert (await street.order(order.number)).state is OrderState.COMPLETED


@on_sqlite
async def test_a_missing_id_changes_that_order_no_more_than_its_neighbours(street: Street) -> None:
    orders = [await street.bought("one", link=f"https://example.com/{place}") for place in range(3)]
    lost = orders[1]
    assert lost.provider_order is not None
    await street.advance(15)
    before = await street.order(lost.number)
    upstream = street.account("smmplus").orders.pop(lost.provider_order)
    await street.advance(60)
    assert (await street.order(orders[0].number)).state is OrderState.COMPLETED
    assert (await street.order(orders[2].number)).state is OrderState.COMPLETED
    assert await street.order(lost.number) == before
    street.account("smmplus").orders[lost.provider_order] = upstream
    await street.advance(60)
    assert (await street.order(lost.number)).state is OrderState.COMPLETED


@on_sqlite
async def test_an_order_not_visible_yet_right_after_it_was_bought_waits(street: Street) -> None:
    account = street.account("smmplus")
    account.settings = replace(account.settings, visible_after_s=50)
    order = await street.bought("one")
    await street.advance(45)
    assert await street.order(order.number) == order
    assert street.calls("smmplus", "status") >= 2
    await street.advance(60)
    assert (await street.order(order.number)).state is OrderState.COMPLETED


@on_sqlite
@pytest.mark.parametrize("missing", ["", None, "Unknown", "n/a"])
async def test_an_unknown_value_never_overwrites_a_known_one(street: Street, missing: str | None) -> None:
    order = await street.bought("slow")
    street.break_with(says(flat(status="In progress", start_count="3572", remains="157", charge="0.27819"), count=1))
    await street.advance(15)
    known = await street.order(order.number)
    assert (known.start_count, known.remains, known.charge) == (3572, 157, Money.parse("0.27819", "USD"))
    street.break_with(says(flat(status="In progress", start_count=missing, remains=missing, charge=missing)))
    await street.advance(60)
    after = await street.order(order.number)
    assert (after.start_count, after.remains, after.charge) == (3572, 157, Money.parse("0.27819", "USD"))
    assert after.version == known.version


@on_sqlite
async def test_the_same_report_again_tells_nobody(street: Street) -> None:
    order = await street.bought("slow")
    street.break_with(says(flat(status="In progress", remains="400")))
    await street.advance(15)
    told = await street.events(order.number)
    assert told == ["order.accepted", "order.placed", "order.progress"]
    await street.advance(90)
    assert await street.events(order.number) == told


@on_sqlite
async def test_progress_is_told_by_tenths(street: Street) -> None:
    order = await street.bought("slow", 1000)
    for remains in (1000, 999, 905, 901, 899, 850, 500, 499, 100, 99, 3):
        street.break_with(says(flat(status="In progress", remains=str(remains))))
        await street.next()
    told = await street.told(order.number, "order.progress")
    assert [event["data"]["order"]["remains"] for event in told] == [1000, 899, 500, 100]


@on_sqlite
async def test_a_final_order_does_not_go_back_to_work(street: Street) -> None:
    order = await street.bought("one")
    await street.until(order.number, OrderState.COMPLETED)
    done = await street.order(order.number)
    street.upstream(order).forced_status = "In progress"
    await street.advance(3 * 86_400)
    after = await street.order(order.number)
    assert (after.state, after.finished_at) == (OrderState.COMPLETED, done.finished_at)
    assert (await street.events(order.number)).count("order.completed") == 1


async def test_a_provider_corrects_an_end_and_that_is_told(street: Street) -> None:
    order = await street.bought("one")
    await street.until(order.number, OrderState.COMPLETED)
    street.upstream(order).forced_status = "Partial"
    street.upstream(order).forced_remains = 400
    await street.advance(90_000)
    after = await street.order(order.number)
    assert (after.state, after.remains) == (OrderState.PARTIAL, 400)
    assert (await street.events(order.number))[-2:] == ["order.completed", "order.partial"]
    assert after.charge == Money.parse("0.54", "USD")
    booked = await street.database.read(lambda c: ledger.charged(c, order.number, "USD"))
    assert booked == after.charge.units


@on_sqlite
@pytest.mark.parametrize(
    ("fate", "state", "event"),
    [
        ("Canceled", OrderState.CANCELED, "order.canceled"),
        ("Refunded", OrderState.CANCELED, "order.canceled"),
        ("Fail", OrderState.FAILED, "order.failed"),
        ("Partial", OrderState.PARTIAL, "order.partial"),
        ("cOMPLETED", OrderState.COMPLETED, "order.completed"),
    ],
)
async def test_the_providers_last_word_ends_the_order_once(
    street: Street, fate: str, state: OrderState, event: str
) -> None:
    order = await street.bought("slow")
    street.upstream(order).forced_status = fate
    await street.advance(30)
    ended = await street.order(order.number)
    assert (ended.state, ended.finished_at is not None) == (state, True)
    told = await street.events(order.number)
    assert told.count(event) == 1
    asked = street.calls("smmplus", "status")
    await street.advance(3000)
    assert street.calls("smmplus", "status") == asked


# --- calls that fail


BROKEN = ["http_500_before", "html", "wrong_json_before"]
FAILING = [*BROKEN, "close_before", "reset_before", "truncated_before", "redirect"]


@on_sqlite
@pytest.mark.parametrize("fault", [*FAILING, "error_text", "http_429"])
async def test_a_failing_provider_changes_nothing_and_is_not_hammered(street: Street, fault: str) -> None:
    orders = await street.given("one", 8)
    before = [await street.order(order.number) for order in orders]
    street.break_with(FaultRule(fault, account="smmplus", action="status"))
    await street.advance(15)
    assert street.calls("smmplus", "status") <= 2 * len(orders)
    await street.advance(45)
    assert [await street.order(order.number) for order in orders] == before
    street.break_with()
    await street.advance(60)
    assert {(await street.order(order.number)).state for order in orders} == {OrderState.COMPLETED}


@on_sqlite
@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_provider_is_found_out_by_a_few_calls(street: Street, fault: str) -> None:
    await street.given("one", 100)
    street.break_with(FaultRule(fault, account="smmplus", action="status"))
    await street.advance(15)
    assert street.calls("smmplus", "status") <= 10


async def test_a_poll_that_cannot_be_recorded_is_made_again(street: Street) -> None:
    order = await street.bought("slow")
    street.upstream(order).forced_status = "Completed"
    street.clock.advance(15)
    with street.refusing_after("statuses", 1):
        await street.polling.run_once()
        await street.polling.idle()
    assert street.database.refuse == 0
    assert (await street.order(order.number)).state is OrderState.PENDING
    await street.advance(120)
    assert (await street.events(order.number)).count("order.completed") == 1


async def test_one_report_that_cannot_be_stored_does_not_take_the_others_with_it(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [await street.bought("slow", link=f"https://example.com/{place}") for place in range(3)]
    for order in orders:
        street.upstream(order).forced_status = "Completed"
    book = ledger.book_charge

    def booked(connection: Any, provider: str, number: int, charge: Money, at: Any, **more: Any) -> None:
        if number == orders[1].number:
            raise ValueError("no column takes this")
        book(connection, provider, number, charge, at, **more)

    with monkeypatch.context() as broken:
        broken.setattr(ledger, "book_charge", booked)
        await street.advance(60)
        states = [(await street.order(order.number)).state for order in orders]
        assert states == [OrderState.COMPLETED, OrderState.PENDING, OrderState.COMPLETED]
    await street.advance(60)
    assert (await street.order(orders[1].number)).state is OrderState.COMPLETED


async def test_an_overtaken_poll_writes_nothing(street: Street) -> None:
    order = await street.bought("slow")
    street.upstream(order).forced_status = "Completed"
    street.clock.advance(15)
    other = Polling(street.house)
    take = Polling._record

    def late(*args: Any, **more: Any) -> Any:
        """By the time the answer is here, the claim has run out and another run has it."""
        claimed = args[3]
        connection = args[1]
        connection.execute(
            orders_table.update().where(orders_table.c.number == claimed[0][0].number).values(claim_token="another")
        )
        return take(*args, **more)

    other._record = late.__get__(other)  # type: ignore[method-assign]
    await other.run_once()
    await other.idle()
    assert await street.order(order.number) == order
    await other.stop(0)


# --- batches that are refused whole


def spoiled_by(bad: set[str]) -> Any:
    """A panel whose whole answer is an error as soon as one id is unknown."""
    answer = panel_v2.ACTIONS["status"]

    def status(world: Any, account: Any, call: Any) -> object:
        asked = call.params.get("orders", call.params.get("order", "")).split(",")
        if bad.intersection(asked):
            raise Refusal(Reason.ORDER)
        return answer(world, account, call)

    return status


@on_sqlite
@pytest.mark.parametrize("place", [0, 41, 99])
async def test_one_bad_id_that_spoils_the_batch_is_found_and_the_rest_is_followed(
    street: Street, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    orders = await street.given("one", 100)
    bad = orders[place]
    monkeypatch.setitem(panel_v2.ACTIONS, "status", spoiled_by({str(bad.provider_order)}))
    await street.leap(45)
    assert street.calls("smmplus", "status") <= MAX_CALLS + 1
    done = [(await street.order(order.number)).state is OrderState.COMPLETED for order in orders]
    assert done.count(True) == 99
    assert not done[place]
    assert street.house.gateways["smmplus"].batches


async def test_while_a_bad_id_is_looked_for_nobody_else_takes_the_batch(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search takes many calls; by one call's lease it would be overtaken, and what it learnt lost."""
    orders = await street.given("one", 100)
    monkeypatch.setitem(panel_v2.ACTIONS, "status", spoiled_by({str(orders[70].provider_order)}))
    statuses = Gateway.statuses
    free: list[int] = []

    async def slowly(gateway: Gateway, ids: Any, form: Any = None) -> Any:
        street.clock.advance(20)
        now = street.clock.now()
        free.append(await street.database.read(lambda c: polls.due(c, gateway.name, now, limit=500)))
        return await statuses(gateway, ids, form)

    street.clock.advance(45)
    with monkeypatch.context() as broken:
        broken.setattr(Gateway, "statuses", slowly)
        await street.polling.run_once()
        await street.polling.idle()
    assert len(free) > 10
    assert set(free) == {0}
    done = [(await street.order(order.number)).state is OrderState.COMPLETED for order in orders]
    assert done.count(True) == 99


@on_sqlite
async def test_a_provider_without_batches_is_found_out_once_and_asked_one_by_one(street: Street) -> None:
    account = street.account("smmplus")
    account.settings = replace(account.settings, batch="none")
    orders = await street.given("one", 9)
    await street.advance(15)
    found_out = street.calls("smmplus", "status")
    assert found_out <= MAX_CALLS + 1 + len(orders)
    assert not street.house.gateways["smmplus"].batches
    street.world.calls.reset()
    await street.advance(45)
    assert set(street.ids_asked("smmplus")) == {1}
    assert {(await street.order(order.number)).state for order in orders} == {OrderState.COMPLETED}


async def test_what_was_found_out_of_a_providers_batches_survives_a_restart(street: Street) -> None:
    account = street.account("smmplus")
    account.settings = replace(account.settings, batch="order")
    await street.given("slow", 120)
    await street.advance(15)
    assert street.house.gateways["smmplus"].batch == Batch(BatchForm.ORDER)
    await street.restart()
    street.world.calls.reset()
    await street.advance(60)
    assert street.house.gateways["smmplus"].batch == Batch(BatchForm.ORDER)
    asked = street.ids_asked("smmplus")
    assert len(asked) <= 4 * (60 / 15 + 1)
    # On PostgreSQL claims of the same moment may share the orders out in any way.
    if street.database.kind == "sqlite":
        assert set(asked) <= {20, 100}


@on_sqlite
async def test_the_config_says_how_batches_go(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    async with a_street(database, clock, tmp_path, SERVICES, smmplus={"status_batch": "single"}) as street:
        await street.given("slow", 3)
        await street.advance(15)
        assert street.ids_asked("smmplus") == [1, 1, 1]


async def test_a_bad_id_that_spoils_batches_goes_alone_from_then_on(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs a search once, and a call of its own now and then."""
    orders = await street.given("slow", 100)
    bad = orders[41]
    with monkeypatch.context() as broken:
        broken.setitem(panel_v2.ACTIONS, "status", spoiled_by({str(bad.provider_order)}))
        await street.leap(45)
        street.world.calls.reset()
        await street.advance(600)
        asked = street.ids_asked("smmplus")
        assert asked.count(1) <= 1
        assert max(asked) == 99
        await street.advance(3600)
    assert (await street.order(bad.number)).error_type == "not-found"
    await street.advance(2 * 3600)
    found = await street.order(bad.number)
    assert found.error_type is None
    assert await street.column(orders_table, bad.number, "alone_since") is None


# --- orders that stand still, words that nobody knows, ids that nobody knows


async def test_an_order_that_stands_still_is_told_once(street: Street) -> None:
    order = await street.bought("stuck")
    for _ in range(71):
        await street.leap(3600)
    assert "order.stuck" not in await street.events(order.number)
    await street.advance(2 * 3600)
    assert (await street.events(order.number)).count("order.stuck") == 1
    for _ in range(28):
        await street.leap(6 * 3600)
    assert (await street.events(order.number)).count("order.stuck") == 1
    assert await street.column(orders_table, order.number, "stuck_at") is not None
    street.upstream(order).forced_status = "In progress"
    await street.advance(3700)
    assert await street.column(orders_table, order.number, "stuck_at") is None


@on_sqlite
async def test_what_such_orders_usually_take_decides_when_one_stands_still(street: Street) -> None:
    for place in range(3):
        done = await street.bought("one", link=f"https://example.com/{place}")
        await street.until(done.number)
    order = await street.bought("one", link="https://example.com/late")
    street.upstream(order).forced_status = "Pending"
    await street.advance(5 * 3600)
    assert "order.stuck" not in await street.events(order.number)
    await street.advance(2 * 3600)
    assert (await street.events(order.number)).count("order.stuck") == 1


async def test_words_that_nobody_knows_are_kept_with_an_order_that_showed_them(street: Street) -> None:
    order = await street.bought("slow")
    for word in ("Marinating", "Marinating", "Soon(tm)"):
        street.upstream(order).forced_status = word
        await street.next()
    found = await street.database.read(lambda c: unknown_words.of_provider(c, "smmplus"))
    assert [(row["word"], row["seen"], row["order_number"]) for row in found] == [
        ("Soon(tm)", 1, order.number),
        ("Marinating", 2, order.number),
    ]


@on_sqlite
async def test_an_order_that_its_provider_forgot_says_so_later_and_no_more_when_it_is_back(street: Street) -> None:
    order = await street.bought("slow")
    assert order.provider_order is not None
    upstream = street.account("smmplus").orders.pop(order.provider_order)
    await street.advance(14 * 60)
    assert (await street.order(order.number)).error_type is None
    await street.advance(10 * 60)
    lost = await street.order(order.number)
    assert (lost.state, lost.error_type) == (OrderState.PENDING, "not-found")
    assert "smmplus does not know" in (lost.error_detail or "")
    street.account("smmplus").orders[order.provider_order] = upstream
    await street.advance(3600)
    assert (await street.order(order.number)).error_type is None


async def test_an_end_is_looked_at_again_less_and_less_often_and_then_no_more(street: Street) -> None:
    order = await street.bought("one")
    street.upstream(order).forced_status = "Canceled"
    await street.until(order.number)
    street.world.calls.reset()
    await street.advance(31 * 86_400)
    assert 5 <= street.calls("smmplus", "status") <= 12
    assert await street.column(orders_table, order.number, "next_poll_at") is None


@on_sqlite
async def test_an_end_that_the_provider_forgot_is_looked_at_less_and_less_often_too(street: Street) -> None:
    order = await street.bought("one")
    street.upstream(order).forced_status = "Canceled"
    await street.until(order.number)
    assert order.provider_order is not None
    street.account("smmplus").orders.pop(order.provider_order)
    street.world.calls.reset()
    await street.advance(31 * 86_400)
    assert street.calls("smmplus", "status") <= 12


async def claimed(street: Street, limit: int) -> list[int]:
    """Who would be asked for next."""

    def write(connection: Connection) -> list[int]:
        token = new_token()
        found = polls.claim(connection, "smmplus", street.clock.now(), limit=limit, lease_s=9, token=token)
        numbers = [one.number for one in found]
        polls.give_back(connection, numbers, token)
        return numbers

    return await street.database.write(write)


async def make(street: Street, orders: Sequence[Order], due_s: float, *, over: bool, alone: bool = False) -> set[int]:
    """Orders that are due since `due_s`."""
    now = street.clock.now()
    numbers: set[int] = {order.number for order in orders}
    end = {"state": "canceled", "finished_at": now} if over else {}
    values = {"next_poll_at": now - timedelta(seconds=due_s), "alone_since": now if alone else None, **end}
    await street.database.write(
        lambda c: c.execute(update(orders_table).where(orders_table.c.number.in_(numbers)).values(**values))
    )
    return numbers


@pytest.mark.corrupts_database
async def test_orders_that_are_over_and_go_alone_let_those_pass_that_go_on(street: Street) -> None:
    orders = await street.given("slow", 12)
    over = await make(street, orders[:6], 1800, over=True, alone=True)
    going_on = await make(street, orders[6:], 60, over=False)
    assert set(await claimed(street, 100)) == going_on
    await make(street, orders[:6], 4000, over=True, alone=True)
    assert set(await claimed(street, 100)) < over


@pytest.mark.corrupts_database
async def test_orders_that_are_over_wait_an_hour_and_then_get_their_part(street: Street) -> None:
    orders = await street.given("slow", 50)
    over = await make(street, orders[:15], 1800, over=True)
    going_on = await make(street, orders[15:], 60, over=False)
    assert set(await claimed(street, 20)) < going_on
    await make(street, orders[:15], 3700, over=True)
    batch = await claimed(street, 20)
    assert len(batch) == 20
    assert len(set(batch) & over) == 2
    assert set(await claimed(street, 1)) < over
    await make(street, orders[15:], 200, over=False)
    assert set(await claimed(street, 1)) < going_on


async def test_a_cancel_that_the_provider_takes_back_is_corrected(street: Street) -> None:
    order = await street.bought("slow")
    street.upstream(order).forced_status = "Canceled"
    await street.until(order.number)
    street.upstream(order).forced_status = "Completed"
    await street.advance(2 * 86_400)
    assert (await street.order(order.number)).state is OrderState.COMPLETED
    assert (await street.events(order.number))[-2:] == ["order.canceled", "order.completed"]


async def test_who_wants_an_order_asked_for_soon_is_heard_while_it_is_being_asked_for(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await street.bought("slow")
    status = Gateway.statuses
    wished = street.clock.now() + timedelta(seconds=16)

    async def meanwhile(gateway: Gateway, ids: Any, form: Any = None) -> Any:
        await street.database.write(lambda c: polls.soon(c, order.number, wished))
        return await status(gateway, ids, form)

    monkeypatch.setattr(Gateway, "statuses", meanwhile)
    street.clock.advance(15)
    await street.polling.run_once()
    await street.polling.idle()
    assert await street.column(orders_table, order.number, "next_poll_at") == wished


@on_sqlite
async def test_a_provider_that_learns_batches_is_asked_by_them_again(street: Street) -> None:
    account = street.account("smmplus")
    account.settings = replace(account.settings, batch="none")
    await street.given("stuck", 12)
    await street.advance(15)
    assert not street.house.gateways["smmplus"].batches
    account.settings = replace(account.settings, batch="orders")
    await street.advance(BATCHES_AGAIN_S)
    street.world.calls.reset()
    await street.advance(4000)
    assert max(street.ids_asked("smmplus")) == 12


@on_sqlite
async def test_a_flat_answer_to_a_batch_is_never_applied_to_all(street: Street) -> None:
    orders = await street.given("slow", 8)
    street.break_with(says(flat(status="Canceled"), count=1))
    await street.advance(15)
    assert street.calls("smmplus", "status") > 1
    assert {(await street.order(order.number)).state for order in orders} == {OrderState.PENDING}


@on_sqlite
async def test_an_answer_about_other_orders_changes_nothing(street: Street) -> None:
    mine, others = await street.bought("slow"), await street.bought("slow", link="https://example.com/b")
    body = json.dumps({"1": json.loads(flat()), str(others.provider_order): json.loads(flat(status="Partial"))})
    street.break_with(says(body))
    await street.advance(15)
    assert (await street.order(mine.number)).state is OrderState.PENDING
    assert (await street.order(others.number)).state is OrderState.PARTIAL


async def test_restarts_lose_no_poll_and_tell_nothing_twice(street: Street) -> None:
    orders = [await street.bought("one", link=f"https://example.com/{place}") for place in range(5)]
    for _ in range(5):
        street.clock.advance(15)
        await street.polling.run_once()
        await street.polling.stop(0)
        await street.restart()
        await street.settle()
    for order in orders:
        told = await street.events(order.number)
        assert told.count("order.completed") == 1
        assert told[-1] == "order.completed"


@on_sqlite
async def test_a_row_without_an_id_does_not_stop_the_others(street: Street) -> None:
    bad, good = await street.given("one", 2)
    now = street.clock.now()

    async def change(**values: Any) -> None:
        row = update(orders_table).where(orders_table.c.number == bad.number).values(**values)
        await street.database.write(lambda c: c.execute(row))

    await change(state="failed", finished_at=now, provider_order=None, next_poll_at=now)
    await street.advance(60)
    assert (await street.order(good.number)).state is OrderState.COMPLETED
    assert await street.column(orders_table, bad.number, "next_poll_at") is None
    await change(state="pending", finished_at=None, provider_order=bad.provider_order, next_poll_at=now)


@on_sqlite
@pytest.mark.parametrize("body", ["[]", "{}", '{"orders": []}', '{"7": {"status": "Completed"}}', '{"time": 1}'])
async def test_an_answer_that_names_no_order_is_no_batch_and_singles_are_tried(
    street: Street, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    answer = panel_v2.ACTIONS["status"]

    def status(world: Any, account: Any, call: Any) -> object:
        several = "orders" in call.params or "," in call.params.get("order", "")
        return json.loads(body) if several else answer(world, account, call)

    monkeypatch.setitem(panel_v2.ACTIONS, "status", status)
    orders = await street.given("one", 8)
    await street.advance(120)
    assert {(await street.order(order.number)).state for order in orders} == {OrderState.COMPLETED}
    assert street.house.gateways["smmplus"].batch.form is BatchForm.SINGLE


@on_sqlite
@pytest.mark.parametrize(
    "fault",
    [
        FaultRule("html", account="smmplus", action="status"),
        FaultRule("http_500_before", account="smmplus", action="status"),
        says(json.dumps({"error": "There was an error processing your request"})),
        says(json.dumps({"error": "Order not found"})),
    ],
    ids=["html", "500", "generic", "not found"],
)
async def test_a_provider_that_answers_nothing_is_not_searched_at_every_poll(street: Street, fault: FaultRule) -> None:
    await street.given("slow", 8)
    street.break_with(fault)
    await street.advance(15 * 60)
    asked = street.ids_asked("smmplus")
    assert len(asked) <= asked.count(8) + 40


@on_sqlite
async def test_a_failed_order_without_figures_ends_when_a_batch_says_so(street: Street) -> None:
    orders = await street.given("slow", 3)
    fail = {"charge": "", "start_count": "", "status": "Fail", "remains": "", "currency": "USD"}
    street.break_with(says(json.dumps({str(order.provider_order): fail for order in orders})))
    await street.advance(15)
    assert {(await street.order(order.number)).state for order in orders} == {OrderState.FAILED}
    assert await street.database.read(lambda c: unknown_words.of_provider(c, "smmplus")) == []
