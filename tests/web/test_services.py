"""What can be ordered: listed prices, and quotes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aggregator.domain.clock import ManualClock
from aggregator.domain.orders import OrderState
from aggregator.storage import catalogue, history
from tests.web.support import READER, Doors


async def listed(doors: Doors, query: str = "") -> dict[str, dict[str, Any]]:
    reply = await doors.get(f"/v1/services{query}")
    assert reply.status == 200, reply.text
    assert reply.json["next_cursor"] is None
    return {entry["service"]: entry for entry in reply.json["services"]}


async def test_services_show_their_best_price_and_stock(doors: Doors) -> None:
    services = await listed(doors)
    assert list(services) == ["ig-followers", "ig-comments", "gmail-usa", "app-code-us"]
    followers = services["ig-followers"]
    # 0.50 EUR is 0.55 USD: less than the other provider's 0.90 USD.
    assert (followers["provider"], followers["price"]) == ("hstock", {"amount": "0.55", "currency": "USD"})
    assert (followers["price_per"], followers["min"], followers["max"]) == (1000, 10, 10_000)
    assert (followers["title"], followers["available"], followers["reason"]) == ("Instagram followers", True, None)
    mails = services["gmail-usa"]
    assert (mails["price"]["amount"], mails["price_per"], mails["stock"], mails["panel_id"]) == ("2.20", 1, 7, 2)
    assert services["app-code-us"]["max"] == 10


async def test_services_filter_by_kind_and_category(sqlite_doors: Doors) -> None:
    assert list(await listed(sqlite_doors, "?kind=product")) == ["gmail-usa"]
    assert list(await listed(sqlite_doors, "?category=Instagram")) == ["ig-followers", "ig-comments"]
    assert (await sqlite_doors.get("/v1/services?kind=shoes")).field == "kind"


async def test_a_service_that_nobody_sells_says_why(doors: Doors, clock: ManualClock) -> None:
    await doors.write(catalogue.set_health, "hstock", clock.now(), paused=True)
    services = await listed(doors)
    assert services["ig-followers"]["provider"] == "smmplus"
    assert (services["gmail-usa"]["available"], services["gmail-usa"]["price"]) == (False, None)
    assert "hstock/3: the provider is paused" in services["gmail-usa"]["reason"]


async def test_a_service_out_of_stock_is_not_available(doors: Doors, clock: ManualClock) -> None:
    await doors.write(catalogue.set_stock, "hstock", "3", 0, clock.now())
    assert (await listed(doors))["gmail-usa"]["available"] is False


async def test_a_quote_ranks_with_reasons_and_buys_nothing(doors: Doors) -> None:
    reply = await doors.post("/v1/quote", {"service": "ig-followers", "quantity": 1000}, key=READER)
    assert reply.status == 200
    assert reply.json["best"]["provider"] == "hstock"
    assert reply.json["best"]["cost"] == {"amount": "0.55", "currency": "USD"}
    assert [candidate["provider"] for candidate in reply.json["candidates"]] == ["hstock", "smmplus"]
    assert "dearer" in reply.json["candidates"][1]["reason"]
    assert await doors.stored() == 0


async def test_a_quote_shows_what_it_was_decided_from(doors: Doors, clock: ManualClock) -> None:
    for _ in range(6):
        await doors.write(
            history.note_end,
            "hstock",
            "3",
            state=OrderState.COMPLETED,
            ordered=2,
            delivered=2,
            duration=timedelta(seconds=90),
            at=clock.now(),
        )
    clock.advance(30)
    reply = await doors.post("/v1/quote", {"service": "gmail-usa", "quantity": 2}, key=READER)
    (candidate,) = reply.json["candidates"]
    assert reply.json["strategy"] == "cheapest"
    assert candidate == reply.json["best"]
    assert (candidate["cost"]["amount"], candidate["expected_cost"]["amount"]) == ("4.40", "4.00")
    assert (candidate["rate"], candidate["rate_per"]) == ({"amount": "2.00", "currency": "EUR"}, 1)
    assert (candidate["stock"], candidate["stock_age_s"]) == (7, 30)
    assert (candidate["min"], candidate["max"], candidate["refill"], candidate["worth"]) == (1, 10_000, False, None)
    assert candidate["known_since"] == "2026-11-21T18:00:00.000Z"
    known = candidate["history"]
    assert (known["ends"], known["reliability"], known["duration_s"]) == (6, "1.0000", 90)


async def test_a_quote_without_an_offer_has_no_best(doors: Doors) -> None:
    body = {"service": "ig-followers", "quantity": 1000, "max_cost": "0.10"}
    reply = await doors.post("/v1/quote", body)
    assert (reply.status, reply.json["best"]) == (200, None)
    assert all("max_cost" in candidate["reason"] for candidate in reply.json["candidates"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "service"),
        ({"service": "none"}, "service"),
        ({"service": "ig-followers"}, "quantity"),
        ({"service": "ig-followers", "quantity": 5}, "quantity"),
        ({"service": "ig-followers", "quantity": 1000, "reference": "x"}, "reference"),
        ({"service": "ig-comments", "quantity": 20}, "params.comments"),
    ],
)
async def test_a_quote_is_checked_like_an_order(sqlite_doors: Doors, body: Any, field: str) -> None:
    reply = await sqlite_doors.post("/v1/quote", body)
    assert (reply.status, reply.field) == (422, field)
