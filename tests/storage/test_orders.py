"""Orders in the database: nothing of them is lost, no change overwrites another, and each stage finds what is due."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import IntegrityError

from aggregator.domain.errors import ClaimLost, Problem
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId, new_id
from aggregator.domain.money import MAX_UNITS, Money
from aggregator.domain.orders import Order, OrderState, Reported, Role, apply
from aggregator.storage import orders, outbox, tables
from aggregator.storage import polls as poll_store
from aggregator.storage.database import Database
from aggregator.storage.orders import Filters
from aggregator.storage.tables import orders as table
from tests.support import rows
from tests.support.examples import NOW, an_order, later


async def loaded(database: Database, number: int) -> Order:
    order = await database.read(lambda c: orders.load(c, number))
    assert order is not None
    return order


async def test_an_order_comes_back_as_it_was_given(database: Database) -> None:
    given = an_order(
        id=OrderId(f"ord_{'1' * 32}"),
        owner="shop 🦊",
        service="gmail-usa",
        kind="product",
        quantity=10**15,
        created_at=later(0.000001),
        updated_at=later(0.000001),
        link="https://example.com/ünïcode?q=%00&a='\"--",
        params={"comments": "nice\nзд\u2028рово", "nul": "a\0b", "lone": "\ud83d"},
        reference="x" * 255,
        metadata={"z": 1, "a": {"deep": [None, True, 1.5]}, "n": 2**70},
        max_cost=Money(MAX_UNITS, "USD"),
        pinned_provider="smmplus",
        callback_url="https://example.com/hook",
    )

    stored = await database.write(lambda c: orders.add(c, given, [Draft("order.accepted")], give_up_at=later(60)))

    back = await loaded(database, stored.number)
    assert back == stored
    assert list(back.params) == list(given.params)
    assert list(back.metadata) == list(given.metadata)
    assert (back.number, back.sequence, back.version) == (1, 1, 1)


async def test_every_field_that_a_fact_changes_is_saved(database: Database) -> None:
    bought = await database.write(lambda c: rows.buy(c, rows.accept(c)))
    saved = await database.write(
        lambda c: rows.report(
            c,
            bought,
            state=OrderState.PARTIAL,
            charge=Money(MAX_UNITS, "EUR"),
            start_count=2**63 - 1,
            remains=0,
            at=later(60.000001),
        )
    )
    assert await loaded(database, bought.number) == saved
    assert (saved.sequence, saved.version, saved.finished_at) == (3, 4, later(60.000001))


async def test_a_purchase_that_was_refused_leaves_no_trace_on_the_order(database: Database) -> None:
    accepted = await database.write(rows.accept)
    freed = await database.write(lambda c: rows.refuse(c, accepted))
    assert await loaded(database, accepted.number) == freed
    assert (freed.state, freed.attempt, freed.provider, freed.expected_cost) == (OrderState.ACCEPTED, None, None, None)


async def test_an_order_and_its_event_are_one_commit(database: Database) -> None:
    def fails(connection: Connection) -> None:
        rows.accept(connection)
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(fails)
    for name in ("orders", "events"):
        count = await database.read(lambda c, t=name: c.execute(text(f"SELECT count(*) FROM {t}")).scalar())  # type: ignore[misc]
        assert count == 0


async def test_an_order_found_by_id_or_number_only_by_its_owner(database: Database) -> None:
    mine = await database.write(lambda c: rows.accept(c, owner="shop"))

    async def find(reference: str, owner: str | None) -> Order | None:
        return await database.read(lambda c: orders.find(c, reference, owner))

    for reference in (mine.id, str(mine.number), "0001"):
        assert await find(reference, "shop") == mine
        assert await find(reference, None) == mine
        assert await find(reference, "other") is None
    for reference in ("", "ord_", mine.id.upper(), "-1", "1.0", "١", "9" * 18, "9" * 19, "9" * 500, "x" * 500):
        assert await find(reference, None) is None


async def test_two_orders_cannot_have_one_id(database: Database) -> None:
    await database.write(lambda c: rows.accept(c, id=OrderId(f"ord_{'2' * 32}")))
    with pytest.raises(IntegrityError):
        await database.write(lambda c: rows.accept(c, id=OrderId(f"ord_{'2' * 32}")))


# --- who comes second does not overwrite


async def test_a_change_made_on_old_knowledge_is_refused(database: Database) -> None:
    bought = await database.write(lambda c: rows.buy(c, rows.accept(c)))
    await database.write(lambda c: rows.report(c, bought, start_count=5))

    with pytest.raises(ClaimLost, match=f"order {bought.number}"):
        await database.write(lambda c: rows.report(c, bought, state=OrderState.FAILED))

    now = await loaded(database, bought.number)
    assert (now.state, now.start_count, now.sequence) == (OrderState.PENDING, 5, 3)
    events = await database.read(lambda c: outbox.of_order(c, bought.number))
    assert [event["sequence"] for event in events] == [1, 2, 3]


async def test_changes_at_the_same_time_leave_no_gap_and_lose_nothing(database: Database) -> None:
    """Twelve writers report to three orders at once; who is overtaken looks again, as a stage does."""

    def three(connection: Connection) -> list[Order]:
        return [rows.buy(connection, rows.accept(connection)) for _ in range(3)]

    bought = await database.write(three)
    overtaken = 0

    async def writer(order: Order, remains: list[int]) -> None:
        nonlocal overtaken
        for value in remains:
            while True:
                seen = await loaded(database, order.number)
                try:
                    await database.write(lambda c, s=seen, v=value: rows.report(c, s, remains=v, at=later(v)))  # type: ignore[misc]
                except ClaimLost:
                    overtaken += 1
                    continue
                break

    values = [number * 100 for number in range(11)]
    await asyncio.gather(*(writer(order, random.sample(values, 6)) for order in bought for _ in range(4)))

    assert overtaken > 0
    for order in bought:
        now = await loaded(database, order.number)
        events = await database.read(lambda c, n=order.number: outbox.of_order(c, n))  # type: ignore[misc]
        assert [event["sequence"] for event in events] == list(range(1, now.sequence + 1))
        assert now.version == order.version + 24
        told = [json.loads(event["body"])["data"]["order"]["remains"] for event in events]
        assert told[-1] == now.remains or apply(order, Reported(remains=now.remains), NOW).events == ()


async def test_writers_that_lock_the_order_first_are_never_overtaken(database: Database) -> None:
    bought = await database.write(lambda c: rows.buy(c, rows.accept(c)))

    def report(connection: Connection, remains: int) -> None:
        order = orders.load_for_update(connection, bought.number)
        rows.report(connection, order, remains=remains)

    await asyncio.gather(*(database.write(lambda c, v=value: report(c, v)) for value in range(0, 1000, 50)))  # type: ignore[misc]
    assert (await loaded(database, bought.number)).version == bought.version + 20


async def test_an_order_that_is_not_there_cannot_be_locked(database: Database) -> None:
    with pytest.raises(Problem, match="no such order"):
        await database.write(lambda c: orders.load_for_update(c, 404))


async def test_a_wrong_state_is_refused_by_the_database_itself(database: Database) -> None:
    await database.write(lambda c: rows.buy(c, rows.accept(c)))
    for wrong in (
        {"state": "lost"},
        {"state": "accepted"},
        {"state": "completed"},
        {"finished_at": NOW},
        {"attempt": None},
        {"provider_order": None},
        {"charge_units": 5},
        {"quantity": 0},
        {"sequence": 0},
        {"kind": "other"},
    ):
        with pytest.raises(IntegrityError):
            await database.write(lambda c, v=wrong: c.execute(update(table).values(v)))  # type: ignore[misc]


# --- pages


async def many(database: Database) -> None:
    def work(connection: Connection) -> None:
        for number in range(1, 13):
            order = rows.accept(
                connection,
                owner="shop" if number % 2 else "other",
                service="likes" if number % 3 == 0 else "followers",
                reference=f"r{number % 4}",
                created_at=later(number),
            )
            if number % 4 == 0:
                rows.buy(connection, order, provider="hstock")

    await database.write(work)


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        (Filters(), [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (Filters(owner="shop"), [11, 9, 7, 5, 3, 1]),
        (Filters(state=OrderState.PENDING), [12, 8, 4]),
        (Filters(service="likes"), [12, 9, 6, 3]),
        (Filters(provider="hstock"), [12, 8, 4]),
        (Filters(reference="r1"), [9, 5, 1]),
        (Filters(since=later(10)), [12, 11, 10]),
        (Filters(since=later(10.000001)), [12, 11]),
        (Filters(owner="other", service="likes", since=later(7)), [12]),
        (Filters(owner="nobody"), []),
        (Filters(reference="r1' OR '1'='1"), []),
    ],
    ids=repr,
)
async def test_a_list_holds_what_was_asked_for_newest_first(
    sqlite_database: Database, filters: Filters, numbers: list[int]
) -> None:
    await many(sqlite_database)
    await _check_pages(sqlite_database, filters, numbers)


async def test_lists_are_the_same_on_postgresql(postgres_database: Database) -> None:
    await many(postgres_database)
    await _check_pages(postgres_database, Filters(owner="other", service="likes", since=later(5)), [12, 6])
    await _check_pages(postgres_database, Filters(state=OrderState.PENDING, reference="r0"), [12, 8, 4])


async def _check_pages(database: Database, filters: Filters, numbers: list[int]) -> None:
    """Whole, and in pages of every size by the cursor."""
    for limit in (1, 2, 5, 500):
        found: list[int] = []
        before: int | None = None
        while page := await database.read(
            lambda c, b=before, n=limit: orders.page(c, filters, before=b, limit=n)  # type: ignore[misc]
        ):
            assert len(page) <= limit
            found += [order.number for order in page]
            before = found[-1]
        assert found == numbers


async def test_an_order_that_comes_between_two_pages_moves_nothing(database: Database) -> None:
    await many(database)
    first = await database.read(lambda c: orders.page(c, Filters(), before=None, limit=5))
    await database.write(rows.accept)
    second = await database.read(lambda c: orders.page(c, Filters(), before=first[-1].number, limit=5))
    assert [order.number for order in [*first, *second]] == list(range(12, 2, -1))


# --- what is due


async def test_orders_are_routed_when_they_are_due_the_longest_waiting_first(database: Database) -> None:
    def work(connection: Connection) -> None:
        for created in (30, 10, 20, 40):
            rows.accept(connection, created_at=later(created))
        rows.place(connection, rows.accept(connection, created_at=later(0)))

    await database.write(work)
    claimed = await database.write(lambda c: orders.claim_unrouted(c, later(30), limit=10, lease_s=60, token="mine"))
    assert [entry.order.number for entry in claimed] == [2, 3, 1]
    assert claimed[0].give_up_at == later(10) + timedelta(days=1)


async def test_only_an_order_that_still_waits_is_given_back_to_routing(database: Database) -> None:
    await database.write(rows.accept)
    (entry,) = await database.write(lambda c: orders.claim_unrouted(c, NOW, limit=1, lease_s=60, token="mine"))
    with pytest.raises(ClaimLost):
        await database.write(lambda c: orders.release_unrouted(c, 1, "yours", next_route_at=later(5)))
    await database.write(lambda c: rows.end(c, entry.order, OrderState.CANCELED))
    with pytest.raises(ClaimLost):
        await database.write(lambda c: orders.release_unrouted(c, 1, "mine", next_route_at=later(5)))


async def followed(database: Database, due_in: list[float], *, provider: str = "smmplus") -> list[int]:
    def work(connection: Connection) -> list[int]:
        numbers: list[int] = []
        for seconds in due_in:
            order = rows.buy(connection, rows.accept(connection), provider=provider)
            connection.execute(update(table).where(table.c.number == order.number).values(next_poll_at=later(seconds)))
            numbers.append(order.number)
        return numbers

    return await database.write(work)


async def polls(database: Database, *, limit: int = 100, now: float = 0, provider: str = "smmplus") -> list[int]:
    claimed = await database.write(
        lambda c: poll_store.claim(c, provider, later(now), limit=limit, lease_s=60, token="mine")
    )
    return [one.number for one in claimed]


async def test_a_status_call_is_filled_with_what_is_due_next(database: Database) -> None:
    numbers = await followed(database, [30, 0, 90, -5, 60])
    elsewhere = await followed(database, [-10], provider="hstock")
    by_due = [numbers[place] for place in (3, 1, 0, 4, 2)]

    assert await polls(database, limit=3) == by_due[:3]
    assert await polls(database, limit=3) == [], "what is left is not due: no call for it alone"
    assert await polls(database, provider="hstock") == elsewhere


async def test_no_status_call_when_nothing_is_due(database: Database) -> None:
    await followed(database, [1, 2, 3])
    assert await polls(database, now=0.999999) == []
    assert len(await polls(database, now=1)) == 3


async def test_a_status_call_holds_no_more_than_it_may(database: Database) -> None:
    numbers = await followed(database, [-1.0] * 13)
    first, second, third = [await polls(database, limit=10) for _ in range(3)]
    assert (len(first), len(second), third) == (10, 3, [])
    assert sorted(first + second) == numbers


async def test_a_providers_order_that_another_order_has_is_known(database: Database) -> None:
    first = await database.write(lambda c: rows.buy(c, rows.accept(c), provider_order="77"))
    second = await database.write(rows.accept)
    for provider, theirs, number, known in (
        ("smmplus", "77", second.number, True),
        ("smmplus", "77", first.number, False),
        ("hstock", "77", second.number, False),
        ("smmplus", "7", second.number, False),
    ):
        found = await database.read(
            lambda c, p=provider, t=theirs, n=number: orders.known_elsewhere(c, p, t, n)  # type: ignore[misc]
        )
        assert found is known


async def test_open_orders_are_counted_and_ended_ones_are_not(database: Database) -> None:
    def work(connection: Connection) -> None:
        rows.accept(connection)
        rows.lose(connection, rows.accept(connection))
        for _ in range(2):
            rows.buy(connection, rows.accept(connection))
        rows.report(connection, rows.buy(connection, rows.accept(connection)), state=OrderState.COMPLETED)

    await database.write(work)
    assert await database.read(orders.counts) == {"accepted": 1, "unclear": 1, "pending": 2}


async def test_another_order_that_worked_on_the_link_meanwhile_is_seen(database: Database) -> None:
    def ended(connection: Connection, at: datetime, **fields: object) -> Order:
        bought = rows.buy(connection, rows.accept(connection, **fields), at=at)
        return rows.report(connection, bought, state=OrderState.COMPLETED, at=at)

    def work(connection: Connection) -> list[Order]:
        before, after = ended(connection, later(0)), ended(connection, later(100))
        alone = ended(connection, later(50), link="https://example.com/alone")
        never_bought = rows.accept(connection, link="https://example.com/alone")
        return [before, after, alone, never_bought, rows.accept(connection, link=None, kind="product")]

    found = await database.write(work)
    seen = [
        await database.read(lambda c, o=order: orders.other_on_link(c, o, later(40)))  # type: ignore[misc]
        for order in found
    ]
    assert seen == [True, False, False, True, False]


# --- many new ones at once


def _rows(connection: Connection, numbers: Sequence[int]) -> list[dict[str, Any]]:
    found = connection.execute(select(tables.orders).where(tables.orders.c.number.in_(numbers)))
    rows = [dict(row) for row in found.mappings()]
    return [{name: value for name, value in row.items() if name not in ("number", "id")} for row in rows]


def _events(connection: Connection, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    wanted = tables.events.c.order_number.in_(numbers)
    rows = connection.execute(select(tables.events).where(wanted).order_by(tables.events.c.seq)).mappings()
    found = []
    for row in rows:
        body = json.loads(row["body"])
        shown = body["data"]["order"]
        assert (shown.pop("number"), row["lane"]) == (row["order_number"], f"o{row['order_number']}")
        assert shown.pop("id").startswith("ord_")
        assert row["body"].isascii()
        found.append((row["sequence"], row["type"], row["created_at"], list(body), body, list(shown)))
    return found


NEW: tuple[dict[str, Any], ...] = (
    {},
    {"link": None, "kind": "sms", "quantity": 3, "params": {"country": "us"}},
    {"link": "https://example.com/käse\U0001f98a", "metadata": {"a": [1, None, {"b": 2.5}]}, "reference": 'x"y'},
    {"max_cost": Money.parse("1.25", "EUR"), "pinned_provider": "smmplus", "callback_url": "https://example.com/h"},
    {"role": Role.PARENT, "params": {"runs": "3", "interval": "5"}},
)


async def test_many_new_orders_at_once_are_stored_as_they_would_be_one_by_one(database: Database) -> None:
    one_by_one = [an_order(id=OrderId(new_id("ord", NOW)), **fields) for fields in NEW]
    at_once = [(an_order(id=OrderId(new_id("ord", NOW)), **fields), later(60)) for fields in NEW]
    draft = [Draft("order.accepted")]
    first = await database.write(lambda c: [orders.add(c, one, draft, give_up_at=later(60)) for one in one_by_one])
    second = await database.write(lambda c: orders.add_all(c, at_once))
    for alone, together in zip(first, second, strict=True):
        assert replace(together, id=alone.id, number=alone.number) == alone
        assert await database.read(lambda c, n=together.number: orders.load(c, n)) == together  # type: ignore[misc]
    told = [[one.number for one in stored] for stored in (first, second)]
    assert await database.read(lambda c: _rows(c, told[0])) == await database.read(lambda c: _rows(c, told[1]))
    assert await database.read(lambda c: _events(c, told[0])) == await database.read(lambda c: _events(c, told[1]))


async def test_numbers_are_given_once_however_orders_come(database: Database) -> None:
    def many(count: int) -> Callable[[Connection], list[Order]]:
        return lambda c: orders.add_all(
            c, [(an_order(id=OrderId(new_id("ord", NOW))), later(60)) for _ in range(count)]
        )

    given: list[int] = []
    for count in (1, 150, 2, 64):
        given += [order.number for order in await database.write(many(count))]
        given.append((await database.write(rows.accept)).number)

    def taken_back(connection: Connection) -> None:
        many(3)(connection)
        raise KeyError("not kept")

    with pytest.raises(KeyError):
        await database.write(taken_back)
    given += [order.number for order in await database.write(many(2))]
    assert len(set(given)) == len(given) == 1 + 150 + 2 + 64 + 4 + 2
    assert given == sorted(given)
