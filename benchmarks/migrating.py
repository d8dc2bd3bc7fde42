"""A database of an earlier release with a million orders becomes today's: how long it takes, and that nothing is lost.

    .venv/bin/python -m benchmarks.migrating [--orders 1000000] [--from 0001] [--database sqlite|postgresql]
        [--folder DIRECTORY]

Fills the earlier schema (benchmarks/past.py), counts every table and sums up the hashes of its rows, in the columns
that both schemas have; upgrades by `migrate`, as the daemon does at its start; counts and sums up anew, looks at the
invariants, and prints the time of each step beside that of a floor measured in the same run: reading all rows once.
Ends with 1 when a row is missing or says something else.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from alembic import command
from sqlalchemy import Connection, inspect, text

from aggregator.storage import invariants
from aggregator.storage.copying import session
from aggregator.storage.database import Database, open_database
from aggregator.storage.migrate import alembic_config, migrate
from benchmarks.past import Past

AT_ONCE: Final = 20_000
READ: Final = 5_000
REWRITTEN: Final = frozenset({"idempotency_keys"})
"""Tables whose rows a migration says anew: counted, and not compared."""
Columns = Mapping[str, Sequence[str]]
Sums = dict[str, tuple[int, int]]
"""Of each table how many rows, and the sum of their hashes."""


def columns_of(connection: Connection) -> dict[str, list[str]]:
    seen = inspect(connection)
    tables = sorted(set(seen.get_table_names()) - {"alembic_version"})
    return {table: sorted(column["name"] for column in seen.get_columns(table)) for table in tables}


def sums(connection: Connection, columns: Columns) -> Sums:
    """What the tables hold in these columns, whatever the order of their rows."""
    found: Sums = {}
    for table, names in columns.items():
        chosen = "1" if table in REWRITTEN else ", ".join(f'"{name}"' for name in names)
        rows = connection.execution_options(yield_per=READ).execute(text(f"SELECT {chosen} FROM {table}"))
        count, digest = 0, 0
        for some in rows.partitions(READ):
            for row in some:
                plain = [bytes(value) if isinstance(value, memoryview) else value for value in row]
                digest += int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=8).digest())
            count += len(some)
        found[table] = count, digest % (1 << 64)
    return found


async def fill(database: Database, schema: str, orders: int) -> None:
    await database.write(lambda c: command.upgrade(alembic_config(c), schema))
    for first in range(1, orders + 1, AT_ONCE):
        last = min(first + AT_ONCE - 1, orders)
        await database.write(lambda c, f=first, n=last: Past(c, old_keys=schema < "0009").write(f, n))  # type: ignore[misc]


async def work(url: str, schema: str, orders: int) -> list[str]:
    """What was found to be wrong."""
    database = open_database(url)
    try:
        began = time.perf_counter()
        await fill(database, schema, orders)
        print(f"filled    schema {schema} with {orders} orders in {time.perf_counter() - began:.1f} s", flush=True)
        before_columns = await database.read(columns_of)
        async with session(database) as read:
            began = time.perf_counter()
            before = await read(lambda c: sums(c, before_columns))
            floor_s = time.perf_counter() - began
        rows = sum(count for count, _ in before.values())
        print(f"floor     {rows} rows read once in {floor_s:.1f} s", flush=True)

        def told(reached: str, seconds: float) -> None:
            print(f"step      {reached} in {seconds:.1f} s", flush=True)

        began = time.perf_counter()
        _, now, backup = await migrate(database, told)
        took_s = time.perf_counter() - began
        print(
            f"migrated  {schema} to {now} in {took_s:.1f} s, {orders / took_s:.0f} orders a second, "
            f"{took_s / floor_s:.2f} of the floor; backup {backup.name if backup else None}",
            flush=True,
        )
        after_columns = await database.read(columns_of)
        both = {
            table: [name for name in names if name in after_columns.get(table, ())]
            for table, names in before_columns.items()
        }
        async with session(database) as read:
            after = await read(lambda c: sums(c, both))
        changed = [table for table in both if len(both[table]) < len(before_columns[table]) and table not in REWRITTEN]
        wrong = [
            f"{table}: {before[table]} became {after[table]}"
            for table in both
            if table not in changed and before[table] != after[table]
        ]
        wrong += [
            f"{table}: {before[table][0]} rows became {after[table][0]}"
            for table in changed
            if before[table][0] != after[table][0]
        ]
        began = time.perf_counter()
        async with session(database) as read:
            wrong += await read(invariants.check)
        print(
            f"checked   {sum(c for c, _ in after.values())} rows, the invariants in {time.perf_counter() - began:.1f} s"
        )
        return wrong
    finally:
        await database.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--from", dest="schema", default="0001", help="the schema to begin with")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--folder", type=Path, help="where the SQLite file is made; a temporary folder by default")
    given = parser.parse_args(argv)
    if given.database == "sqlite":
        with tempfile.TemporaryDirectory(dir=given.folder, prefix="migrating-") as folder:
            wrong = asyncio.run(work(f"sqlite:///{folder}/aggregator.db", given.schema, given.orders))
            size = (Path(folder) / "aggregator.db").stat().st_size
            print(f"size      {size / given.orders:.0f} bytes an order, {size / 1e9:.2f} GB")
    else:
        from tests.support.postgres import PostgresServer

        server = PostgresServer()
        try:
            server.start()
            wrong = asyncio.run(work(server.url(server.create()), given.schema, given.orders))
        finally:
            server.remove()
    print(*wrong[:20], sep="\n")
    print("nothing was lost" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
