"""Who uses the daemon during a soak: callers of every kind, the well-behaved and the others, and webhook endpoints.

Each is a coroutine that goes on until it is cancelled, at an even pace, with its own dice. Nobody here judges anything;
what could not be sent or was answered with 5xx is counted in `Tally`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

import aiohttp
from aiohttp import web

from aggregator.sandbox.world import World

SLOW_S: Final = 0.5
"""How long the slow endpoint takes for each delivery."""
READERS: Final = 12
WARM_UP: Final = 100
_ORDERING: Final = frozenset({"single", "fresh", "repeat", "batch", "panel", "hang up"})
BATCH: Final = 20
REMEMBERED: Final = 200

KINDS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("followers", {"quantity": 100, "link": "https://example.com/{n}"}),
    ("drops", {"quantity": 100, "link": "https://example.com/{n}"}),
    ("partial", {"quantity": 100, "link": "https://example.com/{n}"}),
    ("gmail", {"quantity": 1}),
    ("half", {"quantity": 2}),
    ("code", {"quantity": 1}),
    ("expires", {"quantity": 1}),
    ("slow", {"quantity": 50, "link": "https://example.com/{n}"}),
    ("followers", {"quantity": 200, "link": "https://example.com/{n}", "params": {"runs": "2", "interval": "1"}}),
)
SERVICES: Final = """\
services:
  followers:
    kind: smm
    panel_id: 1
    offers: [{provider: smmplus, service: "1"}, {provider: smmcheap, service: "1"}]
    refill: {auto: false}
  drops:
    kind: smm
    offers: [{provider: smmcheap, service: "6"}]
    refill: {min_age_h: 0, check_every_h: 0.002, cooldown_h: 0.005, window_days: 0.0005, max_refills: 2}
  partial: {kind: smm, offers: [{provider: smmplus, service: "19"}], reroute_remainder: true, refill: {auto: false}}
  gmail: {kind: product, offers: [{provider: hstock, service: "2"}]}
  half: {kind: product, offers: [{provider: hstock, service: "8"}]}
  code: {kind: sms, offers: [{provider: hstock, project: "65f0aa", country: us}]}
  expires: {kind: sms, offers: [{provider: hstock, project: "65f0cc"}]}
  slow: {kind: smm, offers: [{provider: smmplus, service: "24"}], refill: {auto: false}}
"""


def stock_up(world: World) -> None:
    """Enough money and goods for any soak; no guarantee of thirty days, within which every order would be looked at."""
    for account in world.accounts.values():
        account.set_balance(Decimal(10**9), world.now())
        for key, service in account.services.items():
            stock = service.stock if service.stock is None else 10**8
            account.services[key] = replace(service, stock=stock)
    cheap, plus = world.accounts["smmcheap"].services, world.accounts["smmplus"].services
    cheap["6"] = replace(cheap["6"], name="Members TG")
    plus["24"] = replace(plus["24"], name="Followers Slow", behaviour=replace(plus["24"].behaviour, run_s=600.0))
    projects = world.accounts["hstock"].projects
    projects[:] = [
        replace(project, stock=10**8, behaviour=replace(project.behaviour, lifetime_s=600.0)) for project in projects
    ]


@dataclass(slots=True)
class Tally:
    """What happened so far."""

    orders: int = 0
    """Orders that were answered with 201."""
    heard: Counter[str] = field(default_factory=Counter)
    """Deliveries by endpoint."""
    answers: Counter[str] = field(default_factory=Counter)
    """Answers by who asked and status."""
    trouble: Counter[str] = field(default_factory=Counter)
    """What should not happen: 5xx, no answer, a wrong answer."""

    def note(self, who: str, status: int, *expected: int) -> None:
        self.answers[f"{who} {status}"] += 1
        if status not in expected:
            self.trouble[f"{who}: HTTP {status}"] += 1


def endpoints(tally: Tally) -> web.Application:
    """A healthy and a slow webhook endpoint."""

    async def healthy(request: web.Request) -> web.Response:
        await request.read()
        tally.heard["healthy"] += 1
        return web.Response(status=204)

    async def slow(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(SLOW_S)
        tally.heard["slow"] += 1
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/healthy", healthy)
    app.router.add_post("/slow", slow)
    return app


class Load:
    """All callers. `per_second` is how many orders are wanted in all."""

    def __init__(self, url: str, key: str, per_second: float, seed: int, tally: Tally) -> None:
        self._url = url
        self._host, self._port = url.removeprefix("http://").split(":")
        self._headers = {"Authorization": f"Bearer {key}"}
        self._key = key
        self._per_second = per_second
        self._rng = random.Random(f"soak:{seed}")
        self._tally = tally
        self._made = 0
        self._recent: deque[tuple[str, str]] = deque(maxlen=REMEMBERED)
        """Ids of orders, and the services that they are of."""
        self.go_on = asyncio.Event()
        """Not set while nobody orders: the machine is too slow for the pace, and queues say nothing of the daemon."""
        self.go_on.set()

    async def run(self) -> None:
        """Until cancelled; every connection is closed at the end."""
        async with self._session() as kept, asyncio.TaskGroup() as everybody:
            # Batches at once and many, so that caches are full before it matters what grows.
            for _ in range(WARM_UP // BATCH):
                await self.go_on.wait()
                await self._batch(kept)
            for who, every_s, work in (
                ("single", 4 / self._per_second, self._single),
                ("fresh", 4 / self._per_second, self._fresh),
                ("repeat", 8 / self._per_second, self._repeat),
                ("batch", 4 * BATCH / self._per_second, self._batch),
                ("panel", 8 / self._per_second, self._panel),
                ("read", 0.1, self._read),
                ("act", 0.3, self._act),
                ("wrong key", 0.7, self._wrong_key),
                ("malformed", 0.3, self._malformed),
                ("raw", 0.4, self._raw),
                ("hang up", 0.3, self._hang_up),
            ):
                everybody.create_task(self._at_a_pace(who, every_s, work, kept))
            for n in range(READERS):
                everybody.create_task(self._follow(kept, hangs_up=n % 3 == 0))

    def _session(self, **options: Any) -> aiohttp.ClientSession:
        limits = aiohttp.TCPConnector(limit=0, **options)
        timeout = aiohttp.ClientTimeout(total=60)
        return aiohttp.ClientSession(self._url, headers=self._headers, connector=limits, timeout=timeout)

    async def _at_a_pace(
        self,
        who: str,
        every_s: float,
        work: Callable[[aiohttp.ClientSession], Awaitable[None]],
        kept: aiohttp.ClientSession,
    ) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._rng.random() * every_s
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            if who in _ORDERING:
                await self.go_on.wait()
            due = max(due + every_s, loop.time() - 5 * every_s)
            try:
                await work(kept)
            except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                self._tally.trouble[f"{who}: {type(exc).__name__}"] += 1

    def _wish(self) -> dict[str, Any]:
        service, order = KINDS[self._made % len(KINDS)]
        self._made += 1
        link = {"link": order["link"].format(n=self._made)} if "link" in order else {}
        return {"service": service, **order, **link, "reference": f"soak-{self._made}"}

    def _placed(self, order: dict[str, Any]) -> None:
        self._tally.orders += 1
        self._recent.append((order["id"], order["service"]))

    async def _post(self, session: aiohttp.ClientSession, who: str, path: str, body: object, **options: Any) -> Any:
        expected = options.pop("expected", (201,))
        async with session.post(path, json=body, **options) as answer:
            said = await answer.json(content_type=None)
            self._tally.note(who, answer.status, *expected)
            return said if answer.status in (200, 201) else None

    # --- callers who want something ---

    async def _single(self, kept: aiohttp.ClientSession) -> None:
        if (order := await self._post(kept, "single", "/v1/orders", self._wish())) is not None:
            self._placed(order)

    async def _fresh(self, _: aiohttp.ClientSession) -> None:
        async with self._session(force_close=True) as own:
            if (order := await self._post(own, "fresh", "/v1/orders", self._wish())) is not None:
                self._placed(order)

    async def _batch(self, kept: aiohttp.ClientSession) -> None:
        wishes = [self._wish() for _ in range(BATCH)]
        wishes.append({"service": "nobody-sells-this", "quantity": 1})
        found = await self._post(kept, "batch", "/v1/orders:batch", {"orders": wishes}, expected=(200,))
        for result in found["results"] if found else ():
            if result["status"] == 201:
                self._placed(result["order"])

    async def _repeat(self, kept: aiohttp.ClientSession) -> None:
        wish, key = self._wish(), {"Idempotency-Key": f"soak-{self._made}"}
        first = await self._post(kept, "repeat", "/v1/orders", wish, headers=key)
        again = await self._post(kept, "repeat", "/v1/orders", wish, headers=key)
        await self._post(kept, "repeat", "/v1/orders", self._wish(), headers=key, expected=(422,))
        if first is not None:
            self._placed(first)
        if first is not None and again is not None and first["id"] != again["id"]:
            self._tally.trouble["repeat: another order"] += 1

    async def _panel(self, kept: aiohttp.ClientSession) -> None:
        form = {"key": self._key, "action": "add", "service": "1", "quantity": "100"}
        async with kept.post("/api/v2", data=form | {"link": self._wish().get("link", "x")}) as answer:
            order = str((await answer.json(content_type=None)).get("order", ""))
            self._tally.note("panel", answer.status, 200)
        if not order:
            self._tally.trouble["panel: no order"] += 1
            return
        self._tally.orders += 1
        for action in ({"action": "status", "order": order}, {"action": "services"}, {"action": "balance"}):
            async with kept.post("/api/v2", data={"key": self._key} | action) as answer:
                await answer.read()
                self._tally.note("panel", answer.status, 200)

    async def _read(self, kept: aiohttp.ClientSession) -> None:
        order = self._rng.choice(self._recent)[0] if self._recent else "1"
        path = self._rng.choice(
            (
                f"/v1/orders/{order}",
                f"/v1/orders/{order}/attempts",
                f"/v1/orders/{order}/events",
                f"/v1/orders/{order}/delivery",
                "/v1/orders?limit=20",
                "/v1/orders?state=in_progress&limit=20",
                "/v1/orders?reference=soak-7",
                "/v1/services",
                "/v1/providers",
                "/v1/providers/hstock/services",
                "/v1/providers/smmplus/ledger?limit=20",
                "/livez",
                "/readyz",
            )
        )
        async with kept.get(path) as answer:
            await answer.read()
            self._tally.note("read", answer.status, 200, 404)

    async def _act(self, kept: aiohttp.ClientSession) -> None:
        if not self._recent:
            return
        order, service = self._rng.choice(self._recent)
        action = "cancel" if service == "slow" else self._rng.choice(("refill", "count", "cancel"))
        body = {"count": self._rng.randrange(10_000)} if action == "count" else {}
        await self._post(kept, action, f"/v1/orders/{order}/{action}", body, expected=(202, 200, 409, 422))
        quote = {"service": "followers", "quantity": 100}
        await self._post(kept, "quote", "/v1/quote", quote, expected=(200,))

    async def _follow(self, kept: aiohttp.ClientSession, *, hangs_up: bool) -> None:
        """A reader of the feed. One that hangs up leaves in the middle of each long poll."""
        after = 0
        while True:
            try:
                patience = aiohttp.ClientTimeout(total=self._rng.uniform(0.05, 2.0) if hangs_up else 60)
                async with kept.get(f"/v1/events?after={after}&wait=5&limit=500", timeout=patience) as answer:
                    found = await answer.json()
                    self._tally.note("follow", answer.status, 200)
                after = found["next_after"]
            except TimeoutError:
                self._tally.answers["follow hung up"] += 1
            except (aiohttp.ClientError, OSError) as exc:
                self._tally.trouble[f"follow: {type(exc).__name__}"] += 1
                await asyncio.sleep(0.5)

    # --- callers who do it wrong ---

    async def _wrong_key(self, kept: aiohttp.ClientSession) -> None:
        wrong = {"Authorization": f"Bearer wrong-{self._rng.getrandbits(64):x}"}
        async with kept.get("/v1/orders", headers=wrong) as answer:
            await answer.read()
            self._tally.note("wrong key", answer.status, 401, 429)

    async def _malformed(self, kept: aiohttp.ClientSession) -> None:
        odd = self._rng.getrandbits(32)
        body, expected = self._rng.choice(
            (
                (b"{", 400),
                (b'{"service": "followers", "quantity": -1}', 422),
                (json.dumps({"service": f"s{odd}", "quantity": 1}).encode(), 422),
                (json.dumps({f"f{odd}": 1}).encode(), 422),
                (b"[" * 20_000, 400),
                (b" " * 2_000_000, 413),
            )
        )
        headers = {"Content-Type": "application/json", "X-Request-Id": f"r-{odd}"}
        async with kept.post("/v1/orders", data=body, headers=headers) as answer:
            await answer.read()
            self._tally.note("malformed", answer.status, expected)
        async with kept.request(self._rng.choice(("GET", "PUT", "BREW")), f"/{odd}") as answer:
            await answer.read()
            self._tally.note("lost", answer.status, 404, 405, 400)

    @contextlib.asynccontextmanager
    async def _connected(self, *, reset: bool) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection, ended by FIN or by RST."""
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        try:
            yield reader, writer
        finally:
            if reset:
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _raw(self, _: aiohttp.ClientSession) -> None:
        """What is not HTTP at all, or never becomes whole."""
        said = self._rng.choice(
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"GET / HTTP/9.9\r\n\r\n",
                b"GET /v1/orders HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
                b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
                b"GET /v1/or",
                b"",
            )
        )
        async with self._connected(reset=self._rng.random() < 0.3) as (reader, writer):
            writer.write(said)
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._rng.uniform(0.0, 3.0)):
                    await reader.read(1000)
        self._tally.answers["raw"] += 1

    async def _hang_up(self, _: aiohttp.ClientSession) -> None:
        """In the middle of the body, or before the answer."""
        body = json.dumps(self._wish()).encode()
        whole = self._rng.random() < 0.3
        head = f"POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        async with self._connected(reset=self._rng.random() < 0.5) as (_reader, writer):
            writer.write(head.encode() + (body if whole else body[: len(body) // 2]))
            with contextlib.suppress(OSError):
                await writer.drain()
            await asyncio.sleep(0.0 if whole else self._rng.uniform(0.0, 1.0))
        self._tally.answers["hung up"] += 1
