"""Runs of a drip-feed and remainders of partial orders: what each child is to be, and what they come to for the parent.

Pure. It never decides when something is made; stages do. A request's `quantity` is what each run gets; the quantity of
an order with runs is that of all of them, so that its cost, its books and its `remains` mean one thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from aggregator.domain.catalogue import QuantityFrom, ServiceType
from aggregator.domain.ids import OrderId
from aggregator.domain.money import Money, MoneyError
from aggregator.domain.orders import FINAL, Order, OrderState, Role, Summed

DRIP: Final = ("runs", "interval")
S = OrderState


@dataclass(frozen=True, slots=True)
class Member:
    """One of a parent's family: a run, or the remainder of one; `awaits`: a remainder of it may still be bought."""

    order: Order
    awaits: bool = False

    @property
    def open(self) -> bool:
        return self.awaits or self.order.state not in FINAL


@dataclass(frozen=True, slots=True)
class Rates:
    """What amounts of different currencies are added up by: the value of one unit of each in `currency`."""

    currency: str
    values: Mapping[str, Decimal]

    def add(self, amounts: Iterable[Money | None]) -> Money | None:
        """The sum, in its own currency where there is one; None where nothing is known or a rate is missing."""
        known = [amount for amount in amounts if amount is not None]
        if len({amount.currency for amount in known}) > 1:
            exchanged = [self.convert(amount, self.currency) for amount in known]
            known = [amount for amount in exchanged if amount is not None]
            if len(known) != len(exchanged):
                return None
        try:
            return sum(known[1:], known[0]) if known else None
        except MoneyError:
            return None

    def convert(self, amount: Money, currency: str) -> Money | None:
        if amount.currency == currency:
            return amount
        one, other = self._value(amount.currency), self._value(currency)
        if one is None or not other:
            return None
        try:
            return amount.convert(one / other, currency)
        except MoneyError:
            return None

    def _value(self, currency: str) -> Decimal | None:
        return Decimal(1) if currency == self.currency else self.values.get(currency)


def runs_of(params: Mapping[str, str]) -> int:
    """How many runs an order has; one without the parameter is one run."""
    text = params.get("runs", "").strip()
    return max(1, int(text)) if text.isascii() and text.isdigit() else 1


def interval_of(params: Mapping[str, str]) -> timedelta:
    text = params.get("interval", "").strip()
    return timedelta(minutes=int(text) if text.isascii() and text.isdigit() else 0)


def each(order: Order) -> int:
    """The pieces of one run."""
    return order.quantity // runs_of(order.params)


def own_params(order: Order) -> dict[str, str]:
    """What a child is asked for: all but the schedule, which is ours."""
    return {name: value for name, value in order.params.items() if name not in DRIP}


def next_run_at(due: datetime, interval: timedelta, now: datetime) -> datetime:
    """The next run's moment. Runs that were missed are not made up for at once: that would be no drip-feed."""
    again = due + interval
    return again if again > now else now + interval


def run_budget(parent: Order, family: Sequence[Member], rates: Rates) -> Money | None:
    """The `max_cost` of the next run: an equal part of what the parent's leaves for the runs to come."""
    limit = parent.max_cost
    if limit is None:
        return None
    left = limit.units
    for member in family:
        spent = spent_on(member.order)
        converted = rates.convert(spent, limit.currency) if spent is not None else None
        left -= converted.units if converted is not None else 0
    made = sum(member.order.role is Role.RUN for member in family)
    # An amount that buys nothing says so with the run itself; none at all would say that there is no limit.
    return Money(max(1, left // max(1, runs_of(parent.params) - made)), limit.currency)


def spent_on(order: Order) -> Money | None:
    """What an order has cost, or may cost yet."""
    if order.charge is not None or order.expected_cost is not None:
        return order.charge or order.expected_cost
    return order.max_cost if order.state not in FINAL else None


def total(parent: Order, family: Sequence[Member], rates: Rates, *, more: bool) -> Summed:
    """What the runs come to, their remainders with them; `more`: runs are still to be made."""
    orders = [member.order for member in family]
    successor = {order.parent: order for order in orders if order.role is Role.REMAINDER}
    chains = [_chain(order, successor) for order in orders if order.role is Role.RUN]
    first = next((chain[0].start_count for chain in chains if chain[0].ordinal == 1), None)
    return Summed(
        state=_state(parent, chains, going_on=more or any(member.open for member in family)),
        expected_cost=rates.add(order.expected_cost for order in orders),
        charge=rates.add(order.charge for order in orders),
        start_count=first,
        remains=_remains(parent, chains),
    )


def _chain(run: Order, successor: Mapping[OrderId | None, Order]) -> list[Order]:
    chain = [run]
    while (following := successor.get(chain[-1].id)) is not None:
        chain.append(following)
    return chain


def _state(parent: Order, chains: Sequence[Sequence[Order]], *, going_on: bool) -> OrderState:
    if going_on:
        return S.IN_PROGRESS if chains else S.ACCEPTED
    ends = [chain[-1].state for chain in chains]
    if len(ends) == runs_of(parent.params) and all(end is S.COMPLETED for end in ends):
        return S.COMPLETED
    if any(_delivered_some(order) for chain in chains for order in chain):
        return S.PARTIAL
    return S.FAILED if ends and all(end is S.FAILED for end in ends) else S.CANCELED


def _delivered_some(order: Order) -> bool:
    if order.state is S.PARTIAL:
        return order.remains is None or order.remains < order.quantity
    return order.state is S.COMPLETED


def _remains(parent: Order, chains: Sequence[Sequence[Order]]) -> int | None:
    ends = [chain[-1] for chain in chains]
    if not any(end.remains is not None or end.state in FINAL for end in ends):
        return None
    unmade = runs_of(parent.params) - len(chains)
    return unmade * each(parent) + sum(_left(end) for end in ends)


def _left(order: Order) -> int:
    if order.remains is not None:
        return order.remains
    return 0 if order.state is S.COMPLETED else order.quantity


# --- the rest of an order that its provider did not finish -----------------------------------------------------------


def leaves_a_rest(order: Order) -> bool:
    """Whether what is missing of an ended order may be bought elsewhere: its provider ended it, no caller wished so."""
    ended = order.state in (S.PARTIAL, S.CANCELED) and order.provider_order is not None
    return ended and order.role is not Role.PARENT and order.cancel_state is None and order.kind != "sms"


def rest_of(order: Order, kind_type: ServiceType | None) -> int | str:
    """How many pieces are to be bought elsewhere, or why none can be."""
    missing = order.remains
    if order.state is S.CANCELED:
        missing = order.quantity if missing is None or missing > order.quantity else missing
    if missing is None:
        return "the provider did not say how much is missing"
    if missing <= 0:
        return "nothing is missing"
    if missing >= order.quantity and runs_of(order.params) == 1:
        return order.quantity
    if runs_of(order.params) > 1:
        return "the provider ran its drip-feed itself, and which runs are missing nobody knows"
    if kind_type is None or kind_type.quantity is not QuantityFrom.CALLER:
        return "nobody knows which of its pieces are missing"
    return missing


def refund_due(paid: int, order: Order) -> int:
    """What a provider owes back of `paid` units for the pieces that are missing."""
    missing = order.quantity if order.state is S.CANCELED or order.remains is None else order.remains
    return paid * min(max(missing, 0), order.quantity) // order.quantity


def is_confirmed(refunded: int, due: int) -> bool:
    """Whether a refund is that of the missing pieces. A price that is corrected by a little looks like one, too; what
    providers keep back of a refund is not known beforehand."""
    return refunded > 0 and 2 * refunded >= due


def rest_budget(order: Order, paid: Money | None, rates: Rates) -> Money | str | None:
    """The `max_cost` of a remainder: what is left of the order's; or why it must not be bought."""
    limit = order.max_cost
    if limit is None:
        return None
    spent = rates.convert(paid, limit.currency) if paid is not None else Money(0, limit.currency)
    if spent is None:
        return f"what was spent cannot be held against max_cost in {limit.currency}: an exchange rate is missing"
    left = limit.units - spent.units
    return Money(left, limit.currency) if left > 0 else "its max_cost is spent"
