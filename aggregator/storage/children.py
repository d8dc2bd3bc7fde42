"""Parents and their children in the database: what is due for them, and who belongs to a family.

A child is made in one transaction with what its parent knows of it; the database gives each place of a parent once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Integer, Select, bindparam, func, select, update

from aggregator.domain.children import Member
from aggregator.domain.ids import OrderId
from aggregator.domain.money import Money
from aggregator.domain.orders import RESTORED, Order, Role
from aggregator.storage.orders import order_from
from aggregator.storage.tables import attempts, ledger, orders


def _due(when: ColumnElement[Any], *where: ColumnElement[bool]) -> Select[int]:
    some = select(orders.c.number).where(when <= bindparam("now"), *where).order_by(when, orders.c.number)
    return some.limit(bindparam("at_most", type_=Integer()))


_RUNS: Final = _due(orders.c.next_run_at, func.coalesce(orders.c.error_type, "") != RESTORED)
_SUMS: Final = _due(orders.c.next_sum_at)
_REMAINDERS: Final = _due(orders.c.next_remainder_at)
_OF_PARENTS: Final = (
    select(orders).where(orders.c.parent.in_(bindparam("parents", expanding=True))).order_by(orders.c.number)
)


def due_runs(connection: Connection, now: datetime, *, limit: int) -> list[int]:
    """Parents whose next run is to be made; not those that are held since a restore."""
    return _numbers(connection, _RUNS, now, limit)


def due_sums(connection: Connection, now: datetime, *, limit: int) -> list[int]:
    """Parents whose figures are to be added up."""
    return _numbers(connection, _SUMS, now, limit)


def due_remainders(connection: Connection, now: datetime, *, limit: int) -> list[int]:
    """Ended orders whose refund is to be looked for."""
    return _numbers(connection, _REMAINDERS, now, limit)


def _numbers(connection: Connection, which: Select[int], now: datetime, limit: int) -> list[int]:
    return [row[0] for row in connection.execute(which, {"now": now, "at_most": limit})]


def next_run_at(connection: Connection, number: int) -> datetime | None:
    due: datetime | None = connection.execute(select(orders.c.next_run_at).where(orders.c.number == number)).scalar()
    return due


def next_remainder_at(connection: Connection, number: int) -> datetime | None:
    query = select(orders.c.next_remainder_at).where(orders.c.number == number)
    due: datetime | None = connection.execute(query).scalar()
    return due


def set_remainder_due(connection: Connection, number: int, due: datetime | None) -> None:
    connection.execute(update(orders).where(orders.c.number == number).values(next_remainder_at=due))


def summed(connection: Connection, number: int) -> None:
    """Nothing has changed; whatever changes from now on makes it due again."""
    connection.execute(update(orders).where(orders.c.number == number).values(next_sum_at=None))


def has_remainder(connection: Connection, parent: OrderId) -> bool:
    query = select(orders.c.number).where(orders.c.parent == parent, orders.c.role == "remainder").limit(1)
    return connection.execute(query).first() is not None


def family(connection: Connection, parent: OrderId) -> list[Member]:
    """The runs of a parent, by their place, each generation followed by the remainders that it left."""
    found: list[Member] = []
    generation: Sequence[str] = [parent]
    while generation:
        rows = connection.execute(_OF_PARENTS, {"parents": list(generation)}).mappings().all()
        found.extend(Member(order_from(row), awaits=row["next_remainder_at"] is not None) for row in rows)
        generation = [row["id"] for row in rows]
    return found


def runs_of(connection: Connection, parents: Sequence[OrderId]) -> dict[OrderId, list[int]]:
    """The numbers of the runs that were made of each parent so far."""
    if not parents:
        return {}
    query = select(orders.c.parent, orders.c.number).where(orders.c.parent.in_(parents), orders.c.role == "run")
    found: dict[OrderId, list[int]] = {}
    for parent, number in connection.execute(query.order_by(orders.c.number)):
        found.setdefault(OrderId(parent), []).append(number)
    return found


def is_canceled_above(connection: Connection, order: Order) -> bool:
    """Whether the caller wished an end to what this order is a run or a rest of."""
    above: str | None = order.parent
    while above is not None:
        row = connection.execute(select(orders.c.parent, orders.c.cancel_state).where(orders.c.id == above)).one()
        if row[1] is not None:
            return True
        above = row[0]
    return False


def bought_before(connection: Connection, order: Order) -> list[tuple[str, str, str]]:
    """(provider, service, country) of what the orders were bought as whose rest this one is."""
    found: list[tuple[str, str, str]] = []
    one = order
    while one.role is Role.REMAINDER and one.parent is not None:
        one = order_from(connection.execute(select(orders).where(orders.c.id == one.parent)).mappings().one())
        if one.attempt is not None:
            row = connection.execute(
                select(attempts.c.provider, attempts.c.service, attempts.c.country).where(attempts.c.id == one.attempt)
            ).one()
            found.append((row[0], row[1], row[2] or ""))
    return found


def booked(connection: Connection, order: Order, since: datetime, *, seen_note: str) -> tuple[Money | None, int, int]:
    """What an order has cost by the books: (all that is booked less what was refunded, refunds since, and of these the
    ones that the balance showed)."""
    rows = connection.execute(
        select(ledger.c.kind, ledger.c.units, ledger.c.currency, ledger.c.note, ledger.c.at).where(
            ledger.c.order_number == order.number, ledger.c.kind.in_(["charge", "refund"])
        )
    ).all()
    if not rows:
        return None, 0, 0
    currency = rows[-1][2]
    same = [row for row in rows if row[2] == currency]
    refunds = [row for row in same if row[0] == "refund" and row[4] >= since]
    told = sum(row[1] for row in refunds)
    seen = sum(row[1] for row in refunds if row[3] == seen_note)
    return Money(max(0, -sum(row[1] for row in same)), currency), told, seen
