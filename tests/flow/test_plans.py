"""However much history there is, no statement of the daily work walks through it, by SQLite's own plans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, event, update
from sqlalchemy.engine import Engine

from aggregator.domain.clock import ManualClock
from aggregator.flow.readings import describe, take_reading
from aggregator.flow.removal import OldOrders
from aggregator.providers.limits import Priority
from aggregator.sandbox.faults import FaultRule
from aggregator.storage import claims, reports
from aggregator.storage import orders as order_store
from aggregator.storage.database import Database
from aggregator.storage.tables import CLAIMED, orders
from tests.support.flow import Street, a_street, on_sqlite, product, smm, sms

SERVICES: Final = {
    "one": smm("smmplus/1", "smmcheap/1"),
    "half": smm("smmplus/19", "smmcheap/1", reroute_remainder=True),
    "stuck": smm("smmplus/23"),
    "drip": smm("hstock/1"),
    "gmail": product("hstock/2"),
    "code": sms("hstock/65f0bb/us"),
}
LARGE: Final = {
    "orders": 10_000_000,
    "attempts": 10_000_000,
    "events": 50_000_000,
    "deliveries": 50_000_000,
    "ledger": 20_000_000,
    "numbers": 1_000_000,
    "refills": 1_000_000,
    "cancels": 1_000_000,
}
"""How many rows the planner is told of."""
SMALL_INDEXES: Final = (
    "ix_attempts_work",
    "ix_numbers_check",
    "ix_refills_poll",
    "ix_cancels_due",
    "ix_orders_open",
    "_claim",
)
"""Indexes over unfinished work alone, that may be walked."""
TESTS_OWN: Final = "SELECT (SELECT min("
"""The street's own question for the next moment at which something is due."""


@contextmanager
def overheard() -> Iterator[dict[str, Any]]:
    """Statements that run meanwhile, with their parameters."""
    heard: dict[str, Any] = {}

    def listen(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if not many and statement.split()[0] in ("SELECT", "UPDATE", "DELETE"):
            heard.setdefault(statement, parameters)

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        yield heard
    finally:
        event.remove(Engine, "before_cursor_execute", listen)


async def a_day_of_work(street: Street) -> None:
    """Orders of all kinds, an unclear one, drops, readings, ends, a restart."""
    for service in ("one", "half", "stuck"):
        await street.bought(service, 1000, link=f"https://example.com/{service}")
    await street.take("drip", 100, link="https://example.com/d", params={"runs": "2", "interval": "10"})
    await street.take("gmail", 2, link=None)
    await street.take("code", 2, link=None)
    street.break_with(FaultRule("close_after", account="smmcheap", action="add", count=1))
    await street.take("one", 100, link="https://example.com/lost")
    await street.advance(3 * 3600)
    for _ in range(3):
        account = street.account("smmplus")
        account.set_balance(account.balance_at(street.world.now()) + 7, street.world.now())
        await take_reading(street.house, street.house.gateways["smmplus"], Priority.STATUS)
    await street.restart()
    await street.advance(2 * 86_400)
    await street.database.read(lambda c: describe(c, "smmplus", street.clock.now()))
    await street.database.read(reports.open_by_provider)
    await street.database.read(order_store.counts)
    await street.database.read(reports.stuck)
    await street.database.read(reports.unclear_purchases)
    await street.database.read(lambda c: reports.due_since(c, street.house.gateways, street.clock.now()))
    await street.database.write(lambda c: claims.void_all(c, CLAIMED))


async def years_later(street: Street) -> None:
    """Time in which nobody looks after ended orders any more."""
    street.clock.advance(2 * 365 * 86_400)
    idle = {name: None for name in ("next_poll_at", "next_refill_at", "next_count_at", "next_remainder_at")}
    over = update(orders).where(orders.c.finished_at.is_not(None), orders.c.parent.is_(None))
    await street.database.write(lambda c: c.execute(over.values(**idle)))


def walks(connection: Connection, heard: dict[str, Any]) -> list[str]:
    """Statements whose plan reads a large table from end to end."""
    connection.exec_driver_sql("ANALYZE")
    connection.exec_driver_sql("DELETE FROM sqlite_stat1")
    for table, rows in LARGE.items():
        connection.exec_driver_sql("INSERT INTO sqlite_stat1 (tbl, stat) VALUES (?, ?)", (table, str(rows)))
    connection.exec_driver_sql("ANALYZE sqlite_schema")
    found = []
    for statement, parameters in heard.items():
        if statement.startswith(TESTS_OWN):
            continue
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
            step = str(row[3])
            word, table, *_ = [*step.split(), ""]
            if word == "SCAN" and table in LARGE and not any(name in step for name in SMALL_INDEXES):
                found.append(f"{step}: {' '.join(statement.split())}")
    return found


@on_sqlite
async def test_no_statement_of_the_daily_work_walks_through_history(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with a_street(database, clock, tmp_path, SERVICES, smmplus={"exclusive_account": True}) as street:
        with overheard() as heard:
            await a_day_of_work(street)
        assert len(heard) > 100
        await years_later(street)
        with overheard() as of_removal:
            assert await OldOrders(street.house).run_once(lambda: False) > 0
        street.audited = False  # the audit reads everything, as it should
    assert await database.write(lambda c: walks(c, {**of_removal, **heard})) == []
