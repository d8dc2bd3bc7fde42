"""Bugs around claims, starts and intake: what a crash would leave behind."""

from __future__ import annotations

import asyncio
import copy
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import Connection, Table, select, update

from aggregator.domain.ids import AttemptId
from aggregator.domain.orders import NotPurchased, apply
from aggregator.flow import health
from aggregator.flow.base import House
from aggregator.flow.intake import Intake
from aggregator.flow.reconcile import Reconcile
from aggregator.storage import attempts, catalogue, claims, deliveries, idempotency, numbers
from aggregator.storage import orders as order_store
from aggregator.storage.tables import numbers as numbers_table
from tests.simulation.focus import Focus
from tests.simulation.planted.bug import SOON_S, Bug, swap


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

    swap(stack, Reconcile, "_find_interrupted", find)


def claims_outlive_their_holder(stack: ExitStack) -> None:
    """No lease runs out, and a start voids nothing."""

    def for_ever(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def claim(connection: Connection, of: Any, now: Any, **wanted: Any) -> Any:
            return real(connection, of, now, **{**wanted, "lease_s": 10.0**9})

        swap(stack, owner, name, claim)

    for owner, name in ((claims, "claim"), (deliveries, "claim_deliveries"), (deliveries, "look_again")):
        for_ever(owner, name)
    swap(stack, claims, "void_all", lambda connection, tables: 0)


def no_token_at_the_write(stack: ExitStack) -> None:
    """Whoever was overtaken writes all the same."""
    real_save, real_release = numbers.save, claims.release

    def save(connection: Connection, number: Any, *, token: str, **values: Any) -> None:
        held = connection.execute(
            select(numbers_table.c.claim_token).where(numbers_table.c.id == number.id)
        ).scalar_one()
        if held is None:
            connection.execute(update(numbers_table).where(numbers_table.c.id == number.id).values(claim_token=token))
            held = token
        real_save(connection, number, token=held, **values)

    def release(connection: Connection, table: Table, key: Any, value: object, token: str, **values: object) -> None:
        connection.execute(update(table).where(key == value).values(claim_token=token))
        real_release(connection, table, key, value, token, **values)

    swap(stack, numbers, "save", save)
    swap(stack, claims, "release", release)


def key_outside_the_transaction(stack: ExitStack) -> None:
    real_take, real_keep, real_init = Intake.take, idempotency.keep_all, Intake.__init__
    later: list[tuple[Any, ...]] = []

    def begin(self: Intake, house: House) -> None:
        later.clear()  # what was in memory is gone with its process
        real_init(self, house)

    def keep(_: Connection, *values: Any) -> bool:
        later.append(values)
        return True

    async def take(self: Intake, wishes: Any, once: Any = None) -> Any:
        taken = await real_take(self, wishes, once)
        while later:
            values = later.pop()
            await self._house.database.write(lambda c: real_keep(c, *values))  # noqa: B023
        return taken

    swap(stack, idempotency, "keep_all", keep)
    swap(stack, Intake, "__init__", begin)
    swap(stack, Intake, "take", take)


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

        async def write_together(self, work: Any, item: Any) -> Any:
            return (await self.write(lambda c: work(c, [item])))[0]

    kept: list[asyncio.Task[Any]] = []

    async def take(self: Intake, wishes: Any, once: Any = None) -> Any:
        ghost = copy.copy(self)
        stand_in: Any = Soon(self._house.database)
        ghost._house = replace(self._house, database=stand_in)
        return await real(ghost, wishes, once)

    swap(stack, Intake, "take", take)


def breaker_forgotten(stack: ExitStack) -> None:
    """What the database knows of the providers that were down is never looked at."""
    swap(stack, health, "catalogue", SimpleNamespace(health=lambda _: {}, set_health=catalogue.set_health))


_PURCHASES: Final = Focus(services=("followers", "gmail"), chaos=("arm_crash",), settle_s=SOON_S)
_SENDING: Final = replace(_PURCHASES, crash_at=("sent add", "smmplus add", "heard add"))

BUGS: Final = (
    Bug("start-up buys again", startup_buys_again, "^lost purchase|^double", _SENDING, first=5),
    Bug(
        "claims outlive their holder",
        claims_outlive_their_holder,
        "^never came to rest",
        Focus(
            services=("gmail",), orders=1, chaos=("arm_crash",), crash_at=("sent webhook", "webhook"), settle_s=900.0
        ),
    ),
    Bug(
        "no token at the write",
        no_token_at_the_write,
        "^order .* told 2 times",
        Focus(
            services=("code",),
            orders=6,
            chaos=("jump",),
            faults=("delay",),
            fault_chance=0.9,
            actions=("sms_code",),
            providers={
                "max_concurrency": 4,
                "timeout_s": 30,
                "settle_s": 90,
                "code_every_s": {"min": 3, "max": 5},
            },
            settle_s=SOON_S,
        ),
        first=2,
    ),
    Bug(
        "idempotency key outside the transaction",
        key_outside_the_transaction,
        "^double",
        replace(_PURCHASES, orders=6, crash_at=("committed", "written")),
        first=15,
    ),
    Bug("answer before the commit", answer_before_the_commit, "^lost:", replace(_PURCHASES, crash_at=("answered",))),
    Bug(
        "breaker forgotten at the start",
        breaker_forgotten,
        "told already",
        Focus(orders=2, chaos=("arm_crash",), accounts={"enabled": False}, settle_s=SOON_S),
    ),
)
