"""A wish to cancel, and what it makes of an order in each of its states; shared by the door and by parents' runs.

What is not bought ends at once. What is with a provider is journaled here and asked for by the stage `canceling`. It
never calls anybody, and it never ends an order that a provider works on: only the provider's status does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aggregator.domain.children import Member, total
from aggregator.domain.clock import rfc3339
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.events import Draft
from aggregator.domain.ids import new_id
from aggregator.domain.orders import FINAL, FOLLOWED, Ended, Order, OrderState, Role, apply
from aggregator.flow.base import House
from aggregator.storage import attempts, cancels, catalogue, children
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, RowMapping

ASKED_FOR: Final = timedelta(days=1)
"""So long an order whose cancel the provider took is not asked for again: it said that it would."""
_WHY_NOT: Final = {
    OrderState.PLACING: "the order is being bought right now; look at it again in a moment",
    OrderState.UNCLEAR: "nobody knows yet whether the order was bought; it must be resolved first",
}
_LATER: Final = frozenset({OrderState.ACCEPTED, OrderState.PLACING, OrderState.UNCLEAR})


def wish(house: House, connection: Connection, order: Order, now: datetime) -> Order:
    """Cancel an order, or journal that its provider is to be asked; Problem CONFLICT with the reason when neither can
    be. The caller holds the order's row."""
    if order.state in FINAL:
        if children.next_remainder_at(connection, order.number) is not None:
            return leave_it(connection, order, now)
        raise Problem(ProblemKind.CONFLICT, f"the order is {order.state} already")
    if order.role is Role.PARENT:
        return _stop_runs(house, connection, order, now)
    if order.state is OrderState.ACCEPTED:
        return _end(connection, order, now)
    reason = refusal(house, connection, order, now)
    if reason is not None:
        raise Problem(ProblemKind.CONFLICT, reason)
    return _journal(connection, order, now)


def refusal(house: House, connection: Connection, order: Order, now: datetime) -> str | None:
    """Why the provider of an order that goes on is not to be asked now, or None."""
    if order.state not in FOLLOWED:
        return _WHY_NOT.get(order.state, f"the order is {order.state}")
    provider, service = order.provider or "", order.provider_service or ""
    gateway = house.gateways.get(provider)
    if gateway is None:
        return f"{provider} is no longer in the config, so nobody can ask it; ask there by hand"
    if not gateway.capabilities.cancel:
        return f"{provider} knows no cancel: its protocol ({gateway.settings.dialect}) has none"
    row = catalogue.find_row(connection, provider, service, "")
    if row is not None and not row["cancel"]:
        return f"{provider} sells service {service} without cancel"
    last = cancels.latest(connection, order.number)
    return _too_soon(connection, order, last, now) if last is not None else None


def _too_soon(connection: Connection, order: Order, last: RowMapping, now: datetime) -> str | None:
    """Why another wish may not follow the last one yet. After a refusal it may; after a lost answer a person may, once
    the order's status was looked at since and it still goes on."""
    since = rfc3339(last["requested_at"])
    if last["state"] == "requested":
        return f"the provider is being asked to cancel since {since}"
    if last["state"] == "asked" and now - last["requested_at"] < ASKED_FOR:
        return f"the provider took the wish to cancel of {since}; its status says when the order ends"
    if last["state"] == "unclear" and order_store.polls_of(connection, order.number) <= last["polls"]:
        return f"nobody knows whether the provider heard the wish of {since}; its status is looked at first, try later"
    return None


def _end(connection: Connection, order: Order, now: datetime) -> Order:
    """A plan to buy it is dropped in the same transaction, so nobody can buy it any more."""
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


def _journal(connection: Connection, order: Order, now: datetime) -> Order:
    last = cancels.latest(connection, order.number)
    if last is not None and last["finished_at"] is None:
        cancels.change(connection, last["number"], finished_at=now, next_at=None)
    cancels.add(connection, new_id("cnl", now), order.number, order.provider or "", now)
    return order_store.save(connection, order, wished(order, "asked", now), (), now)


def leave_it(connection: Connection, order: Order, now: datetime) -> Order:
    """Nothing more is bought of what an order ended short of; whoever waits for it to add up hears of it."""
    return order_store.save(connection, order, order, (), now, next_remainder_at=None)


def wished(order: Order, state: str, now: datetime) -> Order:
    """The order with what became of the wish to cancel it."""
    return replace(order, cancel_state=state, cancel_at=now, updated_at=now)


# --- parents ---


def _stop_runs(house: House, connection: Connection, parent: Order, now: datetime) -> Order:
    """No more runs are made; the stage `dripping` passes the wish on to those that are open."""
    if parent.cancel_state is not None:
        detail = f"its runs are being canceled since {rfc3339(parent.cancel_at or now)}"
        raise Problem(ProblemKind.CONFLICT, detail)
    family = children.family(connection, parent.id)
    if children.next_run_at(connection, parent.number) is None and not any(
        _stoppable(house, connection, member, now) for member in family
    ):
        reasons = [refusal(house, connection, member.order, now) for member in family if member.open]
        why = f"and none can be canceled: {reasons[0]}" if reasons else "and all have ended; their sum is being made"
        raise Problem(ProblemKind.CONFLICT, f"every run is made, {why}")
    asked = wished(parent, "asked", now)
    rates = house.rates
    drafts = [Draft("order.cancel_asked")]
    if not any(member.open for member in family):
        applied = apply(asked, total(asked, family, rates, more=False), now)
        asked, drafts = applied.order, [*drafts, *applied.events]
    return order_store.save(connection, parent, asked, drafts, now, next_run_at=None, next_sum_at=now)


def _stoppable(house: House, connection: Connection, member: Member, now: datetime) -> bool:
    if member.awaits or member.order.state in _LATER:
        return True
    return member.order.state in FOLLOWED and refusal(house, connection, member.order, now) is None


def pass_on(house: House, connection: Connection, number: int, now: datetime) -> None:
    """What the wish to cancel a parent makes of one of its family, once."""
    order = order_store.load_for_update(connection, number)
    if order.state in FINAL:
        if children.next_remainder_at(connection, number) is not None:
            leave_it(connection, order, now)
        return
    if order.state is OrderState.ACCEPTED:
        _end(connection, order, now)
    elif order.cancel_state is None and refusal(house, connection, order, now) is None:
        _journal(connection, order, now)
