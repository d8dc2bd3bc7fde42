"""Choosing what to configure: projects and countries over all providers, and a catalogue by category and word."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient, TestServer

from aggregator.domain.clock import ManualClock
from aggregator.storage import catalogue, offered
from aggregator.storage.database import Database
from aggregator.web.server import create_app
from tests.web.support import CONFIG, READER, Doors, a_row, open_house

SECOND = CONFIG.replace(
    "services:\n",
    '  extra: {dialect: hstockplus, url: "http://127.0.0.1:9/extra", api_key: provider-key-3}\nservices:\n'
    "  any-code: {kind: sms, offers: [{provider: extra, project: p1}]}\n",
    1,
)
ROWS = [
    a_row("p1", "0.30", kind="sms", category="United States", country="US", name="OpenAI / ChatGPT"),
    a_row("p1", "0.10", kind="sms", category="Afghanistan", country="+93", name="OpenAI / ChatGPT"),
    a_row("p2", "0.40", kind="sms", category="", country="", name="𝗧𝗲𝗹𝗲𝗴𝗿𝗮𝗺", stock=0, has_stock=True),
    a_row("p3", "0.00", kind="sms", category="Deutschland", country="de", name="WhatsApp", problem="the price is 0"),
    a_row("m1", "5.00", kind="product", category="Mail", name="No number at all"),
]


async def with_second(database: Database, clock: ManualClock, folder: object) -> Doors:
    doors = Doors(await open_house(database, clock, folder, SECOND))  # type: ignore[arg-type]
    await doors.write(catalogue.insert_rows, "extra", ROWS, "USD", clock.now())
    return doors


@pytest.fixture
async def second(database: Database, clock: ManualClock, tmp_path: object) -> object:
    doors = await with_second(database, clock, tmp_path)
    async with TestClient(TestServer(create_app(doors.services))) as client:
        doors.client = client
        yield doors


async def projects(doors: Doors, query: str = "") -> list[tuple[str, str, str | None]]:
    found = (await doors.get(f"/v1/sms/projects{query}", key=READER)).json["projects"]
    return [(row["provider"], row["project"], row["country"]) for row in found]


async def test_projects_say_all_that_an_offer_needs(second: Doors) -> None:
    found = (await second.get("/v1/sms/projects", key=READER)).json["projects"]
    assert found[0] == {
        "provider": "hstock", "project": "65f0aa", "name": "service 65f0aa", "country": "us", "country_title": "Codes",
        "rate": {"amount": "0.20", "currency": "EUR"}, "stock": None, "stock_known": False, "quarantined": False,
        "reason": None, "services": ["app-code-us"], "seen_at": "2026-11-21T18:00:00.000Z",
    }  # fmt: skip
    # An offer without a country takes the project in any.
    assert [row["services"] for row in found[1:]] == [["any-code"], ["any-code"], [], []]
    without, doubtful = found[3], found[4]
    assert (without["country"], without["country_title"], without["stock"], without["stock_known"]) == (
        None,
        None,
        0,
        True,
    )
    assert (doubtful["quarantined"], doubtful["reason"]) == (True, "the price is 0")


async def test_projects_are_found_by_provider_country_and_words(second: Doors) -> None:
    assert await projects(second, "?provider=hstock") == [("hstock", "65f0aa", "us")]
    assert await projects(second, "?country=us") == [("hstock", "65f0aa", "us"), ("extra", "p1", "US")]
    assert await projects(second, "?country=%2B93") == [("extra", "p1", "+93")]
    assert await projects(second, "?q=chatgpt") == [("extra", "p1", "US"), ("extra", "p1", "+93")]
    assert await projects(second, "?q=gpt+states") == [("extra", "p1", "US")]
    assert await projects(second, "?q=TELEGRAM") == [("extra", "p2", None)]
    assert await projects(second, "?q=100%25") == []


async def test_a_project_that_is_listed_no_more_is_not_offered(second: Doors) -> None:
    (row, *_) = await second.house.database.read(lambda c: catalogue.rows_of(c, "extra", "p2", None))
    for _ in range(catalogue.GONE_AFTER):
        await second.write(catalogue.mark_missing, [row["id"]])
    assert ("extra", "p2", None) not in await projects(second)


async def test_countries_are_merged_with_the_providers_that_have_them(second: Doors) -> None:
    found = (await second.get("/v1/sms/countries", key=READER)).json["countries"]
    assert [(row["country"], row["title"]) for row in found] == [
        (None, None),
        ("+93", "Afghanistan"),
        ("de", "Deutschland"),
        ("us", "United States"),
    ]
    assert found[3]["providers"] == [
        {"provider": "extra", "country": "US", "title": "United States", "projects": 1},
        {"provider": "hstock", "country": "us", "title": "Codes", "projects": 1},
    ]
    by_title = (await second.get("/v1/sms/countries?q=deutsch", key=READER)).json["countries"]
    assert [row["country"] for row in by_title] == ["de"]
    of_one = (await second.get("/v1/sms/countries?provider=hstock", key=READER)).json["countries"]
    assert [row["country"] for row in of_one] == ["us"]


@pytest.mark.parametrize(
    ("query", "field"), [("provider=nobody", "provider"), ("q=", "q"), ("countri=us", "countri"), ("limit=0", "limit")]
)
async def test_a_query_that_makes_no_sense_is_named(sqlite_doors: Doors, query: str, field: str) -> None:
    reply = await sqlite_doors.get(f"/v1/sms/projects?{query}", key=READER)
    assert (reply.status, reply.field) == (422, field)


async def test_a_catalogue_is_searched_by_kind_category_subcategory_and_words(
    second: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offered, "CHUNK", 2)
    rows = [
        a_row("20", name="ИНСТАГРАМ подписчики", subcategory="Followers"),
        a_row("21", name="Likes 100%", subcategory="Likes"),
        a_row("22", name="likes_fast", category="TikTok", subcategory="Likes"),
    ]
    await second.write(catalogue.insert_rows, "smmplus", rows, "USD", second.house.clock.now())

    async def found(query: str) -> list[str]:
        reply = await second.get(f"/v1/providers/smmplus/services?{query}", key=READER)
        return [row["service"] for row in reply.json["services"]]

    assert await found("q=инстаграм") == ["20"]
    assert await found("q=likes") == ["21", "22"]
    assert await found("q=likes&category=Instagram") == ["21"]
    assert await found("subcategory=Likes") == ["21", "22"]
    assert await found("q=%25") == ["21"]
    assert await found("q=_") == ["22"]
    assert await found("kind=product") == []
    reply = await second.get("/v1/providers/extra/services?kind=product", key=READER)
    assert [row["name"] for row in reply.json["services"]] == ["No number at all"]
    told = (await second.get("/v1/providers/smmplus/categories", key=READER)).json
    assert told["next_cursor"] is None
    instagram = next(row for row in told["categories"] if row["category"] == "Instagram")
    assert instagram == {
        "category": "Instagram",
        "services": 3,
        "subcategories": [{"subcategory": "Followers", "services": 1}, {"subcategory": "Likes", "services": 1}],
    }
    kinds = (await second.get("/v1/providers/extra/categories?kind=product", key=READER)).json["categories"]
    assert [(row["category"], row["services"]) for row in kinds] == [("Mail", 1)]
    assert (await second.get("/v1/providers/nobody/categories", key=READER)).status == 404
