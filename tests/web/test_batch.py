"""Many orders at once: each is judged by itself, in order."""

from __future__ import annotations

import json

from tests.web.support import Doors, an_order


async def test_a_bad_item_does_not_hurt_its_neighbours(doors: Doors) -> None:
    good = json.dumps(an_order())
    items = [
        good,
        "7",
        '{"service": "no-such"}',
        good[:-1] + ', "quantity": 5}',
        good[:-1] + ', "reference": "\\u0000"}',
        good[:-1] + ', "quantity_": 1}',
        good,
    ]
    reply = await doors.post("/v1/orders:batch", data=f'{{"orders": [{",".join(items)}]}}'.encode())
    assert reply.status == 200
    results = reply.json["results"]
    assert [result["status"] for result in results] == [201, 422, 422, 422, 422, 422, 201]
    assert [result["problem"].get("field") for result in results[1:6]] == [
        None,
        "service",
        "quantity",
        "reference",
        "quantity_",
    ]
    assert results[0]["order"]["number"] < results[6]["order"]["number"]
    assert (await doors.get(f"/v1/orders/{results[6]['order']['id']}")).json == results[6]["order"]
    assert await doors.stored() == 2


async def test_a_thousand_at_once_and_no_more(doors: Doors) -> None:
    reply = await doors.post("/v1/orders:batch", {"orders": [an_order()] * 1000})
    assert [result["status"] for result in reply.json["results"]] == [201] * 1000
    assert await doors.stored() == 1000
    more = await doors.post("/v1/orders:batch", {"orders": [an_order()] * 1001})
    assert (more.status, more.field) == (422, "orders")
    assert await doors.stored() == 1000


async def test_a_batch_that_is_none_is_refused_whole(doors: Doors) -> None:
    for body, field in (
        ({"orders": []}, "orders"),
        ({"orders": {}}, "orders"),
        ({}, "orders"),
        ({"order": []}, "orders"),
    ):
        reply = await doors.post("/v1/orders:batch", body)
        assert (reply.status, reply.field) == (422, field)
    assert (await doors.post("/v1/orders:batch", data=b"[")).status == 400


async def test_the_limit_of_open_orders_counts_item_by_item(doors: Doors) -> None:
    reply = await doors.post("/v1/orders:batch", {"orders": [an_order()] * 5}, key="small-key-0123456789")
    assert [result["status"] for result in reply.json["results"]] == [201, 201, 201, 429, 429]
