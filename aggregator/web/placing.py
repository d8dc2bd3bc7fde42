"""Orders come in: from bodies to wishes, through intake, to answers.

Decides how a request becomes wishes and how results are told; whether an order can be taken is intake's to say. What
is refused after the body was read is kept for the Idempotency-Key too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

from aggregator.domain.documents import accepted_text
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.orders import Order
from aggregator.flow.base import House
from aggregator.flow.intake import Idempotency, NewOrder, Taken
from aggregator.web.auth import Caller
from aggregator.web.bodies import parse_object, read_body
from aggregator.web.limits import OpenOrders
from aggregator.web.models import BatchRequest, new_order, read
from aggregator.web.once import RUNNING, Key, find, key_of, replayed
from aggregator.web.problems import problem_document, status_of
from aggregator.web.rendering import REQUEST_ID, Answer, created_answer, dumps, problem_answer, response
from aggregator.web.services import SERVICES, services_of

OPEN_ORDERS: Final = web.AppKey("open_orders", OpenOrders)

Results = Sequence[Order | Problem]


async def create(request: web.Request, caller: Caller) -> web.Response:
    """`POST /v1/orders`: 201 once the order is durable."""
    house = services_of(request).house
    body = await read_body(request)
    key = key_of(request, caller.name, body)
    request_id = request[REQUEST_ID]
    wish: NewOrder | Problem
    try:
        wish = new_order(parse_object(body), caller.name, house.settings.currency)
    except Problem as problem:
        wish = problem

    def answer(results: Results) -> Answer:
        result = results[0]
        return created_answer(result) if isinstance(result, Order) else problem_answer(result, request_id)

    return await _answered(request, caller, key, [wish], answer, alone=True)


async def create_batch(request: web.Request, caller: Caller) -> web.Response:
    """`POST /v1/orders:batch`: 200 with one result for each order, in order."""
    house = services_of(request).house
    body = await read_body(request)
    key = key_of(request, caller.name, body)
    request_id = request[REQUEST_ID]
    try:
        items = read(BatchRequest, body, deep=False).orders
    except Problem as problem:
        refusal = problem_answer(problem, request_id)
        return await _answered(request, caller, key, [problem], lambda _: refusal, alone=True)
    wishes = [_wish(house, caller, item) for item in items]

    def answer(results: Results) -> Answer:
        return Answer(200, f'{{"results":[{",".join(map(_result, results))}]}}')

    return await _answered(request, caller, key, wishes, answer, alone=False)


def _wish(house: House, caller: Caller, item: object) -> NewOrder | Problem:
    try:
        return new_order(item, caller.name, house.settings.currency)
    except Problem as problem:
        return problem


def _result(result: Order | Problem) -> str:
    if isinstance(result, Order):
        return f'{{"status":201,"order":{accepted_text(result)}}}'
    return dumps({"status": status_of(result), "problem": problem_document(result)})


async def _answered(
    request: web.Request,
    caller: Caller,
    key: Key | None,
    wishes: Sequence[NewOrder | Problem],
    answer: Callable[[Results], Answer],
    *,
    alone: bool,
) -> web.Response:
    taken = await take(request, caller, key, wishes, answer, alone=alone)
    return replayed(taken.replayed) if taken.replayed is not None else response(answer(taken.results))


async def take(
    request: web.Request,
    caller: Caller,
    key: Key | None,
    wishes: Sequence[NewOrder | Problem],
    answer: Callable[[Results], Answer],
    *,
    alone: bool,
) -> Taken:
    """Store what can be taken, and its answer with it; `alone`: the one problem is the whole request's."""
    app = request.app
    services = app[SERVICES]
    with app[RUNNING].only(key):
        most = caller.max_open_orders
        if key is not None and most and await find(services.house, key) is not None:
            most = 0  # what is answered again takes no room
        async with app[OPEN_ORDERS].admit(services.house, caller.name, most, wishes) as admitted:
            first = admitted[0]
            if alone and isinstance(first, Problem) and (key is None or first.kind is ProblemKind.TOO_MANY_REQUESTS):
                raise first
            return await services.intake.take(admitted, _idempotency(key, answer))


def _idempotency(key: Key | None, answer: Callable[[Results], Answer]) -> Idempotency | None:
    if key is None:
        return None

    def stored(results: Results) -> tuple[int, str]:
        whole = answer(results)
        return whole.status, whole.body

    return Idempotency(key.owner, key.key, key.fingerprint, stored)
