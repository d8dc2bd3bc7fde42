"""How purchases ended, counted after the commit: a transaction may run twice, a count cannot be taken back.

Each count begins at 0 with the daemon, or Prometheus would not see the first one as an increase.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Histogram

from aggregator.domain.orders import Order, OrderState
from aggregator.domain.wire import NotSent
from aggregator.providers.contract import Placed, PurchaseResult, Refused, Unclear

ATTEMPTS: Final = Counter(
    "aggregator_attempts_total", "Purchases that were begun, by how they ended at first.", ["provider", "outcome"]
)
RESOLVED: Final = Counter(
    "aggregator_unclear_resolved_total",
    "Unclear purchases of which was found out how they ended, by what showed it.",
    ["provider", "outcome", "evidence"],
)
PLACED_SECONDS: Final = Histogram(
    "aggregator_order_placed_seconds",
    "From an order's acceptance until a provider took it.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600),
)
_OUTCOMES: Final = {Placed: "placed", Refused: "refused", NotSent: "not_sent", Unclear: "unclear"}
UNCLEAR: Final = _OUTCOMES[Unclear]


def expect(providers: Iterable[str]) -> None:
    """Begin to count at these providers."""
    for provider in providers:
        for outcome in _OUTCOMES.values():
            ATTEMPTS.labels(provider, outcome)


def ended(provider: str, result: PurchaseResult | NotSent, order: Order) -> None:
    """A purchase got its end; `order` is what that made of it. An answer that cannot be true left it unclear."""
    unclear = order.state is OrderState.UNCLEAR
    ATTEMPTS.labels(provider, UNCLEAR if unclear else _OUTCOMES[type(result)]).inc()
    if isinstance(result, Placed) and not unclear:
        PLACED_SECONDS.observe(max(0.0, (order.updated_at - order.created_at).total_seconds()))


def interrupted(provider: str) -> None:
    """A purchase was found whose sender is gone."""
    ATTEMPTS.labels(provider, UNCLEAR).inc()


def resolved(provider: str, evidence: str, *, placed: bool, count: int = 1) -> None:
    """`evidence`: a `person`, the `balance`, a `repetition` under its key, or its `id` among strangers."""
    RESOLVED.labels(provider, "placed" if placed else "not_placed", evidence).inc(count)
