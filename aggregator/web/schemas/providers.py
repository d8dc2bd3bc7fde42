"""The shapes of what the operator sees of providers: health, catalogue, price history, ledger."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from aggregator.domain.catalogue import Kind
from aggregator.web.schemas.common import Amount, AttemptId, Count, Money, OrderId, Shape, Time, page


class Breaker(Shape):
    """Whether purchases are held back because calls failed."""

    open: bool = Field(description="True: nothing is bought there until a call succeeds.", examples=[False])
    reason: str | None = Field(description="Why it is open.", examples=[None])
    failures: Count = Field(description="Calls that failed in a row.", examples=[0])
    since: Time | None = Field(description="Since when the provider counts as down.", examples=[None])
    until: Time | None = Field(description="When it is tried again.", examples=[None])


class CatalogueState(Shape):
    """How the newest sync of the catalogue went."""

    synced_at: Time | None = Field(description="When a catalogue was taken over last; null: never.")
    rows: int | None = Field(description="How many services it had.", examples=[24])
    error: str | None = Field(
        description="Why the newest one was not taken over, or not as a whole; null where it was.", examples=[None]
    )
    next_at: Time | None = Field(description="When it is fetched again.")


class Cause(Shape):
    """What may have caused a difference between the books and the balance."""

    kind: Literal["refund", "price", "unclear", "outside", "top_up"] = Field(
        description="`price`: what an order really cost was never told; `unclear`: a purchase that nobody knows of; "
        "`outside`: somebody else bought with the account.",
        examples=["refund"],
    )
    # Left out where there is none; the defaults are for the model alone.
    order: OrderId | SkipJsonSchema[None] = Field(None, description="The order it would belong to.")
    attempt: AttemptId | SkipJsonSchema[None] = Field(None, description="The purchase it would belong to.")
    amount: Amount | SkipJsonSchema[None] = Field(None, description="What it would account for; left out: any amount.")


class Books(Shape):
    """Where the provider's books stand against its balance."""

    certain: Money = Field(description="What the balance must be by what was booked.")
    difference: Money | None = Field(
        description="What the newest readings differ by, and nobody has explained yet; null: they agree.",
        examples=[None],
    )
    readings: Count = Field(description="How many readings in a row showed it.", examples=[0])
    candidates: list[Cause] = Field(description="What may have caused it.", examples=[[]])
    debits_seen: Count = Field(description="How often a purchase was seen to be debited at once.", examples=[20])
    refunds: Literal["net", "gross"] | None = Field(
        description="`net`: charges fall after a refund; `gross`: only the balance shows it; null: too few seen.",
        examples=["net"],
    )


class Capabilities(Shape):
    """What the provider's dialect can do."""

    kinds: list[Kind] = Field(description="Kinds of services that it sells.", examples=[["product", "smm"]])
    batched_status: bool = Field(description="Many statuses by one call, as found out.", examples=[True])
    refill: bool = Field(description="Refills can be asked for.", examples=[True])
    batched_refill: bool = Field(description="Many refills by one call.", examples=[True])
    cancel: bool = Field(description="Cancels can be asked for.", examples=[True])
    inventory: bool = Field(description="Stock can be asked for just before a purchase.", examples=[False])
    paged_catalogue: bool = Field(description="The catalogue comes in pages.", examples=[False])
    categories: bool = Field(description="Categories are a list of their own.", examples=[False])
    drip_feed: bool = Field(description="It makes runs itself.", examples=[True])
    accounts: bool = Field(description="Product orders deliver accounts in their status.", examples=[False])
    sms: bool = Field(description="It rents numbers.", examples=[False])


class StatusCalls(Shape):
    """How statuses are asked for, as was found out or as the config says."""

    form: Literal["orders", "order", "single"] | None = Field(
        description="How many ids go into one call: `orders=`, `order=` with commas, or not at all; null: not found "
        "out yet.",
        examples=["orders"],
    )
    limit: int = Field(description="How many orders are asked for by one call.", ge=1, examples=[100])
    found_out_at: Time | None = Field(description="When that was found out.", examples=[None])
    configured: Literal["auto", "orders", "order", "single"] = Field(
        description="`status_batch` in the config.", examples=["auto"]
    )
    sweep_calls: Count = Field(description="Calls that ask for every open order once.", examples=[3])
    sweep_s: float | None = Field(
        description="Seconds that they take at the allowed rate; null where no rate is set.", ge=0, examples=[0.6]
    )


class UnknownWord(Shape):
    """A status word that nobody knows: it changes nothing. Give it a meaning by `words.status` in the config."""

    word: str = Field(description="As the provider wrote it.", examples=["Verifying"])
    seen: int = Field(description="How often.", ge=1, examples=[4])
    order_number: int | None = Field(description="An order that showed it.", examples=[1001])
    first_at: Time = Field(description="When it was seen first.")
    last_at: Time = Field(description="When it was seen last.")


class Provider(Shape):
    """A provider as the operator sees it."""

    name: str = Field(description="Its name in the config.", examples=["smmplus"])
    configured: bool = Field(description="False: only the database remembers it.", examples=[True])
    dialect: str | None = Field(description="The dialect it is spoken to in.", examples=["panel_v2"])
    enabled: bool = Field(description="`enabled` in the config.", examples=[True])
    paused: bool = Field(description="True: nothing is bought there; what was bought is followed on.", examples=[False])
    state: Literal["up", "failing", "down", "never_answered", "paused", "disabled"] = Field(
        description="`failing`: its newest calls failed; `down`: nothing is bought there until one succeeds; "
        "`never_answered`: no call has ever succeeded.",
        examples=["up"],
    )
    up: bool = Field(description="Whether it answers, paused or not.", examples=[True])
    reason: str | None = Field(description="What is wrong, for a person; null where nothing is.", examples=[None])
    breaker: Breaker = Field(description="Whether purchases are held back.")
    balance: Money | None = Field(description="What it told last; null: never.")
    balance_at: Time | None = Field(description="When that was.")
    balance_low: bool = Field(description="Whether it is below `min_balance` in the config.", examples=[False])
    catalogue: CatalogueState = Field(description="Its catalogue.")
    ledger: Books | None = Field(description="Where its books stand; null before they begin.")
    capabilities: Capabilities | None = Field(description="What its dialect can do; null where it is not spoken to.")
    status_calls: StatusCalls | None = Field(description="How statuses are asked for; null where it is not spoken to.")
    unknown_words: list[UnknownWord] = Field(description="Status words of it that nobody knows.", examples=[[]])
    open_orders: Count = Field(description="Orders there that are not finished.", examples=[212])


ProviderList = page(
    "ProviderList", "providers", Provider, "providers: those of the config in its order, then those remembered"
)


class Believed(Shape):
    """What a row of a catalogue says, or said while it was believed."""

    name: str = Field(description="The service's name.", examples=["Followers"])
    kind: Kind = Field(description="Its kind.", examples=["smm"])
    type: str = Field(description="Its panel type.", examples=["Default"])
    rate: Money | None = Field(description="Its price; null where it cannot be read.")


class Quarantine(Shape):
    """What is doubted of a row."""

    before: Believed | None = Field(description="What was believed; null: nothing yet.")
    after: Believed = Field(description="What the catalogue says now.")
    seen: int | None = Field(
        description="How many complete syncs said so; null where no number of them will do.", examples=[3]
    )
    believed_after: int | None = Field(
        description="After how many it is believed; null: never, because nobody could buy it.", examples=[10]
    )


class CatalogueRow(Shape):
    """A service of a provider's catalogue, as stored."""

    service: str = Field(description="The provider's id of it, or its SMS project.", examples=["1"])
    country: str | None = Field(description="Of SMS projects.", examples=[None])
    kind: Kind = Field(description="What it sells.", examples=["smm"])
    name: str = Field(description="Its name.", examples=["Followers"])
    type: str = Field(description="Its panel type.", examples=["Default"])
    category: str = Field(description="Its category; empty where it has none.", examples=["Instagram"])
    subcategory: str | None = Field(description="Its category within the category.", examples=[None])
    description: str | None = Field(description="Its description.", examples=[None])
    rate: Money | None = Field(description="Its price; null where the catalogue has no usable one.")
    rate_per: int | None = Field(
        description="How many pieces it buys, as charges have taught; null: as the config says.", examples=[1000]
    )
    charged_rate: Money | None = Field(
        description="What is really charged in its place; null while charges agree with it.", examples=[None]
    )
    min: int = Field(description="Smallest quantity.", examples=[10])
    max: int = Field(description="Largest quantity.", examples=[10000])
    refill: bool = Field(description="Whether the row promises refills.", examples=[True])
    cancel: bool = Field(description="Whether the row promises cancels.", examples=[False])
    stock: int | None = Field(description="Pieces in stock; null where unknown.", examples=[None])
    stock_known: bool = Field(description="Whether `stock` is a figure of the provider's.", examples=[False])
    auto_delivery: bool = Field(description="False: a person delivers.", examples=[True])
    quarantined: bool = Field(description="True: it is not believed, and not bought from.", examples=[False])
    reason: str | None = Field(description="Why it is not believed.", examples=[None])
    quarantine: Quarantine | None = Field(description="What is doubted; null where nothing is.", examples=[None])
    stock_at: Time | None = Field(description="When the stock was heard of.")
    first_seen_at: Time = Field(description="When the catalogue had it first.")
    seen_at: Time = Field(description="When the catalogue had it last.")


CatalogueList = page("CatalogueList", "services", CatalogueRow, "services of the provider's catalogue")


class Subcategory(Shape):
    """A category within a category."""

    subcategory: str = Field(description="Its name.", examples=["Followers"])
    services: Count = Field(description="Stored rows that it has.", examples=[12])


class Category(Shape):
    """A category of a provider's catalogue."""

    category: str = Field(description="Its name; empty for rows without one.", examples=["Instagram"])
    services: Count = Field(description="Stored rows that it has.", examples=[24])
    subcategories: list[Subcategory] = Field(description="Its categories within.")


CategoryList = page("CategoryList", "categories", Category, "categories of the provider's catalogue")


class PricePoint(Shape):
    """A price and a stock that the catalogue told; only changes are entries."""

    country: str | None = Field(description="Of SMS projects.", examples=[None])
    rate: Money | None = Field(description="The price; null where it could not be read.")
    stock: int | None = Field(description="Pieces in stock; null where unknown.", examples=[None])
    at: Time = Field(description="When it was told.")


PriceHistory = page("PriceHistory", "history", PricePoint, "prices and stock, the newest first")


class LedgerEntry(Shape):
    """One line of a provider's ledger."""

    id: int = Field(description="Its place; newer ones are higher.", ge=1, examples=[5120])
    kind: Literal["reading", "charge", "refund", "top_up", "unexplained"] = Field(
        description="`reading`: a balance that was read; `unexplained`: a difference that was told and taken over.",
        examples=["charge"],
    )
    amount: Money = Field(
        description="A reading's balance, else what the line moves it by: what we pay is negative.",
        examples=[{"amount": "-0.90", "currency": "USD"}],
    )
    order: OrderId | None = Field(description="The order it belongs to; null where that is no longer kept.")
    order_number: int | None = Field(description="The same by its number.", examples=[1001])
    note: str | None = Field(description="What is to be said of it.", examples=[None])
    at: Time = Field(description="When it was booked.")


Ledger = page("Ledger", "ledger", LedgerEntry, "lines of the ledger, the newest first")


class Released(Provider):
    """The provider after a release."""

    released: list[CatalogueRow] = Field(description="The rows that are believed from now on.", examples=[[]])
