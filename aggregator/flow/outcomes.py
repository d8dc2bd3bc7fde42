"""What the end of a try means: for the delivery, for its endpoint, and for whoever watches; all in one transaction.

Decides when a failing delivery is tried again or parked, when one success makes due what waits, and when an endpoint is
left alone or disabled. It never sends anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final, NamedTuple

from aggregator.domain import webhooks
from aggregator.domain.events import Draft
from aggregator.domain.webhooks import Answer, Health, Patience
from aggregator.flow.endpoints import Target
from aggregator.storage import deliveries, endpoints, outbox, replays
from aggregator.storage.database import Connection, RowMapping
from aggregator.storage.deliveries import Delivery, Tried

LONG_OUTAGE: Final = timedelta(seconds=60)
"""After so long a time without one success the endpoint was down, and no single event is to blame."""


class Result(NamedTuple):
    """How one try ended; `jitter` is the chance that its next one is put off by, so that a repeated transaction says
    the same."""

    target: Target
    delivery: Delivery
    at: datetime
    status: int | None
    error: str
    retry_after_s: float | None
    took_s: float | None
    """None: nothing was sent."""
    excerpt: str | None
    jitter: float

    @property
    def ms(self) -> int:
        return round(1000 * (self.took_s or 0.0))

    @property
    def answer(self) -> Answer:
        return webhooks.read_status(self.status)


@dataclass(slots=True)
class Recorded:
    """What was written, for the log and the metrics."""

    ended: list[tuple[Result, str]] = field(default_factory=list)
    lost: list[Result] = field(default_factory=list)
    turned: list[tuple[Result, str]] = field(default_factory=list)
    """Endpoints that changed their standing: `failing`, `good`, `disabled`."""
    left_alone: set[str] = field(default_factory=set)
    """Endpoints that get one delivery at a time from now on, or none."""
    told: int = 0
    """Events of our own that were written."""


def record(
    connection: Connection, results: Sequence[Result], now: datetime, rows: Mapping[str, RowMapping] | None = None
) -> Recorded:
    """Write how tries ended. Endpoints that are still enabled are looked at again at once, or after their pause.

    `rows`: theirs by name, if they are locked already.
    """
    recorded = Recorded()
    if not results:
        return recorded
    if rows is None:
        rows = endpoints.lock(connection, {result.delivery.endpoint for result in results})
    held = deliveries.still_held(connection, [result.delivery for result in results])
    ordered = sorted(results, key=lambda result: (result.delivery.endpoint, result.at))
    for name, group in groupby(ordered, key=lambda result: result.delivery.endpoint):
        row = rows.get(name)
        if row is not None and row["deleted_at"] is None:
            _Endpoint(connection, row, recorded, now).take(group, held)
    return recorded


class _Endpoint:
    """One endpoint while results of its deliveries are written."""

    def __init__(self, connection: Connection, row: RowMapping, recorded: Recorded, now: datetime) -> None:
        self._connection = connection
        self._name: str = row["name"]
        self._enabled: bool = row["enabled"]
        self._health = Health(**{name: row[name] for name in Health._fields})
        self._recorded = recorded
        self._now = now
        self._tried: list[Tried] = []
        self._patience: Patience | None = None
        self._success_at: datetime | None = None
        """When the last of those arrived that changed nothing else."""

    def take(self, results: Iterable[Result], held: set[int]) -> None:
        for result in results:
            if result.delivery.id not in held:
                self._recorded.lost.append(result)
                continue
            self._patience = result.target.patience
            was = self._health.standing
            match result.answer:
                case Answer.DELIVERED:
                    self._delivered(result)
                case Answer.GONE:
                    self._gone(result)
                case Answer.FAILED:
                    self._failed(result)
            if (self._health.standing == "failing") is not (was == "failing"):
                self._recorded.turned.append((result, self._health.standing))
        self._flush()
        if self._success_at is not None:
            self._health = self._health._replace(last_success_at=self._success_at)
        values: dict[str, Any] = self._health._asdict()
        probe = self._health.next_probe_at
        next_at = (probe if probe is not None and probe > self._now else self._now) if self._enabled else None
        endpoints.save_health(self._connection, self._name, next_at=next_at, updated_at=self._now, **values)
        if self._patience is not None and (not self._enabled or webhooks.is_probed(self._health, self._patience)):
            self._recorded.left_alone.add(self._name)

    def _flush(self) -> None:
        deliveries.record(self._connection, self._tried)
        self._tried = []

    def _delivered(self, result: Result) -> None:
        """One success ends an outage: all that waits is due. An event that fails alone while others arrive must not be
        sent again with each of them, so after a short outage only what first failed in it is due."""
        since = self._health.failing_since
        if since is None and self._health.standing == "good":
            self._success_at = result.at
            self._end(result, "delivered")
            return
        self._success_at = None
        self._health = webhooks.succeeded(self._health, result.at, timedelta(milliseconds=result.ms))
        self._end(result, "delivered")
        if since is None or self._health.failing_since is not None:
            return
        self._flush()  # what failed in this outage waits as well
        held_from = None
        if result.at - since < LONG_OUTAGE:
            held_from = deliveries.hold_end(since, result.target.order_hold_s)
        replays.hasten(self._connection, self._name, result.at, held_from=held_from)

    def _failed(self, result: Result) -> None:
        target, delivery = result.target, result.delivery
        self._fails(result)
        hold_until = delivery.hold_until or deliveries.hold_end(result.at, target.order_hold_s)
        next_at = webhooks.next_try(
            target.retry_s,
            tries=delivery.tries,
            now=result.at,
            first_failure=hold_until - timedelta(seconds=target.order_hold_s),
            jitter=result.jitter,
            retry_after_s=result.retry_after_s,
        )
        if next_at is None:
            self._park(result)
        else:
            self._end(result, "pending", next_at=next_at, hold_until=hold_until)
        if not target.guarded and webhooks.given_up(self._health, result.at, target.disable_after_s):
            days = target.disable_after_s / 86_400
            self._disable(result, f"it failed for {days:g} days without one success; the last time: {result.error}")

    def _gone(self, result: Result) -> None:
        """410: nothing more is sent there until somebody enables it again. A callback's URL is gone for its order."""
        self._fails(result)
        self._park(result)
        if not result.target.guarded:
            self._disable(result, "it answered 410 Gone")
            return
        self._flush()
        deliveries.park_order(self._connection, result.delivery, result.at, "the callback answered 410 Gone before")

    def _fails(self, result: Result) -> None:
        self._health = webhooks.failed(
            self._health,
            result.at,
            result.error,
            result.target.patience,
            jitter=result.jitter,
            status=result.status,
            retry_after_s=result.retry_after_s,
        )

    def _park(self, result: Result) -> None:
        self._end(result, "parked")
        self._tell(Draft("webhook.parked", _about(result)), result.at)

    def _disable(self, result: Result, reason: str) -> None:
        if not self._enabled:
            return
        self._enabled = False
        endpoints.disable(self._connection, self._name, result.at, reason)
        self._tell(Draft("webhook.disabled", {**_about(result), "reason": reason}), result.at)
        self._recorded.turned.append((result, "disabled"))

    def _tell(self, draft: Draft, at: datetime) -> None:
        outbox.append_general(self._connection, draft, at)
        self._recorded.told += 1

    def _end(
        self, result: Result, state: str, *, next_at: datetime | None = None, hold_until: datetime | None = None
    ) -> None:
        self._tried.append(
            Tried(
                delivery=result.delivery,
                state=state,
                at=result.at,
                status=result.status,
                error=None if state == "delivered" else result.error,
                ms=result.ms,
                excerpt=result.excerpt,
                next_at=next_at,
                hold_until=hold_until,
            )
        )
        self._recorded.ended.append((result, "failed" if state == "pending" else state))


def _about(result: Result) -> dict[str, object]:
    """What `webhook.parked` and `webhook.disabled` say: the endpoint, and the event it did not take."""
    return {
        "endpoint": result.delivery.endpoint,
        "event": result.delivery.event_id,
        "type": result.delivery.type,
        "error": result.error,
    }
