"""How orders ended at each offer: counted when they end, read when the next one is routed.

One row per provider and service, changed by a single statement, so that two ends at once both count.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, bindparam, case, select, update
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.domain.history import OfferHistory
from aggregator.domain.orders import FINAL, OrderState
from aggregator.storage.tables import offer_history

WEIGHT: Final = 8
"""After so many completed orders a new duration counts for an eighth of the average; before, all count alike."""
MOST_PIECES: Final = 10**12
"""What one order counts for at most, so that the sums of very many fit their columns."""
MOST_S: Final = 2**31 - 1

_COUNTERS: Final = {
    OrderState.COMPLETED: "completed",
    OrderState.PARTIAL: "partial",
    OrderState.CANCELED: "canceled",
    OrderState.FAILED: "failed",
}


def note_end(
    connection: Connection,
    provider: str,
    service: str,
    *,
    state: OrderState,
    ordered: int,
    delivered: int,
    duration: timedelta | None,
    at: datetime,
) -> None:
    """Count the end of an order that was bought there: pieces ordered and delivered, and the time from the purchase to
    its completion (None: unknown; of other ends it is not counted). ValueError when the state is not final."""
    counter = _counter(state)
    pieces = _pieces(ordered)
    told = min(_pieces(delivered), pieces)
    seconds = min(max(0, round(duration.total_seconds())), MOST_S) if duration is not None else None
    if state is not OrderState.COMPLETED:
        seconds = None
    first = {counter: 1, "ordered": pieces, "delivered": told, "duration_s": seconds, "updated_at": at}
    query = _counted(connection.dialect.name, counter, seconds is not None)
    connection.execute(query, {"provider": provider, "service": service, **first})


@cache
def _counted(dialect_name: str, counter: str, timed: bool) -> Any:
    dialect: Any = postgresql if dialect_name == "postgresql" else sqlite
    query = dialect.insert(offer_history)
    row, new = offer_history.c, query.excluded
    change: dict[str, Any] = {
        counter: row[counter] + 1,
        "ordered": row.ordered + new.ordered,
        "delivered": row.delivered + new.delivered,
        "updated_at": new.updated_at,
    }
    if timed:
        change["duration_s"] = _averaged(row.duration_s, row.completed + 1, new.duration_s)
    return query.on_conflict_do_update(index_elements=["provider", "service"], set_=change)


def correct_end(
    connection: Connection,
    provider: str,
    service: str,
    *,
    before: OrderState,
    after: OrderState,
    delivered_before: int,
    delivered: int,
    at: datetime,
) -> None:
    """A provider took back an end that was counted already: the order counts as what it became, and once. The average
    duration stays; one value cannot be taken out of it. ValueError when a state is not final."""
    row = offer_history.c
    old, new = _counter(before), _counter(after)
    change: dict[str, Any] = {
        "delivered": _not_negative(row.delivered + _pieces(delivered) - _pieces(delivered_before)),
        "updated_at": at,
    }
    if old != new:
        change |= {old: _not_negative(row[old] - 1), new: row[new] + 1}
    connection.execute(update(offer_history).where(row.provider == provider, row.service == service).values(**change))


_OF_SERVICES: Final = select(offer_history).where(
    offer_history.c.provider == bindparam("of_provider"),
    offer_history.c.service.in_(bindparam("services", expanding=True)),
)


def load(connection: Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], OfferHistory]:
    """Histories of (provider, service) pairs; one without any end is left out."""
    by_provider: dict[str, list[str]] = {}
    for provider, service in wanted:
        by_provider.setdefault(provider, []).append(service)
    found: dict[tuple[str, str], OfferHistory] = {}
    for provider, services in by_provider.items():
        for row in connection.execute(_OF_SERVICES, {"of_provider": provider, "services": services}).mappings():
            found[provider, row["service"]] = OfferHistory(
                completed=row["completed"],
                partial=row["partial"],
                canceled=row["canceled"],
                failed=row["failed"],
                ordered=row["ordered"],
                delivered=row["delivered"],
                duration_s=row["duration_s"],
            )
    return found


def _counter(state: OrderState) -> str:
    if state not in FINAL:
        raise ValueError(f"an order that is {state} has not ended")
    return _COUNTERS[state]


def _pieces(count: int) -> int:
    return min(max(0, count), MOST_PIECES)


def _not_negative(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((value < 0, 0), else_=value)


def _averaged(known: ColumnElement[Any], count: ColumnElement[Any], seconds: ColumnElement[Any]) -> ColumnElement[Any]:
    """The average with one more value, in whole seconds on both databases: their integer division cuts towards 0."""
    weight = case((count < WEIGHT, count), else_=WEIGHT)
    return case((known.is_(None), seconds), else_=known + (seconds - known) // weight)
