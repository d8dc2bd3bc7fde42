"""Turning pages while rows arrive and change: no row comes twice, and none is missed that was there at the start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from aggregator.domain.events import Draft
from aggregator.domain.money import Money
from aggregator.storage import catalogue, ledger, outbox
from aggregator.storage import orders as order_store
from tests.support import rows
from tests.web.support import READER, SHOP, Doors, a_row

_numbers = count(100)
Change = Callable[[Doors], Awaitable[object]]


async def an_order_more(doors: Doors) -> None:
    await doors.order()


async def a_service_more(doors: Doors) -> None:
    row = a_row(str(next(_numbers)))
    await doors.write(catalogue.insert_rows, "smmplus", [row], "USD", doors.house.clock.now())


async def a_project_more(doors: Doors) -> None:
    number = next(_numbers)
    # Codes that sort before, between and behind those that were there.
    row = a_row(f"p{number}", kind="sms", country=f"{'amz'[number % 3]}{number}", category="Somewhere")
    await doors.write(catalogue.insert_rows, "hstock", [row], "EUR", doors.house.clock.now())


async def a_price_more(doors: Doors) -> None:
    (row,) = await doors.house.database.read(lambda c: catalogue.rows_of(c, "smmplus", "1", None))
    values = {"rate_units": next(_numbers) * 1_000_000, "stock": None}
    await doors.write(catalogue.update_row, row["id"], doors.house.clock.now(), values, priced=True)


async def a_ledger_row_more(doors: Doors) -> None:
    await doors.write(ledger.add, "smmplus", "top_up", Money.parse(str(next(_numbers)), "USD"), doors.house.clock.now())


async def an_event_more(doors: Doors) -> None:
    draft = Draft("provider.up", {"provider": f"p{next(_numbers)}"})
    await doors.write(outbox.append_general, draft, doors.house.clock.now())
    await doors.write(rows.sequence)


LISTS: dict[str, tuple[str, Change, Callable[[Any], object]]] = {
    "orders": ("/v1/orders", an_order_more, lambda row: row["number"]),
    "orders of a service": ("/v1/orders?service=ig-followers", an_order_more, lambda row: row["number"]),
    "services": ("/v1/providers/smmplus/services", a_service_more, lambda row: row["service"]),
    "services by a word": ("/v1/providers/smmplus/services?q=service", a_service_more, lambda row: row["service"]),
    "history": ("/v1/providers/smmplus/services/1/history", a_price_more, lambda row: row["rate"]["amount"]),
    "ledger": ("/v1/providers/smmplus/ledger", a_ledger_row_more, lambda row: row["id"]),
    "projects": ("/v1/sms/projects", a_project_more, lambda row: (row["provider"], row["project"], row["country"])),
    "countries": ("/v1/sms/countries", a_project_more, lambda row: row["country"]),
}


async def turned(
    doors: Doors, path: str, between: Change | None, name: Callable[[Any], object], limit: int
) -> list[object]:
    """What stands on all pages, with something happening between any two of them."""
    noun = "history" if path.endswith("history") else path.partition("?")[0].rpartition("/")[2]
    seen: list[object] = []
    cursor = ""
    for _ in range(60):
        joined = f"{path}{'&' if '?' in path else '?'}limit={limit}{cursor}"
        page = (await doors.get(joined, key=READER)).json
        assert len(page[noun]) <= limit
        seen += map(name, page[noun])
        if page["next_cursor"] is None:
            return seen
        cursor = f"&cursor={page['next_cursor']}"
        if between is not None and len(seen) < 30:
            await between(doors)
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize(("path", "more", "name"), LISTS.values(), ids=LISTS.keys())
async def test_pages_stay_right_while_rows_arrive(doors: Doors, path: str, more: Change, name: Any) -> None:
    for _ in range(6):
        await more(doors)
    before = await turned(doors, path, None, name, 500)
    assert len(before) >= 6
    seen = await turned(doors, path, more, name, 2)
    assert len(seen) == len(set(seen)), "a row came twice"
    assert [row for row in seen if row in set(before)] == before, "a row that was there was missed or moved"


async def test_the_feed_stays_right_while_events_arrive(doors: Doors) -> None:
    for _ in range(7):
        await an_event_more(doors)
    seen, after = list[int](), 0
    while len(seen) < 20:
        reply = (await doors.get(f"/v1/events?limit=2&after={after}", key=READER)).json
        seen += [event["position"] for event in reply["events"]]
        after = reply["next_after"]
        await an_event_more(doors)
    assert seen == list(range(1, len(seen) + 1))


async def test_pages_by_state_show_what_is_in_it_when_they_are_read(doors: Doors) -> None:
    """Who keeps the state is seen once; who leaves it before their page is not, and who enters it behind the reader
    is for the next walk."""
    numbers = [(await doors.order())["number"] for _ in range(10)]
    first = (await doors.get("/v1/orders?state=accepted&limit=3")).json
    assert [order["number"] for order in first["orders"]] == numbers[:-4:-1]
    gone, shown = numbers[4], numbers[-1]
    for number in (gone, shown):
        order = await doors.house.database.read(lambda c, n=number: order_store.load(c, n))  # type: ignore[misc]
        await doors.write(rows.buy, order)
    new = (await doors.order())["number"]
    rest, cursor = list[int](), first["next_cursor"]
    while cursor is not None:
        page = (await doors.get(f"/v1/orders?state=accepted&limit=3&cursor={cursor}")).json
        rest += [order["number"] for order in page["orders"]]
        cursor = page["next_cursor"]
    assert rest == [number for number in reversed(numbers[:-3]) if number != gone]
    assert new not in rest


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/sms/projects", "/v1/sms/countries"])
@pytest.mark.parametrize("cursor", ["x", "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAA", "_" * 6000, "%C2%B2", ""])
async def test_a_cursor_that_was_never_given_is_refused(sqlite_doors: Doors, path: str, cursor: str) -> None:
    reply = await sqlite_doors.get(f"{path}?cursor={cursor}", key=READER)
    assert (reply.status, reply.field) == (422, "cursor")


async def test_a_cursor_belongs_to_its_query(sqlite_doors: Doors) -> None:
    for _ in range(4):
        await a_project_more(sqlite_doors)
        await sqlite_doors.order()
    for path in ("/v1/sms/countries", "/v1/sms/projects", "/v1/orders"):
        cursor = (await sqlite_doors.get(f"{path}?limit=1", key=READER)).json["next_cursor"]
        assert (await sqlite_doors.get(f"{path}?limit=2&cursor={cursor}", key=READER)).status == 200
        for other in ("sms/countries?provider=hstock", "sms/projects?provider=hstock", "orders?state=failed"):
            reply = await sqlite_doors.get(f"/v1/{other}&cursor={cursor}", key=READER)
            assert (reply.status, reply.field) == (422, "cursor")
    assert (await sqlite_doors.get("/v1/orders", key=SHOP)).status == 200
