"""Minutes of everything at once against the real daemon: does anything grow that should stay?

    .venv/bin/python -m benchmarks.soak [--minutes 5] [--rate 3]

Daemon, sandbox (sped up), a healthy, a slow and a dead webhook endpoint, and callers of every kind, the rude ones too;
all on loopback, bounded, ending by itself. Every few seconds the daemon's memory, files, threads, loops and queues are
read from outside. Prints a table, then one line per measure that must stay, and exits with 1 when one grew beyond its
bound. When the callers have gone, what is open must be what was open before they came.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import aiohttp
from aiohttp import web

from aggregator.demo.main import free_port
from aggregator.demo.supervisor import Supervisor
from aggregator.sandbox.server import create_app
from aggregator.sandbox.world import World
from benchmarks.soak_load import SERVICES, Load, Tally, endpoints, stock_up
from benchmarks.soak_samples import Sample, between, moment, of_database, of_metrics, of_process, slope

SPEED: Final = 20.0
LOOK_EVERY_S: Final = 3.0
ROW_EVERY: Final = 5
START_WITHIN_S: Final = 60.0
DRAIN_WITHIN_S: Final = 180.0
IDLE_S: Final = 40.0
"""Longer than the daemon keeps an idle connection to anybody: 15 s, looked at every 15 s."""
ENDPOINTS: Final = ("healthy", "slow", "dead")
ANSWERING: Final = ENDPOINTS[:2]
"""What waits for them comes to its end. A dead one gets one delivery every 15 seconds, until it is disabled."""
CONFIG: Final = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys: [{{name: soak, key: {key}, scopes: [orders, admin]}}]
providers:
  smmplus: {{dialect: panel_v2, url: "{sandbox}/smmplus/api/v2", api_key: sandbox-smmplus-key, {often}}}
  smmcheap: {{dialect: panel_v2, url: "{sandbox}/smmcheap/api/v2", api_key: sandbox-smmcheap-key, {often}}}
  hstock:
    dialect: hstockplus
    url: "{sandbox}/hstock/api/v2"
    api_key: sandbox-hstock-key
    code_every_s: {{min: 1, max: 5}}
    {often_block}
webhooks:
  - {{name: healthy, url: "{hooks}/healthy", secret: {secret}}}
  - {{name: slow, url: "{hooks}/slow", secret: {secret}, events: [order.accepted, order.completed]}}
  - name: dead
    url: "http://127.0.0.1:{dead}/"
    secret: {secret}
    retry_s: [1, 2, 4, 8]
    order_hold_s: 10
    events: [order.accepted]
"""
OFTEN: Final = (
    "requests_per_second: 0",
    "timeout_s: 10",
    "status_every_s: {min: 0.5, max: 5}",
    "catalogue_every_s: 20",
    "balance_every_s: 5",
)

# --- what may grow, and how much ---

WARM_ORDERS: Final = 1200
"""Until then caches fill: SQLite's pages (2 MB for each connection), compiled statements, the allocator's free heap."""
MEMORY_COLD_KB: Final = 12_288.0
MEMORY_WARM_KB: Final = 6_144.0
"""Resident memory over the whole second half, by the line through it, however long that half is, if it began warm."""
SLACK: Final[dict[str, float]] = {
    "fds": 12, "close_wait": 4, "threads": 2, "open": 60, "claims": 30, "planned": 20, "refills": 20, "cancels": 10,
    "unclear": 0, "unplaced": 20, "to healthy": 150, "to slow": 100, "undelivered": 30, "series": 15,
    "loop age": 6, "wal": 8192,
}  # fmt: skip
"""The last quarter's mean may be a third above the second quarter's, and so much more."""
MOST_BEHIND: Final = 400
"""Orders and deliveries under way beyond which nobody orders: else a slow machine's queues would grow, whatever runs.
What never ends would stop the callers for good, and be left at the end."""
FEWEST: Final = 0.1
"""Of the orders that were wanted, so many must have been taken, or the run says nothing."""
READERS_FILES: Final = 16
"""Files more than before the callers came, after they have gone: the database's connections, made when first wanted."""
MOST_OUTBOUND: Final = 12
"""Connections that may be kept to providers when it is quiet: as many as calls at once."""


class Soak:
    """One run."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        self.seconds: float = 60 * arguments.minutes
        self.rate: float = arguments.rate
        self.seed: int = arguments.seed
        self.tally = Tally()
        self.samples: list[Sample] = []
        self.key = secrets.token_urlsafe(24)
        self.url = f"http://127.0.0.1:{free_port(0)}"
        self.deaths: list[int] = []
        self.waited = 0
        """Looks at which callers were held back."""
        self.began = 0.0

    async def run(self) -> list[str]:
        """What grew; nothing when all is well."""
        world = World(seed=self.seed, speed=SPEED, clock=time.time)
        stock_up(world)
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await _served(stack, create_app(world))
            hooks = await _served(stack, endpoints(self.tally))
            config = self._config(sandbox, hooks)
            daemon = Supervisor(config, self.folder / "daemon.log", lambda code, _: self.deaths.append(code))
            await daemon.start()
            stack.push_async_callback(daemon.stop)
            api = await stack.enter_async_context(aiohttp.ClientSession(self.url, headers=self._headers))
            await _until("the daemon", START_WITHIN_S, lambda: self._ready(api))
            return await self._soaked(daemon, api)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def _config(self, sandbox: str, hooks: str) -> Path:
        config = self.folder / "config.yaml"
        config.touch(mode=0o600)
        config.write_text(
            CONFIG.format(
                database=json.dumps(f"sqlite:///{self._database}"),
                port=self._port,
                key=self.key,
                sandbox=sandbox,
                often=", ".join(OFTEN),
                often_block="\n    ".join(OFTEN),
                hooks=hooks,
                dead=free_port(0),
                secret="whsec_c29hay1zZWNyZXQtb2YtMzItYnl0ZXMtMDAwMDE=",
            )
            + SERVICES
        )
        return config

    @property
    def _port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def _database(self) -> Path:
        return self.folder / "aggregator.db"

    async def _ready(self, api: aiohttp.ClientSession) -> bool:
        try:
            async with api.get("/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _soaked(self, daemon: Supervisor, api: aiohttp.ClientSession) -> list[str]:
        await asyncio.sleep(3.0)
        self.began = time.monotonic()
        before = await self._look(daemon.pid, api)
        callers = Load(self.url, self.key, self.rate, self.seed, self.tally)
        load = asyncio.create_task(callers.run())
        _header()
        try:
            while time.monotonic() - self.began < self.seconds and not load.done() and not self.deaths:
                await asyncio.sleep(LOOK_EVERY_S)
                self.samples.append(sample := await self._look(daemon.pid, api))
                behind = sample["open"] + sum(sample[f"to {name}"] for name in ANSWERING)
                (callers.go_on.clear if behind > MOST_BEHIND else callers.go_on.set)()
                self.waited += behind > MOST_BEHIND
                if len(self.samples) % ROW_EVERY == 0:
                    _row(self.samples[-1])
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        print("the callers have gone")
        left = await self._drained(daemon, api)
        await asyncio.sleep(IDLE_S)
        after = await self._look(daemon.pid, api)
        _row(after)
        return [*self._grown(), *_left_open(before, after), *left, *self._trouble()]

    async def _look(self, pid: int, api: aiohttp.ClientSession) -> Sample:
        async with api.get("/metrics") as answer:
            metrics = of_metrics(await answer.text(), ANSWERING)
        database = await asyncio.to_thread(of_database, self._database, ENDPOINTS)
        return moment(self.began) | of_process(pid, self._port) | metrics | database

    async def _drained(self, daemon: Supervisor, api: aiohttp.ClientSession) -> list[str]:
        """Everything that was begun comes to its end."""
        queues = ("open", "claims", "planned", "refills", "cancels", "unplaced", *(f"to {name}" for name in ANSWERING))
        left: Sample = {}

        async def empty() -> bool:
            nonlocal left
            found = await self._look(daemon.pid, api)
            left = {name: found[name] for name in queues if found[name]}
            return not left

        try:
            await _until("the end of all orders", DRAIN_WITHIN_S, empty)
        except TimeoutError:
            return [f"left {DRAIN_WITHIN_S:.0f} s after the last call: {left}"]
        print(f"all that was begun has ended, after {time.monotonic() - self.began - self.seconds:.0f} s")
        return []

    def _grown(self) -> list[str]:
        half = self.samples[len(self.samples) // 2 :]
        print(f"\n{'measure':14}{'2nd quarter':>13}{'4th quarter':>13}{'most':>10}{'per minute':>12}  bound")
        grown = []
        for name, slack in SLACK.items():
            early, late = between(self.samples, name, 0.25, 0.5), between(self.samples, name, 0.75, 1.0)
            if not early or not late:
                continue
            bound = fmean(early) * 4 / 3 + slack
            most, pace = max(sample.get(name, 0.0) for sample in self.samples), slope(half, name, "minute")
            print(f"{name:14}{fmean(early):13.1f}{fmean(late):13.1f}{most:10.1f}{pace:12.2f}  {bound:.1f}")
            if fmean(late) > bound:
                grown.append(f"{name} grew from {fmean(early):.1f} to {fmean(late):.1f}; bound {bound:.1f}")
        per_minute, per_order = slope(half, "rss", "minute"), slope(half, "rss", "orders")
        growth = per_minute * (half[-1]["minute"] - half[0]["minute"]) if half else 0.0
        most_kb = MEMORY_WARM_KB if half and half[0]["orders"] > WARM_ORDERS else MEMORY_COLD_KB
        print(
            f"\nresident memory in the second half: {per_minute:+.0f} KB per minute, {1000 * per_order:+.0f} KB per "
            f"thousand orders, {growth:+.0f} KB in all; bound {most_kb:.0f} KB in all"
        )
        if growth > most_kb:
            grown.append(f"memory grew by {growth:.0f} KB in the second half")
        return grown

    def _trouble(self) -> list[str]:
        wanted = self.rate * self.seconds
        print(
            f"{self.tally.orders} orders, {wanted:.0f} wanted; callers were held back for "
            f"{100 * self.waited / max(1, len(self.samples)):.0f} % of the time"
        )
        print(f"answers: {dict(sorted(self.tally.answers.items()))}")
        print(f"deliveries heard: {dict(self.tally.heard)}")
        broken = [f"{count} x {what}" for what, count in self.tally.trouble.most_common()]
        if self.tally.orders < FEWEST * wanted:
            broken.append("hardly any orders were taken")
        return broken + [f"the daemon ended with {code}" for code in self.deaths]


def _left_open(before: Sample, after: Sample) -> list[str]:
    kinds = ("files", "callers", "outbound", "close_wait", "listening", "other sockets")
    print("open before and after:", ", ".join(f"{kind} {before[kind]:.0f} and {after[kind]:.0f}" for kind in kinds))
    most = before | {"files": before["files"] + READERS_FILES, "outbound": MOST_OUTBOUND}
    return [f"{after[kind]:.0f} {kind} are still open" for kind in kinds if after[kind] > most[kind]]


_COLUMNS: Final = (
    "minute", "orders", "cpu", "rss", "anon", "fds", "callers", "outbound", "close_wait", "threads", "open", "claims",
    "unplaced",
    "to healthy", "to slow", "to dead", "undelivered", "loop age", "series", "wal",
)  # fmt: skip


def _header() -> None:
    print("".join(f"{name[:10]:>11}" for name in _COLUMNS), flush=True)


def _row(sample: Sample) -> None:
    print("".join(f"{sample.get(name, 0.0):11.1f}" for name in _COLUMNS), flush=True)


async def _served(stack: contextlib.AsyncExitStack, app: web.Application) -> str:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _until(what: str, within_s: float, condition: Callable[[], object]) -> None:
    end = time.monotonic() + within_s
    while not await condition():  # type: ignore[misc]
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {within_s:g} s")
        await asyncio.sleep(1.0)


async def main(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="aggregator-soak-", dir=arguments.folder) as name:
        soak = Soak(Path(name), arguments)
        broken: Sequence[str] = await soak.run()
    verdict = "nothing grows" if not broken else "; ".join(broken)
    print(f"verdict after {soak.tally.orders} orders in {arguments.minutes:g} minutes: {verdict}")
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=3.0, help="orders per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", default=None, help="where the database goes; a disk, not memory")
    sys.exit(asyncio.run(main(parser.parse_args())))
