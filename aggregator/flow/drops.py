"""When a completed order has dropped: told once for each loss, and due for a refill where one may follow by itself.

Shared by the stages that learn of counts: the provider's own later status, callers, and the config's `count_source`.
"""

from __future__ import annotations

from datetime import datetime

from aggregator.domain.events import Draft
from aggregator.domain.orders import Order, OrderState
from aggregator.domain.refills import drop, dropped_enough
from aggregator.flow.base import House
from aggregator.flow.policies import refill_policy
from aggregator.storage import catalogue
from aggregator.storage.catalogue import NO_TRAITS, Traits
from aggregator.storage.database import Connection


def traits_of(connection: Connection, order: Order) -> Traits:
    """What the provider's catalogue says of the service that an order was bought as."""
    service = order.provider_service or ""
    return catalogue.traits(connection, order.provider or "", [service]).get(service, NO_TRAITS)


def dropped(
    house: House, before: Order, after: Order, traits: Traits, drafts: list[Draft], now: datetime
) -> dict[str, object]:
    """Add the event of a loss that is news to `drafts`; the columns to save with the order."""
    policy = refill_policy(house.settings.services.get(after.service), traits.name)
    lost = drop(after)
    if policy is None or lost is None or before.state is not OrderState.COMPLETED or after.finished_at is None:
        return {}
    known = drop(before) or 0
    if not dropped_enough(after, lost, policy) or lost <= known:
        # Nothing new: a loss that was told already, or one that a refill is making good.
        return {}
    drafts.append(Draft("order.dropped", {"drop": lost}))
    # Without a start_count nobody can tell what the provider measures the loss by (contract.md §2).
    refilled = policy.auto and after.start_count is not None
    return {"next_refill_at": max(now, after.finished_at + policy.min_age)} if refilled else {}
