"""`/metrics`: what the daemon counts, for Prometheus.

Counters and histograms stand beside what they count; `gauges` are looked up when somebody asks. It wants a key with
`read` or `admin`, except from this machine itself (a unix socket, or a loopback peer without forwarding headers).
"""

from __future__ import annotations

import ipaddress
import sys
import time
from functools import partial
from typing import Final

from aiohttp import web
from prometheus_client import PROCESS_COLLECTOR, REGISTRY, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from aggregator.domain.errors import StorageUnavailable
from aggregator.flow.base import House
from aggregator.flow.delivery import CALLBACKS
from aggregator.storage import catalogue, deliveries, endpoints, orders, reports
from aggregator.storage.database import Connection
from aggregator.web import gauges
from aggregator.web.auth import GATE, READERS, is_unix
from aggregator.web.health import READINESS, Readiness
from aggregator.web.hook_documents import state_of
from aggregator.web.services import WebServices, services_of

# When each series was made is asked by nobody, and would be a third of them.
disable_created_metrics()  # type: ignore[no-untyped-call]

# It finds out when the machine was started by /proc/stat, which the systemd unit hides (ProcSubset=pid), and would then
# say nothing of memory, processor and files. The clock that counts from that moment says the same.
if sys.platform == "linux" and not PROCESS_COLLECTOR._btime:
    PROCESS_COLLECTOR._btime = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)  # type: ignore[assignment]

REQUESTS: Final = Counter(
    "aggregator_http_requests_total", "Requests answered, by route and status.", ["method", "route", "status"]
)
REQUEST_SECONDS: Final = Histogram(
    "aggregator_http_request_seconds",
    "How long answers took.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


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
    """Look everything up first: what is set afterwards is of one moment."""
    house, rows, ready = services.house, None, False
    try:
        rows = await house.database.read(partial(_read, house))
    except StorageUnavailable:
        pass
    else:
        ready = await readiness.why_not() is None
    gauges.show(services, rows, database_up=ready)


def _read(house: House, connection: Connection) -> gauges.Rows:
    states = {row["name"]: state_of(row) for row in endpoints.of_operator(connection)}
    backlogs = {name: deliveries.backlog(connection, name) for name in states}
    return gauges.Rows(
        orders=orders.counts(connection),
        stuck=reports.stuck(connection),
        unclear=reports.unclear_purchases(connection),
        due=reports.due_since(connection, house.settings.providers, house.clock.now()),
        endpoints=states,
        backlogs={**backlogs, CALLBACKS: deliveries.backlog_of_callbacks(connection)},
        standings=endpoints.callbacks_by_standing(connection),
        providers=catalogue.health(connection),
        size=reports.database_size(connection),
    )
