"""What a database that comes from a backup must not do by itself: buy what may have been bought since.

contract.md §6: after a restore purchases are paused, and every order that was not placed is held as `unclear` with
cause `restored` until a person releases it. Nothing is asked of anybody here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from aggregator.config import Settings
from aggregator.domain.ids import AttemptId, new_id
from aggregator.domain.money import Money
from aggregator.domain.orders import RESTORED, Order, OrderState, PurchaseStarted, PurchaseUnclear, apply
from aggregator.flow.reconcile import UNCLEAR_REFILL_WAIT
from aggregator.storage import attempts, claims, holding, refills
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.storage.tables import CLAIMED

_ORDER: Final = (
    "the database was restored from a backup, and this order may have been bought since: look at its providers, then "
    "resolve it"
)
_PARENT: Final = (
    "the database was restored from a backup, and runs of this order may have been made since: look at its providers, "
    "then resolve it as not_placed to go on with the runs that are missing here, or cancel it"
)
_NOBODY: Final = "unknown"
"""The provider of an order whose service the config no longer has; a person names the right one."""


@dataclass(frozen=True, slots=True)
class Held:
    """How many orders wait for a person: those that may have been bought since, and parents that make no more runs."""

    orders: int
    parents: int
    rests: int
    """Rests of ended orders that are not bought elsewhere any more."""


def hold(connection: Connection, settings: Settings, now: datetime) -> Held:
    """Hold all that could be bought twice, in one transaction; refills and cancels that were under way are unclear."""
    claims.void_all(connection, CLAIMED)
    holding.pause_all(connection, settings.providers, now)
    if order_store.any_order(connection):
        holding.skip_numbers(connection)
    held = holding.not_placed(connection)
    for number in held:
        _hold_order(connection, settings, order_store.load_for_update(connection, number), now)
    parents = holding.open_parents(connection)
    for number in parents:
        parent = order_store.load_for_update(connection, number)
        order_store.save(connection, parent, replace(parent, error_type=RESTORED, error_detail=_PARENT), (), now)
    rests = holding.waiting_rests(connection)
    for number in rests:
        ended = order_store.load_for_update(connection, number)
        order_store.save(connection, ended, ended, (), now, next_remainder_at=None)
    holding.refills_may_be_asked(connection, now)
    refills.interrupted(connection, now, now + UNCLEAR_REFILL_WAIT)
    return Held(len(held), len(parents), len(rests))


def _hold_order(connection: Connection, settings: Settings, order: Order, now: datetime) -> None:
    if order.state is OrderState.ACCEPTED:
        order = _counts_as_sent(connection, settings, order, now)
    attempt = order.attempt
    assert attempt is not None, "an order that is being bought has its attempt"
    if order.state is OrderState.PLACING:
        attempts.finish(connection, attempt, None, "unclear", now, outcome=RESTORED, detail=_ORDER)
        applied = apply(order, PurchaseUnclear(attempt, RESTORED, _ORDER), now)
        order_store.save(connection, order, applied.order, applied.events, now)
        return
    holding.mark(connection, attempt)
    detail = f"{_ORDER} (before: {order.error_detail})" if order.error_detail else _ORDER
    order_store.save(connection, order, replace(order, error_type=RESTORED, error_detail=detail), (), now)


def _counts_as_sent(connection: Connection, settings: Settings, order: Order, now: datetime) -> Order:
    """An order that waits to be bought, as if its purchase had just been sent where it would have gone first."""
    planned = holding.live_attempt(connection, order.number)
    if planned is not None:
        attempt, provider, service = AttemptId(planned["id"]), planned["provider"], planned["service"]
        expected = Money(planned["expected_units"], planned["expected_currency"])
    else:
        attempt = AttemptId(new_id("att", now))
        provider, service = _first_offer(settings, order)
        expected = Money(0, settings.currency)
        attempts.plan(
            connection,
            attempt,
            order.number,
            round_=0,
            provider=provider,
            service=service,
            country="",
            expected=expected,
            cost=expected,
            rate=None,
            candidates=[],
            at=now,
        )
    holding.count_as_sent(connection, attempt, now)
    applied = apply(order, PurchaseStarted(attempt, provider, service, expected), now)
    return order_store.save(connection, order, applied.order, applied.events, now, next_route_at=None)


def _first_offer(settings: Settings, order: Order) -> tuple[str, str]:
    service = settings.services.get(order.service)
    offers = service.offers if service is not None else ()
    wanted = [offer for offer in offers if order.pinned_provider in (None, offer.provider)]
    return (wanted[0].provider, wanted[0].target) if wanted else (_NOBODY, "")
