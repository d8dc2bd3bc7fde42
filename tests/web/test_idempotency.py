"""Idempotency keys: the same request is answered again, never done again."""

from __future__ import annotations

import asyncio
import json

import pytest
from multidict import CIMultiDict

from tests.support import rows
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
