"""Keys, scopes, limits: who gets in and who does what."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from aggregator.config import UnixAddress
from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem
from aggregator.storage import orders
from aggregator.storage.database import Database
from aggregator.web.limits import WRONG_KEYS, WRONG_KEYS_WINDOW_S, WrongKeys
from aggregator.web.server import create_app, start_sites
from tests.web.support import ADMIN, CONFIG, OTHER, READER, SHOP, Doors, an_order, open_house

ID = "ord_" + "0" * 32


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic c2hvcDp4",
        SHOP,
        "Bearer wrong-key-0123456789",
        f"Bearer {SHOP}x",
        "Bearer ké",
    ],
)
async def test_no_key_or_a_wrong_one_is_401(sqlite_doors: Doors, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    reply = await sqlite_doors.post("/v1/orders", an_order(), key=None, headers=headers)
    assert (reply.status, reply.problem) == (401, "unauthenticated")
    assert reply.headers["WWW-Authenticate"].startswith("Bearer ")
    assert SHOP not in reply.text
    assert await sqlite_doors.stored() == 0


async def test_the_scheme_is_read_in_any_case(sqlite_doors: Doors) -> None:
    headers = {"Authorization": f"bearer  {SHOP}"}
    assert (await sqlite_doors.get("/v1/orders", key=None, headers=headers)).status == 200


SCOPES: list[tuple[str, str, set[str]]] = [
    ("POST", "/v1/orders", {SHOP, ADMIN}),
    ("POST", "/v1/orders:batch", {SHOP, ADMIN}),
    ("GET", "/v1/orders", {SHOP, READER, ADMIN}),
    ("GET", f"/v1/orders/{ID}", {SHOP, READER, ADMIN}),
    ("GET", f"/v1/orders/{ID}/attempts", {SHOP, READER, ADMIN}),
    ("GET", f"/v1/orders/{ID}/events", {SHOP, READER, ADMIN}),
    ("GET", f"/v1/orders/{ID}/delivery", {SHOP, ADMIN}),
    ("POST", f"/v1/orders/{ID}/cancel", {SHOP, ADMIN}),
    ("POST", f"/v1/orders/{ID}/refill", {SHOP, ADMIN}),
    ("POST", f"/v1/orders/{ID}/count", {SHOP, ADMIN}),
    ("POST", f"/v1/orders/{ID}/resolve", {ADMIN}),
    ("POST", "/v1/quote", {SHOP, READER, ADMIN}),
    ("GET", "/v1/services", {SHOP, READER, ADMIN}),
    ("GET", "/v1/events", {SHOP, READER, ADMIN}),
    ("GET", "/v1/events/stream", {SHOP, READER, ADMIN}),
    ("GET", "/v1/providers", {READER, ADMIN}),
    ("GET", "/v1/providers/smmplus", {READER, ADMIN}),
    ("GET", "/v1/providers/smmplus/services", {READER, ADMIN}),
    ("GET", "/v1/providers/smmplus/categories", {READER, ADMIN}),
    ("GET", "/v1/sms/projects", {READER, ADMIN}),
    ("GET", "/v1/sms/countries", {READER, ADMIN}),
    ("GET", "/v1/providers/smmplus/services/1/history", {READER, ADMIN}),
    ("GET", "/v1/providers/smmplus/ledger", {READER, ADMIN}),
    ("POST", "/v1/providers/smmplus/sync", {ADMIN}),
    ("POST", "/v1/providers/smmplus/pause", {ADMIN}),
    ("POST", "/v1/providers/smmplus/resume", {ADMIN}),
    ("POST", "/v1/providers/smmplus/release", {ADMIN}),
    ("GET", "/v1/webhooks", {READER, ADMIN}),
    ("POST", "/v1/webhooks", {ADMIN}),
    ("GET", "/v1/webhooks/erp", {READER, ADMIN}),
    ("PATCH", "/v1/webhooks/erp", {ADMIN}),
    ("DELETE", "/v1/webhooks/erp", {ADMIN}),
    ("GET", "/v1/webhooks/erp/deliveries", {READER, ADMIN}),
    ("POST", "/v1/webhooks/erp/enable", {ADMIN}),
    ("POST", "/v1/webhooks/erp/disable", {ADMIN}),
    ("POST", "/v1/webhooks/erp/secret", {ADMIN}),
    ("POST", "/v1/webhooks/erp/test", {ADMIN}),
    ("POST", "/v1/webhooks/erp/replay", {ADMIN}),
    ("POST", "/v1/reload", {ADMIN}),
]


async def test_each_call_wants_its_scope(sqlite_doors: Doors) -> None:
    for method, path, allowed in SCOPES:
        assert (await sqlite_doors.call(method, path, key=None)).status == 401, path
        for key in (SHOP, READER, ADMIN):
            reply = await sqlite_doors.call("HEAD" if path.endswith("/stream") else method, path, key=key)
            assert (reply.status != 403) == (key in allowed), (method, path, key, reply.text)
            if reply.status == 403 and reply.text:
                assert reply.problem == "forbidden"


async def test_the_table_of_scopes_names_every_route(sqlite_doors: Doors) -> None:
    app = sqlite_doors.client.server.app  # type: ignore[attr-defined]
    routes = {
        (
            route.method,
            route.resource.canonical.replace("{order}", ID)
            .replace("{provider}", "smmplus")
            .replace("{service}", "1")
            .replace("{webhook}", "erp"),
        )
        for route in app.router.routes()
        if route.method != "HEAD"
    }
    assert {path for path in routes if path[1].startswith("/v1")} == {case[:2] for case in SCOPES}


async def test_read_sees_all_but_deliveries_and_does_nothing(doors: Doors) -> None:
    order = await doors.order()
    assert (await doors.get(f"/v1/orders/{order['id']}", key=READER)).status == 200
    assert [o["id"] for o in (await doors.get("/v1/orders", key=READER)).json["orders"]] == [order["id"]]
    assert (await doors.get(f"/v1/orders/{order['id']}/delivery", key=READER)).status == 403
    assert (await doors.post(f"/v1/orders/{order['id']}/cancel", key=READER)).status == 403
    assert (await doors.post("/v1/orders", an_order(), key=READER)).status == 403


async def test_nobody_acts_on_foreign_orders_but_the_admin(doors: Doors) -> None:
    order = await doors.order()
    for action in ("cancel", "refill"):
        reply = await doors.post(f"/v1/orders/{order['id']}/{action}", key=OTHER)
        assert (reply.status, reply.problem) == (404, "unknown-order")
    assert (await doors.get(f"/v1/orders/{order['id']}")).json["state"] == "accepted"
    assert (await doors.post(f"/v1/orders/{order['id']}/cancel", key=ADMIN)).status == 202


async def test_who_sees_all_but_may_not_act_is_told_so(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    config = CONFIG.replace(
        "{name: other, key: " + OTHER + ", scopes: [orders]}",
        "{name: other, key: " + OTHER + ", scopes: [orders, read]}",
    )
    doors = Doors(await open_house(database, clock, tmp_path, config))
    async with aiohttp.test_utils.TestClient(aiohttp.test_utils.TestServer(create_app(doors.services))) as client:
        doors.client = client
        order = await doors.order()
        assert (await doors.get(f"/v1/orders/{order['id']}", key=OTHER)).status == 200
        assert (await doors.post(f"/v1/orders/{order['id']}/cancel", key=OTHER)).status == 403
        assert (await doors.get(f"/v1/orders/{order['id']}/delivery", key=OTHER)).status == 403


async def test_an_old_key_counts_until_its_time_is_over(sqlite_doors: Doors, clock: ManualClock) -> None:
    first = await sqlite_doors.order(key="old-key-0123456789")
    clock.advance(3599)
    assert (await sqlite_doors.get(f"/v1/orders/{first['id']}", key="new-key-0123456789")).status == 200
    assert (await sqlite_doors.get(f"/v1/orders/{first['id']}", key="old-key-0123456789")).status == 200
    clock.advance(1)
    assert (await sqlite_doors.get(f"/v1/orders/{first['id']}", key="old-key-0123456789")).status == 401
    assert (await sqlite_doors.get(f"/v1/orders/{first['id']}", key="new-key-0123456789")).status == 200


async def test_a_caller_over_its_rate_waits(sqlite_doors: Doors, clock: ManualClock) -> None:
    key = "quick-key-0123456789"
    assert [(await sqlite_doors.get("/v1/services", key=key)).status for _ in range(3)] == [200, 200, 429]
    reply = await sqlite_doors.get("/v1/services", key=key)
    assert (reply.problem, reply.headers["Retry-After"]) == ("too-many-requests", "1")
    clock.advance(0.5)
    assert [(await sqlite_doors.get("/v1/services", key=key)).status for _ in range(2)] == [200, 429]
    assert (await sqlite_doors.get("/v1/services")).status == 200


async def test_open_orders_are_limited_however_many_come_at_once(doors: Doors) -> None:
    key = "small-key-0123456789"
    replies = await asyncio.gather(*(doors.post("/v1/orders", an_order(), key=key) for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [201] * 3 + [429] * 5
    assert all(int(reply.headers["Retry-After"]) > 0 for reply in replies if reply.status == 429)
    placed = next(reply.json for reply in replies if reply.status == 201)
    await doors.post(f"/v1/orders/{placed['id']}/cancel", key=key)
    assert (await doors.post("/v1/orders", an_order(), key=key)).status == 201
    assert (await doors.post("/v1/orders", an_order())).status == 201


async def test_a_replay_takes_no_room(doors: Doors) -> None:
    key, headers = "small-key-0123456789", {"Idempotency-Key": "k"}
    first = await doors.post("/v1/orders", an_order(), key=key, headers=headers)
    await doors.order(key=key)
    await doors.order(key=key)
    again = await doors.post("/v1/orders", an_order(), key=key, headers=headers)
    assert (again.status, again.text) == (201, first.text)
    full = await doors.post("/v1/orders", an_order(), key=key, headers={"Idempotency-Key": "k2"})
    assert full.status == 429
    await doors.post(f"/v1/orders/{first.json['id']}/cancel", key=key)
    assert (await doors.post("/v1/orders", an_order(), key=key, headers={"Idempotency-Key": "k2"})).status == 201


async def test_many_wrong_keys_are_slowed_down_and_a_right_one_gets_in(sqlite_doors: Doors, clock: ManualClock) -> None:
    for _ in range(WRONG_KEYS):
        assert (await sqlite_doors.get("/v1/orders", key="wrong-key-0123456789")).status == 401
    reply = await sqlite_doors.get("/v1/orders", key="wrong-key-0123456789")
    assert (reply.status, reply.headers["Retry-After"]) == (429, "60")
    assert (await sqlite_doors.get("/v1/orders")).status == 200
    clock.advance(60)
    assert (await sqlite_doors.get("/v1/orders", key="wrong-key-0123456789")).status == 401


async def test_without_keys_a_unix_socket_is_the_local_admin(
    sqlite_database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    config = "http: {listen: ['unix:/tmp/x.sock']}\n" + CONFIG[CONFIG.index("currency:") :]
    doors = Doors(await open_house(sqlite_database, clock, tmp_path, config))
    path = tmp_path / "api.sock"
    runner = await start_sites(create_app(doors.services), [UnixAddress(path)])
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            async with session.post("http://local/v1/orders", json=an_order()) as response:
                assert response.status == 201
                order = await response.json()
            async with session.post("http://local/v1/providers/smmplus/pause") as response:
                assert response.status == 200
        stored = await sqlite_database.read(lambda c: orders.load(c, order["number"]))
        assert stored is not None
        assert stored.owner == "local"
    finally:
        await runner.cleanup()


async def test_with_keys_a_unix_socket_wants_one_too(
    sqlite_database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    doors = Doors(await open_house(sqlite_database, clock, tmp_path))
    path = tmp_path / "api.sock"
    runner = await start_sites(create_app(doors.services), [UnixAddress(path)])
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            async with session.get("http://local/v1/orders") as response:
                assert response.status == 401
            async with session.get("http://local/v1/orders", headers={"Authorization": f"Bearer {SHOP}"}) as response:
                assert response.status == 200
    finally:
        await runner.cleanup()


async def test_without_keys_tcp_lets_nobody_in(sqlite_database: Database, clock: ManualClock, tmp_path: Path) -> None:
    config = CONFIG[CONFIG.index("currency:") :]
    doors = Doors(await open_house(sqlite_database, clock, tmp_path, config))
    async with aiohttp.test_utils.TestClient(aiohttp.test_utils.TestServer(create_app(doors.services))) as client:
        doors.client = client
        assert (await doors.get("/v1/orders", key=None)).status == 401
        assert (await doors.get("/v1/orders")).status == 401


def test_peers_whose_wrong_keys_are_old_are_forgotten() -> None:
    """What only grows with every new address would be memory that anybody can take."""
    wrong = WrongKeys()
    for n in range(500):
        wrong.count(f"198.51.100.{n}", float(n))
    assert len(wrong._peers) == WRONG_KEYS_WINDOW_S
    for _ in range(WRONG_KEYS):
        wrong.count("203.0.113.1", 500.0)
    with pytest.raises(Problem):
        wrong.count("203.0.113.1", 501.0)
    wrong.count("203.0.113.1", 500.0 + WRONG_KEYS_WINDOW_S)
    assert list(wrong._peers) == ["203.0.113.1"]
