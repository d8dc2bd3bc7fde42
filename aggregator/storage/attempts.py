"""Attempts: the journal of purchases. A row is durable before the first byte of its purchase leaves.

Plans, intents and outcomes are written here in the same transaction as what they make of the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, and_, bindparam, func, insert, select, update

from aggregator.domain.errors import ClaimLost
from aggregator.domain.ids import AttemptId
from aggregator.domain.money import Money
from aggregator.storage import claims
from aggregator.storage import orders as order_store
from aggregator.storage.tables import AT_WORK, attempts
from aggregator.storage.types import Instant


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to buy an order from one offer."""

    id: AttemptId
    order_number: int
    round: int
    state: str
    provider: str
    service: str
    country: str
    expected: Money
    created_at: datetime
    sent_at: datetime | None


def attempt_from(row: RowMapping) -> Attempt:
    return Attempt(
        id=AttemptId(row["id"]),
        order_number=row["order_number"],
        round=row["round"],
        state=row["state"],
        provider=row["provider"],
        service=row["service"],
        country=row["country"] or "",
        expected=Money(row["expected_units"], row["expected_currency"]),
        created_at=row["created_at"],
        sent_at=row["sent_at"],
    )


# Made once, as all that routing says of each order; naming their parts anew each time costs more than running them. The
# columns that are written are those of the row.
_OF_ORDER: Final = attempts.c.order_number == bindparam("of")
_HIGHEST: Final = select(func.coalesce(func.max(attempts.c.ordinal), 0)).where(_OF_ORDER)
_LAST: Final = select(attempts).where(_OF_ORDER).order_by(attempts.c.ordinal.desc()).limit(1)
_INSERT: Final = insert(attempts)
_SEEN: Final = update(attempts).where(attempts.c.id == bindparam("of"))
_TRIED: Final = select(attempts.c.provider, attempts.c.service, attempts.c.country, attempts.c.detail).where(
    _OF_ORDER,
    attempts.c.round == bindparam("of_round"),
    attempts.c.state.in_(["refused", "not_sent", "not_placed"]),
)
_DROP: Final = (
    update(attempts)
    .where(_OF_ORDER, attempts.c.state == "planned")
    .values(state="dropped", finished_at=bindparam("at"), claim_token=None, claimed_until=None)
)


def _next_ordinal(connection: Connection, order_number: int) -> int:
    return int(connection.execute(_HIGHEST, {"of": order_number}).scalar_one()) + 1


def plan(
    connection: Connection,
    attempt_id: AttemptId,
    order_number: int,
    *,
    round_: int,
    provider: str,
    service: str,
    country: str,
    expected: Money,
    cost: Money,
    rate: Money | None,
    candidates: list[dict[str, object]],
    at: datetime,
) -> None:
    """Write the choice of an offer, with every candidate's reason; `rate` is what the catalogue asks now."""
    row = {
        "id": attempt_id,
        "order_number": order_number,
        "ordinal": _next_ordinal(connection, order_number),
        "round": round_,
        "state": "planned",
        "provider": provider,
        "service": service,
        "country": country,
        "expected_units": expected.units,
        "expected_currency": expected.currency,
        "cost_units": cost.units,
        "cost_currency": cost.currency,
        "rate_units": rate.units if rate is not None else None,
        "candidates": candidates,
        "created_at": at,
    }
    connection.execute(_INSERT, row)


def note_no_offer(
    connection: Connection,
    attempt_id: AttemptId,
    order_number: int,
    *,
    round_: int,
    candidates: list[dict[str, object]],
    at: datetime,
) -> None:
    """Keep why nobody could take the order; the same reasons again only count up."""
    last = connection.execute(_LAST, {"of": order_number}).mappings().one_or_none()
    if last is not None and last["state"] == "no_offer" and last["candidates"] == candidates:
        connection.execute(_SEEN, {"of": last["id"], "seen": last["seen"] + 1, "finished_at": at})
        return
    row = {
        "id": attempt_id,
        "order_number": order_number,
        "ordinal": last["ordinal"] + 1 if last is not None else 1,
        "round": round_,
        "state": "no_offer",
        "candidates": candidates,
        "created_at": at,
        "finished_at": at,
    }
    connection.execute(_INSERT, row)


def tried_in_round(connection: Connection, order_number: int, round_: int) -> dict[tuple[str, str, str], str]:
    """What this round has asked already: (provider, service, country) and how it ended."""
    rows = connection.execute(_TRIED, {"of": order_number, "of_round": round_})
    return {(row[0], row[1], row[2] or ""): row[3] or "" for row in rows}


_WAITING: Final = (
    select(attempts.c.provider, func.count())
    .where(AT_WORK, attempts.c.state == "planned")
    .group_by(attempts.c.provider)
)


def planned(connection: Connection) -> dict[str, int]:
    """How many planned purchases wait at each provider."""
    return {row[0]: row[1] for row in connection.execute(_WAITING)}


_PLANNED: Final = claims.Claimable(
    attempts,
    attempts.c.id,
    where=and_(attempts.c.provider == bindparam("of_provider"), AT_WORK, attempts.c.state == "planned"),
    order_by=(attempts.c.order_number,),
)
_INTERRUPTED: Final = (
    select(attempts)
    .where(AT_WORK, attempts.c.state == "placing", claims.unclaimed(attempts))
    .order_by(attempts.c.created_at)
)


def claim_planned(
    connection: Connection, provider: str, now: datetime, *, lease_s: float, token: str
) -> Attempt | None:
    """The oldest planned purchase at a provider."""
    rows = claims.claim(connection, _PLANNED, now, limit=1, lease_s=lease_s, token=token, of_provider=provider)
    return attempt_from(rows[0]) if rows else None


_START: Final = (
    update(attempts)
    .where(
        attempts.c.id == bindparam("of"), attempts.c.claim_token == bindparam("token"), attempts.c.state == "planned"
    )
    .values(state="placing", sent_at=bindparam("at", type_=Instant()))
)
_FINISH: Final = (
    update(attempts)
    .where(attempts.c.id == bindparam("of"), attempts.c.state.in_(["planned", "placing", "unclear"]))
    .values(claim_token=None, claimed_until=None)
)
_FINISH_CLAIMED: Final = _FINISH.where(attempts.c.claim_token == bindparam("token"))


def start(connection: Connection, attempt_id: AttemptId, token: str, at: datetime) -> None:
    """The intent: from here on the purchase may have been sent."""
    result = connection.execute(_START, {"of": attempt_id, "token": token, "at": at})
    if result.rowcount != 1:
        raise ClaimLost(f"attempt {attempt_id}")


def finish(
    connection: Connection, attempt_id: AttemptId, token: str | None, state: str, at: datetime, **values: object
) -> None:
    """Record how a purchase ended; with a token only while the claim is ours, else ClaimLost."""
    query, of = _FINISH, {"of": attempt_id, "state": state, "finished_at": at, **values}
    if token is not None:
        query, of["token"] = _FINISH_CLAIMED, token
    result = connection.execute(query, of)
    if result.rowcount != 1:
        raise ClaimLost(f"attempt {attempt_id}")


def drop_plan(connection: Connection, order_number: int, at: datetime) -> None:
    """Take back a choice of which nothing was sent."""
    connection.execute(_DROP, {"of": order_number, "at": at})


def take_back(connection: Connection, provider: str | None, at: datetime) -> int:
    """Drop the plans at a provider, or all of them, of which nothing was sent: their orders look for an offer again.

    How many that was.
    """
    match = and_(AT_WORK, attempts.c.state == "planned")
    if provider is not None:
        match = and_(match, attempts.c.provider == provider)
    rows = connection.execute(
        update(attempts)
        .where(match)
        .values(state="dropped", finished_at=at, claim_token=None, claimed_until=None)
        .returning(attempts.c.order_number)
    ).all()
    if rows:
        order_store.reroute(connection, [row[0] for row in rows], at)
    return len(rows)


def note_resend(connection: Connection, attempt_id: AttemptId, resends: int, next_resend_at: datetime) -> bool:
    """An unclear purchase is about to be repeated under its key; False when it has ended meanwhile."""
    noted = connection.execute(
        update(attempts)
        .where(attempts.c.id == attempt_id, attempts.c.state == "unclear")
        .values(resends=resends, next_resend_at=next_resend_at)
    )
    return noted.rowcount == 1


def last_purchase_failed(connection: Connection, providers: Sequence[str]) -> set[str]:
    """Of these providers, those whose last purchase got no answer that makes sense."""
    failed = set()
    for provider in providers:
        last = connection.execute(
            select(attempts.c.state)
            .where(attempts.c.provider == provider, attempts.c.sent_at.is_not(None))
            .order_by(attempts.c.sent_at.desc())
            .limit(1)
        ).scalar()
        if last in ("unclear", "placing"):
            failed.add(provider)
    return failed


def interrupted(connection: Connection, now: datetime) -> list[Attempt]:
    """Purchases that were being sent when their claim ran out: nobody knows how they ended."""
    return [attempt_from(row) for row in connection.execute(_INTERRUPTED, {"now": now}).mappings()]


_IN_FLIGHT: Final = (
    select(attempts.c.provider, attempts.c.expected_currency, func.sum(attempts.c.expected_units))
    .where(AT_WORK)
    .group_by(attempts.c.provider, attempts.c.expected_currency)
)


def in_flight(connection: Connection) -> dict[str, list[Money]]:
    """Expected costs per provider of what is planned, being sent or unclear."""
    rows = connection.execute(_IN_FLIGHT)
    costs: dict[str, list[Money]] = {}
    for provider, currency, units in rows:
        costs.setdefault(provider, []).append(Money(int(units), currency))
    return costs


def of_order(connection: Connection, order_number: int) -> Sequence[RowMapping]:
    query = select(attempts).where(attempts.c.order_number == order_number).order_by(attempts.c.ordinal)
    return list(connection.execute(query).mappings())


_ONE: Final = select(attempts).where(attempts.c.id == bindparam("of"))


def get(connection: Connection, attempt_id: str) -> RowMapping | None:
    found: Any = connection.execute(_ONE, {"of": attempt_id}).mappings().one_or_none()
    return found if isinstance(found, RowMapping) else None
