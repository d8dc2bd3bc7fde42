"""What is held after a restore: all that may have been bought between the backup and the end of the old daemon."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem
from aggregator.domain.ids import new_id
from aggregator.domain.orders import Order, OrderState, Role
from aggregator.flow.base import House
from aggregator.flow.reconcile import Reconcile, resolve
from aggregator.flow.restoring import Held, hold
from aggregator.storage import books, children, holding
from aggregator.storage import orders as order_store
from aggregator.storage.database import Database
from aggregator.storage.tables import attempts, events, orders, providers, refills
from tests.support import rows
from tests.support.house import make_house

CONFIG = """\
providers:
  smmplus: {dialect: panel_v2, url: "http://127.0.0.1:1/api/v2", api_key: key-of-smmplus-0}
  other: {dialect: panel_v2, url: "http://127.0.0.1:1/api/v2", api_key: key-of-other-000}
services:
  ig-followers:
    kind: smm
    offers: [{provider: other, service: "7"}, {provider: smmplus, service: "1"}]
"""


@pytest.fixture
def house(sqlite_database: Database, clock: ManualClock, tmp_path: Path) -> House:
    return make_house(sqlite_database, clock, tmp_path, CONFIG)


async def held(house: House, *before: Callable[[Connection], Any]) -> tuple[Held, list[Order]]:
    """What `before` made, held; the orders that it answered, as they are now."""

    def write(connection: Connection) -> tuple[Held, list[Order]]:
        made = [work(connection) for work in before]
        found = hold(connection, house.settings, house.clock.now())
        return found, [order_store.load_for_update(connection, order.number) for order in made]

    return await house.database.write(write)


def waiting(connection: Connection) -> Order:
    return rows.accept(connection)


def planned(connection: Connection) -> Order:
    order = rows.accept(connection)
    rows.plan(connection, order)
    return order


def placing(connection: Connection) -> Order:
    return rows.place(connection, rows.accept(connection))


def unclear(connection: Connection) -> Order:
    return rows.lose(connection, rows.accept(connection))


def bought(connection: Connection) -> Order:
    return rows.buy(connection, rows.accept(connection))


def ended(connection: Connection) -> Order:
    return rows.report(connection, bought(connection), state=OrderState.COMPLETED)


def parent(connection: Connection) -> Order:
    made = rows.accept(connection, role=Role.PARENT, params={"runs": "3", "interval": "5"}, quantity=300)
    connection.execute(update(orders).where(orders.c.number == made.number).values(next_run_at=made.created_at))
    return made


async def test_what_was_not_placed_is_unclear_and_what_was_placed_goes_on(house: House) -> None:
    found, all_of_them = await held(house, waiting, planned, placing, unclear, bought, ended)
    assert found == Held(orders=4, parents=0, rests=0)
    *not_placed, goes_on, over = all_of_them
    for order in not_placed:
        assert (order.state, order.error_type) == (OrderState.UNCLEAR, "restored")
        assert "the database was restored from a backup" in (order.error_detail or "")
    assert [order.provider for order in not_placed] == ["other", "smmplus", "smmplus", "smmplus"]
    assert "(before: no answer in 30 s)" in (not_placed[3].error_detail or "")
    assert (goes_on.state, over.state) == (OrderState.PENDING, OrderState.COMPLETED)

    def told(connection: Connection) -> list[tuple[int, str]]:
        query = select(events.c.order_number, events.c.body).where(events.c.type == "order.unclear")
        return [(row.order_number, row.body) for row in connection.execute(query.order_by(events.c.seq))]

    said = await house.database.read(told)
    # The one that was unclear already was told so when it became so.
    assert sorted({number for number, _ in said}) == [order.number for order in not_placed]
    assert ['"cause":"restored"' in body for number, body in said if number != not_placed[3].number] == [True] * 3
    rows_ = await house.database.read(lambda c: c.execute(select(providers.c.name, providers.c.paused)).all())
    assert {row.name: row.paused for row in rows_} == {"smmplus": True, "other": True}


async def test_no_evidence_ends_what_is_held(house: House, clock: ManualClock) -> None:
    await held(house, waiting, placing, unclear)
    for provider in ("smmplus", "other"):
        assert await house.database.read(lambda c, provider=provider: books.unclear(c, provider)) == []  # type: ignore[misc]
    clock.advance(86_400)
    await Reconcile(house).run_once()
    states = await house.database.read(lambda c: set(c.execute(select(attempts.c.state)).scalars()))
    assert states == {"unclear"}


async def test_numbers_and_positions_that_may_have_been_given_are_left_out(house: House) -> None:
    await house.database.write(rows.sequence)
    _, (first,) = await held(house, bought)
    fresh = await house.database.write(rows.accept)
    assert fresh.number == first.number + holding.NUMBERS_SKIPPED + 1
    await house.database.write(rows.sequence)
    positions = await house.database.read(lambda c: list(c.execute(select(events.c.position)).scalars()))
    assert min(positions) > holding.POSITIONS_SKIPPED


async def test_a_second_restore_leaves_out_more(house: House) -> None:
    await held(house, bought)
    await house.database.write(rows.sequence)
    await held(house, bought)
    await house.database.write(rows.sequence)
    highest = await house.database.read(lambda c: c.execute(select(func.max(events.c.position))).scalar())
    assert highest is not None
    assert highest > 2 * holding.POSITIONS_SKIPPED


async def test_a_parent_makes_no_run_until_a_person_says_so(house: House, clock: ManualClock) -> None:
    found, (order,) = await held(house, parent)
    assert found == Held(orders=0, parents=1, rests=0)
    assert (order.state, order.error_type) == (OrderState.ACCEPTED, "restored")
    clock.advance(86_400)

    async def due() -> list[int]:
        return await house.database.read(lambda c: children.due_runs(c, clock.now(), limit=10))

    assert await due() == []
    with pytest.raises(Problem, match="its runs have ids"):
        await resolve(house, order.id, provider_order="23501", by="boss")
    await resolve(house, order.id, provider_order=None, by="boss")
    assert await due() == [order.number]
    # The rest of it is for the stage: here it must not stay due.
    await house.database.write(lambda c: c.execute(update(orders).values(next_run_at=None, next_sum_at=clock.now())))


async def test_rests_are_not_bought_and_refills_not_asked_for_again(house: House) -> None:
    def short(connection: Connection) -> Order:
        order = rows.report(connection, bought(connection), state=OrderState.PARTIAL, remains=10)
        at = house.clock.now()
        connection.execute(update(orders).where(orders.c.number == order.number).values(next_remainder_at=at))
        return order

    def dropped(connection: Connection) -> Order:
        order, at = ended(connection), house.clock.now()
        values = {"order_number": order.number, "provider": "smmplus", "state": "requested", "requested_at": at}
        connection.execute(refills.insert().values(id=new_id("rfl", at), next_poll_at=at, **values))
        return order

    found, _ = await held(house, short, dropped)
    assert found == Held(orders=0, parents=0, rests=1)
    state, due = await house.database.read(lambda c: c.execute(select(refills.c.state, refills.c.next_poll_at)).one())
    assert (state, due) == ("unclear", house.clock.now() + timedelta(days=1))
    rest = await house.database.read(lambda c: c.execute(select(orders.c.next_remainder_at)).scalars().first())
    assert rest is None


async def test_a_person_says_at_which_provider_it_was_bought(house: House) -> None:
    _, (order, lost) = await held(house, waiting, placing)
    with pytest.raises(Problem, match="is none of the config's `providers`"):
        await resolve(house, order.id, provider_order="501", provider="nobody", by="boss")
    placed = await resolve(house, order.id, provider_order="501", provider="smmplus", by="boss")
    assert (placed.state, placed.provider, placed.provider_service) == (OrderState.PENDING, "smmplus", "1")
    freed = await resolve(house, lost.id, provider_order=None, by="boss")
    assert (freed.state, freed.error_type) == (OrderState.ACCEPTED, None)
    other = await house.database.write(unclear)
    with pytest.raises(Problem, match="the purchase was sent to smmplus"):
        await resolve(house, other.id, provider_order="502", provider="other", by="boss")


async def test_an_order_of_a_service_that_is_gone_is_held_as_well(house: House) -> None:
    _, (order,) = await held(house, lambda c: rows.accept(c, service="gone"))
    assert (order.state, order.provider) == (OrderState.UNCLEAR, "unknown")
    placed = await resolve(house, order.id, provider_order="77", provider="other", by="boss")
    assert (placed.provider, placed.provider_order) == ("other", "77")


async def test_an_empty_database_holds_nothing(house: House) -> None:
    assert (await held(house))[0] == Held(0, 0, 0)
    assert (await house.database.write(rows.accept)).number == 1
