"""Bugs between an event and whoever listens: journal, sequencer, delivery."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection

from aggregator.flow.base import House
from aggregator.flow.delivery import Delivery
from aggregator.flow.outcomes import record
from aggregator.flow.sequencing import Sequencing
from aggregator.storage import outbox
from tests.simulation.focus import Focus
from tests.simulation.planted.bug import SOON_S, Bug, swap


def event_outside_the_transaction(stack: ExitStack) -> None:
    real_append, real_accepted = outbox.append, outbox.append_accepted
    real_run, real_init = Sequencing.run_once, Sequencing.__init__
    later: list[Callable[[Connection], None]] = []

    def begin(self: Sequencing, house: House) -> None:
        later.clear()  # what was in memory is gone with its process
        real_init(self, house)

    def append(_: Connection, *values: Any) -> None:
        if values[2]:
            later.append(lambda c: real_append(c, *values))

    def append_accepted(_: Connection, born: Any) -> None:
        later.append(lambda c: real_accepted(c, born))

    async def run_once(self: Sequencing) -> int:
        while later:
            await self._house.database.write(later.pop(0))
        return await real_run(self)

    swap(stack, outbox, "append", append)
    swap(stack, outbox, "append_accepted", append_accepted)
    swap(stack, Sequencing, "run_once", run_once)
    swap(stack, Sequencing, "__init__", begin)


def position_given_twice(stack: ExitStack) -> None:
    real = outbox._advance

    def advance(connection: Connection, count: int) -> int:
        return max(0, real(connection, count) - 1)

    swap(stack, outbox, "_advance", advance)


def events_skipped_by_the_sequencer(stack: ExitStack) -> None:
    """Of many events that wait the sequencer fans out all but the last."""
    real = outbox.sequence

    def sequence(connection: Connection, now: Any, targets: Any, **more: Any) -> int:
        waiting = 0

        def some(fresh: Any) -> Any:
            nonlocal waiting
            waiting += 1
            return () if waiting > 1 else targets(fresh)

        return real(connection, now, some, **more)

    swap(stack, outbox, "sequence", sequence)


def delivered_before_it_is_sent(stack: ExitStack) -> None:
    async def deliver(self: Delivery, target: Any, delivery: Any) -> None:
        now = self._house.clock.now()
        arrived = self._result(target, delivery, now, 204, "")
        await self._house.database.write(lambda c: record(c, [arrived], now))
        self._results.append(await self._send(target, delivery))

    swap(stack, Delivery, "_deliver", deliver)


_CRASHES: Final = Focus(services=("followers", "gmail"), chaos=("arm_crash",), settle_s=SOON_S)

BUGS: Final = (
    Bug(
        "event outside the transaction",
        event_outside_the_transaction,
        "numbered from 1 without gap",
        replace(_CRASHES, crash_at=("answered",)),
    ),
    Bug(
        "position given twice",
        position_given_twice,
        "stage_failed .*sequencing",
        replace(_CRASHES, most_steps=2000, settle_s=60.0),
    ),
    Bug("events skipped by the sequencer", events_skipped_by_the_sequencer, "heard were", _CRASHES),
    Bug(
        "delivered before it is sent",
        delivered_before_it_is_sent,
        "heard were",
        replace(_CRASHES, chaos=("deaf_endpoint", "arm_crash"), crash_at=("sent webhook", "committed")),
        first=7,
    ),
)
