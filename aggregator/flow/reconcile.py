"""Purchases that nobody knows the end of: found after a crash, kept on the desk, ended by proof or by a person.

Never a blind second send. What a person declares is stored with the attempt as evidence.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.ids import AttemptId
from aggregator.domain.orders import NotPurchased, Order, OrderState, Purchased, PurchaseUnclear, apply
from aggregator.flow.base import House, log
from aggregator.providers.reading import identifier
from aggregator.storage import attempts, numbers, refills
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection

FIRST_CODE_CHECK_S: Final = 1.0
UNCLEAR_REFILL_WAIT: Final = timedelta(days=1)
"""How long a refill whose asking was interrupted counts as perhaps running."""


class Reconcile:
    name = "reconcile"

    def __init__(self, house: House) -> None:
        self._house = house
        self._first = True

    async def run_once(self) -> int:
        """Purchases whose sender is gone are unclear: they may have been sent, and are never sent again.

        The first time, plans of an earlier run are taken back: after a start an order waits for the first sync.
        """
        now = self._house.clock.now()
        first = self._first

        def write(connection: Connection) -> list[Order]:
            if first:
                attempts.take_back(connection, None, now)
            found = []
            for attempt in attempts.interrupted(connection, now):
                order = order_store.load_for_update(connection, attempt.order_number)
                detail = "the daemon stopped while the purchase was being sent"
                attempts.finish(connection, attempt.id, None, "unclear", now, outcome="interrupted", detail=detail)
                applied = apply(order, PurchaseUnclear(attempt.id, "interrupted", detail), now)
                found.append(order_store.save(connection, order, applied.order, applied.events, now))
            refills.interrupted(connection, now, now + UNCLEAR_REFILL_WAIT)
            return found

        found = await self._house.database.write(write)
        self._first = False
        for order in found:
            log.warning("purchase_interrupted", order_id=order.id, attempt_id=order.attempt, provider=order.provider)
        if found:
            self._house.wakeups.wake("sequencing")
        return len(found)

    async def idle(self) -> None:
        return

    async def stop(self, grace_s: float) -> None:
        return


async def resolve(house: House, reference: str, *, provider_order: str | None, by: str) -> Order:
    """A person says how an unclear purchase ended: placed under `provider_order`, or (None) not placed.

    Problem CONFLICT when the order is not unclear, or when another order already has that id.
    """
    if provider_order is not None and identifier(provider_order) != provider_order:
        raise Problem(ProblemKind.INVALID_FIELD, "is no provider's order id", "provider_order")
    now = house.clock.now()

    def write(connection: Connection) -> Order:
        found = order_store.find(connection, reference, None)
        if found is None:
            raise Problem(ProblemKind.UNKNOWN_ORDER, "no such order")
        order = order_store.load_for_update(connection, found.number)
        if order.state is not OrderState.UNCLEAR or order.attempt is None or order.provider is None:
            raise Problem(ProblemKind.CONFLICT, f"the order is {order.state}; only an unclear order can be resolved")
        attempt = AttemptId(order.attempt)
        evidence = [{"kind": "person", "by": by, "outcome": "placed" if provider_order else "not_placed"}]
        if provider_order is None:
            attempts.finish(
                connection, attempt, None, "not_placed", now, detail=f"not placed, says {by}", evidence=evidence
            )
            applied = apply(order, NotPurchased(attempt), now)
            return order_store.save(connection, order, applied.order, applied.events, now, next_route_at=now)
        if order_store.known_elsewhere(connection, order.provider, provider_order, order.number):
            raise Problem(ProblemKind.CONFLICT, "another order has this provider order already", "provider_order")
        attempts.finish(connection, attempt, None, "placed", now, provider_order=provider_order, evidence=evidence)
        rented = 1 if order.kind == "sms" else 0
        applied = apply(order, Purchased(attempt, order.provider, provider_order, rented), now)
        due: dict[str, object] = {"next_poll_at": now}
        if rented:
            soon = now + timedelta(seconds=FIRST_CODE_CHECK_S)
            numbers.add(connection, order.number, order.provider, [(provider_order, "", "")], now, soon)
            due = {}
        return order_store.save(connection, order, applied.order, applied.events, now, **due)

    order = await house.database.write(write)
    log.info("order_resolved", order_id=order.id, state=str(order.state), by=by)
    house.wakeups.wake("sequencing", "routing", "polling", "sms_watch")
    return order
