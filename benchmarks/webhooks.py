"""Webhooks: from an event's commit to its first byte at the endpoints, and how much of the wire's speed is reached.

    .venv/bin/python benchmarks/webhooks.py [--rate 200] [--seconds 10] [--drain 4000] [--database sqlite|postgresql]

The stages that number, fan out and send run in this process over a database on disk, woken as in the daemon; orders are
written beside them at an even rate, as intake does. Endpoints are in a process of their own: two healthy ones, one that
takes two seconds, one that never answers, one that refuses connections. Printed: the latency at the healthy ones with
and without the others; deliveries a second next to a bare aiohttp client that posts the same bodies to the same
receiver, as many at once; what events and deliveries take on disk. Everything is bounded, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from cryptography.fernet import Fernet
from sqlalchemy import Connection, select, text

from aggregator.config import Settings, load
from aggregator.domain.clock import SteadyClock
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId, new_id
from aggregator.domain.orders import Order, OrderNumber, OrderState
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
GOAL_P99_MS: Final = 100


# --- the receiver: a process of its own


async def receive() -> None:
    """Listen on loopback until our parent is gone; the port goes to standard output."""
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
    print(runner.addresses[0][1], flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.5)


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
    committed: dict[str, float] = field(default_factory=dict)

    async def order(self) -> None:
        """One order with its event, as intake writes it; remembers when it was durable."""
        clock = self.house.clock
        now = clock.now()
        order = Order(
            id=OrderId(new_id("ord", now)), number=OrderNumber(0), owner="shop", service="ig-followers", kind="smm",
            state=OrderState.ACCEPTED, quantity=1000, created_at=now, updated_at=now,
            link="https://instagram.com/username", params={}, reference="shop-778",
        )  # fmt: skip

        def write(connection: Connection) -> str:
            stored = order_store.add(connection, order, [Draft("order.accepted")], give_up_at=now)
            found: str = connection.execute(
                select(events.c.id).where(events.c.order_number == stored.number)
            ).scalar_one()
            return found

        event = await self.house.database.write(write)
        self.committed[event] = time.time()
        self.house.wakeups.wake("sequencing")

    async def undelivered(self, *names: str) -> int:
        query = (
            select(deliveries.c.id).where(deliveries.c.endpoint.in_(names), deliveries.c.state == "pending").limit(1)
        )
        return len(await self.house.database.read(lambda c: c.execute(query).all()))


def settings_of(folder: Path, base: str, hooks: dict[str, str]) -> Settings:
    listed = [{"name": name, "url": url, "secret": SECRET, "timeout_s": 5} for name, url in hooks.items()]
    path = folder / "config.yaml"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"webhooks": listed}))
    return load(path, {})


@contextlib.asynccontextmanager
async def at_work(database: Database, folder: Path, base: str, hooks: dict[str, str]) -> AsyncIterator[Line]:
    clock = SteadyClock()
    settings = settings_of(folder, base, hooks)
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
            schedule.add(stage.name, 1, stage.run_once)
            house.wakeups.on(stage.name, partial(schedule.wake, stage.name))
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
    async with aiohttp.ClientSession() as client, at_work(database, folder, base, hooks) as line:
        await (await client.get(f"{base}/log")).json()
        began, tasks = time.monotonic(), []
        for number in range(int(rate * seconds)):
            wait = began + number / rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(line.order()))
        await asyncio.gather(*tasks)
        until = time.monotonic() + WITHIN_S
        while await line.undelivered(*HEALTHY) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        heard = await (await client.get(f"{base}/log")).json()
    first: dict[tuple[str, str], float] = {}
    for name, event, at in heard:
        first.setdefault((name, event), at)
    missing = [(name, event) for name in HEALTHY for event in line.committed if (name, event) not in first]
    assert not missing, f"{len(missing)} deliveries never arrived"
    return [1000 * (first[name, event] - at) for name in HEALTHY for event, at in line.committed.items()]


async def drained(database: Database, folder: Path, base: str, count: int) -> tuple[float, list[tuple[str, bytes]]]:
    """Seconds in which so many waiting deliveries arrive at one healthy endpoint; and their ids and bodies."""
    hooks = {"healthy0": f"{base}/healthy0"}
    async with at_work(database, folder, base, {}) as line:
        for _ in range(0, count, 250):
            await asyncio.gather(*(line.order() for _ in range(250)))
        await asyncio.sleep(1.5)  # all have their positions, and no endpoint
    query = select(events.c.id, events.c.body).where(events.c.id.in_(line.committed))
    bodies = [(row[0], row[1].encode()) for row in await database.read(lambda c: c.execute(query).all())]
    settings = settings_of(folder, base, hooks)

    def fan_out(connection: Connection) -> None:
        """As the sequencer would have, had the endpoint been there."""
        connection.execute(
            text(
                "UPDATE events SET position = NULL WHERE position IN (SELECT position FROM events ORDER BY position DESC LIMIT :n)"
            ),
            {"n": len(bodies)},
        )

        def targets(_: outbox.Fresh) -> list[str]:
            return ["healthy0"]

        from aggregator.domain.clock import SteadyClock

        while outbox.sequence(connection, SteadyClock().now(), targets):
            pass

    await database.write(fan_out)
    del settings
    began = time.monotonic()
    async with at_work(database, folder, base, hooks) as line:
        while await line.undelivered("healthy0"):
            await asyncio.sleep(0.02)
    return time.monotonic() - began, bodies


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
        async with at_work(database, place, base, hooks) as line:
            for _ in range(count // 250):
                await asyncio.gather(*(line.order() for _ in range(250)))
            await asyncio.sleep(1.2)
            while hooks and await line.undelivered(*hooks):
                await asyncio.sleep(0.1)
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
            took, bodies = await drained(database, folder, base, count)
            floor = await bare(base, bodies)
        finally:
            await database.close()
        print(f"{rate} events/s for {seconds:g} s on {kind}, commit to first byte at {len(HEALTHY)} healthy endpoints:")
        for what, values in (("alone", alone), ("with a slow, a dead and a refusing one", mixed)):
            shown = ", ".join(f"p{int(100 * share)} {percentile(values, share):.1f} ms" for share in (0.5, 0.9, 0.99))
            print(f"  {what}: {shown}, max {max(values):.1f} ms ({len(values)} deliveries)")
        p99 = percentile(mixed, 0.99)
        print(
            f"  p99 mixed / alone: {p99 / percentile(alone, 0.99):.2f}; goal p99 <= {GOAL_P99_MS} ms: {p99 <= GOAL_P99_MS}"
        )
        print(
            f"{count} waiting deliveries to one endpoint: {len(bodies) / took:.0f}/s; a bare aiohttp client, {AT_ONCE} at"
        )
        print(f"  once, same bodies, same receiver: {len(bodies) / floor:.0f}/s; ratio {floor / took:.2f}")
        if kind == "sqlite":
            event, delivery, body = await disk(folder, base)
            print(
                f"disk: {event:.0f} bytes per order with its event (body {body}), {delivery:.0f} per delivery that arrived"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--drain", type=int, default=4000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--url", help="A PostgreSQL database that is empty.")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(receive() if given.receive else main(given.rate, given.seconds, given.drain, given.database, given.url))
