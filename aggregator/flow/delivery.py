"""Outbox to endpoint: a signed POST of the stored bytes, then delivered, tried again later, or parked.

Decides when a failing delivery is tried again and when the endpoint counts as back. It never makes an event's bytes
anew, never follows a redirect, and never lets one endpoint wait for another.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from prometheus_client import Counter, Histogram

from aggregator.config import WebhookSettings
from aggregator.domain import webhooks
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.events import Draft
from aggregator.domain.webhooks import Answer
from aggregator.flow.base import STORAGE_RETRY_S, House, Workers, log
from aggregator.outbound import Delivered, Outbound
from aggregator.storage import claims, outbox

AT_ONCE: Final = 8
"""Deliveries in flight per endpoint."""
LEASE_MARGIN_S: Final = 30.0
LONG_OUTAGE: Final = timedelta(seconds=60)
"""After so long a time without one success the endpoint was down, and no single event is to blame."""
MAX_ERROR_CHARS: Final = 200
_BEFORE_THIS_RUN: Final = datetime.min.replace(tzinfo=UTC)

DELIVERIES = Counter("aggregator_deliveries_total", "Webhook tries by endpoint and result.", ["endpoint", "result"])
SECONDS = Histogram(
    "aggregator_delivery_seconds",
    "How long webhook endpoints took to answer.",
    ["endpoint"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30),
)


@dataclass(slots=True)
class _Endpoint:
    """An endpoint in this run. `failing_since` is the first failure after the last success; at first nobody knows what
    an earlier run left waiting. `gone`: it answered 410, and hears nothing more until the daemon is started anew."""

    hook: WebhookSettings
    workers: Workers
    failing_since: datetime | None = _BEFORE_THIS_RUN
    reported: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class _Result:
    """How one try ended."""

    at: datetime
    status: int | None
    error: str
    retry_after_s: float | None
    ms: int


class Delivery:
    """Deliveries of endpoints that are not (or no longer) configured, switched off or gone stay pending, unclaimed.

    Wakes `sequencing` when it wrote an event of its own, and itself when a place is free again.
    """

    name = "delivery"

    def __init__(self, house: House, outbound: Outbound, *, jitter: Callable[[], float] = random.random) -> None:
        self._house = house
        self._outbound = outbound
        self._jitter = jitter
        self._endpoints = {
            hook.name: _Endpoint(hook, Workers(f"delivery:{hook.name}", AT_ONCE, done=self._again))
            for hook in house.settings.webhooks
            if hook.enabled
        }
        self._turn = asyncio.Lock()
        self._stopping = False

    @property
    def gone(self) -> frozenset[str]:
        """The endpoints that answered 410 in this run."""
        return frozenset(name for name, endpoint in self._endpoints.items() if endpoint.gone)

    def _again(self) -> None:
        self._house.wakeups.wake(self.name)

    async def run_once(self) -> int:
        async with self._turn:
            free = {n: e.workers.free for n, e in self._endpoints.items() if not e.gone and e.workers.free}
            if self._stopping or not free:
                return 0
            claimed, token = await self._claim(free)
            if self._stopping:  # what was just claimed is the next run's, which voids all claims
                return 0
            for delivery in claimed:
                endpoint = self._endpoints[delivery.endpoint]
                endpoint.workers.start(self._deliver(endpoint, delivery, token))
            return len(claimed)

    async def _claim(self, free: Mapping[str, int]) -> tuple[list[outbox.Delivery], str]:
        now = self._house.clock.now()
        token = claims.new_token()
        due = await self._house.database.read(lambda connection: outbox.due_endpoints(connection, free, now))
        if not due:
            return [], token
        lease_s = {name: float(self._endpoints[name].hook.timeout_s) + LEASE_MARGIN_S for name in due}
        claimed = await self._house.database.write(
            lambda connection: [
                delivery
                for name in due
                for delivery in outbox.claim_deliveries(
                    connection, name, now, limit=free[name], lease_s=lease_s[name], token=token
                )
            ]
        )
        return claimed, token

    async def idle(self) -> None:
        await asyncio.gather(*(endpoint.workers.idle() for endpoint in self._endpoints.values()))

    async def stop(self, grace_s: float) -> None:
        """Calls in flight have `grace_s` to end; one that is cut is sent again by the next run, under the same id."""
        self._stopping = True
        await asyncio.gather(*(endpoint.workers.stop(grace_s) for endpoint in self._endpoints.values()))

    async def _deliver(self, endpoint: _Endpoint, delivery: outbox.Delivery, token: str) -> None:
        result = await self._send(endpoint.hook, delivery)
        match webhooks.read_status(result.status):
            case Answer.DELIVERED:
                await self._delivered(endpoint, delivery, token, result)
            case Answer.GONE:
                await self._gone(endpoint, delivery, token, result)
            case Answer.FAILED:
                await self._failed(endpoint, delivery, token, result)

    async def _send(self, hook: WebhookSettings, delivery: outbox.Delivery) -> _Result:
        clock = self._house.clock
        body = delivery.body.encode()
        at = clock.now()
        keys = [secret.signing_bytes for secret in hook.secrets_at(at)]
        headers = webhooks.headers(delivery.event_id, at, body, keys)
        began = clock.monotonic()
        outcome = await self._outbound.deliver(hook.url, body, headers, float(hook.timeout_s))
        took_s = clock.monotonic() - began
        SECONDS.labels(hook.name).observe(took_s)
        ms = round(took_s * 1000)
        if isinstance(outcome, Delivered):
            return _Result(clock.now(), outcome.status, f"HTTP {outcome.status}", outcome.retry_after_s, ms)
        return _Result(clock.now(), None, outcome.reason[:MAX_ERROR_CHARS], None, ms)

    async def _delivered(self, endpoint: _Endpoint, delivery: outbox.Delivery, token: str, result: _Result) -> None:
        """One success ends an outage: all that waits is due. An event that fails alone while others arrive must not be
        sent again with each of them, so after a short outage only what first failed in it is due."""
        hook = endpoint.hook
        # Taken before the write, so that successes side by side do not all do it.
        since, endpoint.failing_since = endpoint.failing_since, None
        held_from = None
        if since is not None and result.at - since < LONG_OUTAGE:
            held_from = outbox.hold_end(since, float(hook.order_hold_s))

        def record(connection: Any) -> int:
            assert result.status is not None
            outbox.delivered(connection, delivery, token, result.at, status=result.status, ms=result.ms)
            if since is None:
                return 0
            return outbox.hasten(connection, delivery.endpoint, result.at, held_from=held_from)

        try:
            hastened = await self._record(record)
        except BaseException:
            endpoint.failing_since = since or endpoint.failing_since
            raise
        DELIVERIES.labels(hook.name, "delivered").inc()
        if endpoint.reported:
            endpoint.reported = False
            log.info("webhook_answers_again", endpoint=hook.name, hastened=hastened)

    async def _failed(self, endpoint: _Endpoint, delivery: outbox.Delivery, token: str, result: _Result) -> None:
        hook = endpoint.hook
        hold_s = float(hook.order_hold_s)
        hold_until = delivery.hold_until or outbox.hold_end(result.at, hold_s)
        next_at = webhooks.next_try(
            hook.retry_s,
            tries=delivery.tries,
            now=result.at,
            first_failure=hold_until - timedelta(seconds=hold_s),
            jitter=self._jitter(),
            retry_after_s=result.retry_after_s,
        )
        if next_at is None:
            await self._park(endpoint, delivery, token, result, ())
        else:
            record = partial(
                outbox.failed,
                delivery=delivery,
                token=token,
                at=result.at,
                next_at=next_at,
                hold_until=hold_until,
                status=result.status,
                error=result.error,
                ms=result.ms,
            )
            await self._record(record)
            DELIVERIES.labels(hook.name, "failed").inc()
        if endpoint.failing_since is None:
            endpoint.failing_since = result.at
        if not endpoint.reported:
            endpoint.reported = True
            log.warning("webhook_failing", endpoint=hook.name, error=result.error, event_id=delivery.event_id)

    async def _gone(self, endpoint: _Endpoint, delivery: outbox.Delivery, token: str, result: _Result) -> None:
        """410: nothing more is sent there in this run. What waits stays pending for the time after."""
        first, endpoint.gone = not endpoint.gone, True
        data = _about(delivery, result)
        await self._park(endpoint, delivery, token, result, (Draft("webhook.disabled", data),) if first else ())
        if first:
            log.warning("webhook_disabled", endpoint=endpoint.hook.name, error=result.error)

    async def _park(
        self, endpoint: _Endpoint, delivery: outbox.Delivery, token: str, result: _Result, drafts: tuple[Draft, ...]
    ) -> None:
        record = partial(
            outbox.parked,
            delivery=delivery,
            token=token,
            at=result.at,
            status=result.status,
            error=result.error,
            ms=result.ms,
            drafts=(Draft("webhook.parked", _about(delivery, result)), *drafts),
        )
        await self._record(record)
        self._house.wakeups.wake("sequencing")
        DELIVERIES.labels(endpoint.hook.name, "parked").inc()
        log.warning("delivery_parked", endpoint=endpoint.hook.name, event_id=delivery.event_id, error=result.error)

    async def _record(self, work: Callable[[Any], Any]) -> Any:
        """Write what happened, however long the database takes to come back: the endpoint was told already."""
        while True:
            try:
                return await self._house.database.write(work)
            except StorageUnavailable as exc:
                log.warning("storage_unavailable", stage=self.name, reason=str(exc))
                await asyncio.sleep(STORAGE_RETRY_S)


def _about(delivery: outbox.Delivery, result: _Result) -> dict[str, object]:
    """What `webhook.parked` and `webhook.disabled` say: the endpoint, and the event it did not take."""
    return {
        "endpoint": delivery.endpoint,
        "event": delivery.event_id,
        "type": delivery.type,
        "error": result.error,
    }
