"""Orders in the database: new ones, loads under a lock, saves with their events, and the claims of the stages.

A save is always an order's row and its events in one transaction; a row that changed since it was loaded is never
overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from aggregator.domain.documents import Related
from aggregator.domain.errors import ClaimLost, Problem, ProblemKind
from aggregator.domain.events import Draft
from aggregator.domain.ids import AttemptId, OrderId, OrderNumber
from aggregator.domain.money import Money
from aggregator.domain.orders import FINAL, Order, OrderState, Role, numbered
from aggregator.storage import cancels as cancel_store
from aggregator.storage import claims, order_numbers, outbox
from aggregator.storage import numbers as number_store
from aggregator.storage import refills as refill_store
from aggregator.storage.bulk import Rows
from aggregator.storage.tables import TO_ROUTE, numbers, orders, removed_purchases
from aggregator.storage.types import Instant


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
        role=Role(row["role"]),
        parent=OrderId(row["parent"]) if row["parent"] else None,
        ordinal=row["ordinal"],
        provider=row["provider"],
        provider_service=row["provider_service"],
        provider_order=row["provider_order"],
        attempt=AttemptId(row["attempt"]) if row["attempt"] else None,
        expected_cost=money(row["expected_units"], row["expected_currency"]),
        charge=money(row["charge_units"], row["charge_currency"]),
        start_count=row["start_count"],
        remains=row["remains"],
        provider_children=tuple(row["provider_children"] or ()),
        count=row["count"],
        count_at=row["count_at"],
        stuck_at=row["stuck_at"],
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
        "provider_children": list(order.provider_children) or None,
        "count": order.count,
        "count_at": order.count_at,
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
        "role": str(order.role),
        "parent": order.parent,
        "ordinal": order.ordinal,
        "created_at": order.created_at,
        "sequence": len(drafts),
        "version": 1,
        "next_route_at": None if order.role is Role.PARENT else order.created_at,
        "next_run_at": order.created_at if order.role is Role.PARENT else None,
        "give_up_at": give_up_at,
        **_columns(order),
    }
    number = connection.execute(_INSERT, row).scalar_one()
    stored = replace(order, number=OrderNumber(number), sequence=len(drafts), version=1)
    if order.kind == "sms":
        number_store.reserve_ids(connection, number, order.quantity)
    outbox.append(connection, replace(stored, sequence=0), Related(), drafts, order.created_at)
    return stored


_BORN: Final = Rows(
    orders,
    *("number", "id", "owner", "service", "kind", "state", "quantity", "link", "params", "reference", "metadata"),
    *("max_cost_units", "max_cost_currency", "pinned_provider", "callback_url", "role", "created_at", "updated_at"),
    *("sequence", "version", "next_route_at", "next_run_at", "give_up_at"),
)


def add_all(connection: Connection, born: Sequence[tuple[Order, datetime]]) -> list[Order]:
    """Insert new orders of callers (`sequence` and `version` 1), each with the time when it gives up, and their events
    `order.accepted`: what `add` does for one, in a few statements altogether. They get their numbers in place."""
    numbers_given = order_numbers.following(connection, len(born))
    stored = [numbered(order, number) for (order, _), number in zip(born, numbers_given, strict=True)]
    rows = []
    for order, (_, give_up_at) in zip(stored, born, strict=True):
        parent, limit = order.role is Role.PARENT, order.max_cost
        rows.append(
            (
                order.number,
                order.id,
                order.owner,
                order.service,
                order.kind,
                "accepted",
                order.quantity,
                order.link,
                dict(order.params),
                order.reference,
                dict(order.metadata),
                limit.units if limit is not None else None,
                limit.currency if limit is not None else None,
                order.pinned_provider,
                order.callback_url,
                str(order.role),
                order.created_at,
                order.created_at,
                1,
                1,
                None if parent else order.created_at,
                order.created_at if parent else None,
                give_up_at,
            )
        )
    _BORN.insert(connection, rows)
    for order in stored:
        if order.kind == "sms":
            number_store.reserve_ids(connection, order.number, order.quantity)
    outbox.append_accepted(connection, stored)
    return stored


_LOAD: Final = select(orders).where(orders.c.number == bindparam("of"))
_LOCK: Final = _LOAD.with_for_update()


def load(connection: Connection, number: int, *, lock: bool = False) -> Order | None:
    row = connection.execute(_LOCK if lock else _LOAD, {"of": number}).mappings().one_or_none()
    return order_from(row) if row is not None else None


def load_for_update(connection: Connection, number: int) -> Order:
    """The order, locked until the transaction ends; Problem UNKNOWN_ORDER: there is none, or it was just removed."""
    order = load(connection, number, lock=True)
    if order is None:
        raise Problem(ProblemKind.UNKNOWN_ORDER, "no such order")
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


def find_many(connection: Connection, numbers: Sequence[int], owner: str | None) -> list[Order]:
    """Those of these orders that there are; with an owner, only theirs."""
    if not numbers:
        return []
    query = select(orders).where(orders.c.number.in_(numbers)).order_by(orders.c.number)
    if owner is not None:
        query = query.where(orders.c.owner == owner)
    return [order_from(row) for row in connection.execute(query).mappings()]


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
    made = _children(connection, [o.id for o in group if may_have_children(o)])
    said = cancel_store.details(connection, [o.number for o in group if o.cancel_state is not None])
    return {
        order_id: Related(
            numbers=rented.get(order_id, ()),
            refills=topped.get(order_id, ()),
            children=made.get(order_id, ()),
            cancel_detail=said.get(number),
        )
        for number, order_id in by_number.items()
    }


def may_have_children(order: Order) -> bool:
    """Parents have runs; what ended with pieces missing may have a remainder. Others are not looked up."""
    return order.role is Role.PARENT or (order.state in FINAL and order.provider_order is not None)


_CHILDREN: Final = (
    select(orders.c.parent, orders.c.id)
    .where(orders.c.parent.in_(bindparam("parents", expanding=True)))
    .order_by(orders.c.number)
)


def _children(connection: Connection, parents: Sequence[OrderId]) -> dict[OrderId, list[OrderId]]:
    if not parents:
        return {}
    found: dict[OrderId, list[OrderId]] = {}
    for parent, child in connection.execute(_CHILDREN, {"parents": list(parents)}):
        found.setdefault(OrderId(parent), []).append(OrderId(child))
    return found


# The columns to set are those that a row of parameters names.
_UPDATE = update(orders).where(orders.c.number == bindparam("of"), orders.c.version == bindparam("read_version"))


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
    statement = _UPDATE
    if (due := columns.get("next_refill_at")) is not None:
        # What is planned for later waits for a cooldown, or for the time that the provider named.
        later = orders.c.next_refill_at > due
        wait = case((later, orders.c.next_refill_at), else_=literal(columns.pop("next_refill_at"), Instant()))
        statement = _UPDATE.values(next_refill_at=wait)
    written = _columns(stored) | {"sequence": stored.sequence, "version": stored.version} | columns
    result = connection.execute(statement, {"of": before.number, "read_version": before.version, **written})
    if result.rowcount != 1:
        raise ClaimLost(f"order {before.number}")
    if before.parent is not None:
        _tell_parent(connection, before.parent, at)
    if drafts:
        outbox.append(connection, replace(stored, sequence=before.sequence), related(connection, stored), drafts, at)
    return stored


def _tell_parent(connection: Connection, parent: OrderId, at: datetime) -> None:
    """The figures of whoever's run this is, or of whose run it is the rest, are to be added up anew."""
    above: str | None = parent
    while above is not None:
        done = connection.execute(
            update(orders).where(orders.c.id == above, orders.c.role == "parent").values(next_sum_at=at)
        )
        if done.rowcount:
            return
        above = connection.execute(select(orders.c.parent).where(orders.c.id == above)).scalar()


def any_order(connection: Connection) -> bool:
    return connection.execute(select(orders.c.number).limit(1)).first() is not None


@dataclass(frozen=True, slots=True)
class Filters:
    """What `GET /v1/orders` can ask for; None does not filter."""

    owner: str | None = None
    state: OrderState | None = None
    service: str | None = None
    provider: str | None = None
    reference: str | None = None
    parent: str | None = None
    since: datetime | None = None
    stuck: bool | None = None


def page(connection: Connection, filters: Filters, *, before: int | None, limit: int) -> list[Order]:
    """Newest first, numbers below `before`."""
    query = select(orders).order_by(orders.c.number.desc()).limit(limit)
    for column, value in (
        (orders.c.owner, filters.owner),
        (orders.c.state, str(filters.state) if filters.state else None),
        (orders.c.service, filters.service),
        (orders.c.provider, filters.provider),
        (orders.c.reference, filters.reference),
        (orders.c.parent, filters.parent),
    ):
        if value is not None:
            query = query.where(column == value)
    if filters.since is not None:
        query = query.where(orders.c.created_at >= filters.since)
    if filters.stuck is not None:
        query = query.where(orders.c.stuck_at.is_not(None) if filters.stuck else orders.c.stuck_at.is_(None))
    if before is not None:
        query = query.where(orders.c.number < before)
    return [order_from(row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True, slots=True)
class Unrouted:
    """A claimed order that waits for a provider."""

    order: Order
    round: int
    give_up_at: datetime


_TO_ROUTE: Final = claims.Claimable(
    orders,
    orders.c.number,
    where=and_(TO_ROUTE, orders.c.next_route_at <= claims.NOW),
    order_by=(orders.c.next_route_at, orders.c.number),
)


_RELEASE: Final = update(orders).where(
    orders.c.number == bindparam("of"), orders.c.claim_token == bindparam("held"), orders.c.state == "accepted"
)


def claim_unrouted(connection: Connection, now: datetime, *, limit: int, lease_s: float, token: str) -> list[Unrouted]:
    rows = claims.claim(connection, _TO_ROUTE, now, limit=limit, lease_s=lease_s, token=token)
    return [Unrouted(order_from(row), row["round"], row["give_up_at"]) for row in rows]


def look_again(connection: Connection, now: datetime) -> None:
    """Orders that nobody could take look for an offer at once: somebody may be there who was not."""
    waiting = update(orders).where(TO_ROUTE, orders.c.error_type == "waiting", orders.c.claim_token.is_(None))
    connection.execute(waiting.values(next_route_at=now))


def release_unrouted(
    connection: Connection, number: int, token: str, *, next_route_at: datetime, **values: object
) -> None:
    """End the claim of an order that is still accepted; ClaimLost when it is not, or not ours any more."""
    columns = {"claim_token": None, "claimed_until": None, "next_route_at": next_route_at, **values}
    result = connection.execute(_RELEASE, {"of": number, "held": token, **columns})
    if result.rowcount != 1:
        raise ClaimLost(f"order {number}")


def reroute(connection: Connection, numbers: Sequence[int], at: datetime) -> None:
    """Accepted orders whose plan was dropped look for an offer again."""
    for start in range(0, len(numbers), 500):
        some = numbers[start : start + 500]
        connection.execute(
            update(orders).where(orders.c.number.in_(some), orders.c.state == "accepted").values(next_route_at=at)
        )


_NEXT_ROUTE: Final = select(orders.c.next_route_at).where(orders.c.number == bindparam("of"))


def plan_is_stale(connection: Connection, number: int, now: datetime) -> bool:
    """Whether the time is over for which an accepted order's plan is good."""
    due: datetime | None = connection.execute(_NEXT_ROUTE, {"of": number}).scalar()
    return due is not None and due <= now


def give_up_at(connection: Connection, number: int) -> datetime:
    """When an order that nobody took fails."""
    deadline: datetime = connection.execute(select(orders.c.give_up_at).where(orders.c.number == number)).scalar_one()
    return deadline


_ELSEWHERE: Final = tuple(
    select(mine)
    .where(
        mine.table.c.provider == bindparam("of_provider"),
        mine.table.c.provider_order == bindparam("theirs"),
        mine != bindparam("of"),
    )
    .limit(1)
    for mine in (orders.c.number, numbers.c.order_number, removed_purchases.c.order_number)
)


def known_elsewhere(connection: Connection, provider: str, provider_order: str, number: int) -> bool:
    """Whether another order already has this id of this provider, as its own or as that of a number it rented; or had
    it, and is removed."""
    of = {"of_provider": provider, "theirs": provider_order, "of": number}
    return any(connection.execute(query, of).first() is not None for query in _ELSEWHERE)


def due_refills(connection: Connection, now: datetime, *, limit: int) -> list[int]:
    """Orders that dropped and whose time for a refill has come."""
    query = select(orders.c.number).where(orders.c.next_refill_at <= now).order_by(orders.c.next_refill_at)
    return [row[0] for row in connection.execute(query.limit(limit))]


_SET_REFILL_DUE: Final = update(orders).where(orders.c.number == bindparam("of"))


def set_refill_due(connection: Connection, number: int, due: datetime | None) -> None:
    connection.execute(_SET_REFILL_DUE, {"of": number, "next_refill_at": due})


def refill_due(connection: Connection, number: int) -> datetime | None:
    """When a refill of the order is thought of next."""
    due: datetime | None = connection.execute(select(orders.c.next_refill_at).where(orders.c.number == number)).scalar()
    return due


def counts(connection: Connection) -> dict[str, int]:
    """Orders not finished, by state; for metrics and the CLI."""
    open_states = [str(state) for state in OrderState if state not in FINAL]
    rows = connection.execute(
        select(orders.c.state, func.count()).where(orders.c.state.in_(open_states)).group_by(orders.c.state)
    )
    return {row[0]: row[1] for row in rows}


_OTHER_ON_LINK: Final = (
    select(orders.c.number)
    .where(
        orders.c.link == bindparam("of_link"),
        orders.c.number != bindparam("of"),
        # One that perhaps was bought may work there just as well.
        or_(orders.c.provider_order.is_not(None), orders.c.state.in_(["placing", "unclear"])),
        or_(orders.c.finished_at.is_(None), orders.c.finished_at > bindparam("since")),
    )
    .limit(1)
)


def other_on_link(connection: Connection, order: Order, since: datetime) -> bool:
    """Whether another order was bought for the same link and still worked on it after `since`: then nobody can tell
    whose pieces are gone."""
    if order.link is None:
        return False
    of = {"of_link": order.link, "of": order.number, "since": since}
    return connection.execute(_OTHER_ON_LINK, of).first() is not None


def due_counts(connection: Connection, now: datetime) -> bool:
    """Whether the count of some order is to be asked for now."""
    query = select(orders.c.number).where(orders.c.next_count_at <= now).limit(1)
    return connection.execute(query).first() is not None


_COUNTS_DUE: Final = (
    select(orders.c.number)
    .where(orders.c.next_count_at <= bindparam("now"))
    .order_by(orders.c.next_count_at)
    .limit(bindparam("at_most", type_=Integer()))
)


def take_due_counts(connection: Connection, now: datetime, until: datetime, *, limit: int) -> list[Order]:
    """Orders whose count at the link is to be asked for now; they are due again at `until` if nobody says otherwise."""
    keys = [row[0] for row in connection.execute(_COUNTS_DUE, {"now": now, "at_most": limit})]
    if not keys:
        return []
    connection.execute(update(orders).where(orders.c.number.in_(keys)).values(next_count_at=until))
    rows = connection.execute(select(orders).where(orders.c.number.in_(keys)).order_by(orders.c.number))
    return [order_from(row) for row in rows.mappings()]


def set_count_due(connection: Connection, number: int, due: datetime | None) -> None:
    connection.execute(update(orders).where(orders.c.number == number).values(next_count_at=due))


def polls_of(connection: Connection, number: int) -> int:
    """How often an order was polled."""
    return int(connection.execute(select(orders.c.polls).where(orders.c.number == number)).scalar_one())


def placed_at(connection: Connection, number: int) -> datetime:
    """When an order was bought, or made where nobody knows."""
    row = connection.execute(select(orders.c.placed_at, orders.c.created_at).where(orders.c.number == number)).one()
    found: datetime = row[0] or row[1]
    return found
