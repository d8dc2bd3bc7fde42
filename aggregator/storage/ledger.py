"""A provider's ledger: what its balance said, and what orders were charged; what we pay is negative."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select

from aggregator.domain.money import Money
from aggregator.storage.tables import ledger, providers

SEEN_REFUND: Final = "seen in the balance"
"""The note of a refund that no charge told of: this provider's charges stay what was taken at first."""

PRICE_TOLD: Final = "price told"
"""The note of what is booked when a charge turns out to be another than was expected: no refund, though it is less."""


_ADD: Final = insert(ledger).returning(ledger.c.id)
_LOCK: Final = select(providers.c.name).where(providers.c.name == bindparam("of_provider")).with_for_update()
_CHARGED: Final = select(func.coalesce(func.sum(ledger.c.units), 0)).where(
    ledger.c.order_number == bindparam("of_order"),
    ledger.c.kind.in_(["charge", "refund"]),
    ledger.c.currency == bindparam("of_currency"),
    func.coalesce(ledger.c.note, "") != SEEN_REFUND,
)
_CHARGED_NUMBER: Final = _CHARGED.where(ledger.c.number_id == bindparam("of_number"))
_SEEN_REFUNDS: Final = select(func.coalesce(func.sum(ledger.c.units), 0)).where(
    ledger.c.order_number == bindparam("of_order"),
    ledger.c.note == SEEN_REFUND,
    ledger.c.currency == bindparam("of_currency"),
)
_MOVED: Final = (
    select(ledger.c.provider, ledger.c.currency, func.sum(ledger.c.units))
    .join(providers, providers.c.name == ledger.c.provider)
    .where(ledger.c.id > providers.c.reading_id, ledger.c.kind != "reading")
    .group_by(ledger.c.provider, ledger.c.currency)
)


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
) -> int:
    """Write one row; `kind` is reading, charge, refund, top_up or unexplained. Answers the row's id.

    The rows of a provider get their ids in the order of their commits: what is booked "since" a reading is found by id.
    """
    lock(connection, provider)
    values = {
        "provider": provider,
        "kind": kind,
        "units": amount.units,
        "currency": amount.currency,
        "order_number": order_number,
        "number_id": number_id,
        "note": note,
        "at": at,
    }
    row: int = connection.execute(_ADD, values).scalar_one()
    return row


def lock(connection: Connection, provider: str) -> None:
    """Nobody else books at this provider until the transaction ends. SQLite has one writer anyway."""
    if connection.dialect.name != "sqlite":
        connection.execute(_LOCK, {"of_provider": provider})


def charged(connection: Connection, order_number: int, currency: str, number_id: int | None = None) -> int:
    """Units booked so far for an order, or for one number of it, in one currency: charges less the refunds that charges
    told of."""
    of: dict[str, object] = {"of_order": order_number, "of_currency": currency}
    if number_id is None:
        return -int(connection.execute(_CHARGED, of).scalar_one())
    return -int(connection.execute(_CHARGED_NUMBER, {**of, "of_number": number_id}).scalar_one())


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
    for less. A refund that the balance has shown already is told only now, and booked no second time."""
    difference = charge.units - charged(connection, order_number, charge.currency, number_id)
    if difference < 0 and number_id is None:
        difference = min(0, difference + _seen_refunds(connection, order_number, charge.currency))
    if difference:
        kind = "charge" if difference > 0 else "refund"
        amount = Money(-difference, charge.currency)
        add(connection, provider, kind, amount, at, order_number=order_number, number_id=number_id, note=note)


def _seen_refunds(connection: Connection, order_number: int, currency: str) -> int:
    of = {"of_order": order_number, "of_currency": currency}
    return int(connection.execute(_SEEN_REFUNDS, of).scalar_one())


def moved_since_reading(connection: Connection) -> dict[str, list[Money]]:
    """Per provider, what was booked since its balance was last read, by currency."""
    rows = connection.execute(_MOVED)
    moved: dict[str, list[Money]] = {}
    for provider, currency, units in rows:
        moved.setdefault(provider, []).append(Money(int(units), currency))
    return moved


def page(connection: Connection, provider: str, *, before: int | None, limit: int) -> list[RowMapping]:
    """Newest first."""
    query = select(ledger).where(ledger.c.provider == provider)
    if before is not None:
        query = query.where(ledger.c.id < before)
    return list(connection.execute(query.order_by(ledger.c.id.desc()).limit(limit)).mappings())
