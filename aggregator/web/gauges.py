"""The gauges that are looked up when Prometheus asks, and how they are set; `metrics` looks.

Labels are what the config or this program names, never an order, a caller or an address, and whatever is gone has no
series any more: so their number is bounded. Nothing here waits, so that two scrapes at once both see whole figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from prometheus_client import Gauge, Info

from aggregator.domain.money import UNIT
from aggregator.domain.orders import UNFINISHED
from aggregator.flow.base import House
from aggregator.flow.delivery import expect
from aggregator.flow.health import Condition
from aggregator.storage import deliveries, reports
from aggregator.storage.database import RowMapping
from aggregator.storage.tables import ENDPOINT_STANDINGS
from aggregator.web.hook_documents import STATES
from aggregator.web.services import WebServices

BUILD: Final = Info("aggregator_build", "The version that runs.")
ORDERS: Final = Gauge("aggregator_orders", "Orders that are not finished, by state.", ["state"])
STUCK: Final = Gauge("aggregator_orders_stuck", "Orders that go on and stand still for longer than such orders take.")
UNCLEAR: Final = Gauge(
    "aggregator_unclear_purchases",
    "Purchases that were sent and of which nobody knows whether they happened.",
    ["provider"],
)
UNCLEAR_SINCE: Final = Gauge(
    "aggregator_unclear_oldest_timestamp_seconds",
    "When the oldest purchase that is unclear now was sent; none while there is none.",
    ["provider"],
)
UNCLEAR_COST: Final = Gauge(
    "aggregator_unclear_cost", "What unclear purchases should cost together.", ["provider", "currency"]
)
DUE_SINCE: Final = Gauge(
    "aggregator_queue_oldest_due_timestamp_seconds",
    "Since when a queue has something due; none while nothing is due.",
    ["queue", "provider"],
)
WAITING: Final = Gauge(
    "aggregator_deliveries_waiting", "Deliveries that are to be sent; callers' callbacks are one.", ["endpoint"]
)
PARKED: Final = Gauge(
    "aggregator_deliveries_parked", "Deliveries that are tried no more, until a replay.", ["endpoint"]
)
OLDEST: Final = Gauge(
    "aggregator_delivery_oldest_timestamp_seconds",
    "When the oldest delivery that waits was made; none while none waits.",
    ["endpoint"],
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
BREAKER_OPEN: Final = Gauge(
    "aggregator_provider_breaker_open", "1 while nothing is bought there because too many calls failed.", ["provider"]
)
BALANCE: Final = Gauge(
    "aggregator_provider_balance", "The balance that the provider last told.", ["provider", "currency"]
)
BALANCE_AT: Final = Gauge(
    "aggregator_provider_balance_timestamp_seconds", "When the provider last told its balance.", ["provider"]
)
BALANCE_LOW: Final = Gauge(
    "aggregator_provider_balance_low", "1 while the balance is below the config's min_balance.", ["provider"]
)
CATALOGUE_AT: Final = Gauge(
    "aggregator_provider_catalogue_timestamp_seconds", "When the catalogue was last taken over.", ["provider"]
)
LOOPS: Final = Gauge("aggregator_loop_last_run_timestamp_seconds", "When each loop last came round.", ["loop"])
DATABASE_UP: Final = Gauge("aggregator_database_up", "1 while the database can be read and written.")
DATABASE_SIZE: Final = Gauge("aggregator_database_size_bytes", "Size of the database, by part.", ["part"])
DISK_LEFT: Final = Gauge(
    "aggregator_database_disk_available_bytes", "What the disk of an SQLite file has left.", ["part"]
)

# fmt: off
_OF_ROWS: Final = (
    ORDERS, UNCLEAR, UNCLEAR_SINCE, UNCLEAR_COST, DUE_SINCE, WAITING, PARKED, OLDEST, ENDPOINT_STATE, CALLBACK_HOSTS,
    BALANCE, BALANCE_AT, BALANCE_LOW, CATALOGUE_AT, DATABASE_SIZE, DISK_LEFT,
)
# fmt: on
@dataclass(frozen=True, slots=True)
class Rows:
    """What the database knows at one moment."""

    orders: Mapping[str, int]
    stuck: int
    unclear: Sequence[reports.UnclearPurchases]
    due: Mapping[tuple[str, str], datetime]
    endpoints: Mapping[str, str]
    backlogs: Mapping[str, deliveries.Backlog]
    standings: Mapping[str, int]
    providers: Mapping[str, RowMapping]
    size: reports.DatabaseSize


def show(services: WebServices, rows: Rows | None, *, database_up: bool) -> None:
    """Set everything; `rows` None: the database could not be read, and what only it knows has no series."""
    house = services.house
    BUILD.info({"version": services.version})
    DATABASE_UP.set(database_up)
    for name, age in services.loops().items():
        LOOPS.labels(name).set((house.clock.now() - timedelta(seconds=age)).timestamp())
    for gauge in _OF_ROWS:
        gauge.clear()
    if rows is not None:
        _set_orders(house, rows)
        _set_endpoints(rows)
        _set_balances(house, rows.providers)
        _set_size(rows.size)
    else:
        STUCK.set(math.nan)
    _set_providers(house, rows.providers if rows is not None else {})


def _set_orders(house: House, rows: Rows) -> None:
    for state in UNFINISHED:
        ORDERS.labels(state).set(rows.orders.get(state, 0))
    STUCK.set(rows.stuck)
    for name in house.settings.providers:
        UNCLEAR.labels(name).set(0)
    for one in rows.unclear:
        UNCLEAR.labels(one.provider).inc(one.count)
        # Floats: a graph's line, never an amount that anybody computes with.
        UNCLEAR_COST.labels(one.provider, one.currency).set(one.units / UNIT)
    for provider in {one.provider for one in rows.unclear}:
        since = min(one.since for one in rows.unclear if one.provider == provider)
        UNCLEAR_SINCE.labels(provider).set(since.timestamp())
    for (queue, provider), since in rows.due.items():
        DUE_SINCE.labels(queue, provider).set(since.timestamp())


def _set_endpoints(rows: Rows) -> None:
    """What waits, by endpoint; callers' hosts, of which there may be thousands, under one name."""
    for name, now_in in rows.endpoints.items():
        for state in STATES:
            ENDPOINT_STATE.labels(name, state).set(state == now_in)
    for name, backlog in rows.backlogs.items():
        expect(name)
        WAITING.labels(name).set(backlog.waiting)
        PARKED.labels(name).set(backlog.parked)
        if backlog.oldest is not None:
            OLDEST.labels(name).set(backlog.oldest.timestamp())
    for standing in ENDPOINT_STANDINGS:
        CALLBACK_HOSTS.labels(standing).set(rows.standings.get(standing, 0))


def _set_balances(house: House, rows: Mapping[str, RowMapping]) -> None:
    """A currency is the provider's word: the last one alone has a series. One that is not asked has no age."""
    for name, settings in house.settings.providers.items():
        row = rows.get(name)
        if row is None or not settings.enabled:
            continue
        BALANCE_LOW.labels(name).set(bool(row["balance_low"]))
        if row["balance_units"] is not None:
            BALANCE.labels(name, row["balance_currency"]).set(row["balance_units"] / UNIT)
        if row["balance_at"] is not None:
            BALANCE_AT.labels(name).set(row["balance_at"].timestamp())
        if row["catalogue_at"] is not None:
            CATALOGUE_AT.labels(name).set(row["catalogue_at"].timestamp())


def _set_providers(house: House, rows: Mapping[str, RowMapping]) -> None:
    PROVIDER_TROUBLE.clear()
    for name, settings in house.settings.providers.items():
        standing = house.health.standing(name, rows.get(name), enabled=settings.enabled)
        PROVIDER_UP.labels(name).set(standing.up)
        BREAKER_OPEN.labels(name).set(house.health.down_reason(name) is not None)
        for condition in Condition:
            PROVIDER_STATE.labels(name, condition).set(condition is standing.condition)
        if standing.cause is not None:
            PROVIDER_TROUBLE.labels(name, standing.cause).set(1)


def _set_size(size: reports.DatabaseSize) -> None:
    for part, size_bytes in size.parts.items():
        DATABASE_SIZE.labels(part).set(size_bytes)
    if size.available is not None:
        DISK_LEFT.labels("main").set(size.available)
