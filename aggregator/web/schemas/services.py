"""The shapes of what callers can order: our services with their best price now, and quotes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from aggregator.domain.catalogue import Kind
from aggregator.domain.routing import Strategy
from aggregator.web.schemas.attempts import RankedOffer
from aggregator.web.schemas.common import Count, Money, Shape, Time, page

Share = Annotated[str, Field(pattern=r"^[01]\.\d{4}$", examples=["0.9750"])]


class Service(Shape):
    """A service of ours, with the best price that an order could get now."""

    service: str = Field(description="Its name, for orders.", examples=["ig-followers"])
    kind: Kind = Field(
        description="`smm`: pieces at a link; `product`: accounts; `sms`: rented numbers.", examples=["smm"]
    )
    title: str | None = Field(
        description="From the config, else as the best offer calls it.", examples=["Instagram followers"]
    )
    category: str | None = Field(description="From the config, else the best offer's.", examples=["Instagram"])
    panel_id: int | None = Field(description="Its id at the panel door; null where it is not sold there.", examples=[2])
    type: str | None = Field(
        description="The panel's service type, which says what `params` an order takes; of smm services that are "
        "available.",
        examples=["Default"],
    )
    available: bool = Field(description="Whether some offer could take an order now.", examples=[True])
    reason: str | None = Field(description="Why none can, offer by offer; null where one can.", examples=[None])
    price: Money | None = Field(description="The best price for `price_per` pieces; null where there is none.")
    price_per: int = Field(
        description="How many pieces `price` buys; a service sold as a whole is priced as one.", ge=1, examples=[1000]
    )
    provider: str | None = Field(description="Where the best price is.", examples=["smmplus"])
    stock: int | None = Field(description="Pieces in stock there; null where unknown.", examples=[None])
    min: int | None = Field(description="The smallest quantity that some available offer takes.", examples=[10])
    max: int | None = Field(description="The largest quantity that some available offer takes.", examples=[10000])
    refill: bool = Field(description="Whether some available offer can be refilled.", examples=[True])
    offers: int = Field(description="How many offers the config names.", ge=0, examples=[2])


ServiceList = page("ServiceList", "services", Service, "services, in the order of the config")


class OfferHistory(Shape):
    """How our orders at one offer ended."""

    ends: Count = Field(description="Orders that ended.", examples=[40])
    completed: Count = Field(description="Of these, completed.", examples=[39])
    partial: Count = Field(description="Of these, partial.", examples=[1])
    canceled: Count = Field(description="Of these, canceled by the provider.", examples=[0])
    failed: Count = Field(description="Of these, failed.", examples=[0])
    ordered: Count = Field(description="Pieces that they ordered.", examples=[40000])
    delivered: Count = Field(description="Pieces that they got.", examples=[39600])
    duration_s: int | None = Field(
        description="Seconds from purchase to completion, moving average; null before the first.", examples=[5400]
    )
    reliability: Share | None = Field(description="Share of orders completed, 0 to 1; null while too few have ended.")
    delivered_share: Share | None = Field(
        description="Share of ordered pieces delivered, 0 to 1; null while too few have ended.", examples=["0.9900"]
    )


class QuotedOffer(RankedOffer):
    """An offer in a quote, with all that the decision was made from. An offer that the provider's catalogue lacks has
    no figures of the catalogue: `rate` to `known_since` are left out."""

    worth: Money | None = Field(
        description="What its cost counts as under the strategy best_value; null under another."
    )
    rate: Money | None = Field(
        None, description="The catalogue's price for `rate_per` pieces; null where it has no usable one."
    )
    charged_rate: Money | None = Field(
        None, description="What is really charged in its place, as charges have taught; null while they agree."
    )
    rate_per: int | None = Field(
        None, description="Pieces that the rate buys; null where it buys a whole order.", examples=[1000]
    )
    rate_per_learned: bool | SkipJsonSchema[None] = Field(
        None, description="Whether charges have taught that; else it is the config's word.", examples=[True]
    )
    min: int | SkipJsonSchema[None] = Field(None, description="Smallest quantity that it takes.", examples=[10])
    max: int | SkipJsonSchema[None] = Field(None, description="Largest quantity that it takes.", examples=[10000])
    refill: bool | SkipJsonSchema[None] = Field(None, description="Whether it can be refilled.", examples=[True])
    stock_at: Time | None = Field(None, description="When the stock was heard of; null where there is none.")
    stock_age_s: int | None = Field(None, description="Seconds since then.", ge=0, examples=[12])
    known_since: Time | None = Field(None, description="Since when our catalogue has it.")
    history: OfferHistory = Field(description="How our orders there ended.")


class Quote(Shape):
    """The ranking that an order placed now would get. Nothing was bought."""

    service: str = Field(description="The service of ours.", examples=["ig-followers"])
    quantity: int = Field(description="Pieces, derived where the type derives them.", ge=1, examples=[1000])
    strategy: Strategy = Field(description="By what offers are ranked, from the config.", examples=["cheapest"])
    best: QuotedOffer | None = Field(description="Where the order would go; null where nobody can take it.")
    candidates: list[QuotedOffer] = Field(description="Every offer, the best first.")
