"""One provider account. Decides what a purchase costs, whether it is accepted, and what the balance is.

It knows neither words nor JSON: a dialect turns parameters into a purchase and orders into answers. Every method takes
the moment (sandbox seconds) from its caller, and no method awaits, so a purchase happens wholly or not at all.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, Protocol

from .behaviour import Plan, decide
from .catalogue import Service, SmsProject
from .links import LinkCounts
from .money import ZERO, amount, rounded
from .numbers import Number
from .orders import Drop, Order, Refill
from .refusals import Reason, Refusal
from .service_types import Purchase

Dialect = Literal["panel_v2", "hstockplus"]
POST_EVERY_S = 3_600.0
"""How often a subscribed user posts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes an account differ from others; all of it can be changed while the sandbox runs."""

    key: str
    currency: str = "USD"
    enabled: bool = True
    error_words: Literal["plain", "codes"] = "plain"
    """panel_v2: sentences, or `neworder.error.…` codes as several panels send."""
    batch: Literal["orders", "order", "none"] = "orders"
    """panel_v2: the parameter that takes many ids, or none at all."""
    product_rate_per: int = 1
    """How many pieces a product's rate buys: the documents do not say, so 1 and 1000 are both met."""
    surcharge_percent: float = 0.0
    """What is charged on top of the catalogue's rates, as some panels do for their levels of customers."""
    gross_charge: bool = False
    """Status keeps telling what was taken, whatever was paid back since; otherwise less what was paid back."""
    honours_idempotency_key: bool = False
    refuse_active_link: bool = False
    refill_needs_drop: bool = False
    pending_start_count: str | None = ""
    """What status answers as start_count before an order starts: "", "0" or null."""
    visible_after_s: float = 0.0
    """How long after `add` an order is still unknown to status, in sandbox seconds."""
    cancel_s: float = 30.0
    refill_min_age_s: float = 0.0
    refill_cooldown_s: float = 86_400.0


class _Refundable(Protocol):
    returned: Decimal

    def refund_due(self, now: float) -> Decimal: ...
    def refund_moment(self) -> float: ...


class Account:
    """A named account at a fake provider, with its catalogue, orders, numbers and money."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        settings: Settings,
        balance: str,
        services: Iterable[Service],
        *,
        projects: Iterable[SmsProject] = (),
        first_id: int = 1,
        id_gap: int = 1,
    ) -> None:
        self.name = name
        self.dialect = dialect
        self.settings = settings
        self.services = {service.id: service for service in services}
        self.projects = list(projects)
        self.orders: dict[str, Order] = {}
        self.numbers: dict[str, Number] = {}
        self.refills: dict[str, Refill] = {}
        self._balance = amount(balance)
        self._due: list[tuple[float, int, _Refundable]] = []
        self._watched = 0
        self._active_links: dict[str, Order] = {}
        self._ordinal = 0
        self._next_id = first_id
        self._id_gap = id_gap
        self.seed = 0

    def service(self, service_id: str) -> Service:
        """A service on sale, or a refusal."""
        found = self.services.get(service_id.strip())
        if found is None or found.removed:
            raise Refusal(Reason.SERVICE)
        return found

    def order(self, order_id: str, now: float) -> Order:
        """An order that a caller can already see, or a refusal; runs and posts appear when they begin."""
        found = self.orders.get(order_id.strip())
        if found is None or now < found.created_at + self.settings.visible_after_s:
            raise Refusal(Reason.ORDER)
        return found

    def buy(self, service: Service, purchase: Purchase, now: float, links: LinkCounts) -> Order:
        """Accept a purchase: charge it, take the stock and give it an id, or refuse it and change nothing."""
        ordinal = self._ordinal + 1
        pieces = _pieces(purchase, now, self._rng(ordinal))
        units = sum(quantity for quantity, _ in pieces)
        charges = [self._price(service, quantity) for quantity, _ in pieces]
        self._check(service, purchase.link, units, sum(charges, ZERO), now)
        if service.stock is not None:
            self.services[service.id] = replace(service, stock=service.stock - units)
        self._balance -= sum(charges, ZERO)
        order = self._place(service, purchase, purchase.quantity, ZERO, now)
        if purchase.runs == 1 and purchase.bounds is None:
            order.charge = charges[0]
            self._watch(order)
            if service.entity == "smm":
                order.start_count = links.count(order.link, now)
                links.follow(order, now)
        else:
            order.subscription = purchase.bounds is not None
            order.quantity = units
            order.children = tuple(
                self._place(service, purchase, quantity, charge, at)
                for (quantity, at), charge in zip(pieces, charges, strict=True)
            )
            start = links.count(order.link, now)
            for child in order.children:
                child.start_count, start = start, start + child.quantity
                links.follow(child, now)
                self._watch(child)
        self._active_links[order.link] = order
        return order

    def _price(self, service: Service, quantity: int) -> Decimal:
        factor = 1 + Decimal(str(self.settings.surcharge_percent)) / 100
        return rounded(service.charge(quantity, self.settings.product_rate_per) * factor)

    def told_charge(self, order: Order, now: float) -> Decimal:
        """What a status answer says that the order cost."""
        return self.charged(order) if self.settings.gross_charge else order.view(now).charge

    def charged(self, order: Order) -> Decimal:
        """What was taken for an order, its runs or posts included."""
        return order.charge + sum((child.charge for child in order.children), ZERO)

    def balance_at(self, now: float) -> Decimal:
        """The balance, with every refund that is due by now."""
        while self._due and self._due[0][0] <= now:
            self.settle(heapq.heappop(self._due)[2], now)
        return self._balance

    def set_balance(self, balance: Decimal, now: float) -> None:
        """Replace the balance; refunds due before this moment do not come on top."""
        self.balance_at(now)
        self._balance = balance

    def settle(self, item: _Refundable, now: float) -> None:
        """Pay back what is owed for an order or number, or take back a refund that is no longer owed."""
        due = item.refund_due(now)
        self._balance += due - item.returned
        item.returned = due

    def recharge(self, order: Order, charge: Decimal, now: float) -> None:
        """Change what an order cost, as providers do after the fact; the difference moves the balance."""
        self._balance -= charge - order.charge
        order.charge = charge
        self.settle(order, now)

    def stop(self, order: Order, at: float) -> None:
        """Let an accepted cancel take effect at a moment."""
        order.cancel_at = at
        for child in order.children:
            child.cancel_at = at
            self._watch(child)
        if not order.children:
            self._watch(order)

    def rent(self, number: Number) -> None:
        """Take the charge of a rented number and follow its refund."""
        self._balance -= number.charge
        self.numbers[number.id] = number
        self._watch(number)

    def next(self) -> tuple[int, str, random.Random]:
        """The next ordinal, provider order id, and the generator that decides this order's fate."""
        self._ordinal += 1
        rng = self._rng(self._ordinal)
        order_id = str(self._next_id)
        self._next_id += 1 + rng.randrange(self._id_gap)
        return self._ordinal, order_id, rng

    def _rng(self, ordinal: int) -> random.Random:
        return random.Random(f"{self.seed}:{self.name}:{ordinal}")

    def _check(self, service: Service, link: str, units: int, charge: Decimal, now: float) -> None:
        if service.stock is not None and service.stock <= 0:
            raise Refusal(Reason.STOCK_OUT)
        if service.stock is not None and service.stock < units:
            raise Refusal(Reason.STOCK_LOW)
        if self.settings.refuse_active_link and link:
            active = self._active_links.get(link)
            if active is not None and not active.view(now).final:
                raise Refusal(Reason.LINK_ACTIVE)
        if charge > self.balance_at(now):
            raise Refusal(Reason.FUNDS)

    def _place(self, service: Service, purchase: Purchase, quantity: int, charge: Decimal, at: float) -> Order:
        ordinal, order_id, rng = self.next()
        plan: Plan = decide(service.behaviour, quantity, rng)
        order = Order(ordinal, order_id, service, purchase.link, quantity, purchase.params, charge, at, plan)
        if plan.drop:
            order.drops.append(Drop(at + plan.finish_s + plan.drop_after_s, plan.drop))
        if service.entity == "product":
            order.accounts = tuple(service.credentials(ordinal, index, rng) for index in range(1, quantity + 1))
        self.orders[order_id] = order
        return order

    def _watch(self, item: _Refundable) -> None:
        moment = item.refund_moment()
        if moment != float("inf"):
            self._watched += 1
            heapq.heappush(self._due, (moment, self._watched, item))


def post_times(purchase: Purchase, now: float) -> list[float]:
    """When each post of a subscription appears and, `delay` minutes later, is ordered for; sandbox seconds."""
    first = now + purchase.interval_min * 60
    return [first + n * POST_EVERY_S for n in range(1, purchase.posts + 1)]


def _pieces(purchase: Purchase, now: float, rng: random.Random) -> list[tuple[int, float]]:
    """Quantity and start (sandbox seconds) of each run or post; a plain order is one piece."""
    if purchase.bounds is not None:
        return [(rng.randint(*purchase.bounds), at) for at in post_times(purchase, now)]
    return [(purchase.quantity, now + n * purchase.interval_min * 60) for n in range(purchase.runs)]
