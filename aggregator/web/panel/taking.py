"""One new order by the panel door: through the same intake as at the first door, with the answer in the same commit.

Decides how the result is told and kept under an Idempotency-Key; whether an order can be taken is intake's to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from aggregator.domain.errors import Problem
from aggregator.domain.orders import Order
from aggregator.flow.intake import NewOrder
from aggregator.web.once import REPLAYED, key_of
from aggregator.web.panel.calls import Call
from aggregator.web.panel.words import refusal
from aggregator.web.placing import Results, take
from aggregator.web.rendering import Answer, dumps, response


async def take_one(call: Call, wish: Callable[[Call], NewOrder], tell: Callable[[Order], Any]) -> web.Response:
    """Take an order and answer what `tell` says of it; a refusal is told and kept like any other answer.

    `wish` reads the call; what it refuses comes after the Idempotency-Key was looked at. Else a caller who repeats a
    purchase whose answer was lost would hear that its service is gone, conclude that nothing was bought, and buy
    elsewhere.
    """
    document, headers = await taken(call, wish, tell)
    return response(Answer(200, dumps(document), headers))


async def taken(
    call: Call, wish: Callable[[Call], NewOrder], tell: Callable[[Order], Any]
) -> tuple[Any, dict[str, str]]:
    """The same, the answer not yet written: its document and its headers."""
    key = key_of(call.request, call.caller.name, call.body)

    def answer(results: Results) -> Answer:
        result = results[0]
        if isinstance(result, Problem):
            return Answer(200, dumps({"error": refusal(result).sentence(call.panel)}))
        return Answer(200, dumps(tell(result)))

    done = await take(call.request, call.caller, key, [_read(call, wish)], answer, alone=True)
    if done.replayed is not None:
        return json.loads(done.replayed.body), dict(REPLAYED)
    return json.loads(answer(done.results).body), {}


def _read(call: Call, wish: Callable[[Call], NewOrder]) -> NewOrder | Problem:
    try:
        return wish(call)
    except Problem as problem:
        return problem
