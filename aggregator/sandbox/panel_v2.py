"""The panel_v2 dialect, written from smm_plus.txt. Decides the shape and words of every answer of that document.

It changes nothing itself: accounts accept or refuse, and this module records what they accepted. Samples of the
document stand beside the code that serves them; where the document is silent the words are those of live panels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial

from . import aftercare, service_types
from .account import Account, post_times
from .catalogue import Service
from .ledger import Call
from .money import shown
from .orders import Order, Refill
from .refusals import Reason, Refusal
from .service_types import Purchase
from .world import World

MAX_IDS = 100

WORDS: Mapping[Reason, str] = {
    Reason.FUNDS: "Not enough funds on balance",
    Reason.SERVICE: "Incorrect service ID",
    Reason.SERVICE_MISSING: "Incorrect service ID",
    Reason.MINIMUM: "Quantity less than minimal {}",
    Reason.MAXIMUM: "Quantity more than maximal {}",
    Reason.QUANTITY: "Incorrect quantity",
    Reason.STOCK_OUT: "Out of stock",
    Reason.STOCK_LOW: "Not enough stock",
    Reason.LINK: "Bad Link",
    Reason.LINK_ACTIVE: "You have active order with this link. Please wait until order being completed.",
    Reason.PARAMETER: "Incorrect {}",
    Reason.ORDER: "Incorrect order ID",
    Reason.TOO_MANY: "Too many IDs, up to {}",
    Reason.REFILL_NEVER: "Service does not support refill",
    Reason.REFILL_EARLY: "too soon to refill, wait {} hours",
    Reason.REFILL_EXPIRED: "guarantee_expired",
    Reason.REFILL_RUNNING: "refill already in progress",
    Reason.REFILL_NOT_DROPPED: "drop_not_detected",
    Reason.REFILL_UNKNOWN: "Refill not found",
    Reason.ORDER_UNFINISHED: "order is not completed",
    Reason.ORDER_CANCELED: "order canceled",
    Reason.CANCEL_NEVER: "Cancel is not available",
    Reason.ACTION: "Incorrect request",
}

CODES: Mapping[Reason, str] = {
    Reason.FUNDS: "neworder.error.not_enough_funds",
    Reason.SERVICE: "neworder.error.service_inactive",
    Reason.MINIMUM: "neworder.error.min_quantity",
    Reason.MAXIMUM: "neworder.error.max_quantity",
    Reason.STOCK_OUT: "neworder.error.not_enough_quantity",
    Reason.STOCK_LOW: "neworder.error.not_enough_quantity",
    Reason.LINK: "neworder.error.invalid_link",
    Reason.LINK_ACTIVE: "neworder.error.link_duplicate",
}


def words(account: Account, refusal: Refusal) -> str:
    """An account's words for a refusal."""
    text = WORDS.get(refusal.reason, "Incorrect request")
    if account.settings.error_words == "codes":
        text = CODES.get(refusal.reason, text)
    return text.format(refusal.detail)


def services(world: World, account: Account, call: Call) -> object:
    """`[{"service": 1, "name": "Followers", "type": "Default", …, "rate": "0.90", "min": "50", "max": "10000", …}]`"""
    return [_row(service) for service in account.services.values() if not service.removed]


def add(world: World, account: Account, call: Call) -> object:
    """`{"order": 23501}`"""
    service = account.service(call.params.get("service", ""))
    purchase = _before_expiry(world, service_types.read(service, call.params))
    order = account.buy(service, purchase, world.now(), world.links)
    world.accepted(call, order, account.charged(order))
    return {"order": int(order.id)}


def status(world: World, account: Account, call: Call) -> object:
    """One: `{"charge": "0.27819", "start_count": "3572", "status": "Partial", "remains": "157", "currency": "USD"}`.

    Many: the same by id, and `{"error": "Incorrect order ID"}` for an unknown one.
    """
    batch = account.settings.batch
    many = call.params.get(batch, "") if batch != "none" else ""
    if not many or (batch == "order" and "," not in many):
        return _status(world, account, call.params.get("order", ""))
    return {one: _attempt(account, partial(_status, world, account), one) for one in _ids(many)}


def refill(world: World, account: Account, call: Call) -> object:
    """One: `{"refill": "1"}`. Many: `[{"order": 1, "refill": 1}, {"order": 3, "refill": {"error": "…"}}]`."""

    def accept(order_id: str) -> Refill:
        made = aftercare.refill(account, order_id, world.now())
        world.accepted(call, made.order, Decimal(0), refill=str(made.id))
        return made

    if "orders" not in call.params:
        return {"refill": str(accept(call.params.get("order", "")).id)}
    return [
        {"order": _number(one), "refill": _attempt(account, lambda order_id: accept(order_id).id, one)}
        for one in _ids(call.params["orders"])
    ]


def refill_status(world: World, account: Account, call: Call) -> object:
    """One: `{"status": "Completed"}`. Many: `[{"refill": 1, "status": "Completed"}, {"refill": 3, "status": {…}}]`."""

    def word(refill_id: str) -> str:
        return aftercare.find_refill(account, refill_id).at(world.now())[0]

    if "refills" not in call.params:
        return {"status": word(call.params.get("refill", ""))}
    return [{"refill": _number(one), "status": _attempt(account, word, one)} for one in _ids(call.params["refills"])]


def cancel(world: World, account: Account, call: Call) -> object:
    """`[{"order": 9, "cancel": {"error": "Incorrect order ID"}}, {"order": 2, "cancel": 1}]`: 1 means asked."""

    def accept(order_id: str) -> int:
        order = aftercare.cancel(account, order_id, world.now())
        world.accepted(call, order, Decimal(0))
        return 1

    return [
        {"order": _number(one), "cancel": _attempt(account, accept, one)} for one in _ids(call.params.get("orders", ""))
    ]


def balance(world: World, account: Account, call: Call) -> object:
    """`{"balance": "100.84292", "currency": "USD"}`"""
    return {"balance": shown(account.balance_at(world.now())), "currency": account.settings.currency}


ACTIONS: Mapping[str, Callable[[World, Account, Call], object]] = {
    "services": services,
    "add": add,
    "status": status,
    "refill": refill,
    "refill_status": refill_status,
    "cancel": cancel,
    "balance": balance,
}


def _row(service: Service) -> dict[str, object]:
    return {
        "service": _number(service.id),
        "name": service.name,
        "type": service.type,
        "category": service.category,
        "rate": service.rate,
        "min": str(service.min),
        "max": str(service.max),
        "refill": service.refill,
        "cancel": service.cancel,
    }


def _status(world: World, account: Account, order_id: str) -> dict[str, object]:
    now = world.now()
    order = account.order(order_id, now)
    view = order.view(now)
    start = account.settings.pending_start_count if view.start_count is None else str(view.start_count)
    answer: dict[str, object] = {
        "charge": shown(account.told_charge(order, now)),
        "start_count": start,
        "status": view.status,
        "remains": str(view.remains),
        "currency": account.settings.currency,
    }
    return answer | _children(order, now)


def _before_expiry(world: World, purchase: Purchase) -> Purchase:
    """A subscription meets only the posts that appear before it expires; one that meets none is refused."""
    if purchase.expires is None:
        return purchase
    last_s = purchase.expires.timestamp()
    now = world.now()
    begins = [world.timeline.wall(at) for at in post_times(purchase, now)]
    posts = sum(1 for begin in begins if begin <= last_s)
    if not posts:
        raise Refusal(Reason.PARAMETER, "expiry")
    return replace(purchase, posts=posts)


def _children(order: Order, now: float) -> dict[str, object]:
    """What live panels add for a drip-feed (`runs`) or a subscription (`posts`): the orders begun so far."""
    if not order.children:
        return {}
    count = "posts" if order.subscription else "runs"
    return {count: len(order.children), "orders": [int(child.id) for child in order.visible_children(now)]}


def _ids(text: str) -> list[str]:
    """The ids of a batch, each once, in the caller's order."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise Refusal(Reason.ORDER)
    if len(found) > MAX_IDS:
        raise Refusal(Reason.TOO_MANY, MAX_IDS)
    return found


def _attempt(account: Account, ask: Callable[[str], object], one: str) -> object:
    """An id's own answer within a batch: a refusal of one does not hurt its neighbours."""
    try:
        return ask(one)
    except Refusal as refusal:
        return {"error": words(account, refusal)}


def _number(text: str) -> int | str:
    """Ids are numbers in batches; an id that is none comes back as it was sent."""
    return int(text) if text.isascii() and text.isdigit() else text
