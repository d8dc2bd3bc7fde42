"""What a dialect must offer: requests in, HttpRequests out; replies in, typed results out.

Every read has three kinds of ends. A purchase is Placed, Refused (a listed business reason: proof that nothing was
bought) or Unclear (everything else). A question is answered, or it is a Failure that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from aggregator.domain.catalogue import CatalogueRow, Kind, ServiceType
from aggregator.domain.money import Money
from aggregator.domain.numbers import NumberReport
from aggregator.domain.orders import OrderState
from aggregator.domain.refills import RefillState as RefillState
from aggregator.domain.wire import HttpReply, HttpRequest

MAX_BATCH: Final = 100
"""Both documents: "up to 100 IDs"."""


@dataclass(frozen=True, slots=True)
class Account:
    """One upstream account, as the dialect needs it. `api_key` never appears in a repr."""

    name: str
    url: str
    api_key: str = field(repr=False)
    currency: str = "USD"
    default_link: str | None = None
    error_words: Mapping[str, Consequence] = field(default_factory=dict)
    """The operator's own readings of error texts, before the dialect's (config `words.errors`)."""
    status_words: Mapping[str, OrderState] = field(default_factory=dict)
    """The operator's own readings of status words, before the dialect's (config `words.status`)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a dialect documents. Flow asks these and never asks which provider it is talking to."""

    kinds: frozenset[Kind]
    batched_status: bool = False
    refill: bool = False
    batched_refill: bool = False
    cancel: bool = False
    inventory: bool = False
    """Stock can be asked for one service, just before a purchase."""
    paged_catalogue: bool = False
    categories: bool = False
    drip_feed: bool = False
    accounts: bool = False
    """Product orders deliver accounts in their status."""
    sms: bool = False


class BatchForm(StrEnum):
    """How a provider takes many ids in one status call (quirks.md, "Batched status"); the values are those of config
    `status_batch`."""

    ORDERS = "orders"
    ORDER = "order"
    """`order=10,11`."""
    SINGLE = "single"
    """Not at all."""


class Consequence(StrEnum):
    """What a refusal of a purchase leads to; the values are those of config `words.errors`."""

    NEXT_OFFER = "next_offer"
    LATER = "later"
    CALLERS_FAULT = "callers_fault"
    PROVIDER_DOWN = "provider_down"
    UNCLEAR = "unclear"
    """Not a refusal at all: the operator knows that this text proves nothing."""


class Meaning(StrEnum):
    """Why a provider refuses, quirks.md "Errors by meaning"."""

    FUNDS = "funds"
    SERVICE = "service"
    QUANTITY = "quantity"
    STOCK = "stock"
    LINK = "link"
    PARAMETERS = "parameters"
    ACTIVE_ORDER = "active_order"
    AUTH = "auth"
    RATE_LIMIT = "rate_limit"
    UNKNOWN_ORDER = "unknown_order"
    OPERATOR = "operator"
    """The operator's own word list says so."""
    GENERIC = "generic"
    """Says nothing about what happened."""


CONSEQUENCES: Final[Mapping[Meaning, Consequence]] = {
    Meaning.FUNDS: Consequence.NEXT_OFFER,
    Meaning.SERVICE: Consequence.NEXT_OFFER,
    Meaning.QUANTITY: Consequence.NEXT_OFFER,
    Meaning.STOCK: Consequence.NEXT_OFFER,
    Meaning.LINK: Consequence.CALLERS_FAULT,
    Meaning.PARAMETERS: Consequence.NEXT_OFFER,
    Meaning.ACTIVE_ORDER: Consequence.LATER,
    Meaning.AUTH: Consequence.PROVIDER_DOWN,
    Meaning.RATE_LIMIT: Consequence.LATER,
    Meaning.UNKNOWN_ORDER: Consequence.UNCLEAR,
    Meaning.GENERIC: Consequence.UNCLEAR,
}


# --- purchases ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddRequest:
    """One purchase of a panel service or of account products. `params` hold only what the type takes."""

    service: str
    kind: Kind
    type: ServiceType
    quantity: int
    link: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class AddSmsRequest:
    """Rent `quantity` (1 to 10) numbers of a project."""

    project: str
    quantity: int = 1
    country: str | None = None
    phone: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class PlacedNumber:
    """A rented number as `add_sms` answered it; `phone` may be empty until later."""

    provider_order: str
    phone: str = ""
    country: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """Bought. `provider_order` is an opaque string; for numbers, the first one's."""

    provider_order: str
    numbers: tuple[PlacedNumber, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Proof that nothing was bought, with the provider's (redacted) words."""

    meaning: Meaning
    consequence: Consequence
    text: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unclear:
    """Nobody knows whether it was bought. `reason` is a stable word (`timeout`, `html`, `no_id`, …)."""

    reason: str
    text: str = ""


PurchaseResult = Placed | Refused | Unclear


# --- questions ---------------------------------------------------------------------------------------------------


class FailureKind(StrEnum):
    """Why a question was not answered."""

    AUTH = "auth"
    RATE_LIMIT = "rate_limit"
    UNSUPPORTED = "unsupported"
    """This provider does not know the action or the batch form."""
    NOT_FOUND = "not_found"
    ERROR = "error"
    """The provider's own error text, unlisted."""
    UNREADABLE = "unreadable"
    """HTML, empty, truncated, an unknown shape, 5xx."""
    LOST = "lost"
    """No whole answer came."""
    NOT_SENT = "not_sent"


@dataclass(frozen=True, slots=True)
class Failure:
    """A question without an answer. It changes nothing about any order."""

    kind: FailureKind
    text: str
    retry_after_s: float | None = None
    cause: str | None = None
    """A stable word for what is wrong, where somebody has said it in words (advice.py)."""


@dataclass(frozen=True, slots=True)
class StatusReport:
    """One order's status. `state` None: the word is unknown (kept in `word`), so nothing may be concluded."""

    word: str
    state: OrderState | None
    charge: Money | None = None
    start_count: int | None = None
    remains: int | None = None
    accounts: tuple[str, ...] = field(default=(), repr=False)
    auto_delivery: bool | None = None
    children: tuple[str, ...] = ()
    """Provider orders of a drip feed's runs or a subscription's posts."""


@dataclass(frozen=True, slots=True)
class StatusBatch:
    """A batched status: what was reported per id, and what the provider said of ids it would not report.

    An id in neither was not answered. `errors` hold (meaning, text).
    """

    reports: Mapping[str, StatusReport] = field(default_factory=dict)
    errors: Mapping[str, tuple[Meaning, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CataloguePage:
    """One page of a catalogue. `unreadable` counts rows that had no usable id; `pages` is 1 for a bare array."""

    rows: tuple[CatalogueRow, ...]
    unreadable: int = 0
    page: int = 1
    pages: int = 1
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Stock of one service now; None is unknown, not 0."""

    service: str
    stock: int | None
    available: bool | None = None


@dataclass(frozen=True, slots=True)
class Category:
    name: str
    subcategories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Country:
    code: str
    name: str


class RefillRefusal(StrEnum):
    """Why a refill was refused, quirks.md "Refill and cancel"."""

    NEVER = "never"
    WINDOW_OVER = "window_over"
    LATER = "later"
    RUNNING = "running"
    NO_DROP = "no_drop"
    UNKNOWN_ORDER = "unknown_order"


@dataclass(frozen=True, slots=True)
class RefillAccepted:
    provider_refill: str


@dataclass(frozen=True, slots=True)
class RefillRefused:
    """`retry_after_s` where the text names a time ("wait N hours"); `provider_refill` where a running one is named."""

    refusal: RefillRefusal
    text: str
    retry_after_s: float | None = None
    provider_refill: str | None = None


RefillResult = RefillAccepted | RefillRefused | Unclear


@dataclass(frozen=True, slots=True)
class RefillReport:
    word: str
    state: RefillState | None


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The provider took the wish; whether it cancels, only the status says."""


@dataclass(frozen=True, slots=True)
class CancelRefused:
    """The provider's words. `meaning` where they speak of the moment and not of the order: then it is asked again."""

    text: str
    meaning: Meaning | None = None


CancelResult = CancelAsked | CancelRefused | Unclear


@dataclass(frozen=True, slots=True)
class NumberStatus:
    """One number's status or code; `word` is the provider's own."""

    word: str
    report: NumberReport


class Dialect(Protocol):
    """A build/read pair per documented action. `build_*` for an action outside `capabilities` is never called.

    Reads never raise on any bytes. A per-item result missing from an answered batch is `Unclear` (refill, cancel) or
    absent (status).
    """

    name: str
    capabilities: Capabilities

    def __init__(self, account: Account) -> None: ...

    def build_services(
        self, page: int = 1, limit: int = 0, category: str | None = None, subcategory: str | None = None
    ) -> HttpRequest: ...
    def read_services(self, reply: HttpReply) -> CataloguePage | Failure: ...

    def build_categories(self) -> HttpRequest: ...
    def read_categories(self, reply: HttpReply) -> tuple[Category, ...] | Failure: ...

    def build_inventory(self, service: str) -> HttpRequest: ...
    def read_inventory(self, reply: HttpReply, service: str) -> Inventory | Failure: ...

    def build_add(self, request: AddRequest) -> HttpRequest: ...
    def read_add(self, reply: HttpReply) -> PurchaseResult: ...

    def build_status(self, order: str) -> HttpRequest: ...
    def read_status(self, reply: HttpReply, order: str) -> StatusReport | Failure: ...

    def build_statuses(self, orders: Sequence[str], form: BatchForm = BatchForm.ORDERS) -> HttpRequest: ...
    def read_statuses(self, reply: HttpReply, orders: Sequence[str]) -> StatusBatch | Failure: ...

    def build_refills(self, orders: Sequence[str], idempotency_key: str | None = None) -> HttpRequest: ...
    def read_refills(self, reply: HttpReply, orders: Sequence[str]) -> Mapping[str, RefillResult]: ...

    def build_refill_statuses(self, refills: Sequence[str]) -> HttpRequest: ...
    def read_refill_statuses(
        self, reply: HttpReply, refills: Sequence[str]
    ) -> Mapping[str, RefillReport | Failure] | Failure: ...

    def build_cancels(self, orders: Sequence[str], idempotency_key: str | None = None) -> HttpRequest: ...
    def read_cancels(self, reply: HttpReply, orders: Sequence[str]) -> Mapping[str, CancelResult]: ...

    def build_balance(self) -> HttpRequest: ...
    def read_balance(self, reply: HttpReply) -> Money | Failure: ...

    def build_sms_projects(self, country: str | None = None) -> HttpRequest: ...
    def read_sms_projects(self, reply: HttpReply) -> CataloguePage | Failure: ...

    def build_sms_countries(self) -> HttpRequest: ...
    def read_sms_countries(self, reply: HttpReply) -> tuple[Country, ...] | Failure: ...

    def build_add_sms(self, request: AddSmsRequest) -> HttpRequest: ...
    def read_add_sms(self, reply: HttpReply) -> PurchaseResult: ...

    def build_sms_code(self, order: str) -> HttpRequest: ...
    def read_sms_code(self, reply: HttpReply) -> NumberStatus | Failure: ...

    def build_sms_status(self, order: str) -> HttpRequest: ...
    def read_sms_status(self, reply: HttpReply) -> NumberStatus | Failure: ...
