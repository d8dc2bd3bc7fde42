"""What happened, in the words that users hear: event types and drafts.

A draft becomes a row in the same commit as the fact it tells of; storage gives it id, sequence and exact bytes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

EventType = Literal[
    "order.accepted",
    "order.placed",
    "order.progress",
    "order.completed",
    "order.partial",
    "order.canceled",
    "order.failed",
    "order.unclear",
    "order.stuck",
    "order.delivery",
    "order.dropped",
    "order.cancel_asked",
    "order.cancel_refused",
    "refill.requested",
    "refill.completed",
    "refill.rejected",
    "sms.number",
    "sms.code",
    "sms.expired",
    "provider.down",
    "provider.up",
    "provider.balance_low",
    "provider.ledger_difference",
    "catalogue.price_changed",
    "catalogue.out_of_stock",
    "catalogue.removed",
    "catalogue.quarantined",
    "webhook.parked",
    "webhook.disabled",
    "webhook.test",
]
EVENT_TYPES: Final[tuple[str, ...]] = get_args(EventType)


@dataclass(frozen=True, slots=True)
class Draft:
    """An event about to be written; `data` is what it says beside the order.

    `lane` sets apart events that must not wait for an order's other events (contract.md §5: SMS codes).
    """

    type: EventType
    data: Mapping[str, object] = field(default_factory=dict)
    lane: str = ""


def matches(patterns: tuple[str, ...], event_type: str) -> bool:
    """Whether any of an endpoint's patterns (`*`, `order.*`, `sms.code`) takes this type."""
    return any(fnmatch.fnmatchcase(event_type, pattern) for pattern in patterns)
