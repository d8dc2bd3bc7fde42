"""Finished orders with all that belongs to them: which of them the database lets go, and how they go.

Never removes a line of a ledger, and keeps the providers' ids of what was bought: an id that was ours once is never
taken for another purchase. How old is old, and how long a guarantee runs, flow/removal.py says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, insert, or_, select, union_all, update
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.domain.orders import RESTORED
from aggregator.storage.tables import (
    AT_WORK,
    accounts,
    attempts,
    cancels,
    deliveries,
    events,
    idempotency_keys,
    number_ids,
    numbers,
    orders,
    providers,
    refills,
    removed_purchases,
    sequences,
)

POSITIONS_REMOVED: Final = "positions_removed"
"""The row of `sequences` that counts the positions whose events are gone."""
REMOVING: Final = "removing:"
"""How rows of `sequences` are called that hold the number of an order whose family is being removed in parts."""
_AT_ONCE: Final = 500
"""Numbers in one statement."""
_ORDER_ID: Final = re.compile(r"ord_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk through the orders at rest has come to."""

    finished_at: datetime
    number: int


@dataclass(frozen=True, slots=True)
class Member:
    """Of an order what says whether it may go."""

    number: int
    id: str
    kind: str
    state: str
    service: str
    provider: str | None
    provider_service: str | None
    link: str | None
    finished_at: datetime | None
    updated_at: datetime
    at_rest: bool
    """Whether it is over, and nobody looks after it any more."""


@dataclass(frozen=True, slots=True)
class Due:
    """Where a walk through the orders that are due to be looked at has come to."""

    at: datetime
    number: int


Families = Mapping[int, Sequence[Member]]
"""Orders with all that was made of them, by the number of the one that a caller asked for; ascending numbers."""

_RESTING: Final = and_(
    orders.c.finished_at.is_not(None),
    orders.c.parent.is_(None),
    orders.c.next_poll_at.is_(None),
    orders.c.next_refill_at.is_(None),
    orders.c.next_count_at.is_(None),
    orders.c.next_remainder_at.is_(None),
    orders.c.next_sum_at.is_(None),
)
_DUE_TIMES: Final = ("next_poll_at", "next_refill_at", "next_count_at", "next_remainder_at", "next_sum_at")
_MEMBER: Final = select(
    orders.c.number,
    orders.c.id,
    orders.c.parent,
    orders.c.kind,
    orders.c.state,
    orders.c.service,
    orders.c.provider,
    orders.c.provider_service,
    orders.c.link,
    orders.c.finished_at,
    orders.c.updated_at,
    *(orders.c[name] for name in _DUE_TIMES),
).order_by(orders.c.number)
_THESE: Final[Any] = bindparam("these", expanding=True)
_GENERATION: Final = _MEMBER.where(orders.c.parent.in_(_THESE))
_ROOTS: Final = _MEMBER.where(orders.c.number.in_(_THESE), orders.c.parent.is_(None))
# Whatever is still to be done for an order, or with it.
_OPEN: Final = union_all(
    select(attempts.c.order_number).where(
        attempts.c.order_number.in_(_THESE), attempts.c.state.in_(["planned", "placing", "unclear"])
    ),
    select(refills.c.order_number).where(
        refills.c.order_number.in_(_THESE), refills.c.state.not_in(["completed", "rejected"])
    ),
    select(cancels.c.order_number).where(cancels.c.order_number.in_(_THESE), cancels.c.state == "requested"),
    select(numbers.c.order_number).where(
        numbers.c.order_number.in_(_THESE), or_(numbers.c.state == "waiting", numbers.c.next_check_at.is_not(None))
    ),
    select(events.c.order_number).where(events.c.order_number.in_(_THESE), events.c.position.is_(None)),
    select(events.c.order_number)
    .join(deliveries, deliveries.c.event_seq == events.c.seq)
    .where(events.c.order_number.in_(_THESE), deliveries.c.state != "delivered"),
)

_TOLD: Final = select(func.count(events.c.position)).where(events.c.order_number.in_(_THESE))
_BOUGHT: Final = tuple(
    select(table.c.provider, table.c.provider_order, number).where(
        number.in_(_THESE), table.c.provider_order.is_not(None)
    )
    for table, number in (
        (orders, orders.c.number),
        (attempts, attempts.c.order_number),
        (numbers, numbers.c.order_number),
    )
)
# What refers to something goes before it.
_REMOVE: Final = (
    delete(deliveries).where(deliveries.c.event_seq.in_(select(events.c.seq).where(events.c.order_number.in_(_THESE)))),
    *(
        delete(table).where(table.c.order_number.in_(_THESE))
        for table in (events, accounts, cancels, refills, number_ids, numbers, attempts)
    ),
    delete(orders).where(orders.c.number.in_(_THESE)),
)
_KEYS: Final = idempotency_keys.c.order_number.in_(_THESE)
_BATCHES: Final = select(idempotency_keys.c.digest, idempotency_keys.c.body).where(
    _KEYS, idempotency_keys.c.body.is_not(None)
)
_REMOVE_KEYS: Final = delete(idempotency_keys).where(_KEYS)


def look(connection: Connection, before: datetime, after: Place | None, limit: int) -> list[Place]:
    """The next orders without a parent that are at rest and finished before then, the longest finished first."""
    query = select(orders.c.finished_at, orders.c.number).where(_RESTING, orders.c.finished_at < before)
    if after is not None:
        behind = and_(orders.c.finished_at == after.finished_at, orders.c.number > after.number)
        query = query.where(
            orders.c.finished_at >= after.finished_at, or_(orders.c.finished_at > after.finished_at, behind)
        )
    found = connection.execute(query.order_by(orders.c.finished_at, orders.c.number).limit(limit))
    return [Place(row[0], row[1]) for row in found]


def families(connection: Connection, roots: Sequence[int]) -> dict[int, list[Member]]:
    """Those of these orders that there are, each with its children and theirs."""
    found: dict[int, list[Member]] = {}
    root_of: dict[str, int] = {}
    generation = [row for some in _parts(roots) for row in connection.execute(_ROOTS, {"these": some})]
    while generation:
        for row in generation:
            root = root_of[row.parent] if row.parent is not None else row.number
            root_of[row.id] = root
            found.setdefault(root, []).append(_member(row))
        ids = [row.id for row in generation]
        generation = [row for some in _parts(ids) for row in connection.execute(_GENERATION, {"these": some})]
    return {root: sorted(members, key=lambda one: one.number) for root, members in found.items()}


def _member(row: Any) -> Member:
    at_rest = row.finished_at is not None and all(getattr(row, name) is None for name in _DUE_TIMES)
    return Member(
        row.number,
        row.id,
        row.kind,
        row.state,
        row.service,
        row.provider,
        row.provider_service,
        row.link,
        row.finished_at,
        row.updated_at,
        at_rest,
    )


def over(found: Families, before: datetime) -> dict[int, Sequence[Member]]:
    """The families of which everybody is at rest, and finished before then."""
    return {
        root: members
        for root, members in found.items()
        if all(one.at_rest and one.finished_at is not None and one.finished_at < before for one in members)
    }


def with_open_ends(connection: Connection, these: Sequence[int]) -> set[int]:
    """Those of these orders for which something is still to be done: a purchase or a refill that nobody knows the end
    of, a number that is looked at, an event that is still to be told or may be told again."""
    return {number for some in _parts(these) for number in connection.execute(_OPEN, {"these": some}).scalars()}


def near_unclear(connection: Connection, these: Sequence[int], look_back: timedelta) -> set[int]:
    """Those of these orders that may have to do with a purchase of which nobody knows how it ended: what its provider
    was asked for since a while before, whose refunds may hide its debit, and what was found not to be bought there,
    of which a stranger's id could as well be."""
    unclear = connection.execute(
        select(attempts.c.provider, func.min(attempts.c.sent_at))
        .where(AT_WORK, attempts.c.state.in_(["placing", "unclear"]))
        .where(func.coalesce(attempts.c.outcome, "") != RESTORED)
        .group_by(attempts.c.provider)
    ).all()
    found: set[int] = set()
    for provider, since in unclear:
        for some in _parts(these):
            near = or_(attempts.c.state == "not_placed", orders.c.updated_at >= since - look_back)
            query = (
                select(attempts.c.order_number)
                .join(orders, orders.c.number == attempts.c.order_number)
                .where(attempts.c.order_number.in_(some), attempts.c.provider == provider, near)
            )
            found.update(connection.execute(query).scalars())
    return found


def watched_since(connection: Connection, links: Iterable[str]) -> dict[str, datetime]:
    """Since when the oldest order on each of these links is at work that is still looked at; links without such an
    order are left out. What finished later on the same link may be why that one drops."""
    found: dict[str, datetime] = {}
    for some in _parts(sorted(set(links))):
        rows = connection.execute(
            select(orders.c.link, func.min(func.coalesce(orders.c.placed_at, orders.c.created_at)))
            .where(orders.c.link.in_(some), orders.c.next_poll_at.is_not(None))
            .group_by(orders.c.link)
        )
        found.update((row[0], row[1]) for row in rows)
    return found


def lock(connection: Connection, these: Sequence[int]) -> None:
    """Nobody else changes these orders until the transaction ends. SQLite has one writer anyway."""
    if connection.dialect.name == "sqlite":
        return
    for some in _parts(sorted(these)):
        query = select(orders.c.number).where(orders.c.number.in_(some)).order_by(orders.c.number)
        connection.execute(query.with_for_update())


def being_removed(connection: Connection) -> list[int]:
    """The orders whose families are being removed in parts."""
    return list(connection.execute(select(sequences.c.value).where(sequences.c.name.like(f"{REMOVING}%"))).scalars())


def note_removing(connection: Connection, root: int, *, parts_left: bool) -> None:
    """This order's family is removed in parts from here on, or all of it was."""
    connection.execute(delete(sequences).where(sequences.c.name == f"{REMOVING}{root}"))
    if parts_left:
        connection.execute(insert(sequences).values(name=f"{REMOVING}{root}", value=root))


def remove(connection: Connection, these: Sequence[int]) -> None:
    """Remove these orders with their attempts, events, deliveries, numbers, refills, cancels, accounts and keys.

    Whose children are not among them must have none. The caller has found that they may go, in this transaction.
    """
    for some in _parts(these):
        of = {"these": some}
        _keep_ids(connection, some)
        _pass_keys_on(connection, some)
        _count_positions(connection, connection.execute(_TOLD, of).scalar_one())
        for statement in _REMOVE:
            connection.execute(statement, of)


def _keep_ids(connection: Connection, these: Sequence[int]) -> None:
    """The providers' ids of all that these orders bought."""
    rows = (row for query in _BOUGHT for row in connection.execute(query, {"these": these}))
    ids = {(row[0], row[1]): row[2] for row in rows}
    if ids:
        dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
        names = ("provider", "provider_order", "order_number")
        given = [dict(zip(names, (*key, number), strict=True)) for key, number in ids.items()]
        connection.execute(dialect.insert(removed_purchases).on_conflict_do_nothing(), given)


def _pass_keys_on(connection: Connection, these: Sequence[int]) -> None:
    """Remove the idempotency keys of these orders. The key of a batch lives on with another of its orders: under it
    none of them may be made a second time."""
    of = {"these": these}
    for digest, body in connection.execute(_BATCHES, of).all():
        ids = sorted(set(_ORDER_ID.findall(body)))
        left = [
            connection.execute(
                select(func.max(orders.c.number)).where(orders.c.id.in_(some), orders.c.number.not_in(these))
            ).scalar()
            for some in _parts(ids)
        ]
        heir = max((number for number in left if number is not None), default=None)
        if heir is not None:
            connection.execute(
                update(idempotency_keys).where(idempotency_keys.c.digest == digest).values(order_number=heir)
            )
    # Those that were passed on are not of these orders any more.
    connection.execute(_REMOVE_KEYS, of)


def _count_positions(connection: Connection, count: int) -> None:
    if not count:
        return
    more = update(sequences).where(sequences.c.name == POSITIONS_REMOVED)
    if not connection.execute(more.values(value=sequences.c.value + count)).rowcount:
        connection.execute(insert(sequences).values(name=POSITIONS_REMOVED, value=count))


# --- what belongs to no order


def remove_general(connection: Connection, after: int, before: datetime, limit: int) -> tuple[int, int | None]:
    """Of the next `limit` events behind `after` that belong to no order, remove those that were made before then and
    told to everybody: (how many, the last one looked at; None: the rest is too young)."""
    untold = exists().where(deliveries.c.event_seq == events.c.seq, deliveries.c.state != "delivered")
    query = select(events.c.seq, events.c.created_at, events.c.position, untold.label("untold"))
    rows = connection.execute(
        query.where(events.c.order_number.is_(None), events.c.seq > after).order_by(events.c.seq).limit(limit)
    ).all()
    old = [row.seq for row in rows if row.created_at < before and row.position is not None and not row.untold]
    if old:
        connection.execute(delete(deliveries).where(deliveries.c.event_seq.in_(old)))
        connection.execute(delete(events).where(events.c.seq.in_(old)))
        _count_positions(connection, len(old))
    young = len(rows) < limit or rows[-1].created_at >= before
    return len(old), None if young else rows[-1].seq


def remove_keys(connection: Connection, before: datetime, limit: int) -> int:
    """Remove some of the idempotency keys that belong to no order and were made before then; how many."""
    old = (
        select(idempotency_keys.c.digest)
        .where(idempotency_keys.c.order_number.is_(None), idempotency_keys.c.created_at < before)
        .order_by(idempotency_keys.c.created_at)
        .limit(limit)
    )
    return connection.execute(delete(idempotency_keys).where(idempotency_keys.c.digest.in_(old))).rowcount


# --- whom nobody asks any more


def gone_providers(connection: Connection, there: Iterable[str]) -> list[str]:
    """Providers that the config had once and has no more."""
    known_once = connection.execute(select(providers.c.name).order_by(providers.c.name)).scalars()
    return [name for name in known_once if name not in there]


def unasked(
    connection: Connection, provider: str, before: datetime, after: Due | None, limit: int
) -> tuple[list[Member], Due | None]:
    """Of a provider's next orders that are over and due to be looked at again, those that finished before then; with
    the place to go on from (None: that was the end)."""
    due = orders.c.next_poll_at
    query = _MEMBER.order_by(None).where(
        orders.c.provider == provider, due.is_not(None), orders.c.finished_at.is_not(None)
    )
    if after is not None:
        query = query.where(due >= after.at, or_(due > after.at, and_(due == after.at, orders.c.number > after.number)))
    rows = connection.execute(query.order_by(due, orders.c.number).limit(limit)).all()
    old = [_member(row) for row in rows if row.finished_at < before]
    return old, Due(rows[-1].next_poll_at, rows[-1].number) if len(rows) == limit else None


def look_no_more(connection: Connection, these: Sequence[int]) -> None:
    """These orders are over, and are not asked for again."""
    for some in _parts(these):
        over_now = and_(orders.c.number.in_(some), orders.c.finished_at.is_not(None))
        connection.execute(update(orders).where(over_now).values(next_poll_at=None))


def check_no_more(connection: Connection, provider: str, before: datetime, limit: int) -> int:
    """Some of a provider's numbers that were rented before then and wait for nothing are not checked again."""
    some = (
        select(numbers.c.id)
        .where(numbers.c.provider == provider, numbers.c.next_check_at.is_not(None))
        .where(numbers.c.state != "waiting", numbers.c.created_at < before)
        .order_by(numbers.c.next_check_at)
        .limit(limit)
    )
    return connection.execute(update(numbers).where(numbers.c.id.in_(some)).values(next_check_at=None)).rowcount


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
