"""Webhooks: from an event's commit to its first byte at the endpoints, and how much of the wire's speed is reached.

    .venv/bin/python benchmarks/webhooks.py [--rate 200] [--seconds 10] [--drain 4000] [--database sqlite|postgresql]

The stages that number, fan out and send run in this process over a database on disk, woken and paced as in the daemon;
events of 200 orders are written beside them at an even rate, each in a transaction of its own. Endpoints are in a
process of their own: two healthy ones, one that takes two seconds, one that never answers, one that refuses
connections. Printed: the latency at the healthy ones with and without the others; deliveries a second next to a bare
aiohttp client that posts the same bodies to the same receiver, as many at once; what events and deliveries take on
disk. Everything is bounded, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from cryptography.fernet import Fernet
from sqlalchemy import Connection, func, select, text

from aggregator.config import Settings, load
from aggregator.daemon import PACES_S
from aggregator.domain.clock import SteadyClock
from aggregator.domain.documents import Related
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId, OrderNumber, new_id
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.base import House
from aggregator.flow.delivery import Delivery
from aggregator.flow.endpoints import AT_ONCE
from aggregator.flow.health import Health
from aggregator.flow.replaying import Replaying
from aggregator.flow.sequencing import Sequencing
from aggregator.outbound import Outbound
from aggregator.schedule import Schedule
from aggregator.storage import orders as order_store
from aggregator.storage import outbox
from aggregator.storage.database import Database, open_database
from aggregator.storage.deliverables import Sealer
from aggregator.storage.migrate import migrate
from aggregator.storage.tables import deliveries, events

SECRET: Final = "whsec_" + base64.b64encode(b"b" * 32).decode()
SLOW_S: Final = 2.0
HEALTHY: Final = ("healthy0", "healthy1")
WITHIN_S: Final = 120.0
LOOK_S: Final = 0.02
LANES: Final = 200
"""Orders that tell their events in turn."""
GOAL_P99_MS: Final = 100


def _settle() -> None:
    """As the daemon does when it is ready: what stays for good is not looked through for garbage any more."""
    gc.collect()
    gc.freeze()


# --- the receiver: a process of its own


async def receive() -> None:
    """Listen on loopback until we are killed; the port goes to standard output."""
    heard: list[tuple[str, str, float]] = []

    async def hook(request: web.Request) -> web.Response:
        at = time.time()
        name = request.match_info["name"]
        heard.append((name, request.headers.get("webhook-id", ""), at))
        await request.read()
        if name == "slow":
            await asyncio.sleep(SLOW_S)
        if name == "dead":
            await asyncio.sleep(3600)
        return web.Response(status=204)

    async def log(_: web.Request) -> web.Response:
        taken, heard[:] = list(heard), []
        return web.json_response(taken)

    app = web.Application()
    app.router.add_post("/{name}", hook)
    app.router.add_get("/log", log)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _settle()
    print(runner.addresses[0][1], flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


@contextlib.contextmanager
def receiver() -> Any:
    child = subprocess.Popen([sys.executable, __file__, "--receive"], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"
    finally:
        child.kill()
        child.wait()


# --- the sender: the stages as the daemon runs them


@dataclass
class Line:
    """The stages at work, and the way to feed them."""

    house: House
    outbound: Outbound
    schedule: Schedule
    committed: dict[tuple[int, int], float] = field(default_factory=dict)
    lanes: list[Order] = field(default_factory=list)
    _next: int = 0

    async def orders(self) -> None:
        """Orders whose events are told; the first of each is not counted."""
        clock = self.house.clock

        def write(connection: Connection) -> list[Order]:
            now = clock.now()
            made = []
            for _ in range(LANES):
                order = Order(
                    id=OrderId(new_id("ord", now)), number=OrderNumber(0), owner="shop", service="ig-followers",
                    kind="smm", state=OrderState.ACCEPTED, quantity=1000, created_at=now, updated_at=now,
                    link="https://instagram.com/username", params={}, reference="shop-778",
                )  # fmt: skip
                made.append(order_store.add(connection, order, [Draft("order.accepted")], give_up_at=now))
            return made

        self.lanes = await self.house.database.write(write)

    async def event(self) -> None:
        """One more event of the next order, in a transaction of its own; remembers when that was durable."""
        order = self.lanes[self._next % LANES]
        self.lanes[self._next % LANES] = replace(order, sequence=order.sequence + 1)
        self._next += 1
        now = self.house.clock.now()
        drafts = [Draft("order.progress")]
        await self.house.database.write(lambda c: outbox.append(c, order, Related(), drafts, now))
        self.committed[order.number, order.sequence + 1] = time.time()
        self.house.wakeups.wake("sequencing")

    async def ids(self) -> dict[str, float]:
        """When each of these events was durable, by its id."""
        numbers = [order.number for order in self.lanes]
        query = select(events.c.id, events.c.order_number, events.c.sequence).where(events.c.order_number.in_(numbers))
        rows = await self.house.database.read(lambda c: c.execute(query).all())
        return {row[0]: self.committed[row[1], row[2]] for row in rows if row[2] > 1}

    async def numbered(self) -> None:
        """Wait until every event has its position."""
        await self._none(select(events.c.seq).where(events.c.position.is_(None)))

    async def delivered(self, *names: str, look_s: float = LOOK_S) -> None:
        """Wait until nothing is left to send to these endpoints."""
        waiting = deliveries.c.endpoint.in_(names), deliveries.c.state == "pending"
        await self._none(select(deliveries.c.id).where(*waiting), look_s)

    async def _none(self, query: Any, look_s: float = LOOK_S) -> None:
        for _ in range(int(WITHIN_S / look_s)):
            if not await self.house.database.read(lambda c: c.execute(query.limit(1)).all()):
                return
            await asyncio.sleep(look_s)
        raise AssertionError(f"it did not come about within {WITHIN_S:g} s")


def settings_of(folder: Path, hooks: dict[str, str], enabled: bool) -> Settings:
    listed = [
        {"name": name, "url": url, "secret": SECRET, "timeout_s": 5, "enabled": enabled} for name, url in hooks.items()
    ]
    path = folder / "config.yaml"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"webhooks": listed}))
    return load(path, {})


@contextlib.asynccontextmanager
async def at_work(
    database: Database, folder: Path, hooks: dict[str, str], *, enabled: bool = True
) -> AsyncIterator[Line]:
    clock = SteadyClock()
    settings = settings_of(folder, hooks, enabled)
    house = House(
        settings=settings,
        database=database,
        gateways={},
        health=Health(database, clock, []),
        clock=clock,
        sealer=Sealer(Fernet.generate_key().decode()),
    )
    async with Outbound() as outbound:
        schedule = Schedule(clock)
        stages = Sequencing(house), Delivery(house, outbound), Replaying(house)
        for stage in stages:
            schedule.add(stage.name, 1, stage.run_once, pace_s=PACES_S.get(stage.name, 0.0))
            house.wakeups.on(stage.name, partial(schedule.wake, stage.name))
        _settle()
        schedule.start()
        try:
            yield Line(house, outbound, schedule)
        finally:
            await schedule.stop()
            for stage in stages:
                await stage.stop(1)


async def fresh(folder: Path, kind: str, url: str | None) -> Database:
    if kind == "postgresql":
        assert url is not None
        database = open_database(url)
    else:
        database = open_database(f"sqlite:///{folder / 'bench.db'}")
    await migrate(database)
    return database


# --- what is measured


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def latency(
    database: Database, folder: Path, base: str, hooks: dict[str, str], rate: int, seconds: float
) -> list[float]:
    """Milliseconds from commit to the first byte at each healthy endpoint, of events at an even rate."""
    async with aiohttp.ClientSession() as client, at_work(database, folder, hooks) as line:
        await (await client.get(f"{base}/log")).json()
        await line.orders()
        await line.numbered()
        await line.delivered(*HEALTHY)
        began, tasks = time.monotonic(), []
        for number in range(int(rate * seconds)):
            wait = began + number / rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(line.event()))
        await asyncio.gather(*tasks)
        await line.numbered()  # until then there is nothing to deliver
        await line.delivered(*HEALTHY)
        heard = await (await client.get(f"{base}/log")).json()
        committed = await line.ids()
    first: dict[tuple[str, str], float] = {}
    for name, event, at in heard:
        first.setdefault((name, event), at)
    missing = [(name, event) for name in HEALTHY for event in committed if (name, event) not in first]
    assert not missing, f"{len(missing)} deliveries never arrived"
    return [1000 * (first[name, event] - at) for name in HEALTHY for event, at in committed.items()]


async def drained(database: Database, folder: Path, base: str, count: int) -> tuple[float, list[tuple[str, bytes]]]:
    """Seconds in which so many waiting deliveries arrive at one healthy endpoint; and their ids and bodies."""
    hooks = {"waiting": f"{base}/healthy0"}
    async with at_work(database, folder, hooks, enabled=False) as line:
        await line.orders()
        for _ in range(0, count, LANES):
            await asyncio.gather(*(line.event() for _ in range(LANES)))
        await line.numbered()
        numbers = [order.number for order in line.lanes]
    query = select(events.c.id, events.c.body).where(events.c.order_number.in_(numbers))
    bodies = [(row[0], row[1].encode()) for row in await database.read(lambda c: c.execute(query).all())]
    began = time.time()
    async with at_work(database, folder, hooks) as line:
        await line.delivered("waiting", look_s=0.2)
    last = await database.read(lambda c: c.execute(select(func.max(deliveries.c.finished_at))).scalar_one())
    return last.timestamp() - began, bodies


async def bare(base: str, bodies: list[tuple[str, bytes]]) -> float:
    """Seconds in which a bare aiohttp client posts the same bodies to the same receiver, as many at once."""
    left = list(bodies)

    async def worker(client: aiohttp.ClientSession) -> None:
        while left:
            event, body = left.pop()
            async with client.post(
                f"{base}/healthy0", data=body, headers={"content-type": "application/json", "webhook-id": event}
            ) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        began = time.monotonic()
        await asyncio.gather(*(worker(client) for _ in range(AT_ONCE)))
        return time.monotonic() - began


async def disk(folder: Path, base: str) -> tuple[float, float, float]:
    """Bytes on disk per event without an endpoint, per finished delivery, and of an event's body."""
    count, sizes, body = 2000, {}, 0
    for endpoints in (0, 1, 5):
        place = folder / f"disk{endpoints}"
        place.mkdir()
        database = await fresh(place, "sqlite", None)

        def pages(connection: Connection) -> int:
            return int(connection.execute(text("PRAGMA page_count")).scalar_one()) * 4096

        empty = await database.read(pages)
        hooks = {f"h{n}": f"{base}/healthy0" for n in range(endpoints)}
        async with at_work(database, place, hooks) as line:
            await line.orders()
            for _ in range(0, count, LANES):
                await asyncio.gather(*(line.event() for _ in range(LANES)))
            await line.numbered()
            await line.delivered(*hooks)
        sizes[endpoints] = (await database.read(pages) - empty) / count
        found = await database.read(lambda c: c.execute(text("SELECT avg(length(body)) FROM events")).scalar_one())
        body = int(found)
        await database.close()
    return sizes[0], (sizes[5] - sizes[1]) / 4, body


async def main(rate: int, seconds: float, count: int, kind: str, url: str | None) -> None:
    with receiver() as base, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        healthy = {name: f"{base}/{name}" for name in HEALTHY}
        # Port 1 of loopback refuses.
        ill = {"slow": f"{base}/slow", "dead": f"{base}/dead", "refusing": "http://127.0.0.1:1/"}
        database = await fresh(folder, kind, url)
        try:
            await latency(database, folder, base, healthy, rate, 1)  # everything is imported and compiled
            alone = await latency(database, folder, base, healthy, rate, seconds)
            mixed = await latency(database, folder, base, {**healthy, **ill}, rate, seconds)
            cpu_s = time.process_time()
            took, bodies = await drained(database, folder, base, count)
            cpu_s, bare_s = time.process_time() - cpu_s, time.process_time()
            floor = await bare(base, bodies)
            bare_s = time.process_time() - bare_s
        finally:
            await database.close()
        print(f"{rate} events/s for {seconds:g} s on {kind}, commit to first byte at {len(HEALTHY)} healthy endpoints:")
        for what, values in (("alone", alone), ("with a slow, a dead and a refusing one", mixed)):
            shown = ", ".join(f"p{int(100 * share)} {percentile(values, share):.1f}" for share in (0.5, 0.9, 0.99))
            print(f"  {what}: {shown}, max {max(values):.1f} ms ({len(values)} deliveries)")
        p99, calm = percentile(mixed, 0.99), percentile(alone, 0.99)
        print(f"  p99 mixed / alone: {p99 / calm:.2f}; goal p99 <= {GOAL_P99_MS} ms: {p99 <= GOAL_P99_MS}")
        print(f"{count} waiting deliveries to one endpoint: {len(bodies) / took:.0f}/s; bare aiohttp, same bodies,")
        print(f"  same receiver, {AT_ONCE} at once: {len(bodies) / floor:.0f}/s; ratio {floor / took:.2f}")
        print(f"  CPU of this process: {1e6 * cpu_s / len(bodies):.0f} us for an event that is made, numbered and")
        print(f"  delivered, {1e6 * bare_s / len(bodies):.0f} us for a bare delivery")
        if kind == "sqlite":
            event, delivery, body = await disk(folder, base)
            print(f"disk: {event:.0f} bytes per event (body {body:.0f}), {delivery:.0f} per delivery")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--drain", type=int, default=10_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--url", help="A PostgreSQL database that is empty.")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(receive() if given.receive else main(given.rate, given.seconds, given.drain, given.database, given.url))
