"""The routes of orders: placing, reading, and what callers do to those that exist."""

from __future__ import annotations

from typing import Final

from aggregator.domain.errors import ProblemKind
from aggregator.web import api_actions, api_orders, placing
from aggregator.web.auth import ADMINS, ANYBODY, BUYERS
from aggregator.web.models import BatchRequest, CountRequest, EmptyRequest, OrderRequest, ResolveRequest
from aggregator.web.operations import Link, Route
from aggregator.web.schemas.attempts import AttemptList
from aggregator.web.schemas.events import OrderEventList
from aggregator.web.schemas.orders import BatchResults, Delivery, Order, OrderList

TAG: Final = "Orders"


def _links(where: str) -> tuple[Link, ...]:
    """From an answer whose order's id is at `where` to all that can be asked of the order and done to it."""
    known = {
        "getOrder": "How it goes on.",
        "listAttempts": "Why and how it was bought.",
        "listOrderEvents": "What was told of it.",
        "getDelivery": "What it delivered.",
        "cancelOrder": "Cancel it.",
        "refillOrder": "Ask for a refill, once it is completed.",
        "countOrder": "Say what you count at its link, once it is completed.",
    }
    return tuple(Link(name, {"order": f"$response.body#{where}"}, sentence) for name, sentence in known.items())


ROUTES: Final = (
    Route(
        "POST",
        "/v1/orders",
        BUYERS,
        placing.create,
        id="createOrder",
        conflict="A request with this Idempotency-Key is still running, or its order is there no more.",
        tag=TAG,
        summary="Place an order",
        description="201 means that the order is durable; it is bought as soon as an offer takes it. Give an "
        "`Idempotency-Key`, so that a repetition after a lost answer is no second order.",
        body=OrderRequest,
        idempotent=True,
        problems=(ProblemKind.UNKNOWN_SERVICE,),
        answer=Order,
        status=201,
        answer_headers=("Location",),
        links=_links("/id"),
    ),
    Route(
        "POST",
        "/v1/orders:batch",
        BUYERS,
        placing.create_batch,
        id="createOrders",
        tag=TAG,
        summary="Place many orders",
        description="Up to 1,000, one result for each in order. A bad one does not hurt its neighbours: the answer is "
        "200 whatever became of each.",
        body=BatchRequest,
        idempotent=True,
        answer=BatchResults,
    ),
    Route(
        "GET",
        "/v1/orders",
        ANYBODY,
        api_orders.list_orders,
        id="listOrders",
        tag=TAG,
        summary="List orders",
        description="The newest first. A cursor is a place to go on below, so new orders move no page. Callers see "
        "their own; `read` and `admin` see all.",
        query=api_orders.LIST_QUERY,
        answer=OrderList,
        links=_links("/orders/0/id"),
    ),
    Route(
        "GET",
        "/v1/orders/{order}",
        ANYBODY,
        api_orders.get_order,
        id="getOrder",
        tag=TAG,
        summary="One order",
        answer=Order,
        links=_links("/id"),
    ),
    Route(
        "GET",
        "/v1/orders/{order}/attempts",
        ANYBODY,
        api_orders.get_attempts,
        id="listAttempts",
        tag=TAG,
        summary="Why and how it was bought",
        description="Every attempt, with every offer that was considered and the reason it was or was not chosen, what "
        "was sent and what came back (redacted), and the evidence while nobody knew how it ended.",
        answer=AttemptList,
    ),
    Route(
        "GET",
        "/v1/orders/{order}/events",
        ANYBODY,
        api_orders.get_order_events,
        id="listOrderEvents",
        tag=TAG,
        summary="What was told of it",
        description="Every event of the order, by `data.sequence`. Behind `id` and `position` an event is, byte by "
        "byte, what webhooks are sent.",
        answer=OrderEventList,
    ),
    Route(
        "GET",
        "/v1/orders/{order}/delivery",
        BUYERS,
        api_orders.get_delivery,
        id="getDelivery",
        tag=TAG,
        summary="What it delivered",
        description="The accounts of a product order, opened. Every read is logged with the reader's name.",
        answer=Delivery,
    ),
    Route(
        "POST",
        "/v1/orders/{order}/cancel",
        BUYERS,
        api_actions.cancel,
        id="cancelOrder",
        tag=TAG,
        summary="Cancel it",
        description="What is not bought ends at once. For what is with a provider the wish is durable, and sent once; "
        "`cancel.state` says what became of it. Asked is not canceled: only the provider's status ends the order.",
        body=EmptyRequest,
        body_required=False,
        idempotent=True,
        conflict="The order is over, being sent or `unclear`; its provider or service has no cancel; or one was asked "
        "for lately.",
        answer=Order,
        status=202,
    ),
    Route(
        "POST",
        "/v1/orders/{order}/refill",
        BUYERS,
        api_actions.refill,
        id="refillOrder",
        tag=TAG,
        summary="Ask for a refill",
        description="Of a completed order that dropped, within its guarantee and after the cooldown.",
        body=EmptyRequest,
        body_required=False,
        idempotent=True,
        conflict="It can have no refill now.",
        answer=Order,
        status=202,
    ),
    Route(
        "POST",
        "/v1/orders/{order}/count",
        BUYERS,
        api_actions.count,
        id="countOrder",
        tag=TAG,
        summary="Say what you count",
        description="What you see at the link of a completed order now. It is a witness of drops: a refill follows by "
        "itself where the service's rules say so.",
        body=CountRequest,
        idempotent=True,
        conflict="The order is not completed, or not one of pieces at a link.",
        answer=Order,
        status=202,
    ),
    Route(
        "POST",
        "/v1/orders/{order}/resolve",
        ADMINS,
        api_actions.resolve,
        id="resolveOrder",
        tag=TAG,
        summary="End an unclear order",
        description="A person's word on a purchase of which nobody knows whether it happened, after a look into the "
        "account at the provider.",
        body=ResolveRequest,
        idempotent=True,
        conflict="The order is not `unclear`, or another order has the provider's id already.",
        answer=Order,
    ),
)
