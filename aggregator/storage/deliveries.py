"""Deliveries: what an endpoint is to be sent, claimed in the order in which it may go, and how it went.

Many are claimed, and many results recorded, by one transaction. Decides what may go next: of a lane only the first that
is not delivered, unless its hold is over. Never changes an event's bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    update,
)

from aggregator.domain.ids import first_id
from aggregator.storage import claims, endpoints
from aggregator.storage.bulk import Changes, Fetch, Lookup
from aggregator.storage.tables import PARKED, PENDING, URGENT, deliveries, events, orders
from aggregator.storage.tables import endpoints as endpoints_table

_SAME_MOMENT: Final = 2000
"""Within one millisecond ids are in no order: so many events may have been made in one."""
BLOCKED_LOOK: Final = timedelta(seconds=1)
COUNTED: Final = 100_000
"""Beyond this nobody counts on: it takes a while, and says no more."""


# Tuples, as of these there are thousands a second: a frozen dataclass takes several times as long to be made.


class Delivery(NamedTuple):
    """A delivery claimed by `token`, with the exact bytes to send; `callback_url` is its order's."""

    token: str
    id: int
    endpoint: str
    lane: str
    event_seq: int
    tries: int
    hold_until: datetime | None
    created_at: datetime
    event_id: str
    type: str
    body: str
    order_number: int | None
    callback_url: str | None


class Tried(NamedTuple):
    """How a try ended: `delivered`, `parked`, or `pending` with the time of the next one and the end of its hold."""

    delivery: Delivery
    state: str
    at: datetime
    status: int | None
    error: str | None
    ms: int
    excerpt: str | None = None
    next_at: datetime | None = None
    hold_until: datetime | None = None


def _deliverable(*more: ColumnElement[bool]) -> ColumnElement[bool]:
    """Per lane only the first that is not yet delivered, unless it is past its hold and has stepped aside."""
    ahead = deliveries.alias("ahead")
    # A scalar subquery and not NOT EXISTS: PostgreSQL would make a join of that, over all that is pending.
    blocked_by = (
        select(ahead.c.id)
        .where(
            ahead.c.endpoint == deliveries.c.endpoint,
            ahead.c.lane == deliveries.c.lane,
            ahead.c.event_seq < deliveries.c.event_seq,
            ahead.c.state == PENDING,
            or_(ahead.c.hold_until.is_(None), ahead.c.hold_until > claims.NOW),
        )
        .limit(1)
        .scalar_subquery()
    )
    return and_(
        deliveries.c.endpoint == bindparam("of_endpoint"),
        deliveries.c.state == PENDING,
        *more,
        deliveries.c.next_at <= claims.NOW,
        blocked_by.is_(None),
    )


_ORDER: Final = (deliveries.c.next_at, deliveries.c.id)


def _claimable(*more: ColumnElement[bool]) -> Any:
    """What may go next, with all that is needed to send it: one statement, and not one after the other."""
    return (
        select(
            deliveries.c.id,
            deliveries.c.endpoint,
            deliveries.c.lane,
            deliveries.c.event_seq,
            deliveries.c.tries,
            deliveries.c.hold_until,
            deliveries.c.created_at,
            events.c.id.label("event_id"),
            events.c.type,
            events.c.body,
            events.c.order_number,
            orders.c.callback_url,
        )
        .select_from(
            deliveries.join(events, events.c.seq == deliveries.c.event_seq).outerjoin(
                orders, events.c.order_number == orders.c.number
            )
        )
        .where(_deliverable(*more), claims.unclaimed(deliveries))
        .order_by(*_ORDER)
        .limit(bindparam("at_most", type_=Integer()))
        .with_for_update(skip_locked=True, of=deliveries)
    )


_DUE: Final = Fetch(_claimable())
_DUE_URGENT: Final = Fetch(_claimable(URGENT))
_MARK: Final = Changes(deliveries, "id", "claim_token", "claimed_until")
_LATER: Final = (
    select(deliveries.c.next_at)
    .where(
        deliveries.c.endpoint == bindparam("of_endpoint"),
        deliveries.c.state == PENDING,
        deliveries.c.next_at > claims.NOW,
    )
    .order_by(*_ORDER)
    .limit(1)
)
_SOME_DUE: Final = (
    select(deliveries.c.id)
    .where(
        deliveries.c.endpoint == bindparam("of_endpoint"),
        deliveries.c.state == PENDING,
        deliveries.c.next_at <= claims.NOW,
    )
    .limit(1)
)
_HELD: Final = Lookup(deliveries, "id", "claim_token", lock=True)
_RECORD: Final = Changes(
    deliveries,
    "id",
    *("state", "tries", "next_at", "hold_until", "finished_at"),
    *("last_at", "last_status", "last_error", "last_ms", "last_excerpt"),
    emptied=("claim_token", "claimed_until"),
)


def claim_deliveries(
    connection: Connection,
    endpoint: str,
    now: datetime,
    *,
    limit: int,
    lease_s: float,
    token: str,
    urgent: int | None = 0,
) -> list[Delivery]:
    """The next deliveries of an endpoint: urgent ones before all others, `urgent` more of them than `limit`; None where
    there are none."""
    found: list[Delivery] = []
    for statement, most in ((_DUE_URGENT, limit + urgent if urgent is not None else 0), (_DUE, limit)):
        room = most - len(found)
        if room <= 0:
            continue
        values = {"of_endpoint": endpoint, "now": now, "at_most": room}
        some = [Delivery(token, *row) for row in statement.all(connection, values)]
        if some:
            until = now + timedelta(seconds=lease_s)
            _MARK.make(connection, [(one.id, token, until) for one in some])
            found += some
    return found


def give_back(connection: Connection, claimed: Sequence[Delivery], now: datetime) -> None:
    """These were not sent after all, and are as due as they were."""
    held = still_held(connection, claimed)
    if held:
        free = update(deliveries).where(deliveries.c.id.in_(sorted(held)))
        connection.execute(free.values(claim_token=None, claimed_until=None))
        endpoints.wake(connection, {one.endpoint for one in claimed}, now)


def look_again(
    connection: Connection, endpoint: str, now: datetime, *, in_flight: bool, more: bool, lease_s: float
) -> None:
    """Say when an endpoint is looked at next, after some of its deliveries were claimed; its row is locked.

    While something is in flight its record looks again, and the end of the lease is for what never ends. `more`: not
    all that was due could be claimed.
    """
    next_at: datetime | None = now + timedelta(seconds=lease_s)
    if not in_flight and more:
        return  # it got no place of those that many share, and waits for one
    values = {"of_endpoint": endpoint, "now": now}
    if not more:
        later: datetime | None = connection.execute(_LATER, values).scalar()
        if in_flight:
            next_at = min(next_at, later) if later is not None and next_at is not None else next_at
        elif connection.execute(_SOME_DUE, values).first() is not None:
            next_at = now + BLOCKED_LOOK  # what is due is held back, or somebody else's for a while
        else:
            next_at = later
    endpoints.set_next(connection, endpoint, next_at)


def still_held(connection: Connection, claimed: Iterable[Delivery]) -> set[int]:
    """Which of these are claimed by the token they were claimed with: nobody else has them, or has ended them."""
    tokens = {delivery.id: delivery.token for delivery in claimed}
    return {row[0] for row in _HELD.find(connection, sorted(tokens)) if row[1] == tokens[row[0]]}


def record(connection: Connection, tried: Sequence[Tried]) -> None:
    """Write how deliveries went that are still held.

    What a failing one holds back comes due with it, so that claims need not look at it every time and pass it over.
    """
    if not tried:
        return
    _RECORD.make(connection, [_values(one) for one in tried])
    for one in tried:
        if one.state != "pending":
            if one.delivery.tries:
                _move_behind(connection, one.delivery, one.at)
        elif one.next_at is not None and one.hold_until is not None and one.hold_until > one.at:
            _move_behind(connection, one.delivery, min(one.next_at, one.hold_until))


def _values(one: Tried) -> tuple[object, ...]:
    """In the order of _RECORD."""
    delivery, pending = one.delivery, one.state == "pending"
    hold_until, finished_at = (one.hold_until, None) if pending else (delivery.hold_until, one.at)
    ended = one.state, delivery.tries + 1, one.next_at, hold_until, finished_at
    return delivery.id, *ended, one.at, one.status, one.error, one.ms, one.excerpt


def _move_behind(connection: Connection, delivery: Delivery, next_at: datetime) -> None:
    """Let what waits in the same lane for this one, and never failed itself, come due then."""
    connection.execute(
        update(deliveries)
        .where(
            deliveries.c.endpoint == delivery.endpoint,
            deliveries.c.lane == delivery.lane,
            deliveries.c.event_seq > delivery.event_seq,
            deliveries.c.state == PENDING,
            deliveries.c.hold_until.is_(None),
        )
        .values(next_at=next_at)
    )


def hasten(
    connection: Connection,
    endpoint: str,
    now: datetime,
    *,
    held_from: datetime | None = None,
    limit: int = 1000,
) -> int:
    """The endpoint answers again: what waits for it is due now; with `held_from`, only what never failed or whose hold
    ends then or later. At most `limit`, the soonest due first; how many that was."""
    waiting = and_(deliveries.c.endpoint == endpoint, deliveries.c.state == PENDING, deliveries.c.next_at > now)
    if held_from is not None:
        waiting = and_(waiting, or_(deliveries.c.hold_until.is_(None), deliveries.c.hold_until >= held_from))
    some = select(deliveries.c.id).where(waiting).order_by(*_ORDER).limit(limit)
    these = deliveries.c.id.in_(some.scalar_subquery())
    return connection.execute(update(deliveries).where(these).values(next_at=now)).rowcount


def park_order(connection: Connection, delivery: Delivery, at: datetime, error: str) -> int:
    """A callback URL is gone: what waits for it of the same order is parked untried; how many that was."""
    of_order = select(events.c.seq).where(events.c.order_number == delivery.order_number)
    done = connection.execute(
        update(deliveries)
        .where(
            deliveries.c.endpoint == delivery.endpoint,
            deliveries.c.event_seq.in_(of_order),
            deliveries.c.state == PENDING,
            claims.unclaimed(deliveries, at),
        )
        .values(state="parked", next_at=None, finished_at=at, last_error=error, claim_token=None, claimed_until=None)
    )
    return done.rowcount


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits and what is parked, each counted up to COUNTED; `oldest` was made then, of what waits."""

    waiting: int
    parked: int
    oldest: datetime | None


def backlog(connection: Connection, endpoint: str) -> Backlog:
    """An endpoint's. The oldest of a backlog that is larger than COUNTED is the oldest of what is due first."""
    of_it = deliveries.c.endpoint == endpoint
    waiting = select(deliveries.c.created_at).where(of_it, deliveries.c.state == PENDING).order_by(*_ORDER)
    return _backlog(connection, waiting, select(deliveries.c.id).where(of_it, deliveries.c.state == PARKED))


def backlog_of_callbacks(connection: Connection) -> Backlog:
    """That of all hosts of callers together."""
    of_callers = deliveries.join(endpoints_table, endpoints_table.c.name == deliveries.c.endpoint)
    waiting = select(deliveries.c.created_at).select_from(of_callers)
    parked = select(deliveries.c.id).select_from(of_callers)
    return _backlog(
        connection,
        waiting.where(endpoints_table.c.owner != "", deliveries.c.state == PENDING),
        parked.where(endpoints_table.c.owner != "", deliveries.c.state == PARKED),
    )


def _backlog(connection: Connection, waiting: Any, parked: Any) -> Backlog:
    some = waiting.limit(COUNTED).subquery()
    row = connection.execute(select(func.count(), func.min(some.c.created_at))).one()
    ended = connection.execute(select(func.count()).select_from(parked.limit(COUNTED).subquery())).scalar_one()
    return Backlog(row[0], int(ended), row[1])


def hold_end(first_failure: datetime, hold_s: float) -> datetime:
    """Until when a failing event holds its lane back."""
    return first_failure + timedelta(seconds=hold_s)


def log_page(
    connection: Connection,
    endpoint: str,
    *,
    state: str | None = None,
    order_number: int | None = None,
    event_id: str | None = None,
    since: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> list[RowMapping]:
    """Deliveries of an endpoint, the newest event first, each with its event and order; `since`: when that happened.

    `before` is the `event_seq` of the last row of the page before.
    """
    query: Any = (
        select(
            deliveries,
            events.c.id.label("event_id"),
            events.c.type,
            events.c.position,
            events.c.order_number,
            events.c.sequence,
            events.c.created_at.label("happened_at"),
            orders.c.id.label("order_id"),
            orders.c.callback_url,
        )
        .select_from(
            deliveries.join(events, events.c.seq == deliveries.c.event_seq).outerjoin(
                orders, orders.c.number == events.c.order_number
            )
        )
        .where(deliveries.c.endpoint == endpoint)
        .order_by(deliveries.c.event_seq.desc())
        .limit(limit)
    )
    if state is not None:
        query = query.where(deliveries.c.state == literal_column(f"'{state}'"))
    if order_number is not None:
        query = query.where(events.c.order_number == order_number)
    if event_id is not None:
        query = query.where(events.c.id == event_id)
    if since is not None:
        query = query.where(deliveries.c.event_seq >= first_seq(connection, since), events.c.created_at >= since)
    if before is not None:
        query = query.where(deliveries.c.event_seq < before)
    return list(connection.execute(query).mappings())


_FIRST_DAY: Final = datetime(1970, 1, 2, tzinfo=UTC)
"""Before it ids have no time, and there are no events."""


def first_seq(connection: Connection, since: datetime) -> int:
    """A row of `events` before which nothing happened since then: their ids begin with the time (domain.ids)."""
    since = max(since, _FIRST_DAY)
    early = since - timedelta(minutes=10)  # who commits late has an older id than its neighbours
    query = select(events.c.seq).where(events.c.id >= first_id("evt", early)).order_by(events.c.id).limit(1)
    found: int | None = connection.execute(query).scalar()
    if found is None:
        return int(connection.execute(select(func.coalesce(func.max(events.c.seq), 0))).scalar_one()) + 1
    return found - _SAME_MOMENT


def look_for_old(connection: Connection, after: int, before: datetime, limit: int) -> tuple[list[int], int | None]:
    """Of the next `limit` deliveries behind `after`, those that ended before then, and those made before then that wait
    for an endpoint to which nothing is sent: (their keys, the last one looked at; None: the rest is too young)."""
    found = connection.execute(
        select(deliveries.c.id, deliveries.c.created_at, _old(before).label("old"))
        .where(deliveries.c.id > after)
        .order_by(deliveries.c.id)
        .limit(limit)
    ).all()
    young = len(found) < limit or found[-1].created_at >= before
    return [row.id for row in found if row.old], None if young else found[-1].id


def remove_old(connection: Connection, ids: Sequence[int], before: datetime) -> int:
    """Remove those of them that are still old: a replay may have set one back."""
    return connection.execute(deliveries.delete().where(deliveries.c.id.in_(ids), _old(before))).rowcount


def _old(before: datetime) -> ColumnElement[bool]:
    listens = select(endpoints_table.c.id).where(
        endpoints_table.c.name == deliveries.c.endpoint, endpoints_table.c.enabled
    )
    forgotten = and_(deliveries.c.state == "pending", deliveries.c.created_at < before, ~listens.exists())
    return or_(and_(deliveries.c.finished_at.is_not(None), deliveries.c.finished_at < before), forgotten)
