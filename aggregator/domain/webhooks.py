"""Standard Webhooks 1.0 as rules: how a delivery is signed, what an answer means, when the next try is, who is told.

Also when an endpoint that fails is left alone. Pure: it sends nothing and remembers nothing. Jitter and `Retry-After`
only lengthen, so the tries never stretch over less than the schedule says.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from aggregator.domain.events import matches

JITTER: Final = 0.10
"""The most that chance adds to a wait, as a share of it."""
LONGEST_RETRY_AFTER_S: Final = 86_400.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_WISHED_PAUSE_S: Final = 600.0
"""The most that a 429 or 503 with `Retry-After` holds up what else waits there; its own delivery waits all of it."""
_MAX_DOUBLINGS: Final = 20
_ROUNDING_S: Final = 0.001
_OWN: Final = "webhook."


class Answer(StrEnum):
    """What an endpoint's answer, or its absence, means for a delivery."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"


def read_status(status: int | None) -> Answer:
    """2xx is success and 410 a wish to hear nothing more; all else fails: redirects, and no answer (None)."""
    if status is not None and 200 <= status < 300:
        return Answer.DELIVERED
    return Answer.GONE if status == 410 else Answer.FAILED


def headers(event_id: str, at: datetime, body: bytes, keys: Iterable[bytes]) -> dict[str, str]:
    """The headers of one try: the id is the event's in every try, the timestamp this try's; a signature per key."""
    timestamp = int(at.timestamp())
    signed = f"{event_id}.{timestamp}.".encode() + body
    digests = []
    for key in keys:
        keyed = _keyed(key).copy()
        keyed.update(signed)
        digests.append(keyed.digest())
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join("v1," + base64.b64encode(digest).decode() for digest in digests),
    }


@lru_cache(maxsize=256)
def _keyed(key: bytes) -> hmac.HMAC:
    """What all signatures of a key begin with; to begin anew costs more than the rest of one."""
    return hmac.new(key, digestmod="sha256")


def next_try(
    retry_s: Sequence[float],
    *,
    tries: int,
    now: datetime,
    first_failure: datetime,
    jitter: float,
    retry_after_s: float | None = None,
) -> datetime | None:
    """When to try again after a failure that `tries` tries went before; None: never by itself.

    `jitter` is a random number from 0 to 1. Extra tries (`outbox.hasten`) use up retries; they never bring the end
    nearer than the whole schedule after the first failure.
    """
    if tries < len(retry_s):
        wait_s = float(retry_s[tries])
    else:
        wait_s = sum(retry_s) - (now - first_failure).total_seconds()
        if wait_s <= _ROUNDING_S:
            return None
    wait_s *= 1 + JITTER * jitter
    return now + timedelta(seconds=max(wait_s, min(retry_after_s or 0.0, LONGEST_RETRY_AFTER_S)))


def takers(patterns: Mapping[str, tuple[str, ...]], event_type: str, data: Mapping[str, object]) -> list[str]:
    """The endpoints, given with their patterns, that get an event.

    `data` is what a `webhook.*` event says. No endpoint hears of its own trouble, and nobody of the trouble to tell of
    another's: two dead endpoints would keep each other busy for ever. A test event is for the endpoint it names alone.
    """
    about = data.get("endpoint") if event_type.startswith(_OWN) else None
    if event_type == "webhook.test":
        return [name for name in patterns if name == about]
    if event_type == "webhook.parked" and str(data.get("type")).startswith(_OWN):
        return []
    return [name for name, wanted in patterns.items() if name != about and matches(wanted, event_type)]


class Health(NamedTuple):
    """How an endpoint is doing. `failures` in a row; `failing_since` is the first of them; before `next_probe_at`
    nothing is sent there, and then one delivery, to see whether it answers."""

    standing: str = "new"
    failures: int = 0
    failing_since: datetime | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_error: str | None = None
    next_probe_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How much failing an endpoint may do before it is left alone, and for how long at most."""

    failures: int
    longest_pause_s: float


def succeeded(health: Health, at: datetime, took: timedelta = timedelta()) -> Health:
    """After a delivery that arrived: all is well, whatever was before.

    One that was on its way already when another failed says nothing newer than that: a pause that the endpoint asked
    for meanwhile stays, and so does what failed.
    """
    last = health.last_failure_at
    if health.failing_since is not None and last is not None and at - took < last <= at:
        return health._replace(failing_since=last, last_success_at=at)
    return health._replace(standing="good", failures=0, failing_since=None, last_success_at=at, next_probe_at=None)


def failed(
    health: Health,
    at: datetime,
    error: str,
    patience: Patience,
    *,
    jitter: float,
    status: int | None = None,
    retry_after_s: float | None = None,
) -> Health:
    """After a delivery that did not arrive.

    An endpoint that only fails is asked less and less often, by one delivery at a time: what waits there costs nobody
    else anything then. One that asks for time gets it.
    """
    failures = health.failures + 1
    pause_s = 0.0
    if failures >= patience.failures:
        doublings = min(failures - patience.failures, _MAX_DOUBLINGS)
        pause_s = min(FIRST_PAUSE_S * 2**doublings, patience.longest_pause_s) * (1 + JITTER * jitter)
    if status in (429, 503) and retry_after_s is not None:
        pause_s = max(pause_s, min(retry_after_s, LONGEST_WISHED_PAUSE_S))
    return health._replace(
        standing="failing",
        failures=failures,
        failing_since=health.failing_since or at,
        last_failure_at=at,
        last_error=error,
        next_probe_at=at + timedelta(seconds=pause_s) if pause_s else health.next_probe_at,
    )


def is_probed(health: Health, patience: Patience) -> bool:
    """Whether an endpoint gets one delivery at a time, until one arrives."""
    return health.failures >= patience.failures


def given_up(health: Health, at: datetime, disable_after_s: float) -> bool:
    """Whether it has failed for so long without one success that nothing more is sent; 0: never."""
    since = health.failing_since
    return disable_after_s > 0 and since is not None and (at - since).total_seconds() >= disable_after_s
