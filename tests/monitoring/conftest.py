"""A house in which everything that is watched has happened once, and what `/metrics` says of it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

import aggregator.daemon  # noqa: F401 - so that every metric of the program is there
from aggregator.domain.clock import ManualClock
from aggregator.flow.delivery import Delivery
from aggregator.flow.readings import take_reading
from aggregator.flow.reconcile import resolve
from aggregator.outbound import Outbound
from aggregator.providers.limits import Priority
from aggregator.sandbox.faults import FaultRule
from aggregator.storage.database import SqliteDatabase
from aggregator.web.server import create_app
from tests.support.flow import Street, a_street, smm
from tests.support.metrics import Scrape
from tests.web.support import READER, SHOP, Doors

SECRET: Final = "whsec_" + base64.b64encode(b"k" * 32).decode()
NOBODY: Final = "http://127.0.0.1:9/hook"
SERVICES: Final = {"one": smm("smmplus/1"), "followers": smm("smmcheap/1", "smmplus/1"), "slow": smm("smmplus/23")}
SETTINGS: Final[dict[str, Any]] = {
    "keys": [
        {"name": "shop", "key": SHOP, "scopes": ["orders"], "callback_secret": SECRET, "panel_get": True},
        {"name": "reader", "key": READER, "scopes": ["read"]},
    ],
    "callbacks": {"allow": ["127.0.0.0/8"]},
    "webhooks": [
        {"name": "dead", "url": NOBODY, "secret": SECRET, "retry_s": [1]},
        {"name": "off", "url": NOBODY, "secret": SECRET, "enabled": False},
    ],
}


@dataclass
class Watched:
    """A street with doors, and the stage that sends webhooks."""

    street: Street
    doors: Doors
    delivery: Delivery

    async def deliver(self) -> None:
        """Tell everybody who is to be told now; whoever does not answer is left for later."""
        await self.street.settle()
        while await self.delivery.run_once():
            await self.delivery.idle()

    async def scrape(self, accept: str = "text/plain") -> str:
        reply = await self.doors.get("/metrics", key=READER, headers={"Accept": accept})
        assert reply.status == 200, reply.text
        return reply.text

    async def seen(self) -> Scrape:
        return Scrape(await self.scrape())


async def everything(one: Watched) -> None:
    """Purchases of each end, words that nobody knows, a provider that is down, an endpoint that does not answer."""
    street = one.street
    assert (await one.doors.get("/v1/orders")).status == 200
    done = await street.bought("one", link="https://example.com/done")
    await street.until(done.number)
    odd = await street.bought("slow", link="https://example.com/odd")
    street.upstream(odd).forced_status = "Marinating"
    for place, lost in enumerate(("resolved", "open")):
        street.break_with(FaultRule("close_before", account="smmcheap", action="add", count=1))
        order = await street.take("followers", link=f"https://example.com/{lost}")
        await street.settle()
        if place == 0:
            await resolve(street.house, order.id, provider_order=None, by="ada")
    for _ in range(2):
        await take_reading(street.house, street.house.gateways["smmplus"], Priority.STATUS)
    await street.advance(60)
    await one.deliver()
    street.clock.advance(2)
    await one.deliver()
    await street.house.health.failed("hstock", "no answer", fatal=True)
    await street.take("one", link="https://example.com/planned")
    await street.routing.run_once()
    await street.routing.idle()
    await street.take("one", link="https://example.com/accepted")


@pytest_asyncio.fixture
async def watched(sqlite_database: SqliteDatabase, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Watched]:
    street_of = a_street(sqlite_database, clock, tmp_path, SERVICES, settings=SETTINGS)
    async with street_of as street, Outbound() as outbound:
        street.audited = False  # what is told of here was sold or not, as it comes
        doors = Doors(street.house)
        await doors.intake.refresh()
        delivery = Delivery(street.house, outbound, jitter=lambda: 0.0)
        await delivery.prepare()
        async with TestClient(TestServer(create_app(doors.services))) as client:
            doors.client = client
            one = Watched(street, doors, delivery)
            await everything(one)
            yield one
            await delivery.stop(0)
