"""`/v1/webhooks` and an order's `callback_url`, as admins and callers meet them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import func, insert, select

from aggregator.domain.clock import ManualClock, rfc3339
from aggregator.domain.events import Draft
from aggregator.flow.delivery import Delivery
from aggregator.flow.endpoints import Endpoints
from aggregator.flow.replaying import Replaying
from aggregator.flow.retention import Retention
from aggregator.flow.sequencing import Sequencing
from aggregator.outbound import Delivered
from aggregator.storage import endpoints as store
from aggregator.storage import outbox, replays
from aggregator.storage.database import Database
from aggregator.storage.tables import deliveries, endpoints, events, idempotency_keys
from aggregator.web.server import create_app
from tests.support.metrics import Scrape, counted
from tests.web.support import ADMIN, CONFIG, READER, SHOP, Doors, open_house

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"o" * 32).decode()
WITH_HOOKS = CONFIG.replace("key: shop-key-0123456789,", f"key: shop-key-0123456789, callback_secret: {SECRET},") + (
    f'webhooks: [{{name: main, url: "http://127.0.0.1:9/hook?token=abcdefgh", secret: {SECRET}}},'
    f' {{name: off, url: "http://127.0.0.1:9/off", secret: {SECRET}, enabled: false}}]\n'
)
MADE: dict[str, Any] = {"name": "erp", "url": "https://erp.example.com/hook", "events": ["order.*", "webhook.test"]}


class Answers:
    """What endpoints answer: a status for each URL's end, 200 otherwise."""

    def __init__(self) -> None:
        self.status: dict[str, int] = {}
        self.sent: list[tuple[str, dict[str, str], bool]] = []

    async def deliver(
        self, url: str, body: bytes, headers: Any, timeout_s: float, *, guarded: bool = False
    ) -> Delivered:
        self.sent.append((url, dict(headers), guarded))
        status = next((status for end, status in self.status.items() if url.endswith(end)), 200)
        return Delivered(status, excerpt="thanks\x00 \x1b[31m for abcdefgh")


class Desk(Doors):
    """The doors, and behind them the stages that send."""

    def begin(self) -> None:
        self.answers = Answers()
        self.sequencing = Sequencing(self.house)
        self.delivery = Delivery(self.house, self.answers, jitter=lambda: 0.0)  # type: ignore[arg-type]
        self.replaying = Replaying(self.house)

    async def drain(self) -> None:
        """Go on until nothing is due."""
        again = True
        while again:
            again = bool(await self.sequencing.run_once() + await self.replaying.run_once())
            again = bool(await self.delivery.run_once()) or again
            await self.delivery.idle()

    async def make(self, **fields: Any) -> dict[str, Any]:
        reply = await self.post("/v1/webhooks", {**MADE, **fields}, key=ADMIN)
        assert reply.status == 201, reply.text
        made: dict[str, Any] = reply.json
        return made

    async def ask(self, path: str, body: object = None, status: int = 200, **more: Any) -> Any:
        reply = await self.post(f"/v1/webhooks/{path}", body, key=ADMIN, **more)
        assert reply.status == status, reply.text
        return reply.json

    async def show(self, name: str) -> Any:
        reply = await self.get(f"/v1/webhooks/{name}", key=READER)
        assert reply.status == 200, reply.text
        return reply.json

    async def log(self, name: str, query: str = "") -> list[Any]:
        reply = await self.get(f"/v1/webhooks/{name}/deliveries{query}", key=READER)
        assert reply.status == 200, reply.text
        found: list[Any] = reply.json["deliveries"]
        return found

    async def happens(self, *drafts: Draft) -> None:
        now = self.house.clock.now()
        for draft in drafts:
            await self.write(outbox.append_general, draft, now)


@asynccontextmanager
async def opened(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(await open_house(database, clock, tmp_path, WITH_HOOKS))
    await desk.intake.refresh()
    desk.begin()
    await desk.delivery.prepare()
    async with TestClient(TestServer(create_app(desk.services))) as client:
        desk.client = client
        yield desk


@pytest_asyncio.fixture
async def desk(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(database, clock, tmp_path) as desk:
        yield desk


@pytest_asyncio.fixture
async def sqlite_desk(sqlite_database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Desk]:
    """For what is decided before any database is asked."""
    async with opened(sqlite_database, clock, tmp_path) as desk:
        yield desk


# --- made, shown, changed


async def test_an_endpoint_is_made_with_a_secret_that_is_shown_once_and_kept_sealed(
    desk: Desk, clock: ManualClock
) -> None:
    made = await desk.make(services=["ig-followers"], description="the ERP", timeout_s=2.5, retry_s=[1, 2.5])
    assert made["secret"].startswith("whsec_")
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"))) == 32
    assert (made["source"], made["state"], made["enabled"]) == ("api", "healthy", True)
    shown = await desk.show("erp")
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert (shown["timeout_s"], shown["retry_s"], shown["services"]) == (2.5, [1.0, 2.5], ["ig-followers"])
    listed = await desk.get("/v1/webhooks", key=READER)
    assert [one["name"] for one in listed.json["webhooks"]] == ["main", "off", "erp"]
    assert made["secret"] not in listed.text
    bare = made["secret"].removeprefix("whsec_")
    rows = await desk.house.database.read(lambda c: c.execute(select(endpoints)).all())
    assert not any(bare in repr(row) for row in rows)
    # A new run of the daemon opens it again.
    again = Endpoints()
    again.load(await desk.house.database.read(store.made_by_api), desk.house.sealer)
    assert again.hooks["erp"].secrets_at(clock.now())[0].value.reveal() == made["secret"]


async def test_the_answer_with_the_secret_is_repeated_and_stored_unreadably(desk: Desk) -> None:
    headers = {"Idempotency-Key": "make-erp"}
    first = await desk.post("/v1/webhooks", MADE, key=ADMIN, headers=headers)
    second = await desk.post("/v1/webhooks", MADE, key=ADMIN, headers=headers)
    assert (first.status, second.status, second.text) == (201, 201, first.text)
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.headers["Location"] == second.headers["Location"] == "/v1/webhooks/erp"
    (stored,) = await desk.house.database.read(lambda c: c.execute(select(idempotency_keys.c.body)).scalars().all())
    assert first.json["secret"] not in stored


async def test_those_of_the_config_are_shown_without_their_secrets_and_tokens(desk: Desk) -> None:
    shown = await desk.show("main")
    assert (shown["source"], shown["url"]) == ("config", "http://127.0.0.1:9/hook?token=***")
    assert shown["secrets"] == [{"until": None}]
    off = await desk.show("off")
    assert (off["state"], off["reason"]) == ("disabled", "the config says enabled: false")
    only = await desk.get("/v1/webhooks?source=config&state=disabled", key=READER)
    assert [one["name"] for one in only.json["webhooks"]] == ["off"]
    assert SECRET not in (await desk.get("/v1/webhooks", key=READER)).text


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "a b"}, "name"),
    ({"name": "shop@example.com"}, "name"),
    ({"url": "ftp://x/"}, "url"),
    ({"url": "http://user:pw@x/"}, "url"),
    ({"url": None}, "url"),
    ({"events": []}, "events"),
    ({"events": ["order.acepted"]}, "events.0"),
    ({"events": ["order.*", "order.*"]}, "events"),
    ({"services": ["ig-folowers"]}, "services.0"),
    ({"timeout_s": 0}, "timeout_s"),
    ({"timeout_s": "5"}, "timeout_s"),
    ({"retry_s": []}, "retry_s"),
    ({"retry_s": [-1]}, "retry_s.0"),
    ({"order_hold_s": -1}, "order_hold_s"),
    ({"secret": "whsec_short"}, "secret"),
    ({"secret": "hunter2hunter2"}, "secret"),
    ({"description": ""}, "description"),
    ({"adress": "x"}, "adress"),
]


@pytest.mark.parametrize(("fields", "field"), BAD, ids=[repr(one[0])[:40] for one in BAD])
async def test_a_bad_field_is_named_and_nothing_is_made(sqlite_desk: Desk, fields: dict[str, Any], field: str) -> None:
    reply = await sqlite_desk.post("/v1/webhooks", {**MADE, **fields}, key=ADMIN)
    assert (reply.status, reply.field) == (422, field), reply.text
    assert "hunter2" not in reply.text
    assert (await sqlite_desk.get("/v1/webhooks/erp", key=READER)).status == 404


async def test_a_name_belongs_to_one_endpoint(desk: Desk) -> None:
    await desk.make()
    for name in ("erp", "main"):
        reply = await desk.post("/v1/webhooks", {**MADE, "name": name}, key=ADMIN)
        assert (reply.status, reply.problem, reply.field) == (409, "conflict", "name")


async def test_who_may_what(sqlite_desk: Desk) -> None:
    await sqlite_desk.make()
    for path in ("/v1/webhooks", "/v1/webhooks/erp", "/v1/webhooks/erp/deliveries"):
        assert (await sqlite_desk.get(path, key=SHOP)).status == 403
        assert (await sqlite_desk.get(path, key=READER)).status == 200
    for path in ("", "/erp/enable", "/erp/disable", "/erp/secret", "/erp/test", "/erp/replay"):
        assert (await sqlite_desk.post(f"/v1/webhooks{path}", MADE, key=READER)).status == 403
    for method in ("PATCH", "DELETE"):
        assert (await sqlite_desk.call(method, "/v1/webhooks/erp", {"enabled": False}, key=READER)).status == 403


async def test_a_change_takes_what_is_named_and_null_means_the_default(desk: Desk, clock: ManualClock) -> None:
    await desk.make(timeout_s=3, description="old")
    changed = await desk.call("PATCH", "/v1/webhooks/erp", {"url": "https://b.example/", "timeout_s": None}, key=ADMIN)
    assert (changed.json["url"], changed.json["timeout_s"]) == ("https://b.example/", 15)
    assert (changed.json["description"], changed.json["events"]) == ("old", MADE["events"])
    assert desk.house.endpoints.hooks["erp"].url == "https://b.example/"
    for body, field in (({}, "url"), ({"url": None}, "url"), ({"name": "x"}, "name"), ({"secret": SECRET}, "secret")):
        reply = await desk.call("PATCH", "/v1/webhooks/erp", body, key=ADMIN)
        assert (reply.status, reply.field) == (422, field)


async def test_one_of_the_config_is_switched_here_and_edited_there(desk: Desk) -> None:
    reply = await desk.call("PATCH", "/v1/webhooks/main", {"url": "https://b.example/"}, key=ADMIN)
    assert (reply.status, "config" in reply.json["detail"]) == (409, True)
    assert (await desk.call("DELETE", "/v1/webhooks/main", key=ADMIN)).status == 409
    await desk.ask("main/secret", status=409)
    off = await desk.ask("main/disable")
    assert (off["state"], off["reason"]) == ("disabled", "switched off by boss")
    await desk.happens(Draft("provider.up", {"provider": "smmplus"}))
    await desk.drain()
    assert (await desk.show("main"))["waiting"] == 1
    assert desk.answers.sent == []
    # A restart of the daemon changes nothing about it.
    desk.begin()
    await desk.drain()
    assert desk.answers.sent == []
    on = await desk.call("PATCH", "/v1/webhooks/main", {"enabled": True}, key=ADMIN)
    assert on.json["state"] == "healthy"
    await desk.drain()
    assert len(desk.answers.sent) == 1
    assert (await desk.ask("off/enable", status=409))["detail"].startswith("the config says enabled: false")


async def test_a_secret_is_changed_while_the_old_one_still_signs(desk: Desk, clock: ManualClock) -> None:
    first = (await desk.make())["secret"]
    until = rfc3339(clock.now() + timedelta(hours=1))
    second = await desk.ask("erp/secret", {"until": until})
    assert second["secrets"] == [{"until": None}, {"until": until}]

    def signs() -> list[str]:
        return [one.value.reveal() for one in desk.house.endpoints.hooks["erp"].secrets_at(clock.now())]

    assert signs() == [second["secret"], first]
    clock.advance(3601)
    assert signs() == [second["secret"]]
    given = await desk.ask("erp/secret", {"secret": OTHER_SECRET})
    assert given["secret"] == OTHER_SECRET
    assert signs() == [OTHER_SECRET, second["secret"]]
    assert (await desk.ask("erp/secret", {"until": until}, 422))["field"] == "until"
    for _ in range(3):
        await desk.ask("erp/secret")
    await desk.ask("erp/secret", status=409)


# --- events arrive, or not


async def test_filters_by_type_and_service(desk: Desk) -> None:
    await desk.make(services=["ig-comments"], events=["*"])
    await desk.order()
    await desk.order(service="ig-comments", params={"comments": ["nice"] * 10}, quantity=None)
    await desk.happens(Draft("provider.up", {"provider": "smmplus"}))
    await desk.drain()
    assert [one["order_number"] for one in await desk.log("erp")] == [2]
    assert len(await desk.log("main")) == 3


async def test_a_test_event_goes_to_one_endpoint_alone(desk: Desk) -> None:
    await desk.make(events=["sms.code"], services=["ig-followers"])
    event = (await desk.ask("erp/test", status=202))["event"]
    await desk.drain()
    (told,) = await desk.log("erp", f"?event={event}")
    assert (told["type"], told["state"], told["status"], told["tries"]) == ("webhook.test", "delivered", 200, 1)
    assert told["answer"] == "thanks [31m for abcdefgh"
    assert await desk.log("main") == []
    await desk.ask("erp/disable")
    assert "enable" in (await desk.ask("erp/test", status=409))["detail"]


async def test_the_log_shows_what_failed_and_when_it_is_tried_again(desk: Desk, clock: ManualClock) -> None:
    desk.answers.status["token=abcdefgh"] = 500
    order = await desk.order()
    await desk.order()
    await desk.drain()
    first = (await desk.log("main", f"?order={order['id']}"))[0]
    assert (first["state"], first["status"], first["error"], first["tries"]) == ("pending", 500, "HTTP 500", 1)
    assert first["next_try_at"] == rfc3339(clock.now() + timedelta(seconds=5))
    assert first["answer"] == "thanks [31m for [secret]", "an echo of the URL's query is no part of the log"
    shown = await desk.show("main")
    assert (shown["state"], shown["reason"], shown["waiting"]) == ("failing", "HTTP 500", 2)
    assert shown["last_failure"] == {"at": rfc3339(clock.now()), "error": "HTTP 500"}
    assert await desk.log("main", "?state=delivered") == []
    page = await desk.get("/v1/webhooks/main/deliveries?limit=1", key=READER)
    rest = await desk.get(f"/v1/webhooks/main/deliveries?limit=1&cursor={page.json['next_cursor']}", key=READER)
    assert [one["order_number"] for one in page.json["deliveries"] + rest.json["deliveries"]] == [2, 1]
    assert rest.json["next_cursor"] is None
    for query in ("?order=99", "?order=nonsense"):
        assert (await desk.get(f"/v1/webhooks/main/deliveries{query}", key=READER)).status == 404
    since = rfc3339(clock.now() + timedelta(seconds=1))
    assert await desk.log("main", f"?since={since}") == []
    assert len(await desk.log("main", f"?since={rfc3339(clock.now())}")) == 2


async def test_an_endpoint_that_only_fails_is_disabled_loudly_and_enabled_by_a_call(
    desk: Desk, clock: ManualClock
) -> None:
    desk.answers.status["token=abcdefgh"] = 500
    await desk.make(events=["webhook.*"])
    await desk.order()
    await desk.drain()
    for _ in range(11):
        clock.advance(12 * 3600)
        await desk.order()
        await desk.drain()
    shown = await desk.show("main")
    assert shown["state"] == "disabled"
    assert shown["reason"].startswith("it failed for 5 days without one success")
    told = [one["type"] for one in await desk.log("erp")]
    assert told.count("webhook.disabled") == 1
    tries = len(desk.answers.sent)
    clock.advance(86_400)
    await desk.drain()
    assert len(desk.answers.sent) == tries
    desk.answers.status.clear()
    await desk.ask("main/enable")
    await desk.drain()
    assert (await desk.show("main"))["waiting"] == 0


# --- replays


async def test_replays_keep_id_and_bytes(desk: Desk, clock: ManualClock) -> None:
    for _ in range(3):
        await desk.order()
        clock.advance(60)
    await desk.drain()
    ids = [headers["webhook-id"] for _, headers, _ in desk.answers.sent]
    assert len(ids) == 3

    async def again(body: dict[str, Any], name: str = "main") -> list[str]:
        desk.answers.sent.clear()
        count = (await desk.ask(f"{name}/replay", body, 202))["deliveries"]
        await desk.drain()
        found = [headers["webhook-id"] for _, headers, _ in desk.answers.sent]
        assert len(found) == count
        return found

    assert await again({"event": ids[1]}) == [ids[1]]
    assert await again({"from": 2, "to": 999}) == ids[1:]
    assert await again({"since": rfc3339(clock.now() - timedelta(seconds=90))}) == ids[2:]
    assert await again({"parked": True}) == []
    await desk.make()
    assert await again({"from": 1, "to": 3}, "erp") == ids, "what was never made for it is made"
    assert len(await desk.log("erp")) == 3
    assert await again({"from": 1, "to": 3}, "erp") == ids
    await desk.make(name="codes", events=["sms.code"])
    assert await again({"from": 1, "to": 3}, "codes") == [], "its filters do not take them"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "event"),
        ({"parked": True, "from": 1, "to": 2}, "event"),
        ({"parked": False}, "parked"),
        ({"from": 1}, "to"),
        ({"to": 1}, "from"),
        ({"from": 5, "to": 4}, "to"),
        ({"from": 0, "to": 4}, "from"),
        ({"event": "evt_1"}, "event"),
        ({"event": "evt_" + "0" * 32}, "event"),
        ({"since": "yesterday"}, "since"),
        ({"since": 5}, "since"),
    ],
)
async def test_a_replay_of_nothing_is_refused(sqlite_desk: Desk, body: dict[str, Any], field: str) -> None:
    assert (await sqlite_desk.ask("main/replay", body, 422))["field"] == field


async def test_ten_thousand_parked_deliveries_are_sent_again_by_small_transactions(desk: Desk) -> None:
    count = 10_000 if desk.house.database.kind == "sqlite" else 1_200
    now = desk.house.clock.now()

    def park(connection: Any) -> None:
        wrong = [
            {
                "id": f"evt_{n:032x}", "type": "provider.up", "lane": f"l{n}", "position": n,
                "body": '{"type":"provider.up","timestamp":"2026-11-21T18:00:00.000Z","data":{"provider":"x"}}',
                "created_at": now,
            }
            for n in range(1, count + 1)
        ]  # fmt: skip
        connection.execute(insert(events), wrong)
        outbox._advance(connection, count)
        rows = connection.execute(select(events.c.seq, events.c.lane)).all()
        parked = [
            {"event_seq": row.seq, "endpoint": "main", "lane": row.lane, "state": "parked", "tries": 10,
             "created_at": now, "finished_at": now}
            for row in rows
        ]  # fmt: skip
        connection.execute(insert(deliveries), parked)

    await desk.house.database.write(park)
    longest = 0

    class Counting:
        """Counts the rows that each transaction changes."""

        def __init__(self, inner: Database) -> None:
            self.inner, self.kind, self.read = inner, inner.kind, inner.read

        async def write(self, work: Any) -> Any:
            def counted(connection: Any) -> Any:
                nonlocal longest
                before = connection.execute(select(func.count()).where(deliveries.c.state == "parked")).scalar()
                result = work(connection)
                after = connection.execute(select(func.count()).where(deliveries.c.state == "parked")).scalar()
                longest = max(longest, before - after)
                return result

            return await self.inner.write(counted)

    assert (await desk.show("main"))["parked"] == count
    assert (await desk.ask("main/replay", {"parked": True}, 202))["deliveries"] == count
    desk.replaying._house = Desk(desk.house).house
    object.__setattr__(desk.replaying._house, "database", Counting(desk.house.database))
    assert await desk.replaying.run_once() == count
    assert 0 < longest <= 500
    object.__setattr__(desk.house, "database", desk.house.database.inner)  # type: ignore[attr-defined]
    assert (await desk.show("main"))["waiting"] == count


# --- removed


async def test_a_removed_endpoint_takes_its_deliveries_along_and_frees_its_name(desk: Desk) -> None:
    await desk.make()
    await desk.order()
    await desk.drain()
    sent = {"endpoint": "erp", "result": "delivered"}
    assert counted("aggregator_deliveries_total", **sent)
    assert (await desk.call("DELETE", "/v1/webhooks/erp", key=ADMIN)).json == {"deleted": "erp"}
    told = Scrape((await desk.get("/metrics", key=READER)).text)
    assert not [one for one in told.samples if one.labels.get("endpoint") == "erp"], "series of a name that is gone"
    assert (await desk.get("/v1/webhooks/erp", key=READER)).status == 404
    assert (await desk.call("DELETE", "/v1/webhooks/erp", key=ADMIN)).status == 404
    await desk.order()
    await desk.drain()
    assert (await desk.post("/v1/webhooks", MADE, key=ADMIN)).status == 409, "what it left is still being removed"
    assert await Retention(desk.house).run_once() == 2
    await desk.make()
    assert await desk.log("erp") == []
    assert len(await desk.log("main")) == 2


# --- callbacks


async def test_a_callback_url_needs_a_key_that_can_sign(sqlite_desk: Desk) -> None:
    refused = await sqlite_desk.post(
        "/v1/orders", {**ORDER, "callback_url": "https://shop.example.com/"}, key="other-key-0123456789"
    )
    assert (refused.status, refused.field) == (422, "callback_url")
    assert "callback_secret" in refused.json["detail"]
    assert (await sqlite_desk.order(callback_url=None))["state"] == "accepted"


ORDER = {"service": "ig-followers", "link": "https://instagram.com/username", "quantity": 1000}


@pytest.mark.parametrize(
    "url", ["http://localhost/", "http://127.0.0.1:8000/", "http://[::1]/", "https://x.example:25/"]
)
async def test_a_callback_url_that_leads_inside_is_refused(sqlite_desk: Desk, url: str) -> None:
    refused = await sqlite_desk.post("/v1/orders", {**ORDER, "callback_url": url})
    assert (refused.status, refused.field) == (422, "callback_url"), refused.text
    assert await sqlite_desk.stored() == 0


async def test_a_bad_callback_of_a_batch_hurts_no_neighbour(sqlite_desk: Desk) -> None:
    orders = [{**ORDER, "callback_url": url} for url in ("https://a.example/", "http://10.0.0.1/", "x", 5)]
    reply = await sqlite_desk.post("/v1/orders:batch", {"orders": orders})
    assert [one["status"] for one in reply.json["results"]] == [201, 422, 422, 422]
    assert {one["problem"]["field"] for one in reply.json["results"][1:]} == {"callback_url"}


async def test_an_orders_events_go_to_its_callback_signed_with_its_callers_secret(desk: Desk) -> None:
    url = "https://hooks.example.com/orders?order=7"
    await desk.order(callback_url=url)
    await desk.order()
    await desk.drain()
    called = [(to, guarded) for to, _, guarded in desk.answers.sent if "hooks.example.com" in to]
    assert called == [(url, True)], "its own order's, behind the guard"
    name = "shop@hooks.example.com:443"
    (listed,) = (await desk.get("/v1/webhooks?source=callback", key=READER)).json["webhooks"]
    assert (listed["name"], listed["owner"], listed["state"], listed["source"]) == (name, "shop", "healthy", "callback")
    (told,) = await desk.log(name)
    assert (told["type"], told["url"]) == ("order.accepted", "https://hooks.example.com/orders?order=***")
    assert name not in [one["name"] for one in (await desk.get("/v1/webhooks", key=READER)).json["webhooks"]]
    await desk.ask(f"{name}/disable", status=409)
    await desk.ask(f"{name}/replay", {"from": 1, "to": 2}, 202)
    await desk.drain()
    assert [to for to, _, _ in desk.answers.sent].count(url) == 2


async def test_metrics_tell_what_waits_by_endpoint_and_callbacks_as_one(desk: Desk, clock: ManualClock) -> None:
    desk.answers.status = {"token=abcdefgh": 500, "example.com/": 500}
    made = clock.now().timestamp()
    for number in range(3):
        await desk.order(callback_url=f"https://h{number}.example.com/")
    await desk.drain()
    clock.advance(4)
    reply = await desk.client.get("/metrics", headers={"Authorization": f"Bearer {READER}"})
    text = await reply.text()
    for line in (
        'aggregator_deliveries_waiting{endpoint="main"} 3.0',
        'aggregator_deliveries_waiting{endpoint="callbacks"} 3.0',
        'aggregator_deliveries_parked{endpoint="main"} 0.0',
        'aggregator_endpoint_state{endpoint="main",state="failing"} 1.0',
        'aggregator_endpoint_state{endpoint="off",state="disabled"} 1.0',
        'aggregator_callback_hosts{standing="failing"} 3.0',
    ):
        assert line in text.splitlines(), line
    for endpoint in ("main", "callbacks"):
        assert Scrape(text).value("aggregator_delivery_oldest_timestamp_seconds", endpoint=endpoint) == made
    assert "h1.example.com" not in text


# --- several at once, and long looks


async def test_secrets_that_were_shown_all_sign(desk: Desk) -> None:
    await desk.make()
    shown = await asyncio.gather(*(desk.ask("erp/secret", {}) for _ in range(4)))
    await desk.ask("erp/test", {}, status=202)
    await desk.drain()
    (_, sent, _) = desk.answers.sent[-1]
    hook = desk.house.endpoints.hooks["erp"]
    assert {one["secret"] for one in shown} <= {one.value.reveal() for one in hook.secret}
    assert len(sent["webhook-signature"].split()) == 5


async def test_changes_at_once_are_all_kept(desk: Desk) -> None:
    await desk.make()
    changes: list[dict[str, Any]] = [
        *({"description": "for the books"}, {"timeout_s": 7}, {"order_hold_s": 60}),
        {"url": "https://erp.example.com/new"},
    ]
    await asyncio.gather(*(patched(desk, "erp", change) for change in changes))
    shown = await desk.show("erp")
    for change in changes:
        assert shown | change == shown
    hook = desk.house.endpoints.hooks["erp"]
    assert (hook.description, hook.timeout_s, hook.order_hold_s) == ("for the books", 7, 60)


async def patched(desk: Desk, name: str, change: dict[str, Any]) -> None:
    reply = await desk.call("PATCH", f"/v1/webhooks/{name}", change, key=ADMIN)
    assert reply.status == 200, reply.text


async def test_a_name_is_given_once(desk: Desk) -> None:
    replies = await asyncio.gather(*(desk.post("/v1/webhooks", MADE, key=ADMIN) for _ in range(4)))
    assert sorted(reply.status for reply in replies) == [201, 409, 409, 409]


async def test_what_was_deleted_stays_deleted_whatever_was_changed_beside_it(desk: Desk) -> None:
    for _ in range(5):
        await desk.make()
        changing = desk.call("PATCH", "/v1/webhooks/erp", {"description": "again"}, key=ADMIN)
        gone, _ = await asyncio.gather(desk.call("DELETE", "/v1/webhooks/erp", key=ADMIN), changing)
        assert gone.status == 200, gone.text
        assert "erp" not in desk.house.endpoints.hooks
        while await desk.house.database.read(store.some_deleted):
            await desk.write(store.remove_some, "erp")


async def test_a_time_before_all_times_is_no_mistake_of_ours(desk: Desk) -> None:
    await desk.make()
    early = "0001-01-01T00:00:00Z"
    assert await desk.log("erp", f"?since={early}") == []
    assert (await desk.ask("erp/replay", {"since": early}, status=202))["deliveries"] >= 0


async def test_secrets_without_number_are_ended_by_a_rotation_that_says_when(desk: Desk, clock: ManualClock) -> None:
    await desk.make()
    for _ in range(4):
        await desk.ask("erp/secret", {})
    await desk.ask("erp/secret", {}, status=409)
    await desk.ask("erp/secret", {"until": rfc3339(clock.now() + timedelta(seconds=2))})
    clock.advance(3)
    await desk.ask("erp/test", {}, status=202)
    await desk.drain()
    (_, sent, _) = desk.answers.sent[-1]
    assert len(sent["webhook-signature"].split()) == 1


async def test_a_replay_is_counted_before_it_is_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting hundreds of thousands of events once held SQLite's only writer for ten seconds."""
    await desk.make()
    at_work: list[str] = []
    real = desk.house.database.write

    async def write(work: Any) -> Any:
        at_work.append("write")
        try:
            return await real(work)
        finally:
            at_work.pop()

    counts = replays.count_events

    def count(*args: Any, **values: Any) -> int:
        assert not at_work
        return counts(*args, **values)

    monkeypatch.setattr(desk.house.database, "write", write)
    monkeypatch.setattr(replays, "count_events", count)
    await desk.ask("erp/replay", {"since": "2020-01-01T00:00:00Z"}, status=202)
