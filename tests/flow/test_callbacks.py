"""Callbacks of callers' orders: whose events they hear, and that no host takes anything from another."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from aggregator.domain.clock import ManualClock
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId, new_id
from aggregator.flow.base import House
from aggregator.flow.delivery import CALLERS_PLACES, Delivery
from aggregator.flow.sequencing import Sequencing
from aggregator.outbound import Delivered
from aggregator.storage import deliveries as delivery_store
from aggregator.storage import endpoints as store
from aggregator.storage import orders as order_store
from aggregator.storage.database import Database
from aggregator.storage.tables import deliveries, endpoints, events
from tests.support.examples import an_order
from tests.support.house import make_house

SECRETS = ["whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
CONFIG = f"""
keys:
  - {{name: shop, key: shop-key-0123456789, callback_secret: {SECRETS[0]}}}
  - {{name: other, key: other-key-0123456789, callback_secret: {SECRETS[1]}}}
webhooks: [{{name: main, url: "http://main.example/hook", secret: {SECRETS[0]}}}]
"""


@dataclass
class World:
    """Where everything is sent; a host that is `dead` never answers."""

    dead: set[str] = field(default_factory=set)
    status: dict[str, int] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    hanging: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def deliver(
        self, url: str, body: bytes, headers: Any, timeout_s: float, *, guarded: bool = False
    ) -> Delivered:
        host = url.split("/")[2].partition(":")[0]
        assert guarded is (host != "main.example")
        if host in self.dead:
            self.hanging += 1
            await self.release.wait()
            return Delivered(504)
        self.heard.append(url)
        return Delivered(self.status.get(url, 200))


@dataclass
class Line:
    house: House
    world: World

    def __post_init__(self) -> None:
        self.sequencing = Sequencing(self.house)
        self.delivery = Delivery(self.house, self.world, jitter=lambda: 0.0)  # type: ignore[arg-type]

    async def order(self, url: str | None, *drafts: Draft, owner: str = "shop") -> int:
        now = self.house.clock.now()
        order = an_order(
            id=OrderId(new_id("ord", now)), owner=owner, callback_url=url, created_at=now, updated_at=now,
            sequence=0, version=0,
        )  # fmt: skip
        return await self.house.database.write(
            lambda c: order_store.add(c, order, [Draft("order.accepted"), *drafts], give_up_at=now).number
        )

    async def happens(self, number: int, *drafts: Draft) -> None:
        def write(connection: Connection) -> None:
            order = order_store.load_for_update(connection, number)
            order_store.save(connection, order, order, drafts, self.house.clock.now())

        await self.house.database.write(write)

    async def begin(self) -> int:
        await self.sequencing.run_once()
        return await self.delivery.run_once()

    async def settle(self) -> None:
        """Go on until nothing comes due any more, without waiting for what hangs."""
        quiet = 0
        while quiet < 20:
            begun = await self.begin()
            await asyncio.sleep(0)
            quiet = 0 if begun or self.delivery._results else quiet + 1

    async def states(self, endpoint: str) -> list[str]:
        query = select(deliveries.c.state).where(deliveries.c.endpoint == endpoint).order_by(deliveries.c.event_seq)
        return await self.house.database.read(lambda c: list(c.execute(query).scalars()))

    async def rows(self) -> dict[str, Any]:
        found = await self.house.database.read(lambda c: c.execute(select(endpoints)).mappings().all())
        return {row["name"]: row for row in found}


MakeLine = Callable[[], Line]


@pytest.fixture
async def make_line(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[MakeLine]:
    made: list[Line] = []

    def make() -> Line:
        made.append(Line(make_house(database, clock, tmp_path, CONFIG), World()))
        return made[-1]

    yield make
    for line in made:
        line.world.release.set()
        await line.delivery.stop(5)


async def test_a_callback_hears_its_orders_events_and_nobody_elses(make_line: MakeLine) -> None:
    line = make_line()
    await line.order("https://a.example/1", Draft("order.progress"))
    await line.order("https://b.example/2", owner="other")
    await line.order(None)
    await line.order("https://c.example/3", owner="nobody")
    await line.settle()
    assert sorted(url for url in line.world.heard if "main" not in url) == [
        "https://a.example/1", "https://a.example/1", "https://b.example/2",
    ]  # fmt: skip
    assert {name for name in await line.rows() if "@" in name} == {"shop@a.example:443", "other@b.example:443"}
    assert len([url for url in line.world.heard if "main" in url]) == 5, "the operator's own hear it all"


async def test_orders_of_one_caller_share_a_host_and_keep_their_urls(make_line: MakeLine) -> None:
    line = make_line()
    for number in range(3):
        await line.order(f"https://a.example/{number}", Draft("order.progress"))
    await line.settle()
    assert sorted(url[-1] for url in line.world.heard if "main" not in url) == ["0", "0", "1", "1", "2", "2"]
    row = (await line.rows())["shop@a.example:443"]
    assert (row["standing"], row["owner"], row["next_at"]) == ("good", "shop", None)


async def test_a_callback_that_is_gone_hears_nothing_more_of_its_order(make_line: MakeLine) -> None:
    line = make_line()
    line.world.status["https://a.example/gone"] = 410
    gone = await line.order("https://a.example/gone", Draft("order.progress"), Draft("order.progress"))
    alive = await line.order("https://a.example/alive")
    await line.settle()
    for number in (gone, alive):
        await line.happens(number, Draft("order.progress"))
    await line.settle()
    heard = [url for url in line.world.heard if "main" not in url]
    assert sorted(heard) == ["https://a.example/alive", "https://a.example/alive", "https://a.example/gone"]
    assert sorted(await line.states("shop@a.example:443")) == ["delivered"] * 2 + ["parked"] * 3


async def test_dead_hosts_take_nothing_from_other_hosts_callers_and_endpoints(make_line: MakeLine) -> None:
    line = make_line()
    await line.order("https://good.example/first")
    await line.settle()  # it has answered before
    line.world.heard.clear()
    line.world.dead = {f"dead{number}.example" for number in range(200)}
    for number in range(200):
        await line.order(f"https://dead{number}.example/")
    await line.settle()
    assert line.world.hanging == CALLERS_PLACES["new"], "so many of one caller's unknown hosts at once"
    await line.order("https://good.example/again")
    await line.order("https://new.example/", owner="other")
    await line.settle()
    assert "https://good.example/again" in line.world.heard
    assert "https://new.example/" in line.world.heard
    assert len([url for url in line.world.heard if "main" in url]) == 202
    assert len(line.delivery._claimed) == CALLERS_PLACES["new"]


async def test_thousands_of_dead_hosts_cost_a_look_at_those_that_are_due_alone(
    make_line: MakeLine, clock: ManualClock
) -> None:
    line = make_line()
    for number in range(300):
        await line.order(f"https://dead{number}.example/")
        line.world.status[f"https://dead{number}.example/"] = 503
    await line.settle()
    assert set(row["standing"] for name, row in (await line.rows()).items() if "@" in name) == {"failing"}
    assert not line.delivery._claimed
    now = clock.now()
    due = await line.house.database.read(
        lambda c: [store.due_callbacks(c, now, "shop", s, busy=[], limit=999) for s in ("good", "new", "failing")]
    )
    assert due == [[], [], []]
    clock.advance(5.5)
    await line.settle()
    # Each was tried once more; nothing was asked of a host whose time had not come.
    assert len([url for url in line.world.heard if "dead" in url]) == 600


async def test_a_host_that_fails_is_asked_with_one_delivery_at_a_time_and_gets_all_when_it_is_back(
    make_line: MakeLine, clock: ManualClock
) -> None:
    line = make_line()
    urls = [f"https://a.example/{number}" for number in range(12)]
    line.world.status = dict.fromkeys(urls, 500)
    for url in urls:
        await line.order(url)
    await line.settle()
    tried = len([url for url in line.world.heard if url in urls])
    assert tried == 3, "then it is left alone"
    line.world.status.clear()
    clock.advance(1)
    await line.settle()
    assert set(await line.states("shop@a.example:443")) == {"delivered"}


async def test_a_caller_whose_secret_is_gone_is_sent_nothing_until_it_is_back(
    make_line: MakeLine, database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    line = make_line()
    await line.order("https://a.example/1")
    await line.sequencing.run_once()
    without = Line(make_house(database, clock, tmp_path, CONFIG.replace("name: shop", "name: shop2")), World())
    await without.settle()
    assert await without.states("shop@a.example:443") == ["pending"]
    again = make_line()
    await again.settle()
    assert await again.states("shop@a.example:443") == ["delivered"]


CODE = {
    "number": {"phone": "+12025550123", "provider_order": "12345"},
    "code": {"code": "123456", "text": "Your code is 123456", "received_at": "2026-11-21T18:00:00.000Z"},
}


async def test_a_code_goes_before_a_backlog(make_line: MakeLine, database: Database, clock: ManualClock) -> None:
    line = make_line()
    for _ in range(40):
        await line.order(None)
    clock.advance(1)
    await line.order(None, Draft("sms.code", CODE, lane="n1"))
    await line.sequencing.run_once()
    claimed = await database.write(
        lambda c: delivery_store.claim_deliveries(c, "main", clock.now(), limit=5, lease_s=60, token="t")
    )
    assert [one.type for one in claimed] == ["sms.code"] + ["order.accepted"] * 4


async def test_events_of_an_order_are_in_order_at_its_callback(make_line: MakeLine, database: Database) -> None:
    line = make_line()
    number = await line.order("https://a.example/1", *[Draft("order.progress")] * 5)
    seen: list[int] = []
    real = line.world.deliver

    async def deliver(url: str, body: bytes, headers: Any, timeout_s: float, *, guarded: bool = False) -> Delivered:
        if guarded:
            seen.append(headers["webhook-id"])
        return await real(url, body, headers, timeout_s, guarded=guarded)

    line.world.deliver = deliver  # type: ignore[method-assign]
    await line.settle()
    query = select(events.c.id).where(events.c.order_number == number).order_by(events.c.sequence)
    assert seen == await database.read(lambda c: list(c.execute(query).scalars()))
