"""The things on sale. Decides what a catalogue row and an SMS project are made of; never what happens to an order.

The rows themselves are in `catalogue_smm` (both panel_v2 accounts) and `catalogue_hstock`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, get_args

from .behaviour import Behaviour

EntityType = Literal["smm", "product"]
NumberKind = Literal["code", "two_codes", "expire", "cancel", "mixed"]
NUMBER_KINDS: tuple[str, ...] = get_args(NumberKind)
PER_ORDER_TYPES = frozenset({"package", "custom comments package"})
"""Types (in small letters) whose rate buys one order instead of 1000 units."""


@dataclass(frozen=True, slots=True)
class Service:
    """One catalogue row. `rate` is the literal string that the catalogue shows; `stock` None: unlimited or unknown."""

    id: str
    name: str
    type: str
    category: str
    rate: str
    min: int
    max: int
    refill: bool = False
    cancel: bool = False
    behaviour: Behaviour = field(default_factory=Behaviour)
    stock: int | None = None
    refill_days: int = 30
    """Guarantee after completion, in days of sandbox time; the name tells buyers (R30)."""
    subcategory: str = ""
    entity: EntityType = "smm"
    auto_delivery: bool = True
    account_format: str = "{user}:{password}"
    removed: bool = False

    def charge(self, quantity: int, product_rate_per: int) -> Decimal:
        """Price of `quantity` units. The documents do not say what a product's rate buys, hence `product_rate_per`."""
        rate = Decimal(self.rate)
        if self.type.lower() in PER_ORDER_TYPES:
            return rate
        return rate * quantity / (product_rate_per if self.entity == "product" else 1000)

    def credentials(self, ordinal: int, index: int, rng: random.Random) -> str:
        """One account to deliver, in this product's own format."""
        letters = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789"
        return self.account_format.format(
            user=f"user{ordinal}n{index}@example.com",
            password="".join(rng.choices(letters, k=10)),
            recovery=f"rescue{ordinal}n{index}@example.net",
        )


@dataclass(frozen=True, slots=True)
class NumberBehaviour:
    """How rented numbers go: code after `code_s` (and `second_s` later), the end after `lifetime_s`."""

    kind: NumberKind = "code"
    code_s: float = 10.0
    second_s: float = 20.0
    lifetime_s: float = 1200.0


@dataclass(frozen=True, slots=True)
class SmsProject:
    """One row of sms_projects. The same project may appear in several countries, and twice in one at two prices."""

    project_id: str
    name: str
    price: str
    country_id: str
    country_title: str
    phone_prefix: str
    stock: int = 100_000
    behaviour: NumberBehaviour = field(default_factory=NumberBehaviour)
