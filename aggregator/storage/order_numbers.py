"""Numbers from the orders' own sequence: for orders that are inserted many at once, and for rented numbers.

A number is given once, to whatever it may be. PostgreSQL's sequence moves on by itself; SQLite's follows the orders
that are inserted, so that what is no order has to push it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from aggregator.domain.ids import OrderNumber

_NEXT_OF_POSTGRES: Final = text(
    "SELECT nextval(pg_get_serial_sequence('orders', 'number')) FROM generate_series(1, :count)"
)
# SQLite keeps the highest number there ever was; only one transaction writes at a time.
_HIGHEST_OF_SQLITE: Final = text(
    "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'orders'), 0),"
    " coalesce((SELECT max(number) FROM orders), 0))"
)
_PUSH_SQLITE: Final = text("UPDATE sqlite_sequence SET seq = seq + :count WHERE name = 'orders' RETURNING seq")


def following(connection: Connection, count: int) -> list[OrderNumber]:
    """So many numbers that no order has or had, ascending, for orders that this transaction inserts at once."""
    if connection.dialect.name == "postgresql":
        return sorted(OrderNumber(row[0]) for row in connection.execute(_NEXT_OF_POSTGRES, {"count": count}))
    last: int = connection.execute(_HIGHEST_OF_SQLITE).scalar_one()
    return [OrderNumber(number) for number in range(last + 1, last + count + 1)]


def reserve(connection: Connection, count: int) -> list[int]:
    """So many numbers that no order will ever have; there is an order already."""
    if count <= 0:
        return []
    if connection.dialect.name == "postgresql":
        return list(connection.execute(_NEXT_OF_POSTGRES, {"count": count}).scalars())
    last: int = connection.execute(_PUSH_SQLITE, {"count": count}).scalar_one()
    return list(range(last - count + 1, last + 1))
