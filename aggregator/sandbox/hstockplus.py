"""The hstockplus dialect, written from hstockplus.txt. Decides the shape and words of every answer of that document.

It changes nothing itself: accounts accept or refuse, and this module records what they accepted. It has neither batched
status nor refill nor cancel, because the document has none. SMS actions are in `hstockplus_sms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import hstockplus_sms as sms
from .account import Account
from .catalogue import Service
from .ledger import Call
from .money import shown
from .refusals import Reason, Refusal
from .service_types import Purchase, check_bounds, checked_link, whole
from .world import World

# The first five are the document's own, like "Invalid API key"; it does not say how other refusals read.
WORDS: Mapping[Reason, str] = {
    Reason.ACTION: "Invalid action",
    Reason.SERVICE_MISSING: "Service ID is required",
    Reason.FUNDS: "Insufficient balance",
    Reason.ORDER: "Order not found",
    Reason.SERVICE: "Service not found",
    Reason.MINIMUM: "Quantity less than minimal {}",
    Reason.MAXIMUM: "Quantity more than maximal {}",
    Reason.QUANTITY: "Incorrect quantity",
    Reason.STOCK_OUT: "Out of stock",
    Reason.STOCK_LOW: "Not enough stock",
    Reason.LINK: "Bad Link",
    Reason.LINK_ACTIVE: "You have active order with this link. Please wait until order being completed.",
    Reason.PARAMETER: "Incorrect {}",
    Reason.PHONE: "Phone number is not available",
}


def words(account: Account, refusal: Refusal) -> str:
    """The provider's words for a refusal."""
    return WORDS.get(refusal.reason, WORDS[Reason.ACTION]).format(refusal.detail)


def categories(world: World, account: Account, call: Call) -> object:
    """`{"categories": [{"category": "Instagram", "subcategories": ["Followers", "Comments", "Likes"]}]}`"""
    found: dict[str, list[str]] = {}
    for service in _on_sale(account):
        names = found.setdefault(service.category, [])
        if service.subcategory not in names:
            names.append(service.subcategory)
    return {"categories": [{"category": name, "subcategories": subs} for name, subs in found.items()]}


def services(world: World, account: Account, call: Call) -> object:
    """`{"services": […], "total": 150, "page": 1, "limit": 50, "total_pages": 3}`; limit 0 returns all on one page."""
    category, subcategory = call.params.get("category", ""), call.params.get("subcategory", "")
    rows = [
        _row(service)
        for service in _on_sale(account)
        if category in ("", service.category) and subcategory in ("", service.subcategory)
    ]
    limit, page = _count(call, "limit", 0), max(1, _count(call, "page", 1))
    if limit == 0:
        # "page/limit equal total" is read as: one page, as long as there are rows.
        return {"services": rows, "total": len(rows), "page": 1, "limit": len(rows), "total_pages": 1}
    first = (page - 1) * limit
    return {
        "services": rows[first : first + limit],
        "total": len(rows),
        "page": page,
        "limit": limit,
        "total_pages": -(-len(rows) // limit),
    }


def inventory(world: World, account: Account, call: Call) -> object:
    """`{"service": 23501, "stock": 42, "available": true, "entityType": "product", "autoDelivery": true}`"""
    service = _service(account, call)
    return {
        "service": int(service.id),
        "stock": service.stock,
        "available": service.stock is None or service.stock > 0,
        "entityType": service.entity,
        "autoDelivery": service.auto_delivery,
    }


def add(world: World, account: Account, call: Call) -> object:
    """`{"order": 23501}`. The link is required for SMM services and optional for products."""
    service = _service(account, call)
    link = call.params.get("link", "").strip()
    if service.entity == "smm":
        link = checked_link(link)
    quantity = whole(call.params, "quantity", 0)
    check_bounds(service, quantity)
    order = account.buy(service, Purchase(link, quantity, call.params), world.now(), world.links)
    world.accepted(call, order, account.charged(order))
    return {"order": int(order.id)}


def status(world: World, account: Account, call: Call) -> object:
    """SMM: status, charge, start_count, remains, currency, autoDelivery.

    Products also have entityType and, once something is delivered, `"accounts": ["user1:pass1"]`, all so far.
    """
    order = account.order(call.params.get("order", ""), world.now())
    view = order.view(world.now())
    product = order.service.entity == "product"
    start: int | None = 0 if product else view.start_count
    if start is None and account.settings.pending_start_count is not None:
        start = 0
    answer: dict[str, object] = {
        "status": view.status,
        "charge": shown(account.told_charge(order, world.now())),
        "start_count": start,
        "remains": view.remains,
        "currency": account.settings.currency,
    }
    if product:
        answer["entityType"] = "product"
    answer["autoDelivery"] = order.service.auto_delivery
    if product and view.delivered:
        answer["accounts"] = list(order.accounts[: view.delivered])
    return answer


def balance(world: World, account: Account, call: Call) -> object:
    """`{"balance": "100.00", "currency": "USD"}`"""
    return {"balance": shown(account.balance_at(world.now())), "currency": account.settings.currency}


ACTIONS: Mapping[str, Callable[[World, Account, Call], object]] = {
    "categories": categories,
    "services": services,
    "inventory": inventory,
    "add": add,
    "status": status,
    "balance": balance,
    "sms_projects": sms.sms_projects,
    "sms_countries": sms.sms_countries,
    "add_sms": sms.add_sms,
    "sms_code": sms.sms_code,
    "sms_status": sms.sms_status,
}


def _on_sale(account: Account) -> list[Service]:
    return [service for service in account.services.values() if not service.removed]


def _service(account: Account, call: Call) -> Service:
    service_id = call.params.get("service", "").strip()
    if not service_id:
        raise Refusal(Reason.SERVICE_MISSING)
    return account.service(service_id)


def _count(call: Call, name: str, default: int) -> int:
    """A paging parameter; nonsense reads as the default, as pages do."""
    text = call.params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _row(service: Service) -> dict[str, object]:
    return {
        "service": int(service.id),
        "name": service.name,
        "type": service.type,
        "category": service.category,
        "rate": service.rate,
        "min": service.min,
        "max": service.max,
        "refill": service.refill,
        "cancel": service.cancel,
        "stock": service.stock,
        "entityType": service.entity,
        "autoDelivery": service.auto_delivery,
    }
