"""Orders are canceled at their callers' wish, as long as nothing was bought for them.

Decides by the state alone. It never asks a provider: an order that was placed, or may have been, is refused with the
reason.
"""

from __future__ import annotations

from typing import Final

from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.orders import FINAL, Ended, Order, OrderState, apply
from aggregator.flow.base import House, log
from aggregator.storage import attempts
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection

_WHY_NOT: Final = {
    OrderState.PLACING: "the order is being bought right now; look at it again in a moment",
    OrderState.UNCLEAR: "nobody knows yet whether the order was bought; it must be resolved first",
}
_PLACED: Final = "the order is with the provider; cancel after placement is not available yet"


async def cancel(house: House, number: int, *, by: str) -> Order:
    """End an order that was not bought; Problem CONFLICT with the reason when it cannot be canceled.

    A plan to buy it is dropped in the same transaction, so nobody can buy it any more once this returns.
    """
    now = house.clock.now()

    def write(connection: Connection) -> Order:
        order = order_store.load_for_update(connection, number)
        if order.state is not OrderState.ACCEPTED:
            raise Problem(ProblemKind.CONFLICT, _refusal(order))
        attempts.drop_plan(connection, order.number, now)
        applied = apply(order, Ended(OrderState.CANCELED, None, None), now)
        return order_store.save(
            connection,
            order,
            applied.order,
            applied.events,
            now,
            next_route_at=None,
            claim_token=None,
            claimed_until=None,
        )

    order = await house.database.write(write)
    log.info("order_canceled", order_id=order.id, by=by)
    house.wakeups.wake("sequencing")
    return order


def _refusal(order: Order) -> str:
    if order.state in FINAL:
        return f"the order is {order.state} already"
    return _WHY_NOT.get(order.state, _PLACED)
