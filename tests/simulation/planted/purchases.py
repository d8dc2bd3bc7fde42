"""Bugs on the way of a purchase: claim, intent, send, reply, record."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import Connection, update

from aggregator.domain.orders import PurchaseStarted, apply
from aggregator.domain.wire import LostReply, NotSent, Outcome
from aggregator.flow import placement, wishes
from aggregator.flow.placement import Placement
from aggregator.flow.purchases import write_result
from aggregator.providers.contract import Consequence, Meaning, Placed, Refused, Unclear
from aggregator.providers.gateway import Gateway
from aggregator.storage import attempts, catalogue
from aggregator.storage import orders as order_store
from aggregator.storage.tables import attempts as attempts_table
from tests.simulation.focus import Focus
from tests.simulation.planted.bug import LOST, SOON_S, Bug, swap
from tests.simulation.wire import SimulatedOutbound


def resend_on_timeout(stack: ExitStack) -> None:
    real = SimulatedOutbound.spend

    async def spend(self: SimulatedOutbound, request: Any, timeout_s: float) -> Outcome:
        outcome = await real(self, request, timeout_s)
        if isinstance(outcome, LostReply) and outcome.reason == "timeout":
            return await real(self, request, timeout_s)
        return outcome

    swap(stack, SimulatedOutbound, "spend", spend)


def retry_in_the_gateway(stack: ExitStack) -> None:
    real = Gateway.add

    async def add(self: Gateway, request: Any) -> Any:
        result, exchange = await real(self, request)
        if isinstance(result, Unclear):
            return await real(self, request)
        return result, exchange

    swap(stack, Gateway, "add", add)


def send_before_the_intent(stack: ExitStack) -> None:
    """The attempt is claimed only; that it is being sent is written with its result."""
    real_start, real_record = Placement._start, Placement._record

    class ClaimOnly:
        def __init__(self, real: Any) -> None:
            self.kind = real.kind
            self._real = real

        async def read(self, work: Any) -> Any:
            return await self._real.read(work)

        async def write(self, work: Any) -> Any:
            def claim_only(connection: Connection) -> Any:
                with connection.begin_nested() as inner:
                    started = work(connection)
                    inner.rollback()
                if started is not None:
                    until = started.order.updated_at + timedelta(hours=1)
                    connection.execute(
                        update(attempts_table)
                        .where(attempts_table.c.id == started.attempt.id)
                        .values(claim_token="taken", claimed_until=until)
                    )
                return started

            return await self._real.write(claim_only)

    async def start(self: Placement, gateway: Gateway) -> Any:
        ghost = copy.copy(self)
        stand_in: Any = ClaimOnly(self._house.database)
        ghost._house = replace(self._house, database=stand_in)
        return await real_start(ghost, gateway)

    async def record(self: Placement, gateway: Gateway, started: Any, *rest: Any) -> None:
        def intent(connection: Connection) -> None:
            now = self._house.clock.now()
            attempts.start(connection, started.attempt.id, "taken", now)
            order = order_store.load_for_update(connection, started.order.number)
            attempt = started.attempt
            fact = PurchaseStarted(attempt.id, gateway.name, attempt.service, attempt.expected)
            order_store.save(
                connection, order, apply(order, fact, now).order, (), now, next_route_at=None, claim_token=None
            )

        await self._house.database.write(intent)
        await real_record(self, gateway, started, *rest)

    swap(stack, Placement, "_start", start)
    swap(stack, Placement, "_record", record)


def record_before_the_call(stack: ExitStack) -> None:
    """The purchase is written down as made, under an id of our own, and then sent."""
    real = Placement._start

    async def start(self: Placement, gateway: Gateway) -> Any:
        started = await real(self, gateway)
        if started is not None:
            made = Placed(f"ours-{started.attempt.id}")
            house = self._house
            await house.database.write(lambda c: write_result(c, house, gateway, started.attempt, made))
        return started

    swap(stack, Placement, "_start", start)


def _results(stack: ExitStack, change: Callable[[Any, Any], Any]) -> None:
    """Let `change` look at how each purchase ended, before it is recorded."""
    real: Any = vars(placement)["send"]

    async def send(gateway: Any, order: Any, attempt: Any, kind_type: Any) -> Any:
        result, exchange = await real(gateway, order, attempt, kind_type)
        return change(result, exchange), exchange

    swap(stack, placement, "send", send)


def refused_read_as_placed(stack: ExitStack) -> None:
    _results(stack, lambda result, _: Placed("1") if isinstance(result, Refused) else result)


def success_without_an_id_read_as_placed(stack: ExitStack) -> None:
    def change(result: Any, exchange: Any) -> Any:
        if not isinstance(result, Unclear) or exchange.status != 200:
            return result
        try:
            said = json.loads(exchange.body or "")
        except ValueError:
            return result
        return result if isinstance(said, dict) and said.get("error") else Placed("0")

    _results(stack, change)


def unclear_read_as_refused(stack: ExitStack) -> None:
    _results(stack, lambda result, _: NotSent("no answer") if isinstance(result, Unclear) else result)


def generic_error_read_as_refused(stack: ExitStack) -> None:
    """A text that no table lists, read as "try the next one"."""

    def change(result: Any, exchange: Any) -> Any:
        if isinstance(result, Unclear) and '"error": "There was' in (exchange.body or ""):
            return Refused(Meaning.SERVICE, Consequence.NEXT_OFFER, result.text)
        return result

    _results(stack, change)


def bought_while_paused(stack: ExitStack) -> None:
    """Nobody looks whether the operator paused a provider."""
    real = catalogue.health

    def health(connection: Connection) -> Any:
        return {name: {**row, "paused": False} for name, row in real(connection).items()}

    swap(stack, catalogue, "health", health)


def canceled_with_its_plan(stack: ExitStack) -> None:
    """An order that is canceled leaves the plan to buy it."""
    swap(stack, wishes, "attempts", SimpleNamespace(**{**vars(attempts), "drop_plan": lambda *_: None}))


_LOST_ANSWERS: Final = Focus(
    services=("followers", "plus", "code"), chaos=("resolve", "heal_some"), faults=LOST, settle_s=SOON_S
)
_CRASHES: Final = Focus(
    services=("followers", "gmail"),
    chaos=("arm_crash",),
    crash_at=("sent add", "smmplus add", "heard add"),
    settle_s=SOON_S,
)

BUGS: Final = (
    Bug(
        "resend on timeout",
        resend_on_timeout,
        "^double|^wrong id",
        replace(_LOST_ANSWERS, faults=("timeout_after",)),
        first=6,
    ),
    Bug("retry in the gateway", retry_in_the_gateway, "^double|^wrong id", _LOST_ANSWERS, first=2),
    Bug("send before the intent is committed", send_before_the_intent, "^lost purchase|^double", _CRASHES, first=5),
    Bug("record before the call", record_before_the_call, "^wrong id|^invented", _CRASHES),
    Bug(
        "refused read as placed",
        refused_read_as_placed,
        "^invented",
        Focus(services=("flash",), chaos=("arm_crash",), settle_s=SOON_S),
    ),
    Bug(
        "success without an id read as placed",
        success_without_an_id_read_as_placed,
        "^invented|^wrong id",
        replace(_LOST_ANSWERS, faults=("wrong_json_after", "wrong_json_before")),
    ),
    Bug("unclear read as refused", unclear_read_as_refused, "^lost purchase", _LOST_ANSWERS),
    Bug(
        "generic error text read as refused",
        generic_error_read_as_refused,
        "^lost purchase",
        replace(_LOST_ANSWERS, faults=("error_text_after",)),
    ),
    Bug(
        "bought while paused",
        bought_while_paused,
        "was paused",
        Focus(services=("plus",), orders=6, chaos=("pause_provider",), settle_s=SOON_S),
        first=6,
    ),
    Bug(
        "canceled with its plan",
        canceled_with_its_plan,
        "canceled",
        Focus(
            services=("plus", "gmail"),
            orders=6,
            chaos=("cancel",),
            faults=("delay",),
            fault_chance=1.0,
            providers={"max_concurrency": 1, "timeout_s": 30, "settle_s": 90},
            most_steps=4000,
            settle_s=SOON_S,
        ),
        first=1,
    ),
)
