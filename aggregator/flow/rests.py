"""When the rest of an order that its provider did not finish may be bought elsewhere; opt-in per service.

Shared by the stage that learns of ends; the stage `remainders` does the rest.
"""

from __future__ import annotations

from datetime import datetime

from aggregator.domain.children import leaves_a_rest
from aggregator.domain.orders import FINAL, Order
from aggregator.flow.base import House


def rest_due(house: House, before: Order, after: Order, now: datetime) -> dict[str, object]:
    """The columns to save with an order whose state a report has changed."""
    if after.state is before.state:
        return {}
    service = house.settings.services.get(after.service)
    if service is not None and service.reroute_remainder and leaves_a_rest(after):
        return {"next_remainder_at": now}
    return {"next_remainder_at": None} if before.state in FINAL else {}
