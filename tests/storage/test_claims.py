"""Claims: two claimers never share a row, an overtaken holder writes nothing, and a new daemon ends all of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import Connection, RowMapping, select, update

from aggregator.domain.errors import ClaimLost
from aggregator.domain.orders import OrderState
from aggregator.storage import catalogue, claims
from aggregator.storage.database import Database, PostgresDatabase
from aggregator.storage.tables import attempts, deliveries, metadata, numbers, orders, refills
from aggregator.storage.types import Instant
from tests.support import rows
from tests.support.examples import NOW, later

LEASE_S = 60.0
ACCEPTED = claims.Claimable(orders, orders.c.number, where=orders.c.state == "accepted", order_by=(orders.c.number,))


def take(connection: Connection, token: str, *, limit: int = 10, now_s: float = 0) -> list[RowMapping]:
    return claims.claim(connection, ACCEPTED, later(now_s), limit=limit, lease_s=LEASE_S, token=token)


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


# --- a clock that jumps


def moments(connection: Connection) -> dict[str, list[object]]:
    """Every instant that is stored, by its column."""
    return {
        f"{column.table.name}.{column.name}": list(
            connection.execute(select(column).order_by(*column.table.primary_key)).scalars()
        )
        for table in metadata.sorted_tables
        for column in table.c
        if isinstance(column.type, Instant)
    }


@pytest.mark.parametrize("jump", [timedelta(hours=1), -timedelta(hours=1, microseconds=1)])
async def test_what_is_due_moves_along_with_the_clock_and_what_has_happened_stays(
    database: Database, jump: timedelta
) -> None:
    def life(connection: Connection) -> None:
        rows.accept(connection)
        rows.place(connection, rows.accept(connection))
        rows.lose(connection, rows.accept(connection))
        rows.buy(connection, rows.accept(connection, kind="sms"), rented=["+1"])
        rows.buy(connection, rows.accept(connection))
        ended = rows.buy(connection, rows.accept(connection))
        rows.report(connection, ended, state=OrderState.COMPLETED)
        rows.sequence(connection, "shop")
        catalogue.ensure_providers(connection, ["smmplus"], NOW)

    await database.write(life)
    await database.write(lambda c: take(c, "mine"))
    before = await database.read(moments)
    moved = await database.write(lambda c: claims.shift_all(c, metadata.sorted_tables, jump))
    after = await database.read(moments)

    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "orders.next_route_at", "orders.give_up_at", "orders.next_poll_at", "orders.claimed_until",
        "attempts.claimed_until", "numbers.next_check_at", "deliveries.next_at", "deliveries.hold_until",
        "providers.next_catalogue_at", "providers.next_balance_at", "endpoints.next_at",
    } - {name for name in ("deliveries.hold_until",) if not any(before[name])}  # fmt: skip
    assert moved >= len(changed)
    for name in changed - {"orders.give_up_at"}:
        expected = [moment + jump if moment is not None else None for moment in before[name]]  # type: ignore[operator]
        assert after[name] == expected, name
    # Nobody waits for the one that has ended.
    *open_ones, ended = zip(before["orders.give_up_at"], after["orders.give_up_at"], strict=True)
    assert all(later_ == earlier + jump for earlier, later_ in open_ones)  # type: ignore[operator]
    assert ended[0] == ended[1]


def test_every_moment_that_is_claimed_or_due_is_known_as_one() -> None:
    """A column of a new table that is forgotten here would let a jump of the clock end something early."""
    known = {column.name for table in metadata.sorted_tables for column in table.c if claims.is_deadline(column)}
    instants = {
        column.name for table in metadata.sorted_tables for column in table.c if isinstance(column.type, Instant)
    }
    happened = {
        "created_at", "updated_at", "finished_at", "sent_at", "requested_at", "delivered_at", "placed_at", "stuck_at",
        "alone_since", "count_at", "cancel_at", "balance_at", "catalogue_at", "batch_at", "down_since", "stock_at",
        "first_seen_at", "seen_at", "at", "first_at", "last_at",
        "disabled_at", "failing_since", "asked_at", "last_success_at", "last_failure_at", "deleted_at", "since",
    }  # fmt: skip
    # The breaker looks at its clock itself, and when a number ends is the provider's to say.
    assert instants - known <= happened | {"open_until", "expires_at"}
