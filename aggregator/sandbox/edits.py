"""Changing a running sandbox by hand. Decides which fields of an account, service, order or number can be forced.

Every change is checked whole before any of it is made; money that a change moves is moved in the balance too.
"""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import TypeVar, cast

from .account import Account, Settings
from .behaviour import KINDS, REFILL_OUTCOMES, Behaviour, Kind, RefillOutcome
from .catalogue import NUMBER_KINDS, NumberBehaviour, NumberKind, Service, SmsProject
from .fields import FieldError, Fields
from .money import shown
from .numbers import code_at
from .orders import Drop, Order
from .renting import find_number
from .world import World

T = TypeVar("T")


def edit_account(world: World, account: Account, fields: Fields) -> dict[str, object]:
    """Balance and any field of `Settings`."""
    balance = fields.money("balance")
    changes: dict[str, object] = {}
    for name, default in asdict(Settings("")).items():
        if not fields.has(name):
            continue
        if name == "pending_start_count":
            changes[name] = fields.text(name)
            continue
        choices = {"error_words": ("plain", "codes"), "batch": ("orders", "order", "none")}.get(name, ())
        value: object
        if isinstance(default, bool):
            value = fields.flag(name)
        elif isinstance(default, int):
            value = fields.integer(name, 1, 1_000_000)
        elif isinstance(default, float):
            value = fields.number(name)
        else:
            value = fields.text(name, choices)
        if value is None:
            raise fields.error(name, "must not be null", None)
        changes[name] = value
    fields.done()
    account.settings = replace(account.settings, **changes)  # type: ignore[arg-type]  # checked field by field above
    if balance is not None:
        account.set_balance(balance, world.now())
    return show_account(world, account)


def show_account(world: World, account: Account) -> dict[str, object]:
    """An account as JSON: settings (the sandbox's keys are no secrets), balance and how much it holds."""
    return asdict(account.settings) | {
        "name": account.name,
        "dialect": account.dialect,
        "url": f"/{account.name}/api/v2",
        "balance": shown(account.balance_at(world.now())),
        "services": len([service for service in account.services.values() if not service.removed]),
        "orders": len(account.orders),
        "numbers": len(account.numbers),
        "refills": len(account.refills),
    }


def edit_service(account: Account, service: Service, fields: Fields) -> dict[str, object]:
    """Stock (null: unlimited), rate, min, max, name, refill, cancel, behaviour, and `remove` true or false."""
    stock = fields.integer("stock") if fields.has("stock") else service.stock
    rate, low, high = fields.text("rate"), fields.integer("min"), fields.integer("max")
    name, refill, cancel, removed = (
        fields.text("name"),
        fields.flag("refill"),
        fields.flag("cancel"),
        fields.flag("remove"),
    )
    behaviour = service.behaviour
    if fields.has("behaviour"):
        behaviour = _behaviour(fields.take("behaviour"), behaviour)
    fields.done()
    if rate is not None:
        Fields({"rate": rate}).money("rate")
    changed = replace(
        service,
        stock=stock,
        rate=service.rate if rate is None else rate,
        min=service.min if low is None else low,
        max=service.max if high is None else high,
        name=service.name if name is None else name,
        refill=service.refill if refill is None else refill,
        cancel=service.cancel if cancel is None else cancel,
        removed=service.removed if removed is None else removed,
        behaviour=behaviour,
    )
    account.services[service.id] = changed
    return asdict(changed)


def edit_project(account: Account, project_id: str, fields: Fields) -> dict[str, object]:
    """Stock, price and behaviour of all rows of an SMS project, or of those in `country`."""
    country, price, stock = fields.text("country"), fields.text("price"), fields.integer("stock")
    body = Fields(fields.take("behaviour") or {}, "behaviour")
    kind = body.text("kind", NUMBER_KINDS)
    times = {name: body.number(name) for name in ("code_s", "second_s", "lifetime_s")}
    body.done()
    fields.done()
    if price is not None:
        Fields({"price": price}).money("price")

    def changed(row: SmsProject) -> SmsProject:
        behaviour = NumberBehaviour(
            row.behaviour.kind if kind is None else cast(NumberKind, kind),
            *(getattr(row.behaviour, name) if value is None else value for name, value in times.items()),
        )
        return replace(
            row,
            behaviour=behaviour,
            price=row.price if price is None else price,
            stock=row.stock if stock is None else stock,
        )

    rows = [
        index
        for index, row in enumerate(account.projects)
        if row.project_id == project_id and country in (None, row.country_id)
    ]
    if not rows:
        raise LookupError("no such project")
    for index in rows:
        account.projects[index] = changed(account.projects[index])
    return {"projects": [asdict(account.projects[index]) for index in rows]}


def edit_order(world: World, account: Account, order: Order, fields: Fields) -> dict[str, object]:
    """Force status (any word), remains, start_count (null: as it comes), charge; `drop`: so many units fall off now."""
    now = world.now()
    status = fields.text("status") if fields.has("status") else order.forced_status
    remains = fields.integer("remains") if fields.has("remains") else order.forced_remains
    start = fields.integer("start_count") if fields.has("start_count") else order.forced_start_count
    drop, charge = fields.integer("drop", 1), fields.money("charge")
    fields.done()
    order.forced_status, order.forced_remains, order.forced_start_count = status, remains, start
    if drop is not None:
        order.drops.append(Drop(now, drop))
    account.balance_at(now)
    if charge is not None:
        account.recharge(order, charge, now)
    account.settle(order, now)
    return show_order(world, order)


def show_order(world: World, order: Order) -> dict[str, object]:
    """An order as it really is: its view, fate, children and refills."""
    now = world.now()
    view = order.view(now)
    return {
        "order": order.id,
        "ordinal": order.ordinal,
        "service": order.service.id,
        "link": order.link,
        "quantity": order.quantity,
        "fate": order.plan.kind,
        "status": view.status,
        "delivered": view.delivered,
        "remains": view.remains,
        "dropped": order.dropped(now),
        "charge": shown(view.charge),
        "start_count": view.start_count,
        "accounts": list(order.accounts[: view.delivered]),
        "children": [child.id for child in order.children],
        "refills": [{"refill": refill.id, "status": refill.at(now)[0]} for refill in order.refills],
    }


def edit_refill(world: World, account: Account, refill_id: str, fields: Fields) -> dict[str, object]:
    """Force a refill's status word; null lets it run again."""
    refill = account.refills.get(refill_id)
    if refill is None:
        raise LookupError("no such refill")
    word = fields.text("status") if fields.has("status") else refill.forced
    fields.done()
    refill.forced = word
    return {"refill": refill.id, "order": refill.order.id, "status": refill.at(world.now())[0]}


def edit_number(world: World, account: Account, order_id: str, fields: Fields) -> dict[str, object]:
    """`code` (and `text`): a code arrives now, even after the end; `expire`: the number ends now."""
    number, now = find_number(account, order_id), world.now()
    code, text, expire = fields.text("code"), fields.text("text"), fields.flag("expire")
    fields.done()
    if text is not None and code is None:
        raise FieldError("text: needs code")
    if code is not None:
        number.pushed.append(code_at(now, random.Random(0), code, text))
    if expire:
        number.ends_at = min(number.ends_at, now)
    account.balance_at(now)
    account.settle(number, now)
    view = number.view(now)
    latest = None if view.latest is None else view.latest.code
    return {
        "order": number.id,
        "phone": number.phone,
        "status": view.status,
        "code": latest,
        "charge": shown(view.charge, 4),
    }


def _behaviour(value: object, old: Behaviour) -> Behaviour:
    """A kind alone, or an object with any field of `Behaviour`; what is not named stays."""
    fields = Fields({"kind": value} if isinstance(value, str) else value, "behaviour")
    kind, outcome = fields.text("kind", KINDS), fields.text("refill_outcome", REFILL_OUTCOMES)
    numbers = {name: fields.number(name) for name in ("pending_s", "run_s", "drop_after_s", "refill_s")}
    units = {name: fields.integer(name, 0, 100) for name in ("delivered_percent", "drop_percent")}
    units["batch"] = fields.integer("batch", 0, 1_000_000)
    fields.done()
    return Behaviour(
        kind=old.kind if kind is None else cast(Kind, kind),
        refill_outcome=old.refill_outcome if outcome is None else cast(RefillOutcome, outcome),
        pending_s=_or(numbers["pending_s"], old.pending_s),
        run_s=_or(numbers["run_s"], old.run_s),
        drop_after_s=_or(numbers["drop_after_s"], old.drop_after_s),
        refill_s=_or(numbers["refill_s"], old.refill_s),
        delivered_percent=_or(units["delivered_percent"], old.delivered_percent),
        drop_percent=_or(units["drop_percent"], old.drop_percent),
        batch=_or(units["batch"], old.batch),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
