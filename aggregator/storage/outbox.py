"""Events and their deliveries: written with the fact they tell of, numbered after the commit, sent later.

An event's bytes are made once, here, and never again. Positions are given by one sequencer after the commit, so a
reader of the feed never misses an event because another committed later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    update,
)

from aggregator.domain.clock import rfc3339
from aggregator.domain.documents import Related, accepted_text, order_document
from aggregator.domain.events import Draft
from aggregator.domain.ids import new_id
from aggregator.domain.orders import Order
from aggregator.storage import claims
from aggregator.storage.bulk import Rows
from aggregator.storage.tables import deliveries, events, orders, sequences

_SEQUENCER_KEY: Final = 0x7365_7175_656E_6365
# As a literal: a bound value would not let SQLite see that the partial indexes of what is pending apply.
_PENDING: Final[ColumnElement[str]] = literal_column("'pending'")


def render(event_type: str, at: datetime, data: Mapping[str, object]) -> str:
    """The body of an event, contract.md §5: `type`, `timestamp`, `data`."""
    document = {"type": event_type, "timestamp": rfc3339(at), "data": data}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True)


def append(connection: Connection, order: Order, related: Related, drafts: Sequence[Draft], at: datetime) -> None:
    """Write an order's events in order; `order.sequence` is the number of events before these."""
    if not drafts:
        return
    document = order_document(order, related, params=False)
    connection.execute(
        insert(events),
        [
            {
                "id": new_id("evt", at),
                "order_number": order.number,
                "sequence": sequence,
                "type": draft.type,
                "lane": f"o{order.number}{draft.lane}",
                "body": render(draft.type, at, {"order": document, "sequence": sequence, **draft.data}),
                "created_at": at,
            }
            for sequence, draft in enumerate(drafts, start=order.sequence + 1)
        ],
    )


_ACCEPTED: Final = Rows(events, "id", "order_number", "sequence", "type", "lane", "body", "created_at")


def append_accepted(connection: Connection, born: Sequence[Order]) -> None:
    """Write the event `order.accepted` of each of these new orders, the first that there is of it."""
    _ACCEPTED.insert(
        connection,
        [
            (
                new_id("evt", order.created_at),
                order.number,
                1,
                "order.accepted",
                f"o{order.number}",
                _accepted_body(order),
                order.created_at,
            )
            for order in born
        ],
    )


def _accepted_body(order: Order) -> str:
    """The same text as `render` makes."""
    document = accepted_text(order, params=False)
    if not document.isascii():
        return render("order.accepted", order.created_at, {"order": order_document(order, params=False), "sequence": 1})
    head = f'{{"type":"order.accepted","timestamp":"{rfc3339(order.created_at)}",'
    return f'{head}"data":{{"order":{document},"sequence":1}}}}'


def append_general(connection: Connection, draft: Draft, at: datetime) -> None:
    """Write an event that belongs to no order: provider, catalogue, webhook. Without a lane it waits for no other."""
    event_id = new_id("evt", at)
    connection.execute(
        insert(events).values(
            id=event_id,
            type=draft.type,
            lane=draft.lane or event_id,
            body=render(draft.type, at, draft.data),
            created_at=at,
        )
    )


@dataclass(frozen=True, slots=True)
class Fresh:
    """An event that was just given its position. `data` is there for `webhook.*` events alone."""

    seq: int
    position: int
    type: str
    order_number: int | None
    callback_url: str | None
    owner: str | None
    data: Mapping[str, object]


def _advance(connection: Connection, count: int) -> int:
    """The last position given before these; kept apart from the events, so that removing old ones frees no position."""
    done = connection.execute(
        update(sequences).where(sequences.c.name == "position").values(value=sequences.c.value + count)
    )
    if done.rowcount == 0:
        connection.execute(insert(sequences).values(name="position", value=count))
        return 0
    value: int = connection.execute(select(sequences.c.value).where(sequences.c.name == "position")).scalar_one()
    return value - count


def sequence(
    connection: Connection, now: datetime, targets: Callable[[Fresh], Sequence[str]], *, limit: int = 500
) -> int:
    """Give the next positions to committed events and fan them out to the endpoints that `targets` names.

    Runs alone: SQLite has one writer, PostgreSQL a transaction lock. Answers how many events it took.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SEQUENCER_KEY})
    rows = connection.execute(
        select(
            events.c.seq,
            events.c.type,
            events.c.lane,
            events.c.order_number,
            orders.c.callback_url,
            orders.c.owner,
            case((events.c.type.like("webhook.%"), events.c.body)).label("body"),
        )
        .select_from(events.outerjoin(orders, events.c.order_number == orders.c.number))
        .where(events.c.position.is_(None))
        .order_by(events.c.seq)
        .limit(limit)
    ).all()
    if not rows:
        return 0
    last = _advance(connection, len(rows))
    placed = list(enumerate(rows, start=last + 1))
    connection.execute(
        update(events).where(events.c.seq == bindparam("of_seq")).values(position=bindparam("new_position")),
        [{"of_seq": row.seq, "new_position": position} for position, row in placed],
    )
    fan_out: list[dict[str, Any]] = []
    for position, row in placed:
        data = json.loads(row.body)["data"] if row.body else {}
        fresh = Fresh(row.seq, position, row.type, row.order_number, row.callback_url, row.owner, data)
        fan_out.extend(
            {
                "event_seq": row.seq,
                "endpoint": endpoint,
                "lane": row.lane,
                "state": "pending",
                "next_at": now,
                "created_at": now,
            }
            for endpoint in targets(fresh)
        )
    if fan_out:
        connection.execute(insert(deliveries), fan_out)
    return len(rows)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery with the exact bytes to send."""

    id: int
    endpoint: str
    lane: str
    event_id: str
    type: str
    body: str
    tries: int
    hold_until: datetime | None
    created_at: datetime
    order_number: int | None


def _deliverable() -> ColumnElement[bool]:
    """Per lane only the first that is not yet delivered, unless it is past its hold and has stepped aside."""
    ahead = deliveries.alias("ahead")
    # A scalar subquery and not NOT EXISTS: PostgreSQL would make a join of that, over all that is pending.
    blocked_by = (
        select(ahead.c.id)
        .where(
            ahead.c.endpoint == deliveries.c.endpoint,
            ahead.c.lane == deliveries.c.lane,
            ahead.c.id < deliveries.c.id,
            ahead.c.state == _PENDING,
            or_(ahead.c.hold_until.is_(None), ahead.c.hold_until > claims.NOW),
        )
        .limit(1)
        .scalar_subquery()
    )
    return and_(
        deliveries.c.endpoint == bindparam("of_endpoint"),
        deliveries.c.state == _PENDING,
        deliveries.c.next_at <= claims.NOW,
        blocked_by.is_(None),
    )


_DUE: Final = claims.Claimable(
    deliveries, deliveries.c.id, where=_deliverable(), order_by=(deliveries.c.next_at, deliveries.c.id)
)
_WAITING: Final = (
    select(deliveries.c.id)
    .where(
        deliveries.c.endpoint == bindparam("of_endpoint"),
        deliveries.c.state == _PENDING,
        deliveries.c.next_at <= claims.NOW,
        claims.unclaimed(deliveries),
    )
    .limit(1)
)


def due_endpoints(connection: Connection, endpoints: Iterable[str], now: datetime) -> list[str]:
    """Which of these endpoints have something due that nobody works on."""

    def waits(endpoint: str) -> bool:
        return connection.execute(_WAITING, {"of_endpoint": endpoint, "now": now}).first() is not None

    return [name for name in endpoints if waits(name)]


def claim_deliveries(
    connection: Connection, endpoint: str, now: datetime, *, limit: int, lease_s: float, token: str
) -> list[Delivery]:
    """The next deliveries of an endpoint."""
    rows = claims.claim(connection, _DUE, now, limit=limit, lease_s=lease_s, token=token, of_endpoint=endpoint)
    if not rows:
        return []
    bodies = {
        row.seq: row
        for row in connection.execute(
            select(events.c.seq, events.c.id, events.c.type, events.c.body, events.c.order_number).where(
                events.c.seq.in_([row["event_seq"] for row in rows])
            )
        )
    }
    return [_delivery(row, bodies[row["event_seq"]]) for row in rows]


def _delivery(row: RowMapping, event: Any) -> Delivery:
    return Delivery(
        id=row["id"],
        endpoint=row["endpoint"],
        lane=row["lane"],
        event_id=event.id,
        type=event.type,
        body=event.body,
        tries=row["tries"],
        hold_until=row["hold_until"],
        created_at=row["created_at"],
        order_number=event.order_number,
    )


def settle(connection: Connection, delivery_id: int, token: str, **values: object) -> None:
    """Record how a delivery went; ClaimLost when it was claimed anew since."""
    claims.release(connection, deliveries, deliveries.c.id, delivery_id, token, **values)


def delivered(connection: Connection, delivery: Delivery, token: str, at: datetime, *, status: int, ms: int) -> None:
    """Record that the endpoint has it; ClaimLost when it was claimed anew since."""
    _finish(connection, delivery, token, at, state="delivered", last_status=status, last_error=None, last_ms=ms)


def failed(
    connection: Connection,
    delivery: Delivery,
    token: str,
    at: datetime,
    *,
    next_at: datetime,
    hold_until: datetime,
    status: int | None,
    error: str,
    ms: int,
) -> None:
    """Record a failure that is tried again; ClaimLost when it was claimed anew since.

    What it holds back comes due with it, so that claims need not look at it every time and pass it over.
    """
    settle(
        connection,
        delivery.id,
        token,
        tries=delivery.tries + 1,
        next_at=next_at,
        hold_until=hold_until,
        last_status=status,
        last_error=error,
        last_ms=ms,
    )
    if hold_until > at:
        _move_behind(connection, delivery, min(next_at, hold_until))


def parked(
    connection: Connection,
    delivery: Delivery,
    token: str,
    at: datetime,
    *,
    status: int | None,
    error: str,
    ms: int,
    drafts: Sequence[Draft],
) -> None:
    """Record that it is tried no more, and the events that tell of it; ClaimLost when it was claimed anew since."""
    _finish(connection, delivery, token, at, state="parked", last_status=status, last_error=error, last_ms=ms)
    for draft in drafts:
        append_general(connection, draft, at)


def _finish(connection: Connection, delivery: Delivery, token: str, at: datetime, **values: object) -> None:
    tries = delivery.tries + 1
    settle(connection, delivery.id, token, tries=tries, next_at=None, finished_at=at, **values)
    if delivery.tries:
        _move_behind(connection, delivery, at)


def _move_behind(connection: Connection, delivery: Delivery, next_at: datetime) -> None:
    """Let what waits in the same lane for this one, and never failed itself, come due then."""
    connection.execute(
        update(deliveries)
        .where(
            deliveries.c.endpoint == delivery.endpoint,
            deliveries.c.lane == delivery.lane,
            deliveries.c.id > delivery.id,
            deliveries.c.state == _PENDING,
            deliveries.c.hold_until.is_(None),
        )
        .values(next_at=next_at)
    )


def hasten(connection: Connection, endpoint: str, now: datetime, *, held_from: datetime | None = None) -> int:
    """The endpoint answers again: all that waits for it is due now; with `held_from`, only what never failed or whose
    hold ends then or later."""
    waiting = and_(deliveries.c.endpoint == endpoint, deliveries.c.state == _PENDING, deliveries.c.next_at > now)
    if held_from is not None:
        waiting = and_(waiting, or_(deliveries.c.hold_until.is_(None), deliveries.c.hold_until >= held_from))
    return connection.execute(update(deliveries).where(waiting).values(next_at=now)).rowcount


class Told(NamedTuple):
    """An event of the feed; `owner` is whose order it tells of, None where it belongs to no order."""

    position: int
    id: str
    body: str
    type: str
    owner: str | None


def feed(
    connection: Connection, *, after: int, limit: int, until: int | None = None, owner: str | None = None
) -> list[Told]:
    """The events after a position, up to `until`; with an owner, only those of their orders."""
    query = (
        select(events.c.position, events.c.id, events.c.body, events.c.type, orders.c.owner)
        .select_from(events.outerjoin(orders, events.c.order_number == orders.c.number))
        .where(events.c.position > after)
    )
    if until is not None:
        query = query.where(events.c.position <= until)
    if owner is not None:
        query = query.where(orders.c.owner == owner)
    return [Told(*row) for row in connection.execute(query.order_by(events.c.position).limit(limit))]


def of_order(connection: Connection, number: int) -> list[RowMapping]:
    """Every event of one order, by sequence."""
    query = select(events).where(events.c.order_number == number).order_by(events.c.sequence)
    return list(connection.execute(query).mappings())


def oldest_waiting(connection: Connection) -> datetime | None:
    """When the oldest undelivered event was made; for metrics."""
    oldest: datetime | None = connection.execute(
        select(func.min(deliveries.c.created_at)).where(deliveries.c.state == _PENDING)
    ).scalar_one()
    return oldest


def hold_end(first_failure: datetime, hold_s: float) -> datetime:
    """Until when a failing event holds its lane back."""
    return first_failure + timedelta(seconds=hold_s)
