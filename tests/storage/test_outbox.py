"""Events and deliveries: positions without gap whoever commits first, and lanes that keep their order."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import Connection, select, text, update

from aggregator.domain.documents import Related
from aggregator.domain.events import Draft
from aggregator.domain.orders import Order, OrderState
from aggregator.storage import deliveries as store
from aggregator.storage import outbox
from aggregator.storage.database import Database, PostgresDatabase
from aggregator.storage.deliveries import Delivery, Tried
from aggregator.storage.tables import deliveries, events
from tests.support import rows
from tests.support.examples import NOW, later

HOLD_S, LEASE_S = 3600.0, 60.0


def positions(connection: Connection) -> list[tuple[int, int | None]]:
    """(event, its position) of all events."""
    found = connection.execute(select(events.c.seq, events.c.position).order_by(events.c.seq))
    return [(row[0], row[1]) for row in found]


# --- positions and the feed


async def test_positions_are_given_once_in_order_without_gap(database: Database) -> None:
    def three(connection: Connection) -> None:
        for _ in range(3):
            rows.accept(connection)

    for round_ in (1, 2):
        await database.write(three)
        assert await database.write(rows.sequence) == 3
        assert await database.write(rows.sequence) == 0
        given = [position for _, position in await database.read(positions)]
        assert given == list(range(1, 3 * round_ + 1))


async def test_the_sequencer_takes_no_more_than_it_is_told(database: Database) -> None:
    await database.write(lambda c: [rows.accept(c) for _ in range(5)])
    taken = [await database.write(lambda c: outbox.sequence(c, NOW, lambda _: (), limit=2)) for _ in range(4)]
    assert taken == [2, 2, 1, 0]


async def test_an_event_that_was_rolled_back_leaves_no_hole(database: Database) -> None:
    def fails(connection: Connection) -> None:
        rows.accept(connection)
        raise KeyError

    await database.write(rows.accept)
    with pytest.raises(KeyError):
        await database.write(fails)
    await database.write(rows.accept)
    await database.write(rows.sequence)
    assert [position for _, position in await database.read(positions)] == [1, 2]


async def test_who_commits_late_comes_after_what_was_read_already(postgres_database: PostgresDatabase) -> None:
    """Serial keys are given at the insert: the event with the lower key may be committed last."""
    inserted, commit = asyncio.Event(), asyncio.Event()

    def slow(connection: Connection) -> None:
        rows.accept(connection, reference="slow")
        inserted.set()
        rows.wait_inside(commit.wait())

    slow_write = asyncio.create_task(postgres_database.write(slow))
    await inserted.wait()
    await postgres_database.write(lambda c: rows.accept(c, reference="quick"))
    await postgres_database.write(rows.sequence)
    first = await postgres_database.read(lambda c: outbox.feed(c, after=0, limit=10))
    commit.set()
    await slow_write
    await postgres_database.write(rows.sequence)
    after_it = await postgres_database.read(lambda c: outbox.feed(c, after=first[-1][0], limit=10))

    assert [(told.position, _reference(told.body)) for told in first] == [(1, "quick")]
    assert [(told.position, _reference(told.body)) for told in after_it] == [(2, "slow")]
    assert await postgres_database.read(positions) == [(1, 2), (2, 1)]


def _reference(body: str) -> object:
    return json.loads(body)["data"]["order"]["reference"]


async def test_a_reader_misses_nothing_while_many_write_and_two_sequencers_run(database: Database) -> None:
    writing = True

    async def writer() -> None:
        for _ in range(15):
            order = await database.write(rows.accept)
            await database.write(lambda c, o=order: rows.buy(c, o))  # type: ignore[misc]

    async def sequencer() -> None:
        while writing:
            await database.write(lambda c: outbox.sequence(c, NOW, lambda _: ("shop",), limit=7))
        await database.write(lambda c: rows.sequence(c, "shop"))

    async def reader() -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        more = True
        while writing or more:
            last = found[-1][0] if found else 0
            page = await database.read(lambda c, n=last: outbox.feed(c, after=n, limit=5))  # type: ignore[misc]
            found += [(told.position, told.id) for told in page]
            more = bool(page)
        return found

    async def all_writers() -> None:
        nonlocal writing
        try:
            await asyncio.gather(*(writer() for _ in range(6)))
        finally:
            writing = False

    reading = asyncio.create_task(reader())
    await asyncio.gather(all_writers(), sequencer(), sequencer())
    found = await reading
    last = found[-1][0] if found else 0
    rest = await database.read(lambda c: outbox.feed(c, after=last, limit=1000))
    seen = [*found, *((told.position, told.id) for told in rest)]

    stored = await database.read(lambda c: c.execute(select(events.c.position, events.c.id)).all())
    assert len(seen) == len(stored) == 6 * 15 * 2
    assert [position for position, _ in seen] == list(range(1, len(stored) + 1))
    assert set(seen) == {(row[0], row[1]) for row in stored}


async def test_an_owner_reads_only_events_of_their_orders(database: Database) -> None:
    def work(connection: Connection) -> None:
        rows.accept(connection, owner="shop")
        rows.accept(connection, owner="other")
        outbox.append_general(connection, Draft("provider.up", {"provider": "smmplus"}), NOW)
        rows.accept(connection, owner="shop")
        rows.sequence(connection)

    await database.write(work)
    mine = await database.read(lambda c: outbox.feed(c, after=0, limit=10, owner="shop"))
    everything = await database.read(lambda c: outbox.feed(c, after=0, limit=10))
    assert [told.position for told in mine] == [1, 4]
    assert [(told.position, told.owner) for told in everything] == [(1, "shop"), (2, "other"), (3, None), (4, "shop")]
    between = await database.read(lambda c: outbox.feed(c, after=1, until=3, limit=10))
    assert [told.position for told in between] == [2, 3]
    assert await database.read(lambda c: outbox.feed(c, after=0, limit=10, owner="nobody")) == []


async def test_an_event_tells_the_order_as_it_was_then_and_never_its_parameters(database: Database) -> None:
    order = await database.write(
        lambda c: rows.accept(c, params={"comments": "secret"}, metadata={"k": "\ud800 🦊 \0"})
    )
    bought = await database.write(lambda c: rows.buy(c, order))
    await database.write(lambda c: rows.report(c, bought, state=OrderState.COMPLETED, at=later(9)))

    told = [json.loads(row["body"]) for row in await database.read(lambda c: outbox.of_order(c, order.number))]

    assert [event["type"] for event in told] == ["order.accepted", "order.placed", "order.completed"]
    assert [event["data"]["sequence"] for event in told] == [1, 2, 3]
    assert [event["data"]["order"]["state"] for event in told] == ["accepted", "pending", "completed"]
    assert told[2]["timestamp"] == "2026-11-21T18:00:09.000Z"
    assert told[0]["data"]["order"]["metadata"] == {"k": "\ud800 🦊 \0"}
    assert all("params" not in event["data"]["order"] for event in told)


# --- deliveries


async def two_orders(database: Database) -> tuple[Order, Order]:
    """Two orders with three events each, due at one endpoint."""

    def work(connection: Connection) -> tuple[Order, Order]:
        first, second = rows.accept(connection), rows.accept(connection)
        first, second = rows.buy(connection, first), rows.buy(connection, second)
        first = rows.report(connection, first, state=OrderState.COMPLETED)
        second = rows.report(connection, second, state=OrderState.COMPLETED)
        rows.sequence(connection, "shop")
        return first, second

    return await database.write(work)


async def claim(
    database: Database, now_s: float = 0, *, limit: int = 100, endpoint: str = "shop", token: str = "mine"
) -> list[Delivery]:
    return await database.write(
        lambda c: store.claim_deliveries(c, endpoint, later(now_s), limit=limit, lease_s=LEASE_S, token=token)
    )


async def settle(database: Database, delivery: Delivery, now_s: float, *, well: bool, next_s: float = 0) -> bool:
    """The end of one try: delivered, or failed with the next try at `next_s` and the hold running from now. False: it
    was not ours to end any more."""
    at, state = later(now_s), "delivered" if well else "pending"
    next_at, hold = (None, None) if well else (later(next_s), delivery.hold_until or later(now_s + HOLD_S))

    def write(connection: Connection) -> bool:
        held = store.still_held(connection, [delivery])
        tried = Tried(delivery, state, at, 200 if well else 500, None, 5, next_at=next_at, hold_until=hold)
        store.record(connection, [tried] if held else [])
        return bool(held)

    return await database.write(write)


def told(claimed: list[Delivery]) -> list[tuple[int | None, str]]:
    return [(delivery.order_number, delivery.type) for delivery in claimed]


async def test_each_lane_gives_one_event_at_a_time_in_order(database: Database) -> None:
    await two_orders(database)
    heard: list[tuple[int | None, str]] = []
    for _ in range(3):
        claimed = await claim(database)
        assert sorted(delivery.order_number or 0 for delivery in claimed) == [1, 2]
        assert await claim(database, token="another") == []
        for delivery in claimed:
            await settle(database, delivery, 0, well=True)
        heard += told(claimed)
    assert await claim(database) == []
    for number in (1, 2):
        assert [type_ for order, type_ in heard if order == number] == [
            "order.accepted",
            "order.placed",
            "order.completed",
        ]


async def test_a_failing_event_holds_back_its_own_order_alone(database: Database) -> None:
    await two_orders(database)
    first, second = await claim(database)
    await settle(database, first, 0, well=False, next_s=300)
    await settle(database, second, 0, well=True)

    assert told(await claim(database, 1)) == [(second.order_number, "order.placed")]
    again = await claim(database, 300)
    assert (first.order_number, "order.accepted") in told(again)
    assert (first.order_number, "order.placed") not in told(again)


async def test_after_the_hold_a_failing_event_steps_aside_and_is_still_tried(database: Database) -> None:
    await two_orders(database)
    (first, *_) = await claim(database, limit=1)
    await settle(database, first, 0, well=False, next_s=HOLD_S + 500)

    before = [entry for entry in told(await claim(database, HOLD_S - 0.001)) if entry[0] == first.order_number]
    after = [entry for entry in told(await claim(database, HOLD_S)) if entry[0] == first.order_number]
    assert before == []
    assert after == [(first.order_number, "order.placed")]
    retried = await claim(database, HOLD_S + 500 + LEASE_S)
    assert (first.order_number, "order.accepted") in told(retried)


async def test_a_dead_endpoint_delays_nobody_else(database: Database) -> None:
    def work(connection: Connection) -> None:
        rows.buy(connection, rows.accept(connection))
        rows.sequence(connection, "dead", "alive")

    await database.write(work)
    (stuck,) = await claim(database, endpoint="dead")
    await settle(database, stuck, 0, well=False, next_s=300)
    for type_ in ("order.accepted", "order.placed"):
        (delivery,) = await claim(database, 1, endpoint="alive")
        assert delivery.type == type_
        await settle(database, delivery, 1, well=True)
    assert await claim(database, 1, endpoint="dead") == []


async def test_a_code_does_not_wait_for_the_orders_other_events(database: Database) -> None:
    a_number = {"number": {"phone": "+15005550006", "provider_order": "88123"}}

    def work(connection: Connection) -> None:
        order = rows.accept(connection)
        outbox.append(
            connection,
            order,
            Related(),
            [
                Draft("order.progress"),
                Draft("sms.expired", a_number, lane="n7"),
                Draft("sms.expired", a_number, lane="n8"),
            ],
            NOW,
        )
        connection.execute(text("UPDATE orders SET sequence = 4"))
        rows.sequence(connection, "shop")

    await database.write(work)
    claimed = await claim(database)
    assert sorted(delivery.type for delivery in claimed) == ["order.accepted", "sms.expired", "sms.expired"]
    assert len({delivery.lane for delivery in claimed}) == 3


async def test_claimers_at_the_same_time_never_send_one_event_twice(database: Database) -> None:
    def work(connection: Connection) -> None:
        for _ in range(40):
            rows.accept(connection)
        rows.sequence(connection, "shop")

    await database.write(work)
    shares = await asyncio.gather(*(claim(database, limit=9, token=f"token {n}") for n in range(6)))
    ids = [delivery.id for share in shares for delivery in share]
    assert len(ids) == len(set(ids))
    assert len(ids) + len(await claim(database, token="the next")) == 40


async def test_who_was_overtaken_records_nothing(database: Database) -> None:
    await two_orders(database)
    (slow, _) = await claim(database)
    await claim(database, LEASE_S, token="quick")
    assert not await settle(database, slow, LEASE_S, well=True)
    state = select(deliveries.c.state).where(deliveries.c.id == slow.id)
    assert await database.read(lambda c: c.execute(state).scalar()) == "pending"


async def test_the_bytes_of_a_retry_are_those_of_the_first_try(database: Database) -> None:
    order, _ = await two_orders(database)
    (first, *_) = await claim(database, limit=1)
    await settle(database, first, 0, well=False, next_s=5)
    await database.write(lambda c: rows.report(c, order, remains=5, at=later(3)))
    (again,) = [delivery for delivery in await claim(database, 5) if delivery.id == first.id]
    assert (again.event_id, again.body, again.tries) == (first.event_id, first.body, 1)


async def test_one_success_makes_all_that_waits_at_that_endpoint_due(database: Database) -> None:
    def work(connection: Connection) -> None:
        for _ in range(3):
            rows.accept(connection)
        rows.sequence(connection, "shop", "other")
        connection.execute(update(deliveries).values(next_at=later(86400), tries=5, hold_until=later(3600)))

    await database.write(work)
    assert await claim(database, 10) == []
    assert await database.write(lambda c: store.hasten(c, "shop", later(10))) == 3
    assert len(await claim(database, 10)) == 3
    assert await claim(database, 10, endpoint="other") == []
