"""`python -m tests.torture N`: N kills and ten times as many faulted orders, on SQLite and PostgreSQL, half each.

Prints the seed and what was counted; exit code 1 when anything was bought twice, lost or broken, or when one of the
named points was never reached by kills that are enough for all of them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from tests.support.databases import sqlite_url
from tests.support.postgres import PostgresServer
from tests.torture.forge import forge
from tests.torture.harness import Report, torture
from tests.torture.points import POINTS

ORDERS_PER_KILL = 10
ENOUGH_FOR_ALL = 200
"""Kills of which each named point must get one."""


@contextmanager
def postgres() -> Iterator[str]:
    server = PostgresServer()
    try:
        server.start()
        yield server.url(server.create())
    finally:
        server.remove()


def on_sqlite(kills: int, cold: int, seed: int) -> Report:
    with tempfile.TemporaryDirectory(prefix="aggregator-torture-") as folder, forge() as parent:
        database = sqlite_url(Path(folder) / "aggregator.db")
        with torture(parent, Path(folder), database, seed) as work:
            return work.run(kills, ORDERS_PER_KILL, cold=cold)


def on_postgres(kills: int, cold: int, seed: int) -> Report:
    with (
        tempfile.TemporaryDirectory(prefix="aggregator-torture-") as folder,
        postgres() as database,
        forge() as parent,
        torture(parent, Path(folder), database, seed) as work,
    ):
        return work.run(kills, ORDERS_PER_KILL, cold=cold)


def main() -> int:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(31)
    half = arguments.kills // 2
    cold = min(6, half // 8)
    print(f"torture: {arguments.kills} kills, seed {seed} (--seed {seed} repeats the choices)", flush=True)
    began = monotonic()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(on_sqlite, arguments.kills - half, cold, seed)]
        if half:
            runs.append(pool.submit(on_postgres, half, cold, seed + 1))
        reports = [run.result() for run in runs]
    for report in reports:
        print(*report.lines(), sep="\n")
    print(
        f"together: kills {sum(r.kills for r in reports)}, orders {sum(r.orders for r in reports)}, "
        f"purchases {sum(r.purchases for r in reports)}, unclear {sum(r.unclear for r in reports)}, "
        f"double {sum(len(r.double) for r in reports)}, lost {sum(len(r.lost) for r in reports)}, "
        f"broken invariants {sum(len(r.broken) for r in reports)}, {monotonic() - began:.0f} s"
    )
    missed = [point for point in POINTS if not any(report.by_point[point] for report in reports)]
    print(f"named points reached: {len(POINTS) - len(missed)} of {len(POINTS)}", *missed)
    fine = all(report.fine for report in reports) and not (missed and arguments.kills >= ENOUGH_FOR_ALL)
    print(f"verdict: {'every promise was kept' if fine else 'BROKEN'}")
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
