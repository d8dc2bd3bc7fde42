"""Bugs, planted one at a time: does the simulation see them?

Each is the mistake that somebody could make at one named point, patched into the program's own functions for the time of
a run. `HARMLESS` are changes that must not be called a bug.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from sqlalchemy import Connection, Table, select, update

from aggregator.domain import numbers as number_rules
from aggregator.domain.events import Draft
from aggregator.domain.evidence import Verdict
from aggregator.domain.ids import AttemptId
from aggregator.domain.orders import FINAL, Applied, NotPurchased, Order, PurchaseStarted, Reported, apply
from aggregator.domain.wire import LostReply, NotSent, Outcome
from aggregator.flow import canceling, placement, polling, reconcile
from aggregator.flow.base import Wakeups
from aggregator.flow.delivery import Delivery, _Result
from aggregator.flow.intake import Intake
from aggregator.flow.placement import Placement
from aggregator.flow.purchases import write_result
from aggregator.flow.reconcile import Reconcile
from aggregator.flow.recovery import repeat_under_keys
from aggregator.flow.sequencing import Sequencing
from aggregator.providers.contract import Placed, Refused, StatusBatch, Unclear
from aggregator.providers.gateway import Gateway
from aggregator.storage import attempts, claims, deliverables, idempotency, ledger, numbers, outbox, refills
from aggregator.storage import orders as order_store
from aggregator.storage.tables import accounts as accounts_table
from aggregator.storage.tables import attempts as attempts_table
from aggregator.storage.tables import refills as refills_table
from tests.simulation.wire import SimulatedOutbound

Plant = Callable[[ExitStack], None]


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug by its name; `plant` patches it in until the stack is closed."""

    name: str
    plant: Plant


def _swap(stack: ExitStack, owner: Any, name: str, new: Any) -> None:
    context: AbstractContextManager[Any] = patch.object(owner, name, new)
    stack.enter_context(context)


# --- placement: claim → intent → send → reply → record ---


def resend_on_timeout(stack: ExitStack) -> None:
    real = SimulatedOutbound.spend

    async def spend(self: SimulatedOutbound, request: Any, timeout_s: float) -> Outcome:
        outcome = await real(self, request, timeout_s)
        if isinstance(outcome, LostReply) and outcome.reason == "timeout":
            return await real(self, request, timeout_s)
        return outcome

    _swap(stack, SimulatedOutbound, "spend", spend)


def retry_in_the_gateway(stack: ExitStack) -> None:
    real = Gateway.add

    async def add(self: Gateway, request: Any) -> Any:
        result, exchange = await real(self, request)
        if isinstance(result, Unclear):
            return await real(self, request)
        return result, exchange

    _swap(stack, Gateway, "add", add)


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
        ghost._house = replace(self._house, database=ClaimOnly(self._house.database))
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

    _swap(stack, Placement, "_start", start)
    _swap(stack, Placement, "_record", record)


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

    _swap(stack, Placement, "_start", start)


def _results(stack: ExitStack, change: Callable[[Any, Any], Any]) -> None:
    """Let `change` look at how each purchase ended, before it is recorded."""
    real = placement.send

    async def send(gateway: Any, order: Any, attempt: Any, kind_type: Any) -> Any:
        result, exchange = await real(gateway, order, attempt, kind_type)
        return change(result, exchange), exchange

    _swap(stack, placement, "send", send)


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


# --- after a crash ---


def startup_buys_again(stack: ExitStack) -> None:
    """What was being sent goes back to accepted at the start."""
    real = Reconcile._find_interrupted

    def find(self: Reconcile, connection: Connection) -> Any:
        now = self._house.clock.now()
        if self._first:
            for attempt in attempts.interrupted(connection, now):
                order = order_store.load_for_update(connection, attempt.order_number)
                attempts.finish(connection, attempt.id, None, "not_sent", now)
                freed = apply(order, NotPurchased(AttemptId(attempt.id)), now)
                order_store.save(connection, order, freed.order, freed.events, now, next_route_at=now)
        return real(self, connection)

    _swap(stack, Reconcile, "_find_interrupted", find)


def claims_outlive_their_holder(stack: ExitStack) -> None:
    """No lease runs out, and a start voids nothing."""
    real = claims.claim

    def claim(connection: Connection, table: Table, key: Any, **wanted: Any) -> Any:
        return real(connection, table, key, **{**wanted, "lease_s": 10.0**9})

    _swap(stack, claims, "claim", claim)
    _swap(stack, claims, "void_all", lambda connection, tables: 0)


def no_token_at_the_write(stack: ExitStack) -> None:
    """Whoever was overtaken writes all the same."""
    real_save, real_release = numbers.save, claims.release

    def save(connection: Connection, number: Any, *, token: str, **values: Any) -> None:
        held = connection.execute(
            select(numbers.numbers.c.claim_token).where(numbers.numbers.c.id == number.id)
        ).scalar_one()
        if held is None:
            connection.execute(
                update(numbers.numbers).where(numbers.numbers.c.id == number.id).values(claim_token=token)
            )
            held = token
        real_save(connection, number, token=held, **values)

    def release(connection: Connection, table: Table, key: Any, value: object, token: str, **values: object) -> None:
        connection.execute(update(table).where(key == value).values(claim_token=token))
        real_release(connection, table, key, value, token, **values)

    _swap(stack, numbers, "save", save)
    _swap(stack, claims, "release", release)


# --- intake ---


def key_outside_the_transaction(stack: ExitStack) -> None:
    real_take, real_keep = Intake.take, idempotency.keep
    later: list[tuple[Any, ...]] = []

    def keep(_: Connection, *values: Any) -> bool:
        later.append(values)
        return True

    async def take(self: Intake, wishes: Any, once: Any = None) -> Any:
        taken = await real_take(self, wishes, once)
        while later:
            values = later.pop()
            await self._house.database.write(lambda c: real_keep(c, *values))  # noqa: B023
        return taken

    _swap(stack, idempotency, "keep", keep)
    _swap(stack, Intake, "take", take)


def answer_before_the_commit(stack: ExitStack) -> None:
    real = Intake.take

    class Soon:
        """Answers with what a write would do, and does it a moment later."""

        def __init__(self, inner: Any) -> None:
            self.kind = inner.kind
            self._inner = inner

        async def read(self, work: Any) -> Any:
            return await self._inner.read(work)

        async def write(self, work: Any) -> Any:
            def look(connection: Connection) -> Any:
                with connection.begin_nested() as inner:
                    result = work(connection)
                    inner.rollback()
                return result

            result = await self._inner.write(look)
            writing = asyncio.create_task(self._inner.write(work))
            kept.append(writing)
            return result

    kept: list[asyncio.Task[Any]] = []

    async def take(self: Intake, wishes: Any, once: Any = None) -> Any:
        ghost = copy.copy(self)
        ghost._house = replace(self._house, database=Soon(self._house.database))
        return await real(ghost, wishes, once)

    _swap(stack, Intake, "take", take)


# --- events, feed, delivery ---


def event_outside_the_transaction(stack: ExitStack) -> None:
    real_append, real_run = outbox.append, Sequencing.run_once
    later: list[tuple[Any, ...]] = []

    def append(_: Connection, *values: Any) -> None:
        if values[2]:
            later.append(values)

    async def run_once(self: Sequencing) -> int:
        while later:
            values = later.pop(0)
            await self._house.database.write(lambda c: real_append(c, *values))  # noqa: B023
        return await real_run(self)

    _swap(stack, outbox, "append", append)
    _swap(stack, Sequencing, "run_once", run_once)


def position_given_twice(stack: ExitStack) -> None:
    real = outbox._advance

    def advance(connection: Connection, count: int) -> int:
        return max(0, real(connection, count) - 1)

    _swap(stack, outbox, "_advance", advance)


def delivered_before_it_is_sent(stack: ExitStack) -> None:
    async def deliver(self: Delivery, endpoint: Any, delivery: Any, token: str) -> None:
        now = self._house.clock.now()
        await self._delivered(endpoint, delivery, token, _Result(now, 204, "", None, 0))
        await self._send(endpoint.hook, delivery)

    _swap(stack, Delivery, "_deliver", deliver)


# --- following ---


def same_report_told_twice(stack: ExitStack) -> None:
    def twice(order: Order, fact: Any, at: datetime) -> Applied:
        applied = apply(order, fact, at)
        if isinstance(fact, Reported) and fact.state is order.state and order.state in FINAL:
            events = {"completed": "order.completed", "partial": "order.partial"}
            name: Any = events.get(str(order.state))
            return Applied(applied.order, (*applied.events, Draft(name))) if name else applied
        return applied

    _swap(stack, polling, "apply", twice)


def answers_of_a_batch_mixed_up(stack: ExitStack) -> None:
    real = Gateway.statuses

    async def statuses(self: Gateway, orders: Sequence[str]) -> Any:
        answer = await real(self, orders)
        if isinstance(answer, StatusBatch) and len(answer.reports) > 1:
            names, reports = list(answer.reports), list(answer.reports.values())
            return replace(answer, reports=dict(zip(names, [*reports[1:], reports[0]], strict=True)))
        return answer

    _swap(stack, Gateway, "statuses", statuses)


def charge_booked_twice(stack: ExitStack) -> None:
    _swap(stack, ledger, "charged", lambda *_, **__: 0)


def accounts_stored_again(stack: ExitStack) -> None:
    real_read = deliverables.read

    def add_new(connection: Connection, sealer: Any, order_number: int, delivered: Any, at: datetime) -> Any:
        known = len(real_read(connection, sealer, order_number))
        for ordinal, account in enumerate(delivered, start=known):
            row = {"order_number": order_number, "ordinal": ordinal, "sealed": sealer.seal(account), "delivered_at": at}
            connection.execute(accounts_table.insert().values(**row))
        return len(delivered), known + len(delivered)

    _swap(stack, deliverables, "add_new", add_new)


def code_told_again(stack: ExitStack) -> None:
    _swap(stack, number_rules, "_same_code", lambda known, report: False)


# --- what costs besides ---


def refill_asked_again(stack: ExitStack) -> None:
    """One whose answer was lost counts as not asked."""
    real = Gateway.refills

    async def ask(self: Gateway, orders: Sequence[str], key: str | None = None) -> Any:
        results, exchange = await real(self, orders, key)
        if isinstance(results, Mapping) and any(isinstance(result, Unclear) for result in results.values()):
            return NotSent("no answer"), exchange
        return results, exchange

    _swap(stack, Gateway, "refills", ask)


def interrupted_refill_asked_again(stack: ExitStack) -> None:
    def interrupted(connection: Connection, now: datetime, retry_at: datetime) -> int:
        asked = (refills_table.c.state == "requested") & refills_table.c.sent_at.is_not(None)
        again = update(refills_table).where(asked, claims.unclaimed(refills_table, now))
        return connection.execute(again.values(sent_at=None, claim_token=None, claimed_until=None)).rowcount

    _swap(stack, refills, "interrupted", interrupted)


def canceled_with_its_plan(stack: ExitStack) -> None:
    """An order that is canceled leaves the plan to buy it."""
    _swap(stack, canceling, "attempts", SimpleNamespace(drop_plan=lambda *_: None))


# --- reconciliation ---


def silence_is_proof(stack: ExitStack) -> None:
    _swap(stack, reconcile, "verdict", lambda *_, **__: Verdict.NOT_BOUGHT)


def repeated_without_a_promise(stack: ExitStack) -> None:
    """Repeats under the key at providers of which nobody said that they honour it."""
    real = Reconcile._look

    async def look(self: Reconcile, gateway: Gateway) -> None:
        await repeat_under_keys(self._house, gateway)
        await real(self, gateway)

    _swap(stack, Reconcile, "_look", look)


BUGS: Final = tuple(
    Bug(plant.__name__, plant)
    for plant in (
        resend_on_timeout,
        retry_in_the_gateway,
        send_before_the_intent,
        record_before_the_call,
        refused_read_as_placed,
        success_without_an_id_read_as_placed,
        unclear_read_as_refused,
        startup_buys_again,
        claims_outlive_their_holder,
        no_token_at_the_write,
        key_outside_the_transaction,
        answer_before_the_commit,
        event_outside_the_transaction,
        position_given_twice,
        delivered_before_it_is_sent,
        same_report_told_twice,
        answers_of_a_batch_mixed_up,
        charge_booked_twice,
        accounts_stored_again,
        code_told_again,
        refill_asked_again,
        interrupted_refill_asked_again,
        canceled_with_its_plan,
        silence_is_proof,
        repeated_without_a_promise,
    )
)


def no_wake_ups(stack: ExitStack) -> None:
    """Every hint is lost; what is due is found all the same."""
    _swap(stack, Wakeups, "wake", lambda self, *names: None)


HARMLESS: Final = (Bug("no_wake_ups", no_wake_ups),)
