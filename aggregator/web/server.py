"""The application: every route behind the scopes it needs, and the one middleware around all of them.

The middleware turns what is raised into problem documents (the table is in `problems`), names each request, and logs
one line for it: never a query string, never a body. `WebServices` and `start_sites` are what the daemon uses.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from itertools import count
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Counter, Histogram
from structlog.contextvars import bind_contextvars

from aggregator.config import KeySettings
from aggregator.domain.errors import Problem, ProblemKind, StorageUnavailable
from aggregator.log import get_logger, say_often
from aggregator.storage.database import be_patient
from aggregator.web import api_events, health, metrics, placing, reader
from aggregator.web.auth import GATE, Gate
from aggregator.web.feed import FEED, Feed
from aggregator.web.limits import OpenOrders, Waiting
from aggregator.web.once import RUNNING, Running
from aggregator.web.openapi import document
from aggregator.web.operations import Endpoint, Route
from aggregator.web.panel.window import WINDOW, Window
from aggregator.web.problems import framework_problem, plain_document
from aggregator.web.query import QUERY
from aggregator.web.rendering import ACTION, CALLER, REQUEST_ID, Answer, dumps, problem_answer, response
from aggregator.web.routes import ROUTES
from aggregator.web.services import SERVICES, WebServices
from aggregator.web.sites import start_sites

__all__ = ["WebServices", "create_app", "let_in", "start_sites"]

log = get_logger()

PATIENCE_S: Final = 2.0
"""How long a request waits for another process that holds SQLite's lock, before it is told to come back later."""
# Names of requests: random once, then counted. Asking the system for randomness each time would let go of the
# interpreter's lock, which the database's thread then holds for a while.
_PROCESS: Final = secrets.token_hex(8)
_REQUESTS: Final = count(1)
_CLIENT_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def create_app(services: WebServices) -> web.Application:
    """The application over a house; it starts nothing by itself."""
    house = services.house
    app = web.Application(middlewares=[_around], client_max_size=house.settings.http.max_body_bytes)
    feed = Feed(house.database)
    app[SERVICES] = services
    app[GATE] = gate = Gate(house.settings.keys, house.clock)
    app[RUNNING] = Running()
    app[placing.OPEN_ORDERS] = OpenOrders()
    app[FEED] = feed
    app[api_events.WAITING] = Waiting()
    app[WINDOW] = Window()
    app[health.READINESS] = health.Readiness(house)
    app[reader.READER] = reader.Reader(lambda: document(ROUTES, services.version))
    for route in ROUTES:
        for path in (route.path, *route.aliases):
            if route.method == "GET" and route.heads:
                app.router.add_get(path, _handler(route, gate))
            else:
                app.router.add_route(route.method, path, _handler(route, gate))
    house.wakeups.on("feed", feed.wake)

    async def close_feed(_app: web.Application) -> None:
        feed.close()

    app.on_shutdown.append(close_feed)
    return app


def let_in(app: web.Application, keys: Sequence[KeySettings]) -> None:
    """Callers are those of another config from now on."""
    app[GATE].adopt(keys)


def _handler(route: Route, gate: Gate) -> Handler:
    if route.scopes is None or not route.admits:
        return cast(Handler, route.endpoint)
    scopes, query, endpoint = route.scopes, route.query, cast(Endpoint, route.endpoint)

    async def handler(request: web.Request) -> web.StreamResponse:
        caller = gate.admit(request, scopes)
        request[CALLER] = caller.name
        if query.known or request.query_string:
            request[QUERY] = query.read(request)
        return await endpoint(request, caller)

    return handler


@web.middleware
async def _around(request: web.Request, handler: Handler) -> web.StreamResponse:
    began = time.perf_counter()
    request_id = _request_id(request)
    request[REQUEST_ID] = request_id
    # aiohttp makes a task for each request, so what is said in its context is forgotten with it.
    bind_contextvars(request_id=request_id)
    be_patient(PATIENCE_S)
    answer = await _answered(request, handler)
    if not answer.prepared:
        headers = answer.headers
        headers.setdefault("Cache-Control", "no-store")
        headers["X-Content-Type-Options"] = "nosniff"
        headers["X-Request-Id"] = request_id
        # aiohttp would name its own version and Python's.
        headers["Server"] = "aggregator"
    _note(request, request_id, answer.status, time.perf_counter() - began)
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


def _note(request: web.Request, request_id: str, status: int, took_s: float) -> None:
    """The one line of a request, by its route's pattern: paths hold ids, queries may hold anything."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "(none)"
    method = request.method if request.method in _METHODS else "(other)"
    kind = (method, route, status, request.get(CALLER), request.get(ACTION))
    counted = _COUNTED.get(kind)
    if counted is None:
        if len(_COUNTED) > _KINDS:
            _COUNTED.clear()
        counted = _COUNTED[kind] = _counted(*kind)
    requests, seconds, same = counted
    requests.inc()
    seconds.observe(took_s)
    ms = round(took_s * 1000, 1)
    if route in _QUIET:
        log.debug("request", **dict(same), ms=ms)
    elif "X-Request-Id" in request.headers:  # a name that the client chose, and may be anything
        log.info("request", **dict(same), ms=ms)
    else:
        say_often("request", same, ms=ms, request_id=request_id)


def _counted(method: str, route: str, status: int, caller: str | None, action: str | None) -> _Counted:
    same: tuple[tuple[str, Any], ...] = (("method", method), ("route", route), ("status", status), ("caller", caller))
    if action is not None:
        same = (*same, ("action", action))
    return metrics.REQUESTS.labels(method, route, status), metrics.REQUEST_SECONDS.labels(method, route), same


_Counted = tuple[Counter, Histogram, tuple[tuple[str, Any], ...]]
# Finding a counter by its labels takes longer than counting.
_COUNTED: Final[dict[tuple[str, str, int, str | None, str | None], _Counted]] = {}
_KINDS: Final = 1000
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics"})


def _request_id(request: web.Request) -> str:
    """The client's own id for its request when it is one, else a new one."""
    given = request.headers.get("X-Request-Id", "")
    return given if _CLIENT_REQUEST_ID.fullmatch(given) else f"{_PROCESS}-{next(_REQUESTS):x}"
