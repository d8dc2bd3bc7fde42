"""From a committed event to an endpoint that has it: signed, in order, tried again, each endpoint for itself."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import web
from prometheus_client import REGISTRY
from sqlalchemy import Connection, RowMapping, insert, select, update
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from aggregator.config import WebhookSettings
from aggregator.domain.clock import ManualClock, rfc3339
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId, new_id
from aggregator.domain.webhooks import headers
from aggregator.flow import delivery as delivery_module
from aggregator.flow.base import House
from aggregator.flow.delivery import AHEAD, LEASE_MARGIN_S, Delivery
from aggregator.flow.endpoints import _PATIENT, AT_ONCE
from aggregator.flow.replaying import Replaying
from aggregator.flow.sequencing import BATCH, Sequencing
from aggregator.outbound import Outbound
from aggregator.storage import claims, outbox
from aggregator.storage import deliveries as store
from aggregator.storage import endpoints as endpoint_store
from aggregator.storage import orders as order_store
from aggregator.storage.database import Database
from aggregator.storage.tables import deliveries, events
from aggregator.storage.tables import endpoints as endpoints_table
from tests.support import rows
from tests.support.examples import an_order
from tests.support.house import make_house

SECRETS = ["whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
RETRY_S = [5, 300, 1800]
HOLD_S = 3600


@dataclass(frozen=True)
class Heard:
    """One request that a receiver got."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """A real endpoint on loopback; `answer` decides each time."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    status: int = 200
    answer: Callable[[Heard], Awaitable[web.Response]] | None = None

    @property
    def ids(self) -> list[str]:
        return [heard.id for heard in self.heard]

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        heard = Heard(headers, await request.read())
        self.heard.append(heard)
        return await self.answer(heard) if self.answer is not None else web.Response(status=self.status)


@asynccontextmanager
async def listening() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with listening() as one:
        yield one


@pytest_asyncio.fixture
async def other() -> AsyncIterator[Receiver]:
    async with listening() as one:
        yield one


@pytest_asyncio.fixture
async def outbound() -> AsyncIterator[Outbound]:
    async with Outbound() as client:
        yield client


def hook(name: str, url: str, **settings: Any) -> dict[str, Any]:
    usual = {"name": name, "url": url, "secret": SECRETS[0], "retry_s": RETRY_S, "order_hold_s": HOLD_S}
    return {**usual, **settings}


@dataclass
class Line:
    """Both stages over one database, and the ways to feed them."""

    house: House
    clock: ManualClock
    sequencing: Sequencing
    delivery: Delivery
    replaying: Replaying

    async def order(self, *drafts: Draft) -> int:
        """A new order with `order.accepted` and these events."""
        now = self.clock.now()
        order = an_order(id=OrderId(new_id("ord", now)), created_at=now, updated_at=now, sequence=0, version=0)

        def write(connection: Connection) -> int:
            stored = order_store.add(connection, order, [Draft("order.accepted"), *drafts], give_up_at=now)
            return stored.number

        return await self.house.database.write(write)

    async def happens(self, number: int, *drafts: Draft) -> None:
        """More events of an order."""
        now = self.clock.now()

        def write(connection: Connection) -> None:
            order = order_store.load_for_update(connection, number)
            order_store.save(connection, order, order, drafts, now)

        await self.house.database.write(write)

    async def general(self, *drafts: Draft) -> None:
        now = self.clock.now()

        def write(connection: Connection) -> None:
            for draft in drafts:
                outbox.append_general(connection, draft, now)

        await self.house.database.write(write)

    async def tick(self) -> int:
        """Look once and see everything begun to its end."""
        await self.sequencing.run_once()
        await self.replaying.run_once()
        begun = await self.delivery.run_once()
        await self.delivery.idle()
        return begun

    async def drain(self) -> int:
        """Go on until nothing is due any more."""
        total = 0
        while begun := await self.tick():
            total += begun
        return total

    async def rows(self, endpoint: str = "shop") -> list[Any]:
        query = (
            select(deliveries, events.c.id.label("event"), events.c.type, events.c.body)
            .join(events, events.c.seq == deliveries.c.event_seq)
            .where(deliveries.c.endpoint == endpoint)
            .order_by(deliveries.c.id)
        )
        return await self.house.database.read(lambda connection: list(connection.execute(query)))

    async def states(self, endpoint: str = "shop") -> list[str]:
        return [row.state for row in await self.rows(endpoint)]

    async def events(self) -> list[Any]:
        query = select(events).order_by(events.c.seq)
        return await self.house.database.read(lambda connection: list(connection.execute(query)))

    async def endpoint(self, name: str = "shop") -> RowMapping:
        found = await self.house.database.read(lambda connection: endpoint_store.find(connection, name))
        assert found is not None
        return found

    async def run_until_due(self, endpoint: str = "shop") -> None:
        """Let the time pass until the earliest that waits is due."""
        waiting = [row.next_at for row in await self.rows(endpoint) if row.next_at is not None]
        self.clock.advance(max(0.0, (min(waiting) - self.clock.now()).total_seconds()))


MakeLine = Callable[..., Line]


@pytest.fixture
def make_line(database: Database, clock: ManualClock, outbound: Outbound, tmp_path: Path) -> MakeLine:
    """Calling it again is a new run of the daemon over the same database."""

    def make(*hooks: dict[str, Any], clock: ManualClock = clock, database: Database = database) -> Line:
        house = make_house(database, clock, tmp_path, yaml.safe_dump({"webhooks": list(hooks)}))
        return Line(house, clock, Sequencing(house), Delivery(house, outbound, jitter=lambda: 0.0), Replaying(house))

    return make


def codes(number: int = 1) -> Draft:
    phone = {"phone": "+15005550006", "provider_order": f"{number}"}
    code = {"code": "482913", "text": "", "received_at": "2026-11-21T18:00:00.000Z"}
    return Draft("sms.code", {"number": phone, "code": code}, lane=f"n{number}")


# --- what is sent


async def test_the_stored_bytes_are_sent_and_the_reference_library_verifies_them(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url), clock=ManualClock(datetime.now(UTC)))
    await line.order(Draft("order.progress"))
    assert await line.drain() == 2
    rows = await line.rows()
    for heard, row in zip(receiver.heard, rows, strict=True):
        assert heard.body == row.body.encode()
        assert heard.headers["content-type"] == "application/json"
        document = Webhook(SECRETS[0]).verify(heard.body, heard.headers)
        assert document["type"] == row.type
        assert "params" not in document["data"]["order"]
    assert receiver.ids == [row.event for row in rows]
    assert await line.states() == ["delivered", "delivered"]
    assert all(row.finished_at and row.last_status == 200 and row.claim_token is None for row in rows)


async def test_while_a_secret_rotates_both_sign_and_after_its_end_only_the_new_one(
    make_line: MakeLine, receiver: Receiver
) -> None:
    clock = ManualClock(datetime.now(UTC))
    until = rfc3339(clock.now() + timedelta(seconds=60))
    rotating = [{"value": SECRETS[0], "until": until}, {"value": SECRETS[1]}]
    line = make_line(hook("shop", receiver.url, secret=rotating), clock=clock)
    await line.order()
    await line.drain()
    clock.advance(61)
    await line.order()
    await line.drain()
    during, after = receiver.heard
    for secret in SECRETS:
        Webhook(secret).verify(during.body, during.headers)
    Webhook(SECRETS[1]).verify(after.body, after.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS[0]).verify(after.body, after.headers)


async def test_a_retry_has_the_same_id_and_bytes_and_a_timestamp_of_its_own(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    await line.order()
    receiver.status = 500
    await line.tick()
    receiver.status = 200
    await line.run_until_due()
    await line.tick()
    first, second = receiver.heard
    assert (first.id, first.body) == (second.id, second.body)
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == RETRY_S[0]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert await line.states() == ["delivered"]


# --- who gets it


async def test_an_endpoint_gets_what_its_patterns_take(
    make_line: MakeLine, receiver: Receiver, other: Receiver
) -> None:
    line = make_line(
        hook("shop", receiver.url, events=["sms.code", "provider.*"]),
        hook("all", other.url),
        hook("off", other.url, enabled=False),
    )
    await line.order(codes())
    await line.general(Draft("provider.down", {"provider": "panel", "reason": "no answer"}))
    await line.drain()
    assert [row.type for row in await line.rows("shop")] == ["sms.code", "provider.down"]
    assert [row.type for row in await line.rows("all")] == ["order.accepted", "sms.code", "provider.down"]
    assert await line.states("off") == ["pending"] * 3, "kept until somebody enables it"
    assert (len(receiver.heard), len(other.heard)) == (2, 3)


async def test_positions_have_no_hole_and_each_event_is_fanned_out_once(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    for _ in range(3):
        await line.order(*[Draft("order.progress")] * (BATCH // 2))
    count = 3 * (BATCH // 2 + 1)
    woken: list[int] = []
    line.house.wakeups.on("delivery", lambda: woken.append(1))
    assert await line.sequencing.run_once() == count
    assert woken
    assert await line.sequencing.run_once() == 0
    assert [row.position for row in await line.events()] == list(range(1, count + 1))
    assert len(await line.rows()) == count
    page = await line.house.database.read(lambda connection: outbox.feed(connection, after=count - 2, limit=10))
    assert [told.position for told in page] == [count - 1, count]


async def test_two_sequencers_at_once_give_no_position_twice(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    for _ in range(20):
        await line.order()
    taken = await asyncio.gather(*(line.sequencing.run_once() for _ in range(4)))
    assert sum(taken) == 20
    assert sorted(row.position for row in await line.events()) == list(range(1, 21))


# --- failures


async def test_a_failing_delivery_is_tried_by_the_schedule_then_parked(
    make_line: MakeLine, receiver: Receiver, other: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url), hook("watch", other.url, events=["webhook.*"]))
    await line.order()
    receiver.status = 500
    began = line.clock.now()
    woken: list[int] = []
    line.house.wakeups.on("sequencing", lambda: woken.append(1))
    await line.tick()
    for waited_s in RETRY_S:
        (row,) = await line.rows()
        assert row.state == "pending"
        assert row.next_at == line.clock.now() + timedelta(seconds=waited_s)
        assert row.hold_until == began + timedelta(seconds=HOLD_S)
        assert (row.last_status, row.last_error) == (500, "HTTP 500")
        line.clock.advance(waited_s - 0.001)
        assert await line.tick() == 0
        line.clock.advance(0.001)
        assert await line.tick() == 1
    (row,) = await line.rows()
    assert (row.state, row.tries, row.finished_at) == ("parked", len(RETRY_S) + 1, line.clock.now())
    assert len(receiver.heard) == len(RETRY_S) + 1
    assert woken, "the event that tells of it waits for its position"

    await line.drain()
    accepted, parked = await line.events()
    assert parked.type == "webhook.parked"
    assert parked.order_number is None
    document = Webhook(SECRETS[0]).verify(other.heard[0].body, sign_again(other.heard[0]))
    assert document["data"] == {
        "endpoint": "shop",
        "event": accepted.id,
        "type": "order.accepted",
        "error": "HTTP 500",
    }
    assert len(receiver.heard) == len(RETRY_S) + 1, "an endpoint is not told of its own trouble"


def sign_again(heard: Heard) -> dict[str, str]:
    """The same message as if it were sent now: the library refuses the test clock's timestamps as too old or new."""
    now = datetime.now(UTC)
    signature = Webhook(SECRETS[0]).sign(heard.id, now, heard.body.decode())
    return {**heard.headers, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


async def test_two_dead_endpoints_do_not_keep_each_other_busy(
    make_line: MakeLine, receiver: Receiver, other: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url, retry_s=[1]), hook("also", other.url, retry_s=[1]))
    receiver.status = other.status = 500
    await line.order()
    for _ in range(20):
        await line.drain()
        line.clock.advance(2)
    types = [row.type for row in await line.events()]
    assert types == ["order.accepted"] + ["webhook.parked"] * 4, "each parked delivery is in the feed, once"
    assert await line.states("shop") == await line.states("also") == ["parked", "parked"]


async def test_gone_parks_at_once_and_disables_the_endpoint_until_somebody_enables_it(
    make_line: MakeLine, receiver: Receiver, other: Receiver
) -> None:
    hooks = hook("shop", receiver.url), hook("watch", other.url, events=["webhook.*"])
    line = make_line(*hooks)
    receiver.status = 410
    await line.order(Draft("order.progress"))
    await line.drain()
    await line.order()
    await line.drain()
    assert len(receiver.heard) == 1
    assert await line.states() == ["parked", "pending", "pending"]
    assert [row.type for row in await line.rows("watch")] == ["webhook.parked", "webhook.disabled"]
    assert len(other.heard) == 2
    document = Webhook(SECRETS[0]).verify(other.heard[1].body, sign_again(other.heard[1]))
    assert document["data"]["reason"] == "it answered 410 Gone"

    receiver.status = 200
    again = make_line(*hooks)
    assert await again.drain() == 0, "a restart enables nothing"
    assert (await again.endpoint())["disabled_reason"] == "it answered 410 Gone"
    now = again.clock.now()
    await again.house.database.write(lambda connection: endpoint_store.enable(connection, "shop", now))
    await again.drain()
    assert await again.states() == ["parked", "delivered", "delivered"]


async def test_several_gone_side_by_side_disable_once(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    receiver.status = 410
    for _ in range(4):
        await line.order()
    await line.drain()
    types = [row.type for row in await line.events()]
    assert types.count("webhook.disabled") == 1
    assert types.count("webhook.parked") == (await line.states()).count("parked") == len(receiver.heard) == 4


@pytest.mark.parametrize(("header", "waited_s"), [("2", 5), ("900", 900), ("999999", 86_400), ("soon", 5)])
async def test_retry_after_is_honoured_when_it_is_longer(
    make_line: MakeLine, receiver: Receiver, header: str, waited_s: int
) -> None:
    async def busy(_: Heard) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": header})

    line = make_line(hook("shop", receiver.url))
    receiver.answer = busy
    await line.order()
    await line.tick()
    (row,) = await line.rows()
    assert row.next_at == line.clock.now() + timedelta(seconds=waited_s)


async def test_a_redirect_is_a_failure_and_not_followed(
    make_line: MakeLine, receiver: Receiver, other: Receiver
) -> None:
    async def elsewhere(_: Heard) -> web.Response:
        return web.Response(status=307, headers={"Location": other.url})

    line = make_line(hook("shop", receiver.url))
    receiver.answer = elsewhere
    await line.order()
    await line.tick()
    (row,) = await line.rows()
    assert (row.state, row.last_error) == ("pending", "HTTP 307")
    assert other.heard == []


async def test_the_reason_holds_neither_the_secret_nor_the_urls_query(make_line: MakeLine, receiver: Receiver) -> None:
    async def echo(heard: Heard) -> web.Response:
        return web.Response(status=400, text=f"{heard.headers['webhook-signature']} token=tell-nobody")

    # Port 1 of loopback refuses.
    line = make_line(
        hook("shop", receiver.url + "?token=tell-nobody"),
        hook("refused", "http://127.0.0.1:1/hook?token=tell-nobody"),
    )
    receiver.answer = echo
    await line.order()
    await line.tick()
    for name in ("shop", "refused"):
        (row,) = await line.rows(name)
        assert row.state == "pending"
        assert row.last_error
        assert "tell-nobody" not in row.last_error
        assert "whsec" not in row.last_error
        assert len(row.last_error) <= 200
    assert (await line.rows("shop"))[0].last_error == "HTTP 400"


# --- order


async def test_an_orders_events_arrive_one_after_the_other_and_other_orders_beside_them(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    first = await line.order(Draft("order.progress"), Draft("order.progress"))
    second = await line.order()
    assert await line.tick() == 2, "the first of each order"
    assert await line.tick() == 1
    assert await line.tick() == 1
    rows = {row.event: row for row in await line.rows()}
    lanes = [rows[event].lane for event in receiver.ids]
    assert lanes.count(f"o{first}") == 3
    assert lanes.count(f"o{second}") == 1
    of_first = await line.house.database.read(lambda connection: outbox.of_order(connection, first))
    assert [event for event in receiver.ids if rows[event].lane == f"o{first}"] == [row["id"] for row in of_first]


async def test_a_failing_event_holds_its_orders_later_ones_then_steps_aside(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url, retry_s=[5, 300, 30_000]))
    await line.order(Draft("order.progress"), Draft("order.progress"))
    await line.sequencing.run_once()
    poison, second, third = [row.event for row in await line.rows()]

    async def answer(heard: Heard) -> web.Response:
        return web.Response(status=500 if heard.id == poison else 200)

    receiver.answer = answer
    for wait_s in (0, 5, 300):
        line.clock.advance(wait_s)
        assert await line.drain() == 1
    assert receiver.ids == [poison] * 3
    line.clock.advance(HOLD_S - 305 - 0.001)
    assert await line.drain() == 0, "the hold is not over"
    line.clock.advance(0.001)
    await line.drain()
    assert [event for event in receiver.ids if event != poison] == [second, third]
    assert await line.states() == ["pending", "delivered", "delivered"], "still retried"


async def test_a_code_does_not_wait_for_the_orders_other_events(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    number = await line.order(Draft("order.progress"), codes(1), codes(1), codes(2))
    await line.sequencing.run_once()
    accepted = (await line.rows())[0].event

    async def answer(heard: Heard) -> web.Response:
        return web.Response(status=500 if heard.id == accepted else 200)

    receiver.answer = answer
    assert await line.tick() == 3, "the order's first event, and the first code of each number"
    await line.drain()
    # The endpoint answered the codes, so the failed event is tried once more; the hold still stands.
    states = {row.event: (row.lane, row.state) for row in await line.rows()}
    lane = f"o{number}"
    assert list(states.values()) == [
        (lane, "pending"),
        (lane, "pending"),
        (f"{lane}n1", "delivered"),
        (f"{lane}n1", "delivered"),
        (f"{lane}n2", "delivered"),
    ]


async def test_events_without_an_order_do_not_wait_for_each_other(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    gone = [{"provider": "panel", "service": str(number), "country": ""} for number in range(5)]
    await line.general(*[Draft("catalogue.removed", about) for about in gone])
    assert await line.tick() == 5


# --- the endpoint is back


async def test_one_success_makes_all_that_waits_due(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    receiver.status = 503
    for _ in range(3):
        await line.order(Draft("order.progress"))
    await line.drain()
    assert len(receiver.heard) == 3
    receiver.status = 200
    await line.order()
    await line.drain()
    assert await line.states() == ["delivered"] * 7


async def test_after_a_restart_the_first_success_makes_all_due(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url, retry_s=[86_400]))
    receiver.status = 503
    await line.order()
    await line.drain()
    receiver.status = 200
    line = make_line(hook("shop", receiver.url, retry_s=[86_400]))
    assert await line.drain() == 0, "the retry survived the restart, so did its time"
    await line.order()
    await line.drain()
    assert await line.states() == ["delivered", "delivered"]


async def test_what_failed_in_an_earlier_outage_is_due_after_a_long_one(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url, retry_s=[86_400] * 3))
    await line.order()
    await line.drain()
    receiver.status = 503
    await line.order()
    await line.drain()
    (waiting,) = [row.event for row in await line.rows() if row.state == "pending"]

    # Back for one event, and away again before the one that waits was sent.
    async def flapping(heard: Heard) -> web.Response:
        return web.Response(status=503 if heard.id == waiting else 200)

    receiver.answer = flapping
    line.clock.advance(1)
    await line.order()
    await line.drain()
    assert receiver.ids.count(waiting) == 2
    receiver.answer = None
    receiver.status = 200
    line.clock.advance(3600)
    await line.order()
    await line.drain()
    assert set(await line.states()) == {"delivered"}


async def test_an_event_that_fails_alone_is_not_sent_again_with_every_success(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    await line.order()
    await line.sequencing.run_once()
    poison = (await line.rows())[0].event

    async def answer(heard: Heard) -> web.Response:
        return web.Response(status=422 if heard.id == poison else 200)

    receiver.answer = answer
    await line.drain()
    for _ in range(20):
        line.clock.advance(1)
        await line.order()
        await line.drain()
    assert receiver.ids.count(poison) == 2, "once, and once more when the endpoint seemed to be back"
    (row,) = [row for row in await line.rows() if row.event == poison]
    assert row.state == "pending"
    assert row.next_at == line.clock.now() + timedelta(seconds=RETRY_S[1] - 19)


async def test_parking_waits_for_the_whole_schedule_whatever_was_tried_in_between(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    await line.order()
    await line.sequencing.run_once()
    poison = (await line.rows())[0].event

    async def answer(heard: Heard) -> web.Response:
        return web.Response(status=422 if heard.id == poison else 200)

    receiver.answer = answer
    began = line.clock.now()
    while (await line.rows())[0].state == "pending":
        await line.order()
        await line.drain()
        line.clock.advance(61)
    (row, *_) = await line.rows()
    assert row.state == "parked"
    assert row.finished_at - began >= timedelta(seconds=sum(RETRY_S))


# --- each endpoint for itself


async def test_a_silent_endpoint_delays_nobody_else(make_line: MakeLine, receiver: Receiver, other: Receiver) -> None:
    reached, release = asyncio.Event(), asyncio.Event()

    async def silent(_: Heard) -> web.Response:
        if len(receiver.heard) == AT_ONCE:
            reached.set()
        await release.wait()
        return web.Response()

    line = make_line(hook("shop", receiver.url), hook("quick", other.url))
    receiver.answer = silent
    arrived: list[int] = []
    line.house.wakeups.on("delivery", lambda: arrived.append(1))
    for _ in range(AT_ONCE + 4):
        await line.order()
    await line.sequencing.run_once()
    assert await line.delivery.run_once() == 2 * AT_ONCE, "so many at each"
    await reached.wait()
    while await line.states("quick") != ["delivered"] * (AT_ONCE + 4):
        await line.delivery.run_once()
        await asyncio.sleep(0)
    assert len(receiver.heard) == AT_ONCE, "no more than that at once"
    # No transaction is open while the endpoint is silent: the database takes writes.
    await line.order()
    release.set()
    await line.drain()
    assert set(await line.states("shop")) == {"delivered"}
    assert arrived, "what has ended wakes the stage"


async def test_deliveries_of_an_endpoint_that_is_not_configured_wait_and_do_not_spin(
    make_line: MakeLine, receiver: Receiver, other: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    await line.order()
    await line.sequencing.run_once()
    for hooks in ([hook("quick", other.url)], [hook("shop", receiver.url, enabled=False)], []):
        without = make_line(*hooks)
        assert await without.tick() == 0
        assert await without.states() == ["pending"]
    back = make_line(hook("shop", receiver.url))
    await back.drain()
    assert await back.states() == ["delivered"]


# --- claims and the database


async def test_nothing_due_writes_nothing(make_line: MakeLine, receiver: Receiver, sqlite_database: Database) -> None:
    line = make_line(hook("shop", receiver.url), database=sqlite_database)
    reached, release = asyncio.Event(), asyncio.Event()

    async def slow(_: Heard) -> web.Response:
        reached.set()
        await release.wait()
        return web.Response()

    receiver.answer = slow
    await line.order()
    await line.sequencing.run_once()
    await line.delivery.run_once()
    await reached.wait()
    commits = sqlite_database.commits  # type: ignore[attr-defined]
    assert await line.delivery.run_once() == 0, "what is under way is nobody else's"
    assert sqlite_database.commits == commits  # type: ignore[attr-defined]
    release.set()
    await line.delivery.idle()
    await line.delivery.run_once()
    commits = sqlite_database.commits  # type: ignore[attr-defined]
    assert await line.delivery.run_once() == 0
    assert sqlite_database.commits == commits  # type: ignore[attr-defined]


async def test_an_endpoint_whose_places_are_taken_costs_nothing_until_a_code_comes(
    make_line: MakeLine, receiver: Receiver, sqlite_database: Database
) -> None:
    line = make_line(hook("shop", receiver.url), database=sqlite_database)
    full, release = asyncio.Event(), asyncio.Event()

    async def silent(_: Heard) -> web.Response:
        if len(receiver.heard) == AT_ONCE:
            full.set()
        await release.wait()
        return web.Response()

    receiver.answer = silent
    for _ in range(AT_ONCE + 4):
        number = await line.order()
    await line.sequencing.run_once()
    assert await line.delivery.run_once() == AT_ONCE
    await full.wait()
    await line.order()
    await line.sequencing.run_once()
    commits = sqlite_database.commits  # type: ignore[attr-defined]
    assert await line.delivery.run_once() == 0
    assert sqlite_database.commits == commits  # type: ignore[attr-defined]
    await line.happens(number, codes())
    await line.sequencing.run_once()
    assert await line.delivery.run_once() == 1, "a code has places of its own"
    release.set()
    await line.delivery.idle()
    await line.drain()
    assert set(await line.states()) == {"delivered"}


async def test_a_claim_that_was_lost_writes_nothing(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))

    async def overtaken(_: Heard) -> web.Response:
        steal = update(deliveries).values(claim_token="another")
        await line.house.database.write(lambda connection: connection.execute(steal))
        return web.Response()

    receiver.answer = overtaken
    await line.order()
    await line.tick()
    (row,) = await line.rows()
    assert (row.state, row.tries, row.claim_token) == ("pending", 0, "another")
    line.clock.advance((AHEAD + 1) * 15 + LEASE_MARGIN_S - 0.001)
    assert await line.tick() == 0
    receiver.answer = None
    line.clock.advance(1)
    assert await line.tick() == 1
    assert await line.states() == ["delivered"]


async def test_an_outcome_is_recorded_when_the_database_is_back(
    make_line: MakeLine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = make_line(hook("shop", receiver.url))
    failing = Failing(line.house.database)
    line.delivery._house = replace(line.house, database=failing)
    monkeypatch.setattr(delivery_module, "STORAGE_RETRY_S", 0)

    async def answer(_: Heard) -> web.Response:
        failing.left = 3
        return web.Response()

    receiver.answer = answer
    await line.order()
    await line.tick()
    assert failing.left == 0
    assert await line.states() == ["delivered"]
    assert len(receiver.heard) == 1


@dataclass
class Failing:
    """A database whose next `left` writes fail."""

    inner: Database
    left: int = 0
    kind: str = "failing"

    async def read(self, work: Callable[[Connection], Any]) -> Any:
        return await self.inner.read(work)

    async def write(self, work: Callable[[Connection], Any]) -> Any:
        if self.left:
            self.left -= 1
            raise StorageUnavailable("the disk is full")
        return await self.inner.write(work)

    async def write_together(self, work: Callable[[Connection, Sequence[Any]], Sequence[Any]], item: Any) -> Any:
        return (await self.write(lambda c: work(c, [item])))[0]

    async def close(self) -> None:
        await self.inner.close()


async def test_a_call_that_is_cut_is_sent_again_by_the_next_run_under_the_same_id(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    reached = asyncio.Event()

    async def silent(_: Heard) -> web.Response:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    receiver.answer = silent
    await line.order()
    await line.sequencing.run_once()
    await line.delivery.run_once()
    await reached.wait()
    await line.delivery.stop(0)
    assert await line.delivery.run_once() == 0
    receiver.answer = None
    await line.house.database.write(lambda connection: claims.void_all(connection, [deliveries]))
    await make_line(hook("shop", receiver.url)).drain()
    assert len(receiver.heard) == 2
    assert len(set(receiver.ids)) == 1
    assert await line.states() == ["delivered"]


async def test_a_call_within_the_grace_is_recorded(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    reached, release = asyncio.Event(), asyncio.Event()

    async def slow(_: Heard) -> web.Response:
        reached.set()
        await release.wait()
        return web.Response()

    receiver.answer = slow
    await line.order()
    await line.sequencing.run_once()
    await line.delivery.run_once()
    await reached.wait()
    stopping = asyncio.create_task(line.delivery.stop(60))
    release.set()
    await stopping
    assert await line.states() == ["delivered"]


async def test_a_large_backlog_behind_failing_events_is_not_looked_at_again_and_again(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    receiver.status = 500
    await line.order(*[Draft("order.progress")] * 10)
    await line.drain()
    first, *behind = await line.rows()
    assert all(row.next_at == first.next_at for row in behind)
    receiver.status = 200
    await line.run_until_due()
    assert await line.drain() == 11


async def test_results_are_counted(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("counted", receiver.url, retry_s=[1]))

    def count(result: str) -> float:
        labels = {"endpoint": "counted", "result": result}
        return REGISTRY.get_sample_value("aggregator_deliveries_total", labels) or 0.0

    before = {result: count(result) for result in ("delivered", "failed", "parked")}
    await line.order()
    await line.drain()
    receiver.status = 500
    await line.order()
    await line.drain()
    line.clock.advance(1)
    await line.drain()
    assert {result: count(result) - before[result] for result in before} == {"delivered": 1, "failed": 1, "parked": 1}
    assert (REGISTRY.get_sample_value("aggregator_delivery_seconds_count", {"endpoint": "counted"}) or 0) >= 3


async def test_an_event_already_fanned_out_is_refused_by_the_table(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    await line.order()
    await line.sequencing.run_once()
    (row,) = await line.rows()
    values = {name: getattr(row, name) for name in ("event_seq", "endpoint", "lane", "state", "next_at", "created_at")}
    with pytest.raises(Exception, match=r"(?i)unique"):
        await line.house.database.write(lambda connection: connection.execute(insert(deliveries).values(values)))


# --- an endpoint that changes, asks for time, or was not asked


async def test_what_waits_goes_by_the_endpoint_as_it_is_when_it_is_sent(
    make_line: MakeLine, receiver: Receiver, other: Receiver
) -> None:
    """A backlog was once sent to the URL, and signed with the secrets, that the endpoint had when it began."""
    line = make_line(hook("shop", receiver.url))
    await line.order()
    await line.drain()  # it is quick, and claimed for ahead from now on
    receiver.heard.clear()
    for _ in range(3 * AT_ONCE):
        await line.order()
    moved = WebhookSettings.model_validate(hook("shop", other.url, secret=SECRETS[1]))

    async def move(_: Heard) -> web.Response:
        line.house.endpoints._configured["shop"] = moved
        line.house.endpoints._changed()
        return web.Response()

    receiver.answer = move
    await line.drain()
    assert len(receiver.heard) + len(other.heard) == 3 * AT_ONCE
    assert len(receiver.heard) <= AT_ONCE
    # The published verifier takes today's timestamps alone.
    keys = [secret.signing_bytes for secret in moved.secrets_at(line.clock.now())]
    for heard in other.heard:
        at = datetime.fromtimestamp(int(heard.headers["webhook-timestamp"]), UTC)
        assert heard.headers["webhook-signature"] == headers(heard.id, at, heard.body, keys)["webhook-signature"]


async def test_nothing_goes_on_to_an_endpoint_that_was_switched_off(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    await line.order()
    await line.drain()
    receiver.heard.clear()
    for _ in range(3 * AT_ONCE):
        await line.order()

    async def switch_off(_: Heard) -> web.Response:
        now = line.clock.now()
        await line.house.database.write(lambda c: endpoint_store.disable(c, "shop", now, "by a person"))
        line.house.endpoints.switch("shop", False)
        return web.Response()

    receiver.answer = switch_off
    await line.drain()
    assert len(receiver.heard) <= AT_ONCE
    assert (await line.states()).count("pending") == 3 * AT_ONCE - len(receiver.heard)
    receiver.answer = None
    now = line.clock.now()
    await line.house.database.write(lambda c: endpoint_store.enable(c, "shop", now))
    line.house.endpoints.switch("shop", True)
    await line.drain()
    assert set(await line.states()) == {"delivered"}


async def test_a_success_that_was_on_its_way_before_does_not_end_the_pause_that_was_asked_for(
    make_line: MakeLine, receiver: Receiver
) -> None:
    line = make_line(hook("shop", receiver.url))
    refused = asyncio.Event()

    async def one_is_slow(heard: Heard) -> web.Response:
        if len(receiver.heard) == 1:
            await refused.wait()
            line.clock.advance(0.4)
            return web.Response()
        line.clock.advance(0.1)
        if len(receiver.heard) == 3:
            refused.set()
        return web.Response(status=429, headers={"Retry-After": "20"})

    receiver.answer = one_is_slow
    for _ in range(3):
        await line.order()
    await line.tick()
    assert sorted(await line.states()) == ["delivered", "pending", "pending"]
    receiver.answer = None
    line.clock.advance(15)
    assert await line.drain() == 0, "it asked for twenty seconds"
    line.clock.advance(6)
    assert await line.drain() == 2
    assert (await line.endpoint())["standing"] == "good"


async def test_a_pause_that_was_asked_for_outlives_a_restart(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))

    async def busy(_: Heard) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "120"})

    receiver.answer = busy
    await line.order()
    await line.tick()
    await line.order()
    again = make_line(hook("shop", receiver.url))
    again.clock.advance(60)
    assert await again.drain() == 0
    receiver.answer = None
    again.clock.advance(61)
    assert await again.drain() == 2


async def test_the_time_in_which_nobody_asked_is_no_time_of_failure(make_line: MakeLine, receiver: Receiver) -> None:
    """A daemon that was off for a week, or a clock that was put forward, has not seen it fail for that long."""
    line = make_line(hook("shop", receiver.url, disable_after_days=5))
    receiver.status = 500
    await line.order()
    await line.tick()
    line.clock.advance(6 * 86_400)
    again = make_line(hook("shop", receiver.url, disable_after_days=5))
    await again.tick()
    row = await again.endpoint()
    assert (row["enabled"], row["failures"]) == (True, 2)
    assert "webhook.disabled" not in [event.type for event in await again.events()]
    # A clock that jumps takes along since when it fails.
    tables = [endpoints_table]
    by = timedelta(days=6)
    await again.house.database.write(lambda c: claims.shift_once(c, tables=tables, by=by, key=7))
    assert (await again.endpoint())["failing_since"] - row["failing_since"] == by


async def test_a_code_does_not_wait_for_a_probe_that_hangs(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    receiver.status = 500
    for _ in range(_PATIENT.failures):
        await line.order()
    await line.tick()
    line.clock.advance(3600)
    receiver.status = 200
    code_came = asyncio.Event()

    async def hangs_but_for_codes(heard: Heard) -> web.Response:
        if b'"sms.code"' in heard.body:
            code_came.set()
        else:
            async with asyncio.timeout(20):
                await code_came.wait()
        return web.Response()

    receiver.answer = hangs_but_for_codes
    assert await line.delivery.run_once() == 1, "one probe"
    number = await line.order()
    await line.happens(number, codes())
    await line.sequencing.run_once()
    assert await line.delivery.run_once() == 1
    async with asyncio.timeout(20):
        await code_came.wait()
    await line.delivery.idle()
    receiver.answer = None
    await line.drain()
    assert set(await line.states()) == {"delivered"}


async def test_callbacks_of_a_caller_without_a_secret_do_not_stay_for_ever(
    make_line: MakeLine, sqlite_database: Database, clock: ManualClock
) -> None:
    name = "shop@gone.example:443"

    def write(connection: Connection) -> None:
        rows.accept(connection)
        rows.sequence(connection, name)

    await sqlite_database.write(write)

    async def prepared(*callers: str) -> Any:
        await sqlite_database.write(lambda c: endpoint_store.prepare(c, {}, callers, clock.now()))
        return await sqlite_database.read(lambda c: endpoint_store.find(c, name))

    assert (await prepared("shop"))["enabled"]
    row = await prepared()
    assert (row["enabled"], row["next_at"]) == (False, None)
    before = clock.now() + timedelta(days=1)
    old, _ = await sqlite_database.read(lambda c: store.look_for_old(c, 0, before, 10))
    assert len(old) == 1
    row = await prepared("shop")
    assert (row["enabled"], row["next_at"]) == (True, clock.now())


async def test_an_answer_is_asked_for_as_it_is(make_line: MakeLine, receiver: Receiver) -> None:
    line = make_line(hook("shop", receiver.url))
    await line.order()
    await line.tick()
    assert receiver.heard[0].headers["accept-encoding"] == "identity"
