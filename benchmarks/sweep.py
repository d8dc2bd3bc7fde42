"""One sweep over many open orders, by the real daemon: calls and seconds, next to the floor of the wire.

    .venv/bin/python benchmarks/sweep.py [--open 100000] [--closed 0] [--database sqlite|postgresql]

A provider on loopback answers each batched status call after 200 ms, four at once. The floor is ⌈open/100⌉ such calls,
made in the same run by a bare aiohttp client. Prints floor / seconds, calls made / floor, and the daemon's resident
memory. Everything is bounded, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from sqlalchemy import Connection, String, case, cast, func, insert, literal, null, select

from aggregator.demo.main import free_port
from aggregator.demo.supervisor import Supervisor
from aggregator.storage.database import Database, open_database
from aggregator.storage.migrate import migrate
from aggregator.storage.tables import attempts, orders

LATENCY_S = 0.2
AT_ONCE = 4
BATCH = 100
FLOOR_CALLS = 100
WITHIN_S = 3600.0
ROWS_AT_ONCE = 5000
CLOSED_AT_ONCE = 500_000
# A place is kept for purchases: five at once are four for statuses.
CONFIG = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys: [{{name: bench, key: {key}, scopes: [orders, admin]}}]
providers:
  panel:
    dialect: panel_v2
    url: {provider}
    api_key: bench-key
    requests_per_second: 0
    max_concurrency: {at_once}
    status_every_s: {{min: 86400, max: 86400}}
services:
  followers: {{kind: smm, offers: [{{provider: panel, service: "1"}}], refill: {{auto: false}}}}
"""


class Provider:
    """Answers after the latency, and remembers which ids were asked for and when."""

    def __init__(self, changing: int) -> None:
        self.changing = changing
        self.calls = 0
        self.asked: set[str] = set()
        self.began = 0.0
        self.ended = 0.0
        self.most_at_once = 0
        self._now = 0

    async def answer(self, request: web.Request) -> web.Response:
        form = await request.post()
        action = form.get("action")
        if action == "services":
            row = {"service": 1, "name": "Followers", "type": "Default", "category": "Bench", "rate": "0.90"}
            return web.json_response([row | {"min": 1, "max": 10000, "refill": False, "cancel": False}])
        if action == "balance":
            return web.json_response({"balance": "1000000", "currency": "USD"})
        ids = str(form.get("orders") or form.get("order") or "").split(",")
        self.began = self.began or time.monotonic()
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(LATENCY_S)
        self._now -= 1
        self.calls += 1
        self.asked.update(ids)
        self.ended = time.monotonic()
        body = ",".join(f'"{one}":{self._status(int(one))}' for one in ids)
        return web.Response(text="{" + body + "}", content_type="application/json")

    def _status(self, order: int) -> str:
        remains = 440 if order % 100 < self.changing else 450
        return f'{{"charge":"0.9","start_count":"100","status":"In progress","remains":"{remains}","currency":"USD"}}'


def open_rows(count: int, now: datetime) -> Iterator[dict[str, Any]]:
    """Orders that a provider works on, all of them due."""
    for number in range(1, count + 1):
        yield common(number, now) | {"state": "in_progress", "next_poll_at": now, "finished_at": None}


def common(number: int, now: datetime) -> dict[str, Any]:
    return {
        "number": number,
        "id": f"ord_{number:032d}",
        "owner": "bench",
        "service": "followers",
        "kind": "smm",
        "quantity": 1000,
        "link": f"https://example.com/{number}",
        "params": {},
        "metadata": {},
        "provider": "panel",
        "provider_service": "1",
        "provider_order": str(number),
        "attempt": f"att_{number:032d}",
        "expected_units": 90_000_000,
        "expected_currency": "USD",
        "charge_units": 90_000_000,
        "charge_currency": "USD",
        "start_count": 100,
        "remains": 450,
        "created_at": now - timedelta(hours=1),
        "updated_at": now - timedelta(hours=1),
        "placed_at": now - timedelta(hours=1),
        "sequence": 2,
        "version": 2,
    }


def attempt_row(order: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": order["attempt"],
        "order_number": order["number"],
        "ordinal": 1,
        "round": 0,
        "state": "placed",
        "provider": "panel",
        "service": "1",
        "country": "",
        "expected_units": 90_000_000,
        "expected_currency": "USD",
        "cost_units": 90_000_000,
        "cost_currency": "USD",
        "candidates": [],
        "outcome": "placed",
        "provider_order": order["provider_order"],
        "created_at": order["created_at"],
        "sent_at": order["created_at"],
        "finished_at": order["created_at"],
    }


def store_closed(connection: Connection, first: int, count: int, now: datetime) -> None:
    """Orders that are over, made by the database itself; every thirtieth is still looked at now and then."""
    numbers = (
        select(literal(first).label("i")).cte("numbers", recursive=True)
        if connection.dialect.name == "sqlite"
        else None
    )
    if numbers is not None:
        numbers = numbers.union_all(select(numbers.c.i + 1).where(numbers.c.i < first + count - 1))
        i: Any = numbers.c.i
        source: Any = numbers
    else:
        series = func.generate_series(first, first + count - 1).table_valued("i").render_derived()
        i, source = series.c.i, series
    text = cast(i, String)
    values = common(0, now) | {"state": "completed", "finished_at": now}
    columns: dict[str, Any] = {
        name: literal(value, orders.c[name].type) for name, value in values.items() if value is not None
    }
    columns |= {
        "number": i,
        "id": literal("ord_") + text,
        "link": literal("https://example.com/") + text,
        "provider_order": text,
        "attempt": literal("att_") + text,
        "next_poll_at": case((i % 30 == 0, literal(now + timedelta(days=1), orders.c.next_poll_at.type)), else_=null()),
    }
    connection.execute(insert(orders).from_select(list(columns), select(*columns.values()).select_from(source)))


async def fill_closed(database: Database, first: int, count: int) -> None:
    now = datetime.now(UTC)
    indexes = list(orders.indexes)
    # Built at once when all rows are there: row by row they would take most of the time.
    for index in indexes:
        await database.write(lambda c, i=index: i.drop(c))  # type: ignore[misc]
    for start in range(first, first + count, CLOSED_AT_ONCE):
        part = min(CLOSED_AT_ONCE, first + count - start)
        await database.write(lambda c, s=start, n=part: store_closed(c, s, n, now))  # type: ignore[misc]
    for index in indexes:
        await database.write(lambda c, i=index: i.create(c))  # type: ignore[misc]


async def fill(database: Database, opened: int, closed: int) -> None:
    await migrate(database)
    now = datetime.now(UTC)
    part: list[dict[str, Any]] = []

    async def write() -> None:
        rows = list(part)
        part.clear()
        if rows:
            await database.write(lambda c: (c.execute(insert(orders), rows), None)[1])
            bought = [attempt_row(row) for row in rows]
            await database.write(lambda c: (c.execute(insert(attempts), bought), None)[1])

    for row in open_rows(opened, now):
        part.append(row)
        if len(part) == ROWS_AT_ONCE:
            await write()
    await write()
    if closed:
        await fill_closed(database, opened + 1, closed)


async def floor_s(url: str) -> float:
    """Seconds of one call when a bare client makes them four at once."""
    left = iter(range(FLOOR_CALLS))
    ids = ",".join(str(number) for number in range(1, BATCH + 1))

    async def work(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(url, data={"key": "k", "action": "status", "orders": ids}) as answer:
                json.loads(await answer.read())

    async with aiohttp.ClientSession() as session:
        began = time.monotonic()
        await asyncio.gather(*(work(session) for _ in range(AT_ONCE)))
        return (time.monotonic() - began) / FLOOR_CALLS


def memory_mb(pid: int) -> float:
    """The most that a process ever had resident."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float("nan")


async def sweep(url: str, folder: Path, opened: int, closed: int, changing: int) -> None:
    database = open_database(url)
    began = time.monotonic()
    await fill(database, opened, closed)
    await database.close()
    print(f"{opened} open and {closed} closed orders stored in {time.monotonic() - began:.0f} s")
    provider = Provider(changing)
    app = web.Application()
    app.router.add_post("/api/v2", provider.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v2"
    call_s = await floor_s(address)
    provider.calls, provider.began, provider.most_at_once = 0, 0.0, 0
    provider.asked.clear()
    config = folder / "config.yaml"
    config.touch(mode=0o600)
    config.write_text(
        CONFIG.format(
            database=json.dumps(url),
            port=free_port(0),
            key=secrets.token_urlsafe(16),
            provider=address,
            at_once=AT_ONCE + 1,
        )
    )
    pids: list[int] = []
    daemon = Supervisor(config, folder / "daemon.log", lambda code, pid: None)
    await daemon.start()
    try:
        pids.append(daemon.pid)
        end = time.monotonic() + WITHIN_S
        while len(provider.asked) < opened:
            if time.monotonic() > end:
                raise SystemExit("not done in time")
            await asyncio.sleep(0.1)
        memory = memory_mb(pids[0])
    finally:
        await daemon.stop()
        await runner.cleanup()
    calls = -(-opened // BATCH)
    seconds, floor = provider.ended - provider.began, call_s * calls
    print(f"floor: {calls} calls, {floor:.1f} s by a bare client ({calls * LATENCY_S / AT_ONCE:.1f} s of pure latency)")
    print(f"sweep: {provider.calls} calls, {seconds:.1f} s, at most {provider.most_at_once} at once")
    print(f"floor / seconds = {floor / seconds:.2f}; calls made / floor = {provider.calls / calls:.2f}")
    print(f"resident memory of the daemon: {memory:.0f} MB")


async def main(arguments: argparse.Namespace) -> int:
    counts = (arguments.open, arguments.closed, arguments.changing)
    with tempfile.TemporaryDirectory(prefix="aggregator-bench-", dir=arguments.folder) as name:
        if arguments.database == "sqlite":
            await sweep(f"sqlite:///{Path(name) / 'aggregator.db'}", Path(name), *counts)
            return 0
        # From the development environment; run from the project's folder.
        from tests.support.postgres import PostgresServer

        server = PostgresServer(parent=Path(arguments.folder) if arguments.folder else None, durable=True)
        try:
            server.start()
            await sweep(server.url(server.create()), Path(name), *counts)
        finally:
            server.remove()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", type=int, default=100_000)
    parser.add_argument("--closed", type=int, default=0)
    parser.add_argument("--changing", type=int, default=10, help="percent of the orders whose answer is news")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--folder", default=None, help="where the database goes; a disk, not memory")
    sys.exit(asyncio.run(main(parser.parse_args())))
