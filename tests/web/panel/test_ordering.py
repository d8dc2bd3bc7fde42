"""Orders at the panel door: placed with every documented parameter, followed, refilled and canceled."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Connection, update

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.dripping import Dripping
from aggregator.storage import deliverables, orders, refills
from aggregator.storage.tables import refills as refills_table
from tests.support import rows
from tests.support.examples import NOW
from tests.web.panel.support import ADMIN, LINK, OLD, OTHER, READER, SMM, STOCK, PanelDoors

S = OrderState


async def load(doors: PanelDoors, number: int) -> Order:
    found = await doors.house.database.read(lambda c: orders.load(c, number))
    assert found is not None
    return found


async def test_an_order_is_stored_before_it_is_answered(doors: PanelDoors) -> None:
    number = await doors.add(quantity=" 1000 ", link=f" {LINK} ")
    order = await load(doors, number)
    assert (order.owner, order.service, order.quantity, order.link) == ("smm", "ig-followers", 1000, LINK)
    assert (order.state, dict(order.params)) == (S.ACCEPTED, {})
    seen = (await doors.get(f"/v1/orders/{number}", key=SMM)).json
    assert seen["number"] == number


async def test_comments_go_without_a_quantity_and_with_one(doors: PanelDoors) -> None:
    await doors.change("2", minimum=1)
    for fields in ({}, {"quantity": 2}, {"quantity": 1000}, {"quantity": ""}):
        form: dict[str, Any] = {"service": 5, "link": LINK, "comments": "nice\r\n\r\ngood, very\n", **fields}
        answer = await doors.panel("add", **form)
        order = await load(doors, answer["order"])
        assert (order.quantity, order.params["comments"]) == (2, "nice\r\n\r\ngood, very\n")


async def test_what_a_type_has_no_use_for_is_left_out_but_never_the_runs(doors: PanelDoors) -> None:
    await doors.change("2", minimum=1)
    order = await load(doors, await doors.add(username="somebody", foo="bar", comments=" ", runs="", interval=""))
    assert dict(order.params) == {}
    order = await load(doors, await doors.add(runs=0, interval=0))
    assert (order.quantity, dict(order.params)) == (1000, {})
    order = await load(doors, await doors.add(runs=3, interval=60))
    assert (order.quantity, dict(order.params)) == (3000, {"runs": "3", "interval": "60"})
    refused = await doors.panel("add", service=5, link=LINK, comments="a\nb", runs=3, interval=60)
    assert refused == {"error": "Incorrect runs"}


@pytest.mark.parametrize(
    ("fields", "smm", "stock"),
    [
        ({"service": ""}, "Incorrect service ID", "Service ID is required"),
        ({"service": 99}, "Incorrect service ID", "Service not found"),
        ({"service": "ig-followers"}, "Incorrect service ID", "Service not found"),
        ({"service": 3}, "Incorrect service ID", "Service not found"),
        ({"link": ""}, "Bad Link", "Bad Link"),
        ({"link": "x" * 3000}, "Bad Link", "Bad Link"),
        ({"quantity": ""}, "Incorrect quantity", "Incorrect quantity"),
        ({"quantity": "many"}, "Incorrect quantity", "Incorrect quantity"),
        ({"quantity": "-5"}, "Incorrect quantity", "Incorrect quantity"),
        ({"quantity": "1.5"}, "Incorrect quantity", "Incorrect quantity"),
        ({"quantity": 9}, "Quantity less than minimal 10", "Quantity less than minimal 10"),
        ({"quantity": 10_001}, "Quantity more than maximal 10000", "Quantity more than maximal 10000"),
        ({"runs": 5}, "Incorrect interval", "Incorrect interval"),
        ({"runs": "five", "interval": 5}, "Incorrect runs", "Incorrect runs"),
        ({"service": 5}, "Incorrect comments", "Incorrect comments"),
    ],
)
async def test_a_mistake_is_told_in_the_documents_words(
    sqlite_doors: PanelDoors, fields: dict[str, Any], smm: str, stock: str
) -> None:
    wish: dict[str, Any] = {"service": 1, "link": LINK, "quantity": 1000, **fields}
    assert await sqlite_doors.panel("add", **wish) == {"error": smm}
    assert await sqlite_doors.panel("add", key=STOCK, **wish) == {"error": stock}
    assert await sqlite_doors.stored() == 0


async def test_the_same_key_is_answered_again_also_under_a_rotated_api_key(doors: PanelDoors) -> None:
    wish: dict[str, Any] = {"service": 1, "link": LINK, "quantity": 1000}
    first = await doors.panel("add", idempotency="k-1", **wish)
    assert await doors.panel("add", idempotency="k-1", **wish) == first
    assert await doors.panel("add", idempotency='"k-1"', quantity=1000, service=1, link=LINK) == first
    other = await doors.panel("add", idempotency="k-1", **{**wish, "quantity": 500})
    assert other == {"error": "Incorrect Idempotency-Key: it belongs to another request"}
    assert (await doors.panel("add", key=OTHER, idempotency="k-1", **wish))["order"] != first["order"]
    refused = await doors.panel("add", idempotency="k-2", **{**wish, "quantity": 1})
    assert await doors.panel("add", idempotency="k-2", **{**wish, "quantity": 1}) == refused
    assert await doors.stored() == 2


async def test_what_was_taken_under_a_key_is_told_again_although_its_service_is_sold_no_more(
    doors: PanelDoors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buyer whose answer was lost repeats under its key; a refusal then would make it buy elsewhere as well."""
    wish: dict[str, Any] = {"service": 1, "link": LINK, "quantity": 1000}
    first = await doors.panel("add", idempotency="k-1", **wish)
    refused = await doors.panel("add", idempotency="k-2", **{**wish, "quantity": "many"})
    rented: dict[str, Any] = {"key": STOCK, "project_id": 3, "quantity": 2, "idempotency": "n-1"}
    monkeypatch.setattr("aggregator.web.panel.numbers.WAIT_S", 0.0)
    numbers = await doors.panel("add_sms", **rented)
    monkeypatch.setitem(doors.house.settings.__dict__, "at_panel", {})
    assert await doors.panel("add", idempotency="k-1", **wish) == first
    assert await doors.panel("add_sms", **rented) == numbers
    assert await doors.panel("add", idempotency="k-2", **{**wish, "quantity": "many"}) == refused
    assert await doors.panel("add", idempotency="k-3", **wish) == {"error": "Incorrect service ID"}
    assert await doors.stored() == 2


async def test_a_purchase_by_get_is_the_same_as_by_post(doors: PanelDoors) -> None:
    wish = {"key": OLD, "action": "add", "service": "1", "link": LINK, "quantity": "1000"}
    named = {"Idempotency-Key": "k-1"}
    first, _ = await doors.send(urlencode(wish).encode(), headers=named)
    again, headers = await doors.send(None, None, method="GET", query=wish, headers=named)
    assert (again, headers["Idempotent-Replayed"]) == (first, "true")
    async with doors.client.post("/api/v2/", data=wish, headers=named) as reply:
        assert json.loads(await reply.text()) == first
    assert await doors.stored() == 1


async def test_many_at_once_under_one_key_make_one_order(doors: PanelDoors) -> None:
    wish: dict[str, Any] = {"service": 1, "link": LINK, "quantity": 1000}
    answers = await asyncio.gather(*(doors.panel("add", idempotency="k-1", **wish) for _ in range(10)))
    assert await doors.stored() == 1
    numbers = {answer["order"] for answer in answers if "order" in answer}
    errors = {answer["error"] for answer in answers if "error" in answer}
    assert len(numbers) == 1
    # One that is still running proves nothing.
    assert errors <= {"There was an error processing your request. Please try again later"}


async def test_smm_plus_tells_a_status_in_text(doors: PanelDoors) -> None:
    order = await doors.write(rows.accept, owner="smm", quantity=1000)
    assert await doors.panel("status", order=order.number) == {
        "charge": None,
        "start_count": None,
        "status": "Pending",
        "remains": "1000",
        "currency": "USD",
    }
    bought = await doors.write(rows.buy, order)
    charge = Money.parse("0.27819", "USD")
    await doors.write(rows.report, bought, state=S.PARTIAL, charge=charge, start_count=3572, remains=157)
    assert await doors.panel("status", order=order.number) == {
        "charge": "0.27819",
        "start_count": "3572",
        "status": "Partial",
        "remains": "157",
        "currency": "USD",
    }


async def test_hstockplus_tells_a_status_in_numbers_and_in_one_currency(doors: PanelDoors) -> None:
    order = await doors.write(rows.accept, owner="stock", quantity=1000)
    bought = await doors.write(rows.buy, order, provider="hstock")
    charge = Money.parse("5.00", "EUR")
    await doors.write(rows.report, bought, state=S.IN_PROGRESS, charge=charge, start_count=1000, remains=500)
    assert await doors.panel("status", key=STOCK, order=order.number) == {
        "status": "In progress",
        "charge": "5.50",
        "start_count": 1000,
        "remains": 500,
        "currency": "USD",
        "autoDelivery": True,
    }


@pytest.mark.parametrize(
    ("step", "word", "charge"),
    [
        (rows.place, "Pending", "0.90"),
        (rows.lose, "Pending", "0.90"),
        (rows.buy, "Pending", "0.90"),
        (lambda c, order: rows.end(c, order, S.CANCELED), "Canceled", "0.00"),
        # Nothing was paid: everybody's software knows what Canceled means for the money.
        (lambda c, order: rows.end(c, order, S.FAILED), "Canceled", "0.00"),
        (lambda c, order: rows.report(c, rows.buy(c, order), state=S.PROCESSING), "Processing", "0.90"),
        (
            lambda c, order: rows.report(c, rows.buy(c, order), state=S.FAILED, charge=Money.parse("1", "USD")),
            "Fail",
            "1.00",
        ),
        (
            lambda c, order: rows.report(c, rows.buy(c, order), state=S.CANCELED, charge=Money.parse("0", "USD")),
            "Canceled",
            "0.00",
        ),
    ],
)
async def test_every_state_has_its_word(doors: PanelDoors, step: Any, word: str, charge: str) -> None:
    order = await doors.write(rows.accept, owner="smm")
    await doors.write(step, order)
    told = await doors.panel("status", order=order.number)
    assert (told["status"], told["charge"]) == (word, charge)


async def test_many_orders_are_told_by_their_ids(doors: PanelDoors) -> None:
    mine = [await doors.add(), await doors.add()]
    theirs = await doors.add(key=OTHER)
    asked = f"{mine[1]}, {mine[0]},{theirs},999999,abc,,{mine[0]}"
    for fields in ({"orders": asked}, {"order": asked}):
        told = await doors.panel("status", **fields)
        assert list(told) == [str(mine[1]), str(mine[0]), str(theirs), "999999", "abc"]
        assert [told[str(number)]["status"] for number in mine] == ["Pending", "Pending"]
        assert [told[name] for name in (str(theirs), "999999", "abc")] == [{"error": "Incorrect order ID"}] * 3
    told = await doors.panel("status", key=STOCK, orders=f"{mine[0]}")
    assert told == {str(mine[0]): {"error": "Order not found"}}
    hundred = ",".join(str(number) for number in range(1, 101))
    assert len(await doors.panel("status", orders=hundred)) == 100
    assert await doors.panel("status", orders=f"{hundred},101") == {"error": "Too many IDs, up to 100"}
    for action in ("refill", "cancel"):
        assert await doors.panel(action, orders=f"{hundred},101") == {"error": "Too many IDs, up to 100"}
    assert await doors.panel("refill_status", refills=f"{hundred},101") == {"error": "Too many IDs, up to 100"}


@pytest.mark.parametrize("order", ["", ",", " , ", "abc", "0", "-1", "1e3", "9" * 30, "１"])
async def test_what_is_no_id_is_an_unknown_order(sqlite_doors: PanelDoors, order: str) -> None:
    assert await sqlite_doors.panel("status", order=order) == {"error": "Incorrect order ID"}
    assert await sqlite_doors.panel("refill", order=order) == {"error": "Incorrect order ID"}
    assert await sqlite_doors.panel("refill_status", refill=order) == {"error": "Refill not found"}
    for action in ("sms_code", "sms_status"):
        assert await sqlite_doors.panel(action, order=order) == {"error": "Incorrect order ID"}


@pytest.mark.parametrize(
    "name", ["orders[]={}&orders[]={}", "orders[0]={}&orders[1]={}", "order={},{}", "orders=+{},%20{},"]
)
async def test_several_ids_come_as_clients_send_them(sqlite_doors: PanelDoors, name: str) -> None:
    one, two = await sqlite_doors.add(), await sqlite_doors.add()
    form = f"key={SMM}&action=status&{name.format(one, two)}"
    assert list((await sqlite_doors.send(form.encode()))[0]) == [str(one), str(two)]


async def test_a_products_accounts_are_for_its_owner_alone(doors: PanelDoors) -> None:
    number = await doors.add(key=STOCK, service=2, quantity=2, link="")
    order = await load(doors, number)
    bought = await doors.write(rows.buy, order, provider="hstock")
    await doors.write(rows.report, bought, state=S.COMPLETED, remains=0, charge=Money.parse("4", "EUR"))
    sealer = doors.house.sealer
    await doors.write(deliverables.add_new, sealer, number, ["user1:pass1", "user2:pass2"], NOW)
    told = await doors.panel("status", key=STOCK, order=number)
    assert (told["entityType"], told["accounts"]) == ("product", ["user1:pass1", "user2:pass2"])
    assert (await doors.panel("status", key=ADMIN, order=number))["accounts"] == ["user1:pass1", "user2:pass2"]
    assert "accounts" not in await doors.panel("status", key=READER, order=number)
    assert "accounts" not in (await doors.panel("status", key=READER, orders=number))[str(number)]


async def test_a_delivery_that_cannot_be_opened_spoils_no_other_answer(doors: PanelDoors) -> None:
    first, second = [await doors.add(key=STOCK, service=2, quantity=1, link="") for _ in range(2)]
    another = deliverables.Sealer("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    await doors.write(deliverables.add_new, another, first, ["user1:pass1"], NOW)
    busy = {"error": "There was an error processing your request. Please try again later"}
    told = await doors.panel("status", key=STOCK, orders=f"{first},{second}")
    assert (told[str(first)], told[str(second)]["status"]) == (busy, "Pending")
    assert await doors.panel("status", key=STOCK, order=first) == busy


async def test_a_drip_feed_shows_its_runs(doors: PanelDoors) -> None:
    number = await doors.add(runs=3, interval=60, service=6)
    told = await doors.panel("status", order=number)
    assert (told["runs"], told["orders"], told["remains"]) == (3, [], "3000")
    await Dripping(doors.house).run_once()
    assert (await doors.panel("status", order=number))["orders"] == [number + 1]
    assert (await doors.panel("status", orders=number))[str(number)]["orders"] == [number + 1]
    assert (await doors.panel("status", order=number + 1))["remains"] == "1000"


def completed(connection: Connection, owner: str, at: Any) -> Order:
    order = rows.accept(connection, owner=owner, created_at=at)
    return rows.report(connection, rows.buy(connection, order, at=at), at=at, state=S.COMPLETED, remains=0)


async def test_refills_are_asked_for_and_followed(doors: PanelDoors, clock: ManualClock) -> None:
    await doors.change("1", name="Followers R30")
    first, second = [await doors.write(completed, "smm", NOW) for _ in range(2)]
    clock.advance(timedelta(days=2).total_seconds())
    answer = await doors.panel("refill", order=first.number)
    refill = int(answer["refill"])
    assert answer == {"refill": str(refill)}
    assert await doors.panel("refill_status", refill=refill) == {"status": "Pending"}
    many = await doors.panel("refill", orders=f"{second.number},{first.number},999999")
    assert many == [
        {"order": second.number, "refill": refill + 1},
        {"order": first.number, "refill": {"error": f"refill already in progress (ID: {refill})"}},
        {"order": 999999, "refill": {"error": "Incorrect order ID"}},
    ]
    done = refills_table.c.number == refill
    await doors.house.database.write(
        lambda c: c.execute(
            update(refills_table).where(done).values(state="completed", finished_at=clock.now(), next_poll_at=None)
        )
    )
    assert await doors.panel("refill_status", refills=f"{refill},{refill + 1},77777,x") == [
        {"refill": refill, "status": "Completed"},
        {"refill": refill + 1, "status": "Pending"},
        {"refill": 77777, "status": {"error": "Refill not found"}},
        {"refill": "x", "status": {"error": "Refill not found"}},
    ]
    assert await doors.panel("refill_status", key=OTHER, refill=refill) == {"error": "Refill not found"}
    early = await doors.panel("refill", order=first.number)
    assert early == {"error": "too soon to refill, wait 24 hours"}


async def test_a_refill_that_cannot_be_says_why_in_words_that_panels_know(
    doors: PanelDoors, clock: ManualClock
) -> None:
    await doors.change("1", name="Followers R30")
    order = await doors.write(completed, "smm", NOW)
    accepted = await doors.add()
    assert await doors.panel("refill", order=accepted) == {"error": "order is not completed"}
    assert await doors.panel("refill", order=order.number) == {"error": "too soon to refill, wait 24 hours"}
    clock.advance(timedelta(hours=22, minutes=30).total_seconds())
    assert await doors.panel("refill", order=order.number) == {"error": "too soon to refill, wait 2 hours"}
    clock.advance(timedelta(days=40).total_seconds())
    assert await doors.panel("refill", order=order.number) == {"error": "guarantee_expired"}
    canceled = await doors.write(rows.accept, owner="smm")
    await doors.write(rows.end, canceled, S.CANCELED)
    assert await doors.panel("refill", order=canceled.number) == {"error": "order canceled"}
    foreign = await doors.write(completed, "other", clock.now())
    assert await doors.panel("refill", order=foreign.number) == {"error": "Incorrect order ID"}


async def test_a_refill_under_a_key_is_asked_for_once(doors: PanelDoors, clock: ManualClock) -> None:
    await doors.change("1", name="Followers R30")
    order = await doors.write(completed, "smm", NOW)
    clock.advance(timedelta(days=2).total_seconds())
    first = await doors.panel("refill", order=order.number, idempotency="r-1")
    assert await doors.panel("refill", order=order.number, idempotency="r-1") == first
    found = await doors.house.database.read(lambda c: refills.of_orders(c, {order.number: order.id}))
    assert len(found[order.id]) == 1


async def test_cancel_means_asked(doors: PanelDoors) -> None:
    accepted = await doors.add()
    lost = await doors.write(rows.lose, await doors.write(rows.accept, owner="smm"))
    done = await doors.write(completed, "smm", NOW)
    told = await doors.panel("cancel", orders=f"{accepted},{lost.number},{done.number},9999")
    assert told == [
        {"order": accepted, "cancel": 1},
        {"order": lost.number, "cancel": {"error": "Cancel is not available"}},
        {"order": done.number, "cancel": {"error": "Cancel is not available"}},
        {"order": 9999, "cancel": {"error": "Incorrect order ID"}},
    ]
    assert (await doors.panel("status", order=accepted))["status"] == "Canceled"
    assert await doors.panel("cancel", order=await doors.add()) == [{"order": accepted + 3, "cancel": 1}]
    theirs = await doors.add(key=OTHER)
    assert await doors.panel("cancel", orders=theirs) == [{"order": theirs, "cancel": {"error": "Incorrect order ID"}}]


async def test_a_cancel_that_was_asked_for_may_be_asked_for_again(doors: PanelDoors) -> None:
    """The provider is asked once; the caller hears each time that it was."""
    await doors.change("1", cancel=True)
    order = await doors.write(rows.buy, await doors.write(rows.accept, owner="smm"))
    for _ in range(2):
        assert await doors.panel("cancel", orders=order.number) == [{"order": order.number, "cancel": 1}]
    assert (await doors.panel("status", order=order.number))["status"] == "Pending"
