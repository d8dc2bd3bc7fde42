"""`python -m tests.torture N`: N kills and ten times as many faulted orders, on SQLite and PostgreSQL, half each.

They come in rounds, each with a database, providers and a verdict of its own, and a few rounds go at a time. Prints the
seed and what each round counted; exit code 1 when anything was bought twice, lost or broken, or when one of the named
points was never reached by kills that are enough for all of them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.support.databases import sqlite_url
from tests.support.postgres import PostgresServer, memory_folder
from tests.torture.forge import forge
from tests.torture.harness import Report, torture
from tests.torture.points import POINTS

ORDERS_PER_KILL = 10
KILLS_PER_ROUND = 50
AT_ONCE = 3
"""Rounds that go at the same time; most of what each does is waiting."""
ENOUGH_FOR_ALL = 200
"""Kills of which each named point must get one."""


@dataclass(frozen=True, slots=True)
class Round:
    """One database's share of the kills."""

    number: int
    kills: int
    seed: int
    points: tuple[str, ...]
    """Those that this round tries first, until each was reached."""

    @property
    def on_postgres(self) -> bool:
        return self.number % 2 == 1

    @property
    def cold(self) -> int:
        return min(3, self.kills // 8)


def rounds(kills: int, seed: int) -> list[Round]:
    """An even number of rounds, as equal as they can be."""
    count = 2 * max(1, round(kills / KILLS_PER_ROUND / 2)) if kills > 1 else 1
    shares = [kills // count + (number < kills % count) for number in range(count)]
    return [Round(number, share, seed + number, POINTS[number::count]) for number, share in enumerate(shares)]


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def go(part: Round, postgres_url: str | None) -> Report:
    with tempfile.TemporaryDirectory(prefix="aggregator-torture-", dir=memory_folder()) as name, forge() as parent:
        folder = Path(name)
        with torture(parent, folder, postgres_url or sqlite_url(folder / "aggregator.db"), part.seed) as work:
            return work.run(part.kills, ORDERS_PER_KILL, cold=part.cold, points=part.points)


def together(reports: list[Report], seconds: float) -> list[str]:
    missed = [point for point in POINTS if not any(report.by_point[point] for report in reports)]
    named = sum(sum(report.by_point[point] for point in POINTS) for report in reports)
    kills = sum(r.kills for r in reports)
    return [
        f"together: kills {kills} ({named} at named points, {sum(r.cold for r in reports)} of cold processes), "
        f"orders {sum(r.orders for r in reports)}, purchases {sum(r.purchases for r in reports)}, "
        f"refills {sum(r.refills for r in reports)}, cancels {sum(r.cancels for r in reports)}, "
        f"unclear {sum(r.unclear for r in reports)}, {seconds:.0f} s",
        f"named points reached: {len(POINTS) - len(missed)} of {len(POINTS)} {' '.join(missed)}".rstrip(),
        f"events {sum(r.events for r in reports)}: missing at the endpoint {sum(r.missing for r in reports)}, "
        f"out of order {sum(r.misplaced for r in reports)}, taken again {sum(r.repeated for r in reports)}",
        f"double {sum(len(r.double) for r in reports)}, lost {sum(len(r.lost) for r in reports)}, "
        f"broken invariants {sum(len(r.broken) for r in reports)}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(31)
    parts = rounds(arguments.kills, seed)
    print(f"torture: {arguments.kills} kills in {len(parts)} rounds, --seed {seed} repeats the choices", flush=True)
    began = monotonic()
    reports: list[Report] = []
    failed: list[str] = []
    with postgres() as server, ThreadPoolExecutor(AT_ONCE) as pool:
        urls = [server.url(server.create()) if part.on_postgres else None for part in parts]
        going = [pool.submit(go, part, url) for part, url in zip(parts, urls, strict=True)]
        for done in as_completed(going):
            try:
                reports.append(done.result())
            except Exception:
                # Said at once: the others go on for long.
                failed.append(traceback.format_exc())
                print("A ROUND FAILED", failed[-1], sep="\n", flush=True)
                continue
            print(*reports[-1].lines(), f"  {monotonic() - began:.0f} s", sep="\n", flush=True)
    print(*together(reports, monotonic() - began), sep="\n")
    missed = any(all(not report.by_point[point] for report in reports) for point in POINTS)
    fine = not failed and all(report.fine for report in reports) and not (missed and arguments.kills >= ENOUGH_FOR_ALL)
    print(f"verdict: {'every promise was kept' if fine else 'BROKEN'}")
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
