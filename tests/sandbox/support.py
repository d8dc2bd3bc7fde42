"""A world with a clock that only tests move, a way to ask it without a socket, and one to ask it over a real one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from aiohttp.test_utils import BaseTestServer

from aggregator.sandbox.dialects import answer
from aggregator.sandbox.ledger import Call
from aggregator.sandbox.world import World

START = 1_700_000_000.0


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


class Desk:
    """A world and its clock. `ask` gives a JSON answer as a caller would parse it, without a socket."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.world = World(clock=self.clock, **options)

    def ask(self, account: str, action: str, **params: object) -> Any:
        texts = {name: str(value) for name, value in params.items()}
        key = texts.pop("key", self.world.accounts[account].settings.key)
        call = Call(account, action, texts)
        return json.loads(json.dumps(answer(self.world, key, call)))

    def buy(self, account: str, service: object, quantity: int, **params: object) -> str:
        """Buy and give the order id as text."""
        found = {"link": "https://example.com/p", **params}
        return str(self.ask(account, "add", service=service, quantity=quantity, **found)["order"])

    def balance(self, account: str) -> str:
        found = self.ask(account, "balance")["balance"]
        assert isinstance(found, str)
        return found


class Site:
    """The same world over a real socket."""

    def __init__(self, desk: Desk, server: BaseTestServer, session: aiohttp.ClientSession) -> None:
        self.desk, self.server, self.session = desk, server, session

    def post(self, account: str, action: str, headers: dict[str, str] | None = None, **params: Any) -> Any:
        """The request, not yet sent: `async with site.post(…) as reply`."""
        form = {"key": self.desk.world.accounts[account].settings.key, "action": action}
        form |= {name: str(value) for name, value in params.items()}
        url = self.server.make_url(f"/{account}/api/v2")
        return self.session.post(url, data=form, headers=headers, allow_redirects=False)

    def add(self, **headers: str) -> Any:
        """One purchase of 1000 followers from smmplus for 0.90."""
        return self.post("smmplus", "add", headers, service=1, link="https://example.com/p", quantity=1000)

    async def control(self, path: str, body: object = None, *, status: int = 200) -> Any:
        """GET without a body, POST with one."""
        url = self.server.make_url(f"/control/{path}")
        sent = self.session.get(url) if body is None else self.session.post(url, json=body)
        async with sent as reply:
            assert reply.status == status, await reply.text()
            return await reply.json()

    async def break_with(self, **rule: object) -> None:
        """Put one fault rule in force."""
        await self.control("faults", [rule])

    async def entries(self) -> list[dict[str, Any]]:
        found = (await self.control("ledger"))["entries"]
        assert isinstance(found, list)
        return found

    async def open_calls(self, number: int) -> None:
        """Wait until so many provider calls are open; asking over the socket lets the server go on."""
        async with asyncio.timeout(10):
            while (await self.control("calls"))["accounts"].get("smmplus", {}).get("open", 0) != number:
                pass

    async def accepted(self, number: int) -> None:
        """Wait until the ledger has so many entries."""
        async with asyncio.timeout(10):
            while len(await self.entries()) != number:
                pass

    async def idle(self) -> None:
        """Wait until the server has finished with every call, those whose caller has gone included."""
        await self.open_calls(0)
