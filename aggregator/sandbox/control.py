"""`/control/…`: what tests and demos use to inspect and steer. Decides its routes and errors; no key is asked for.

A wrong body is 400 with `{"error": "field: reason"}`, an unknown account or order 404. Calls here are never counted.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from . import edits
from .account import Account
from .catalogue import Service
from .dialects import ACTIONS
from .faults import read_rules
from .fields import FieldError, Fields
from .orders import Order
from .refusals import Refusal
from .world import World

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(world: World) -> web.Application:
    """The control endpoints as a sub-application."""
    desk = _Desk(world)
    app = web.Application(middlewares=[_errors])
    app.router.add_get("/health", desk.health)
    app.router.add_get("/ledger", desk.ledger)
    app.router.add_get("/calls", desk.calls)
    app.router.add_post("/reset-counts", desk.reset_counts)
    app.router.add_get("/faults", desk.faults)
    app.router.add_post("/faults", desk.set_faults)
    app.router.add_post("/advance", desk.advance)
    app.router.add_get("/accounts", desk.accounts)
    app.router.add_get("/accounts/{name}", desk.account)
    app.router.add_post("/accounts/{name}", desk.edit_account)
    app.router.add_post("/accounts/{name}/services/{id}", desk.edit_service)
    app.router.add_post("/accounts/{name}/projects/{id}", desk.edit_project)
    app.router.add_get("/accounts/{name}/orders/{id}", desk.order)
    app.router.add_post("/accounts/{name}/orders/{id}", desk.edit_order)
    app.router.add_post("/accounts/{name}/refills/{id}", desk.edit_refill)
    app.router.add_post("/accounts/{name}/numbers/{id}", desk.edit_number)
    return app


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except FieldError as exc:
        return web.json_response({"error": str(exc)}, status=400)
    except (LookupError, Refusal) as exc:
        text = "not found" if isinstance(exc, Refusal) else str(exc.args[0])
        return web.json_response({"error": text}, status=404)


class _Desk:
    """The handlers, each of which reads one body and gives one JSON object."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def health(self, request: web.Request) -> web.Response:
        world = self._world
        return web.json_response({"ok": True, "seed": world.seed, "speed": world.timeline.speed, "now": world.now()})

    async def ledger(self, request: web.Request) -> web.Response:
        return web.json_response({"entries": self._world.ledger.shown(request.query.get("account"))})

    async def calls(self, request: web.Request) -> web.Response:
        return web.json_response({"accounts": self._world.calls.shown()})

    async def reset_counts(self, request: web.Request) -> web.Response:
        self._world.calls.reset()
        return web.json_response({"ok": True})

    async def faults(self, request: web.Request) -> web.Response:
        return web.json_response({"faults": self._world.faults.shown()})

    async def set_faults(self, request: web.Request) -> web.Response:
        self._world.faults.replace(read_rules(await _body(request), self._world.accounts, ACTIONS))
        return web.json_response({"faults": self._world.faults.shown()})

    async def advance(self, request: web.Request) -> web.Response:
        fields = Fields(await _body(request))
        seconds = fields.number("seconds")
        fields.done()
        if seconds is None:
            raise fields.error("seconds", "is required", None)
        self._world.timeline.advance(seconds)
        return web.json_response({"now": self._world.now()})

    async def accounts(self, request: web.Request) -> web.Response:
        shown = [edits.show_account(self._world, account) for account in self._world.accounts.values()]
        return web.json_response({"accounts": shown})

    async def account(self, request: web.Request) -> web.Response:
        return web.json_response(edits.show_account(self._world, self._account(request)))

    async def edit_account(self, request: web.Request) -> web.Response:
        account, fields = self._account(request), Fields(await _body(request))
        return web.json_response(edits.edit_account(self._world, account, fields))

    async def edit_service(self, request: web.Request) -> web.Response:
        account, fields = self._account(request), Fields(await _body(request))
        return web.json_response(edits.edit_service(account, _service(account, request), fields))

    async def edit_project(self, request: web.Request) -> web.Response:
        account, fields = self._account(request), Fields(await _body(request))
        return web.json_response(edits.edit_project(account, request.match_info["id"], fields))

    async def order(self, request: web.Request) -> web.Response:
        return web.json_response(edits.show_order(self._world, _order(self._account(request), request)))

    async def edit_order(self, request: web.Request) -> web.Response:
        account, fields = self._account(request), Fields(await _body(request))
        return web.json_response(edits.edit_order(self._world, account, _order(account, request), fields))

    async def edit_refill(self, request: web.Request) -> web.Response:
        account, fields = self._account(request), Fields(await _body(request))
        return web.json_response(edits.edit_refill(self._world, account, request.match_info["id"], fields))

    async def edit_number(self, request: web.Request) -> web.Response:
        account, fields = self._account(request), Fields(await _body(request))
        return web.json_response(edits.edit_number(self._world, account, request.match_info["id"], fields))

    def _account(self, request: web.Request) -> Account:
        name = request.match_info["name"]
        if name not in self._world.accounts:
            raise LookupError(f"no such account; there are {', '.join(self._world.accounts)}")
        return self._world.accounts[name]


def _service(account: Account, request: web.Request) -> Service:
    found = account.services.get(request.match_info["id"])
    if found is None:
        raise LookupError("no such service")
    return found


def _order(account: Account, request: web.Request) -> Order:
    found = account.orders.get(request.match_info["id"])
    if found is None:
        raise LookupError("no such order")
    return found


async def _body(request: web.Request) -> object:
    text = await request.text()
    try:
        return json.loads(text) if text.strip() else {}
    except ValueError as exc:
        raise FieldError(f"body: is not JSON: {exc}") from exc
