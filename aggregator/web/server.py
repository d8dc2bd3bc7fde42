"""The application: every route with the scope it needs, and the one middleware around all of them.

The middleware turns what is raised into problem documents (the table is in `problems`), names each request, and logs
one line for it: never a query string, never a body. `WebServices` and `start_sites` are what the daemon uses.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Counter, Histogram
from structlog.contextvars import bind_contextvars, reset_contextvars

from aggregator.config import Scope
from aggregator.domain.errors import Problem, ProblemKind, StorageUnavailable
from aggregator.log import get_logger, say_often
from aggregator.storage.database import patience
from aggregator.web import api_actions, api_events, api_orders, api_providers, api_services, health, placing
from aggregator.web.auth import ADMINS, ANYBODY, BUYERS, GATE, READERS, Caller, Gate
from aggregator.web.limits import OpenOrders
from aggregator.web.once import RUNNING, Running
from aggregator.web.problems import framework_problem, plain_document
from aggregator.web.rendering import REQUEST_ID, Answer, dumps, problem_answer, response
from aggregator.web.services import SERVICES, WebServices
from aggregator.web.sites import start_sites

__all__ = ["WebServices", "create_app", "start_sites"]

log = get_logger()

CALLER: Final = web.RequestKey("caller", str)
PATIENCE_S: Final = 2.0
"""How long a request waits for another process that holds SQLite's lock, before it is told to come back later."""
# Names of requests: random once, then counted. Asking the system for randomness each time would let go of the
# interpreter's lock, which the database's thread then holds for a while.
_PROCESS: Final = secrets.token_hex(8)
_REQUESTS: Final = count(1)
_CLIENT_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Endpoint = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

_ROUTES: Final[tuple[tuple[str, str, frozenset[Scope], Endpoint], ...]] = (
    ("POST", "/v1/orders", BUYERS, placing.create),
    ("POST", "/v1/orders:batch", BUYERS, placing.create_batch),
    ("GET", "/v1/orders", ANYBODY, api_orders.list_orders),
    ("GET", "/v1/orders/{order}", ANYBODY, api_orders.get_order),
    ("GET", "/v1/orders/{order}/attempts", ANYBODY, api_orders.get_attempts),
    ("GET", "/v1/orders/{order}/events", ANYBODY, api_orders.get_order_events),
    ("GET", "/v1/orders/{order}/delivery", BUYERS, api_orders.get_delivery),
    ("POST", "/v1/orders/{order}/cancel", BUYERS, api_actions.cancel),
    ("POST", "/v1/orders/{order}/refill", BUYERS, api_actions.refill),
    ("POST", "/v1/orders/{order}/count", BUYERS, api_actions.count),
    ("POST", "/v1/orders/{order}/resolve", ADMINS, api_actions.resolve),
    ("POST", "/v1/quote", ANYBODY, api_services.quote),
    ("GET", "/v1/services", ANYBODY, api_services.list_services),
    ("GET", "/v1/events", ANYBODY, api_events.list_events),
    ("GET", "/v1/providers", READERS, api_providers.list_providers),
    ("GET", "/v1/providers/{provider}", READERS, api_providers.get_provider),
    ("GET", "/v1/providers/{provider}/services", READERS, api_providers.list_provider_services),
    ("GET", "/v1/providers/{provider}/services/{service}/history", READERS, api_providers.list_history),
    ("GET", "/v1/providers/{provider}/ledger", READERS, api_providers.list_ledger),
    ("POST", "/v1/providers/{provider}/sync", ADMINS, api_providers.sync),
    ("POST", "/v1/providers/{provider}/pause", ADMINS, api_providers.pause),
    ("POST", "/v1/providers/{provider}/resume", ADMINS, api_providers.resume),
    ("POST", "/v1/providers/{provider}/release", ADMINS, api_providers.release),
)


def create_app(services: WebServices) -> web.Application:
    """The application over a house; it starts nothing by itself."""
    house = services.house
    app = web.Application(middlewares=[_around], client_max_size=house.settings.http.max_body_bytes)
    feed = api_events.Feed(house.database)
    app[SERVICES] = services
    app[GATE] = gate = Gate(house.settings.keys, house.clock)
    app[RUNNING] = Running()
    app[placing.OPEN_ORDERS] = OpenOrders()
    app[api_events.FEED] = feed
    app[health.READINESS] = health.Readiness(house)
    for method, path, scopes, endpoint in _ROUTES:
        if method == "GET":  # and HEAD with it
            app.router.add_get(path, _guarded(endpoint, scopes, gate))
        else:
            app.router.add_route(method, path, _guarded(endpoint, scopes, gate))
    for path, probe in (("/livez", health.livez), ("/readyz", health.readyz), ("/metrics", health.metrics)):
        app.router.add_get(path, probe)
    house.wakeups.on("feed", feed.wake)

    async def close_feed(_app: web.Application) -> None:
        feed.close()

    app.on_shutdown.append(close_feed)
    return app


def _guarded(endpoint: Endpoint, scopes: frozenset[Scope], gate: Gate) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        caller = gate.admit(request, scopes)
        request[CALLER] = caller.name
        return await endpoint(request, caller)

    return handler


@web.middleware
async def _around(request: web.Request, handler: Handler) -> web.StreamResponse:
    began = time.perf_counter()
    request_id = _request_id(request)
    request[REQUEST_ID] = request_id
    bound = bind_contextvars(request_id=request_id)
    try:
        with patience(PATIENCE_S):
            answer = await _answered(request, handler)
        if not answer.prepared:
            answer.headers.setdefault("Cache-Control", "no-store")
            answer.headers["X-Content-Type-Options"] = "nosniff"
            answer.headers["X-Request-Id"] = request_id
            # aiohttp would name its own version and Python's.
            answer.headers["Server"] = "aggregator"
        _note(request, answer.status, time.perf_counter() - began)
    finally:
        reset_contextvars(**bound)
    return answer


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return response(problem_answer(problem, request[REQUEST_ID]))
    except StorageUnavailable as exc:
        log.warning("storage_unavailable", reason=str(exc))
        request.app[health.READINESS].failed()
        detail = "the database cannot be used now; what was asked for was not done"
        return response(problem_answer(Problem(ProblemKind.UNAVAILABLE, detail), request[REQUEST_ID]))
    except web.HTTPException as exc:
        return _framework_answer(request, exc)
    except Exception:
        log.exception("request_failed")
        detail = "the log has the details under this request's id"
        return response(problem_answer(Problem(ProblemKind.INTERNAL, detail), request[REQUEST_ID]))


def _framework_answer(request: web.Request, error: web.HTTPException) -> web.Response:
    extra = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    problem = framework_problem(error)
    if problem is not None:
        return response(problem_answer(problem, request[REQUEST_ID]), extra)
    document = plain_document(error.status, error.text or error.reason, request[REQUEST_ID])
    return response(Answer(error.status, dumps(document)), extra)


def _note(request: web.Request, status: int, took_s: float) -> None:
    """The one line of a request, by its route's pattern: paths hold ids, queries may hold anything."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "(none)"
    method = request.method if request.method in _METHODS else "(other)"
    counted = _COUNTED.get((method, route, status))
    if counted is None:
        counted = health.REQUESTS.labels(method, route, status), health.REQUEST_SECONDS.labels(method, route)
        _COUNTED[method, route, status] = counted
    counted[0].inc()
    counted[1].observe(took_s)
    ms, caller = round(took_s * 1000, 1), request.get(CALLER)
    if route in _QUIET:
        log.debug("request", method=method, route=route, status=status, ms=ms, caller=caller)
    elif "X-Request-Id" in request.headers:  # a name that the client chose, and may be anything
        log.info("request", method=method, route=route, status=status, ms=ms, caller=caller)
    else:
        same = (("method", method), ("route", route), ("status", status), ("caller", caller))
        say_often("request", same, ms=ms, request_id=request[REQUEST_ID])


# Finding a counter by its labels takes longer than counting.
_COUNTED: Final[dict[tuple[str, str, int], tuple[Counter, Histogram]]] = {}
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics"})


def _request_id(request: web.Request) -> str:
    """The client's own id for its request when it is one, else a new one."""
    given = request.headers.get("X-Request-Id", "")
    return given if _CLIENT_REQUEST_ID.fullmatch(given) else f"{_PROCESS}-{next(_REQUESTS):x}"
