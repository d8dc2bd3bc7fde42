"""What machines ask: is it alive, is it ready, what does it count.

`/livez` and `/readyz` are open to all who can connect and say nothing of the business. `/metrics` wants a key with
`read` or `admin`, except from this machine itself (a unix socket, or a loopback peer without forwarding headers).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Final

from aiohttp import web
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from aggregator.domain.errors import Problem, ProblemKind, StorageUnavailable
from aggregator.domain.money import UNIT
from aggregator.domain.orders import UNFINISHED
from aggregator.flow.base import House
from aggregator.flow.delivery import CALLBACKS
from aggregator.flow.health import Condition
from aggregator.log import get_logger
from aggregator.storage import catalogue, deliveries, endpoints, orders
from aggregator.storage.database import Connection, RowMapping
from aggregator.storage.tables import ENDPOINT_STANDINGS
from aggregator.web.auth import GATE, READERS, is_unix
from aggregator.web.hook_documents import STATES, state_of
from aggregator.web.rendering import json_response
from aggregator.web.services import WebServices, services_of

log = get_logger()

FRESH_S: Final = 1.0
"""How long a look at the database counts: probes may come from many sides at once."""
FAILED_S: Final = 5.0
"""How long a request that could not be served counts: a full disk may take the look's few bytes, but no order."""
WRITE_TIMEOUT_S: Final = 3.0

REQUESTS: Final = Counter(
    "aggregator_http_requests_total", "Requests answered, by route and status.", ["method", "route", "status"]
)
REQUEST_SECONDS: Final = Histogram(
    "aggregator_http_request_seconds",
    "How long answers took.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
ORDERS: Final = Gauge("aggregator_orders", "Orders that are not finished, by state.", ["state"])
UNDELIVERED: Final = Gauge("aggregator_oldest_undelivered_event_seconds", "Age of the oldest event not delivered yet.")
WAITING: Final = Gauge(
    "aggregator_deliveries_waiting", "Deliveries that are to be sent; callers' callbacks are one.", ["endpoint"]
)
PARKED: Final = Gauge(
    "aggregator_deliveries_parked", "Deliveries that are tried no more, until a replay.", ["endpoint"]
)
OLDEST: Final = Gauge(
    "aggregator_oldest_waiting_delivery_seconds", "Age of the oldest delivery that waits.", ["endpoint"]
)
ENDPOINT_STATE: Final = Gauge(
    "aggregator_endpoint_state", "1 for the state that an endpoint is in, 0 for the others.", ["endpoint", "state"]
)
CALLBACK_HOSTS: Final = Gauge("aggregator_callback_hosts", "Hosts of callbacks, by how they are doing.", ["standing"])
PROVIDER_UP: Final = Gauge("aggregator_provider_up", "1 while the provider's newest call succeeded.", ["provider"])
PROVIDER_STATE: Final = Gauge(
    "aggregator_provider_state", "1 for the state that a provider is in, 0 for the others.", ["provider", "state"]
)
PROVIDER_TROUBLE: Final = Gauge(
    "aggregator_provider_trouble", "1 while something is wrong; /v1/providers has the words.", ["provider", "cause"]
)
BALANCE: Final = Gauge(
    "aggregator_provider_balance", "The balance that the provider last told.", ["provider", "currency"]
)
LOOPS: Final = Gauge("aggregator_loop_age_seconds", "Time since each loop last came round.", ["loop"])
DATABASE_UP: Final = Gauge("aggregator_database_up", "1 while the database can be read and written.")

_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Readiness:
    """Whether the database takes a write; asked at most once a second, however many probes come.

    A request that failed because of the database says no, too, for a few seconds.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._lock = asyncio.Lock()
        self._looked_at = float("-inf")
        self._failed_at = float("-inf")
        self._reason: str | None = None

    def failed(self) -> None:
        """A request could not be served because of the database."""
        self._failed_at = asyncio.get_running_loop().time()

    async def why_not(self) -> str | None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._failed_at < FAILED_S:
            return "the database cannot be used"
        async with self._lock:
            if loop.time() - self._looked_at >= FRESH_S:
                self._reason = await self._look()
                self._looked_at = loop.time()
            return self._reason

    async def _look(self) -> str | None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._house.database.write(self._touch)
        except TimeoutError:
            return f"the database did not take a write within {WRITE_TIMEOUT_S:g} s"
        except StorageUnavailable as exc:
            log.warning("not_ready", reason=str(exc))
            return "the database cannot be written"
        return None

    def _touch(self, connection: Connection) -> None:
        """A write that matters to nobody, but has to reach the disk."""
        for name in list(self._house.settings.providers)[:1]:
            catalogue.set_health(connection, name, self._house.clock.now())


READINESS: Final = web.AppKey("readiness", Readiness)


async def livez(request: web.Request) -> web.Response:
    """200 while every loop comes round; 503 names those that do not."""
    services = services_of(request)
    loops = services.loops()
    stuck = {name: age for name, age in loops.items() if age > services.loop_limit_s(name)}
    if stuck:
        named = ", ".join(f"{name} ({age:.0f} s)" for name, age in sorted(stuck.items()))
        raise Problem(ProblemKind.UNAVAILABLE, f"these loops did not come round: {named}")
    return json_response({"status": "ok", "version": services.version})


async def readyz(request: web.Request) -> web.Response:
    """200 while orders can be taken: the database can be written and the daemon is not about to stop."""
    services = services_of(request)
    if services.draining():
        raise Problem(ProblemKind.UNAVAILABLE, "the daemon is stopping")
    reason = await request.app[READINESS].why_not()
    if reason is not None:
        raise Problem(ProblemKind.UNAVAILABLE, reason)
    return json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text, or OpenMetrics for those that ask for it."""
    if not _is_local(request):
        request.app[GATE].admit(request, READERS)
    await _collect(services_of(request), request.app[READINESS])
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})


def _is_local(request: web.Request) -> bool:
    """A peer on this machine. One that forwards for somebody else is not: it stands for them."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    if is_unix(request):
        return True
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False


async def _collect(services: WebServices, readiness: Readiness) -> None:
    house = services.house
    for name, age in services.loops().items():
        LOOPS.labels(name).set(age)
    rows: Mapping[str, RowMapping] = {}
    try:
        rows = await house.database.read(partial(_from_database, house))
    except StorageUnavailable:
        DATABASE_UP.set(0)
        ORDERS.clear()
    else:
        DATABASE_UP.set(await readiness.why_not() is None)
    _set_providers(house, rows)


def _set_providers(house: House, rows: Mapping[str, RowMapping]) -> None:
    PROVIDER_TROUBLE.clear()
    for name, settings in house.settings.providers.items():
        standing = house.health.standing(name, rows.get(name), enabled=settings.enabled)
        PROVIDER_UP.labels(name).set(standing.up)
        for condition in Condition:
            PROVIDER_STATE.labels(name, condition).set(condition is standing.condition)
        if standing.cause is not None:
            PROVIDER_TROUBLE.labels(name, standing.cause).set(1)


def _from_database(house: House, connection: Connection) -> Mapping[str, RowMapping]:
    """Set what is counted there; what it knows of each provider."""
    counts = orders.counts(connection)
    for state in UNFINISHED:
        ORDERS.labels(state).set(counts.get(state, 0))
    _set_endpoints(house, connection)
    rows = catalogue.health(connection)
    for name, row in rows.items():
        if row["balance_units"] is not None:
            # A float: a graph's line, never an amount that anybody computes with.
            BALANCE.labels(name, row["balance_currency"]).set(row["balance_units"] / UNIT)
    return rows


def _set_endpoints(house: House, connection: Connection) -> None:
    """What waits, by endpoint; callers' hosts, of which there may be thousands, under one name."""
    now, ages = house.clock.now(), [0.0]
    for gauge in (WAITING, PARKED, OLDEST, ENDPOINT_STATE):
        gauge.clear()
    for row in endpoints.of_operator(connection):
        name = row["name"]
        for state in STATES:
            ENDPOINT_STATE.labels(name, state).set(state == state_of(row))
        backlog = deliveries.backlog(connection, name)
        ages.append(_set_backlog(name, backlog, now))
    ages.append(_set_backlog(CALLBACKS, deliveries.backlog_of_callbacks(connection), now))
    UNDELIVERED.set(max(ages))
    standings = endpoints.callbacks_by_standing(connection)
    for standing in ENDPOINT_STANDINGS:
        CALLBACK_HOSTS.labels(standing).set(standings.get(standing, 0))


def _set_backlog(name: str, backlog: deliveries.Backlog, now: datetime) -> float:
    WAITING.labels(name).set(backlog.waiting)
    PARKED.labels(name).set(backlog.parked)
    age_s = (now - backlog.oldest).total_seconds() if backlog.oldest is not None else 0.0
    OLDEST.labels(name).set(age_s)
    return age_s
