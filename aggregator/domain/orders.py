"""The life of an order: its states, the one table of moves between them, and what each fact makes of it.

`apply(order, fact, at)` is pure and repeat-safe: the same fact twice changes nothing and tells nobody twice. It never
decides where to buy; that is routing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from aggregator.domain.catalogue import Kind
from aggregator.domain.events import Draft, EventType
from aggregator.domain.ids import AttemptId, OrderId, OrderNumber
from aggregator.domain.money import Money


class OrderState(StrEnum):
    """contract.md §2."""

    ACCEPTED = "accepted"
    PLACING = "placing"
    UNCLEAR = "unclear"
    PENDING = "pending"
    PROCESSING = "processing"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    PARTIAL = "partial"
    CANCELED = "canceled"
    FAILED = "failed"


class Role(StrEnum):
    """What an order is to others: a parent never buys, its runs do; a remainder is the rest of what its parent bought.

    The parent of a remainder is whatever order ended partial, an order like any other or a run.
    """

    ORDER = "order"
    PARENT = "parent"
    RUN = "run"
    REMAINDER = "remainder"


S = OrderState
FOLLOWED: Final = frozenset({S.PENDING, S.PROCESSING, S.IN_PROGRESS})
"""Bought and not finished: what polling follows."""
FINAL: Final = frozenset({S.COMPLETED, S.PARTIAL, S.CANCELED, S.FAILED})
UNFINISHED: Final = frozenset(S) - FINAL
_REPORTED: Final = FOLLOWED | FINAL
RESTORED: Final = "restored"
"""The cause, and the error's type, of an order that may have been bought between a backup and its restore."""

TRANSITIONS: Final[Mapping[OrderState, frozenset[OrderState]]] = {
    S.ACCEPTED: frozenset({S.PLACING, S.CANCELED, S.FAILED}),
    S.PLACING: frozenset({S.ACCEPTED, S.UNCLEAR}) | _REPORTED,
    S.UNCLEAR: frozenset({S.ACCEPTED}) | _REPORTED,
    **{state: _REPORTED - {state} for state in FOLLOWED},
    **{state: FINAL - {state} for state in FINAL},
}
"""Every move there is. A final state gives way only to another final one: a provider's correction."""

PARENT_TRANSITIONS: Final[Mapping[OrderState, frozenset[OrderState]]] = {
    S.ACCEPTED: frozenset({S.IN_PROGRESS}) | FINAL,
    S.IN_PROGRESS: FINAL,
    **{state: FINAL - {state} for state in FINAL},
}
"""The moves of an order that its runs make: it is never placed itself."""

_FINAL_EVENT: Final[Mapping[OrderState, EventType]] = {
    S.COMPLETED: "order.completed",
    S.PARTIAL: "order.partial",
    S.CANCELED: "order.canceled",
    S.FAILED: "order.failed",
}


class IllegalMove(Exception):
    """A fact does not fit the order's state: somebody acted on an order that has moved on since."""


@dataclass(frozen=True)
class Order:
    """One request for a service, as stored. Ids, times and money are typed; `version` guards against lost updates.

    `attempt` is the purchase that is live (placing, unclear or placed), `sequence` the number of events told so far.
    """

    id: OrderId
    number: OrderNumber
    owner: str
    service: str
    kind: Kind
    state: OrderState
    quantity: int
    created_at: datetime
    updated_at: datetime
    link: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    max_cost: Money | None = None
    pinned_provider: str | None = None
    callback_url: str | None = None
    role: Role = Role.ORDER
    parent: OrderId | None = None
    ordinal: int | None = None
    """Which child of its parent it is, from 1; the database gives each place once."""
    provider: str | None = None
    provider_service: str | None = None
    provider_order: str | None = None
    attempt: AttemptId | None = None
    expected_cost: Money | None = None
    charge: Money | None = None
    start_count: int | None = None
    remains: int | None = None
    provider_children: tuple[str, ...] = ()
    """The provider's own orders for the runs of a drip-feed or the posts of a subscription, as far as it told them."""
    count: int | None = None
    """What somebody else than the provider saw at the link, at `count_at`."""
    count_at: datetime | None = None
    stuck_at: datetime | None = None
    """Since when it is told that the order stands still; None while it does not."""
    cancel_state: str | None = None
    cancel_at: datetime | None = None
    error_type: str | None = None
    error_detail: str | None = None
    finished_at: datetime | None = None
    sequence: int = 0
    version: int = 0


def numbered(order: Order, number: OrderNumber) -> Order:
    """The new order with the number that it was just given: the same object, which nobody else has seen yet. A copy of
    all its fields for each of thousands of orders a second would cost more than writing them."""
    object.__setattr__(order, "number", number)
    return order


def newborn(
    *,
    id: OrderId,
    number: OrderNumber,
    owner: str,
    service: str,
    kind: Kind,
    quantity: int,
    at: datetime,
    link: str | None,
    params: Mapping[str, str],
    reference: str | None,
    metadata: Mapping[str, object],
    max_cost: Money | None,
    pinned_provider: str | None,
    callback_url: str | None,
    role: Role,
) -> Order:
    """An order as it is accepted: only what its caller said, for the rest has not happened yet. What `Order(…)` makes
    of the same, without setting forty fields one by one: a frozen dataclass takes longer for that than a check."""
    order = object.__new__(Order)
    order.__dict__.update(
        id=id,
        number=number,
        owner=owner,
        service=service,
        kind=kind,
        state=OrderState.ACCEPTED,
        quantity=quantity,
        created_at=at,
        updated_at=at,
        link=link,
        params=params,
        reference=reference,
        metadata=metadata,
        max_cost=max_cost,
        pinned_provider=pinned_provider,
        callback_url=callback_url,
        role=role,
        sequence=1,
        version=1,
    )
    return order


def as_accepted(order: Order) -> Order:
    """The order as it was stored first, before any fact: what was asked for never changes."""
    accepted = newborn(
        id=order.id,
        number=order.number,
        owner=order.owner,
        service=order.service,
        kind=order.kind,
        quantity=order.quantity,
        at=order.created_at,
        link=order.link,
        params=order.params,
        reference=order.reference,
        metadata=order.metadata,
        max_cost=order.max_cost,
        pinned_provider=order.pinned_provider,
        callback_url=order.callback_url,
        role=order.role,
    )
    return replace(accepted, parent=order.parent, ordinal=order.ordinal)


@dataclass(frozen=True, slots=True)
class PurchaseStarted:
    """A purchase is about to be sent; committed before its first byte leaves."""

    attempt: AttemptId
    provider: str
    provider_service: str
    expected_cost: Money


@dataclass(frozen=True, slots=True)
class Purchased:
    """The provider took the order under `provider_order`; for rented numbers, the first of theirs."""

    attempt: AttemptId
    provider: str
    provider_order: str
    numbers: int = 0


@dataclass(frozen=True, slots=True)
class NotPurchased:
    """Proof that the attempt bought nothing: refused, not sent, or reconciled so."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class PurchaseUnclear:
    """A purchase was sent and nobody knows whether it happened."""

    attempt: AttemptId
    cause: str
    detail: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an order that was never bought: given up, refused for the caller's own fault, or canceled."""

    state: OrderState
    error_type: str | None
    error_detail: str | None


@dataclass(frozen=True, slots=True)
class Reported:
    """What a provider says of an order. None, an empty text or an unknown word never overwrites what is known."""

    state: OrderState | None = None
    charge: Money | None = None
    start_count: int | None = None
    remains: int | None = None
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summed:
    """What the runs of a parent come to (domain.children.total). None where nobody knows it yet."""

    state: OrderState
    expected_cost: Money | None = None
    charge: Money | None = None
    start_count: int | None = None
    remains: int | None = None


Fact = PurchaseStarted | Purchased | NotPurchased | PurchaseUnclear | Ended | Reported | Summed


@dataclass(frozen=True, slots=True)
class Applied:
    """The order after a fact, and the events that tell of it; unchanged when the fact was known already."""

    order: Order
    events: tuple[Draft, ...] = ()


def move(order: Order, state: OrderState, at: datetime) -> Order:
    """The order in `state`; IllegalMove when the table has no such move."""
    if state not in _moves(order):
        raise IllegalMove(f"order {order.number} cannot go from {order.state} to {state}")
    return replace(order, state=state, updated_at=at, finished_at=at if state in FINAL else None)


def _moves(order: Order) -> frozenset[OrderState]:
    table = PARENT_TRANSITIONS if order.role is Role.PARENT else TRANSITIONS
    return table.get(order.state, frozenset())


def apply(order: Order, fact: Fact, at: datetime) -> Applied:
    """What the fact makes of the order; IllegalMove when it contradicts the order's state or its live attempt."""
    match fact:
        case PurchaseStarted():
            return _started(order, fact, at)
        case Purchased():
            return _purchased(order, fact, at)
        case NotPurchased():
            return _not_purchased(order, fact, at)
        case PurchaseUnclear():
            return _unclear(order, fact, at)
        case Ended():
            return _ended(order, fact, at)
        case Reported():
            return _reported(order, fact, at)
        case Summed():
            return _summed(order, fact, at)


def _started(order: Order, fact: PurchaseStarted, at: datetime) -> Applied:
    if order.state is S.PLACING and order.attempt == fact.attempt:
        return Applied(order)
    started = replace(
        move(order, S.PLACING, at),
        attempt=fact.attempt,
        provider=fact.provider,
        provider_service=fact.provider_service,
        expected_cost=fact.expected_cost,
        error_type=None,
        error_detail=None,
    )
    return Applied(started)


def _live(order: Order, attempt: AttemptId) -> None:
    if order.attempt != attempt or order.state not in (S.PLACING, S.UNCLEAR):
        raise IllegalMove(f"order {order.number} is {order.state}; attempt {attempt} is not its open purchase")


def _purchased(order: Order, fact: Purchased, at: datetime) -> Applied:
    if order.attempt == fact.attempt and order.provider_order == fact.provider_order:
        return Applied(order)
    _live(order, fact.attempt)
    state = S.IN_PROGRESS if fact.numbers else S.PENDING
    placed = replace(
        move(order, state, at),
        provider=fact.provider,
        provider_order=fact.provider_order,
        error_type=None,
        error_detail=None,
    )
    return Applied(placed, (Draft("order.placed"),))


def _not_purchased(order: Order, fact: NotPurchased, at: datetime) -> Applied:
    if order.attempt is None and order.state is S.ACCEPTED:
        return Applied(order)
    _live(order, fact.attempt)
    freed = replace(
        move(order, S.ACCEPTED, at),
        attempt=None,
        provider=None,
        provider_service=None,
        provider_order=None,
        expected_cost=None,
        error_type=None,
        error_detail=None,
    )
    return Applied(freed)


def _unclear(order: Order, fact: PurchaseUnclear, at: datetime) -> Applied:
    if order.state is S.UNCLEAR and order.attempt == fact.attempt:
        return Applied(order)
    _live(order, fact.attempt)
    kind = RESTORED if fact.cause == RESTORED else "purchase-unclear"
    unclear = replace(move(order, S.UNCLEAR, at), error_type=kind, error_detail=fact.detail)
    return Applied(unclear, (Draft("order.unclear", {"cause": fact.cause, "attempt": fact.attempt}),))


def _ended(order: Order, fact: Ended, at: datetime) -> Applied:
    if order.state is fact.state:
        return Applied(order)
    if order.state is not S.ACCEPTED or fact.state not in FINAL:
        raise IllegalMove(f"order {order.number} is {order.state}; only an order not yet bought ends this way")
    ended = replace(move(order, fact.state, at), error_type=fact.error_type, error_detail=fact.error_detail)
    return Applied(ended, (Draft(_FINAL_EVENT[fact.state]),))


def _reported(order: Order, fact: Reported, at: datetime) -> Applied:
    if order.state not in _REPORTED or order.attempt is None:
        return Applied(order)
    # What remained while it was worked on says nothing of an order that is complete.
    known = None if fact.state is S.COMPLETED and order.state is not S.COMPLETED else order.remains
    merged = replace(
        order,
        charge=fact.charge if fact.charge is not None else order.charge,
        start_count=fact.start_count if fact.start_count is not None else order.start_count,
        remains=fact.remains if fact.remains is not None else known,
        provider_children=fact.children or order.provider_children,
    )
    return _advanced(order, merged, fact.state, at)


def _summed(order: Order, fact: Summed, at: datetime) -> Applied:
    if order.role is not Role.PARENT:
        raise IllegalMove(f"order {order.number} is no parent; its figures are its own")
    merged = replace(
        order,
        expected_cost=fact.expected_cost or order.expected_cost,
        charge=fact.charge or order.charge,
        start_count=fact.start_count if fact.start_count is not None else order.start_count,
        remains=fact.remains if fact.remains is not None else order.remains,
    )
    return _advanced(order, merged, fact.state, at)


def _advanced(order: Order, merged: Order, target: OrderState | None, at: datetime) -> Applied:
    """The order with its new figures, moved where the table lets it, and the event that tells of it."""
    moved = target is not None and target in _moves(order)
    if moved and target is not None:
        merged = move(merged, target, at)
    if merged == order:
        return Applied(order)
    merged = replace(merged, updated_at=at)
    if moved and target in FINAL:
        return Applied(merged, (Draft(_FINAL_EVENT[target]),))
    if order.state in FINAL:
        return Applied(merged)
    start_known = order.start_count is None and merged.start_count is not None
    if moved or start_known or _tenths(merged) != _tenths(order):
        return Applied(merged, (Draft("order.progress"),))
    return Applied(merged)


def _tenths(order: Order) -> int:
    """Which tenth of the quantity remains, all ten while nobody knows; crossing into another one is worth telling."""
    if order.remains is None:
        return 10
    return -(-order.remains * 10 // order.quantity)
