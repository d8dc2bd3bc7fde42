"""Rented numbers at the panel door: ids before anything is rented, codes by them, and never an error once taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.orders import OrderState
from aggregator.storage import orders, tables
from aggregator.web.panel import numbers as numbers_door
from tests.support import rows
from tests.support.examples import NOW
from tests.web.panel.support import OTHER, SMM, STOCK, PanelDoors


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody rents anything here, so nobody waits for it."""
    monkeypatch.setattr(numbers_door, "WAIT_S", 0.0)


async def taken(doors: PanelDoors) -> None:
    """Until the order is stored; each look is a turn of the loop."""
    while not await doors.stored():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def rent(doors: PanelDoors, number: int, phones: list[str]) -> None:
    order = await doors.house.database.read(lambda c: orders.load(c, number))
    assert order is not None
    await doors.write(rows.buy, order, provider="hstock", rented=phones)


async def receive(doors: PanelDoors, number_id: int, **values: Any) -> None:
    chosen = tables.numbers.c.id == number_id
    await doors.house.database.write(lambda c: c.execute(update(tables.numbers).where(chosen).values(**values)))


CODE = {"code": "123456", "text": "Your code is 123456", "received_at": "2026-11-21T18:01:00.000Z"}


async def test_the_answer_comes_as_soon_as_the_number_is_rented(doors: PanelDoors) -> None:
    """The door is told by the feed, as every waiting reader is."""
    asked = asyncio.create_task(doors.panel("add_sms", key=STOCK, project_id=3))
    await taken(doors)
    (number,) = await doors.house.database.read(lambda c: c.execute(select(tables.orders.c.number)).scalars().all())
    await rent(doors, number, ["+12025550123"])
    await doors.write(rows.sequence)
    doors.house.wakeups.wake("feed")
    assert await asked == {"orders": [{"order": number, "phone": "+12025550123", "country": "us", "status": "active"}]}


@pytest.mark.usefixtures("no_wait")
async def test_an_order_without_a_number_yet_is_pending_under_ids_that_stay(doors: PanelDoors) -> None:
    answer = await doors.panel("add_sms", key=STOCK, project_id="3", quantity=3, country="us")
    entries = answer["orders"]
    ids = [entry["order"] for entry in entries]
    assert len(set(ids)) == 3
    assert {(one["phone"], one["status"], one["country"]) for one in entries} == {("", "pending", "us")}
    for one in ids:
        assert await doors.panel("sms_code", key=STOCK, order=one) == {
            "status": "waiting",
            "message": "Waiting for code",
        }
        told = await doors.panel("sms_status", key=STOCK, order=one)
        assert (told["status"], told["phone"], told["code"], told["expires_at"]) == ("pending", "", None, None)
    # Whatever is ordered next has an id of its own.
    later = await doors.add(key=STOCK)
    assert later not in ids
    await rent(doors, ids[0], ["+1201", "+1202", "+1203"])
    phones = [(await doors.panel("sms_status", key=STOCK, order=one))["phone"] for one in ids]
    assert phones == ["+1201", "+1202", "+1203"]
    shown = (await doors.get(f"/v1/orders/{ids[0]}", key=STOCK)).json
    assert [number["number"] for number in shown["numbers"]] == ids


@pytest.mark.usefixtures("no_wait")
async def test_fewer_numbers_than_asked_for_leave_the_rest_canceled(doors: PanelDoors) -> None:
    answer = await doors.panel("add_sms", key=STOCK, project_id=3, quantity=3)
    ids = [entry["order"] for entry in answer["orders"]]
    await rent(doors, ids[0], ["+1201", "+1202"])
    words = [(await doors.panel("sms_status", key=STOCK, order=one))["status"] for one in ids]
    assert words == ["active", "active", "cancel"]
    gone = await doors.panel("sms_status", key=STOCK, order=ids[2])
    assert (gone["phone"], gone["charge"]) == ("", "0.0000")
    assert (await doors.panel("sms_code", key=STOCK, order=ids[2]))["status"] == "cancel"


@pytest.mark.usefixtures("no_wait")
async def test_more_numbers_than_asked_for_are_kept(doors: PanelDoors) -> None:
    (entry,) = (await doors.panel("add_sms", key=STOCK, project_id=3))["orders"]
    await rent(doors, entry["order"], ["+1201", "+1202"])
    shown = (await doors.get(f"/v1/orders/{entry['order']}", key=STOCK)).json["numbers"]
    assert shown[0]["number"] == entry["order"]
    assert (await doors.panel("sms_status", key=STOCK, order=shown[1]["number"]))["phone"] == "+1202"


@pytest.mark.corrupts_database  # numbers are written without their orders
@pytest.mark.usefixtures("no_wait")
async def test_a_code_and_an_end_read_as_documented(doors: PanelDoors, clock: ManualClock) -> None:
    (entry,) = (await doors.panel("add_sms", key=STOCK, project_id=3))["orders"]
    one = entry["order"]
    await rent(doors, one, ["+12025550123"])
    expires = NOW + timedelta(minutes=20)
    await receive(doors, one, expires_at=expires, charge_units=50_000_000, charge_currency="EUR")
    assert await doors.panel("sms_status", key=STOCK, order=one) == {
        "status": "active",
        "phone": "+12025550123",
        "code": None,
        "charge": "0.5500",
        "currency": "USD",
        "expires_at": "2026-11-21T18:20:00.000Z",
    }
    await receive(doors, one, state="received", codes=[CODE])
    assert await doors.panel("sms_code", key=STOCK, order=one) == {
        "status": "completed",
        "code": "123456",
        "sms_content": "Your code is 123456",
    }
    told = await doors.panel("sms_status", key=SMM, order=one)
    assert told == {"error": "Incorrect order ID"}
    told = await doors.panel("sms_status", key=STOCK, order=one)
    assert (told["status"], told["code"]) == ("code_received", "123456")
    await receive(doors, one, state="expired", codes=[])
    assert await doors.panel("sms_code", key=STOCK, order=one) == {
        "status": "expired",
        "message": "Number has expired",
    }
    await receive(doors, one, state="canceled")
    assert (await doors.panel("sms_status", key=STOCK, order=one))["status"] == "cancel"


@pytest.mark.usefixtures("no_wait")
async def test_an_order_that_came_to_nothing_is_told_as_canceled_numbers(doors: PanelDoors) -> None:
    (entry,) = (await doors.panel("add_sms", key=STOCK, project_id=3))["orders"]
    assert await doors.panel("cancel", key=STOCK, orders=entry["order"]) == [{"order": entry["order"], "cancel": 1}]
    assert (await doors.panel("sms_status", key=STOCK, order=entry["order"]))["status"] == "cancel"


@pytest.mark.usefixtures("no_wait")
async def test_the_same_key_tells_the_numbers_that_were_rented_meanwhile(doors: PanelDoors) -> None:
    first = await doors.panel("add_sms", key=STOCK, project_id=3, quantity=2, idempotency="n-1")
    ids = [entry["order"] for entry in first["orders"]]
    await rent(doors, ids[0], ["+1201", "+1202"])
    again = await doors.panel("add_sms", key=STOCK, project_id=3, quantity=2, idempotency="n-1")
    assert [(one["order"], one["phone"], one["status"]) for one in again["orders"]] == [
        (ids[0], "+1201", "active"),
        (ids[1], "+1202", "active"),
    ]
    assert await doors.stored() == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"project_id": ""}, "Incorrect project_id"),
        ({"project_id": "1"}, "Service not found"),
        ({"project_id": "65f0aa"}, "Service not found"),
        ({"quantity": "0"}, "Incorrect quantity"),
        ({"quantity": "11"}, "Quantity more than maximal 10"),
        ({"quantity": "x"}, "Incorrect quantity"),
    ],
)
async def test_a_mistake_rents_nothing(sqlite_doors: PanelDoors, fields: dict[str, str], words: str) -> None:
    answer = await sqlite_doors.panel("add_sms", key=STOCK, **{"project_id": "3", **fields})
    assert answer == {"error": words}
    assert await sqlite_doors.stored() == 0


@pytest.mark.usefixtures("no_wait")
async def test_numbers_of_earlier_releases_keep_their_ids(doors: PanelDoors) -> None:
    """Those were counted for themselves, so an order may have the same number."""
    old = await doors.write(rows.accept, owner="stock", kind="sms", service="app-code-us", quantity=1)
    await rent(doors, old.number, ["+1200"])

    def as_it_was(connection: Connection) -> None:
        moved = update(tables.numbers).where(tables.numbers.c.id == old.number).values(id=old.number + 1)
        connection.execute(update(tables.ledger).values(number_id=None))
        connection.execute(moved)

    await doors.house.database.write(as_it_was)
    (entry,) = (await doors.panel("add_sms", key=STOCK, project_id=3))["orders"]
    assert entry["order"] == old.number + 1
    await rent(doors, entry["order"], ["+1201"])
    shown = (await doors.get(f"/v1/orders/{entry['order']}", key=STOCK)).json["numbers"]
    assert [number["phone"] for number in shown] == ["+1201"]
    assert shown[0]["number"] != old.number + 1
    assert (await doors.panel("sms_status", key=OTHER, order=shown[0]["number"]))["error"] == "Incorrect order ID"


async def test_a_database_that_is_away_for_a_moment_does_not_hide_what_was_taken(
    sqlite_doors: PanelDoors, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, looks = sqlite_doors.house.database, 0

    async def away_once(self: object, work: Callable[[Connection], Any]) -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise StorageUnavailable("locked")
        sqlite_doors.draining = True  # nobody rents anything here: one more look is enough
        return await read(work)

    read = database.read
    monkeypatch.setattr(type(database), "read", away_once)
    (entry,) = (await sqlite_doors.panel("add_sms", key=STOCK, project_id=3))["orders"]
    assert (entry["status"], looks) == ("pending", 3)


async def test_waiting_ends_with_the_doors(sqlite_doors: PanelDoors) -> None:
    asked = asyncio.create_task(sqlite_doors.panel("add_sms", key=STOCK, project_id=3))
    await taken(sqlite_doors)
    sqlite_doors.draining = True
    sqlite_doors.house.wakeups.wake("feed")
    (entry,) = (await asked)["orders"]
    assert (entry["phone"], entry["status"]) == ("", "pending")
    assert (await sqlite_doors.get("/v1/orders", key=STOCK)).json["orders"][0]["state"] == OrderState.ACCEPTED
