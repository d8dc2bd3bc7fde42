"""Questions that only readers ask: lists, counts and heads for the API, the metrics and the operator.

Nothing here writes, and no answer decides about an order. Every query is bounded by unfinished work or by a page.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from aggregator.domain.orders import UNFINISHED
from aggregator.storage.tables import OPEN_AT_PROVIDER, events, ledger, orders

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
    """The highest position given so far; 0 before the first event."""
    return int(connection.execute(select(func.coalesce(func.max(events.c.position), 0))).scalar_one())


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
