"""What was said to providers and what they answered, kept with attempts, refills and cancels; forgotten when it is old.

The rows stay, with outcome and reason; only the words go. What nobody knows the end of yet keeps them: a person who
decides an unclear purchase wants to read the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, and_, null, select, update

from aggregator.storage.tables import attempts, cancels, refills

TABLES: Final[dict[Table, tuple[str, str]]] = {
    attempts: ("id", "created_at"),
    refills: ("number", "requested_at"),
    cancels: ("number", "requested_at"),
}
"""Each table's key, by which its rows stand in the order of their making, and when that was."""


def look_for_old(
    connection: Connection, table: Table, after: Any, before: datetime, limit: int
) -> tuple[list[Any], Any | None]:
    """Of the next `limit` rows behind `after` (None: from the first), those that ended before then and still have their
    exchange: (their keys, the last one looked at; None: the rest is too young)."""
    name, made = TABLES[table]
    key = table.c[name]
    query = select(key.label("key"), table.c[made].label("made"), _old(table, before).label("old"))
    if after is not None:
        query = query.where(key > after)
    found = connection.execute(query.order_by(key).limit(limit)).all()
    young = len(found) < limit or found[-1].made >= before
    return [row.key for row in found if row.old], None if young else found[-1].key


def forget_old(connection: Connection, table: Table, keys: Sequence[Any], before: datetime) -> int:
    """Forget the exchanges of those of them that are old; how many."""
    key = table.c[TABLES[table][0]]
    done = connection.execute(update(table).where(key.in_(keys), _old(table, before)).values(exchange=null()))
    return done.rowcount


def _old(table: Table, before: datetime) -> ColumnElement[bool]:
    ended = and_(table.c.exchange.is_not(None), table.c.finished_at.is_not(None), table.c.finished_at < before)
    # An attempt's time ends with its call, although nobody may know yet what it bought.
    return and_(ended, table.c.state != "unclear") if table is attempts else ended
