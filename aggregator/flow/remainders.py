"""The rest of an order that ended short is bought elsewhere, once its refund is confirmed in the books.

One remainder per order, made in one transaction with what its parent says of it; the database refuses a second one. It
never buys: the remainder is an order that is routed like any other, only not to the offers that failed before.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aggregator.config import ServiceSettings
from aggregator.domain.catalogue import ServiceType, service_type
from aggregator.domain.children import is_confirmed, leaves_a_rest, refund_due, rest_budget, rest_of
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId, OrderNumber, new_id
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState, Role
from aggregator.domain.routing import OfferView, takes
from aggregator.flow.base import House, log
from aggregator.flow.readings import TRUSTED_AFTER
from aggregator.flow.views import load_world, offer_views
from aggregator.flow.wishes import leave_it
from aggregator.storage import books, catalogue, children, ledger
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection

BATCH: Final = 100
LEAST_LOOK_S: Final = 5.0
MOST_LOOK_S: Final = 300.0
"""How often the books are looked at for a refund: a query, and no call."""
NOT_BOUGHT: Final = "remainder"
"""The `error` of an order whose rest was not bought."""
_USED: Final = "it did not finish the order whose rest this is"


class Remainders:
    name = "remainders"

    def __init__(self, house: House) -> None:
        self._house = house

    async def run_once(self) -> int:
        now = self._house.clock.now()
        due = await self._house.database.read(lambda c: children.due_remainders(c, now, limit=BATCH))
        for number in due:
            try:
                said = await self._house.database.write(lambda c, n=number: self._consider(c, n, now))  # type: ignore[misc]
            except StorageUnavailable:
                raise
            except Exception:
                log.exception("remainder_failed", order_number=number)
                continue
            log.info("remainder_considered", order_number=number, result=said)
        if due:
            self._house.wakeups.wake("routing", "sequencing", "dripping")
        return len(due)

    async def idle(self) -> None:
        """Nothing goes on after `run_once` has returned."""

    async def stop(self, grace_s: float) -> None:
        """Nothing to be cut."""

    def _consider(self, connection: Connection, number: int, now: datetime) -> str:
        order = order_store.load_for_update(connection, number)
        service = self._house.settings.services.get(order.service)
        wanted = leaves_a_rest(order) and not children.has_remainder(connection, order.id)
        if (
            service is None
            or not (wanted and service.reroute_remainder)
            or children.is_canceled_above(connection, order)
        ):
            leave_it(connection, order, now)
            return "nothing is to be bought any more"
        paid = self._refunded(connection, order)
        if paid is None:
            return self._wait(connection, order, service, now)
        made = self._made(connection, order, service, paid, now)
        if isinstance(made, str):
            return _give_up(connection, order, made, now)
        give_up_at = now + timedelta(seconds=float(service.give_up_after_s))
        child = order_store.add(connection, made, (Draft("order.accepted"),), give_up_at=give_up_at)
        told = Draft(
            "order.progress", {"remainder": {"id": child.id, "number": child.number, "quantity": child.quantity}}
        )
        known = replace(order, updated_at=now)
        order_store.save(connection, order, known, (told,), now, next_remainder_at=None)
        return f"order {child.number} for the rest of {child.quantity}"

    def _refunded(self, connection: Connection, order: Order) -> Money | None:
        """What the order has cost in the end, once the books have the refund of what is missing."""
        since = order.finished_at or order.updated_at
        paid, told, seen = children.booked(connection, order, since, seen_note=ledger.SEEN_REFUND)
        if paid is None:
            return None
        known = books.load(connection, order.provider or "")
        gross = known.gross_refunds >= TRUSTED_AFTER and known.gross_refunds > known.net_refunds
        due = refund_due(paid.units + told, order)
        return paid if is_confirmed(seen if gross else told, due) else None

    def _wait(self, connection: Connection, order: Order, service: ServiceSettings, now: datetime) -> str:
        ended = order.finished_at or order.updated_at
        deadline = ended + timedelta(seconds=float(service.give_up_after_s))
        if now >= deadline:
            return _give_up(connection, order, f"{order.provider} gave no refund that the books could see", now)
        wait_s = min(max((now - ended).total_seconds() / 5, LEAST_LOOK_S), MOST_LOOK_S)
        again = min(now + timedelta(seconds=wait_s), deadline)
        children.set_remainder_due(connection, order.number, again)
        return "the refund is not confirmed yet"

    def _made(
        self, connection: Connection, order: Order, service: ServiceSettings, paid: Money, now: datetime
    ) -> Order | str:
        """The order that buys the rest, or why there is none."""
        rest = rest_of(order, self._type(connection, order))
        if isinstance(rest, str):
            return rest
        rates = self._house.rates
        budget = rest_budget(order, paid, rates)
        if isinstance(budget, str):
            return budget
        child = Order(
            id=OrderId(new_id("ord", now)),
            number=OrderNumber(0),
            owner=order.owner,
            service=order.service,
            kind=order.kind,
            state=OrderState.ACCEPTED,
            quantity=rest,
            created_at=now,
            updated_at=now,
            link=order.link,
            params=dict(order.params),
            max_cost=budget,
            pinned_provider=order.pinned_provider,
            callback_url=order.callback_url,
            role=Role.REMAINDER,
            parent=order.id,
            ordinal=1,
        )
        used = dict.fromkeys(children.bought_before(connection, child), _USED)
        views = offer_views(self._house, service, load_world(connection, [service]), used, child.params)
        others = [view for view in views if view.tried is None and _may_sell(view, child)]
        if not others:
            return "the service has no other offer"
        return child if any(takes(view, child.kind, rest) for view in others) else _too_few(rest, others)

    def _type(self, connection: Connection, order: Order) -> ServiceType | None:
        raw = catalogue.type_of(connection, order.provider or "", order.provider_service or "")
        return service_type(order.kind, raw)


def _may_sell(view: OfferView, child: Order) -> bool:
    return view.provider.enabled and child.pinned_provider in (None, view.provider.name)


def _too_few(rest: int, others: list[OfferView]) -> str:
    ranges = ", ".join(
        f"{view.provider.name}/{view.service} takes {view.row.minimum} to {view.row.maximum}"
        if view.row is not None
        else f"{view.provider.name}/{view.service} is not in the catalogue"
        for view in others
    )
    return f"no other offer takes the rest of {rest}: {ranges}"


def _give_up(connection: Connection, order: Order, reason: str, now: datetime) -> str:
    """Nothing is bought; the order says why."""
    known = replace(order, error_type=NOT_BOUGHT, error_detail=f"the rest was not bought: {reason}", updated_at=now)
    told = Draft("order.progress", {"remainder": None, "reason": reason})
    order_store.save(connection, order, known, (told,), now, next_remainder_at=None)
    return reason
