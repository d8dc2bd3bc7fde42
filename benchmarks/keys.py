"""What ten million Idempotency-Keys cost: intake on a database without any, next to one that holds them.

    .venv/bin/python benchmarks/keys.py [--database sqlite|postgresql|both] [--keys 10000000] [--rounds 3] [--seconds 4]

Two daemons take turns, several times; every order comes with a key of its own, which is looked for and stored. Prints
the rates, p99 and processor time of both, their ratio, and what a key takes on the disk. The keys are put there by the
database itself, spread as evenly as hashes are. Bounded, ends by itself, and removes its files: a gigabyte or two.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, make_url, text

from aggregator.demo.main import free_port
from aggregator.storage.database import open_database
from aggregator.storage.migrate import migrate
from benchmarks.intake import WARM_S, Bench, daemon, urls

AT_ONCE: Final = 500_000


def fill_sqlite(path: str, keys: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous=OFF")
    # In the order of the table, which is that of their hashes: otherwise each row would look for its own page.
    for start in range(0, keys, AT_ONCE):
        connection.executemany(
            "INSERT INTO idempotency_keys (digest, fingerprint, order_number, created_at) VALUES (?, ?, ?, ?)",
            _rows(start, min(keys, start + AT_ONCE), keys),
        )
        connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _rows(start: int, stop: int, keys: int) -> Iterator[tuple[bytes, bytes, int, int]]:
    step = 2**64 // keys
    for number in range(start, stop):
        digest = (number * step).to_bytes(8, "big") + os.urandom(8)
        # Of orders before the first: an order's own key comes behind them in the index of orders.
        yield digest, digest, number - keys, 1_800_000_000_000_000


def fill_postgresql(connection: Connection, keys: int) -> None:
    connection.execute(
        text(
            "INSERT INTO idempotency_keys (digest, fingerprint, order_number, created_at)"
            " SELECT d, d, i - CAST(:keys AS bigint), now() FROM (SELECT i,"
            " int8send((i - CAST(:half AS bigint)) * CAST(:step AS bigint))"
            " || substring(uuid_send(gen_random_uuid()) FROM 1 FOR 8) AS d"
            " FROM generate_series(CAST(1 AS bigint), CAST(:keys AS bigint)) AS i) AS made"
        ),
        {"keys": keys, "half": keys // 2 + 1, "step": 2**64 // keys},
    )


def size(connection: Connection) -> int:
    """Bytes of the table with its indexes."""
    if connection.dialect.name == "postgresql":
        return int(connection.execute(text("SELECT pg_total_relation_size('idempotency_keys')")).scalar_one())
    pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    return int(pages) * int(connection.execute(text("PRAGMA page_size")).scalar_one())


async def fill(url: str, keys: int) -> None:
    database = open_database(url)
    await migrate(database)
    before = await database.read(size)
    began = time.monotonic()
    if not keys:
        pass
    elif database.kind == "sqlite":
        await asyncio.to_thread(fill_sqlite, make_url(url).database or "", keys)
    else:
        await database.write(lambda c: fill_postgresql(c, keys))
        await database.write(lambda c: c.execute(text("CHECKPOINT")).close())
    if keys:
        each = (await database.read(size) - before) / keys
        print(f"{keys} keys stored in {time.monotonic() - began:.0f} s; {each:.0f} bytes each, indexes included")
    await database.close()


async def measure(bench: Bench, kind: str, url: Callable[[str], str], folder: Path, keys: int, rounds: int) -> None:
    names = f"{kind} without keys", f"{kind} with {keys} keys"
    nobody = f"http://127.0.0.1:{free_port(0)}/api/v2"
    async with AsyncExitStack() as stack:
        targets = []
        for place, name in enumerate(names):
            where = url(f"keys-{place}")
            await fill(where, keys if place else 0)
            targets.append(await stack.enter_async_context(daemon(where, folder, f"keys-{place}", nobody, None)))
            await bench.drive(name, targets[-1], seconds=WARM_S)
        for turn in range(rounds):
            order = (0, 1) if turn % 2 == 0 else (1, 0)
            for place in order:
                await bench.drive(names[place], targets[place])
    for name in names:
        print(bench.series[name].line())
    print(bench.ratio(names[1], names[0]))
    bench.series.clear()


async def main(arguments: argparse.Namespace) -> int:
    kinds = ("sqlite", "postgresql") if arguments.database == "both" else (arguments.database,)
    print(f"load of the machine before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for kind in kinds:
            with (
                tempfile.TemporaryDirectory(prefix="aggregator-bench-", dir=arguments.folder) as name,
                urls(kind, Path(name)) as url,
            ):
                await measure(Bench(arguments, pool), kind, url, Path(name), arguments.keys, arguments.rounds)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn of each server")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--folder", default=None, help="where the databases go; a disk, not memory")
    sys.exit(asyncio.run(main(parser.parse_args())))
