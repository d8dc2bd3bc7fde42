"""What can be bought: kinds of services, the panel's service types with their parameters, and offers' rows.

Decides which parameters a type takes, what its quantity is and what a price buys. Parameter lists come from the
panels' own documents (quirks.md, "Service types and their `add` parameters").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

from aggregator.domain.money import Money

Kind = Literal["smm", "product", "sms"]
PRICE_PER: Final[Mapping[Kind, int]] = {"smm": 1000, "product": 1, "sms": 1}
"""How many pieces a listed price buys; a service sold as a whole is priced as one."""

_LINE_END: Final = re.compile(r"\r\n|\r|\n")

LINE_LISTS: Final = frozenset({"comments", "usernames", "hashtags", "keywords", "groups"})
"""Parameters that are lists of lines: callers give a string or an array, providers get lines."""


class QuantityFrom(StrEnum):
    """Where the number of pieces comes from."""

    CALLER = "caller"
    ONE = "one"
    COMMENTS = "comments"
    USERNAMES = "usernames"
    SUBSCRIPTION = "subscription"


@dataclass(frozen=True, slots=True)
class ServiceType:
    """One type of the panel protocol: its parameters beside `link` and `quantity`."""

    name: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    quantity: QuantityFrom = QuantityFrom.CALLER
    needs_link: bool = True
    per_order: bool = False
    """The rate buys one whole order, not a number of pieces."""

    @property
    def sends_quantity(self) -> bool:
        """Whether `add` carries a quantity; the other types derive it and some servers refuse a second opinion."""
        return self.quantity is QuantityFrom.CALLER


_DRIP: Final = ("runs", "interval")

_TYPES: Final = (
    ServiceType("Default", optional=_DRIP),
    ServiceType("Package", quantity=QuantityFrom.ONE, per_order=True),
    ServiceType("SEO", required=("keywords",)),
    ServiceType("Custom Comments", required=("comments",), quantity=QuantityFrom.COMMENTS),
    ServiceType("Custom Comments Package", required=("comments",), quantity=QuantityFrom.ONE, per_order=True),
    ServiceType("Mentions", required=("usernames",)),
    ServiceType("Mentions with Hashtags", required=("usernames", "hashtags")),
    ServiceType("Mentions Custom List", required=("usernames",), quantity=QuantityFrom.USERNAMES),
    ServiceType("Mentions Hashtag", required=("hashtag",)),
    ServiceType("Mentions User Followers", required=("username",)),
    ServiceType("Mentions Media Likers", required=("media",)),
    ServiceType("Comment Likes", required=("username",)),
    ServiceType("Comment Replies", required=("username", "comments"), quantity=QuantityFrom.COMMENTS),
    ServiceType("Poll", required=("answer_number",)),
    ServiceType("Invites from Groups", required=("groups",)),
    ServiceType(
        "Subscriptions",
        required=("username", "min", "max", "delay"),
        optional=("posts", "old_posts", "expiry"),
        quantity=QuantityFrom.SUBSCRIPTION,
        needs_link=False,
    ),
    ServiceType(
        "Web Traffic",
        required=("country", "device", "type_of_traffic"),
        optional=(*_DRIP, "google_keyword", "referring_url"),
    ),
)

SERVICE_TYPES: Final = {service_type.name.casefold(): service_type for service_type in _TYPES}

ACCOUNT_PRODUCT: Final = ServiceType("Account product", needs_link=False)
SMS_NUMBERS: Final = ServiceType("SMS numbers", optional=("country", "phone"), needs_link=False)

PARAMS: Final = frozenset(
    name for service_type in (*_TYPES, SMS_NUMBERS) for name in (*service_type.required, *service_type.optional)
)
"""Every parameter that some type takes."""


def service_type(kind: Kind, raw_type: str | None) -> ServiceType | None:
    """The type of a catalogue row; a row without one is Default, one that nobody documented is None."""
    if kind == "product":
        return ACCOUNT_PRODUCT
    if kind == "sms":
        return SMS_NUMBERS
    return SERVICE_TYPES.get(" ".join((raw_type or "Default").split()).casefold())


def lines(value: str) -> tuple[str, ...]:
    """The lines of a list parameter, trimmed, blank ones dropped.

    Only what ends a line for the providers does: `splitlines` would also part a comment at a form feed or U+2028, and
    count, charge and send pieces that the provider does not.
    """
    return tuple(line.strip() for line in _LINE_END.split(value) if line.strip())


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One service of a provider as its catalogue states it, already read into our types.

    `rate` is the price of a number of pieces (config `rate_per`), `stock` None where unknown, and `has_stock` False
    where the dialect knows no stock at all, which counts as in stock.
    """

    service: str
    name: str
    kind: Kind
    type: str
    category: str
    rate: Money | None
    minimum: int
    maximum: int
    refill: bool
    cancel: bool
    subcategory: str = ""
    description: str = ""
    stock: int | None = None
    has_stock: bool = False
    auto_delivery: bool = True
    country: str = ""
    problem: str | None = None
    """Why this row is unusable (an absurd price, a broken number), or None."""
    learned_per: int | None = None
    """How many pieces the rate buys, as charges have taught; None while nobody knows better than the config."""
    charged_rate: Money | None = None
    """What is really charged in place of `rate`, as charges have taught."""
    known_since: datetime | None = field(default=None, compare=False, repr=False)
    """When our catalogue first had the row; not of the provider's making."""
    rivals: str | None = field(default=None, compare=False)
    """What else the same catalogue states under this id, where the two contradict each other."""
    raw: str = field(default="", repr=False)
