"""Rented numbers in the database: inserted with the purchase, claimed for code checks, saved with their events.

A number's id is one that no order has, or the number of its own order: the panel door gives both out as ids, and gives
them out before anything is rented.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, and_, bindparam, case, insert, select, update

from aggregator.domain.clock import parse_rfc3339, rfc3339
from aggregator.domain.errors import ClaimLost
from aggregator.domain.ids import OrderId
from aggregator.domain.money import Money
from aggregator.domain.numbers import Code, Number, NumberState, Place
from aggregator.domain.orders import FINAL, Order
from aggregator.domain.sizes import MAX_COUNTRY, MAX_PHONE
from aggregator.storage import claims, order_numbers
from aggregator.storage.tables import number_ids, numbers, orders


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
    rented = list(rented)
    connection.execute(
        insert(numbers),
        [
            {
                "id": number_id,
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
            for number_id, (provider_order, phone, country) in zip(
                _free_ids(connection, order_number, len(rented)), rented, strict=True
            )
        ],
    )


def reserve_ids(connection: Connection, order_number: int, count: int) -> None:
    """Give the numbers that an order asks for their ids, so that they can be named before they are rented."""
    if count > 1:
        fresh = order_numbers.reserve(connection, count - 1)
        connection.execute(insert(number_ids), [{"id": one, "order_number": order_number} for one in fresh])


def ids_of(connection: Connection, order_number: int) -> list[int]:
    """The ids that were given to an order's numbers, rented or not; the order's own number is the first."""
    query = select(number_ids.c.id).where(number_ids.c.order_number == order_number).order_by(number_ids.c.id)
    return [order_number, *connection.execute(query).scalars()]


def order_of(connection: Connection, number_id: int) -> int | None:
    """The number of the order that a number's id was given to."""
    for query in (
        select(numbers.c.order_number).where(numbers.c.id == number_id),
        select(number_ids.c.order_number).where(number_ids.c.id == number_id),
        select(orders.c.number).where(orders.c.number == number_id, orders.c.kind == "sms"),
    ):
        if (found := connection.execute(query).scalar()) is not None:
            return int(found)
    return None


def _free_ids(connection: Connection, order_number: int, count: int) -> list[int]:
    """Ids for numbers that were just rented: those that were given out for the order, and new ones where a provider
    rents more than it was asked for. Numbers rented by earlier releases have ids that orders have, too."""
    given = ids_of(connection, order_number)
    taken = set(connection.execute(select(numbers.c.id).where(numbers.c.id.in_(given))).scalars())
    free = [one for one in given if one not in taken][:count]
    return [*free, *order_numbers.reserve(connection, count - len(free))]


_OF_ORDERS: Final = (
    select(numbers).where(numbers.c.order_number.in_(bindparam("orders", expanding=True))).order_by(numbers.c.id)
)


def of_orders(connection: Connection, owners: Mapping[int, OrderId]) -> dict[OrderId, tuple[Number, ...]]:
    if not owners:
        return {}
    rows = connection.execute(_OF_ORDERS, {"orders": list(owners)}).mappings()
    found: dict[OrderId, list[Number]] = {}
    for row in rows:
        order = owners[row["order_number"]]
        found.setdefault(order, []).append(number_from(row, order))
    return {order: tuple(group) for order, group in found.items()}


@dataclass(frozen=True, slots=True)
class Rental:
    """What is known of an order's numbers: those that it rented, and the ids given to all that it asked for."""

    order: Order
    ids: tuple[int, ...]
    rented: Mapping[int, Number]
    countries: Mapping[int, str]

    @property
    def over(self) -> bool:
        """Whether no further number will come: the order was bought, or ended."""
        return bool(self.rented) or self.order.state in FINAL


def rental(connection: Connection, order: Order) -> Rental:
    """An SMS order with its numbers."""
    query = select(numbers).where(numbers.c.order_number == order.number).order_by(numbers.c.id)
    rows = connection.execute(query).mappings().all()
    return Rental(
        order=order,
        ids=tuple(ids_of(connection, order.number)),
        rented={row["id"]: number_from(row, order.id) for row in rows},
        countries={row["id"]: row["country"] for row in rows},
    )


_WAITING: Final = (
    select(numbers.c.provider)
    .where(numbers.c.next_check_at <= claims.NOW, claims.unclaimed(numbers))
    .group_by(numbers.c.provider)
)
_DUE: Final = claims.Claimable(
    numbers,
    numbers.c.id,
    where=and_(numbers.c.provider == bindparam("of_provider"), numbers.c.next_check_at <= claims.NOW),
    # Somebody waits for the code of a number that has none; one that is over may be late by a check.
    order_by=(case((numbers.c.state == "waiting", 0), else_=1), numbers.c.next_check_at, numbers.c.id),
)


def due(connection: Connection, now: datetime) -> set[str]:
    """The providers at which some number is due for a check."""
    return {row[0] for row in connection.execute(_WAITING, {"now": now})}


def claim_due(
    connection: Connection, provider: str, now: datetime, *, limit: int, lease_s: float, token: str
) -> list[RowMapping]:
    return claims.claim(connection, _DUE, now, limit=limit, lease_s=lease_s, token=token, of_provider=provider)


_SAVE: Final = (
    update(numbers)
    .where(numbers.c.id == bindparam("of"), numbers.c.claim_token == bindparam("held_by"))
    .values(asked_at=claims.still_asked(numbers))
)


def save(
    connection: Connection,
    number: Number,
    *,
    token: str,
    next_check_at: datetime | None,
    checks: int,
    answered_to: datetime | None = None,
) -> None:
    """Write a number's new state and end its claim; ClaimLost when it was claimed anew since. `answered_to`: the
    question of `books.ask_again` that the provider answered."""
    values = {
        "phone": number.phone[:MAX_PHONE],
        "state": str(number.state),
        "codes": [_code(number, index, code) for index, code in enumerate(number.codes)],
        "charge_units": number.charge.units if number.charge else None,
        "charge_currency": number.charge.currency if number.charge else None,
        "expires_at": number.expires_at,
        "next_check_at": next_check_at,
        "checks": checks,
        "claim_token": None,
        "claimed_until": None,
    }
    of = {"of": number.id, "held_by": token, "answered_to": answered_to}
    result = connection.execute(_SAVE, {**of, **values})
    if result.rowcount != 1:
        raise ClaimLost(f"number {number.id}")


def _code(number: Number, index: int, code: Code) -> dict[str, object]:
    """A code as it is kept, with the ways to ask that showed it last."""
    shown_by = {
        place.source: rfc3339(place.at) if place.at else None for place in number.places if place.index == index
    }
    kept: dict[str, object] = {"code": code.code, "text": code.text, "received_at": rfc3339(code.received_at)}
    return {**kept, "shown_by": shown_by} if shown_by else kept
