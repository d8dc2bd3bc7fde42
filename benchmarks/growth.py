"""Whether a SQLite file stops growing: orders flow in and old ones are removed, round by round, in simulated time.

    .venv/bin/python -m benchmarks.growth [--rounds 20] [--orders 10000] [--folder DIRECTORY]

A round is ten days: so many finished orders more (benchmarks/past.py), then retention with `orders_days: 30`. Free
pages are used again, so that the file levels off at what three rounds take; nothing is ever vacuumed. What stays of a
removed order (its lines in the ledger, its provider's id) is measured at the end by removing them all. Ends with 1 when
the file grew by more than that after it had levelled off.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from aggregator.domain.clock import ManualClock
from aggregator.flow.removal import AGAIN, ANEW, OldOrders
from aggregator.storage.database import Database, open_database
from aggregator.storage.migrate import migrate
from benchmarks.past import EPOCH, Past
from tests.support.house import make_house

ROUND: Final = timedelta(days=10)
CONFIG: Final = "retention: {orders_days: 30}"
LEVEL_AFTER: Final = 6
"""Rounds until the file has all that it will ever hold at once."""
SLACK: Final = 1.03
"""How much larger than its plateau it may be in the end, what stays of removed orders aside: pages are never full."""


def pages(connection: Connection) -> tuple[int, int]:
    """Bytes of the file, and of its pages that are in use."""
    size, count, free = (
        int(connection.execute(text(f"PRAGMA {name}")).scalar_one())
        for name in ("page_size", "page_count", "freelist_count")
    )
    return size * count, size * (count - free)


async def remove_all_old(database: Database, clock: ManualClock, folder: Path) -> int:
    old, removed = OldOrders(make_house(database, clock, folder, CONFIG)), 0
    while some := await old.run_once(lambda: False):
        removed += some
    return removed


async def work(folder: Path, rounds: int, orders: int) -> bool:
    database, clock = open_database(f"sqlite:///{folder}/aggregator.db"), ManualClock(EPOCH)
    every_s = int(ROUND.total_seconds()) // orders
    try:
        await migrate(database)
        empty = (await database.read(pages))[1]
        removed, sizes = 0, []
        print("round   orders  removed   file MB   used MB   removal s", flush=True)
        for number in range(rounds):
            first = number * orders + 1
            await database.write(
                lambda c, f=first: Past(c, old_keys=False, every_s=every_s).write(f, f + orders - 1)  # type: ignore[misc]
            )
            clock.advance(ROUND.total_seconds())
            began = time.perf_counter()
            went = await remove_all_old(database, clock, folder)
            took_s = time.perf_counter() - began
            removed += went
            size, used = await database.read(pages)
            sizes.append((size, removed))
            left = (number + 1) * orders - removed
            print(
                f"{number + 1:5}  {left:7}  {went:7}  {size / 1e6:8.1f}  {used / 1e6:8.1f}  {took_s:10.1f}", flush=True
            )
        size, used = await database.read(pages)
        left = rounds * orders - removed
        clock.advance(2 * 30 * 86_400 + (AGAIN + ANEW).total_seconds())
        removed += await remove_all_old(database, clock, folder)
        rest = ((await database.read(pages))[1] - empty) / removed
        per_order = (used - empty - rest * (removed - left)) / left
        print(
            f"bytes     {per_order:.0f} an order with all that belongs to it, {rest:.0f} of it stay when it is removed"
        )
        (plateau, then), (last, now) = sizes[LEVEL_AFTER - 1], sizes[-1]
        raw, net = last / plateau, (last - rest * (now - then)) / plateau
        print(
            f"plateau   {plateau / 1e6:.1f} MB after round {LEVEL_AFTER}; "
            f"the last one, {last / 1e6:.1f} MB, is {raw:.3f} of it,"
        )
        print(f"          {net:.3f} without what stays of the {now - then} orders that were removed since")
        return net <= SLACK
    finally:
        await database.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help=f"more than {LEVEL_AFTER}")
    parser.add_argument("--orders", type=int, default=10_000, help="of each round")
    parser.add_argument("--folder", type=Path, help="where the file is made; a temporary folder by default")
    given = parser.parse_args(argv)
    if given.rounds <= LEVEL_AFTER:
        parser.error(f"--rounds must be more than {LEVEL_AFTER}")
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="growth-") as folder:
        level = asyncio.run(work(Path(folder), given.rounds, given.orders))
    print("levelled off" if level else "it grows")
    return 0 if level else 1


if __name__ == "__main__":
    sys.exit(main())
