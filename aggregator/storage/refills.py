"""Refills in the database: journaled before they are asked for, claimed for their calls, followed to their end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, and_, bindparam, case, insert, or_, select, update

from aggregator.domain.ids import OrderId, RefillId
from aggregator.domain.refills import Refill, RefillState
from aggregator.storage import claims
from aggregator.storage.tables import REFILL_ASKED, events, orders, refills
from aggregator.storage.types import Instant

_MAY_BE_CALLED: Final = or_(refills.c.state != "requested", refills.c.sent_at.is_(None))
"""One that was sent and not settled is left to reconciliation, whoever's claim on it ran out."""

FOLLOW: Final = "follow"
REVIEW: Final = "review"
_STEP: Final = case(
    (refills.c.state == "requested", "requested"),
    (refills.c.provider_refill.is_not(None), FOLLOW),
    else_=REVIEW,
)
"""What is next for a refill that is due: to ask for it, to follow the one that the provider has named, or to review one
of which nobody knows more."""


def refill_from(row: RowMapping, order: OrderId) -> Refill:
    return Refill(
        id=RefillId(row["id"]),
        number=row["number"],
        order=order,
        provider=row["provider"],
        state=RefillState(row["state"]),
        requested_at=row["requested_at"],
        provider_refill=row["provider_refill"],
        dropped=row["dropped"],
        outcome=row["outcome"],
        detail=row["detail"],
        finished_at=row["finished_at"],
    )


def add(
    connection: Connection, refill_id: RefillId, order_number: int, provider: str, dropped: int | None, at: datetime
) -> int:
    """Journal a refill that is about to be asked for; its number is given by the database."""
    number: int = connection.execute(
        insert(refills)
        .values(
            id=refill_id,
            order_number=order_number,
            provider=provider,
            state="requested",
            dropped=dropped,
            requested_at=at,
            next_poll_at=at,
        )
        .returning(refills.c.number)
    ).scalar_one()
    return number


_OF_ORDERS: Final = (
    select(refills).where(refills.c.order_number.in_(bindparam("numbers", expanding=True))).order_by(refills.c.number)
)


def of_orders(connection: Connection, owners: Mapping[int, OrderId]) -> dict[OrderId, tuple[Refill, ...]]:
    if not owners:
        return {}
    rows = connection.execute(_OF_ORDERS, {"numbers": list(owners)}).mappings()
    found: dict[OrderId, list[Refill]] = {}
    for row in rows:
        order = owners[row["order_number"]]
        found.setdefault(order, []).append(refill_from(row, order))
    return {order: tuple(group) for order, group in found.items()}


def states(connection: Connection, wanted: Sequence[int], owner: str | None) -> dict[int, RefillState]:
    """The states of these refills, by their number; with an owner, only those of their orders."""
    query = select(refills.c.number, refills.c.state).where(refills.c.number.in_(wanted))
    if owner is not None:
        query = query.join(orders, refills.c.order_number == orders.c.number).where(orders.c.owner == owner)
    return {number: RefillState(state) for number, state in connection.execute(query)}


_WAITING: Final = (
    select(refills.c.provider, _STEP)
    .where(refills.c.next_poll_at <= claims.NOW, _MAY_BE_CALLED, claims.unclaimed(refills))
    .distinct()
)
_DUE: Final = claims.Claimable(
    refills,
    refills.c.number,
    where=and_(
        refills.c.provider == bindparam("of_provider"),
        bindparam("step") == _STEP,
        refills.c.next_poll_at <= claims.NOW,
        _MAY_BE_CALLED,
    ),
    order_by=(refills.c.next_poll_at, refills.c.number),
)


def due(connection: Connection, now: datetime) -> set[tuple[str, str]]:
    """(provider, step) of the refills that are due: "requested", FOLLOW or REVIEW."""
    return {(row[0], row[1]) for row in connection.execute(_WAITING, {"now": now})}


def claim_due(
    connection: Connection,
    provider: str,
    step: str,
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
        step=step,
    )


_COMPLETED: Final = (
    select(events.c.body)
    .where(events.c.order_number == bindparam("of"), events.c.type == "order.completed")
    .order_by(events.c.sequence.desc())
    .limit(1)
)


def remained(connection: Connection, order_number: int) -> int:
    """What the provider said remained when it called the order completed, which is no loss: some always say the
    quantity. Only the event of the completion knows it."""
    body = connection.execute(_COMPLETED, {"of": order_number}).scalar()
    found = json.loads(body)["data"]["order"]["remains"] if body is not None else None
    return found if isinstance(found, int) else 0


def mark_sent(connection: Connection, numbers: list[int], at: datetime) -> None:
    """The intent: from here on the provider may have been asked."""
    if numbers:
        connection.execute(update(refills).where(refills.c.number.in_(numbers)).values(sent_at=at))


_INTERRUPTED: Final = (
    update(refills)
    .where(REFILL_ASKED, refills.c.sent_at.is_not(None), claims.unclaimed(refills))
    .values(
        state="unclear",
        outcome="interrupted",
        detail="the daemon stopped while the refill was being asked for",
        next_poll_at=bindparam("retry_at", type_=Instant()),
        claim_token=None,
        claimed_until=None,
    )
)


def interrupted(connection: Connection, now: datetime, retry_at: datetime) -> int:
    """Refills whose sender is gone are unclear; they are not asked for again before `retry_at`."""
    return connection.execute(_INTERRUPTED, {"now": now, "retry_at": retry_at}).rowcount


def settle(connection: Connection, number: int, token: str, **values: object) -> None:
    """Record how a refill's call went; ClaimLost when it was claimed anew since."""
    claims.release(connection, refills, refills.c.number, number, token, **values)
