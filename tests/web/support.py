"""What the tests of the doors share: a house with three callers, and requests in one line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from sqlalchemy import Connection, func, select

from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.flow.base import House
from aggregator.flow.intake import Intake
from aggregator.outbound import Outbound
from aggregator.storage import catalogue, tables
from aggregator.storage.database import Database
from aggregator.web.services import WebServices
from tests.support.described import undescribed
from tests.support.house import make_house

SHOP = "shop-key-0123456789"
OTHER = "other-key-0123456789"
READER = "reader-key-0123456789"
ADMIN = "admin-key-0123456789"

CONFIG = f"""
keys:
  - {{name: shop, key: {SHOP}, scopes: [orders]}}
  - {{name: other, key: {OTHER}, scopes: [orders]}}
  - {{name: reader, key: {READER}, scopes: [read]}}
  - {{name: boss, key: {ADMIN}, scopes: [admin]}}
  - {{name: quick, key: quick-key-0123456789, requests_per_second: 2}}
  - {{name: small, key: small-key-0123456789, max_open_orders: 3}}
  - name: rotating
    key: [{{value: old-key-0123456789, until: "2026-11-21T19:00:00Z"}}, {{value: new-key-0123456789}}]
currency: USD
exchange_rates: {{EUR: "1.10"}}
providers:
  smmplus: {{dialect: panel_v2, url: "http://127.0.0.1:9/api/v2", api_key: provider-key-1}}
  hstock: {{dialect: hstockplus, url: "http://127.0.0.1:9/hstock", api_key: provider-key-2, currency: EUR}}
services:
  ig-followers:
    kind: smm
    title: Instagram followers
    category: Instagram
    offers: [{{provider: smmplus, service: "1"}}, {{provider: hstock, service: "1"}}]
  ig-comments: {{kind: smm, category: Instagram, offers: [{{provider: smmplus, service: "2"}}]}}
  gmail-usa: {{kind: product, offers: [{{provider: hstock, service: "3"}}], panel_id: 2}}
  app-code-us: {{kind: sms, offers: [{{provider: hstock, project: "65f0aa", country: us}}]}}
"""


def a_row(service: str, rate: str = "0.90", currency: str = "USD", **fields: Any) -> CatalogueRow:
    usual: dict[str, Any] = {
        "name": f"service {service}",
        "kind": "smm",
        "type": "Default",
        "category": "Instagram",
        "minimum": 10,
        "maximum": 10_000,
        "refill": True,
        "cancel": False,
    }
    return CatalogueRow(service=service, rate=Money.parse(rate, currency), **{**usual, **fields})


ROWS = {
    "smmplus": [
        a_row("1"),
        a_row("2", type="Custom Comments", category="Comments"),
        a_row("9", "120481.93", category="Odd", problem="the price is absurd"),
    ],
    "hstock": [
        a_row("1", "0.50", "EUR"),
        a_row("3", "2.00", "EUR", kind="product", category="Mail", minimum=1, stock=7, has_stock=True, refill=False),
        a_row("65f0aa", "0.20", "EUR", kind="sms", category="Codes", country="us", minimum=1, maximum=10, refill=False),
    ],
}


async def open_house(
    database: Database, clock: ManualClock, folder: Path, config: str = CONFIG, outbound: Outbound | None = None
) -> House:
    """A house whose providers' catalogues were synced a moment ago; with `outbound` it knows what they can do."""
    house = make_house(database, clock, folder, config, outbound=outbound)
    now = clock.now()

    def write(connection: Connection) -> None:
        catalogue.ensure_providers(connection, list(house.settings.providers), now)
        for provider in house.settings.providers:
            rows = ROWS.get(provider, [])
            catalogue.insert_rows(connection, provider, rows, "USD", now)
            catalogue.set_health(connection, provider, now, catalogue_at=now, catalogue_rows=len(rows))

    await database.write(write)
    return house


@dataclass
class Doors:
    """The application under test and how to knock."""

    house: House
    ages: dict[str, float] = field(default_factory=lambda: {"routing": 0.5})
    draining: bool = False
    synced: list[str] = field(default_factory=list)
    sync_result: str | None = None

    def __post_init__(self) -> None:
        self.client: TestClient[Any, Any] = None  # type: ignore[assignment]
        self.intake = Intake(self.house)
        self.services = WebServices(
            house=self.house,
            intake=self.intake,
            loops=lambda: self.ages,
            draining=lambda: self.draining,
            sync=self._sync,
            version="1.2.3",
        )

    async def _sync(self, provider: str) -> str | None:
        self.synced.append(provider)
        return self.sync_result

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = SHOP,
        headers: Mapping[str, str] | None = None,
        data: bytes | BytesIO | AsyncIterator[bytes] | None = None,
    ) -> Reply:
        """One request; `body` goes as JSON, `data` as it is."""
        sent = dict(headers or {})
        if key is not None:
            sent.setdefault("Authorization", f"Bearer {key}")
        if body is not None or data is not None:
            sent.setdefault("Content-Type", "application/json")
        payload = data if data is not None else BytesIO(json.dumps(body).encode()) if body is not None else None
        async with self.client.request(method, path, data=payload, headers=sent) as response:
            reply = await Reply.of(response)
        assert (lacking := undescribed(method, path, reply.status, reply.headers, reply.text)) is None, lacking
        return reply

    async def get(self, path: str, *, key: str | None = SHOP, **more: Any) -> Reply:
        return await self.call("GET", path, key=key, **more)

    async def post(self, path: str, body: object = None, *, key: str | None = SHOP, **more: Any) -> Reply:
        return await self.call("POST", path, body, key=key, **more)

    async def order(self, **fields: Any) -> dict[str, Any]:
        """An order that was taken."""
        key = fields.pop("key", SHOP)
        reply = await self.post("/v1/orders", an_order(**fields), key=key)
        assert reply.status == 201, reply.json
        order: dict[str, Any] = reply.json
        return order

    async def stored(self) -> int:
        """How many orders the database holds."""
        query = select(func.count()).select_from(tables.orders)
        return await self.house.database.read(lambda c: c.execute(query).scalar_one())

    async def write(self, step: Any, *args: Any, **fields: Any) -> Any:
        return await self.house.database.write(partial(_run, step, args, fields))


def _run(step: Any, args: tuple[Any, ...], fields: Mapping[str, Any], connection: Connection) -> Any:
    return step(connection, *args, **fields)


@dataclass
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str

    @classmethod
    async def of(cls, response: ClientResponse) -> Reply:
        reply = cls(response.status, response.headers, await response.text())
        if response.status >= 400 and response.method != "HEAD":
            assert response.content_type == "application/problem+json", reply
            assert reply.json["status"] == response.status
            assert reply.json["type"].startswith("urn:aggregator:problem:")
            assert reply.json["title"]
            assert reply.json["detail"]
        return reply

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def problem(self) -> str:
        """The last part of the problem's type."""
        return str(self.json["type"]).rpartition(":")[2]

    @property
    def field(self) -> str | None:
        found: str | None = self.json.get("field")
        return found


def an_order(**fields: Any) -> dict[str, Any]:
    return {"service": "ig-followers", "link": "https://instagram.com/username", "quantity": 1000, **fields}
