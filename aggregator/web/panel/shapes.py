"""How each of the two documents writes an answer: smm_plus.txt in text, hstockplus.txt in numbers, each its own fields.

Decides form alone. What a document does not know (accounts in smm_plus.txt, many orders at once in hstockplus.txt) is
written as the other one has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from aggregator.config.callers import Panel
from aggregator.domain.money import SCALE, Money
from aggregator.domain.orders import Order, OrderState
from aggregator.domain.refills import RefillState
from aggregator.flow.storefront import Priced

_WORDS: Final[Mapping[OrderState, str]] = {
    OrderState.ACCEPTED: "Pending",
    OrderState.PLACING: "Pending",
    OrderState.UNCLEAR: "Pending",
    OrderState.PENDING: "Pending",
    OrderState.PROCESSING: "Processing",
    OrderState.IN_PROGRESS: "In progress",
    OrderState.COMPLETED: "Completed",
    OrderState.PARTIAL: "Partial",
    OrderState.CANCELED: "Canceled",
    OrderState.FAILED: "Fail",
}
REFILL_WORDS: Final[Mapping[RefillState, str]] = {
    RefillState.REQUESTED: "Pending",
    RefillState.UNCLEAR: "Pending",
    RefillState.PENDING: "Pending",
    RefillState.IN_PROGRESS: "In progress",
    RefillState.COMPLETED: "Completed",
    RefillState.REJECTED: "Rejected",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A service as the door lists it. `stock` None: nobody knows; `available`: an order placed now would be taken."""

    id: int
    name: str
    type: str
    category: str
    subcategory: str
    kind: str
    shown: Priced
    stock: int | None
    available: bool
    cancel: bool

    @property
    def row(self) -> Mapping[str, object]:
        """What both documents have of it."""
        return {"service": self.id, "name": self.name, "type": self.type, "category": self.category}

    @property
    def refill(self) -> bool:
        return self.shown.offer.refillable


@dataclass(frozen=True, slots=True)
class Followed:
    """An order as the door shows it. `charge` None: not known yet, and `currency` then the one that prices are in;
    `runs` and `orders` of one that our own runs make."""

    order: Order
    charge: Money | None
    currency: str
    auto_delivery: bool = True
    runs: int = 0
    orders: Sequence[int] = ()
    accounts: Sequence[str] = field(default=(), repr=False)

    @property
    def word(self) -> str:
        """A failed order for which nothing was paid is a canceled one to everybody else's software: it means that the
        money is back, which clients know of that word alone."""
        state = self.order.state
        if state is OrderState.FAILED and not (self.charge is not None and self.charge.units):
            state = OrderState.CANCELED
        return _WORDS[state]

    @property
    def remains(self) -> int:
        """What is still to come; all of it while nobody said anything."""
        order = self.order
        if order.remains is not None:
            return order.remains
        return 0 if order.state is OrderState.COMPLETED else order.quantity

    @property
    def extras(self) -> dict[str, object]:
        """What live panels add for a drip-feed, and hstockplus.txt for a product."""
        found: dict[str, object] = {"runs": self.runs, "orders": list(self.orders)} if self.runs else {}
        return found | ({"accounts": list(self.accounts)} if self.accounts else {})


class Shape(Protocol):
    """One document's way to write answers."""

    def service(self, listed: Listed) -> dict[str, object]: ...

    def services(self, rows: Sequence[dict[str, object]], page: int, limit: int) -> object:
        """The list, or a page of it where the document has pages; limit 0: all."""
        ...

    def status(self, followed: Followed) -> dict[str, object]: ...


class SmmPlus:
    """smm_plus.txt."""

    def service(self, listed: Listed) -> dict[str, object]:
        # {"service": 1, "name": "Followers", "type": "Default", "category": "First Category", "rate": "0.90",
        #  "min": "50", "max": "10000", "refill": true, "cancel": true}
        row = listed.shown.row
        return {
            **listed.row,
            "rate": listed.shown.price.amount,
            "min": str(row.minimum),
            "max": str(row.maximum),
            "refill": listed.refill,
            "cancel": listed.cancel,
        }

    def services(self, rows: Sequence[dict[str, object]], page: int, limit: int) -> object:
        return list(rows)

    def status(self, followed: Followed) -> dict[str, object]:
        # {"charge": "0.27819", "start_count": "3572", "status": "Partial", "remains": "157", "currency": "USD"}
        order, charge = followed.order, followed.charge
        return {
            "charge": charge.amount if charge is not None else None,
            "start_count": str(order.start_count) if order.start_count is not None else None,
            "status": followed.word,
            "remains": str(followed.remains),
            "currency": followed.currency,
            **followed.extras,
        }


class HStockPlus:
    """hstockplus.txt."""

    def service(self, listed: Listed) -> dict[str, object]:
        # {"service": 2, "name": "Gmail Account - USA", "type": "Default", "category": "Accounts-Email",
        #  "rate": "25.00", "min": 1, "max": 50, "refill": false, "cancel": false, "stock": 50,
        #  "entityType": "product", "autoDelivery": true}
        row = listed.shown.row
        return {
            **listed.row,
            "rate": listed.shown.price.amount,
            "min": row.minimum,
            "max": row.maximum,
            "refill": listed.refill,
            "cancel": listed.cancel,
            "stock": listed.stock,
            "entityType": listed.kind,
            "autoDelivery": row.auto_delivery,
        }

    def services(self, rows: Sequence[dict[str, object]], page: int, limit: int) -> object:
        # "When limit is 0 or omitted, all services are returned and page/limit equal total": one page with all of them.
        total = len(rows)
        if limit <= 0:
            return {"services": list(rows), "total": total, "page": 1, "limit": total, "total_pages": 1}
        first = (page - 1) * limit
        return {
            "services": list(rows[first : first + limit]),
            "total": total,
            "page": page,
            "limit": limit,
            "total_pages": -(-total // limit),
        }

    def status(self, followed: Followed) -> dict[str, object]:
        # {"status": "In progress", "charge": "5.00", "start_count": 1000, "remains": 500, "currency": "USD",
        #  "autoDelivery": true}; of a product also "entityType" and, once something was delivered, all "accounts".
        order, charge = followed.order, followed.charge
        return {
            "status": followed.word,
            "charge": charge.amount if charge is not None else None,
            "start_count": order.start_count,
            "remains": followed.remains,
            "currency": followed.currency,
            **({"entityType": "product"} if order.kind == "product" else {}),
            "autoDelivery": followed.auto_delivery,
            **followed.extras,
        }


SHAPES: Final[Mapping[Panel, Shape]] = {"smm_plus": SmmPlus(), "hstockplus": HStockPlus()}


def price(amount: Money) -> str:
    """A price of numbers, with four digits at least, as hstockplus.txt writes them: "0.5000"."""
    whole, _, fraction = amount.amount.partition(".")
    return f"{whole}.{fraction.ljust(4, '0')[:SCALE]}"
