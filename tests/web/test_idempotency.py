"""Idempotency keys: the same request is answered again, never done again."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDict
from sqlalchemy import Connection, delete, func, select

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.orders import OrderState, Role
from aggregator.storage import idempotency, tables
from aggregator.storage import orders as order_store
from aggregator.web.server import create_app
from tests.support import rows
from tests.support.databases import opened
from tests.web.support import ADMIN, OTHER, SHOP, Doors, an_order


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def test_the_same_request_is_answered_again(doors: Doors) -> None:
    first = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    again = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status, again.text) == (201, first.text)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert await doors.stored() == 1


async def test_bare_and_quoted_name_the_same_key(doors: Doors) -> None:
    await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    assert (await doors.post("/v1/orders", an_order(), headers=keyed('"k-1"'))).headers["Idempotent-Replayed"] == "true"
    escaped = await doors.post("/v1/orders", an_order(), headers=keyed(r'"a\"b\\c"'))
    assert escaped.status == 201
    assert (await doors.post("/v1/orders", an_order(), headers=keyed('a"b\\c'))).headers["Idempotent-Replayed"]


async def test_another_body_under_the_same_key_is_422(doors: Doors) -> None:
    await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    other = await doors.post("/v1/orders", an_order(quantity=20), headers=keyed("k-1"))
    assert (other.status, other.problem, other.field) == (422, "idempotency-key-reused", "Idempotency-Key")
    batch = await doors.post("/v1/orders:batch", {"orders": [an_order()]}, headers=keyed("k-1"))
    assert batch.problem == "idempotency-key-reused"
    assert await doors.stored() == 1


async def test_a_key_belongs_to_its_caller(doors: Doors) -> None:
    mine = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    theirs = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"), key=OTHER)
    assert theirs.status == 201
    assert theirs.json["id"] != mine.json["id"]


async def test_twenty_at_once_make_one_order(doors: Doors) -> None:
    replies = await asyncio.gather(*(doors.post("/v1/orders", an_order(), headers=keyed("k-1")) for _ in range(20)))
    assert await doors.stored() == 1
    assert {reply.status for reply in replies} <= {201, 409}
    assert len({reply.json["id"] for reply in replies if reply.status == 201}) == 1
    assert all(reply.headers["Retry-After"] == "1" for reply in replies if reply.status == 409)
    after = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    assert (after.status, after.headers["Idempotent-Replayed"]) == (201, "true")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"service": "nothing-like-it", "quantity": 5}', 422),
        (b'{"service": "ig-followers"}', 422),
        (b"{", 400),
        (b"[]", 422),
        (b"", 400),
    ],
)
async def test_refusals_decided_after_the_body_are_kept(sqlite_doors: Doors, body: bytes, status: int) -> None:
    first = await sqlite_doors.post("/v1/orders", data=body, headers=keyed("k-1"))
    again = await sqlite_doors.post("/v1/orders", data=body, headers=keyed("k-1"))
    assert (first.status, again.status) == (status, status)
    assert again.text == first.text
    assert again.headers["Idempotent-Replayed"] == "true"
    fixed = await sqlite_doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    assert fixed.problem == "idempotency-key-reused"


async def test_refusals_decided_before_the_body_are_not_kept(doors: Doors) -> None:
    assert (await doors.post("/v1/orders", an_order(), headers=keyed("k-1"), key="nobody-0123456789")).status == 401
    text = {**keyed("k-1"), "Content-Type": "text/plain"}
    assert (await doors.post("/v1/orders", an_order(), headers=text)).status == 415
    assert (await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))).status == 201


@pytest.mark.parametrize("key", ["", " ", '"', '"abc', '"a"b"', "käse", "x" * 256, '"' + "x" * 256 + '"', '""'])
async def test_a_malformed_key_is_422(sqlite_doors: Doors, key: str) -> None:
    reply = await sqlite_doors.post("/v1/orders", an_order(), headers=keyed(key))
    assert (reply.status, reply.field) == (422, "Idempotency-Key")
    assert await sqlite_doors.stored() == 0


@pytest.mark.parametrize("key", ["x" * 255, '"' + "x" * 255 + '"', "a b", "{}", "8e03978e-40d5-43dd-bc93-6894a57f9324"])
async def test_every_printable_key_up_to_255_is_fine(sqlite_doors: Doors, key: str) -> None:
    assert (await sqlite_doors.post("/v1/orders", an_order(), headers=keyed(key))).status == 201


async def test_two_keys_are_none(sqlite_doors: Doors) -> None:
    order = json.dumps(an_order()).encode()
    headers = CIMultiDict(Authorization=f"Bearer {SHOP}", **{"Content-Type": "application/json"})
    headers.extend([("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    async with sqlite_doors.client.post("/v1/orders", data=order, headers=headers) as response:
        assert response.status == 422


async def test_a_batch_is_answered_again(doors: Doors) -> None:
    body = {"orders": [an_order(), {"service": "no-such"}, an_order()]}
    first = await doors.post("/v1/orders:batch", body, headers=keyed("b-1"))
    again = await doors.post("/v1/orders:batch", body, headers=keyed("b-1"))
    assert (first.status, again.text, again.headers["Idempotent-Replayed"]) == (200, first.text, "true")
    assert await doors.stored() == 2


async def test_a_cancel_is_answered_again_instead_of_refused(doors: Doors) -> None:
    order = await doors.order()
    path = f"/v1/orders/{order['id']}/cancel"
    first = await doors.post(path, headers=keyed("c-1"))
    again = await doors.post(path, headers=keyed("c-1"))
    assert (first.status, again.status, again.text) == (202, 202, first.text)
    assert (await doors.post(path, headers=keyed("c-2"))).status == 409
    assert (await doors.post(path)).status == 409


async def test_a_conflict_is_not_kept(doors: Doors) -> None:
    order = await doors.write(rows.accept, owner="shop")
    unclear = await doors.write(rows.lose, order)
    path = f"/v1/orders/{order.id}/resolve"
    body = {"outcome": "placed", "provider_order": "77"}
    other = await doors.write(rows.accept, owner="shop")
    await doors.write(rows.buy, other, provider_order="77")
    assert unclear.provider == "smmplus"
    assert (await doors.post(path, body, headers=keyed("r-1"), key=ADMIN)).status == 409
    found = await doors.post(path, {"outcome": "not_placed"}, headers=keyed("r-1"), key=ADMIN)
    assert found.status == 200
    again = await doors.post(path, {"outcome": "not_placed"}, headers=keyed("r-1"), key=ADMIN)
    assert (again.status, again.text) == (200, found.text)


async def test_an_unknown_order_is_kept_for_an_action(doors: Doors) -> None:
    first = await doors.post("/v1/orders/4711/cancel", headers=keyed("c-1"))
    again = await doors.post("/v1/orders/4711/cancel", headers=keyed("c-1"))
    assert (first.status, again.status, again.headers["Idempotent-Replayed"]) == (404, 404, "true")


# --- an order's answer is made again of the order


RICH = {
    "link": "https://instagram.com/käse\U0001f98a",
    "reference": 'said "so"',
    "metadata": {"z": 1, "a": {"deep": [None, True, 1.5, 1e3, "ünï"]}, "n": 2**60},
    "max_cost": "5.50",
    "provider": "smmplus",
}


@pytest.mark.parametrize(
    "fields", [{}, RICH, {"params": {"runs": "3", "interval": "10"}}], ids=["plain", "rich", "drip"]
)
async def test_the_answer_is_the_same_byte_for_byte_when_the_order_has_moved_on(
    doors: Doors, clock: ManualClock, fields: dict[str, object]
) -> None:
    first = await doors.post("/v1/orders", an_order(**fields), headers=keyed("k-1"))
    assert first.status == 201
    clock.advance(3600)
    order = await doors.write(lambda c: order_store.load(c, first.json["number"]))
    if order.role is Role.ORDER:
        bought = await doors.write(rows.buy, order)
        await doors.write(rows.report, bought, state=OrderState.COMPLETED, remains=0, start_count=5)
    else:
        moved = replace(order, state=OrderState.IN_PROGRESS, updated_at=clock.now(), remains=7)
        await doors.write(lambda c: order_store.save(c, order, moved, (), clock.now()))
    now = await doors.get(f"/v1/orders/{first.json['id']}")
    assert now.json["state"] != "accepted"
    again = await doors.post("/v1/orders", an_order(**fields), headers=keyed("k-1"))
    assert (again.status, again.text) == (201, first.text)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_a_key_of_an_order_holds_no_answer_and_a_batchs_does(doors: Doors) -> None:
    await doors.post("/v1/orders", an_order(), headers=keyed("one"))
    await doors.post("/v1/orders:batch", {"orders": [an_order()]}, headers=keyed("two"))
    await doors.post("/v1/orders", an_order(quantity=1), headers=keyed("three"))
    columns = tables.idempotency_keys.c
    query = select(columns.digest, columns.status, func.length(columns.body) > 0)
    found = {row[0]: (row[1], row[2]) for row in await doors.house.database.read(lambda c: c.execute(query).all())}
    assert found[idempotency.digest(("shop", "one"))] == (None, None)
    # One order in a batch has the shape of one order in intake, but another answer: it is made again as well.
    assert found[idempotency.digest(("shop", "two"))] == (None, None)
    assert found[idempotency.digest(("shop", "three"))] == (422, True)


async def test_a_batch_of_one_is_answered_again_as_a_batch(doors: Doors) -> None:
    body = {"orders": [an_order(**RICH)]}
    first = await doors.post("/v1/orders:batch", body, headers=keyed("b-1"))
    order = await doors.write(lambda c: order_store.load(c, first.json["results"][0]["order"]["number"]))
    await doors.write(rows.buy, order)
    again = await doors.post("/v1/orders:batch", body, headers=keyed("b-1"))
    assert (again.status, again.text) == (200, first.text)


@pytest.mark.corrupts_database
async def test_a_key_whose_order_is_gone_is_a_conflict_and_buys_nothing(doors: Doors) -> None:
    first = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))

    def forget(connection: Connection) -> None:
        connection.execute(delete(tables.events))
        connection.execute(delete(tables.orders).where(tables.orders.c.number == first.json["number"]))

    await doors.house.database.write(forget)
    again = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    assert (again.status, again.problem) == (409, "conflict")
    assert await doors.stored() == 0


# --- at the same time


async def test_a_key_whose_request_still_runs_is_409_with_a_time_to_wait(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = doors.house.database
    real, began, go = database.write_together, asyncio.Event(), asyncio.Event()

    async def held(work: Any, item: Any) -> Any:
        began.set()
        await go.wait()
        return await real(work, item)

    monkeypatch.setattr(database, "write_together", held)
    first = asyncio.create_task(doors.post("/v1/orders", an_order(), headers=keyed("k-1")))
    await began.wait()
    second = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    other = await doors.post("/v1/orders/4711/cancel", headers=keyed("k-1"))
    assert [(one.status, one.problem, one.headers["Retry-After"]) for one in (second, other)] == [
        (409, "idempotency-key-in-use", "1")
    ] * 2
    go.set()
    assert (await first).status == 201
    after = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    assert (after.status, after.headers["Idempotent-Replayed"]) == (201, "true")
    assert await doors.stored() == 1


async def test_two_processes_with_one_key_make_one_order(doors: Doors, database_url: str) -> None:
    """Only one daemon may run on a database; its keys would hold even so."""
    async with opened(database_url) as database:
        second = Doors(replace(doors.house, database=database))
        await second.intake.refresh()
        async with TestClient(TestServer(create_app(second.services))) as second.client:
            replies = await asyncio.gather(
                *(
                    door.post("/v1/orders", an_order(), headers=keyed(f"k-{number // 4}"))
                    for number in range(20)
                    for door in (doors, second)
                )
            )
    assert {reply.status for reply in replies} <= {201, 409}
    made = {reply.json["id"] for reply in replies if reply.status == 201}
    assert len(made) == await doors.stored() == 5


async def test_a_key_that_another_transaction_takes_in_between_leaves_no_order(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only PostgreSQL's transactions see each other so; here the look for the key is blind, on both databases."""
    await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    monkeypatch.setattr(idempotency, "find_all", lambda connection, names: {})
    replies = await asyncio.gather(
        doors.post("/v1/orders", an_order(), headers=keyed("k-1")),
        *(doors.post("/v1/orders", an_order(), headers=keyed(f"k-{number}")) for number in range(2, 8)),
    )
    assert [reply.status for reply in replies] == [409] + [201] * 6
    assert replies[0].headers["Retry-After"] == "1"
    assert await doors.stored() == 7


# --- what a key does not keep


async def test_a_key_is_fresh_after_the_database_was_out_of_reach(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def out(*_: Any) -> Any:
        raise StorageUnavailable("the disk is full, says the test")

    with monkeypatch.context() as patch:
        patch.setattr(doors.house.database, "write_together", out)
        assert (await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))).status == 503
    # Nothing was done under it, so that another body is no contradiction.
    reply = await doors.post("/v1/orders", an_order(quantity=20), headers=keyed("k-1"))
    assert (reply.status, "Idempotent-Replayed" in reply.headers) == (201, False)


async def test_a_key_is_fresh_after_too_many_requests(doors: Doors, clock: ManualClock) -> None:
    quick = "quick-key-0123456789"
    statuses = [(await doors.post("/v1/orders", an_order(), key=quick, headers=keyed("k-0"))).status for _ in range(2)]
    limited = await doors.post("/v1/orders", an_order(quantity=30), key=quick, headers=keyed("k-1"))
    clock.advance(2)
    reply = await doors.post("/v1/orders", an_order(quantity=20), key=quick, headers=keyed("k-1"))
    assert (statuses, limited.status, reply.status) == ([201, 201], 429, 201)


async def test_a_key_is_fresh_after_too_many_open_orders_and_a_replay_needs_no_room(doors: Doors) -> None:
    small = "small-key-0123456789"
    for number in range(3):
        assert (await doors.post("/v1/orders", an_order(), key=small, headers=keyed(f"k-{number}"))).status == 201
    full = await doors.post("/v1/orders", an_order(), key=small, headers=keyed("k-3"))
    again = await doors.post("/v1/orders", an_order(), key=small, headers=keyed("k-2"))
    assert (full.status, again.status, again.headers["Idempotent-Replayed"]) == (429, 201, "true")
    mismatch = await doors.post("/v1/orders", an_order(quantity=20), key=small, headers=keyed("k-2"))
    assert mismatch.problem == "idempotency-key-reused"
    order = await doors.write(lambda c: order_store.load(c, again.json["number"]))
    await doors.write(rows.end, order, OrderState.CANCELED)
    fresh = await doors.post("/v1/orders", an_order(quantity=20), key=small, headers=keyed("k-3"))
    assert (fresh.status, "Idempotent-Replayed" in fresh.headers) == (201, False)


async def test_one_key_is_not_for_two_paths(doors: Doors) -> None:
    order = await doors.post("/v1/orders", an_order(), headers=keyed("k-1"))
    cancel = await doors.post(f"/v1/orders/{order.json['id']}/cancel", headers=keyed("k-1"))
    quote = await doors.post("/v1/orders:batch", {"orders": [an_order()]}, headers=keyed("k-1"))
    assert {cancel.problem, quote.problem} == {"idempotency-key-reused"}
    assert await doors.stored() == 1
