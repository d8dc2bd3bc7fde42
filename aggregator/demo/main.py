"""`aggregator demo`: sets the scene, places the orders by HTTP, shows what happens, and stays up until Ctrl-C.

Decides when the demo is over. It reaches the daemon only by its public doors, so what it shows is what a user gets.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from rich.console import Console

from aggregator.demo.listener import Heard, Listener
from aggregator.demo.scene import REFILLED, WISHES, Scene, Wish, set_up
from aggregator.demo.screen import Screen
from aggregator.demo.supervisor import Supervisor
from aggregator.sandbox.server import create_app as sandbox_app
from aggregator.sandbox.world import World

FINAL: Final = ("completed", "partial", "canceled", "failed")
READY_WITHIN_S: Final = 60.0
DONE_WITHIN_S: Final = 180.0
UNCLEAR_FOR_S: Final = 10.0
"""So long an unclear order may still find its end by itself; then it is shown how a person ends it."""
LOOK_EVERY_S: Final = 0.25


class DemoFailed(Exception):  # a sentence for the person who runs it
    """The demo could not show what it promised."""


def run_demo(*, once: bool, port: int, speed: float, keep: Path | None) -> int:
    """Run it; 0 when everything was shown, 1 when something failed."""
    console = Console()
    with contextlib.ExitStack() as stack:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            folder = keep.resolve()
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aggregator-demo-")))
        try:
            chosen = free_port(port)
            if port not in (0, chosen):
                console.print(f"port {port} is taken, so the daemon gets {chosen}", highlight=False)
            return asyncio.run(Demo(Screen(console), Scene(folder, chosen), speed, once).run())
        except DemoFailed as exc:
            console.print(f"the demo failed: {exc}", style="red", highlight=False, markup=False)
            return 1


def free_port(wanted: int) -> int:
    """The wanted port, or any free one when somebody has it. It is bound as long as this process lives, so that nothing
    else here gets it: no other server, and no connection that goes out while the daemon is being started again."""
    for port in (wanted, 0):
        kept = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            kept.bind(("127.0.0.1", port))
        except OSError:
            kept.close()
            continue
        atexit.register(kept.close)
        return int(kept.getsockname()[1])
    raise DemoFailed("no free port on 127.0.0.1")


class Demo:
    def __init__(self, screen: Screen, scene: Scene, speed: float, once: bool) -> None:
        self._screen = screen
        self._scene = scene
        self._speed = speed
        self._once = once
        self._began = time.monotonic()
        self._wanted = asyncio.Event()
        self._shows: dict[str, str] = {}
        self._listener = Listener(scene.secret, self._heard)
        self._first_completed_s: float | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        # SIGHUP: the terminal was closed. The daemon is in a session of its own, so it has to be ended by us.
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signal_number, self._wanted.set)
        world = World(seed=7, speed=self._speed, clock=time.time)
        set_up(world)
        async with _serve(sandbox_app(world)) as sandbox, _serve(self._listener.app()) as listener:
            self._scene.write_config(sandbox, f"{listener}/hook")
            supervisor = Supervisor(self._scene.config, self._scene.log, self._restarted)
            self._screen.say(f"sandbox   {sandbox}  (three providers, two dialects, time x{self._speed:g})")
            self._screen.say(f"listener  {listener}/hook")
            headers = {"Authorization": f"Bearer {self._scene.key}"}
            try:
                await supervisor.start()
                self._screen.say(f"daemon    {self._scene.url}  (process {supervisor.pid}, log {self._scene.log})")
                async with aiohttp.ClientSession(self._scene.url, headers=headers) as api:
                    await self._show(api, world, sandbox, supervisor)
            finally:
                try:
                    self._screen.stop()
                finally:  # also when there is nobody left to print to
                    code = await supervisor.stop()
            self._screen.say(f"daemon ended with exit code {code}")
        return 0

    async def _show(self, api: aiohttp.ClientSession, world: World, sandbox: str, supervisor: Supervisor) -> None:
        await self._ready(api)
        await self._synced(api)
        for wish in WISHES:
            document = await self._place(api, wish)
            if document is None:
                return
            self._shows[document["id"]] = wish.shows
            self._screen.say(f"order {document['number']}: {wish.body['service']} - {wish.shows}")
        self._screen.start()
        orders = await self._follow(api)
        self._screen.stop()
        self._summary(orders, world)
        if self._wanted.is_set():
            return
        if self._once:
            self._judge(orders, world)
            return
        self._explain_unclear(orders)
        self._invite(sandbox, supervisor)
        await self._wanted.wait()

    async def _ready(self, api: aiohttp.ClientSession) -> None:
        while not self._wanted.is_set():
            with contextlib.suppress(aiohttp.ClientError):
                async with api.get("/readyz") as answer:
                    if answer.status == 200:
                        self._screen.say(f"ready     after {self._elapsed():.1f} s")
                        return
            if self._elapsed() > READY_WITHIN_S:
                raise DemoFailed(f"the daemon did not become ready; its log is {self._scene.log}:\n{self._tail()}")
            await self._pause()

    async def _place(self, api: aiohttp.ClientSession, wish: Wish) -> dict[str, Any] | None:
        """The order as taken; None when the demo is to end. Asked again under the same key if the daemon is killed."""
        key = {"Idempotency-Key": secrets.token_urlsafe(12)}
        while not self._wanted.is_set():
            with contextlib.suppress(aiohttp.ClientError):
                async with api.post("/v1/orders", json=wish.body, headers=key) as answer:
                    document: dict[str, Any] = await answer.json()
                    if answer.status == 201:
                        return document
                    if answer.status not in (409, 503):
                        raise DemoFailed(f"order refused: {document}")
            if self._elapsed() > READY_WITHIN_S:
                raise DemoFailed(f"an order could not be placed; the daemon's log ends:\n{self._tail()}")
            await self._pause()
        return None

    async def _synced(self, api: aiohttp.ClientSession) -> None:
        """Show the catalogue sync as it goes."""
        told: set[str] = set()
        while not self._wanted.is_set():
            providers = []
            with contextlib.suppress(aiohttp.ClientError):
                providers = (await self._get(api, "/v1/providers"))["providers"]
            for provider in providers:
                if provider["catalogue"]["synced_at"] and provider["name"] not in told:
                    told.add(provider["name"])
                    rows = provider["catalogue"]["rows"]
                    self._screen.say(f"catalogue {provider['name']}: {rows} services  [{len(told)}/{len(providers)}]")
            if providers and len(told) == len(providers):
                return
            if self._elapsed() > READY_WITHIN_S:
                raise DemoFailed("not every catalogue could be synced")
            await self._pause()

    async def _follow(self, api: aiohttp.ClientSession) -> list[dict[str, Any]]:
        """Until every order is final, or unclear for a while, and the dropped one is refilled."""
        until = self._elapsed() + DONE_WITHIN_S
        orders: list[dict[str, Any]] = []
        moving_at = self._elapsed()
        while not self._wanted.is_set():
            # A daemon that was killed is being started again.
            with contextlib.suppress(aiohttp.ClientError):
                found = (await self._get(api, "/v1/orders"))["orders"]
                orders = sorted((o for o in found if o["id"] in self._shows), key=lambda order: int(order["number"]))
                self._screen.orders([(order, self._shows[order["id"]]) for order in orders])
                if all(order["state"] in FINAL for order in orders) and _refilled(orders):
                    return orders
                if not all(order["state"] in (*FINAL, "unclear") for order in orders) or not _refilled(orders):
                    moving_at = self._elapsed()
                if self._elapsed() > moving_at + UNCLEAR_FOR_S:
                    return orders
            if self._elapsed() > until:
                late = f"not every order came to its end within {DONE_WITHIN_S:.0f} s"
                raise DemoFailed(f"{late}; the daemon's log ends:\n{self._tail()}")
            await self._pause()
        return orders

    def _summary(self, orders: Sequence[dict[str, Any]], world: World) -> None:
        self._screen.final_table()
        verified = "not all signatures verified" if self._listener.forged else "all signatures verified"
        self._screen.say(
            f"webhooks: {len(self._listener.heard)} events, {verified}; "
            f"{self._listener.repeated} repeated, {self._listener.forged} forged"
        )
        self._screen.say(f"the providers' own ledgers: {_purchases(world)} purchases for {len(orders)} orders")
        if self._first_completed_s is not None:
            self._screen.say(f"first completed order {self._first_completed_s:.1f} s after the start")

    def _judge(self, orders: Sequence[dict[str, Any]], world: World) -> None:
        """DemoFailed unless everything came out as it should."""
        open_ones = [f"order {order['number']} is {order['state']}" for order in orders if order["state"] not in FINAL]
        if open_ones:
            raise DemoFailed(", ".join(open_ones))
        if self._listener.forged:
            raise DemoFailed(f"{self._listener.forged} webhooks did not verify")
        if _purchases(world) != len(orders):
            raise DemoFailed("the providers' ledgers do not show one purchase per order")

    def _explain_unclear(self, orders: Sequence[dict[str, Any]]) -> None:
        unclear = [order["number"] for order in orders if order["state"] == "unclear"]
        if not unclear:
            return
        self._screen.say("")
        self._screen.say("The daemon was killed in the middle of a purchase, so it does not know whether it bought.")
        self._screen.say("It does not buy again. Look into the ledger below, and tell it:")
        for number in unclear:
            told = """{"outcome": "placed", "provider_order": "…"}' or '{"outcome": "not_placed"}"""
            self._screen.say(
                f"  curl -H 'Authorization: Bearer {self._scene.key}' --json '{told}' "
                f"{self._scene.url}/v1/orders/{number}/resolve"
            )

    def _invite(self, sandbox: str, supervisor: Supervisor) -> None:
        url, auth = self._scene.url, f"-H 'Authorization: Bearer {self._scene.key}'"
        body = '{"service": "ig-followers", "quantity": 100, "link": "https://instagram.com/you"}'
        self._screen.say("")
        self._screen.say("The daemon stays up. Go on with:")
        self._screen.say(f"  curl {auth} {url}/v1/orders")
        self._screen.say(f"  curl {auth} {url}/v1/orders/2/attempts      # why it fell over")
        self._screen.say(f"  curl {auth} {url}/v1/orders/4/delivery      # the accounts, opened")
        self._screen.say(f"  curl {auth} {url}/v1/providers")
        self._screen.say(f"  curl {auth} --json '{body}' {url}/v1/orders")
        self._screen.say(f"  curl {sandbox}/control/ledger               # what the providers really took")
        self._screen.say(f"  kill -9 {supervisor.pid}                    # the demo starts it again; nothing is lost")
        self._screen.say("Ctrl-C ends everything.")

    def _heard(self, event: Heard) -> None:
        order = event.order
        about = f"order {order['number']} {order['service']}: {order['state']}" if order else ""
        if event.type == "sms.code":
            about += f", code {event.data['code']['code']} for {event.data['number']['phone']}"
        if event.type == "order.dropped":
            about += f", {event.data['drop']} lost"
        if event.type == "order.completed" and self._first_completed_s is None:
            self._first_completed_s = self._elapsed()
        self._screen.event(f"{event.type:<18} {about}")

    def _restarted(self, code: int, pid: int) -> None:
        self._screen.event(f"the daemon died ({code}); started again as process {pid}")

    async def _get(self, api: aiohttp.ClientSession, path: str) -> dict[str, Any]:
        async with api.get(path) as answer:
            answer.raise_for_status()
            document: dict[str, Any] = await answer.json()
            return document

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), LOOK_EVERY_S)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _tail(self) -> str:
        try:
            return "\n".join(self._scene.log.read_text(errors="replace").splitlines()[-10:])
        except OSError:
            return ""


def _purchases(world: World) -> int:
    """How many purchases the providers accepted."""
    return sum(entry.action in ("add", "add_sms") for entry in world.ledger.entries())


def _refilled(orders: Sequence[dict[str, Any]]) -> bool:
    """Whether nobody has to be waited for: the order that drops has had its refill, or never came so far."""
    return all(
        any(refill["state"] in ("completed", "rejected", "unclear") for refill in order["refills"])
        for order in orders
        if order["service"] == REFILLED and order["state"] in ("completed", "partial")
    )


@contextlib.asynccontextmanager
async def _serve(app: web.Application) -> AsyncIterator[str]:
    """Serve an app on a free loopback port; its base URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
