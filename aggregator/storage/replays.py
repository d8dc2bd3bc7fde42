"""Deliveries that come due again, many of them, by steps: after an outage, and by an operator's wish.

A replay keeps an event's id and bytes: its delivery is set back to pending, or made where there was none. What is
wished for is one row here, in the same transaction as the answer, so that a crash forgets none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, and_, delete, func, insert, or_, select, update

from aggregator.storage import deliveries, endpoints
from aggregator.storage.outbox import Fresh, add_deliveries, fresh_events, new_delivery
from aggregator.storage.tables import PARKED, PENDING, events, replays
from aggregator.storage.tables import deliveries as rows

STEP: Final = 500
HASTENED_AT_ONCE: Final = 1000

Wanted = Callable[[Fresh], bool]
"""Whether an endpoint's filters take an event now."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: for which endpoint, how many deliveries, and whether its replay goes on."""

    endpoint: str
    count: int
    more: bool


def hasten(connection: Connection, endpoint: str, now: datetime, *, held_from: datetime | None = None) -> None:
    """What waits at an endpoint is due now (`deliveries.hasten`): the first at once, a large rest by steps."""
    done = deliveries.hasten(connection, endpoint, now, held_from=held_from, limit=HASTENED_AT_ONCE)
    if done >= HASTENED_AT_ONCE:
        _add(connection, endpoint, "waiting", after=0, until=_last_delivery(connection), since=held_from, now=now)


def ask_parked(connection: Connection, endpoint: str, now: datetime) -> int:
    """All that is parked at an endpoint now; how many that is (`deliveries.backlog`)."""
    _add(connection, endpoint, "parked", after=0, until=_last_seq(connection), since=None, now=now)
    return deliveries.backlog(connection, endpoint).parked


def ask_events(
    connection: Connection, endpoint: str, now: datetime, *, after: int, until: int, since: datetime | None = None
) -> None:
    """The events of these positions, `after` left out and `until` among them, that were made since then."""
    _add(connection, endpoint, "events", after=after, until=until, since=since, now=now)


def count_events(connection: Connection, *, after: int, until: int, since: datetime | None, wanted: Wanted) -> int:
    """How many events that would be, page by page."""
    total = 0
    while page := fresh_events(connection, after=after, until=until, limit=5 * STEP):
        total += sum(wanted(fresh) for fresh, made_at, _ in page if since is None or made_at >= since)
        after = page[-1][0].position
    return total


def position_at(connection: Connection, since: datetime) -> int:
    """A position before which nothing happened since then."""
    seq = deliveries.first_seq(connection, since)
    # Positions are given in the order of `seq`, but for what was committed late.
    before = select(func.max(events.c.position)).where(events.c.seq < seq, events.c.seq >= seq - 10 * STEP)
    found: int | None = connection.execute(before).scalar()
    return max(1, (found or 0) - 10 * STEP)


def event(connection: Connection, endpoint: str, event_id: str, now: datetime) -> bool:
    """One event again, at once, whatever the filters say; False when there is none of this id."""
    found = connection.execute(select(events.c.position).where(events.c.id == event_id)).scalar()
    if found is None:
        return False
    page = fresh_events(connection, after=found - 1, until=found, limit=1)
    _again(connection, endpoint, [(fresh, lane) for fresh, _, lane in page], now)
    return True


def _add(
    connection: Connection, endpoint: str, kind: str, *, after: int, until: int, since: datetime | None, now: datetime
) -> None:
    values = {"endpoint": endpoint, "kind": kind, "after": after, "until": until, "since": since, "created_at": now}
    connection.execute(insert(replays).values(**values))


def _last_delivery(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.max(rows.c.id), 0))).scalar_one())


def _last_seq(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.max(events.c.seq), 0))).scalar_one())


def some_wait(connection: Connection) -> bool:
    return connection.execute(select(replays.c.id).limit(1)).first() is not None


def waiting_at(connection: Connection, endpoint: str) -> int:
    """How many replays of an endpoint are still being worked on."""
    query = select(func.count()).select_from(replays).where(replays.c.endpoint == endpoint)
    return int(connection.execute(query).scalar_one())


def step(connection: Connection, now: datetime, wanted: Callable[[str], Wanted]) -> list[Step]:
    """One step of every endpoint's first replay; empty when there is none."""
    firsts = select(func.min(replays.c.id)).group_by(replays.c.endpoint).scalar_subquery()
    found = connection.execute(select(replays).where(replays.c.id.in_(firsts)).order_by(replays.c.id).with_for_update())
    waiting = found.mappings().all()
    # In one order, or two who lock several would wait for each other.
    endpoints.ensure(connection, sorted({row["endpoint"] for row in waiting}), now)
    return [_step(connection, row, now, wanted) for row in waiting]


def _step(connection: Connection, row: RowMapping, now: datetime, wanted: Callable[[str], Wanted]) -> Step:
    kind = {"events": _events_step, "parked": _parked_step, "waiting": _waiting_step}[row["kind"]]
    count, last = kind(connection, row, now, wanted)
    if last is None:
        connection.execute(delete(replays).where(replays.c.id == row["id"]))
    else:
        connection.execute(update(replays).where(replays.c.id == row["id"]).values(after=last))
    if count:
        endpoints.wake(connection, [row["endpoint"]], now)
    return Step(row["endpoint"], count, last is not None)


_Done = tuple[int, int | None]
"""How many deliveries, and up to where; None: that was the end."""


def _events_step(connection: Connection, row: RowMapping, now: datetime, wanted: Callable[[str], Wanted]) -> _Done:
    takes, endpoint, since = wanted(row["endpoint"]), row["endpoint"], row["since"]
    page = fresh_events(connection, after=row["after"], until=row["until"], limit=STEP)
    chosen = [(f, lane) for f, made_at, lane in page if (since is None or made_at >= since) and takes(f)]
    _again(connection, endpoint, chosen, now)
    return len(chosen), page[-1][0].position if len(page) == STEP else None


def _parked_step(connection: Connection, row: RowMapping, now: datetime, _: object) -> _Done:
    found = connection.execute(
        select(rows.c.id, rows.c.event_seq)
        .where(
            rows.c.endpoint == row["endpoint"],
            rows.c.state == PARKED,
            rows.c.event_seq > row["after"],
            rows.c.event_seq <= row["until"],
            # What was parked anew since is not tried without end.
            rows.c.finished_at <= row["created_at"],
        )
        .order_by(rows.c.event_seq)
        .limit(STEP)
    ).all()
    if found:
        _set_back(connection, [one.id for one in found], now)
    return len(found), found[-1].event_seq if len(found) == STEP else None


def _waiting_step(connection: Connection, row: RowMapping, now: datetime, _: object) -> _Done:
    waiting = and_(
        rows.c.endpoint == row["endpoint"],
        rows.c.state == PENDING,
        rows.c.next_at > now,
        rows.c.id > row["after"],
        rows.c.id <= row["until"],
        or_(rows.c.last_at.is_(None), rows.c.last_at <= row["created_at"]),
    )
    if row["since"] is not None:
        waiting = and_(waiting, or_(rows.c.hold_until.is_(None), rows.c.hold_until >= row["since"]))
    found = [one.id for one in connection.execute(select(rows.c.id).where(waiting).order_by(rows.c.id).limit(STEP))]
    if found:
        connection.execute(update(rows).where(rows.c.id.in_(found)).values(next_at=now))
    return len(found), found[-1] if len(found) == STEP else None


def _again(connection: Connection, endpoint: str, chosen: Sequence[tuple[Fresh, str]], now: datetime) -> None:
    """Due now: what is pending, set back what ended, made what never was."""
    if not chosen:
        return
    seqs = [fresh.seq for fresh, _ in chosen]
    known = connection.execute(
        select(rows.c.id, rows.c.event_seq, rows.c.state)
        .where(rows.c.endpoint == endpoint, rows.c.event_seq.in_(seqs))
        .with_for_update()
    ).all()
    pending = [one.id for one in known if one.state == "pending"]
    if pending:
        connection.execute(update(rows).where(rows.c.id.in_(pending), rows.c.next_at > now).values(next_at=now))
    ended = [one.id for one in known if one.state != "pending"]
    if ended:
        _set_back(connection, ended, now)
    there = {one.event_seq for one in known}
    missing = [new_delivery(fresh, endpoint, lane, now) for fresh, lane in chosen if fresh.seq not in there]
    add_deliveries(connection, missing)
    endpoints.wake(connection, [endpoint], now)


def _set_back(connection: Connection, ids: Sequence[int], now: datetime) -> None:
    connection.execute(
        update(rows)
        .where(rows.c.id.in_(ids))
        .values(state="pending", tries=0, next_at=now, hold_until=None, finished_at=None)
    )
