"""What waits in a database: what is due and when, asked as the stages ask, and what has not come to rest yet."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, String, TextualSelect, and_, exists, func, literal, select, text, union_all

from aggregator.domain.orders import FINAL
from aggregator.storage.tables import (
    attempts,
    cancels,
    deliveries,
    endpoints,
    events,
    numbers,
    orders,
    providers,
    refills,
    replays,
)
from aggregator.storage.types import Instant


def _due_query() -> Any:
    def of(stage: str, moment: Any, *where: Any) -> Any:
        return select(literal(stage).label("stage"), func.min(moment).label("at")).where(*where)

    rows = [of("reconcile", providers.c.next_evidence_at)]
    # What is being sent is somebody's until the claim ends, or nobody's any more.
    sending = func.coalesce(attempts.c.claimed_until, attempts.c.created_at)
    rows += [of("reconcile", sending, attempts.c.state == "placing")]
    asking = func.coalesce(refills.c.claimed_until, refills.c.sent_at)
    rows += [of("reconcile", asking, refills.c.state == "requested", refills.c.sent_at.is_not(None))]
    rows += [of("catalogue_sync", providers.c.next_catalogue_at), of("catalogue_sync", providers.c.next_balance_at)]
    rows += [of("placement", attempts.c.created_at, attempts.c.state == "planned")]
    rows += [of("sequencing", events.c.created_at, events.c.position.is_(None))]
    rows += [of("refilling", orders.c.next_refill_at), of("counting", orders.c.next_count_at)]
    rows += [of("dripping", orders.c.next_run_at), of("dripping", orders.c.next_sum_at)]
    rows += [of("remainders", orders.c.next_remainder_at)]
    rows += [of("delivery", endpoints.c.next_at), of("replaying", replays.c.created_at)]
    sent = cancels.c.sent_at.is_not(None)
    wishing = func.coalesce(cancels.c.claimed_until, cancels.c.sent_at)
    rows += [of("canceling", wishing, cancels.c.state == "requested", sent)]
    rows += [of("canceling", cancels.c.next_at, cancels.c.state != "requested")]
    for stage, table, moment, more in (
        ("routing", orders, orders.c.next_route_at, orders.c.state == "accepted"),
        ("polling", orders, orders.c.next_poll_at, orders.c.next_poll_at.is_not(None)),
        ("sms_watch", numbers, numbers.c.next_check_at, numbers.c.next_check_at.is_not(None)),
        ("canceling", cancels, cancels.c.next_at, (cancels.c.state == "requested") & ~sent),
        ("refilling", refills, refills.c.next_poll_at, refills.c.next_poll_at.is_not(None)),
    ):
        rows.append(of(stage, moment, more, table.c.claim_token.is_(None)))
        rows.append(of(stage, table.c.claimed_until, more, table.c.claim_token.is_not(None)))
    return union_all(*rows)


_DUE: Final = _due_query()
_OTHER: Final = orders.alias("other")


_TEXTS: Final[dict[str, TextualSelect]] = {}
"""The query as a text without parameters: the tests ask it all the time, and to bind sixty costs more than to ask."""


def next_due(connection: Connection) -> list[tuple[str, datetime]]:
    """Stages and moments at which each has something to do; in the past when it could do it already."""
    asked = _TEXTS.get(connection.dialect.name)
    if asked is None:
        compiled = _DUE.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        asked = text(str(compiled).replace(":", r"\:")).columns(stage=String(), at=Instant())
        _TEXTS[connection.dialect.name] = asked
    return [(row[0], row[1]) for row in connection.execute(asked) if row[1] is not None]


def unfinished(connection: Connection) -> list[str]:
    """What is still going on. A parent waits with the run that is left on the desk as unclear."""
    ends = [str(state) for state in FINAL]
    found = []
    on_desk = exists(select(_OTHER.c.number).where(_OTHER.c.state == "unclear"))
    for what, table, where in (
        ("orders", orders, and_(orders.c.state.not_in([*ends, "unclear"]), orders.c.role != "parent")),
        ("parents", orders, and_(orders.c.role == "parent", orders.c.state.not_in(ends), ~on_desk)),
        ("runs to make", orders, orders.c.next_run_at.is_not(None)),
        ("sums", orders, orders.c.next_sum_at.is_not(None)),
        ("remainders", orders, orders.c.next_remainder_at.is_not(None)),
        ("cancels", cancels, cancels.c.state == "requested"),
        ("attempts", attempts, attempts.c.state.in_(["planned", "placing"])),
        ("refills", refills, refills.c.state.in_(["requested", "pending", "in_progress"])),
        ("events", events, events.c.position.is_(None)),
        ("deliveries", deliveries, deliveries.c.state == "pending"),
    ):
        count = connection.execute(select(func.count()).select_from(table).where(where)).scalar_one()
        if count:
            found.append(f"{count} {what}")
    return found
