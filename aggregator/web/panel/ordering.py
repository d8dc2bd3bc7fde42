"""Orders at the panel door: placed, followed, refilled and canceled, one or up to 100 by a call.

Decides how a call becomes wishes to the stages of the first door, and how their answers read. A foreign order is an
unknown one, and an order that was taken is never answered with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from aggregator.domain.catalogue import PARAMS
from aggregator.domain.children import DRIP, runs_of
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.money import Money
from aggregator.domain.orders import FINAL, Order, Role
from aggregator.domain.refills import OPEN, Denial
from aggregator.flow import refilling, wishes
from aggregator.flow.base import House
from aggregator.flow.intake import NewOrder
from aggregator.flow.storefront import shown_in_currency
from aggregator.log import get_logger
from aggregator.storage import catalogue, children, deliverables, refills
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.web.once import once
from aggregator.web.panel.calls import Call, known, shown
from aggregator.web.panel.selling import quantity_asked, service_asked
from aggregator.web.panel.shapes import REFILL_WORDS, Followed
from aggregator.web.panel.taking import take_one
from aggregator.web.panel.words import Refused, Word, denied, refusal
from aggregator.web.rendering import Answer, dumps

log = get_logger()


async def add(call: Call) -> object:
    """`{"order": 23501}`, once the order is durable."""
    call.may_buy()
    return await take_one(call, _wish, lambda order: {"order": order.number})


def _wish(call: Call) -> NewOrder:
    service = service_asked(call, "service")
    return NewOrder(
        owner=call.caller.name,
        service=call.house.settings.at_panel[service.panel_id or 0],
        quantity=quantity_asked(call),
        link=call.text("link") or None,
        params=_params(call),
        at_panel=True,
    )


def _params(call: Call) -> dict[str, str]:
    """The panel's own parameters. Blank ones are none, nor is a drip-feed of no runs, as many clients send it."""
    params = {name: value for name, value in call.fields.items() if name in PARAMS and value.strip()}
    if call.text("runs") in ("", "0"):
        for name in DRIP:
            params.pop(name, None)
    return params


async def status(call: Call) -> object:
    """One order, or many by their id with an error in the place of an unknown one."""
    ids = call.many("orders", "order")
    asked = [call.text("order")] if ids is None else ids
    numbers = known(asked)
    found = await call.house.database.read(lambda c: _followed(call, c, list(numbers.values())))
    unknown = Refused(Word.ORDER)
    told = {one: found.get(numbers[one], unknown) if one in numbers else unknown for one in asked}
    if ids is None:
        only = told[asked[0]]
        if isinstance(only, Refused):
            raise only
        return call.shape.status(only)
    return {one: _error(call, it) if isinstance(it, Refused) else call.shape.status(it) for one, it in told.items()}


def _error(call: Call, refused: Refused) -> dict[str, str]:
    return {"error": refused.sentence(call.panel)}


def _followed(call: Call, connection: Connection, numbers: list[int]) -> dict[int, Followed | Refused]:
    """The caller's own orders among these numbers, with what a status shows beside them; Refused for one whose
    delivery cannot be opened: without its accounts it would look like one that delivered none."""
    house, caller = call.house, call.caller
    orders = order_store.find_many(connection, numbers, caller.sees)
    runs = children.runs_of(connection, [one.id for one in orders if one.role is Role.PARENT])
    sold = {(one.provider, one.provider_service) for one in orders if one.provider and one.provider_service}
    rows = catalogue.offer_rows(connection, sorted((str(name), str(service)) for name, service in sold))
    found: dict[int, Followed | Refused] = {}
    for order in orders:
        try:
            accounts = _accounts(call, connection, order)
        except Problem as problem:
            found[int(order.number)] = refusal(problem)
            continue
        row = next(iter(rows.get((order.provider or "", order.provider_service or ""), [])), None)
        charge = _charge(house, order)
        found[int(order.number)] = Followed(
            order=order,
            charge=charge,
            currency=charge.currency if charge is not None else house.settings.currency,
            auto_delivery=row[0].auto_delivery if row is not None else True,
            runs=runs_of(order.params) if order.role is Role.PARENT else 0,
            orders=runs.get(order.id, ()),
            accounts=accounts,
        )
    return found


def _charge(house: House, order: Order) -> Money | None:
    """What the order costs, in the currency that prices are in where there is a rate: as charged; until then as
    expected; nothing where it ended without a purchase; None while nobody can tell."""
    charge = order.charge
    if charge is None:
        never_bought = order.state in FINAL and order.provider_order is None and order.role is not Role.PARENT
        charge = Money(0, house.settings.currency) if never_bought else order.expected_cost
    return shown_in_currency(house, charge) if charge is not None else None


def _accounts(call: Call, connection: Connection, order: Order) -> list[str]:
    """What was delivered, for those who may have it: the order's owner and admins."""
    if order.kind != "product" or call.caller.handles not in (None, order.owner):
        return []
    try:
        accounts = deliverables.read(connection, call.house.sealer, order.number)
    except deliverables.SealingError as exc:
        log.error("delivery_cannot_be_opened", order_id=order.id, reason=str(exc))
        raise Problem(ProblemKind.UNAVAILABLE, str(exc)) from None
    if accounts:
        log.info("delivery_read", order_id=order.id, caller=call.caller.name, count=len(accounts), door="panel")
    return accounts


# --- wishes: each id is judged for itself, all of them in one transaction ---

Wish = Callable[[Connection, Order, datetime], int]


async def refill(call: Call) -> object:
    """`{"refill": "1"}`, or `[{"order": 1, "refill": 1}, {"order": 3, "refill": {"error": "…"}}]` of many."""
    house = call.house

    def ask(connection: Connection, order: Order, now: datetime) -> int:
        why = refilling.request(house, connection, order, now)
        past = refills.of_orders(connection, {order.number: order.id}).get(order.id, ())
        if why is None:
            return past[-1].number
        running = next((one for one in past if one.state in OPEN), None) if why.why is Denial.RUNNING else None
        wait_s = (why.again_at - now).total_seconds() if why.again_at is not None else None
        raise denied(why.why, wait_s, running.number if running is not None else None)

    return await _wished(call, "refill", ask, lambda number: {"refill": str(number)})


async def cancel(call: Call) -> object:
    """`[{"order": 9, "cancel": {"error": "…"}}, {"order": 2, "cancel": 1}]`: 1 means asked, also when it was before."""
    house = call.house

    def ask(connection: Connection, order: Order, now: datetime) -> int:
        try:
            wishes.wish(house, connection, order, now)
        except Problem as problem:
            if order.state in FINAL or order.cancel_state not in ("asked", "unclear"):
                raise Refused(Word.CANCEL_NEVER) from problem
        else:
            log.info("cancel_wished", order_id=order.id, by=call.caller.name, door="panel")
        return 1

    return await _wished(call, "cancel", ask, lambda one: [{"order": shown(call.text("order")), "cancel": one}])


async def _wished(call: Call, name: str, ask: Wish, alone: Callable[[int], object]) -> object:
    """Ask for something of each order; the answer is made in the transaction that journals it."""
    call.may_buy()
    house, caller = call.house, call.caller
    ids = call.many("orders", "order")
    asked = [call.text("order")] if ids is None else ids
    numbers = known(asked)

    def write(connection: Connection) -> dict[str, int | Refused]:
        now = house.clock.now()
        mine = {int(one.number) for one in order_store.find_many(connection, list(numbers.values()), caller.handles)}
        told: dict[str, int | Refused] = {one: Refused(Word.ORDER) for one in asked}
        # By number: two calls about the same orders lock them in one order.
        for one, number in sorted(numbers.items(), key=lambda item: item[1]):
            if number in mine:
                try:
                    told[one] = ask(connection, order_store.load_for_update(connection, number), now)
                except Refused as refused:
                    told[one] = refused
        return told

    def render(_: Connection, told: Mapping[str, int | Refused]) -> Answer:
        if ids is None:
            only = told[asked[0]]
            document = _error(call, only) if isinstance(only, Refused) else alone(only)
        else:
            document = [{"order": shown(one), name: _said(call, told[one])} for one in ids]
        return Answer(200, dumps(document))

    async def work(recording: House) -> None:
        await recording.database.write(write)
        house.wakeups.wake("sequencing", "refilling", "canceling", "dripping")

    return await once(call.request, house, caller.name, call.body, work, render)


def _said(call: Call, told: int | Refused) -> object:
    return _error(call, told) if isinstance(told, Refused) else told


async def refill_status(call: Call) -> object:
    """`{"status": "Completed"}`, or `[{"refill": 1, "status": "Completed"}, {"refill": 3, "status": {…}}]` of many."""
    ids = call.many("refills", "refill")
    asked = [call.text("refill")] if ids is None else ids
    numbers = known(asked)
    found = await call.house.database.read(
        lambda c: refills.states(c, list(numbers.values()), call.caller.sees) if numbers else {}
    )
    told = {one: REFILL_WORDS[found[number]] for one, number in numbers.items() if number in found}
    if ids is None:
        if asked[0] not in told:
            raise Refused(Word.REFILL)
        return {"status": told[asked[0]]}
    unknown = _error(call, Refused(Word.REFILL))
    return [{"refill": shown(one), "status": told.get(one, unknown)} for one in ids]
