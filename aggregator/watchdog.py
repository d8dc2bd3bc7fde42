"""What systemd's watchdog hears: a sign of life while every loop comes round, and the database's writer with them.

Decides how long a loop may stay away. Calls of providers and receivers are not looked at: a loop begins them and goes
on, and each has a time limit of its own. Never ends or restarts anything: systemd does, when it hears nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from aggregator.log import get_logger
from aggregator.notify import Notifier
from aggregator.storage.database import Connection, Database

log = get_logger()

LOOP_LIMIT_S = 30.0
"""A loop that has not come round for so long is stuck; the watchdog is no longer fed."""
_SLOW_LOOPS: Final = {"intake": 120.0, "retention": 120.0}
"""Those that tick once a minute."""
WRITER_EVERY_S: Final = 5.0


def limit_s(loop: str) -> float:
    """How long this loop may stay away."""
    return _SLOW_LOOPS.get(loop, LOOP_LIMIT_S)


def stuck(ages: Mapping[str, float]) -> dict[str, float]:
    """The loops that stay away for too long, with the seconds."""
    return {loop: round(age, 1) for loop, age in ages.items() if age > limit_s(loop)}


class WriterWatch:
    """The loop of the database's writer: it comes round when a transaction that writes nothing was committed.

    A database that refuses it comes round as well, and is logged: starting anew would not mend it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> None:
        await self._database.write(_nothing)


def _nothing(_: Connection) -> None:
    """Costs no flush: there is nothing to be made durable."""


async def feed(notifier: Notifier, ages: Callable[[], Mapping[str, float]]) -> None:
    """Tell systemd that we live, three times as often as it asks, while no loop is stuck. Ends when it is cancelled."""
    if notifier.watchdog_s is None:
        return
    while True:
        if late := stuck(ages()):
            log.error("loop_stuck", loops=late, reason="the watchdog is not fed: whoever supervises us restarts us")
        else:
            notifier.send("WATCHDOG=1", wait_s=0)  # it may have a full queue of them; another one follows
        await asyncio.sleep(notifier.watchdog_s / 3)
