"""Standard Webhooks 1.0 as rules: how a delivery is signed, what an answer means, when the next try is, who is told.

Pure: it sends nothing and remembers nothing. Jitter and `Retry-After` only lengthen, so the tries never stretch over
less than the schedule says.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from aggregator.domain.events import matches

JITTER: Final = 0.10
"""The most that chance adds to a wait, as a share of it."""
LONGEST_RETRY_AFTER_S: Final = 86_400.0
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
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join("v1," + base64.b64encode(digest).decode() for digest in digests),
    }


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
