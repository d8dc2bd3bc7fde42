"""A thousand orders from HTTP to their end, on real processes: status calls made, next to the floor of the wire.

    .venv/bin/python benchmarks/thousand_orders.py [--orders 1000]

Prints calls made / floor, where the floor of each sweep is ⌈open/100⌉ calls: what the protocol needs if every batch is
full. Everything runs on loopback, is bounded, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from aggregator.demo.main import free_port
from aggregator.demo.supervisor import Supervisor
from aggregator.sandbox.server import create_app
from aggregator.sandbox.world import World

SPEED = 10.0
WITHIN_S = 300.0
CONFIG = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys: [{{name: bench, key: {key}, scopes: [orders, admin]}}]
providers:
  smmplus:
    dialect: panel_v2
    url: {sandbox}/smmplus/api/v2
    api_key: sandbox-smmplus-key
    requests_per_second: 0
    status_every_s: {{min: 1, max: 1}}
services:
  followers: {{kind: smm, offers: [{{provider: smmplus, service: "1"}}], refill: {{auto: false}}}}
"""


async def main(orders: int) -> int:
    world = World(seed=1, speed=SPEED, clock=time.time)
    runner = web.AppRunner(create_app(world), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sandbox = f"http://127.0.0.1:{runner.addresses[0][1]}"
    with tempfile.TemporaryDirectory(prefix="aggregator-bench-") as name:
        folder, port, key = Path(name), free_port(0), secrets.token_urlsafe(16)
        config = folder / "config.yaml"
        config.touch(mode=0o600)
        database = json.dumps(f"sqlite:///{folder / 'aggregator.db'}")
        config.write_text(CONFIG.format(database=database, port=port, key=key, sandbox=sandbox))
        daemon = Supervisor(config, folder / "daemon.log", lambda code, pid: None)
        await daemon.start()
        try:
            headers = {"Authorization": f"Bearer {key}"}
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as api:
                await measure(api, sandbox, orders)
        finally:
            await daemon.stop()
            await runner.cleanup()
    return 0


async def measure(api: aiohttp.ClientSession, sandbox: str, orders: int) -> None:
    await until(lambda: ready(api))
    async with aiohttp.ClientSession() as control:
        await control.post(f"{sandbox}/control/accounts/smmplus", json={"balance": "1000000"})
        began = time.monotonic()
        for first in range(0, orders, 500):
            batch = [
                {"service": "followers", "quantity": 100, "link": f"https://example.com/{n}"}
                for n in range(first, min(first + 500, orders))
            ]
            async with api.post("/v1/orders:batch", json={"orders": batch}) as answer:
                results = (await answer.json())["results"]
                assert all(result["status"] == 201 for result in results)
        print(f"{orders} orders accepted in {time.monotonic() - began:.2f} s")
        await until(lambda: done(api))
        print(f"all of them final after {time.monotonic() - began:.1f} s")
        async with control.get(f"{sandbox}/control/calls") as answer:
            actions = (await answer.json())["accounts"]["smmplus"]["actions"]
        status = actions["status"]
        floor = -(-status["ids"] // 100)
        print(f"purchases: {actions['add']['calls']}")
        print(
            f"status calls: {status['calls']} for {status['ids']} ids; floor {floor}; "
            f"calls / floor = {status['calls'] / floor:.2f}"
        )


async def ready(api: aiohttp.ClientSession) -> bool:
    try:
        async with api.get("/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def done(api: aiohttp.ClientSession) -> bool:
    for state in ("accepted", "placing", "pending", "processing", "in_progress"):
        async with api.get("/v1/orders", params={"state": state, "limit": "1"}) as answer:
            found: dict[str, Any] = await answer.json()
        if found["orders"]:
            return False
    return True


async def until(condition: Any) -> None:
    end = time.monotonic() + WITHIN_S
    while not await condition():
        if time.monotonic() > end:
            raise SystemExit("not done in time")
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=1000)
    sys.exit(asyncio.run(main(parser.parse_args().orders)))
