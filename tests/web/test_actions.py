"""What is done to orders: cancel, refill, resolve, and reading what was delivered."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from structlog.testing import capture_logs

from aggregator.domain.clock import ManualClock
from aggregator.domain.orders import OrderState
from aggregator.storage import attempts, deliverables, orders
from tests.support import rows
from tests.web.support import ADMIN, Doors


async def test_an_order_that_was_not_bought_is_canceled_at_once(doors: Doors) -> None:
    order = await doors.order()
    reply = await doors.post(f"/v1/orders/{order['number']}/cancel")
    assert reply.status == 202
    assert reply.json["state"] == "canceled"
    assert reply.json["finished_at"] is not None
    assert reply.json["error"] is None
    events = (await doors.get(f"/v1/orders/{order['id']}/events")).json["events"]
    assert [event["type"] for event in events] == ["order.accepted", "order.canceled"]
    again = await doors.post(f"/v1/orders/{order['id']}/cancel")
    assert (again.status, again.problem) == (409, "conflict")


async def test_a_canceled_orders_plan_is_dropped(doors: Doors) -> None:
    order = await doors.write(rows.accept, owner="shop")
    await doors.write(rows.plan, order)
    assert (await doors.post(f"/v1/orders/{order.id}/cancel", data=b"{}")).status == 202
    assert await doors.house.database.read(attempts.planned) == {}
    (attempt,) = (await doors.get(f"/v1/orders/{order.id}/attempts")).json["attempts"]
    assert attempt["state"] == "dropped"


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (rows.place, "being bought"),
        (rows.lose, "resolved first"),
        (rows.buy, "smmplus is no longer in the config"),
        (lambda c, order: rows.end(c, order, OrderState.FAILED), "failed already"),
    ],
    ids=["placing", "unclear", "pending", "failed"],
)
async def test_an_order_that_may_have_been_bought_is_not_canceled(doors: Doors, step: Any, reason: str) -> None:
    order = await doors.write(rows.accept, owner="shop")
    await doors.write(step, order)
    before = await doors.house.database.read(lambda c: orders.load(c, order.number))
    reply = await doors.post(f"/v1/orders/{order.id}/cancel")
    assert (reply.status, reply.problem) == (409, "conflict")
    assert reason in reply.json["detail"]
    assert await doors.house.database.read(lambda c: orders.load(c, order.number)) == before


async def test_a_refill_that_cannot_be_says_why(doors: Doors) -> None:
    order = await doors.order()
    reply = await doors.post(f"/v1/orders/{order['id']}/refill")
    assert (reply.status, reply.problem) == (409, "conflict")
    assert "no refill now" in reply.json["detail"]


async def test_an_unclear_order_is_resolved_as_placed(doors: Doors) -> None:
    order = await doors.write(rows.accept, owner="shop")
    await doors.write(rows.lose, order)
    path = f"/v1/orders/{order.number}/resolve"
    reply = await doors.post(path, {"outcome": "placed", "provider_order": "9001"}, key=ADMIN)
    assert (reply.status, reply.json["state"], reply.json["provider_order"]) == (200, "pending", "9001")
    (attempt,) = (await doors.get(f"/v1/orders/{order.id}/attempts", key=ADMIN)).json["attempts"]
    (said,) = attempt["evidence"]
    assert (said["kind"], said["by"], said["outcome"]) == ("person", "boss", "placed")
    assert said["at"].endswith("Z")
    assert (await doors.post(path, {"outcome": "not_placed"}, key=ADMIN)).status == 409


async def test_an_unclear_rental_is_resolved_with_the_id_of_every_number(doors: Doors) -> None:
    order = await doors.write(rows.accept, owner="shop", kind="sms", quantity=10)
    await doors.write(rows.lose, order)
    ids = [f"{place}{'x' * 127}" for place in range(10)]
    body = {"outcome": "placed", "provider_order": ", ".join(ids)}
    reply = await doors.post(f"/v1/orders/{order.number}/resolve", body, key=ADMIN)
    assert (reply.status, reply.json["state"], reply.json["provider_order"]) == (200, "in_progress", ids[0])
    assert [number["provider_order"] for number in reply.json["numbers"]] == ids


async def test_an_unclear_order_is_resolved_as_not_placed(doors: Doors) -> None:
    order = await doors.write(rows.accept, owner="shop")
    await doors.write(rows.lose, order)
    reply = await doors.post(f"/v1/orders/{order.id}/resolve", {"outcome": "not_placed"}, key=ADMIN)
    assert (reply.status, reply.json["state"], reply.json["error"]) == (200, "accepted", None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "outcome"),
        ({"outcome": "perhaps"}, "outcome"),
        ({"outcome": "placed"}, "provider_order"),
        ({"outcome": "placed", "provider_order": ""}, "provider_order"),
        ({"outcome": "placed", "provider_order": 9001}, "provider_order"),
        ({"outcome": "placed", "provider_order": "9\n1"}, "provider_order"),
        ({"outcome": "placed", "provider_order": "9" * 129}, "provider_order"),
        ({"outcome": "placed", "provider_order": "9," * 1000 + "9"}, "provider_order"),
        ({"outcome": "placed", "provider_order": "9001,9002"}, "provider_order"),
        ({"outcome": "not_placed", "provider_order": "1"}, "provider_order"),
        ({"outcome": "not_placed", "order": "1"}, "order"),
    ],
)
async def test_a_resolution_that_makes_no_sense_is_named(sqlite_doors: Doors, body: Any, field: str) -> None:
    order = await sqlite_doors.write(rows.accept, owner="shop")
    await sqlite_doors.write(rows.lose, order)
    reply = await sqlite_doors.post(f"/v1/orders/{order.id}/resolve", body, key=ADMIN)
    assert (reply.status, reply.field) == (422, field)
    assert (await sqlite_doors.get(f"/v1/orders/{order.id}")).json["state"] == "unclear"


async def test_what_was_delivered_is_opened_for_its_owner_and_the_reading_is_logged(
    doors: Doors, clock: ManualClock
) -> None:
    order = await doors.write(rows.accept, owner="shop", service="gmail-usa", kind="product", quantity=2)
    await doors.write(rows.buy, order, provider="hstock")
    accounts = ["user1:pass1", "user2:пароль"]

    def deliver(connection: Any) -> None:
        deliverables.add_new(connection, doors.house.sealer, order.number, accounts, clock.now())

    await doors.write(deliver)
    with capture_logs() as logs:
        reply = await doors.get(f"/v1/orders/{order.id}/delivery")
    assert reply.json == {"accounts": accounts}
    (read,) = [line for line in logs if line["event"] == "delivery_read"]
    assert (read["order_id"], read["caller"], read["count"]) == (order.id, "shop", 2)
    assert "pass1" not in str(logs)
    assert (await doors.get(f"/v1/orders/{order.id}/delivery", key=ADMIN)).json == {"accounts": accounts}
    assert "pass1" not in (await doors.get(f"/v1/orders/{order.id}")).text


async def test_accounts_that_another_key_sealed_are_not_a_surprise(sqlite_doors: Doors) -> None:
    order = await sqlite_doors.order()
    another = deliverables.Sealer(Fernet.generate_key().decode())
    number, now = order["number"], sqlite_doors.house.clock.now()
    await sqlite_doors.house.database.write(lambda c: deliverables.add_new(c, another, number, ["user1:pass1"], now))
    with capture_logs() as logs:
        reply = await sqlite_doors.get(f"/v1/orders/{order['id']}/delivery")
    assert (reply.status, reply.problem) == (503, "unavailable")
    assert "give the right one back" in reply.json["detail"]
    assert [line["log_level"] for line in logs if line["event"] == "delivery_cannot_be_opened"] == ["error"]
