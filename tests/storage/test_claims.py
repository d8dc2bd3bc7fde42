"""Claims: two claimers never share a row, an overtaken holder writes nothing, and a new daemon ends all of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import Connection, RowMapping, select, update

from aggregator.domain.errors import ClaimLost
from aggregator.storage import claims
from aggregator.storage.database import Database, PostgresDatabase
from aggregator.storage.tables import attempts, deliveries, numbers, orders, refills
from tests.support import rows
from tests.support.examples import NOW, later

LEASE_S = 60.0


def take(connection: Connection, token: str, *, limit: int = 10, now_s: float = 0) -> list[RowMapping]:
    return claims.claim(
        connection,
        orders,
        orders.c.number,
        where=orders.c.state == "accepted",
        order_by=(orders.c.number,),
        limit=limit,
        now=later(now_s),
        lease_s=LEASE_S,
        token=token,
    )


async def accepted(database: Database, count: int) -> None:
    def work(connection: Connection) -> None:
        for _ in range(count):
            rows.accept(connection)

    await database.write(work)


def give_back(connection: Connection, number: int, token: str, **values: object) -> None:
    claims.release(connection, orders, orders.c.number, number, token, **values)


async def test_claimed_rows_come_in_the_order_asked_for_with_the_token_in_them(database: Database) -> None:
    await accepted(database, 5)
    found = await database.write(lambda c: take(c, "mine", limit=3))
    assert [row["number"] for row in found] == [1, 2, 3]
    assert {(row["claim_token"], row["claimed_until"]) for row in found} == {("mine", later(LEASE_S))}
    assert [row["number"] for row in await database.write(lambda c: take(c, "yours"))] == [4, 5]
    assert await database.write(lambda c: take(c, "theirs")) == []


async def test_claimers_at_the_same_time_never_share_a_row(database: Database) -> None:
    await accepted(database, 120)

    async def claimer(name: int) -> list[int]:
        mine: list[int] = []
        while found := await database.write(lambda c: take(c, f"token {name}", limit=7)):
            mine += [row["number"] for row in found]
        return mine

    shares = await asyncio.gather(*(claimer(name) for name in range(8)))

    claimed = [number for share in shares for number in share]
    assert len(claimed) == len(set(claimed))
    # Who skips a row that another is just claiming may find nothing and stop; what is left is free for the next one.
    rest = await database.write(lambda c: take(c, "the next", limit=1000))
    assert sorted([*claimed, *(row["number"] for row in rest)]) == list(range(1, 121))


async def test_a_row_that_another_transaction_holds_is_skipped_not_waited_for(
    postgres_database: PostgresDatabase,
) -> None:
    database = postgres_database
    await accepted(database, 2)
    locked, done = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        def work(connection: Connection) -> None:
            connection.execute(select(orders.c.number).where(orders.c.number == 1).with_for_update())
            locked.set()
            rows.wait_inside(done.wait())

        await database.write(work)

    holding = asyncio.create_task(hold())
    await locked.wait()
    async with asyncio.timeout(20):
        assert [row["number"] for row in await database.write(lambda c: take(c, "mine"))] == [2]
    done.set()
    await holding


async def test_a_claim_holds_until_its_time_is_over(database: Database) -> None:
    await accepted(database, 1)
    assert len(await database.write(lambda c: take(c, "first"))) == 1
    assert await database.write(lambda c: take(c, "second", now_s=LEASE_S - 0.000001)) == []
    assert len(await database.write(lambda c: take(c, "second", now_s=LEASE_S))) == 1


async def test_who_was_overtaken_writes_nothing(database: Database) -> None:
    await accepted(database, 1)
    await database.write(lambda c: take(c, "slow"))
    await database.write(lambda c: take(c, "quick", now_s=LEASE_S))

    with pytest.raises(ClaimLost, match="orders 1"):
        await database.write(lambda c: give_back(c, 1, "slow", reference="written by the slow one"))
    await database.write(lambda c: give_back(c, 1, "quick", reference="written by the quick one"))

    row = await database.read(lambda c: c.execute(select(orders)).mappings().one())
    assert (row["reference"], row["claim_token"], row["claimed_until"]) == ("written by the quick one", None, None)


async def test_a_claim_is_given_back_once(database: Database) -> None:
    await accepted(database, 1)
    await database.write(lambda c: take(c, "mine"))
    await database.write(lambda c: give_back(c, 1, "mine"))
    with pytest.raises(ClaimLost):
        await database.write(lambda c: give_back(c, 1, "mine"))
    assert len(await database.write(lambda c: take(c, "again"))) == 1


async def test_a_holder_may_still_write_after_its_time_when_nobody_took_over(database: Database) -> None:
    await accepted(database, 1)
    await database.write(lambda c: take(c, "late"))
    await database.write(lambda c: give_back(c, 1, "late", updated_at=later(LEASE_S * 5)))


async def test_a_claim_that_is_rolled_back_never_was(database: Database) -> None:
    await accepted(database, 1)

    def fails(connection: Connection) -> None:
        assert take(connection, "mine")
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(fails)
    assert len(await database.write(lambda c: take(c, "yours"))) == 1


async def test_a_new_daemon_ends_every_claim_at_once(database: Database) -> None:
    def work(connection: Connection) -> None:
        rows.plan(connection, rows.accept(connection))
        rows.buy(connection, rows.accept(connection, kind="sms"), rented=["15550100"])
        rows.sequence(connection, "shop")
        for table in (orders, attempts, numbers, deliveries):
            connection.execute(update(table).values(claim_token="x", claimed_until=NOW + timedelta(days=9)))

    await database.write(work)
    everywhere = (orders, attempts, numbers, refills, deliveries)

    voided = await database.write(lambda c: claims.void_all(c, everywhere))

    assert voided == 2 + 2 + 1 + 0 + 3
    for table in everywhere:
        held = select(table).where(claims.unclaimed(table, NOW).is_(False))
        assert await database.read(lambda c, query=held: c.execute(query).all()) == []  # type: ignore[misc]
    assert await database.write(lambda c: claims.void_all(c, everywhere)) == 0
    with pytest.raises(ClaimLost):
        await database.write(lambda c: give_back(c, 1, "x"))


def test_tokens_are_never_the_same() -> None:
    assert len({claims.new_token() for _ in range(1000)}) == 1000
