"""Questions that only readers ask: lists, counts and heads for the API, the metrics and the operator.

Nothing here writes, and no answer decides about an order. Every query is bounded by unfinished work or by a page.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select

from aggregator.domain.orders import UNFINISHED
from aggregator.storage.tables import (
    AT_WORK,
    OPEN_AT_PROVIDER,
    TO_ROUTE,
    attempts,
    cancels,
    events,
    ledger,
    numbers,
    orders,
    sequences,
)

_FEED_HEAD = select(
    # Events may be gone, positions were given all the same.
    func.coalesce(select(sequences.c.value).where(sequences.c.name == "position").scalar_subquery(), 0),
    func.coalesce(select(func.max(events.c.position)).scalar_subquery(), 0),
)
_UNFINISHED = sorted(str(state) for state in UNFINISHED)


def open_orders(connection: Connection, owner: str, most: int) -> int:
    """A caller's unfinished orders, counted up to `most`; what we made for them ourselves is no order of theirs."""
    some = (
        select(orders.c.number)
        # An expression instead of the column keeps both planners from walking all that the owner ever ordered: the
        # index on the state leads to unfinished orders alone.
        .where(
            orders.c.state.in_(_UNFINISHED),
            orders.c.owner.concat("") == owner,
            orders.c.role.in_(["order", "parent"]),
        )
        .limit(most)
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def open_by_provider(connection: Connection) -> dict[str, int]:
    """Orders being bought or followed, by provider."""
    query = (
        select(orders.c.provider, func.count())
        .where(OPEN_AT_PROVIDER, orders.c.provider.is_not(None))
        .group_by(orders.c.provider)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def feed_head(connection: Connection) -> int:
    """The highest position given so far, also to events that are removed; 0 before the first event."""
    return int(max(connection.execute(_FEED_HEAD).one()))


def ledger_page(connection: Connection, provider: str, *, before: int | None, limit: int) -> list[RowMapping]:
    """A provider's ledger, newest first, each row with the id of its order."""
    query: Any = (
        select(ledger, orders.c.id.label("order_id"))
        .select_from(ledger.outerjoin(orders, ledger.c.order_number == orders.c.number))
        .where(ledger.c.provider == provider)
        .order_by(ledger.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(ledger.c.id < before)
    return list(connection.execute(query).mappings())


def stuck(connection: Connection) -> int:
    """Orders that go on and were told of as standing still."""
    query = select(func.count()).where(orders.c.stuck_at.is_not(None), orders.c.finished_at.is_(None))
    return int(connection.execute(query).scalar_one())


def due_since(connection: Connection, providers: Iterable[str], now: datetime) -> dict[tuple[str, str], datetime]:
    """Since when each queue has something due, by queue and provider ("" where it is not of one provider); one with
    nothing due is left out. A look at the head of an index each; of plans, which are never many, at all."""
    planned = select(attempts.c.provider, func.min(attempts.c.created_at)).where(AT_WORK, attempts.c.state == "planned")
    heads: dict[tuple[str, str], datetime | None] = {
        ("placement", row[0]): row[1] for row in connection.execute(planned.group_by(attempts.c.provider))
    }
    waiting = select(events.c.created_at).where(events.c.position.is_(None)).order_by(events.c.seq)
    heads["sequencing", ""] = _head(connection, waiting)
    heads["routing", ""] = _head(connection, select(orders.c.next_route_at).where(TO_ROUTE).order_by("next_route_at"))
    refill = orders.c.next_refill_at
    heads["refilling", ""] = _head(connection, select(refill).where(refill.is_not(None)).order_by(refill))
    for provider in providers:
        for queue, due, more in (
            ("polling", orders.c.next_poll_at, (orders.c.finished_at.is_(None),)),
            ("codes", numbers.c.next_check_at, ()),
            ("canceling", cancels.c.next_at, ()),
        ):
            of_it = due.table.c.provider == provider
            query: Select[Any] = select(due).where(of_it, due.is_not(None), *more).order_by(due)
            heads[queue, provider] = _head(connection, query)
    return {queue: since for queue, since in heads.items() if since is not None and since <= now}


def _head(connection: Connection, query: Select[Any]) -> datetime | None:
    found: datetime | None = connection.execute(query.limit(1)).scalar()
    return found


@dataclass(frozen=True, slots=True)
class UnclearPurchases:
    """Those of a provider in one currency: how many, the first of them, and what they should cost together."""

    provider: str
    currency: str
    count: int
    since: datetime
    units: int


def unclear_purchases(connection: Connection) -> list[UnclearPurchases]:
    """Purchases that were sent and of which nobody knows whether they happened."""
    by = attempts.c.provider, attempts.c.expected_currency
    query = (
        select(*by, func.count(), func.min(attempts.c.sent_at), func.sum(attempts.c.expected_units))
        .where(AT_WORK, attempts.c.state == "unclear")
        .group_by(*by)
    )
    return [UnclearPurchases(row[0], row[1], row[2], row[3], int(row[4])) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class DatabaseSize:
    """Bytes of the database by part (`main`; of SQLite `wal`, too), and what its disk has left where we see it."""

    parts: dict[str, int]
    available: int | None = None


def database_size(connection: Connection) -> DatabaseSize:
    if connection.dialect.name == "postgresql":
        size = connection.execute(select(func.pg_database_size(func.current_database()))).scalar_one()
        return DatabaseSize({"main": int(size)})
    path = connection.engine.url.database or ""
    parts, available = {}, None
    # A file that is gone is another one's to tell.
    for part, suffix in (("main", ""), ("wal", "-wal")):
        with suppress(OSError):
            parts[part] = os.stat(path + suffix).st_size
    with suppress(OSError):
        disk = os.statvfs(path)
        available = disk.f_bavail * disk.f_frsize
    return DatabaseSize(parts, available)
