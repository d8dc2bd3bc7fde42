"""`aggregator run` in which one part at a time hangs for as long as its standard input says so.

A line names the part: the `name` of a stage, whose loop then waits for ever; `writer`, a transaction that never ends;
or `process`, the event loop itself. The line `free` lets go. Loops tick, and count as stuck, sooner than usual.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any, Final

from aggregator import daemon, log, watchdog
from aggregator.cli.settings import read_settings
from aggregator.flow.delivery import Delivery
from aggregator.flow.placement import Placement
from aggregator.flow.polling import Polling
from aggregator.schedule import Schedule

TICK_S: Final = 0.2
LIMIT_S: Final = 2.0


class Wedge:
    """What hangs, and what it waits for."""

    def __init__(self) -> None:
        self.part = ""
        self.freed = asyncio.Event()
        self.freed_for_threads = threading.Event()
        self.tasks: set[asyncio.Future[Any]] = set()

    def hang(self, running: daemon.Daemon, part: str) -> None:
        """In the event loop: from now on this part hangs; `free` ends it."""
        self.part = part
        if part == "free":
            self.freed.set()
            self.freed = asyncio.Event()
        elif part == "process":
            self.freed_for_threads.wait(60)
        elif part == "writer":
            write = running.house.database.write(lambda _: self.freed_for_threads.wait(60))
            self.tasks.add(asyncio.ensure_future(write))

    def listen(self, running: daemon.Daemon, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own: what standard input says."""
        for line in sys.stdin:
            part = line.strip()
            if part == "free":
                self.freed_for_threads.set()
            else:
                self.freed_for_threads.clear()
            loop.call_soon_threadsafe(self.hang, running, part)


def patch(stage: Any, wedge: Wedge) -> None:
    run_once = stage.run_once

    async def hanging(self: Any) -> int:
        if wedge.part == self.name:
            await wedge.freed.wait()
        return int(await run_once(self))

    stage.run_once = hanging


async def main(config: Path) -> int:
    settings = read_settings(config)
    redactor = log.configure(secrets=settings.secrets())
    wedge, loop = Wedge(), asyncio.get_running_loop()
    for stage in (Polling, Placement, Delivery):
        patch(stage, wedge)
    add = Schedule.add

    def often(self: Schedule, name: str, every_s: float, *rest: Any, **more: Any) -> None:
        add(self, name, min(every_s, TICK_S), *rest, **more)

    Schedule.add = often  # type: ignore[method-assign]
    watchdog.LOOP_LIMIT_S = LIMIT_S

    def ready(running: daemon.Daemon) -> None:
        threading.Thread(target=wedge.listen, args=(running, loop), daemon=True).start()

    return await daemon.run(settings, redactor, ready=ready)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(Path(sys.argv[1]))))
