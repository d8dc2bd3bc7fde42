"""Reading orders: one, many, and what belongs to one.

Decides which orders a caller sees: a foreign one looks like one that does not exist. Reading what was delivered is
logged with the reader's name.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.base import House
from aggregator.log import get_logger
from aggregator.storage import attempts, deliverables, outbox
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.web.auth import Caller
from aggregator.web.query import Parameters, choice, flag, instant, query_of, text
from aggregator.web.rendering import (
    Answer,
    attempt_document,
    dumps,
    event_text,
    full_order,
    full_orders,
    json_response,
    listing,
    response,
)
from aggregator.web.services import services_of

log = get_logger()

STATE: Final = choice("state", OrderState, "Only orders in this state.")
SERVICE: Final = text("service", "Only orders of this service of ours.", example="ig-followers")
PROVIDER: Final = text("provider", "Only orders at this provider.", example="smmplus")
REFERENCE: Final = text("reference", "Only orders with this reference of the caller's.", example="shop-778")
PARENT: Final = text("parent", "Only the children (runs, the remainder) of this order, by its id.")
SINCE: Final = instant("since", "Only orders accepted at this instant or later.")
STUCK: Final = flag("stuck", "`true`: only orders that stand still for too long; `false`: only the others.")
LIST_QUERY: Final = Parameters(STATE, SERVICE, PROVIDER, REFERENCE, PARENT, SINCE, STUCK, paged=True)

ORDER_NAME: Final = re.compile(r"[0-9]{1,18}|ord_[0-9a-f]{32}")


def find_order(connection: Connection, request: web.Request, owner: str | None) -> Order:
    """The order that the path names by id or number; Problem 404 when `owner` has no such order."""
    reference = request.match_info["order"]
    found = order_store.find(connection, reference, owner) if ORDER_NAME.fullmatch(reference) else None
    if found is None:
        raise Problem(ProblemKind.UNKNOWN_ORDER, "no order of yours has this id or number")
    return found


async def own_order(house: House, request: web.Request, caller: Caller) -> Order:
    """The order that the path names, if the caller may act on it.

    Problem 404 when the caller cannot see it, 403 when it is somebody else's.
    """
    order = await house.database.read(lambda c: find_order(c, request, caller.sees))
    if caller.handles is not None and order.owner != caller.handles:
        raise Problem(ProblemKind.FORBIDDEN, "the order belongs to another caller; this needs the scope admin")
    return order


async def list_orders(request: web.Request, caller: Caller) -> web.Response:
    """`GET /v1/orders`: newest first. A cursor is a number to go on below, so new orders move no page."""
    query = query_of(request)
    state = query[STATE]
    filters = order_store.Filters(
        owner=caller.sees,
        state=OrderState(state) if state is not None else None,
        service=query[SERVICE],
        provider=query[PROVIDER],
        reference=query[REFERENCE],
        parent=query[PARENT],
        since=query[SINCE],
        stuck=query[STUCK],
    )
    before, limit = query.cursor, query.limit

    def load(connection: Connection) -> tuple[list[dict[str, object]], int | None]:
        found = order_store.page(connection, filters, before=before, limit=limit + 1)
        shown = found[:limit]
        last = shown[-1].number if len(found) > limit else None
        return full_orders(connection, shown), last

    orders, last = await services_of(request).house.database.read(load)
    return json_response(listing("orders", orders, None if last is None else query.next_cursor(last)))


async def get_order(request: web.Request, caller: Caller) -> web.Response:
    house = services_of(request).house
    return json_response(await house.database.read(lambda c: full_order(c, find_order(c, request, caller.sees))))


async def get_attempts(request: web.Request, caller: Caller) -> web.Response:
    """Every attempt, with the ranking and the reasons it was made for."""

    def load(connection: Connection) -> list[dict[str, object]]:
        order = find_order(connection, request, caller.sees)
        return [attempt_document(row) for row in attempts.of_order(connection, order.number)]

    return json_response(listing("attempts", await services_of(request).house.database.read(load)))


async def get_order_events(request: web.Request, caller: Caller) -> web.Response:
    """Every event of one order, by sequence; `position` is null until the event is in the feed."""

    def load(connection: Connection) -> list[str]:
        order = find_order(connection, request, caller.sees)
        rows = outbox.of_order(connection, order.number)
        return [event_text(row["position"], row["id"], row["body"]) for row in rows]

    texts = await services_of(request).house.database.read(load)
    # The stored texts go out as they are: a webhook's receiver can compare them byte by byte.
    return response(Answer(200, f'{{"events":[{",".join(texts)}],"next_cursor":null}}'))


async def get_delivery(request: web.Request, caller: Caller) -> web.Response:
    """The delivered accounts, opened."""
    house = services_of(request).house
    order = await own_order(house, request, caller)
    try:
        accounts = await house.database.read(lambda c: deliverables.read(c, house.sealer, order.number))
    except deliverables.SealingError as exc:
        log.error("delivery_cannot_be_opened", order_id=order.id, reason=str(exc))
        raise Problem(ProblemKind.UNAVAILABLE, f"{exc}, and start the daemon anew") from None
    log.info("delivery_read", order_id=order.id, caller=caller.name, count=len(accounts))
    return response(Answer(200, dumps({"accounts": accounts})))
