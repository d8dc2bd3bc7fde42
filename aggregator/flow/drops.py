"""When a completed order has dropped: told once for each loss, and due for a refill where one may follow by itself.

Shared by the stages that learn of counts: the provider's own later status, callers, and the config's `count_source`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from aggregator.domain.events import Draft
from aggregator.domain.orders import Order, OrderState
from aggregator.domain.refills import drop, drop_said, dropped_enough, surprising
from aggregator.flow.base import House
from aggregator.flow.policies import refill_policy
from aggregator.storage import catalogue
from aggregator.storage.catalogue import NO_TRAITS, Traits
from aggregator.storage.database import Connection

TO_LOOK_AGAIN: Final = timedelta(hours=2)
"""So long after the next look at an order that lost all at once its refill is thought of."""


def traits_of(connection: Connection, order: Order) -> Traits:
    """What the provider's catalogue says of the service that an order was bought as."""
    service = order.provider_service or ""
    return catalogue.traits(connection, order.provider or "", [service]).get(service, NO_TRAITS)


def dropped(
    house: House,
    before: Order,
    after: Order,
    traits: Traits,
    drafts: list[Draft],
    now: datetime,
    *,
    remained: int = 0,
    confirmed: bool = False,
) -> dict[str, object]:
    """Add the event of a loss that is news to `drafts`; the columns to save with the order.

    `remained` is what the provider said remained at the completion; `confirmed`: the count was read twice.
    """
    policy = refill_policy(house.settings.services.get(after.service), traits.name)
    if policy is None or before.state is not OrderState.COMPLETED or after.finished_at is None:
        return {}
    lost, known = drop(after, remained) or 0, drop(before, remained) or 0
    # Otherwise nothing is new: a loss that was told already, or one that a refill is making good.
    if dropped_enough(after, lost, policy) and lost > known:
        drafts.append(Draft("order.dropped", {"drop": lost}))
    # Without a start_count nobody can tell what the provider measures the loss by (contract.md §2).
    if not policy.auto or after.start_count is None:
        return {}
    ripe = max(now, after.finished_at + policy.min_age)
    said, said_before = drop_said(after, remained) or 0, drop_said(before, remained) or 0
    if dropped_enough(after, said, policy) and said > said_before:
        # All at once is most often a mistake: the next look must say it too.
        due = ripe if said < after.quantity else max(ripe, now + policy.check_every + TO_LOOK_AGAIN)
        return {"next_refill_at": due}
    if after.count_at == before.count_at or not dropped_enough(after, lost, policy):
        return {}
    alone = surprising(after) and not confirmed
    return {"next_refill_at": ripe} if surprising(before) or (lost > known and not alone) else {}
