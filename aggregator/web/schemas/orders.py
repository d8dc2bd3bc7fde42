"""The shapes of orders and what belongs to them (contract.md §2), batch results, and deliveries."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from aggregator.domain.catalogue import Kind
from aggregator.domain.numbers import NumberState
from aggregator.domain.orders import OrderState
from aggregator.web.schemas.common import Money, OrderId, Shape, Time, page
from aggregator.web.schemas.problems import Problem


class Refill(Shape):
    """A top-up of a completed order that dropped."""

    id: str = Field(
        description="Ours.", pattern="^rfl_[0-9a-f]{32}$", examples=["rfl_0197a5f0c3eb7f339b1d4e5f60718293"]
    )
    number: int = Field(description="The integer that the panel door uses.", ge=1, examples=[7])
    state: Literal["requested", "unclear", "pending", "in_progress", "completed", "rejected"] = Field(
        description="`unclear`: asked for, and nobody knows whether the provider heard it.", examples=["completed"]
    )
    provider_refill: str | None = Field(description="The provider's id of it; null where it told none.")
    drop: int | None = Field(description="Pieces lost when it was asked for; null where nobody knows.", examples=[200])
    requested_at: Time = Field(description="When it was asked for.")
    finished_at: Time | None = Field(description="When it ended; null while it runs.")


class Code(Shape):
    """A code that a rented number received."""

    code: str = Field(description="The code itself.", examples=["482913"])
    text: str = Field(
        description="The message it came in; empty where only the code was told.", examples=["Your code is 482913"]
    )
    received_at: Time = Field(description="When we heard of it.")


class Number(Shape):
    """One rented SMS number."""

    number: int = Field(description="The integer that the panel door uses.", ge=1, examples=[12])
    phone: str = Field(
        description="International, as the provider writes it; empty until it told it.", examples=["+15005550006"]
    )
    provider_order: str = Field(description="The provider's id of the rental.", examples=["88123"])
    state: NumberState = Field(description="How the rental stands.", examples=["received"])
    codes: list[Code] = Field(description="What it received, the oldest first.")
    expires_at: Time | None = Field(description="When the rental runs out; null where nobody knows.")


class Cancel(Shape):
    """The newest wish to cancel the order. Asked is not canceled: only the provider's status ends the order."""

    state: Literal["asked", "refused", "unclear"] = Field(
        description="`unclear`: it was sent and the answer was lost; it is not sent again by itself.",
        examples=["asked"],
    )
    at: Time = Field(description="When it came to this.")
    detail: str | None = Field(description="What the provider said to it, if anything.")


class OrderError(Shape):
    """What stands in an order's way, or why it failed."""

    type: str = Field(
        description="Stable: `no-offer`, `refused`, `waiting`, `purchase-unclear`, `restored`, `not-found`, "
        "`remainder`.",
        examples=["waiting"],
    )
    detail: str | None = Field(description="The same for a person.", examples=["smmplus/1: the provider is paused"])


class EventOrder(Shape):
    """An order as events tell it: everything but `params`."""

    id: OrderId = Field(description="Ours; sorts by its time of birth.")
    number: int = Field(description="The integer that the panel door and people use.", ge=1, examples=[1001])
    service: str = Field(description="The service of ours that was ordered.", examples=["ig-followers"])
    kind: Kind = Field(
        description="`smm`: pieces at a link; `product`: accounts; `sms`: rented numbers.", examples=["smm"]
    )
    state: OrderState = Field(
        description="`accepted` → `placing` → `pending`, `processing`, `in_progress` → `completed`, `partial`, "
        "`canceled`, `failed`; `unclear` when a purchase was sent and nobody knows whether it happened.",
        examples=["in_progress"],
    )
    link: str | None = Field(
        description="Where it goes; null where the service needs none.", examples=["https://instagram.com/username"]
    )
    quantity: int = Field(description="Pieces; of a drip-feed, those of all runs.", ge=1, examples=[1000])
    reference: str | None = Field(description="The caller's own name for it.", examples=["shop-778"])
    metadata: dict[str, Any] = Field(description="The caller's own data, given back as it came.", examples=[{}])
    provider: str | None = Field(description="Where it is being bought, or was; null before.", examples=["smmplus"])
    provider_order: str | None = Field(
        description="The provider's id of it; of rented numbers, the first of theirs.", examples=["23501"]
    )
    expected_cost: Money | None = Field(description="What it should cost us, in the provider's currency.")
    charge: Money | None = Field(description="What the provider says it cost; null until it said so.")
    start_count: int | None = Field(
        description="What the provider counted at the link before it began; null until it said so.", examples=[3572]
    )
    remains: int | None = Field(description="Pieces not delivered yet; null until the provider said.", examples=[157])
    provider_children: list[str] = Field(
        description="The provider's own orders for the runs of a drip-feed or the posts of a subscription."
    )
    count: int | None = Field(
        description="What somebody else than the provider counted at the link; null before.", examples=[None]
    )
    count_at: Time | None = Field(description="When that was.", examples=[None])
    stuck_at: Time | None = Field(
        description="Since when it stands still for too long; null while it does not.", examples=[None]
    )
    parent: OrderId | None = Field(description="The order that this one is a run or the remainder of.", examples=[None])
    children: list[OrderId] = Field(description="Its runs, or its remainder.", examples=[[]])
    refills: list[Refill] = Field(description="Its refills, the oldest first.", examples=[[]])
    numbers: list[Number] = Field(description="Its rented numbers; of sms orders only.", examples=[[]])
    cancel: Cancel | None = Field(
        description="The newest wish to cancel it; null where there was none.", examples=[None]
    )
    error: OrderError | None = Field(
        description="What stands in its way, or why it failed; null where nothing does.", examples=[None]
    )
    created_at: Time = Field(description="When it was accepted.")
    updated_at: Time = Field(description="When it changed last.")
    finished_at: Time | None = Field(description="When it reached a final state; null before.", examples=[None])


class Order(EventOrder):
    """One request for a service, and what became of it."""

    params: dict[str, str] = Field(description="The panel's parameters; lists have one line each.", examples=[{}])


OrderList = page("OrderList", "orders", Order, "orders, the newest first")


class Delivery(Shape):
    """What a product order delivered, opened."""

    accounts: list[str] = Field(
        description="One account each, as the provider wrote it.", examples=[["user1@example.com:made-up-pass"]]
    )


class BatchTaken(Shape):
    """An order of a batch that was taken."""

    status: Literal[201] = Field(description="What the order alone would have been answered.")
    order: Order = Field(description="The order, durable.")


class BatchRefused(Shape):
    """An order of a batch that was not taken."""

    status: int = Field(description="What the order alone would have been answered.", ge=400, examples=[422])
    problem: Problem = Field(description="Why; it has no `instance`.")


class BatchResults(Shape):
    """One result for each order of a batch, in order."""

    results: list[BatchTaken | BatchRefused] = Field(description="In the order of the request.")
