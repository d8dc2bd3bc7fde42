"""Orders in the database: new ones, loads under a lock, saves with their events, and the claims of the stages.

A save is always an order's row and its events in one transaction; a row that changed since it was loaded is never
overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, insert, or_, select, update

from aggregator.domain.documents import Related
from aggregator.domain.errors import ClaimLost
from aggregator.domain.events import Draft
from aggregator.domain.ids import AttemptId, OrderId, OrderNumber
from aggregator.domain.money import Money
from aggregator.domain.orders import FINAL, FOLLOWED, Order, OrderState
from aggregator.storage import claims, outbox
from aggregator.storage import numbers as number_store
from aggregator.storage import refills as refill_store
from aggregator.storage.tables import numbers, orders


def money(units: int | None, currency: str | None) -> Money | None:
    return None if units is None or currency is None else Money(units, currency)


def order_from(row: RowMapping) -> Order:
    """The typed order of a row."""
    return Order(
        id=OrderId(row["id"]),
        number=OrderNumber(row["number"]),
        owner=row["owner"],
        service=row["service"],
        kind=row["kind"],
        state=OrderState(row["state"]),
        quantity=row["quantity"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        link=row["link"],
        params=row["params"],
        reference=row["reference"],
        metadata=row["metadata"],
        max_cost=money(row["max_cost_units"], row["max_cost_currency"]),
        pinned_provider=row["pinned_provider"],
        callback_url=row["callback_url"],
        parent=OrderId(row["parent"]) if row["parent"] else None,
        provider=row["provider"],
        provider_service=row["provider_service"],
        provider_order=row["provider_order"],
        attempt=AttemptId(row["attempt"]) if row["attempt"] else None,
        expected_cost=money(row["expected_units"], row["expected_currency"]),
        charge=money(row["charge_units"], row["charge_currency"]),
        start_count=row["start_count"],
        remains=row["remains"],
        cancel_state=row["cancel_state"],
        cancel_at=row["cancel_at"],
        error_type=row["error_type"],
        error_detail=row["error_detail"],
        finished_at=row["finished_at"],
        sequence=row["sequence"],
        version=row["version"],
    )


def _columns(order: Order) -> dict[str, Any]:
    """The columns that facts change."""

    def units(value: Money | None) -> int | None:
        return value.units if value is not None else None

    def currency(value: Money | None) -> str | None:
        return value.currency if value is not None else None

    return {
        "state": str(order.state),
        "provider": order.provider,
        "provider_service": order.provider_service,
        "provider_order": order.provider_order,
        "attempt": order.attempt,
        "expected_units": units(order.expected_cost),
        "expected_currency": currency(order.expected_cost),
        "charge_units": units(order.charge),
        "charge_currency": currency(order.charge),
        "start_count": order.start_count,
        "remains": order.remains,
        "cancel_state": order.cancel_state,
        "cancel_at": order.cancel_at,
        "error_type": order.error_type,
        "error_detail": order.error_detail,
        "updated_at": order.updated_at,
        "finished_at": order.finished_at,
    }


# Made once: building the statement anew for each order costs more than running it.
_INSERT = insert(orders).returning(orders.c.number)


def add(connection: Connection, order: Order, drafts: Sequence[Draft], *, give_up_at: datetime) -> Order:
    """Insert a new order with its events; its number is given by the database."""
    row = {
        "id": order.id,
        "owner": order.owner,
        "service": order.service,
        "kind": order.kind,
        "quantity": order.quantity,
        "link": order.link,
        "params": dict(order.params),
        "reference": order.reference,
        "metadata": dict(order.metadata),
        "max_cost_units": order.max_cost.units if order.max_cost else None,
        "max_cost_currency": order.max_cost.currency if order.max_cost else None,
        "pinned_provider": order.pinned_provider,
        "callback_url": order.callback_url,
        "parent": order.parent,
        "created_at": order.created_at,
        "sequence": len(drafts),
        "version": 1,
        "next_route_at": order.created_at,
        "give_up_at": give_up_at,
        **_columns(order),
    }
    number = connection.execute(_INSERT, row).scalar_one()
    stored = replace(order, number=OrderNumber(number), sequence=len(drafts), version=1)
    outbox.append(connection, replace(stored, sequence=0), Related(), drafts, order.created_at)
    return stored


def load(connection: Connection, number: int, *, lock: bool = False) -> Order | None:
    query = select(orders).where(orders.c.number == number)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    return order_from(row) if row is not None else None


def load_for_update(connection: Connection, number: int) -> Order:
    """The order, locked until the transaction ends; LookupError when there is none."""
    order = load(connection, number, lock=True)
    if order is None:
        raise LookupError(f"order {number}")
    return order


def find(connection: Connection, reference: str, owner: str | None) -> Order | None:
    """By id or number; with an owner, only theirs."""
    match: ColumnElement[bool]
    if reference.isascii() and reference.isdigit() and len(reference) <= 18:
        match = orders.c.number == int(reference)
    else:
        match = orders.c.id == reference
    if owner is not None:
        match = and_(match, orders.c.owner == owner)
    row = connection.execute(select(orders).where(match)).mappings().one_or_none()
    return order_from(row) if row is not None else None


def related(connection: Connection, order: Order) -> Related:
    """Numbers, refills and children of an order."""
    return related_of(connection, [order])[order.id]


def related_of(connection: Connection, group: Sequence[Order]) -> dict[OrderId, Related]:
    """The same for many orders with one query per table."""
    by_number = {order.number: order.id for order in group}
    rented = number_store.of_orders(connection, {o.number: o.id for o in group if o.kind == "sms" and o.provider_order})
    topped = refill_store.of_orders(
        connection, {o.number: o.id for o in group if o.state in FINAL and o.provider_order}
    )
    return {
        order_id: Related(numbers=rented.get(order_id, ()), refills=topped.get(order_id, ()))
        for order_id in by_number.values()
    }


def save(
    connection: Connection,
    before: Order,
    after: Order,
    drafts: Sequence[Draft],
    at: datetime,
    **columns: object,
) -> Order:
    """Write what a fact made of an order, its events with it; ClaimLost when the row changed since it was loaded.

    `columns` are due times and claims of the stage that saves.
    """
    stored = replace(after, sequence=before.sequence + len(drafts), version=before.version + 1)
    result = connection.execute(
        update(orders)
        .where(orders.c.number == before.number, orders.c.version == before.version)
        .values({**_columns(stored), "sequence": stored.sequence, "version": stored.version, **columns})
    )
    if result.rowcount != 1:
        raise ClaimLost(f"order {before.number}")
    if drafts:
        outbox.append(connection, replace(stored, sequence=before.sequence), related(connection, stored), drafts, at)
    return stored


@dataclass(frozen=True, slots=True)
class Filters:
    """What `GET /v1/orders` can ask for; None does not filter."""

    owner: str | None = None
    state: OrderState | None = None
    service: str | None = None
    provider: str | None = None
    reference: str | None = None
    since: datetime | None = None


def page(connection: Connection, filters: Filters, *, before: int | None, limit: int) -> list[Order]:
    """Newest first, numbers below `before`."""
    query = select(orders).order_by(orders.c.number.desc()).limit(limit)
    for column, value in (
        (orders.c.owner, filters.owner),
        (orders.c.state, str(filters.state) if filters.state else None),
        (orders.c.service, filters.service),
        (orders.c.provider, filters.provider),
        (orders.c.reference, filters.reference),
    ):
        if value is not None:
            query = query.where(column == value)
    if filters.since is not None:
        query = query.where(orders.c.created_at >= filters.since)
    if before is not None:
        query = query.where(orders.c.number < before)
    return [order_from(row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True, slots=True)
class Unrouted:
    """A claimed order that waits for a provider."""

    order: Order
    round: int
    give_up_at: datetime


def claim_unrouted(connection: Connection, now: datetime, *, limit: int, lease_s: float, token: str) -> list[Unrouted]:
    rows = claims.claim(
        connection,
        orders,
        orders.c.number,
        where=and_(orders.c.state == "accepted", orders.c.next_route_at <= now),
        order_by=(orders.c.next_route_at, orders.c.number),
        limit=limit,
        now=now,
        lease_s=lease_s,
        token=token,
    )
    return [Unrouted(order_from(row), row["round"], row["give_up_at"]) for row in rows]


def release_unrouted(
    connection: Connection, number: int, token: str, *, next_route_at: datetime, **values: object
) -> None:
    """End the claim of an order that is still accepted; ClaimLost when it is not, or not ours any more."""
    result = connection.execute(
        update(orders)
        .where(orders.c.number == number, orders.c.claim_token == token, orders.c.state == "accepted")
        .values(claim_token=None, claimed_until=None, next_route_at=next_route_at, **values)
    )
    if result.rowcount != 1:
        raise ClaimLost(f"order {number}")


def reroute(connection: Connection, numbers: Sequence[int], at: datetime) -> None:
    """Accepted orders whose plan was dropped look for an offer again."""
    for start in range(0, len(numbers), 500):
        some = numbers[start : start + 500]
        connection.execute(
            update(orders).where(orders.c.number.in_(some), orders.c.state == "accepted").values(next_route_at=at)
        )


def plan_is_stale(connection: Connection, number: int, now: datetime) -> bool:
    """Whether the time is over for which an accepted order's plan is good."""
    due: datetime | None = connection.execute(select(orders.c.next_route_at).where(orders.c.number == number)).scalar()
    return due is not None and due <= now


def give_up_at(connection: Connection, number: int) -> datetime:
    """When an order that nobody took fails."""
    deadline: datetime = connection.execute(select(orders.c.give_up_at).where(orders.c.number == number)).scalar_one()
    return deadline


def known_elsewhere(connection: Connection, provider: str, provider_order: str, number: int) -> bool:
    """Whether another order already has this id of this provider, as its own or as that of a number it rented."""
    bought = select(orders.c.number).where(
        orders.c.provider == provider, orders.c.provider_order == provider_order, orders.c.number != number
    )
    rented = select(numbers.c.order_number).where(
        numbers.c.provider == provider, numbers.c.provider_order == provider_order, numbers.c.order_number != number
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in (bought, rented))


def due_refills(connection: Connection, now: datetime, *, limit: int) -> list[int]:
    """Orders that dropped and whose time for a refill has come."""
    query = select(orders.c.number).where(orders.c.next_refill_at <= now).order_by(orders.c.next_refill_at)
    return [row[0] for row in connection.execute(query.limit(limit))]


def set_refill_due(connection: Connection, number: int, due: datetime | None) -> None:
    connection.execute(update(orders).where(orders.c.number == number).values(next_refill_at=due))


def counts(connection: Connection) -> dict[str, int]:
    """Orders not finished, by state; for metrics and the CLI."""
    open_states = [str(state) for state in OrderState if state not in FINAL]
    rows = connection.execute(
        select(orders.c.state, func.count()).where(orders.c.state.in_(open_states)).group_by(orders.c.state)
    )
    return {row[0]: row[1] for row in rows}


def open_at(connection: Connection, provider: str) -> int:
    """Bought orders of a provider that are still followed."""
    states = [str(state) for state in FOLLOWED]
    query = select(func.count()).where(orders.c.provider == provider, orders.c.state.in_(states))
    return connection.execute(query).scalar_one()


def same_link_open(connection: Connection, order: Order) -> bool:
    """Whether another unfinished order, or one bought later, works on the same link and service."""
    if order.link is None:
        return False
    query = (
        select(orders.c.number)
        .where(
            orders.c.link == order.link,
            orders.c.service == order.service,
            orders.c.number != order.number,
            or_(
                orders.c.finished_at.is_(None),
                and_(orders.c.number > order.number, orders.c.provider_order.is_not(None)),
            ),
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None
