"""The shapes of events: what each type says in `data`, as webhooks send it and as the feed tells it.

One entry for each type of domain.events; which events there are is decided there, what a type carries here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from pydantic import BaseModel, Field, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema
from pydantic_core import CoreSchema

from aggregator.domain.events import EventType
from aggregator.web.schemas.common import NAMED, AttemptId, Bare, EventId, Money, OrderId, Shape, Time, page
from aggregator.web.schemas.orders import Code, EventOrder
from aggregator.web.schemas.providers import Believed, Cause


class OrderData(Shape):
    """What every event of an order says."""

    order: EventOrder = Field(description="The order as it stood then.")
    sequence: int = Field(
        description="Counts all events of the order from 1: order by it. A filter leaves visible holes.",
        ge=1,
        examples=[3],
    )


class Remainder(Shape):
    """The order that was made for the rest."""

    id: OrderId = Field(description="Its id.")
    number: int = Field(description="Its number.", ge=1, examples=[1002])
    quantity: int = Field(description="Pieces that it orders.", ge=1, examples=[157])


class ProgressData(OrderData):
    """State, start count or another tenth of the quantity; or what became of the rest of an order that ended short."""

    # Left out where they say nothing; the defaults are for the model alone.
    remainder: Remainder | None = Field(
        None, description="The order for the rest, null: there will be none; left out in all other progress."
    )
    reason: str | SkipJsonSchema[None] = Field(None, description="Why there will be none.")


class UnclearData(OrderData):
    """A purchase was sent and nobody knows whether it happened."""

    cause: str = Field(description="A stable word: `timeout`, `html`, `interrupted`, …", examples=["timeout"])
    attempt: AttemptId = Field(description="The purchase.")


class StuckData(OrderData):
    """The order stands still."""

    unchanged_s: int = Field(description="For how many seconds nothing has changed.", ge=0, examples=[259200])


class DeliveryData(OrderData):
    """Accounts were delivered. They are never in an event: `GET …/delivery` has them."""

    delivered: int = Field(description="Accounts that are new.", ge=0, examples=[2])
    total: int = Field(description="Accounts that are there by now.", ge=0, examples=[3])


class DroppedData(OrderData):
    """A completed order lost pieces."""

    drop: int = Field(description="Pieces lost.", ge=0, examples=[200])


class RefillMark(Shape):
    """The refill that an event is about."""

    id: str = Field(
        description="Ours.", pattern="^rfl_[0-9a-f]{32}$", examples=["rfl_0197a5f0c3eb7f339b1d4e5f60718293"]
    )
    number: int = Field(description="Its number.", ge=1, examples=[7])


class RefillAsked(RefillMark):
    """The refill that was asked for."""

    drop: int | None = Field(description="Pieces lost; null where nobody knows.", examples=[200])


class RefillRequestedData(OrderData):
    """A refill is asked for."""

    refill: RefillAsked = Field(description="The refill.")


class RefillCompletedData(OrderData):
    """A refill was done."""

    refill: RefillMark = Field(description="The refill.")


class RefillRejectedData(OrderData):
    """A refill was refused."""

    refill: RefillMark = Field(description="The refill.")
    reason: str = Field(description="What the provider said.", examples=["Refill is not available"])


class CancelMark(Shape):
    """The wish that an event is about."""

    id: str = Field(
        description="Ours.", pattern="^cnl_[0-9a-f]{32}$", examples=["cnl_0197a5f0c3fc7a449b1d4e5f60718293"]
    )
    number: int = Field(description="Its number.", ge=1, examples=[3])


class CancelAskedData(OrderData):
    """A wish to cancel was sent, or a parent makes no more runs."""

    cancel: CancelMark | SkipJsonSchema[None] = Field(None, description="The wish; left out of a parent's.")


class CancelRefusedData(OrderData):
    """A wish to cancel came to nothing."""

    cancel: CancelMark = Field(description="The wish.")
    reason: str = Field(description="What the provider said.", examples=["The order cannot be canceled"])


class NumberMark(Shape):
    """The rented number that an event is about."""

    phone: str = Field(description="International; empty until the provider told it.", examples=["+15005550006"])
    provider_order: str = Field(description="The provider's id of the rental.", examples=["88123"])


class NumberData(OrderData):
    """A number was rented, or ran out without a code."""

    number: NumberMark = Field(description="The number.")


class CodeData(OrderData):
    """A code came. It never waits behind the order's other events."""

    number: NumberMark = Field(description="The number.")
    code: Code = Field(description="The code.")


class ProviderData(Shape):
    """About a provider."""

    provider: str = Field(description="Its name in the config.", examples=["smmplus"])


class ProviderDownData(ProviderData):
    """Nothing is bought there until a call succeeds."""

    reason: str = Field(description="Why.", examples=["no answer"])


class BalanceLowData(ProviderData):
    """The balance fell below `min_balance`."""

    balance: Money = Field(description="What it is.")


class LedgerDifferenceData(BalanceLowData):
    """Books and balance differ, and it stands."""

    difference: Money = Field(description="By how much.", examples=[{"amount": "-0.90", "currency": "USD"}])
    candidates: list[Cause] = Field(description="What may have caused it.")


class OfferData(ProviderData):
    """About a service of a provider that some offer of ours sells."""

    service: str = Field(description="The provider's id of it, or its SMS project.", examples=["1"])
    country: str = Field(description="Of SMS projects; empty for all else.", examples=[""])


class PiecesPerRate(Shape):
    """How many pieces a rate buys."""

    before: int = Field(description="What was counted with.", ge=1, examples=[1000])
    after: int = Field(description="What is counted with now.", ge=1, examples=[1])


class PriceChangedData(OfferData):
    """The catalogue's price changed, or charges taught that it is another."""

    before: Money | None = Field(description="The price so far; null where there was none.")
    after: Money | None = Field(description="The price now; null where it cannot be read.")
    # Left out of the catalogue's own changes; the defaults are for the model alone.
    per: PiecesPerRate | SkipJsonSchema[None] = Field(
        None, description="How many pieces it buys, where charges taught it."
    )
    cause: Literal["charges"] | SkipJsonSchema[None] = Field(None, description="`charges` where they taught it.")


class QuarantinedData(OfferData):
    """A row is not believed, and not bought from."""

    reason: str = Field(description="Why.", examples=["the price is absurd"])
    before: Believed | None = Field(description="What was believed; null: nothing yet.")
    after: Believed = Field(description="What the catalogue says.")


class EndpointData(Shape):
    """About a webhook endpoint. These go to that endpoint alone."""

    endpoint: str = Field(description="Its name.", examples=["shop"])
    event: EventId = Field(description="The event that it did not take.")
    type: str = Field(description="That event's type.", examples=["order.completed"])
    error: str | None = Field(description="What went wrong with it.", examples=["status 500"])


class DisabledData(EndpointData):
    """An endpoint that hears nothing more."""

    reason: str = Field(description="Why it was disabled.", examples=["it answered 410"])


class TestData(Shape):
    """A test that somebody asked for."""

    __test__ = False

    endpoint: str = Field(description="The endpoint's name.", examples=["shop"])
    asked_by: str = Field(description="Who asked for it.", examples=["office"])


@dataclass(frozen=True, slots=True)
class Told:
    """What is told by a type of event, in one sentence, and the shape of its `data`."""

    sentence: str
    data: type[BaseModel]


EVENTS: Final[Mapping[EventType, Told]] = {
    "order.accepted": Told("An order is durable.", OrderData),
    "order.placed": Told("A provider took the order.", OrderData),
    "order.progress": Told("State changed, a start count is known, or `remains` crossed another tenth.", ProgressData),
    "order.completed": Told("All of it was delivered.", OrderData),
    "order.partial": Told("It ended short; `remains` says by how much.", OrderData),
    "order.canceled": Told("It ended undelivered, and is not charged.", OrderData),
    "order.failed": Told("Nobody took it, or it could not be taken; `order.error` says why.", OrderData),
    "order.unclear": Told("A purchase was sent and nobody knows whether it happened.", UnclearData),
    "order.stuck": Told("It stands still for much longer than such orders do.", StuckData),
    "order.delivery": Told("Accounts were delivered; fetch them by `GET …/delivery`.", DeliveryData),
    "order.dropped": Told("A completed order lost pieces.", DroppedData),
    "order.cancel_asked": Told("The provider was asked to cancel it; it may still complete.", CancelAskedData),
    "order.cancel_refused": Told("The provider refused to cancel it; it goes on.", CancelRefusedData),
    "refill.requested": Told("A refill is asked for.", RefillRequestedData),
    "refill.completed": Told("A refill was done.", RefillCompletedData),
    "refill.rejected": Told("A refill was refused.", RefillRejectedData),
    "sms.number": Told("A number was rented.", NumberData),
    "sms.code": Told("A code came.", CodeData),
    "sms.expired": Told("A rented number ran out without a code.", NumberData),
    "provider.down": Told("A provider does not answer; nothing is bought there.", ProviderDownData),
    "provider.up": Told("A provider answers again.", ProviderData),
    "provider.balance_low": Told("A balance fell below `min_balance`.", BalanceLowData),
    "provider.ledger_difference": Told("Books and balance differ, and nothing explains it.", LedgerDifferenceData),
    "catalogue.price_changed": Told("A price changed, or charges taught that it is another.", PriceChangedData),
    "catalogue.out_of_stock": Told("An offer is sold out.", OfferData),
    "catalogue.removed": Told("An offer is gone from the provider's catalogue.", OfferData),
    "catalogue.quarantined": Told("An offer's row is not believed, and not bought from.", QuarantinedData),
    "webhook.parked": Told("An event was given up on after all its retries; replay sends it again.", EndpointData),
    "webhook.disabled": Told("An endpoint answered 410, or failed for days: it hears nothing more.", DisabledData),
    "webhook.test": Told("A test that somebody asked for.", TestData),
}


def event_name(event_type: str) -> str:
    """`order.cancel_asked` as the name of a shape: `OrderCancelAskedEvent`."""
    return "".join(part.capitalize() for part in event_type.replace(".", "_").split("_")) + "Event"


class _Event(Bare):
    # Not closed by itself: where it is used alone, or with its place in the feed, that use closes it.
    timestamp: Time = Field(description="When it happened; the same in every retry.")


def _event(event_type: EventType, told: Told) -> type[BaseModel]:
    word = Field(description="The event's type.")
    data = Field(description="What it says.")
    made: type[BaseModel] = create_model(
        event_name(event_type),
        __base__=_Event,
        __doc__=told.sentence,
        type=(Literal[event_type], word),  # type: ignore[arg-type]
        data=(told.data, data),
    )
    return made


@cache
def event_shapes() -> Mapping[str, type[BaseModel]]:
    """The shape of each type's webhook; made when the document is."""
    return {name: _event(name, told) for name, told in EVENTS.items()}


class Place(Bare):
    """What the API adds to an event."""

    id: EventId = Field(description="The event's id: the `webhook-id` of its deliveries.")
    position: int | None = Field(
        description="Its place in the feed; null in an order's own list until it has one.", ge=1, examples=[4711]
    )


class FeedEvent(Bare):
    """An event as the API tells it: `id` and `position` in front of what webhooks are sent."""

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, __: GetJsonSchemaHandler) -> JsonSchemaValue:
        mapping = {name: f"#/components/schemas/{event_name(name)}" for name in EVENTS}
        any_event = {
            "oneOf": [{NAMED: event_name(name)} for name in EVENTS],
            "discriminator": {"propertyName": "type", "mapping": mapping},
        }
        parts = [{NAMED: Place.__name__}, any_event]
        return {"description": cls.__doc__, "allOf": parts, "unevaluatedProperties": False}


class Feed(Shape):
    """Events after a position."""

    events: list[FeedEvent] = Field(description="In the order of their positions.")
    next_after: int = Field(
        description="What to give as `after` next; it also passes over events of other callers.",
        ge=0,
        examples=[4711],
    )


OrderEventList = page("OrderEventList", "events", FeedEvent, "events of the order, by sequence")
