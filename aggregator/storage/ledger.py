"""A provider's ledger: what its balance said, and what orders were charged; what we pay is negative."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, RowMapping, func, insert, select

from aggregator.domain.money import Money
from aggregator.storage.tables import ledger


def add(
    connection: Connection,
    provider: str,
    kind: str,
    amount: Money,
    at: datetime,
    *,
    order_number: int | None = None,
    number_id: int | None = None,
    note: str | None = None,
) -> None:
    """Write one row; `kind` is reading, charge, refund or top_up."""
    connection.execute(
        insert(ledger).values(
            provider=provider,
            kind=kind,
            units=amount.units,
            currency=amount.currency,
            order_number=order_number,
            number_id=number_id,
            note=note,
            at=at,
        )
    )


def charged(connection: Connection, order_number: int, currency: str, number_id: int | None = None) -> int:
    """Units booked so far for an order, or for one number of it: charges less refunds, in one currency."""
    query = select(func.coalesce(func.sum(ledger.c.units), 0)).where(
        ledger.c.order_number == order_number,
        ledger.c.kind.in_(["charge", "refund"]),
        ledger.c.currency == currency,
    )
    if number_id is not None:
        query = query.where(ledger.c.number_id == number_id)
    return -int(connection.execute(query).scalar_one())


def book_charge(
    connection: Connection,
    provider: str,
    order_number: int,
    charge: Money,
    at: datetime,
    *,
    number_id: int | None = None,
    note: str | None = None,
) -> None:
    """Bring what is booked for an order, or for one number of it, to what is now known: a charge for more, a refund
    for less."""
    difference = charge.units - charged(connection, order_number, charge.currency, number_id)
    if difference:
        kind = "charge" if difference > 0 else "refund"
        amount = Money(-difference, charge.currency)
        add(connection, provider, kind, amount, at, order_number=order_number, number_id=number_id, note=note)


def page(connection: Connection, provider: str, *, before: int | None, limit: int) -> list[RowMapping]:
    """Newest first."""
    query = select(ledger).where(ledger.c.provider == provider)
    if before is not None:
        query = query.where(ledger.c.id < before)
    return list(connection.execute(query.order_by(ledger.c.id.desc()).limit(limit)).mappings())
