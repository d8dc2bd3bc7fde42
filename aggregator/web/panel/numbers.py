"""Rented numbers at the panel door: rented by project and country, asked for their codes by their own ids.

The ids are given when the order is taken, so a caller has them although no number is rented yet: such a number is
`pending` and has no phone. Decides how that reads; it never answers an accepted order with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from aggregator.domain.clock import rfc3339
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.money import Money
from aggregator.domain.numbers import Number, NumberState
from aggregator.flow.base import House
from aggregator.flow.intake import NewOrder
from aggregator.flow.storefront import shown_in_currency
from aggregator.storage import numbers
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.storage.numbers import Rental
from aggregator.web.connections import connection_of, has_gone
from aggregator.web.feed import FEED
from aggregator.web.panel.calls import Call
from aggregator.web.panel.selling import quantity_asked, service_asked
from aggregator.web.panel.shapes import price
from aggregator.web.panel.taking import taken
from aggregator.web.panel.words import Refused, Word
from aggregator.web.rendering import Answer, dumps, response

WAIT_S: Final = 25.0
"""How long `add_sms` waits for its numbers (contract.md §4): clients give up after 30 seconds."""
LOOK_EVERY_S: Final = 0.2
"""Any event may be about the number; where there are hundreds a second, many who wait must not look at each."""
_ENDED: Final[Mapping[NumberState, tuple[str, str]]] = {
    NumberState.EXPIRED: ("expired", "Number has expired"),
    NumberState.CANCELED: ("cancel", "Number was canceled"),
}


async def add_sms(call: Call) -> object:
    """`{"orders": [{"order": 12345, "phone": "+1234567890", "country": "us", "status": "active"}]}`, as soon as the
    numbers are rented; after a while without a phone, and pending."""
    call.may_buy()
    answered, headers = await taken(call, _wish, lambda order: {"order": order.number})
    if "error" in answered:
        return response(Answer(200, dumps(answered), headers))
    rental = await _rented(call, int(answered["order"]))
    return response(Answer(200, dumps({"orders": _entries(rental)}), headers))


def _wish(call: Call) -> NewOrder:
    service = service_asked(call, "project_id", numbers=True)
    quantity = quantity_asked(call)
    return NewOrder(
        owner=call.caller.name,
        service=call.house.settings.at_panel[service.panel_id or 0],
        quantity=1 if quantity is None else quantity,
        params={name: call.text(name) for name in ("country", "phone") if call.text(name)},
        at_panel=True,
    )


async def _rented(call: Call, order: int) -> Rental:
    """The order's numbers, waited for a while; each event that is told may be theirs."""
    feed, services = call.request.app[FEED], call.services
    if (connection := connection_of(call.request)) is not None:
        connection.step_aside(stream=False)

    def load(connection: Connection) -> Rental:
        return numbers.rental(connection, order_store.find_many(connection, [order], call.caller.sees)[0])

    loop = asyncio.get_running_loop()
    until = loop.time() + WAIT_S
    while True:
        looked_at, moment = loop.time(), feed.moment()
        done = looked_at >= until or feed.closed or services.draining() or has_gone(call.request)
        try:
            rental = await services.house.database.read(load)
        except StorageUnavailable:
            # The order is taken: an error would say that nobody knows, so that comes last.
            if done:
                raise
        else:
            if done or (rental.over and all(one.phone for one in rental.rented.values())):
                return rental
        await feed.wait(moment, until - loop.time())
        await asyncio.sleep(min(looked_at + LOOK_EVERY_S, until) - loop.time())


def _entries(rental: Rental) -> list[dict[str, object]]:
    """What was rented; before that, all that was asked for."""
    country = rental.order.params.get("country", "")
    if rental.rented:
        return [
            {"order": one, "phone": number.phone, "country": rental.countries[one] or country, "status": _word(number)}
            for one, number in rental.rented.items()
        ]
    status = "cancel" if rental.over else "pending"
    return [{"order": one, "phone": "", "country": country, "status": status} for one in rental.ids]


def _word(number: Number) -> str:
    return _ENDED[number.state][0] if number.state in _ENDED else "active"


async def sms_code(call: Call) -> object:
    # {"status": "completed", "code": "123456", "sms_content": "Your verification code is 123456"}
    # {"status": "waiting", "message": "Waiting for code"}
    rental, number = await _asked(call)
    if number is not None and number.codes:
        newest = number.codes[-1]
        return {"status": "completed", "code": newest.code, "sms_content": newest.text}
    ended = _end(rental, number)
    if ended is not None:
        return {"status": ended[0], "message": ended[1]}
    return {"status": "waiting", "message": "Waiting for code"}


async def sms_status(call: Call) -> object:
    # {"status": "code_received", "phone": "+1234567890", "code": "123456", "charge": "0.5000", "currency": "USD",
    #  "expires_at": "2023-01-01T12:00:00.000Z"}
    rental, number = await _asked(call)
    ended = _end(rental, number)
    code = number.codes[-1].code if number is not None and number.codes else None
    status = "code_received" if code is not None else ended[0] if ended else "active" if number else "pending"
    charge = _charge(call.house, rental, number)
    return {
        "status": status,
        "phone": number.phone if number is not None else "",
        "code": code,
        "charge": price(charge) if charge is not None else None,
        "currency": charge.currency if charge is not None else call.house.settings.currency,
        "expires_at": rfc3339(number.expires_at) if number is not None and number.expires_at is not None else None,
    }


async def _asked(call: Call) -> tuple[Rental, Number | None]:
    """The number that a call is about: with its order, and None in its place while it is not rented."""
    wanted = call.number("order")

    def load(connection: Connection) -> Rental | None:
        order = numbers.order_of(connection, wanted) if wanted is not None else None
        found = order_store.find_many(connection, [order] if order is not None else [], call.caller.sees)
        return numbers.rental(connection, found[0]) if found else None

    rental = await call.house.database.read(load)
    if rental is None or wanted is None:
        raise Refused(Word.ORDER)
    return rental, rental.rented.get(wanted)


def _end(rental: Rental, number: Number | None) -> tuple[str, str] | None:
    """How a number ended; one that will never be rented is a canceled one."""
    if number is not None:
        return _ENDED.get(number.state)
    return _ENDED[NumberState.CANCELED] if rental.over else None


def _charge(house: House, rental: Rental, number: Number | None) -> Money | None:
    """What one number costs: as charged, else its share of what is expected; nothing where none was rented."""
    order = rental.order
    if number is None and rental.over:
        return Money(0, house.settings.currency)
    charge = number.charge if number is not None else None
    if charge is None and order.expected_cost is not None:
        charge = order.expected_cost.times(1, order.quantity)
    return shown_in_currency(house, charge) if charge is not None else None
