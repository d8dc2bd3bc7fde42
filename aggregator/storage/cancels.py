"""Wishes to cancel in the database: journaled before they are sent, claimed for their calls, followed for a while.

A row that was sent and not settled is one of which nobody knows whether the provider heard it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, and_, bindparam, insert, or_, select, update

from aggregator.storage import claims
from aggregator.storage.tables import CANCEL_ASKED, cancels, orders

_MAY_BE_CALLED: Final = or_(cancels.c.state != "requested", cancels.c.sent_at.is_(None))
"""One that was sent and not settled is never sent by itself again, whoever's claim on it ran out."""


def add(connection: Connection, cancel_id: str, order_number: int, provider: str, at: datetime) -> int:
    """Journal a wish that is about to be sent; its number is given by the database."""
    number: int = connection.execute(
        insert(cancels)
        .values(
            id=cancel_id,
            order_number=order_number,
            provider=provider,
            state="requested",
            requested_at=at,
            next_at=at,
        )
        .returning(cancels.c.number)
    ).scalar_one()
    return number


def latest(connection: Connection, order_number: int) -> RowMapping | None:
    """The newest wish to cancel an order, locked."""
    query = select(cancels).where(cancels.c.order_number == order_number).order_by(cancels.c.number.desc()).limit(1)
    return connection.execute(query.with_for_update()).mappings().one_or_none()


def of_order(connection: Connection, order_number: int) -> list[RowMapping]:
    """All wishes to cancel an order, the oldest first."""
    query = select(cancels).where(cancels.c.order_number == order_number).order_by(cancels.c.number)
    return list(connection.execute(query).mappings())


def details(connection: Connection, order_numbers: Sequence[int]) -> dict[int, str]:
    """What was said to the newest wish of each order, where something was."""
    if not order_numbers:
        return {}
    query = (
        select(cancels.c.order_number, cancels.c.detail)
        .where(cancels.c.order_number.in_(order_numbers))
        .order_by(cancels.c.number)
    )
    newest = {row[0]: row[1] for row in connection.execute(query)}
    return {number: detail for number, detail in newest.items() if detail}


_WAITING: Final = (
    select(cancels.c.provider, cancels.c.state)
    .where(cancels.c.next_at <= claims.NOW, _MAY_BE_CALLED, claims.unclaimed(cancels))
    .group_by(cancels.c.provider, cancels.c.state)
)
_DUE: Final = claims.Claimable(
    cancels,
    cancels.c.number,
    where=and_(
        cancels.c.provider == bindparam("of_provider"),
        cancels.c.state.in_(bindparam("states", expanding=True)),
        cancels.c.next_at <= claims.NOW,
        _MAY_BE_CALLED,
    ),
    order_by=(cancels.c.next_at, cancels.c.number),
)
_INTERRUPTED: Final = and_(CANCEL_ASKED, cancels.c.sent_at.is_not(None), claims.unclaimed(cancels))
_ANY_INTERRUPTED: Final = select(cancels.c.number).where(_INTERRUPTED).limit(1)


def waiting(connection: Connection, now: datetime) -> set[tuple[str, str]]:
    """(provider, state) of the wishes for which something is to be done now."""
    return {(row[0], row[1]) for row in connection.execute(_WAITING, {"now": now})}


def claim_due(
    connection: Connection,
    provider: str,
    states: tuple[str, ...],
    now: datetime,
    *,
    limit: int,
    lease_s: float,
    token: str,
) -> list[RowMapping]:
    return claims.claim(
        connection,
        _DUE,
        now,
        limit=limit,
        lease_s=lease_s,
        token=token,
        of_provider=provider,
        states=list(states),
    )


def mark_sent(connection: Connection, numbers: Sequence[int], at: datetime) -> None:
    """The intent: from here on the provider may have heard it."""
    if numbers:
        connection.execute(update(cancels).where(cancels.c.number.in_(numbers)).values(sent_at=at))


def interrupted(connection: Connection, now: datetime) -> list[RowMapping]:
    """Wishes whose sender is gone, locked: the provider may have heard them."""
    query = select(cancels).where(_INTERRUPTED).order_by(cancels.c.number).with_for_update(skip_locked=True)
    return list(connection.execute(query, {"now": now}).mappings())


def due_looks(connection: Connection, now: datetime, *, limit: int) -> list[RowMapping]:
    """Wishes that were sent and whose orders are to be looked at now, locked, with the state of the order."""
    query = (
        select(cancels, orders.c.state.label("order_state"))
        .join(orders, orders.c.number == cancels.c.order_number)
        .where(cancels.c.state.in_(["asked", "unclear"]), cancels.c.next_at <= now)
        .order_by(cancels.c.next_at, cancels.c.number)
        .limit(limit)
        .with_for_update(of=cancels, skip_locked=True)
    )
    return list(connection.execute(query).mappings())


def any_interrupted(connection: Connection, now: datetime) -> bool:
    return connection.execute(_ANY_INTERRUPTED, {"now": now}).first() is not None


def settle(connection: Connection, number: int, token: str, **values: object) -> None:
    """Record how a wish's call went; ClaimLost when it was claimed anew since."""
    claims.release(connection, cancels, cancels.c.number, number, token, **values)


def change(connection: Connection, number: int, **values: object) -> None:
    """Record what is known of a wish that nobody works on; the caller holds its row."""
    done = {"claim_token": None, "claimed_until": None, **values}
    connection.execute(update(cancels).where(cancels.c.number == number).values(**done))
