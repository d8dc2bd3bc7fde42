"""The network of a simulated run: `Outbound` without sockets, with messages that take virtual time and get lost.

It serves the sandbox's own providers under the sandbox's own fault rules, and a webhook endpoint. What was sent arrives
whether its sender still lives or not, as on a real network.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from aggregator.domain.wire import HttpReply, HttpRequest, LostReply, NotSent, Outcome
from aggregator.outbound import Delivered
from aggregator.sandbox.dialects import ACTIONS, answer
from aggregator.sandbox.faults import FaultRule
from aggregator.sandbox.ledger import Call
from aggregator.sandbox.world import World

HOST: Final = "http://127.0.0.1:1"
MOST_LATENCY_S: Final = 0.4


class Endpoint:
    """A webhook receiver that remembers what it heard. `mood` decides how it answers each call."""

    def __init__(self, rng: random.Random) -> None:
        self.heard: dict[str, str] = {}
        """Event id: the first body under it."""
        self.changed: list[str] = []
        """Ids that came with two different bodies."""
        self.calls = 0
        self.failing = 0.0
        self._rng = rng

    def hear(self, event_id: str, body: str) -> int | None:
        """The status, or None when it answers nothing."""
        self.calls += 1
        if self._rng.random() < self.failing:
            deaf = self._rng.choice(("refuse", "silent", "forget"))
            if deaf == "refuse":
                return self._rng.choice((500, 503, 302, 404))
            if deaf == "forget":
                return None
            self._keep(event_id, body)
            return None
        self._keep(event_id, body)
        return 204

    def _keep(self, event_id: str, body: str) -> None:
        if self.heard.setdefault(event_id, body) != body:
            self.changed.append(event_id)


class Wire:
    """Every message between the house and the world.

    `step` is told of each, so that a crash can fall between two; `answered` after each call that a provider served.
    """

    def __init__(
        self,
        world: World,
        endpoint: Endpoint,
        rng: random.Random,
        step: Callable[[str], None],
        answered: Callable[[], None],
    ) -> None:
        self.world = world
        self.endpoint = endpoint
        self.unreachable: dict[str, float] = {}
        """How likely a connection to a provider is refused."""
        self.flat: set[str] = set()
        """Accounts that answer a batched status with the flat one of its first order."""
        self.under_way: dict[str, int] = {}
        """Purchases by their key that may still arrive."""
        self._rng = rng
        self._step = step
        self._answered = answered

    def latency(self) -> float:
        return self._rng.random() ** 3 * MOST_LATENCY_S

    def send(self, request: HttpRequest) -> asyncio.Future[Outcome]:
        """Put a request on its way; the future may get its answer."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        name = request.url.removeprefix(HOST).strip("/").split("/")[0]
        key = dict(request.headers).get("Idempotency-Key")
        if key is not None:
            self.under_way[key] = self.under_way.get(key, 0) + 1
        loop.call_later(self.latency(), self._arrive, name, request, key, future)
        return future

    def count(self, link: str) -> int:
        """What everybody sees at a link."""
        return self.world.links.count(link, self.world.now())

    def refused(self, request: HttpRequest) -> bool:
        name = request.url.removeprefix(HOST).strip("/").split("/")[0]
        return self._rng.random() < self.unreachable.get(name, 0.0)

    def _over(self, key: str | None) -> None:
        if key is not None:
            self.under_way[key] -= 1
            if not self.under_way[key]:
                del self.under_way[key]

    def _arrive(self, name: str, request: HttpRequest, key: str | None, future: asyncio.Future[Outcome]) -> None:
        params = dict(request.form)
        secret, action = params.pop("key", ""), params.pop("action", "")
        counted = action if action in ACTIONS else "(unknown)"
        with self.world.calls.flight(name, counted, 0):
            rule = self.world.faults.pick(name, counted)
        call = Call(
            account=name,
            action=action,
            params=params,
            idempotency_key=key,
            fault=None if rule is None else rule.fault,
            withheld=rule is not None and rule.kind.stage == "after",
        )

        def serve() -> object:
            self._step(f"{name} {action}")
            said = answer(self.world, secret, self._as_heard(call))
            self._answered()
            return said

        if rule is None:
            self._over(key)
            self._reply(future, _ok(serve()))
        elif rule.kind.wire == "delay":
            asyncio.get_running_loop().call_later(rule.delay_s or 0.0, self._late, rule, serve, key, future)
        else:
            self._over(key)
            self._fault(rule, serve() if rule.kind.stage == "after" else None, future)

    def _as_heard(self, call: Call) -> Call:
        """The call as the provider understands it: some panels take of many ids the first, and answer flat."""
        many = call.params.get("orders", "")
        if call.account in self.flat and call.action == "status" and "," in many:
            return replace(call, params={"order": many.split(",")[0]})
        return call

    def _late(
        self, rule: FaultRule, serve: Callable[[], object], key: str | None, future: asyncio.Future[Outcome]
    ) -> None:
        """A slow provider: one of the two kinds accepts although nobody waits any more."""
        self._over(key)
        if rule.fault == "accept_late" or not future.done():
            self._reply(future, _ok(serve()))

    def _fault(self, rule: FaultRule, said: object, future: asyncio.Future[Outcome]) -> None:
        kind = rule.kind
        body = kind.body if rule.body is None else rule.body
        match kind.wire:
            case "hold":
                return  # nobody ever answers
            case "reset":
                self._reply(future, LostReply("reset: ClientOSError"))
            case "close":
                self._reply(future, LostReply("closed: ServerDisconnectedError"))
            case "short_body":
                self._reply(future, LostReply("truncated: ClientPayloadError"))
            case "huge":
                self._reply(future, LostReply("too_large"))
            case "truncated":
                whole = (body if said is None or rule.body is not None else json.dumps(said)).encode()
                self._reply(future, HttpReply(200, whole[: len(whole) // 2], kind.content_type))
            case _:
                if rule.fault.startswith("error_text"):
                    body = json.dumps({"error": body})
                retry = rule.headers.get("Retry-After")
                wait_s = float(retry) if retry else None
                content = rule.content_type or kind.content_type
                self._reply(future, HttpReply(rule.status or kind.status, body.encode(), content, wait_s))

    def _reply(self, future: asyncio.Future[Outcome], outcome: Outcome) -> None:
        def come() -> None:
            if not future.done():
                future.set_result(outcome)

        asyncio.get_running_loop().call_later(self.latency(), come)

    def webhook(self, body: bytes, headers: Mapping[str, str]) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()

        def arrive() -> None:
            self._step("webhook")
            status = self.endpoint.hear(headers["webhook-id"], body.decode())
            if status is not None:
                loop.call_later(self.latency(), lambda: None if future.done() else future.set_result(status))

        loop.call_later(self.latency(), arrive)
        return future


def _ok(said: object) -> HttpReply:
    return HttpReply(200, json.dumps(said).encode(), "application/json")


class SimulatedOutbound:
    """What a house takes for `Outbound`. It dies with its run: what comes afterwards nobody hears."""

    def __init__(self, wire: Wire, step: Callable[[str], None], alive: Callable[[], bool]) -> None:
        self._wire = wire
        self._step = step
        self._alive = alive

    def _check(self) -> None:
        if not self._alive():
            raise asyncio.CancelledError

    async def read(self, request: HttpRequest, timeout_s: float) -> Outcome:
        return await self._post(request, timeout_s)

    async def fetch(self, url: str, timeout_s: float) -> Outcome:
        self._check()
        await asyncio.sleep(self._wire.latency())
        self._check()
        link = dict(parse_qsl(urlsplit(url).query))["link"]
        self._step("heard count")
        self._check()
        return _ok({"count": self._wire.count(link)})

    async def spend(self, request: HttpRequest, timeout_s: float) -> Outcome:
        return await self._post(request, timeout_s)

    async def _post(self, request: HttpRequest, timeout_s: float) -> Outcome:
        self._check()
        if self._wire.refused(request):
            await asyncio.sleep(self._wire.latency())
            self._check()
            return NotSent("ClientConnectorError: Connection refused")
        future = self._wire.send(request)
        self._step(f"sent {request.action}")
        self._check()
        outcome: Outcome
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await future
        except TimeoutError:
            outcome = LostReply("timeout")
        finally:
            future.cancel()
        self._check()
        self._step(f"heard {request.action}")
        self._check()
        return outcome

    async def deliver(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, *, guarded: bool = False
    ) -> Delivered | LostReply | NotSent:
        self._check()
        future = self._wire.webhook(body, headers)
        self._step("sent webhook")
        self._check()
        try:
            async with asyncio.timeout(timeout_s):
                status: Any = await future
        except TimeoutError:
            return LostReply("timeout")
        self._check()
        self._step("heard webhook")
        self._check()
        return Delivered(status)

    async def close(self) -> None:
        """Nothing is open."""
