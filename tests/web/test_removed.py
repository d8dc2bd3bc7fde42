"""What the doors say of an order that retention has removed: that there is none; the books and the feed go on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.domain.orders import OrderState
from aggregator.flow.removal import OldOrders
from aggregator.storage import ledger, orders
from tests.support import rows
from tests.web.support import ADMIN, READER, Doors

KEY = {"Idempotency-Key": "k-1"}
WISH = {"service": "ig-followers", "link": "https://instagram.com/username", "quantity": 1000}


async def removed(doors: Doors) -> dict[str, Any]:
    """The document of an order that was bought, ended long ago, and is gone."""
    order = (await doors.post("/v1/orders", WISH, headers=KEY)).json

    def write(connection: Connection) -> None:
        taken = orders.load_for_update(connection, order["number"])
        bought = rows.buy(connection, taken)
        ledger.book_charge(connection, "smmplus", taken.number, Money.parse("0.90", "USD"), taken.created_at)
        rows.report(connection, bought, state=OrderState.CANCELED)
        rows.sequence(connection)

    await doors.write(write)
    clock = doors.house.clock
    assert isinstance(clock, ManualClock)
    clock.advance(366 * 86_400)
    assert await OldOrders(doors.house).run_once(lambda: False) == 1
    return dict(order)


async def test_it_reads_like_one_that_never_was(doors: Doors) -> None:
    order = await removed(doors)
    for which in (order["id"], order["number"]):
        for what in ("", "/attempts", "/events", "/delivery"):
            reply = await doors.get(f"/v1/orders/{which}{what}", key=ADMIN)
            assert (reply.status, reply.problem) == (404, "unknown-order"), what
        for action, body in (
            ("cancel", None),
            ("refill", None),
            ("count", {"count": 5}),
            ("resolve", {"outcome": "not_placed"}),
        ):
            reply = await doors.post(f"/v1/orders/{which}/{action}", body, key=ADMIN)
            assert (reply.status, reply.problem) == (404, "unknown-order"), action
    assert (await doors.get("/v1/orders")).json["orders"] == []


async def test_the_panel_door_does_not_know_it(doors: Doors) -> None:
    order = await removed(doors)
    form = f"key=shop-key-0123456789&action=status&order={order['number']}".encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with doors.client.post("/api/v2", data=form, headers=headers) as response:
        assert await response.json() == {"error": "Incorrect order ID"}


async def test_its_key_makes_a_new_order(doors: Doors) -> None:
    order = await removed(doors)
    again = await doors.post("/v1/orders", WISH, headers=KEY)
    assert again.status == 201
    assert "Idempotent-Replayed" not in again.headers
    assert again.json["number"] > order["number"]


async def test_the_ledger_still_explains_every_cent(doors: Doors) -> None:
    order = await removed(doors)
    (line,) = (await doors.get("/v1/providers/smmplus/ledger", key=ADMIN)).json["ledger"]
    assert line["amount"] == {"amount": "-0.90", "currency": "USD"}
    assert (line["order"], line["order_number"]) == (None, order["number"])


async def test_a_reader_of_the_feed_goes_on_from_a_position_whose_event_is_gone(doors: Doors) -> None:
    await removed(doors)
    for after in (0, 1, 3):
        reply = await doors.get(f"/v1/events?after={after}", key=READER)
        assert reply.json == {"events": [], "next_after": 3}, "nothing is left, and 3 was the newest position"
    order = await doors.order()
    await doors.write(rows.sequence)
    for after in (0, 2, 3):
        (event,) = (await doors.get(f"/v1/events?after={after}", key=READER)).json["events"]
        assert (event["position"], event["data"]["order"]["id"]) == (4, order["id"])
    assert (await doors.get("/v1/events?after=5", key=READER)).status == 422, "that one was never given"
