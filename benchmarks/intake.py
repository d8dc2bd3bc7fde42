"""Orders by HTTP, durable before the answer: orders per second and p99, next to three floors of the same run.

    .venv/bin/python benchmarks/intake.py [--database sqlite|postgresql|both] [--rounds 3] [--seconds 4] [--clients 32]

The floors are a bare aiohttp server that parses a request's JSON and answers it; one commit per order through
SQLAlchemy, without HTTP; and, for batches, SQLAlchemy's insert of the same rows, so many orders to a commit. The
subject is `aggregator run`, which answers 201 after its COMMIT: order, event and Idempotency-Key of each request are
on disk by then. Twice: with a provider that nobody answers for (its stages number the events and write down that
nobody takes the orders), and with everything at work (a provider and a webhook endpoint that answer at once).

Everybody takes turns, several times, because machines are rarely idle; the clients are a process of their own. Each
line also says how many seconds of processor time the server took for an order, and how busy others kept the machine.
A daemon has work of its own each second, which counts against the orders of that second: where others leave it few, an
order seems to take more time than it does.
Bounded, and ends by itself. The folder should be on a disk, not in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp
from aiohttp import web
from sqlalchemy import create_engine, insert, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from aggregator.demo.main import free_port
from aggregator.demo.supervisor import Supervisor
from aggregator.storage.database import open_database
from aggregator.storage.migrate import migrate
from aggregator.storage.tables import events, idempotency_keys, orders
from benchmarks.load import Load, Outcome, run

READY_WITHIN_S: Final = 60.0
WARM_S: Final = 1.0
BATCH_CLIENTS: Final = 4
TICKS: Final = os.sysconf("SC_CLK_TCK")
CONFIG: Final = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys: [{{name: bench, key: {key}, scopes: [orders, admin]}}]
providers:
  panel: {{dialect: panel_v2, url: "{provider}", api_key: bench-key, requests_per_second: 0, max_concurrency: 16}}
services:
  followers: {{kind: smm, offers: [{{provider: panel, service: "1"}}], refill: {{auto: false}}}}
"""
HOOK: Final = """\
webhooks: [{{name: bench, url: "{url}", secret: whsec_YmVuY2htYXJrLXNlY3JldC0zMi1ieXRlcy0wMDAwMDA=}}]
"""


# --- what is asked


def order(number: int) -> dict[str, object]:
    return {
        "service": "followers",
        "link": f"https://instagram.com/p/{number:010d}",
        "quantity": 1000,
        "reference": f"shop-{number:010d}",
    }


@dataclass(frozen=True, slots=True)
class Single:
    """One order with an Idempotency-Key of its own."""

    key: str
    run: str

    def __call__(self, number: int) -> bytes:
        return _request("/v1/orders", self.key, f"{self.run}-{number}", json.dumps(order(number)).encode())


@dataclass(frozen=True, slots=True)
class Batch:
    """So many orders with one Idempotency-Key."""

    key: str
    run: str
    size: int

    def __call__(self, number: int) -> bytes:
        items = ",".join(json.dumps(order(number * self.size + place)) for place in range(self.size))
        return _request("/v1/orders:batch", self.key, f"{self.run}-{number}", f'{{"orders":[{items}]}}'.encode())


def _request(path: str, key: str, idempotency: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nIdempotency-Key: {idempotency}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# --- floors


async def _echo(request: web.Request) -> web.Response:
    return web.json_response(await request.json())


def serve_echo(port: int) -> None:
    """The bare server, in a process of its own."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{tail:.*}", _echo)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


def rows_of(number: int, size: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The rows that `size` orders make, as intake leaves them: orders, events, the request's Idempotency-Key."""
    now = datetime.now(UTC)
    made: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    for n in range(number, number + size):
        wish = order(n)
        row = wish | {"number": n, "id": f"ord_{n:032x}", "owner": "bench", "kind": "smm", "state": "accepted"}
        row |= {"params": {}, "metadata": {}, "created_at": now, "updated_at": now, "sequence": 1, "version": 1}
        row |= {"next_route_at": now, "give_up_at": now + timedelta(days=1)}
        made.append(row)
        body = json.dumps({"type": "order.accepted", "timestamp": now.isoformat(), "data": {"order": _SHOWN | wish}})
        event = {"id": f"evt_{n:032x}", "order_number": n, "sequence": 1, "type": "order.accepted", "lane": f"o{n}"}
        told.append(event | {"body": body, "created_at": now})
    results = [{"status": 201, "order": _SHOWN | order(n)} for n in range(number, number + size)]
    digest = hashlib.sha256(str(number).encode()).digest()[:16]
    key = {"digest": digest, "fingerprint": digest, "order_number": number, "created_at": now}
    return made, told, key if size == 1 else key | {"status": 200, "body": json.dumps({"results": results})}


_SHOWN: Final[dict[str, object]] = {
    **{"id": "ord_" + "0" * 32, "number": 1_000_000, "kind": "smm", "state": "accepted", "params": {}, "metadata": {}},
    **dict.fromkeys(("provider", "provider_order", "expected_cost", "charge", "start_count", "remains", "count")),
    **{"provider_children": [], "children": [], "refills": [], "numbers": []},
    **dict.fromkeys(("count_at", "stuck_at", "parent", "cancel", "error", "finished_at")),
    **dict.fromkeys(("created_at", "updated_at"), "2026-11-21T18:00:00.000Z"),
}


def insert_sqlite(url: str, size: int, seconds: float, first: int) -> tuple[int, float]:
    """SQLAlchemy alone: so many orders to a commit, one commit after the other; orders and seconds."""
    engine = create_engine(make_url(url).set(drivername="sqlite+pysqlite"))
    done, spent = 0, 0.0
    with engine.connect() as connection:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.exec_driver_sql(f"PRAGMA {pragma}")
        connection.commit()
        while spent < seconds:
            made, told, kept = rows_of(first + done, size)
            began = time.perf_counter()
            connection.execute(insert(orders), made)
            connection.execute(insert(events), told)
            connection.execute(insert(idempotency_keys), kept)
            connection.commit()
            spent += time.perf_counter() - began
            done += size
    engine.dispose()
    return done, spent


def insert_postgresql(url: str, size: int, seconds: float, first: int) -> tuple[int, float]:
    return asyncio.run(_insert_postgresql(url, size, seconds, first))


async def _insert_postgresql(url: str, size: int, seconds: float, first: int) -> tuple[int, float]:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    done, spent = 0, 0.0
    async with engine.connect() as connection:
        while spent < seconds:
            made, told, kept = rows_of(first + done, size)
            began = time.perf_counter()
            await connection.execute(insert(orders), made)
            await connection.execute(insert(events), told)
            await connection.execute(insert(idempotency_keys), kept)
            await connection.commit()
            spent += time.perf_counter() - began
            done += size
    await engine.dispose()
    return done, spent


# --- the subject


@dataclass(slots=True)
class Target:
    """A server under test."""

    port: int
    pid: int
    key: str = "none"
    numbers: int = 0


@asynccontextmanager
async def daemon(url: str, folder: Path, name: str, provider: str, hook: str | None) -> AsyncIterator[Target]:
    port, key = free_port(0), secrets.token_urlsafe(16)
    config = folder / f"{name}.yaml"
    config.touch(mode=0o600)
    text = CONFIG.format(database=json.dumps(url), port=port, key=key, provider=provider)
    config.write_text(text + (HOOK.format(url=hook) if hook else ""))
    # In memory where there is room: a log on the disk waits for the database's fsync.
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else folder
    log = memory / f"{folder.name}-{name}.log"
    process = Supervisor(config, log, lambda code, pid: None)
    await process.start()
    try:
        await _ready(port)
        yield Target(port, process.pid, key)
    finally:
        await process.stop()
        log.unlink(missing_ok=True)


async def _ready(port: int) -> None:
    until = time.monotonic() + READY_WITHIN_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise SystemExit("the daemon is not ready in time")


@asynccontextmanager
async def echo() -> AsyncIterator[Target]:
    port = free_port(0)
    process = multiprocessing.get_context("spawn").Process(target=serve_echo, args=(port,), daemon=True)
    process.start()
    until = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        except OSError:
            if time.monotonic() > until:
                raise SystemExit("the echo does not start") from None
            await asyncio.sleep(0.05)
    try:
        yield Target(port, process.pid or 0)
    finally:
        process.terminate()
        process.join()


class World:
    """A provider that takes every order, and a webhook endpoint, both at once; in this process."""

    def __init__(self) -> None:
        self.bought = 0
        self.heard = 0

    async def provider(self, request: web.Request) -> web.Response:
        form = await request.post()
        action = form.get("action")
        if action == "services":
            row = {"service": 1, "name": "Followers", "type": "Default", "category": "Bench", "rate": "0.90"}
            return web.json_response([row | {"min": 1, "max": 10000, "refill": False, "cancel": False}])
        if action == "balance":
            return web.json_response({"balance": "1000000", "currency": "USD"})
        if action == "add":
            self.bought += 1
            return web.json_response({"order": self.bought})
        ids = str(form.get("orders") or form.get("order") or "").split(",")
        status = {"charge": "0.9", "start_count": "1", "status": "In progress", "remains": "450", "currency": "USD"}
        return web.json_response(dict.fromkeys(ids, status))

    async def hook(self, _request: web.Request) -> web.Response:
        self.heard += 1
        return web.Response(status=204)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/api/v2", self.provider)
        app.router.add_post("/hook", self.hook)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


# --- measuring


@dataclass(slots=True)
class Series:
    """One kind of server over all rounds."""

    name: str
    size: int = 1
    rates: list[float] = field(default_factory=list)
    p50_s: list[float] = field(default_factory=list)
    p99_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.rates)

    def line(self) -> str:
        said = f"{self.name:<38}{self.rate:>8.0f} orders/s  ({min(self.rates):.0f} to {max(self.rates):.0f})"
        if self.p50_s:
            said += f"  p50 {median(self.p50_s) * 1000:6.1f} ms  p99 {median(self.p99_s) * 1000:6.1f} ms"
        if self.cpu_s:
            said += f"  server {median(self.cpu_s) * 1e6:5.0f} µs/order  client {median(self.client):4.0%}"
        if self.others:
            said += f"  others {median(self.others):.2f} cores"
        return said


class Bench:
    def __init__(self, arguments: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
        self.clients: int = arguments.clients
        self.seconds: float = arguments.seconds
        self._pool = pool
        self._run = secrets.token_hex(4)
        self.series: dict[str, Series] = {}

    def of(self, name: str, size: int = 1) -> Series:
        return self.series.setdefault(name, Series(name, size))

    async def drive(self, name: str, target: Target, size: int = 1, *, seconds: float | None = None) -> Outcome:
        """One turn of a server; with `seconds` it is a warming up that nobody notes."""
        make = Single(target.key, self._run) if size == 1 else Batch(target.key, f"{self._run}-{size}", size)
        clients = self.clients if size == 1 else BATCH_CLIENTS
        load = Load(target.port, make, clients, seconds or self.seconds, first=target.numbers)
        watch = Watch(target.pid)
        outcome: Outcome = await self._call(run, load)
        target.numbers += outcome.asked
        wanted = {200} if size > 1 or target.key == "none" else {201}
        if set(outcome.statuses) != wanted:
            raise SystemExit(f"{name}: {outcome.statuses}\n{outcome.sample.decode(errors='replace')[:2000]}")
        if seconds is None:
            self._note(self.of(name, size), outcome, watch)
        return outcome

    def _note(self, series: Series, outcome: Outcome, watch: Watch) -> None:
        made = outcome.answers * series.size
        series.rates.append(made / outcome.seconds)
        series.p50_s.append(outcome.p50_s)
        series.p99_s.append(outcome.p99_s)
        series.cpu_s.append(watch.of_server_s() / made)
        series.client.append(outcome.client_cpu_s / outcome.seconds)
        series.others.append(max(0.0, watch.others() - outcome.client_cpu_s / outcome.seconds))

    async def inserted(self, name: str, insert_rows: Callable[..., tuple[int, float]], url: str, size: int) -> None:
        series = self.of(name, size)
        first = 1 + sum(int(rate) for rate in series.rates) * 100 + 10_000_000 * size
        done, seconds = await self._call(partial(insert_rows, url, size, self.seconds, first))
        series.rates.append(done / seconds)

    async def _call(self, work: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def ratio(self, of: str, to: str) -> str:
        ours, floor = self.series[of], self.series[to]
        each = [a / b for a, b in zip(ours.rates, floor.rates, strict=True)]
        said = f"  {of} / {to} = {median(each):.2f}  (rounds: {', '.join(f'{one:.2f}' for one in each)})"
        if ours.cpu_s and floor.cpu_s:
            said += f"; by processor time {median(floor.cpu_s) / median(ours.cpu_s):.2f}"
        return said


class Watch:
    """Processor time from now on: of a server, and of all that is neither it nor we."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = time.perf_counter()
        self._server = _process_s(pid)
        self._all = _machine_s()
        self._own = _own_s()

    def of_server_s(self) -> float:
        return _process_s(self._pid) - self._server

    def others(self) -> float:
        """How many processors everybody else kept busy, the clients among them."""
        busy = _machine_s() - self._all - self.of_server_s() - (_own_s() - self._own)
        return busy / (time.perf_counter() - self._began)


def _process_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _machine_s() -> float:
    fields = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def _own_s() -> float:
    used = os.times()
    return used.user + used.system


async def measure(bench: Bench, kind: str, url: Callable[[str], str], folder: Path, rounds: int) -> None:
    insert_rows = insert_sqlite if kind == "sqlite" else insert_postgresql
    floor = url("floor")
    database = open_database(floor)
    await migrate(database)
    await database.close()
    quiet, busy = f"{kind} intake", f"{kind} intake, all at work"
    naive = f"{kind} one commit per order"
    sizes = (100, 1000)
    world = World()
    async with contextlib.AsyncExitStack() as stack:
        bare = await stack.enter_async_context(echo())
        address = await stack.enter_async_context(world.served())
        nobody = f"http://127.0.0.1:{free_port(0)}/api/v2"
        await bench.drive("echo", bare, seconds=WARM_S)
        async with daemon(url("quiet"), folder, f"{kind}-quiet", nobody, None) as target:
            await bench.drive(quiet, target, seconds=WARM_S)
            for _ in range(rounds):
                await bench.drive("echo", bare)
                await bench.drive(quiet, target)
                await bench.inserted(naive, insert_rows, floor, 1)
                for size in sizes:
                    await bench.inserted(f"{kind} insert of {size}", insert_rows, floor, size)
                    await bench.drive(f"{kind} batches of {size}", target, size)
        print(f"\n{kind}: {rounds} rounds of {bench.seconds:g} s, {bench.clients} clients, {BATCH_CLIENTS} for batches")
        for series in bench.series.values():
            print(series.line())
        print(bench.ratio(quiet, "echo"))
        print(bench.ratio(quiet, naive))
        for size in sizes:
            print(bench.ratio(f"{kind} batches of {size}", f"{kind} insert of {size}"))
        bench.series.clear()
        async with daemon(url("busy"), folder, f"{kind}-busy", f"{address}/api/v2", f"{address}/hook") as target:
            await bench.drive(busy, target, seconds=WARM_S)
            for _ in range(rounds):
                await bench.drive("echo", bare)
                before = world.bought, world.heard
                await bench.drive(busy, target)
                bought, heard = world.bought - before[0], world.heard - before[1]
                print(f"  meanwhile {bought / bench.seconds:.0f} bought/s, {heard / bench.seconds:.0f} webhooks/s")
        for name in ("echo", busy):
            print(bench.series[name].line())
        print(bench.ratio(busy, "echo"))
        bench.series.clear()


@contextlib.contextmanager
def urls(kind: str, folder: Path) -> Iterator[Callable[[str], str]]:
    """The URL of a fresh database, by name."""
    if kind == "sqlite":
        yield lambda name: f"sqlite:///{folder / f'{name}.db'}"
        return
    # From the development environment; run from the project's folder.
    from tests.support.postgres import PostgresServer

    folder.chmod(0o755)  # started by root, it runs as another account
    server = PostgresServer(parent=folder, durable=True)
    try:
        server.start()
        yield lambda name: server.url(server.create())
    finally:
        server.remove()


async def main(arguments: argparse.Namespace) -> int:
    kinds = ("sqlite", "postgresql") if arguments.database == "both" else (arguments.database,)
    context = multiprocessing.get_context("spawn")
    print(f"load of the machine before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for kind in kinds:
            with (
                tempfile.TemporaryDirectory(prefix="aggregator-bench-", dir=arguments.folder) as name,
                urls(kind, Path(name)) as url,
            ):
                await measure(Bench(arguments, pool), kind, url, Path(name), arguments.rounds)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn of each server")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--folder", default=None, help="where the databases go; a disk, not memory")
    sys.exit(asyncio.run(main(parser.parse_args())))
