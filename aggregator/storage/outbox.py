"""Events: written with the fact they tell of, numbered after the commit, fanned out to the endpoints that want them.

An event's bytes are made once, here, and never again. Positions are given by one sequencer after the commit, so a
reader of the feed never misses an event because another committed later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import BigInteger, Connection, Integer, RowMapping, bindparam, case, insert, select, text, update

from aggregator.domain.clock import rfc3339
from aggregator.domain.documents import Related, accepted_text, order_document
from aggregator.domain.events import Draft
from aggregator.domain.ids import new_id
from aggregator.domain.orders import Order
from aggregator.storage import endpoints
from aggregator.storage.bulk import Changes, Fetch, Rows
from aggregator.storage.tables import deliveries, events, orders, sequences

_SEQUENCER_KEY: Final = 0x7365_7175_656E_6365
URGENT: Final = frozenset({"sms.code", "webhook.test"})
"""Events that are sent before what else waits at an endpoint: somebody sits there and waits for them."""


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
        _ADD,
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


_ADD: Final = insert(events)
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


def append_general(connection: Connection, draft: Draft, at: datetime) -> str:
    """Write an event that belongs to no order: provider, catalogue, webhook; its id. Without a lane it waits for no
    other."""
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
    return event_id


class Fresh(NamedTuple):
    """An event that was just given its position. `data` is there for `webhook.*` events alone."""

    seq: int
    position: int
    type: str
    order_number: int | None
    service: str | None
    callback_url: str | None
    owner: str | None
    data: Mapping[str, object]


_FRESH: Final = select(
    events.c.seq,
    events.c.type,
    events.c.lane,
    events.c.position,
    events.c.created_at,
    events.c.order_number,
    orders.c.service,
    orders.c.callback_url,
    orders.c.owner,
    case((events.c.type.like("webhook.%"), events.c.body)).label("body"),
).select_from(events.outerjoin(orders, events.c.order_number == orders.c.number))


class _Found(NamedTuple):
    """A row of _FRESH."""

    seq: int
    type: str
    lane: str
    position: int | None
    created_at: datetime
    order_number: int | None
    service: str | None
    callback_url: str | None
    owner: str | None
    body: str | None

    def at(self, position: int) -> Fresh:
        data = json.loads(self.body)["data"] if self.body else {}
        return Fresh(
            self.seq, position, self.type, self.order_number, self.service, self.callback_url, self.owner, data
        )


# Made once, like every statement of a tick: naming its parts costs more than running it.
_WAITING: Final = Fetch(
    _FRESH.where(events.c.position.is_(None)).order_by(events.c.seq).limit(bindparam("at_most", type_=Integer()))
)
_PLACES: Final = Changes(events, "seq", "position")
_ADVANCE: Final = (
    update(sequences)
    .where(sequences.c.name == "position")
    .values(value=sequences.c.value + bindparam("count", type_=BigInteger()))
    .returning(sequences.c.value)
)


def _advance(connection: Connection, count: int) -> int:
    """The last position given before these; kept apart from the events, so that removing old ones frees no position."""
    value: int | None = connection.execute(_ADVANCE, {"count": count}).scalar()
    if value is None:
        connection.execute(insert(sequences).values(name="position", value=count))
        return 0
    return value - count


def sequence(
    connection: Connection, now: datetime, targets: Callable[[Fresh], Sequence[str]], *, limit: int = 500
) -> int:
    """Give the next positions to committed events and fan them out to the endpoints that `targets` names.

    Runs alone: SQLite has one writer, PostgreSQL a transaction lock. Answers how many events it took.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SEQUENCER_KEY})
    found = [_Found._make(row) for row in _WAITING.all(connection, {"at_most": limit})]
    if not found:
        return 0
    last = _advance(connection, len(found))
    placed = list(enumerate(found, start=last + 1))
    _PLACES.make(connection, [(row.seq, position) for position, row in placed])
    fan_out: list[NewDelivery] = []
    called_back: dict[int, int] = {}
    for position, row in placed:
        if row.callback_url is not None and row.order_number is not None:
            called_back[row.seq] = row.order_number
        fresh = row.at(position)
        fan_out.extend(new_delivery(fresh, endpoint, row.lane, now) for endpoint in targets(fresh))
    if called_back:
        gone = _gone(connection, set(called_back.values()))
        fan_out = [entry for entry in fan_out if (called_back.get(entry.event_seq), entry.endpoint) not in gone]
    if fan_out:
        wanted = {entry.endpoint for entry in fan_out}
        endpoints.ensure(connection, wanted, now)
        add_deliveries(connection, fan_out)
        endpoints.wake(connection, wanted, now)
    return len(found)


class NewDelivery(NamedTuple):
    """A row of `deliveries` by which an event goes to an endpoint."""

    event_seq: int
    endpoint: str
    lane: str
    state: str
    urgent: bool
    next_at: datetime
    created_at: datetime


_DELIVERIES: Final = Rows(deliveries, *NewDelivery._fields)


def new_delivery(fresh: Fresh, endpoint: str, lane: str, now: datetime) -> NewDelivery:
    """Due at once."""
    return NewDelivery(fresh.seq, endpoint, lane, "pending", fresh.type in URGENT, now, now)


def add_deliveries(connection: Connection, entries: Sequence[NewDelivery]) -> None:
    """Write them; who does also has the endpoints' rows and looks that they are woken."""
    _DELIVERIES.insert(connection, entries)


def _gone(connection: Connection, order_numbers: set[int]) -> set[tuple[int | None, str]]:
    """Orders whose callback answered 410 for good, with its endpoint."""
    rows = connection.execute(
        select(events.c.order_number, deliveries.c.endpoint)
        .select_from(events.join(deliveries, deliveries.c.event_seq == events.c.seq))
        .where(events.c.order_number.in_(order_numbers))
        .where(deliveries.c.state == "parked", deliveries.c.last_status == 410)
    )
    return {(row[0], row[1]) for row in rows if endpoints.owner_of(row[1])}


def fresh_events(connection: Connection, *, after: int, until: int, limit: int) -> list[tuple[Fresh, datetime, str]]:
    """The next events behind a position up to another one, as they were when they got theirs; each with the time it was
    made and its lane."""
    rows = connection.execute(
        _FRESH.where(events.c.position > after, events.c.position <= until).order_by(events.c.position).limit(limit)
    )
    return [(_Found._make(row).at(row.position), row.created_at, row.lane) for row in rows]


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


def first_behind(connection: Connection, after: int) -> int | None:
    """The position of the next event that there is; None when there is none."""
    query = select(events.c.position).where(events.c.position > after).order_by(events.c.position).limit(1)
    return connection.execute(query).scalar()


def of_order(connection: Connection, number: int) -> list[RowMapping]:
    """Every event of one order, by sequence."""
    query = select(events).where(events.c.order_number == number).order_by(events.c.sequence)
    return list(connection.execute(query).mappings())
