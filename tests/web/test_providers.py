"""Providers as the operator sees them, and what an admin does to them."""

from __future__ import annotations

import pytest

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.storage import catalogue, ledger
from tests.support import rows
from tests.web.support import ADMIN, READER, Doors


async def test_providers_show_health_balance_and_work(doors: Doors, clock: ManualClock) -> None:
    order = await doors.write(rows.accept, owner="shop")
    await doors.write(rows.buy, order)
    await doors.write(catalogue.set_health, "smmplus", clock.now(), balance_units=12_34000000, balance_currency="USD")
    await doors.write(catalogue.ensure_providers, ["forgotten"], clock.now())
    reply = await doors.get("/v1/providers", key=READER)
    providers = {entry["name"]: entry for entry in reply.json["providers"]}
    assert list(providers) == ["smmplus", "hstock", "forgotten"]
    smmplus = providers["smmplus"]
    assert smmplus["balance"] == {"amount": "12.34", "currency": "USD"}
    assert (smmplus["up"], smmplus["open_orders"], smmplus["configured"]) == (True, 1, True)
    assert smmplus["catalogue"]["rows"] == 3
    assert smmplus["catalogue"]["synced_at"] == "2026-11-21T18:00:00.000Z"
    assert (providers["forgotten"]["configured"], providers["forgotten"]["dialect"]) == (False, None)
    assert (await doors.get("/v1/providers/smmplus", key=READER)).json == smmplus
    assert "provider-key" not in reply.text


async def test_a_provider_that_is_down_says_why(doors: Doors) -> None:
    await doors.house.health.failed("hstock", "no answer", fatal=True)
    provider = (await doors.get("/v1/providers/hstock", key=READER)).json
    assert (provider["up"], provider["breaker"]["open"], provider["breaker"]["reason"]) == (False, True, "no answer")
    assert provider["breaker"]["until"] is not None


async def test_the_stored_catalogue_is_listed_by_pages_and_category(doors: Doors) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        reply = await doors.get(f"/v1/providers/smmplus/services?limit=1{cursor}", key=READER)
        seen += [row["service"] for row in reply.json["services"]]
        if reply.json["next_cursor"] is None:
            break
        cursor = f"&cursor={reply.json['next_cursor']}"
    assert seen == ["1", "2", "9"]
    comments = await doors.get("/v1/providers/smmplus/services?category=Comments", key=READER)
    assert [row["service"] for row in comments.json["services"]] == ["2"]


async def test_quarantined_rows_are_listed_with_their_reason(doors: Doors) -> None:
    reply = await doors.get("/v1/providers/smmplus/services?quarantined=true", key=READER)
    (row,) = reply.json["services"]
    assert (row["service"], row["quarantined"], row["reason"]) == ("9", True, "the price is absurd")
    good = await doors.get("/v1/providers/smmplus/services?quarantined=false", key=READER)
    assert [row["service"] for row in good.json["services"]] == ["1", "2"]
    assert (await doors.get("/v1/providers/smmplus/services?quarantined=yes", key=READER)).field == "quarantined"


async def test_the_ledger_is_listed_newest_first(doors: Doors, clock: ManualClock) -> None:
    order = await doors.write(rows.accept, owner="shop")
    bought = await doors.write(rows.buy, order)
    await doors.write(rows.report, bought, charge=Money.parse("0.9", "USD"))
    await doors.write(ledger.add, "smmplus", "reading", Money.parse("10", "USD"), clock.now())
    await doors.write(ledger.book_charge, "smmplus", order.number, Money.parse("0.9", "USD"), clock.now())
    first = await doors.get("/v1/providers/smmplus/ledger?limit=1", key=READER)
    (charge,) = first.json["ledger"]
    assert (charge["kind"], charge["amount"]["amount"], charge["order"]) == ("charge", "-0.90", order.id)
    rest = await doors.get(f"/v1/providers/smmplus/ledger?limit=1&cursor={first.json['next_cursor']}", key=READER)
    assert ([row["kind"] for row in rest.json["ledger"]], rest.json["next_cursor"]) == (["reading"], None)


@pytest.mark.parametrize("name", ["nobody", "%00", "a%2Fb", "x" * 300])
async def test_a_provider_that_is_not_there_is_404(doors: Doors, name: str) -> None:
    for method, path in (("GET", ""), ("GET", "/services"), ("GET", "/ledger"), ("POST", "/pause"), ("POST", "/sync")):
        reply = await doors.call(method, f"/v1/providers/{name}{path}", key=ADMIN)
        assert (reply.status, reply.problem) == (404, "not-found")


async def test_pause_and_resume_say_how_it_stands(doors: Doors) -> None:
    paused = await doors.post("/v1/providers/smmplus/pause", key=ADMIN)
    assert (paused.status, paused.json["paused"]) == (200, True)
    quote = await doors.post("/v1/quote", {"service": "ig-followers", "quantity": 100})
    reasons = {candidate["provider"]: candidate["reason"] for candidate in quote.json["candidates"]}
    assert reasons["smmplus"] == "the provider is paused"
    resumed = await doors.post("/v1/providers/smmplus/resume", key=ADMIN)
    assert (resumed.status, resumed.json["paused"]) == (200, False)


async def test_sync_fetches_now_and_once_per_key(doors: Doors) -> None:
    headers = {"Idempotency-Key": "s-1"}
    reply = await doors.post("/v1/providers/smmplus/sync", key=ADMIN, headers=headers)
    again = await doors.post("/v1/providers/smmplus/sync", key=ADMIN, headers=headers)
    assert (reply.status, reply.json["name"], doors.synced) == (200, "smmplus", ["smmplus"])
    assert again.text == reply.text


async def test_a_catalogue_that_is_not_believed_is_a_conflict(doors: Doors) -> None:
    doors.sync_result = "the catalogue is empty"
    reply = await doors.post("/v1/providers/smmplus/sync", key=ADMIN)
    assert (reply.status, reply.problem) == (409, "conflict")
    assert "the catalogue is empty" in reply.json["detail"]
