"""A purchase: how it is sent, and what its end makes of its order; one transaction for all of that.

Shared by the stage that buys and the one that finds out later. It decides nothing about when to send.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from aggregator.domain.catalogue import ServiceType
from aggregator.domain.children import each
from aggregator.domain.events import Draft
from aggregator.domain.money import Money
from aggregator.domain.orders import (
    Applied,
    Ended,
    NotPurchased,
    Order,
    OrderState,
    Purchased,
    PurchaseUnclear,
    apply,
)
from aggregator.domain.pauses import pause_after
from aggregator.domain.wire import NotSent
from aggregator.flow.base import House
from aggregator.providers.contract import (
    AddRequest,
    AddSmsRequest,
    Consequence,
    Meaning,
    Placed,
    PurchaseResult,
    Refused,
    Unclear,
)
from aggregator.providers.gateway import Exchange, Gateway
from aggregator.storage import attempts, books, catalogue, ledger, numbers
from aggregator.storage import orders as order_store
from aggregator.storage.attempts import Attempt
from aggregator.storage.database import Connection

FIRST_CODE_CHECK_S: Final = 1.0


async def send(
    gateway: Gateway, order: Order, attempt: Attempt, kind_type: ServiceType
) -> tuple[PurchaseResult | NotSent, Exchange]:
    """Send the attempt, its id as idempotency key. The caller has committed the intent and holds a turn."""
    if order.kind == "sms":
        return await gateway.add_sms(
            AddSmsRequest(
                project=attempt.service,
                quantity=order.quantity,
                country=attempt.country or order.params.get("country"),
                phone=order.params.get("phone"),
                idempotency_key=attempt.id,
            )
        )
    taken = (*kind_type.required, *kind_type.optional)
    return await gateway.add(
        AddRequest(
            service=attempt.service,
            kind=order.kind,
            type=kind_type,
            quantity=each(order),
            link=order.link,
            params={name: value for name, value in order.params.items() if name in taken},
            idempotency_key=attempt.id,
        )
    )


def write_result(
    connection: Connection,
    house: House,
    gateway: Gateway,
    attempt: Attempt,
    result: PurchaseResult | NotSent,
    exchange: Exchange | None = None,
) -> Order:
    """Commit how an attempt ended, and what that makes of its order; ClaimLost when it has ended already.

    The attempt itself is the fence: it was sent once, so whatever answers it is true whenever it is written.
    """
    now = house.clock.now()
    order = order_store.load_for_update(connection, attempt.order_number)
    common: dict[str, object] = {"detail": detail(result)}
    if exchange is not None:
        common["exchange"] = exchange.as_json()
    match result:
        case Placed():
            ids = (result.provider_order, *(number.provider_order for number in result.numbers))
            if (known := _known(connection, gateway.name, ids, order.number)) is not None:
                twin = f"the provider answered the id {known}, which another order has already"
                return _unclear(house, connection, order, attempt, Unclear("duplicate_id", twin), common)
            return _placed(house, connection, gateway, order, attempt, result, common)
        case Unclear():
            return _unclear(house, connection, order, attempt, result, common)
        case NotSent():
            attempts.finish(connection, attempt.id, None, "not_sent", now, outcome="not_sent", **common)
            freed = apply(order, NotPurchased(attempt.id), now)
            return order_store.save(connection, order, freed.order, freed.events, now, next_route_at=now)
        case Refused():
            return _refused(house, connection, order, attempt, result, common)


def _placed(
    house: House,
    connection: Connection,
    gateway: Gateway,
    order: Order,
    attempt: Attempt,
    result: Placed,
    common: dict[str, object],
) -> Order:
    now = house.clock.now()
    attempts.finish(
        connection,
        attempt.id,
        None,
        "placed",
        now,
        outcome="placed",
        provider_order=result.provider_order,
        **common,
    )
    fact = Purchased(attempt.id, gateway.name, result.provider_order, len(result.numbers))
    applied = apply(order, fact, now)
    drafts = applied.events
    due: dict[str, object] = {"placed_at": now}
    if result.numbers:
        first = now + timedelta(seconds=min(FIRST_CODE_CHECK_S, gateway.settings.code_every_s.min))
        rented = [(number.provider_order, number.phone, number.country) for number in result.numbers]
        numbers.add(connection, order.number, gateway.name, rented, now, first)
        drafts = (
            *drafts,
            *(
                Draft("sms.number", {"number": {"phone": number.phone, "provider_order": number.provider_order}})
                for number in result.numbers
            ),
        )
    else:
        due["next_poll_at"] = now + timedelta(seconds=gateway.settings.status_every_s.min)
    saved = order_store.save(connection, order, applied.order, drafts, now, **due)
    book_expected(connection, gateway.name, saved, attempt.expected, now, fresh=attempt.state != "unclear")
    return saved


def book_expected(
    connection: Connection, provider: str, order: Order, expected: Money, now: datetime, *, fresh: bool
) -> None:
    """Book what the purchase should cost until the provider says what it did; each number of an SMS order its own.

    Only a `fresh` one shows, in the next reading, whether the provider debits at once.
    """
    note = books.FRESH_PURCHASE if fresh else "expected; found later"
    rented = numbers.of_orders(connection, {order.number: order.id}).get(order.id, ()) if order.kind == "sms" else ()
    if not rented:
        ledger.book_charge(connection, provider, order.number, expected, now, note=note)
        return
    each = expected.times(1, order.quantity)
    for number in rented:
        ledger.book_charge(connection, provider, order.number, each, now, number_id=number.id, note=note)


def _unclear(
    house: House, connection: Connection, order: Order, attempt: Attempt, result: Unclear, common: dict[str, object]
) -> Order:
    now = house.clock.now()
    detail = result.text or result.reason
    attempts.finish(
        connection, attempt.id, None, "unclear", now, **{**common, "outcome": result.reason[:32], "detail": detail}
    )
    applied = apply(order, PurchaseUnclear(attempt.id, result.reason, detail), now)
    books.open_window(connection, attempt.provider, now)
    return order_store.save(connection, order, applied.order, applied.events, now)


def _refused(
    house: House, connection: Connection, order: Order, attempt: Attempt, result: Refused, common: dict[str, object]
) -> Order:
    now = house.clock.now()
    attempts.finish(
        connection,
        attempt.id,
        None,
        "refused",
        now,
        outcome=str(result.meaning),
        consequence=str(result.consequence),
        **common,
    )
    if result.meaning is Meaning.STOCK:
        catalogue.set_stock_if_tracked(connection, attempt.provider, attempt.service, 0, now)
    if result.meaning is Meaning.ACTIVE_ORDER:
        books.note_active_link(connection, attempt.provider, order.number, order.link, now)
    freed = apply(order, NotPurchased(attempt.id), now)
    if result.consequence is Consequence.CALLERS_FAULT:
        ended = apply(freed.order, Ended(OrderState.FAILED, "refused", f"{attempt.provider}: {result.text}"), now)
        both = Applied(ended.order, (*freed.events, *ended.events))
        return order_store.save(connection, order, both.order, both.events, now, next_route_at=None)
    deadline = order_store.give_up_at(connection, order.number)
    if result.consequence is Consequence.LATER and now < deadline:
        again = min(now + _wait(result, attempt.round), deadline)
        return order_store.save(
            connection, order, freed.order, freed.events, now, next_route_at=again, round=attempt.round + 1
        )
    return order_store.save(connection, order, freed.order, freed.events, now, next_route_at=now)


def _known(connection: Connection, provider: str, ids: Iterable[str], number: int) -> str | None:
    """The first of these ids of the provider that another order has already."""
    return next((one for one in ids if order_store.known_elsewhere(connection, provider, one, number)), None)


def _wait(refused: Refused, round_: int) -> timedelta:
    """How long an order waits that a provider wants later. A rate limit speaks of the provider, not of the order: the
    gateway keeps quiet for as long, and the order may meanwhile go elsewhere."""
    if refused.retry_after_s and refused.meaning is not Meaning.RATE_LIMIT:
        return timedelta(seconds=refused.retry_after_s)
    return pause_after(round_)


def detail(result: PurchaseResult | NotSent) -> str:
    match result:
        case Placed():
            return f"placed as {result.provider_order}"
        case Refused():
            return f"refused ({result.meaning}): {result.text}"
        case Unclear():
            return result.text or result.reason
        case NotSent():
            return f"not sent: {result.reason}"
