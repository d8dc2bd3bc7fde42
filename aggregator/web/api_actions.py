"""What callers do to orders that exist: cancel, refill, and an admin's word on an unclear purchase.

Each answer is made in the transaction that does it, so an Idempotency-Key never knows less than the order.
"""

from __future__ import annotations

from aiohttp import web

from aggregator.domain.orders import Order
from aggregator.flow import canceling, counting, reconcile, refilling
from aggregator.flow.base import House
from aggregator.storage.database import Connection
from aggregator.web.api_orders import own_order
from aggregator.web.auth import Caller
from aggregator.web.bodies import read_body
from aggregator.web.models import CountRequest, EmptyRequest, ResolveRequest, read, read_optional
from aggregator.web.once import once
from aggregator.web.problems import invalid
from aggregator.web.rendering import Answer, dumps, full_order
from aggregator.web.services import services_of


def _accepted(connection: Connection, order: Order) -> Answer:
    return Answer(202, dumps(full_order(connection, order)))


def _done(connection: Connection, order: Order) -> Answer:
    return Answer(200, dumps(full_order(connection, order)))


async def cancel(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/cancel`: 202 with the order; 409 with the reason when it cannot be canceled."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        read_optional(EmptyRequest, body)
        order = await own_order(recording, request, caller)
        await canceling.cancel(recording, order.number, by=caller.name)

    return await once(request, house, caller.name, body, work, _accepted)


async def refill(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/refill`: 202 with the order and its new refill; 409 with the reason when it may have none now."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        read_optional(EmptyRequest, body)
        await refilling.request_by_hand(recording, await own_order(recording, request, caller))

    return await once(request, house, caller.name, body, work, _accepted)


async def count(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/count`: what the caller sees at the link of a completed order now; 409 where that can mean nothing."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        said = read(CountRequest, body)
        order = await own_order(recording, request, caller)
        await counting.take_count(recording, order, said.count, by=caller.name)

    return await once(request, house, caller.name, body, work, _accepted)


async def resolve(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/resolve`: how an unclear purchase ended, as a person found out."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        said = read(ResolveRequest, body)
        if said.outcome == "placed" and said.provider_order is None:
            raise invalid("is required when the purchase was placed: the provider's id of the order", "provider_order")
        if said.outcome == "not_placed" and said.provider_order is not None:
            raise invalid("does not go with not_placed; leave it out", "provider_order")
        if said.outcome == "not_placed" and said.provider is not None:
            raise invalid("does not go with not_placed; leave it out", "provider")
        order = await own_order(recording, request, caller)
        await reconcile.resolve(
            recording, order.id, provider_order=said.provider_order, by=caller.name, provider=said.provider
        )

    return await once(request, house, caller.name, body, work, _done)
