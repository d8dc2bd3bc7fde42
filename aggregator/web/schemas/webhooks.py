"""The shapes of endpoints for webhooks, and of what they were sent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aggregator.web.schemas.common import Count, EventId, OrderId, Shape, Time, page


class Failure(Shape):
    """The last try that failed."""

    at: Time = Field(description="When.")
    error: str | None = Field(description="What happened.", examples=["HTTP 503"])


class SecretEnd(Shape):
    """One of the secrets that sign now; never what it is."""

    until: Time | None = Field(description="When it ends; null: it does not.", examples=[None])


class Endpoint(Shape):
    """Who is sent events, and how that goes."""

    name: str = Field(description="Its name; of callbacks made of the caller and the host.", examples=["shop"])
    source: Literal["config", "api", "callback"] = Field(
        description="Where it comes from: the config file, this API, or orders' `callback_url`.", examples=["config"]
    )
    owner: str | None = Field(description="Whose callbacks; null for an operator's endpoint.", examples=[None])
    url: str | None = Field(
        description="Its address, without the values of its query; null for callbacks.",
        examples=["https://shop.example/hook"],
    )
    events: list[str] | None = Field(description="Patterns of the event types it gets.", examples=[["order.*"]])
    services: list[str] | None = Field(description="Services whose orders it hears of; empty: all.", examples=[[]])
    description: str | None = Field(description="What it is for.", examples=[None])
    timeout_s: float | None = Field(description="Seconds that it has to answer.", examples=[15])
    retry_s: list[float] | None = Field(description="Seconds between tries.", examples=[[5, 300, 1800]])
    order_hold_s: float | None = Field(
        description="Seconds that a failing event holds back its order's later ones.", examples=[3600]
    )
    disable_after_days: float | None = Field(
        description="Days of failures alone after which it is disabled; 0: never.", examples=[5]
    )
    secrets: list[SecretEnd] | None = Field(description="The secrets that sign now.")
    enabled: bool = Field(description="Whether it is sent anything.", examples=[True])
    state: Literal["healthy", "failing", "disabled"] = Field(description="How it is doing.", examples=["healthy"])
    since: Time | None = Field(description="Since when, where it is not healthy.", examples=[None])
    reason: str | None = Field(description="Why, where it is not healthy.", examples=[None])
    waiting: Count = Field(description="Deliveries that wait.", examples=[0])
    oldest_waiting_at: Time | None = Field(description="Since when the oldest of them waits.", examples=[None])
    parked: Count = Field(description="Deliveries that are tried no more, until they are replayed.", examples=[0])
    replaying: bool = Field(description="Whether a replay is being worked off.", examples=[False])
    last_success_at: Time | None = Field(description="When it last took one.")
    last_failure: Failure | None = Field(description="The last try that failed.", examples=[None])
    created_at: Time = Field(description="When it was made.")
    updated_at: Time = Field(description="When it changed last.")


class EndpointSecret(Endpoint):
    """The endpoint with its new secret, which is never shown again."""

    secret: str = Field(
        description="The secret that signs, `whsec_…`.", examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    )


EndpointList = page("EndpointList", "webhooks", Endpoint, "endpoints")


class Deleted(Shape):
    """What was deleted."""

    deleted: str = Field(description="The endpoint's name.", examples=["shop"])


class Tested(Shape):
    """The test event."""

    event: EventId = Field(description="Its id, the `webhook-id` of its delivery.")


class Replayed(Shape):
    """What comes due again."""

    deliveries: Count = Field(description="How many.", examples=[12])


class WebhookDelivery(Shape):
    """One event for one endpoint: where it stands, and its last try."""

    id: int = Field(description="Its place; newer ones are higher.", ge=1, examples=[9001])
    event: EventId = Field(description="The event's id, its `webhook-id`.")
    type: str = Field(description="The event's type.", examples=["order.completed"])
    position: int | None = Field(description="The event's place in the feed.", examples=[4711])
    order: OrderId | None = Field(description="The order that the event is about.")
    order_number: int | None = Field(description="The same by its number.", examples=[1001])
    sequence: int | None = Field(description="The event's place among its order's.", examples=[4])
    url: str | None = Field(description="Of a callback: where it goes.", examples=[None])
    state: Literal["pending", "delivered", "parked"] = Field(description="Where it stands.", examples=["delivered"])
    tries: Count = Field(description="How often it was tried.", examples=[1])
    status: int | None = Field(description="The HTTP status of the last answer.", examples=[200])
    error: str | None = Field(description="What went wrong last.", examples=[None])
    answer: str | None = Field(description="The first bytes of the last answer's body.", examples=["ok"])
    ms: int | None = Field(description="How long the last answer took, in milliseconds.", examples=[41])
    tried_at: Time | None = Field(description="When it was tried last.")
    next_try_at: Time | None = Field(description="When it is tried next.", examples=[None])
    happened_at: Time = Field(description="When the event was made.")
    hold_until: Time | None = Field(description="Until when it holds back its order's later ones.", examples=[None])
    created_at: Time = Field(description="When the delivery was made.")
    finished_at: Time | None = Field(description="When it was delivered or parked.")


DeliveryList = page("DeliveryList", "deliveries", WebhookDelivery, "deliveries, the newest event first")
