"""Rented numbers in the database: inserted with the purchase, claimed for code checks, saved with their events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, and_, bindparam, insert, select, update

from aggregator.domain.clock import parse_rfc3339, rfc3339
from aggregator.domain.errors import ClaimLost
from aggregator.domain.ids import OrderId
from aggregator.domain.money import Money
from aggregator.domain.numbers import Code, Number, NumberState, Place
from aggregator.domain.sizes import MAX_COUNTRY, MAX_PHONE
from aggregator.storage import claims
from aggregator.storage.tables import numbers


def number_from(row: RowMapping, order: OrderId) -> Number:
    units, currency = row["charge_units"], row["charge_currency"]
    return Number(
        id=row["id"],
        number=row["id"],
        order=order,
        provider=row["provider"],
        provider_order=row["provider_order"],
        phone=row["phone"],
        state=NumberState(row["state"]),
        codes=tuple(Code(code["code"], code["text"], parse_rfc3339(code["received_at"])) for code in row["codes"]),
        charge=Money(units, currency) if units is not None else None,
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        places=tuple(
            Place(source, index, parse_rfc3339(at) if at else None)
            for index, code in enumerate(row["codes"])
            for source, at in code.get("shown_by", {}).items()
        ),
    )


def add(
    connection: Connection,
    order_number: int,
    provider: str,
    rented: Iterable[tuple[str, str, str]],
    at: datetime,
    next_check_at: datetime,
) -> None:
    """Insert rented numbers: (provider order, phone, country) each."""
    connection.execute(
        insert(numbers),
        [
            {
                "order_number": order_number,
                "provider": provider,
                "provider_order": provider_order,
                # A purchase must be recorded, whatever stands where a phone should be.
                "phone": phone[:MAX_PHONE],
                "country": country[:MAX_COUNTRY],
                "state": "waiting",
                "codes": [],
                "created_at": at,
                "next_check_at": next_check_at,
            }
            for provider_order, phone, country in rented
        ],
    )


def of_orders(connection: Connection, owners: Mapping[int, OrderId]) -> dict[OrderId, tuple[Number, ...]]:
    if not owners:
        return {}
    rows = connection.execute(
        select(numbers).where(numbers.c.order_number.in_(list(owners))).order_by(numbers.c.id)
    ).mappings()
    found: dict[OrderId, list[Number]] = {}
    for row in rows:
        order = owners[row["order_number"]]
        found.setdefault(order, []).append(number_from(row, order))
    return {order: tuple(group) for order, group in found.items()}


_WAITING: Final = (
    select(numbers.c.provider)
    .where(numbers.c.next_check_at <= claims.NOW, claims.unclaimed(numbers))
    .group_by(numbers.c.provider)
)
_DUE: Final = claims.Claimable(
    numbers,
    numbers.c.id,
    where=and_(numbers.c.provider == bindparam("of_provider"), numbers.c.next_check_at <= claims.NOW),
    order_by=(numbers.c.next_check_at, numbers.c.id),
)


def due(connection: Connection, now: datetime) -> set[str]:
    """The providers at which some number is due for a check."""
    return {row[0] for row in connection.execute(_WAITING, {"now": now})}


def claim_due(
    connection: Connection, provider: str, now: datetime, *, limit: int, lease_s: float, token: str
) -> list[RowMapping]:
    return claims.claim(connection, _DUE, now, limit=limit, lease_s=lease_s, token=token, of_provider=provider)


def save(connection: Connection, number: Number, *, token: str, next_check_at: datetime | None, checks: int) -> None:
    """Write a number's new state and end its claim; ClaimLost when it was claimed anew since."""
    result = connection.execute(
        update(numbers)
        .where(numbers.c.id == number.id, numbers.c.claim_token == token)
        .values(
            phone=number.phone[:MAX_PHONE],
            state=str(number.state),
            codes=[_code(number, index, code) for index, code in enumerate(number.codes)],
            charge_units=number.charge.units if number.charge else None,
            charge_currency=number.charge.currency if number.charge else None,
            expires_at=number.expires_at,
            next_check_at=next_check_at,
            checks=checks,
            claim_token=None,
            claimed_until=None,
        )
    )
    if result.rowcount != 1:
        raise ClaimLost(f"number {number.id}")


def _code(number: Number, index: int, code: Code) -> dict[str, object]:
    """A code as it is kept, with the ways to ask that showed it last."""
    shown_by = {
        place.source: rfc3339(place.at) if place.at else None for place in number.places if place.index == index
    }
    kept: dict[str, object] = {"code": code.code, "text": code.text, "received_at": rfc3339(code.received_at)}
    return {**kept, "shown_by": shown_by} if shown_by else kept
