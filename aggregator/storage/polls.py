"""Which bought orders are asked for next: claims of full batches, and what a poll leaves behind.

Orders that go on come before those that are over; an order that spoils batches goes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    Select,
    and_,
    bindparam,
    case,
    func,
    select,
    update,
)

from aggregator.domain.orders import Order
from aggregator.storage import claims
from aggregator.storage.orders import order_from
from aggregator.storage.tables import orders
from aggregator.storage.types import Instant


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a status call needs of a claimed order."""

    number: int
    provider_order: str
    due_at: datetime
    asked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Polled:
    """An order as it is found when its poll is recorded."""

    order: Order
    placed_at: datetime
    stuck_at: datetime | None
    alone_since: datetime | None


@dataclass(frozen=True, slots=True)
class Next:
    """What a poll leaves: when the order is asked for again (None: no more), and whether alone. `answered_to`: the
    question of `books.ask_again` that was answered by it."""

    number: int
    was_due_at: datetime
    answered_to: datetime | None
    due_at: datetime | None
    alone_since: datetime | None
    stuck_at: datetime | None


_GOING_ON: Final = orders.c.finished_at.is_(None)
_OVER: Final = orders.c.finished_at.is_not(None)
YIELDS: Final = timedelta(hours=1)
"""So long an order that is over lets those pass that go on; then it is due like one of them, in a part of a batch."""
_PART: Final = 10
"""What orders that are over get of a batch when others would fill it: one part of so many."""


_HERE: Final = and_(orders.c.provider == bindparam("of_provider"), claims.unclaimed(orders))
_DUE: Final = and_(_HERE, orders.c.next_poll_at <= claims.NOW)
_AT_MOST: Final = bindparam("at_most", type_=Integer())
_TOGETHER: Final = orders.c.alone_since.is_(None)
_ALONE: Final = orders.c.alone_since.is_not(None)


def _count(part: ColumnElement[bool]) -> Select[int]:
    some = select(orders.c.number).where(_DUE, part).limit(_AT_MOST).subquery()
    return select(func.count()).select_from(some)


# Each has its index; both together would have none.
_COUNTS: Final = (_count(_GOING_ON), _count(_OVER))


def due(connection: Connection, provider: str, now: datetime, *, limit: int) -> int:
    """How many orders of a provider are due for a status call, counted up to `limit`."""
    found = 0
    for count in _COUNTS:
        if found < limit:
            of = {"of_provider": provider, "now": now, "at_most": limit - found}
            found += connection.execute(count, of).scalar_one()
    return found


def claim(
    connection: Connection, provider: str, now: datetime, *, limit: int, lease_s: float, token: str
) -> list[Claimed]:
    """A full batch of bought orders, the longest due first; or one that has to go alone.

    When at least one is due, those due next fill the call: it costs the same.
    """
    chosen = _choose(connection, provider, now, limit)
    if chosen:
        until = now + timedelta(seconds=lease_s)
        connection.execute(_MARK, {"numbers": [one.number for one in chosen], "token": token, "until": until})
    return chosen


def _choose(connection: Connection, provider: str, now: datetime, limit: int) -> list[Claimed]:
    def first(which: Select[Any], most: int) -> list[Claimed]:
        of = {"of_provider": provider, "now": now, "late": now - YIELDS, "at_most": most}
        return [Claimed(*row) for row in connection.execute(which, of)]

    found = first(_GOING_ON_DUE, limit)
    lone = first(_GOING_ON_ALONE, 1)
    if lone and (not found or lone[0].due_at <= found[0].due_at):
        return lone
    lone = first(_OVER_ALONE, 1)
    if lone and (not found or lone[0].due_at + YIELDS <= found[0].due_at):
        return lone
    if len(found) == limit:
        waiting = first(_OVER_LATE, max(1, limit // _PART))
        if limit < _PART:  # less than one for each call: only one that waits for longer than all others
            waiting = [one for one in waiting if one.due_at + YIELDS <= found[0].due_at]
        found = found[: limit - len(waiting)] + waiting
    else:
        found += first(_OVER_DUE, limit - len(found))
    if found and len(found) < limit:
        found += first(_COMING, limit - len(found))
    return found


def _first(*where: ColumnElement[bool]) -> Select[Any]:
    return (
        select(orders.c.number, orders.c.provider_order, orders.c.next_poll_at, orders.c.asked_at)
        .where(*where)
        .order_by(orders.c.next_poll_at, orders.c.number)
        .limit(_AT_MOST)
        # PostgreSQL only; SQLite has one writer and the compiler leaves it out.
        .with_for_update(skip_locked=True)
    )


_GOING_ON_DUE: Final = _first(_DUE, _GOING_ON, _TOGETHER)
_GOING_ON_ALONE: Final = _first(_DUE, _GOING_ON, _ALONE)
_OVER_DUE: Final = _first(_DUE, _OVER, _TOGETHER)
_OVER_ALONE: Final = _first(_DUE, _OVER, _ALONE)
_OVER_LATE: Final = _first(_HERE, orders.c.next_poll_at <= bindparam("late", type_=Instant()), _OVER, _TOGETHER)
_COMING: Final = _first(_HERE, orders.c.next_poll_at > claims.NOW, _GOING_ON, _TOGETHER)
_MARK: Final = (
    update(orders)
    .where(orders.c.number.in_(bindparam("numbers", expanding=True)))
    .values(claim_token=bindparam("token"), claimed_until=bindparam("until", type_=Instant()))
)


def _polled(row: RowMapping) -> Polled:
    return Polled(
        order=order_from(row),
        placed_at=row["placed_at"] or row["created_at"],
        stuck_at=row["stuck_at"],
        alone_since=row["alone_since"],
    )


def extend(connection: Connection, numbers: Sequence[int], token: str, until: datetime) -> None:
    """Hold claimed orders for longer; those that somebody else claimed meanwhile are theirs."""
    connection.execute(
        update(orders).where(orders.c.number.in_(numbers), orders.c.claim_token == token).values(claimed_until=until)
    )


_CLAIMED: Final = (
    select(orders)
    .where(orders.c.number.in_(bindparam("numbers", expanding=True)), orders.c.claim_token == bindparam("token"))
    .order_by(orders.c.number)
    .with_for_update()
)


def claimed(connection: Connection, numbers: Sequence[int], token: str) -> list[Polled]:
    """The orders of a claim as they are now, locked; those that somebody else holds by now are left out."""
    rows = connection.execute(_CLAIMED, {"numbers": list(numbers), "token": token}).mappings()
    return [_polled(row) for row in rows]


_RELEASE: Final = (
    update(orders)
    .where(orders.c.number == bindparam("of"), orders.c.claim_token == bindparam("token"))
    .values(
        claim_token=None,
        claimed_until=None,
        polls=orders.c.polls + 1,
        alone_since=bindparam("goes_alone", type_=Instant()),
        stuck_at=bindparam("stuck_since", type_=Instant()),
        asked_at=claims.still_asked(orders),
        # Who wished meanwhile that the order be asked for soon is heard.
        next_poll_at=case(
            (orders.c.next_poll_at == bindparam("was_due_at"), bindparam("due_at", type_=Instant())),
            else_=orders.c.next_poll_at,
        ),
    )
)


def release(connection: Connection, token: str, polled: Sequence[Next]) -> None:
    """Give claimed orders back, each with its next poll."""
    if polled:
        connection.execute(
            _RELEASE,
            [
                {
                    "of": one.number,
                    "token": token,
                    "was_due_at": one.was_due_at,
                    "answered_to": one.answered_to,
                    "due_at": one.due_at,
                    "goes_alone": one.alone_since,
                    "stuck_since": one.stuck_at,
                }
                for one in polled
            ],
        )


def give_back(connection: Connection, numbers: Sequence[int], token: str) -> None:
    """End a claim with which nothing was done."""
    mine = and_(orders.c.number.in_(numbers), orders.c.claim_token == token)
    connection.execute(update(orders).where(mine).values(claim_token=None, claimed_until=None))


def soon(connection: Connection, number: int, at: datetime) -> None:
    """Ask for the order's status at the next chance."""
    connection.execute(
        update(orders).where(orders.c.number == number, orders.c.provider_order.is_not(None)).values(next_poll_at=at)
    )
