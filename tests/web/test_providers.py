"""Providers as the operator sees them, and what an admin does to them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.domain.sync import Believed
from aggregator.providers.contract import Failure, FailureKind
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
    assert (smmplus["state"], smmplus["reason"]) == ("up", None)
    assert (providers["forgotten"]["state"], providers["forgotten"]["up"]) == ("disabled", False)
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
    assert (provider["state"], provider["reason"]) == ("down", "no answer")


async def test_a_provider_whose_catalogue_cannot_be_read_says_so_before_it_is_down(
    doors: Doors, clock: ManualClock
) -> None:
    await doors.write(catalogue.set_health, "hstock", clock.now(), catalogue_at=None, catalogue_error="answers HTML")
    await doors.house.health.note("hstock", Failure(FailureKind.UNREADABLE, "answers HTML", cause="html"))
    provider = (await doors.get("/v1/providers/hstock", key=READER)).json
    assert (provider["state"], provider["up"], provider["reason"]) == ("never_answered", False, "answers HTML")
    assert not provider["breaker"]["open"]
    told = (await doors.get("/metrics", key=READER)).text.splitlines()
    assert 'aggregator_provider_up{provider="hstock"} 0.0' in told
    assert 'aggregator_provider_state{provider="hstock",state="never_answered"} 1.0' in told
    assert 'aggregator_provider_state{provider="hstock",state="up"} 0.0' in told
    assert 'aggregator_provider_trouble{cause="html",provider="hstock"} 1.0' in told
    await doors.house.health.note("hstock", object())
    told = (await doors.get("/metrics", key=READER)).text.splitlines()
    assert 'aggregator_provider_up{provider="hstock"} 1.0' in told
    assert not any(line.startswith('aggregator_provider_trouble{cause="html"') for line in told)


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


def doubt(connection: Connection, rate: str = "9.00") -> None:
    """A sync that shows another price for the service 1 of smmplus."""
    (row,) = catalogue.rows_of(connection, "smmplus", "1", None)
    was = Believed.of(catalogue.row_from(row))
    values = {
        "rate_units": Money.parse(rate, "USD").units,
        "problem": "too dear",
        "doubts": 3,
        "accepted": was.as_json(),
    }
    catalogue.update_row(connection, row["id"], row["seen_at"] + timedelta(minutes=15), values, priced=True)


async def test_a_quarantined_row_shows_the_old_and_the_new_values(doors: Doors) -> None:
    await doors.write(doubt)
    reply = await doors.get("/v1/providers/smmplus/services?quarantined=true", key=READER)
    first, never = reply.json["services"]
    old = {"name": "service 1", "kind": "smm", "type": "Default", "rate": {"amount": "0.90", "currency": "USD"}}
    new = {**old, "rate": {"amount": "9.00", "currency": "USD"}}
    assert (first["reason"], first["rate"]["amount"]) == ("too dear", "9.00")
    assert first["quarantine"] == {"before": old, "after": new, "seen": 3, "believed_after": 10}
    assert (never["service"], never["quarantine"]["before"]) == ("9", None)
    assert (never["quarantine"]["seen"], never["quarantine"]["believed_after"]) == (None, None)
    good = await doors.get("/v1/providers/smmplus/services?quarantined=false", key=READER)
    assert [row["quarantine"] for row in good.json["services"]] == [None]


async def test_release_believes_a_row_and_says_what_it_released(doors: Doors) -> None:
    await doors.write(doubt)
    quote = {"service": "ig-followers", "quantity": 1000}
    before = await doors.post("/v1/quote", quote)
    assert before.json["candidates"][1]["reason"] == "quarantined: too dear"
    headers = {"Idempotency-Key": "r-1"}
    reply = await doors.post("/v1/providers/smmplus/release", {"service": "1"}, key=ADMIN, headers=headers)
    assert (reply.status, reply.json["name"]) == (200, "smmplus")
    assert [(row["service"], row["quarantined"]) for row in reply.json["released"]] == [("1", False)]
    again = await doors.post("/v1/providers/smmplus/release", {"service": "1"}, key=ADMIN, headers=headers)
    assert again.text == reply.text
    after = await doors.post("/v1/quote", quote)
    assert after.json["candidates"][1]["cost"]["amount"] == "9.00"


async def test_release_says_why_there_is_nothing_to_release(doors: Doors) -> None:
    for body, status, words in (
        ({"service": "2"}, 409, "not in quarantine"),
        ({"service": "9"}, 409, "nobody could buy it: the price is absurd"),
        ({"service": "777"}, 404, "no such service"),
        ({"service": "1", "country": "us"}, 404, "no such service"),
        ({"catalogue": True}, 409, "not in doubt"),
    ):
        reply = await doors.post("/v1/providers/smmplus/release", body, key=ADMIN)
        assert (reply.status, words in reply.json["detail"]) == (status, True), reply.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "service"),
        ({"service": "1", "catalogue": True}, "service"),
        ({"catalogue": True, "country": "us"}, "country"),
        ({"catalogue": False}, "catalogue"),
        ({"service": 1}, "service"),
        ({"services": "1"}, "services"),
    ],
)
async def test_a_release_says_exactly_one_thing(sqlite_doors: Doors, body: object, field: str) -> None:
    reply = await sqlite_doors.post("/v1/providers/smmplus/release", body, key=ADMIN)
    assert (reply.status, reply.field) == (422, field)


async def test_only_an_admin_releases(sqlite_doors: Doors) -> None:
    reply = await sqlite_doors.post("/v1/providers/smmplus/release", {"service": "1"}, key=READER)
    assert reply.status == 403


async def test_a_shrunken_catalogue_is_released_for_the_next_sync(doors: Doors, clock: ManualClock) -> None:
    await doors.write(catalogue.set_health, "hstock", clock.now(), services_shrunk=2)
    reply = await doors.post("/v1/providers/hstock/release", {"catalogue": True}, key=ADMIN)
    assert (reply.status, reply.json["released"]) == (200, [])
    assert reply.json["catalogue"]["next_at"] == "2026-11-21T18:00:00.000Z"


async def test_the_history_of_a_service_is_listed_newest_first(doors: Doors) -> None:
    await doors.write(doubt)
    first = await doors.get("/v1/providers/smmplus/services/1/history?limit=1", key=READER)
    entry = {"country": None, "rate": {"amount": "9.00", "currency": "USD"}, "stock": None}
    assert first.json["history"] == [{**entry, "at": "2026-11-21T18:15:00.000Z"}]
    path = f"/v1/providers/smmplus/services/1/history?limit=1&cursor={first.json['next_cursor']}"
    rest = await doors.get(path, key=READER)
    assert [one["rate"]["amount"] for one in rest.json["history"]] == ["0.90"]
    assert rest.json["next_cursor"] is None
    numbers = await doors.get("/v1/providers/hstock/services/65f0aa/history?country=US", key=READER)
    assert [one["country"] for one in numbers.json["history"]] == ["us"]


@pytest.mark.parametrize("path", ["777/history", "%00/history", f"{'x' * 200}/history", "1/history?country=de"])
async def test_the_history_of_what_is_not_there_is_404(sqlite_doors: Doors, path: str) -> None:
    reply = await sqlite_doors.get(f"/v1/providers/smmplus/services/{path}", key=READER)
    assert (reply.status, reply.problem) == (404, "not-found")


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
