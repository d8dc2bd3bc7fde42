"""Rows as the program itself writes them: each function is one step of an order's life, for use in `Database.write`."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import Connection, bindparam
from sqlalchemy.util import await_only

from aggregator.domain.events import Draft
from aggregator.domain.ids import AttemptId, OrderId, new_id
from aggregator.domain.money import Money
from aggregator.domain.orders import (
    Ended,
    Fact,
    NotPurchased,
    Order,
    OrderState,
    Purchased,
    PurchaseStarted,
    PurchaseUnclear,
    Reported,
    apply,
)
from aggregator.storage import attempts, claims, numbers, orders, outbox, tables
from aggregator.storage.outbox import Fresh
from tests.support.examples import NOW, an_order

COST = Money.parse("0.90", "USD")
_provider_orders = count(23501)


def accept(connection: Connection, **fields: Any) -> Order:
    """A new order."""
    created = fields.get("created_at", NOW)
    order = an_order(**{"id": OrderId(new_id("ord", created)), "updated_at": created, **fields})
    return orders.add(connection, order, [Draft("order.accepted")], give_up_at=created + timedelta(days=1))


def plan(connection: Connection, order: Order, *, provider: str = "smmplus", at: datetime = NOW) -> AttemptId:
    attempt = AttemptId(new_id("att", at))
    attempts.plan(
        connection,
        attempt,
        order.number,
        round_=0,
        provider=provider,
        service="1",
        country="",
        expected=COST,
        cost=COST,
        rate=COST,
        candidates=[],
        at=at,
    )
    return attempt


_ONE_ATTEMPT = claims.Claimable(
    tables.attempts,
    tables.attempts.c.id,
    where=tables.attempts.c.id == bindparam("of_attempt"),
    order_by=(tables.attempts.c.id,),
)


def place(connection: Connection, order: Order, *, provider: str = "smmplus", at: datetime = NOW) -> Order:
    """The intent to buy: from here on the purchase may have been sent."""
    attempt = plan(connection, order, provider=provider, at=at)
    token = claims.new_token()
    # `attempts.claim_planned` would take the oldest plan, which may be another order's.
    claims.claim(connection, _ONE_ATTEMPT, at, limit=1, lease_s=90, token=token, of_attempt=attempt)
    attempts.start(connection, attempt, token, at)
    return _apply(connection, order, PurchaseStarted(attempt, provider, "1", COST), at, next_route_at=None)


def buy(
    connection: Connection,
    order: Order,
    *,
    provider: str = "smmplus",
    provider_order: str | None = None,
    rented: Sequence[str] = (),
    at: datetime = NOW,
) -> Order:
    """The whole purchase of an accepted order; for numbers, `rented` are their phones."""
    placing = order if order.state is OrderState.PLACING else place(connection, order, provider=provider, at=at)
    assert placing.attempt is not None
    theirs = provider_order or str(next(_provider_orders))
    attempts.finish(connection, placing.attempt, None, "placed", at, outcome="placed", provider_order=theirs)
    due: dict[str, object] = {"next_poll_at": at + timedelta(seconds=15)}
    if rented:
        due = {}
        each = [(f"{theirs}-{place}", phone, "us") for place, phone in enumerate(rented)]
        numbers.add(connection, order.number, provider, each, at, at + timedelta(seconds=1))
    return _apply(connection, placing, Purchased(placing.attempt, provider, theirs, len(rented)), at, **due)


def lose(connection: Connection, order: Order, *, at: datetime = NOW) -> Order:
    """A purchase of which nobody knows whether it happened."""
    placing = place(connection, order, at=at)
    assert placing.attempt is not None
    attempts.finish(connection, placing.attempt, None, "unclear", at, outcome="timeout")
    return _apply(connection, placing, PurchaseUnclear(placing.attempt, "timeout", "no answer in 30 s"), at)


def refuse(connection: Connection, order: Order, *, at: datetime = NOW) -> Order:
    """A purchase that the provider refused: the order waits for another offer."""
    placing = place(connection, order, at=at)
    assert placing.attempt is not None
    attempts.finish(connection, placing.attempt, None, "refused", at, outcome="funds")
    return _apply(connection, placing, NotPurchased(placing.attempt), at, next_route_at=at)


def report(connection: Connection, order: Order, *, at: datetime = NOW, **says: Any) -> Order:
    """What the provider says of a bought order."""
    fact = Reported(**says)
    ends = fact.state in (OrderState.COMPLETED, OrderState.PARTIAL, OrderState.CANCELED, OrderState.FAILED)
    return _apply(connection, order, fact, at, next_poll_at=None if ends else at + timedelta(seconds=15))


def end(connection: Connection, order: Order, state: OrderState, *, at: datetime = NOW) -> Order:
    """The end of an order that was never bought."""
    attempts.drop_plan(connection, order.number, at)
    return _apply(connection, order, Ended(state, "no-offer", "nobody took it"), at, next_route_at=None)


def sequence(connection: Connection, *endpoints: str, at: datetime = NOW) -> int:
    """Positions for all events that have none, fanned out to `endpoints`."""

    def targets(_fresh: Fresh) -> Sequence[str]:
        return endpoints

    total = 0
    while taken := outbox.sequence(connection, at, targets):
        total += taken
    return total


def wait_inside(what: Coroutine[Any, Any, Any]) -> None:
    """Wait in a function that runs inside `PostgresDatabase.read` or `write`: it is not async, its connection is."""
    await_only(what)


def _apply(connection: Connection, order: Order, fact: Fact, at: datetime, **columns: object) -> Order:
    applied = apply(order, fact, at)
    return orders.save(connection, order, applied.order, applied.events, at, **columns)
