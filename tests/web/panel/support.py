"""A panel door with callers of both documents, and calls as clients of the protocol make them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import update

from aggregator.domain.clock import ManualClock
from aggregator.outbound import Outbound
from aggregator.storage.database import Database
from aggregator.storage.tables import provider_services
from aggregator.web.panel.window import WINDOW, Window
from aggregator.web.server import create_app
from tests.web.support import Doors, open_house

SMM = "smm-key-0123456789"
STOCK = "stock-key-0123456789"
OTHER = "other-key-0123456789"
OLD = "old-client-key-0123456789"
READER = "reader-key-0123456789"
ADMIN = "admin-key-0123456789"

CONFIG = f"""
keys:
  - {{name: smm, key: {SMM}, scopes: [orders]}}
  - {{name: stock, key: {STOCK}, scopes: [orders], panel: hstockplus}}
  - {{name: other, key: {OTHER}, scopes: [orders]}}
  - {{name: old, key: {OLD}, scopes: [orders], panel_get: true}}
  - {{name: reader, key: {READER}, scopes: [read], panel: hstockplus}}
  - {{name: boss, key: {ADMIN}, scopes: [admin]}}
  - {{name: quick, key: quick-key-0123456789, requests_per_second: 2}}
  - {{name: small, key: small-key-0123456789, max_open_orders: 1}}
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
    panel_id: 1
    offers: [{{provider: smmplus, service: "1"}}, {{provider: hstock, service: "1"}}]
  ig-comments: {{kind: smm, category: Instagram, panel_id: 5, offers: [{{provider: smmplus, service: "2"}}]}}
  gmail-usa: {{kind: product, offers: [{{provider: hstock, service: "3"}}], panel_id: 2}}
  app-code-us: {{kind: sms, offers: [{{provider: hstock, project: "65f0aa", country: us}}], panel_id: 3}}
  own-runs: {{kind: smm, category: Instagram, panel_id: 6, offers: [{{provider: hstock, service: "1"}}]}}
  unlisted: {{kind: smm, offers: [{{provider: smmplus, service: "1"}}]}}
  unknown: {{kind: smm, panel_id: 8, offers: [{{provider: smmplus, service: "88"}}]}}
"""
LINK = "https://instagram.com/username"


@dataclass
class PanelDoors(Doors):
    """The application, knocked at by the panel protocol."""

    async def send(
        self,
        data: bytes | None,
        content_type: str | None = "application/x-www-form-urlencoded",
        *,
        method: str = "POST",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """One request as it is; what came back, which is JSON with status 200 whatever went wrong."""
        sent = {**(headers or {}), **({"Content-Type": content_type} if content_type else {})}
        body = BytesIO(data) if data is not None else None
        async with self.client.request(method, "/api/v2", data=body, params=query, headers=sent) as reply:
            assert reply.status == 200, await reply.text()
            assert reply.content_type == "application/json"
            return json.loads(await reply.text()), reply.headers

    async def panel(self, action: str, *, key: str = SMM, idempotency: str | None = None, **fields: Any) -> Any:
        """A call as a form."""
        form = {"key": key, "action": action, **{name: str(value) for name, value in fields.items()}}
        headers = {"Idempotency-Key": idempotency} if idempotency is not None else {}
        return (await self.send(urlencode(form).encode(), headers=headers))[0]

    async def change(self, service: str, provider: str = "smmplus", **values: object) -> None:
        """What a provider's catalogue says of a service from now on."""
        named = (provider_services.c.service == service) & (provider_services.c.provider == provider)
        await self.house.database.write(lambda c: c.execute(update(provider_services).where(named).values(**values)))
        await self.intake.refresh()

    async def add(self, *, key: str = SMM, **fields: Any) -> int:
        """An order that was taken, by its number."""
        wish = {"service": 1, "link": LINK, "quantity": 1000, **fields}
        answer = await self.panel("add", key=key, **wish)
        assert list(answer) == ["order"], answer
        number: int = answer["order"]
        assert isinstance(number, int)
        return number


@asynccontextmanager
async def opened_panel(
    database: Database, clock: ManualClock, folder: Path, config: str = CONFIG
) -> AsyncIterator[PanelDoors]:
    async with Outbound() as outbound:
        doors = PanelDoors(await open_house(database, clock, folder, config, outbound))
        await doors.intake.refresh()
        app = create_app(doors.services)
        app[WINDOW] = Window(keep_s=0)  # a test looks at what it changed just now
        async with TestClient(TestServer(app)) as client:
            doors.client = client
            yield doors
