"""The sandbox on a loopback socket. Decides routes, what counts as a call, and start and stop; never prints or logs.

`/{account}/api/v2` is a provider, `/count?link=` the public counter of a link, `/control/…` steers and inspects.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from . import control
from .dialects import ACTIONS, answer
from .faults import load_rules
from .ledger import Call
from .wire import Waits, answered, faulted
from .world import World

MAX_BODY_BYTES = 8 * 1024 * 1024
_UNKNOWN = "(unknown)"
_WAITS = web.AppKey("waits", Waits)
_MANY = ("orders", "order", "refills", "refill")


def create_app(world: World) -> web.Application:
    """The sandbox as an aiohttp application, for `aiohttp.test_utils.TestServer` or any runner."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[_WAITS] = Waits()

    async def close(_: web.Application) -> None:
        await app[_WAITS].close()

    app.on_shutdown.append(close)
    for method in ("GET", "POST"):
        app.router.add_route(method, "/{account}/api/v2", _provider(world))
    app.router.add_route("*", "/{account}/redirected", _redirected(world))
    app.router.add_get("/count", _count(world))
    app.add_subapp("/control", control.create_app(world))
    return app


async def serve(
    *,
    host: str = "127.0.0.1",
    port: int,
    seed: int = 0,
    speed: float = 1.0,
    faults: Path | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the default accounts until cancelled. Port 0 takes a free one; `ready` gets the base URL once listening.

    A host that is not loopback, a wrong speed and a wrong fault file are a ValueError before anything listens.
    """
    if not is_loopback(host):
        raise ValueError(f"host: the sandbox listens on loopback only, got {host!r}")
    world = World(seed=seed, speed=speed)
    if faults is not None:
        world.faults.replace(load_rules(faults, world.accounts, ACTIONS))
    runner = web.AppRunner(create_app(world), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        if ready is not None:
            address, bound = runner.addresses[0][:2]
            ready(f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is this machine only; names other than localhost are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _provider(world: World) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        name = request.match_info["account"]
        if name not in world.accounts:
            return web.json_response({"error": f"no such account; there are {', '.join(world.accounts)}"}, status=404)
        params = {key: value for key, value in request.query.items() if request.method == "GET"}
        if request.method == "POST":
            params |= {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        key, action = params.pop("key", ""), params.pop("action", "")
        counted = action if action in ACTIONS else _UNKNOWN
        with world.calls.flight(name, counted, _ids(params)):
            rule = world.faults.pick(name, counted)
            call = Call(
                account=name,
                action=action,
                params=params,
                idempotency_key=request.headers.get("Idempotency-Key"),
                fault=None if rule is None else rule.fault,
                withheld=rule is not None and rule.kind.stage == "after",
            )

            def serve_call() -> object:
                return answer(world, key, call, may_change=request.method == "POST")

            if rule is None:
                return answered(serve_call())
            return await faulted(request, rule, request.app[_WAITS], serve_call)

    return handle


def _redirected(world: World) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Where `redirect` points: a caller that follows it is counted, for it may have carried its key away."""

    async def handle(request: web.Request) -> web.StreamResponse:
        with world.calls.flight(request.match_info["account"], "(redirected)", 0):
            return web.json_response({"error": "Invalid action"})

    return handle


def _count(world: World) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response({"count": world.links.count(request.query.get("link", ""), world.now())})

    return handle


def _ids(params: dict[str, str]) -> int:
    """How many ids a status, refill or cancel call carries."""
    named = next((params[name] for name in _MANY if params.get(name)), "")
    return len([part for part in named.split(",") if part.strip()])
