"""What removing old orders costs, and what callers feel of it: many finished orders go while new ones come in.

    .venv/bin/python -m benchmarks.removal [--orders 200000] [--removed 50000] [--database sqlite|postgresql]
        [--folder DIRECTORY]

Fills a database (benchmarks/past.py), then stores new orders from a few clients, each waiting for its commit: first
alone, then while the retention stage removes old ones. Prints the time of a step and of an order that is removed, and
how long the clients waited in both halves; the first half is the floor.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any, Final

from aggregator.domain.clock import ManualClock
from aggregator.flow import removal
from aggregator.flow.removal import OldOrders
from aggregator.storage import invariants
from aggregator.storage.database import Database, open_database
from aggregator.storage.migrate import migrate
from benchmarks.past import EPOCH, Past
from tests.support import rows
from tests.support.house import make_house

AT_ONCE: Final = 20_000
CLIENTS: Final = 8
PAUSE_S: Final = 0.02
ALONE_S: Final = 10.0
CONFIG: Final = "retention: {orders_days: 30}"


class BenchClock(ManualClock):
    """Years pass at once, but how long a step takes is measured."""

    def monotonic(self) -> float:
        return time.monotonic()


class Timed:
    """A database that notes how long each of its writes took."""

    def __init__(self, real: Database) -> None:
        self._real = real
        self.kind = real.kind
        self.read = real.read
        self.steps: list[float] = []

    async def write(self, work: Any) -> Any:
        began = time.perf_counter()
        result = await self._real.write(work)
        self.steps.append(time.perf_counter() - began)
        return result


async def ordering(database: Database, clock: ManualClock, done: asyncio.Event) -> list[float]:
    """Seconds that each order of one client waited for its commit."""
    waited = []
    while not done.is_set():
        began = time.perf_counter()
        await database.write(lambda c: rows.accept(c, created_at=clock.now()))
        waited.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE_S)
    return waited


async def crowd(database: Database, clock: ManualClock, done: asyncio.Event) -> list[float]:
    parts = await asyncio.gather(*(ordering(database, clock, done) for _ in range(CLIENTS)))
    return [one for part in parts for one in part]


def shown(name: str, waited: list[float]) -> str:
    cuts = quantiles(waited, n=100)
    p50, p99, most = cuts[49] * 1e3, cuts[98] * 1e3, max(waited) * 1e3
    return f"{name:9} {len(waited)} orders: p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {most:.0f} ms"


async def work(url: str, folder: Path, orders: int, removed: int) -> list[str]:
    database, clock = open_database(url), BenchClock(EPOCH)
    try:
        await migrate(database)
        for first in range(1, orders + 1, AT_ONCE):
            last = min(first + AT_ONCE - 1, orders)
            await database.write(lambda c, f=first, n=last: Past(c, old_keys=False).write(f, n))  # type: ignore[misc]
        print(f"filled    {orders} finished orders", flush=True)
        clock.advance((timedelta(seconds=orders) + timedelta(days=60)).total_seconds())
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(ALONE_S, done.set)
        print(shown("alone", await crowd(database, clock, done)), flush=True)
        timed, done = Timed(database), asyncio.Event()
        house = make_house(database, clock, folder, CONFIG)
        old = OldOrders(replace(house, database=timed))  # type: ignore[arg-type]

        async def removing() -> tuple[int, float]:
            began, count = time.perf_counter(), 0
            while count < removed and (some := await old.run_once(lambda: False)):
                count += some
            done.set()
            return count, time.perf_counter() - began

        waited, (count, took_s) = await asyncio.gather(crowd(database, clock, done), removing())
        print(shown("removing", waited), flush=True)
        steps = sorted(timed.steps)
        print(
            f"steps     {len(steps)} of up to {removal.STEP} orders: mean {fmean(steps) * 1e3:.1f} ms, "
            f"p99 {quantiles(steps, n=100)[98] * 1e3:.1f} ms; {count} orders in {took_s:.1f} s, "
            f"{count / took_s:.0f} a second"
        )
        return await database.read(invariants.check)
    finally:
        await database.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--removed", type=int, default=50_000, help="how many of them at least are removed")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--folder", type=Path, help="where the SQLite file is made; a temporary folder by default")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="removal-") as folder:
        if given.database == "sqlite":
            url = f"sqlite:///{folder}/aggregator.db"
            broken = asyncio.run(work(url, Path(folder), given.orders, given.removed))
        else:
            from tests.support.postgres import PostgresServer

            server = PostgresServer()
            try:
                server.start()
                broken = asyncio.run(work(server.url(server.create()), Path(folder), given.orders, given.removed))
            finally:
                server.remove()
    print(*broken[:20], sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
