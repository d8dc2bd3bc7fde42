"""The journal of purchases: one live attempt per order, each leaves `planned` once, none is forgotten."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from aggregator.domain.errors import ClaimLost
from aggregator.domain.ids import AttemptId
from aggregator.domain.orders import OrderState
from aggregator.storage import attempts
from aggregator.storage.attempts import Attempt
from aggregator.storage.database import Database
from aggregator.storage.tables import attempts as table
from tests.support import rows
from tests.support.examples import NOW, later


async def claim(database: Database, token: str = "mine", *, now_s: float = 0) -> Attempt | None:
    return await database.write(lambda c: attempts.claim_planned(c, "smmplus", later(now_s), lease_s=60, token=token))


async def test_an_order_cannot_have_a_second_live_attempt(database: Database) -> None:
    def two_plans(connection: Connection) -> None:
        order = rows.accept(connection)
        rows.plan(connection, order)
        rows.plan(connection, order)

    def plan_beside_a_purchase(connection: Connection) -> None:
        rows.plan(connection, rows.buy(connection, rows.accept(connection)))

    def plan_beside_an_unclear_one(connection: Connection) -> None:
        rows.plan(connection, rows.lose(connection, rows.accept(connection)))

    for work in (two_plans, plan_beside_a_purchase, plan_beside_an_unclear_one):
        with pytest.raises(IntegrityError):
            await database.write(work)


async def test_a_refused_attempt_makes_room_for_the_next(database: Database) -> None:
    def work(connection: Connection) -> list[tuple[int, str]]:
        order = rows.accept(connection)
        for _ in range(3):
            order = rows.refuse(connection, order)
        rows.buy(connection, order)
        return [(row["ordinal"], row["state"]) for row in attempts.of_order(connection, order.number)]

    assert await database.write(work) == [(1, "refused"), (2, "refused"), (3, "refused"), (4, "placed")]


async def test_a_plan_is_begun_once_however_many_want_it(database: Database) -> None:
    await database.write(lambda c: rows.plan(c, rows.accept(c)))
    claimed = await asyncio.gather(*(claim(database, f"token {n}") for n in range(6)))
    (winner,) = [n for n, attempt in enumerate(claimed) if attempt is not None]
    attempt = claimed[winner]
    assert attempt is not None

    with pytest.raises(ClaimLost):
        await database.write(lambda c: attempts.start(c, attempt.id, f"token {(winner + 1) % 6}", NOW))

    def twice(connection: Connection) -> None:
        attempts.start(connection, attempt.id, f"token {winner}", NOW)
        attempts.start(connection, attempt.id, f"token {winner}", NOW)

    with pytest.raises(ClaimLost):
        await database.write(twice)


async def test_the_plan_of_the_oldest_order_comes_first(database: Database) -> None:
    def work(connection: Connection) -> list[AttemptId]:
        return [rows.plan(connection, rows.accept(connection), at=later(at)) for at in (20, 10, 30)]

    planned = await database.write(work)
    found = [await claim(database) for _ in range(4)]
    assert [attempt.id if attempt else None for attempt in found] == [*planned, None]
    assert await database.read(attempts.planned) == {"smmplus": 3}


async def test_an_interrupted_purchase_is_found_when_its_claim_is_over(database: Database) -> None:
    order = await database.write(lambda c: rows.place(c, rows.accept(c)))

    assert await database.read(lambda c: attempts.interrupted(c, later(89))) == []
    (found,) = await database.read(lambda c: attempts.interrupted(c, later(90)))
    assert (found.id, found.order_number, found.sent_at) == (order.attempt, order.number, NOW)
    assert await claim(database, now_s=1000) is None, "what was begun is never begun again"


async def test_an_attempt_ends_once(database: Database) -> None:
    order = await database.write(lambda c: rows.buy(c, rows.accept(c)))
    assert order.attempt is not None
    for state in ("refused", "placed", "not_sent"):
        with pytest.raises(ClaimLost):
            await database.write(lambda c, s=state: attempts.finish(c, order.attempt, None, s, NOW))  # type: ignore[misc]


async def test_the_same_reasons_again_are_counted_not_written_again(database: Database) -> None:
    order = await database.write(rows.accept)
    for number, reason in enumerate("aaabba"):
        candidates: list[dict[str, object]] = [{"reason": reason}]
        await database.write(
            lambda c, n=number, r=candidates: attempts.note_no_offer(  # type: ignore[misc]
                c, AttemptId(f"att_{n}"), order.number, round_=n, candidates=r, at=later(n)
            )
        )
    found = await database.read(lambda c: attempts.of_order(c, order.number))
    assert [(row["ordinal"], row["seen"]) for row in found] == [(1, 3), (2, 2), (3, 1)]


async def test_a_plan_of_an_order_that_ended_is_dropped_and_a_purchase_never(database: Database) -> None:
    def work(connection: Connection) -> list[str]:
        planned = rows.accept(connection)
        rows.plan(connection, planned)
        rows.end(connection, planned, OrderState.CANCELED)
        placing = rows.place(connection, rows.accept(connection))
        attempts.drop_plan(connection, placing.number, NOW)
        return list(
            connection.execute(select(table.c.state).order_by(table.c.created_at, table.c.order_number)).scalars()
        )

    assert await database.write(work) == ["dropped", "placing"]


async def test_what_is_planned_sent_or_unclear_is_money_in_flight(database: Database) -> None:
    def work(connection: Connection) -> None:
        rows.plan(connection, rows.accept(connection))
        rows.place(connection, rows.accept(connection))
        rows.lose(connection, rows.accept(connection))
        rows.buy(connection, rows.accept(connection))
        rows.refuse(connection, rows.accept(connection))

    await database.write(work)
    (cost,) = (await database.read(attempts.in_flight))["smmplus"]
    assert cost.units == 3 * rows.COST.units
