"""Placing orders and reading them back: shapes, filters, pages."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.domain.clock import ManualClock, rfc3339
from aggregator.domain.money import Money
from aggregator.domain.orders import OrderState
from aggregator.storage import orders
from tests.support import rows
from tests.web.support import ADMIN, OTHER, SHOP, Doors, an_order


async def test_an_order_is_created_and_read_back_by_id_and_number(doors: Doors) -> None:
    reply = await doors.post("/v1/orders", an_order(reference="shop-778", metadata={"cart": 7, "vip": 0.5}))
    assert reply.status == 201
    order = reply.json
    assert reply.headers["Location"] == f"/v1/orders/{order['id']}"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Content-Type"].startswith("application/json")
    assert order["state"] == "accepted"
    assert order["reference"] == "shop-778"
    assert order["metadata"] == {"cart": 7, "vip": 0.5}
    assert (await doors.get(reply.headers["Location"])).json == order
    assert (await doors.get(f"/v1/orders/{order['number']}")).json == order


async def test_answers_are_compact_and_keep_every_script(doors: Doors) -> None:
    reply = await doors.post("/v1/orders", an_order(reference="заказ №1 🎉"))
    assert "заказ №1 🎉" in reply.text
    assert '", "' not in reply.text


@pytest.mark.parametrize(
    ("said", "units"),
    [
        ("0.50", "0.50"),
        (3, "3.00"),
        ({"amount": "0.75"}, "0.75"),
        ({"amount": "0.75", "currency": "EUR"}, "0.75"),
    ],
)
async def test_max_cost_is_exact_however_it_is_said(sqlite_doors: Doors, said: Any, units: str) -> None:
    order = await sqlite_doors.order(max_cost=said)
    stored = await sqlite_doors.house.database.read(lambda c: orders.load(c, order["number"]))
    assert stored is not None
    currency = said.get("currency", "USD") if isinstance(said, dict) else "USD"
    assert stored.max_cost == Money.parse(units, currency)


async def test_a_bare_json_fraction_is_read_exactly(sqlite_doors: Doors) -> None:
    body = b'{"service":"ig-followers","link":"https://example.com/x","quantity":100,"max_cost":1.10000001}'
    reply = await sqlite_doors.post("/v1/orders", data=body)
    stored = await sqlite_doors.house.database.read(lambda c: orders.load(c, reply.json["number"]))
    assert stored is not None
    assert stored.max_cost is not None
    assert stored.max_cost.amount == "1.10000001"


async def test_lists_of_lines_may_be_arrays_and_numbers_may_be_numbers(doors: Doors) -> None:
    reply = await doors.post(
        "/v1/orders",
        {"service": "ig-comments", "link": "https://example.com/x", "params": {"comments": ["nice", "wow", "top"] * 4}},
    )
    assert reply.status == 201, reply.json
    assert reply.json["quantity"] == 12
    assert reply.json["params"]["comments"].split("\n")[:3] == ["nice", "wow", "top"]
    drip = await doors.order(params={"runs": 3, "interval": "60"})
    assert drip["params"] == {"runs": "3", "interval": "60"}
    assert drip["quantity"] == 3 * (await doors.order())["quantity"], "the pieces of all runs"


async def test_lists_filter_by_what_is_asked(doors: Doors, clock: ManualClock) -> None:
    first = await doors.order(reference="one")
    clock.advance(60)
    since = rfc3339(clock.now())
    second = await doors.order(reference="two")
    mails = await doors.order(service="gmail-usa", quantity=2)
    bought = await doors.write(rows.accept, owner="shop")
    await doors.write(rows.buy, bought, at=clock.now())

    async def ids(query: str) -> list[str]:
        reply = await doors.get(f"/v1/orders?{query}")
        assert reply.json["next_cursor"] is None
        return [order["id"] for order in reply.json["orders"]]

    assert await ids("") == [bought.id, mails["id"], second["id"], first["id"]]
    assert await ids("reference=one") == [first["id"]]
    assert await ids("service=gmail-usa") == [mails["id"]]
    assert await ids("state=pending") == [bought.id]
    assert await ids("provider=smmplus&state=pending") == [bought.id]
    assert await ids("provider=hstock") == []
    assert await ids(f"since={since}&service=ig-followers&reference=two") == [second["id"]]
    assert await ids(f"since={since.replace('Z', '+00:00')}&reference=one") == []


async def test_pages_stay_right_while_orders_arrive(doors: Doors) -> None:
    before = [(await doors.order(reference=f"r{place}"))["id"] for place in range(7)]
    seen: list[str] = []
    cursor = ""
    while True:
        reply = await doors.get(f"/v1/orders?limit=2{cursor}")
        seen += [order["id"] for order in reply.json["orders"]]
        await doors.order()
        if reply.json["next_cursor"] is None:
            break
        cursor = f"&cursor={reply.json['next_cursor']}"
    assert seen == before[::-1]


async def test_a_page_that_ends_exactly_has_no_next_cursor(doors: Doors) -> None:
    await doors.order()
    await doors.order()
    assert (await doors.get("/v1/orders?limit=2")).json["next_cursor"] is None
    assert (await doors.get("/v1/orders?limit=1")).json["next_cursor"] is not None


async def test_a_cursor_belongs_to_its_query(doors: Doors) -> None:
    for _ in range(3):
        await doors.order(reference="same")
    cursor = (await doors.get("/v1/orders?limit=1&reference=same")).json["next_cursor"]
    assert (await doors.get(f"/v1/orders?limit=2&reference=same&cursor={cursor}")).status == 200
    for query in (f"cursor={cursor}", f"reference=other&cursor={cursor}", f"reference=same&cursor=A{cursor}"):
        reply = await doors.get(f"/v1/orders?{query}")
        assert (reply.status, reply.field) == (422, "cursor")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("state=done", "state"),
        ("since=yesterday", "since"),
        ("since=2026-11-21T18:00:00", "since"),
        ("cursor=", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=***", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAAAAAA", "cursor"),
        ("reference=%00", "reference"),
        ("reference=", "reference"),
        (f"service={'x' * 300}", "service"),
        ("stat=accepted", "stat"),
    ],
)
async def test_a_query_that_makes_no_sense_is_named(sqlite_doors: Doors, query: str, field: str) -> None:
    reply = await sqlite_doors.get(f"/v1/orders?{query}")
    assert (reply.status, reply.problem, reply.field) == (422, "invalid-field", field)


async def test_a_misspelt_parameter_is_told_its_name(sqlite_doors: Doors) -> None:
    assert "did you mean state?" in (await sqlite_doors.get("/v1/orders?stat=accepted")).json["detail"]


@pytest.mark.parametrize(
    "reference", ["ord_0", "999", "0", "-1", "9" * 30, "%00", "ord_" + "g" * 32, "%ED%A0%80", "x y"]
)
async def test_an_order_that_is_not_there_is_404(doors: Doors, reference: str) -> None:
    for path in ("", "/attempts", "/events", "/delivery"):
        reply = await doors.get(f"/v1/orders/{reference}{path}", key=ADMIN)
        assert (reply.status, reply.problem) == (404, "unknown-order")


async def test_attempts_and_events_are_told(doors: Doors) -> None:
    order = await doors.write(rows.accept, owner="shop")
    await doors.write(rows.buy, order, provider_order="23501")
    await doors.write(rows.sequence)
    attempts = (await doors.get(f"/v1/orders/{order.number}/attempts")).json
    assert attempts["next_cursor"] is None
    (attempt,) = attempts["attempts"]
    assert attempt["provider"] == "smmplus"
    assert attempt["provider_order"] == "23501"
    assert attempt["expected_cost"] == {"amount": "0.90", "currency": "USD"}
    events = (await doors.get(f"/v1/orders/{order.number}/events")).json["events"]
    assert [(event["type"], event["position"], event["data"]["sequence"]) for event in events] == [
        ("order.accepted", 1, 1),
        ("order.placed", 2, 2),
    ]
    assert all(event["id"].startswith("evt_") for event in events)


async def test_an_event_has_no_position_before_it_is_in_the_feed(doors: Doors) -> None:
    order = await doors.order()
    (event,) = (await doors.get(f"/v1/orders/{order['id']}/events")).json["events"]
    assert event["position"] is None


async def test_foreign_orders_look_unknown(doors: Doors) -> None:
    order = await doors.order()
    for path in ("", "/attempts", "/events", "/delivery"):
        mine = await doors.get(f"/v1/orders/{order['id']}{path}", key=SHOP)
        foreign = await doors.get(f"/v1/orders/{order['id']}{path}", key=OTHER)
        missing = await doors.get(f"/v1/orders/ord_{'0' * 32}{path}", key=OTHER)
        assert (mine.status, foreign.status) == (200, 404)
        assert {**foreign.json, "instance": ""} == {**missing.json, "instance": ""}
    assert (await doors.get("/v1/orders", key=OTHER)).json["orders"] == []


async def test_money_states_and_relations_are_shown_in_lists_too(doors: Doors, clock: ManualClock) -> None:
    order = await doors.write(rows.accept, owner="shop", service="app-code-us", kind="sms", quantity=1)
    await doors.write(rows.buy, order, provider="hstock", rented=["15550100"], at=clock.now())
    (listed,) = (await doors.get("/v1/orders")).json["orders"]
    assert listed["numbers"][0]["phone"] == "15550100"
    assert listed == (await doors.get(f"/v1/orders/{order.id}")).json
    assert listed["state"] == str(OrderState.IN_PROGRESS)
