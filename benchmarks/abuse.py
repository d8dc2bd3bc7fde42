"""A daemon under abuse: connections by the thousand, slow ones, large bodies, answers nobody takes; and a well-behaved
client beside them.

    .venv/bin/python benchmarks/abuse.py [--connections 10000] [--slow 2000] [--bodies 1000] [--hold 5]

Prints the daemon's resident memory before, at the peak of each attack, and after; what the attackers were told; and how
long the client waited. Everything runs on loopback, is bounded, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import resource
import secrets
import select
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CONFIG = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"], max_connections: {connections}}}
keys: [{{name: bench, key: {key}, scopes: [orders, admin]}}]
services: {{}}
"""
MEGABYTE = 1024 * 1024
LOOK_EVERY_S = 0.05
LEAST = 3
"""Requests that the client makes at least, however short the attack."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running daemon."""

    port: int
    pid: int
    key: str

    @property
    def resident(self) -> int:
        """Bytes in memory; 0 where there is no /proc."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def head(self, method: str, path: str, length: int = 0, *more: str) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.key}", *more]
        return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


@dataclass(slots=True)
class Seen:
    """What one attack did: the daemon's peak, what attackers were answered, and how the client fared meanwhile."""

    name: str
    peak: int = 0
    told: Counter[str] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        waits = sorted(self.waits_s) or [0.0]
        told = ", ".join(f"{count} {what}" for what, count in self.told.most_common()) or "-"
        refused = f"{sum(self.failed.values())} not {dict(self.failed) or ''}".strip()
        return (
            f"{self.name:<28} peak {self.peak / MEGABYTE:6.1f} MiB   client: {len(self.waits_s)} answered, {refused}, "
            f"median {waits[len(waits) // 2] * 1000:.0f} ms, worst {waits[-1] * 1000:.0f} ms\n"
            f"{'':<28} attackers: {told}"
        )


def client(port: int, key: str) -> None:
    """Somebody who behaves, in a process of their own: a fresh connection and one request after another, until
    standard input ends. Prints how it went."""
    waits_s: list[float] = []
    failed: Counter[str] = Counter()
    print("begun", flush=True)
    while len(waits_s) + failed.total() < LEAST or not select.select([sys.stdin], [], [], 0.02)[0]:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/v1/orders", headers={"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                waits_s.append(time.perf_counter() - began)
            else:
                failed[str(answer.status)] += 1
        except (OSError, http.client.HTTPException) as exc:
            failed[type(exc).__name__] += 1
        finally:
            connection.close()
    print(json.dumps({"waits_s": waits_s, "failed": failed}))


async def watch(target: Target, seen: Seen, done: asyncio.Event) -> None:
    while not done.is_set():
        seen.peak = max(seen.peak, target.resident)
        await asyncio.sleep(LOOK_EVERY_S)


Attack = Callable[[Target, Seen], Awaitable[None]]


async def _all_at_once(
    target: Target, seen: Seen, count: int, one: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[str]]
) -> None:
    """So many connections at the same time; `one` answers how it went for each."""

    async def each() -> None:
        try:
            reader, writer = await target.open()
            seen.told[await one(reader, writer)] += 1
            writer.close()
        except OSError as exc:
            seen.told[type(exc).__name__] += 1

    await asyncio.gather(*(each() for _ in range(count)))


async def silent(target: Target, seen: Seen, count: int, hold_s: float) -> None:
    """Connections that say nothing, all at once."""

    async def one(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> str:
        return await _ending(reader, hold_s)

    await _all_at_once(target, seen, count, one)


async def dripping(target: Target, seen: Seen, count: int, hold_s: float) -> None:
    """Headers, one byte at a time."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        ending = asyncio.create_task(_ending(reader, hold_s))
        for byte in target.head("GET", "/v1/orders"):
            writer.write(bytes([byte]))
            await asyncio.wait([ending], timeout=0.5)
            if ending.done():
                break
        return await ending

    await _all_at_once(target, seen, count, one)


async def bodies(target: Target, seen: Seen, count: int, hold_s: float) -> None:
    """Bodies of a megabyte, all but the last byte at once, which comes when all are there."""
    body = json.dumps({"service": "none", "quantity": 1, "link": "x"}).encode().ljust(MEGABYTE - 1)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(target.head("POST", "/v1/orders", MEGABYTE, "Content-Type: application/json") + body)
        answer = asyncio.create_task(_ending(reader, 30))
        await asyncio.wait([answer], timeout=hold_s)
        writer.write(b" ")
        return await answer

    await _all_at_once(target, seen, count, one)


async def unread(target: Target, seen: Seen, count: int, hold_s: float) -> None:
    """Requests behind each other whose answers nobody takes."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(int(hold_s * 20)):
            writer.write(target.head("GET", "/metrics") * 20)
            await asyncio.sleep(0.05)
            if writer.transport.is_closing():
                break
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        how = await _ending(reader, 1)
        writer.transport.abort()
        return how

    await _all_at_once(target, seen, count, one)


async def _ending(reader: asyncio.StreamReader, within_s: float) -> str:
    """The status of the first answer, or how it went without one."""
    try:
        async with asyncio.timeout(within_s):
            answer = await reader.read(64)
    except TimeoutError:
        return "left open"
    except OSError:
        return "reset"
    return answer[9:12].decode() if answer else "closed"


async def attack(target: Target, name: str, work: Attack) -> Seen:
    """One attack with the client and the watch beside it."""
    seen, done = Seen(name), asyncio.Event()
    pipe = asyncio.subprocess.PIPE
    arguments = [__file__, "--client", str(target.port), "--key", target.key]
    beside = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
    assert beside.stdout is not None
    await beside.stdout.readline()
    watching = asyncio.create_task(watch(target, seen, done))
    await work(target, seen)
    done.set()
    await watching
    told, _ = await beside.communicate(b"")
    fared = json.loads(told)
    seen.waits_s, seen.failed = fared["waits_s"], Counter(fared["failed"])
    return seen


def attacks(connections: int, slow: int, large: int, hold_s: float) -> Sequence[tuple[str, Attack]]:
    return (
        (f"{connections} silent connections", lambda t, s: silent(t, s, connections, hold_s)),
        (f"{slow} dripping headers", lambda t, s: dripping(t, s, slow, hold_s)),
        (f"{large} bodies of 1 MiB", lambda t, s: bodies(t, s, large, hold_s)),
        (f"{slow // 10} take no answers", lambda t, s: unread(t, s, slow // 10, hold_s)),
    )


async def main(connections: int, slow: int, large: int, hold_s: float, room: int) -> int:
    from aggregator.demo.main import free_port
    from aggregator.demo.supervisor import Supervisor

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="aggregator-bench-") as name:
        folder, port, key = Path(name), free_port(0), secrets.token_urlsafe(16)
        config = folder / "config.yaml"
        config.touch(mode=0o600)
        database = json.dumps(f"sqlite:///{folder / 'aggregator.db'}")
        config.write_text(CONFIG.format(database=database, port=port, key=key, connections=room))
        daemon = Supervisor(config, folder / "daemon.log", lambda code, pid: None)
        await daemon.start()
        try:
            target = Target(port, daemon.pid, key)
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(OSError):
                        _, writer = await target.open()
                        writer.close()
                        break
                    await asyncio.sleep(0.1)
            quiet = await attack(target, "nobody (2 s)", lambda t, s: asyncio.sleep(2))
            print(quiet.line())
            for told, work in attacks(connections, slow, large, hold_s):
                print((await attack(target, told, work)).line(), flush=True)
            after = await attack(target, "afterwards (5 s)", lambda t, s: asyncio.sleep(5))
            print(after.line())
            traced = (folder / "daemon.log").read_text().count("Traceback")
            print(f"resident now {target.resident / MEGABYTE:.1f} MiB; tracebacks in the log: {traced}")
        finally:
            await daemon.stop()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=2_000)
    parser.add_argument("--bodies", type=int, default=1_000)
    parser.add_argument("--hold", type=float, default=5.0, help="seconds")
    parser.add_argument("--room", type=int, default=1_000, help="max_connections of the daemon")
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.client:
        client(asked.client, asked.key)
        sys.exit(0)
    sys.exit(asyncio.run(main(asked.connections, asked.slow, asked.bodies, asked.hold, asked.room)))
