"""Catalogues, stock and balances of providers over mocked HTTP, into both databases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection, select

from aggregator.domain.charges import Lesson, Sample
from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem, StorageUnavailable
from aggregator.domain.money import Money
from aggregator.domain.routing import OfferView
from aggregator.domain.sync import BELIEVED_AFTER
from aggregator.flow.base import House
from aggregator.flow.catalogue_sync import (
    BARREN_PAGES,
    FIRST_RETRY_S,
    MAX_PAGES,
    RETRY_S,
    CatalogueSync,
    release_catalogue,
    release_rows,
)
from aggregator.flow.views import load_world, offer_views
from aggregator.outbound import Outbound
from aggregator.providers.limits import Limiter, Priority
from aggregator.storage import catalogue, ledger
from aggregator.storage.catalogue import GONE_AFTER
from aggregator.storage.database import Database, RowMapping
from aggregator.storage.tables import events, prices, provider_services
from tests.providers.conftest import Mock
from tests.support.house import make_house

URL = "https://panel.test/api/v2"
HSTOCK_URL = "https://hstock.test/api/v2"


def account(dialect: str, url: str, **settings: Any) -> dict[str, Any]:
    return {"dialect": dialect, "url": url, "api_key": f"k-{dialect}-0001", "requests_per_second": 0, **settings}


CONFIG = {
    "providers": {
        "panel": account("panel_v2", URL, min_balance="10"),
        "hstock": account("hstockplus", HSTOCK_URL, catalogue_every_s=600),
        "off": account("panel_v2", "https://off.test/api/v2", enabled=False),
    },
    "services": {
        "followers": {"kind": "smm", "offers": [{"provider": "panel", "service": "1"}]},
        "gmail": {"kind": "product", "offers": [{"provider": "hstock", "service": "2"}]},
        "code-us": {"kind": "sms", "offers": [{"provider": "hstock", "project": "p1", "country": "US"}]},
        "code-any": {"kind": "sms", "offers": [{"provider": "hstock", "project": "p2"}]},
    },
}


def service(number: int, **fields: Any) -> dict[str, Any]:
    usual = {"name": f"service {number}", "type": "Default", "category": "First", "rate": "0.90", "min": 50}
    return {"service": number, **usual, "max": 10_000, "refill": True, "cancel": False, **fields}


def asked_pages(provider: FakeProvider) -> list[str | None]:
    return [form.get("page") for form in provider.forms if form["action"] == "services"]


def project(name: str, country: str, price: str = "0.50") -> dict[str, Any]:
    return {"project_id": name, "name": name, "price": price, "country_id": country, "country_title": country}


@dataclass
class FakeProvider:
    """A provider that answers from lists; `instead` overrides the answer to an action."""

    rows: list[dict[str, Any]] = field(default_factory=lambda: [service(number) for number in range(1, 11)])
    projects: list[dict[str, Any]] = field(default_factory=list)
    balance: str = "100.84292"
    page_rows: int | None = None
    instead: dict[str, Callable[[dict[str, str]], Mapping[str, Any] | BaseException]] = field(default_factory=dict)
    forms: list[dict[str, str]] = field(default_factory=list)

    def answer(self, form: dict[str, str]) -> Mapping[str, Any] | BaseException:
        self.forms.append(form)
        action = form["action"]
        if action in self.instead:
            return self.instead[action](form)
        if action == "balance":
            return {"payload": {"balance": self.balance, "currency": "USD"}}
        if action == "sms_projects":
            return {"payload": self.projects}
        if self.page_rows is None:
            return {"payload": self.rows}
        page = int(form["page"])
        shown = self.rows[(page - 1) * self.page_rows : page * self.page_rows]
        pages = -(-len(self.rows) // self.page_rows)
        return {
            "payload": {
                "services": shown,
                "total": len(self.rows),
                "page": page,
                "limit": self.page_rows,
                "total_pages": pages,
            }
        }

    def fails(self, action: str, **answer: Any) -> None:
        self.instead[action] = lambda _: answer

    def raises(self, action: str, error: BaseException) -> None:
        self.instead[action] = lambda _: error

    def calls(self, action: str) -> int:
        return sum(form["action"] == action for form in self.forms)


@dataclass
class Scene:
    """The stage, its providers, its clock, and what the database has of it."""

    house: House
    clock: ManualClock
    stage: CatalogueSync
    panel: FakeProvider
    hstock: FakeProvider
    synced: list[str]

    async def sync(self, provider: str = "panel") -> str | None:
        return await self.stage.sync(self.house.gateways[provider])

    async def tick(self) -> int:
        begun = await self.stage.run_once()
        await self.stage.idle()
        return begun

    async def rows(self, provider: str = "panel") -> dict[tuple[str, str], RowMapping]:
        return await self.house.database.read(lambda c: catalogue.stored_rows(c, provider))

    async def row(self, number: str, country: str = "", provider: str = "panel") -> RowMapping:
        return (await self.rows(provider))[number, country]

    async def health(self, provider: str = "panel") -> RowMapping:
        return (await self.house.database.read(catalogue.health))[provider]

    async def next_sync_in_s(self, provider: str = "panel") -> float:
        due: datetime = (await self.health(provider))["next_catalogue_at"]
        return (due - self.clock.now()).total_seconds()

    async def history(self, number: str, provider: str = "panel") -> list[tuple[int | None, int | None]]:
        def read(connection: Connection) -> list[tuple[int | None, int | None]]:
            found = connection.execute(
                select(prices.c.rate_units, prices.c.stock)
                .join(provider_services, prices.c.provider_service == provider_services.c.id)
                .where(provider_services.c.provider == provider, provider_services.c.service == number)
                .order_by(prices.c.id)
            )
            return [(row[0], row[1]) for row in found]

        return await self.house.database.read(read)

    async def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Every event so far, in order."""

        def read(connection: Connection) -> list[tuple[str, dict[str, Any]]]:
            rows = connection.execute(select(events.c.type, events.c.body).order_by(events.c.seq))
            return [(row[0], json.loads(row[1])["data"]) for row in rows]

        return await self.house.database.read(read)

    async def offer(self, name: str, params: Mapping[str, str] | None = None) -> OfferView:
        """What routing sees of a service's only offer."""
        wanted = self.house.settings.services[name]
        world = await self.house.database.read(lambda c: load_world(c, [wanted]))
        [view] = offer_views(self.house, wanted, world, {}, params or {})
        return view


@pytest.fixture
def mock() -> Iterator[Mock]:
    mocked = Mock()
    with mocked:
        yield mocked


@pytest_asyncio.fixture
async def scene(
    database: Database, clock: ManualClock, tmp_path: Path, mock: Mock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    # A rate limit's pause is real time; that it is kept is shown where the limiter is tested.
    monkeypatch.setattr(Limiter, "pause", lambda *_: None)
    async with Outbound() as outbound:
        panel, hstock = FakeProvider(), FakeProvider()
        mock.serve(URL, panel.answer)
        mock.serve(HSTOCK_URL, hstock.answer)
        house = make_house(database, clock, tmp_path, json.dumps(CONFIG), outbound=outbound)
        names = list(house.settings.providers)
        await database.write(lambda c: catalogue.ensure_providers(c, names, clock.now()))
        synced: list[str] = []
        yield Scene(house, clock, CatalogueSync(house, synced=synced.append), panel, hstock, synced)


# --- the first catalogue ---------------------------------------------------------------------------------------------


async def test_the_first_sync_stores_every_row_with_the_beginning_of_its_history(scene: Scene) -> None:
    assert await scene.sync() is None
    stored = await scene.rows()
    assert set(stored) == {(str(number), "") for number in range(1, 11)}
    first = stored["1", ""]
    assert (first["rate_units"], first["currency"], first["minimum"], first["maximum"]) == (
        90_000_000,
        "USD",
        50,
        10_000,
    )
    assert await scene.history("1") == [(90_000_000, None)]
    health = await scene.health()
    assert (health["catalogue_at"], health["catalogue_rows"], health["catalogue_error"]) == (
        scene.clock.now(),
        10,
        None,
    )
    assert await scene.told() == []


async def test_an_unchanged_catalogue_is_seen_again_and_writes_no_history(scene: Scene) -> None:
    await scene.sync()
    scene.clock.advance(900)
    await scene.sync()
    assert (await scene.row("1"))["seen_at"] == scene.clock.now()
    assert len(await scene.history("1")) == 1
    assert await scene.told() == []


async def test_every_page_is_read_and_repeated_rows_are_one(scene: Scene) -> None:
    scene.hstock.rows = [service(number, stock=5) for number in range(1, 8)] + [service(3, stock=5)]
    scene.hstock.page_rows = 3
    scene.hstock.rows[6:6] = [service(7, stock=5)]
    assert await scene.sync("hstock") == "it has 9 rows by its own word and showed 8", "one may stand where another was"
    assert set(await scene.rows("hstock")) == {(str(number), "") for number in range(1, 8)}
    assert asked_pages(scene.hstock)[:3] == ["1", "2", "3"]


async def test_a_provider_that_ignores_the_page_is_not_asked_for_ever(scene: Scene) -> None:
    scene.hstock.instead["services"] = lambda _: {
        "payload": {"services": [service(1), service(2)], "page": 1, "total_pages": 10_000}
    }
    refused = "it has 10000 pages by its own word, and not all of them showed something new"
    assert await scene.sync("hstock") == refused
    assert scene.hstock.calls("services") == 1 + BARREN_PAGES
    assert len(await scene.rows("hstock")) == 2


async def test_a_catalogue_without_end_is_not_believed(scene: Scene) -> None:
    scene.hstock.instead["services"] = lambda form: {
        "payload": {"services": [service(int(form["page"]))], "total_pages": 10**9}
    }
    refused = await scene.sync("hstock")
    assert refused is not None
    assert f"more than {MAX_PAGES} pages" in refused
    assert scene.hstock.calls("services") == MAX_PAGES
    assert await scene.rows("hstock") == {}


# --- pages that nobody documented, and rows that never came ----------------------------------------------------------


PAGED = [
    ({"total": 6, "page": 1, "limit": 4, "total_pages": 2}, "services"),
    ({"total_pages": 2}, "services"),
    ({"pages": 2}, "services"),
    ({"last_page": "2"}, "data"),
    ({"total": 6}, "services"),
    ({"count": "6"}, "services"),
    ({"meta": {"total": 6, "per_page": 4, "last_page": 2}}, "data"),
    ({"total": 6, "limit": 500, "total_pages": 1}, "services"),
    ({"count": 4, "total_pages": 2}, "services"),
]


@pytest.mark.parametrize(("stated", "under"), PAGED)
async def test_a_panel_that_says_there_are_more_pages_is_asked_for_them(
    scene: Scene, stated: dict[str, Any], under: str
) -> None:
    pages = {None: scene.panel.rows[:4], "2": scene.panel.rows[4:6]}
    scene.panel.instead["services"] = lambda form: {"payload": {under: pages[form.get("page")], **stated}}
    assert await scene.sync() is None
    assert asked_pages(scene.panel) == [None, "2"]
    assert set(await scene.rows()) == {(str(number), "") for number in range(1, 7)}


@pytest.mark.parametrize("total", [0, "lots", None, 3, -1, True])
async def test_a_total_that_means_nothing_changes_nothing(scene: Scene, total: object) -> None:
    await scene.sync()
    scene.panel.instead["services"] = lambda _: {"payload": {"services": scene.panel.rows, "total": total}}
    del scene.panel.rows[0]
    for _ in range(GONE_AFTER):
        assert await scene.sync() is None
    assert set(asked_pages(scene.panel)) == {None}
    assert (await scene.row("1"))["missing"] == GONE_AFTER


async def test_a_page_that_comes_twice_does_not_end_the_catalogue(scene: Scene) -> None:
    first, rest = [service(number) for number in range(1, 4)], [service(number) for number in range(4, 7)]
    pages = {"1": first, "2": first, "3": rest}
    scene.hstock.instead["services"] = lambda form: {
        "payload": {"services": pages[form["page"]], "total": 6, "page": 1, "limit": 3, "total_pages": 3}
    }
    assert await scene.sync("hstock") is None
    assert len(await scene.rows("hstock")) == 6


PARTIAL: list[Callable[[list[dict[str, Any]]], dict[str, Any]]] = [
    lambda rows: {"services": rows, "total": 10},
    lambda rows: {"services": rows, "total_pages": 3},
    lambda rows: {"services": rows + [{"service": None, "name": "x"}] * 4},
    lambda rows: {"services": [*rows, None, "text", {"name": "no id"}, {"service": 0}]},
]


@pytest.mark.parametrize("part", PARTIAL)
async def test_what_an_incomplete_catalogue_lacks_is_not_missed_and_what_it_has_is_taken_over(
    scene: Scene, part: Callable[[list[dict[str, Any]]], dict[str, Any]]
) -> None:
    await scene.sync()
    scene.panel.rows[9]["rate"] = "1.20"
    answer = part(scene.panel.rows[-4:])
    scene.panel.fails("services", payload=answer)
    for _ in range(GONE_AFTER + BELIEVED_AFTER):
        scene.clock.advance(900)
        assert await scene.sync() is not None
    rows = await scene.rows()
    assert {row["missing"] for row in rows.values()} == {0}
    assert (rows["10", ""]["rate_units"], len(rows)) == (120_000_000, 10)
    health = await scene.health()
    assert (health["catalogue_at"], health["services_shrunk"]) == (scene.clock.now(), 0)
    assert (health["next_catalogue_at"] - scene.clock.now()).total_seconds() == 900
    assert not any(name.startswith("catalogue.") for name, _ in await scene.told())


async def test_how_many_rows_could_not_be_read_is_told_as_long_as_it_is_so(scene: Scene) -> None:
    sound = list(scene.panel.rows)
    scene.panel.rows = sound[:6] + [{"service": None, "name": "x" * 1000}] * 4
    assert await scene.sync() == "4 of its 10 rows could not be read, so none counts as removed"
    assert (await scene.health())["catalogue_error"] == "4 of its 10 rows could not be read, so none counts as removed"
    scene.panel.rows = sound
    assert await scene.sync() is None
    assert (await scene.health())["catalogue_error"] is None


async def test_numbers_that_cannot_be_read_are_not_missed(scene: Scene) -> None:
    scene.hstock.projects = [project("p1", "us"), project("p2", "de"), project("p2", "fr")]
    await scene.sync("hstock")
    scene.hstock.projects[1] |= {"project_id": None}
    for _ in range(GONE_AFTER):
        assert await scene.sync("hstock") == "numbers: 1 of its 3 rows could not be read, so none counts as removed"
    assert (await scene.row("p2", "de", "hstock"))["missing"] == 0


async def test_a_page_that_was_guessed_at_and_fails_leaves_an_incomplete_catalogue(scene: Scene) -> None:
    scene.panel.instead["services"] = lambda form: {
        "payload": {"error": "Incorrect request"} if "page" in form else {"services": scene.panel.rows, "total": 11}
    }
    refused = await scene.sync()
    assert refused is not None
    assert refused.startswith("page 2 of it cannot be had: ")
    assert len(await scene.rows()) == 10


async def test_a_page_that_was_guessed_at_and_is_empty_leaves_an_incomplete_catalogue(scene: Scene) -> None:
    scene.panel.instead["services"] = lambda form: {
        "payload": {"services": [] if "page" in form else scene.panel.rows, "total_pages": 3}
    }
    assert await scene.sync() == "page 2 of 3 is empty"
    assert len(await scene.rows()) == 10


# --- rows that contradict each other ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
async def test_of_two_prices_of_one_service_the_believed_one_stays_and_the_doubt_is_shown(
    scene: Scene, order: int
) -> None:
    scene.panel.rows[0]["rate"] = "4.00"
    await scene.sync()
    scene.panel.rows[:1] = [service(1, rate="4.00"), service(1, rate="50.00")][::order]
    scene.panel.rows.append(service(2, rate="30.00"))
    for _ in range(BELIEVED_AFTER + 1):
        assert await scene.sync() is None
    row = await scene.row("1")
    assert (row["rate_units"], row["problem"]) == (400_000_000, None)
    error = (await scene.health())["catalogue_error"]
    assert error == "service 1 is also stated as 'service 1' ('Default') at 50.00 USD, which is not believed"
    assert len(await scene.history("1")) == 1


async def test_of_two_prices_of_which_none_was_believed_the_dearer_is_doubted_and_may_be_released(scene: Scene) -> None:
    scene.panel.rows.append(service(1, rate="4.00"))
    assert await scene.sync() is None
    row = await scene.row("1")
    assert row["rate_units"] == 400_000_000
    both = "'service 1' ('Default') at 4.00 USD and 'service 1' ('Default') at 0.90 USD"
    assert row["problem"] == f"the catalogue states it several times: {both}"
    await scene.house.database.write(lambda c: release_rows(c, scene.house, "panel", "1", None))
    await scene.sync()
    row = await scene.row("1")
    assert (row["rate_units"], row["problem"]) == (400_000_000, None)


async def test_of_two_meanings_of_one_service_the_believed_one_stays(scene: Scene) -> None:
    await scene.sync()
    scene.panel.rows.insert(0, service(1, name="Telegram members", type="Package", rate="0.95"))
    await scene.sync()
    row = await scene.row("1")
    assert (row["name"], row["type"], row["problem"]) == ("service 1", "Default", None)


# --- what is not believed --------------------------------------------------------------------------------------------

BROKEN: list[dict[str, Any]] = [
    {"payload": {"error": "There was an error processing your request. Please try again later"}},
    {"payload": {"error": "Invalid API key"}},
    {"payload": []},
    {"payload": {"services": [], "total_pages": 1}},
    {"body": ""},
    {"body": "null"},
    {"body": '[{"service":1,"name":"Foll'},
    {"body": "<!DOCTYPE html><title>Just a moment...</title>"},
    {"status": 502, "body": "bad gateway"},
    {"status": 429},
    {"payload": [service(1), service(2), service(3), service(4)]},
    {"payload": [service(number) for number in range(101, 121)]},
    {"payload": [{"name": "no id"}] * 10},
]


@pytest.mark.parametrize("answer", BROKEN)
async def test_an_error_an_empty_answer_and_half_a_catalogue_disable_nothing(
    scene: Scene, answer: dict[str, Any]
) -> None:
    await scene.sync()
    before, at = await scene.rows(), scene.clock.now()
    for _ in range(GONE_AFTER + 1):
        scene.clock.advance(60)
        scene.panel.fails("services", **answer)
        assert await scene.sync() is not None
    assert await scene.rows() == before
    health = await scene.health()
    assert health["catalogue_error"]
    assert (health["catalogue_at"], health["catalogue_rows"]) == (at, 10)
    assert (await scene.offer("followers")).row is not None
    assert not any(name.startswith("catalogue.") for name, _ in await scene.told())


async def test_a_page_that_fails_makes_the_whole_catalogue_unknown(
    scene: Scene, mock: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.hstock.rows = [service(number) for number in range(1, 10)]
    scene.hstock.page_rows = 3
    await scene.sync("hstock")
    before = await scene.rows("hstock")
    sound = scene.hstock.answer
    bad_gateway = {"status": 502, "body": "bad gateway"}
    monkeypatch.setattr(scene.hstock, "answer", lambda form: bad_gateway if form.get("page") == "3" else sound(form))
    mock.clear()
    mock.serve(HSTOCK_URL, scene.hstock.answer)
    assert await scene.sync("hstock") is not None
    assert await scene.rows("hstock") == before


async def test_an_empty_page_in_the_middle_is_half_a_catalogue(scene: Scene) -> None:
    scene.hstock.rows = [service(number) for number in range(1, 10)]
    given = {"1": scene.hstock.rows[:6], "2": [], "3": scene.hstock.rows[6:]}
    scene.hstock.instead["services"] = lambda form: {"payload": {"services": given[form["page"]], "total_pages": 3}}
    assert await scene.sync("hstock") == "unreadable: page 2 of 3 of the catalogue is empty"
    assert await scene.rows("hstock") == {}


async def test_a_refused_catalogue_is_asked_for_again_soon(scene: Scene) -> None:
    await scene.sync()
    assert await scene.next_sync_in_s() == 900
    scene.panel.fails("services", payload=[])
    await scene.sync()
    assert await scene.next_sync_in_s() == RETRY_S


async def test_a_provider_of_which_nothing_is_known_yet_is_asked_again_at_once_and_then_ever_more_seldom(
    scene: Scene,
) -> None:
    scene.panel.fails("services", payload=[])
    pauses = []
    for _ in range(6):
        await scene.sync()
        pauses.append(await scene.next_sync_in_s())
    assert pauses == [FIRST_RETRY_S, 4, 8, 16, RETRY_S, RETRY_S]
    scene.panel.instead.clear()
    await scene.sync()
    assert await scene.next_sync_in_s() == 900


async def test_a_catalogue_that_lacks_what_we_sell_and_is_not_whole_is_asked_for_again_at_once(scene: Scene) -> None:
    scene.panel.instead["services"] = lambda _: {"payload": {"services": [service(2)], "total": 3}}
    for pause in (FIRST_RETRY_S, 2 * FIRST_RETRY_S):
        assert "showed 1" in (await scene.sync() or "")
        assert await scene.next_sync_in_s() == pause
    scene.panel.instead["services"] = lambda _: {"payload": {"services": [service(1)], "total": 3}}
    assert "showed 1" in (await scene.sync() or "")
    assert await scene.next_sync_in_s() == 900


async def test_numbers_of_ours_that_were_never_listed_are_asked_for_again_at_once_and_then_ever_more_seldom(
    scene: Scene,
) -> None:
    scene.hstock.fails("sms_projects", payload={"error": "There was an error processing your request"})
    pauses = []
    for _ in range(10):
        await scene.sync("hstock")
        pauses.append(await scene.next_sync_in_s("hstock"))
    assert pauses == [FIRST_RETRY_S, 4, 8, 16, 32, 64, 128, 256, 512, 600]
    scene.hstock.instead.clear()
    scene.hstock.projects = [project("p1", "us"), project("p2", "de")]
    assert await scene.sync("hstock") is None
    scene.hstock.fails("sms_projects", payload=[])
    await scene.sync("hstock")
    assert await scene.next_sync_in_s("hstock") == 600


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        ({"status": 502, "body": "bad gateway"}, True),
        ({"payload": {"error": "Invalid API key"}}, True),
        ({"payload": {"error": "There was an error processing your request"}}, False),
    ],
)
async def test_a_failure_that_speaks_of_the_provider_counts_against_it(
    scene: Scene, answer: dict[str, Any], counted: bool
) -> None:
    scene.panel.fails("services", **answer)
    await scene.sync()
    assert ((await scene.health())["failures"] > 0) is counted


# --- absurd rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        {"rate": "120481927710.83"},
        {"rate": "0"},
        {"rate": "-1"},
        {"rate": "-120481927710.83"},
        {"rate": "much"},
        {"rate": None},
        {"rate": "1e30"},
        {"rate": True},
        {"min": "many"},
        {"max": "some"},
        {"max": "999999999999999999999999"},
        {"min": 500, "max": 100},
    ],
)
async def test_an_absurd_row_is_quarantined_and_the_sync_goes_on(scene: Scene, odd: dict[str, Any]) -> None:
    scene.panel.rows[0] |= odd
    assert await scene.sync() is None
    assert len(await scene.rows()) == 10
    assert (await scene.row("1"))["problem"]
    assert (await scene.row("2"))["problem"] is None
    [(name, data)] = await scene.told()
    assert name == "catalogue.quarantined"
    assert (data["provider"], data["service"]) == ("panel", "1")
    assert data["reason"]


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "T" * 300},
        {"name": "n" * 10_000},
        {"name": "nul\x00 and half a pair \ud83d and 𝗥𝟯𝟬"},
        {"category": {"an": "object"}},
        {"desc": "d" * 100_000},
        {"service": "s" * 128},
        {"stock": -5},
        {"stock": "99999999999999999999"},
    ],
)
async def test_no_single_row_stops_the_others_whatever_is_in_it(scene: Scene, odd: dict[str, Any]) -> None:
    scene.hstock.rows = [service(number, stock=1) for number in range(1, 5)]
    scene.hstock.rows[3] |= odd
    assert await scene.sync("hstock") is None
    assert len(await scene.rows("hstock")) == 4


async def test_a_country_that_cannot_be_stored_is_quarantined_and_the_sync_goes_on(scene: Scene) -> None:
    scene.hstock.projects = [project("p1", "us"), project("p2", "x" * 40)]
    assert await scene.sync("hstock") is None
    assert (await scene.row("p2", "x" * 32, "hstock"))["problem"]
    assert (await scene.row("p1", "us", "hstock"))["problem"] is None


async def test_a_row_that_is_mended_comes_back_by_itself(scene: Scene) -> None:
    scene.panel.rows[0]["rate"] = "0"
    await scene.sync()
    assert (await scene.offer("followers")).row is not None
    scene.panel.rows[0]["rate"] = "0.90"
    await scene.sync()
    assert (await scene.row("1"))["problem"] is None


# --- changes ---------------------------------------------------------------------------------------------------------


async def test_a_price_change_is_history_and_is_told_for_our_offers_alone(scene: Scene) -> None:
    await scene.sync()
    scene.clock.advance(900)
    for row in scene.panel.rows[:2]:
        row["rate"] = "1.20"
    await scene.sync()
    assert await scene.history("1") == [(90_000_000, None), (120_000_000, None)]
    assert await scene.history("2") == [(90_000_000, None), (120_000_000, None)]
    assert await scene.told() == [
        (
            "catalogue.price_changed",
            {
                "provider": "panel",
                "service": "1",
                "country": "",
                "before": {"amount": "0.90", "currency": "USD"},
                "after": {"amount": "1.20", "currency": "USD"},
            },
        )
    ]


async def test_what_is_no_price_changes_the_row_without_history(scene: Scene) -> None:
    await scene.sync()
    scene.panel.rows[0] |= {"name": "another meaning", "max": 500}
    await scene.sync()
    row = await scene.row("1")
    assert (row["name"], row["maximum"]) == ("another meaning", 500)
    assert len(await scene.history("1")) == 1


async def test_stock_that_planned_orders_took_is_told_when_the_provider_is_sold_out(scene: Scene) -> None:
    scene.hstock.rows = [service(number, entityType="product", stock=5) for number in range(1, 4)]
    await scene.sync("hstock")
    assert await scene.house.database.write(lambda c: catalogue.reserve_stock(c, "hstock", "2", 5))
    assert not await scene.house.database.write(lambda c: catalogue.reserve_stock(c, "hstock", "2", 1))
    await scene.sync("hstock")
    assert (await scene.row("2", provider="hstock"))["stock"] == 5, "the provider has them still"
    assert await scene.house.database.write(lambda c: catalogue.reserve_stock(c, "hstock", "2", 5))
    for row in scene.hstock.rows:
        row["stock"] = 0
    for _ in range(2):
        scene.clock.advance(600)
        await scene.sync("hstock")
    assert await scene.told() == [("catalogue.out_of_stock", {"provider": "hstock", "service": "2", "country": ""})]
    assert [stock for _, stock in await scene.history("2", "hstock")] == [5, 0]
    assert (await scene.row("2", provider="hstock"))["stock_at"] == scene.clock.now(), "confirmed is as good as changed"


async def test_stock_is_history_and_its_end_is_told_once(scene: Scene) -> None:
    scene.hstock.rows = [service(number, entityType="product", stock=5) for number in range(1, 4)]
    await scene.sync("hstock")
    for stock in (4, 0, 0, 7, 0):
        for row in scene.hstock.rows:
            row["stock"] = stock
        await scene.sync("hstock")
    assert [stock for _, stock in await scene.history("2", "hstock")] == [5, 4, 0, 7, 0]
    about = {"provider": "hstock", "service": "2", "country": ""}
    assert await scene.told() == [("catalogue.out_of_stock", about)] * 2


async def test_a_row_is_removed_after_three_syncs_without_it_and_that_is_told_once(scene: Scene) -> None:
    await scene.sync()
    del scene.panel.rows[:2]
    for round_ in range(1, GONE_AFTER + 3):
        await scene.sync()
        view = await scene.offer("followers")
        assert view.row is not None
        assert (view.row.problem is None) is (round_ < GONE_AFTER), "until then it may still be bought"
    assert await scene.told() == [("catalogue.removed", {"provider": "panel", "service": "1", "country": ""})]


async def test_a_removed_row_that_comes_back_may_be_bought_again(scene: Scene) -> None:
    await scene.sync()
    first = scene.panel.rows.pop(0)
    for _ in range(GONE_AFTER):
        await scene.sync()
    scene.panel.rows.append(first)
    await scene.sync()
    view = await scene.offer("followers")
    assert view.row is not None
    assert view.row.problem is None


async def test_a_missing_row_that_comes_back_starts_to_be_missed_anew(scene: Scene) -> None:
    await scene.sync()
    first = scene.panel.rows.pop(0)
    for _ in range(3):
        for _ in range(GONE_AFTER - 1):
            await scene.sync()
        scene.panel.rows.append(first)
        await scene.sync()
        scene.panel.rows.remove(first)
    assert await scene.told() == []


async def test_a_provider_that_renews_its_catalogue_bit_by_bit_is_believed_for_ever(scene: Scene) -> None:
    scene.panel.rows = [service(number) for number in range(1, 5)]
    for start in range(2, 30):
        assert await scene.sync() is None
        for _ in range(GONE_AFTER):
            scene.panel.rows = [service(number) for number in range(start, start + 4)]
            assert await scene.sync() is None


# --- quarantine ------------------------------------------------------------------------------------------------------

NINE: dict[str, Any] = {"rate": "9.00"}
TOO_DEAR = "the price was 0.90 USD and is 9.00 USD now, more than 5 times as much"


def shown(rate: str = "0.90", name: str = "service 1") -> dict[str, Any]:
    return {"name": name, "kind": "smm", "type": "Default", "rate": {"amount": rate, "currency": "USD"}}


async def doubted(scene: Scene, **values: Any) -> None:
    """A sync that shows our offer, and one that nobody sells, with these values."""
    for row in scene.panel.rows[:2]:
        row |= values
    scene.clock.advance(900)
    assert await scene.sync() is None


async def test_an_absurd_price_is_quarantined_told_once_and_not_forgotten(scene: Scene) -> None:
    await scene.sync()
    for _ in range(3):
        await doubted(scene, **NINE, max=7000)
    row = await scene.row("1")
    assert (row["problem"], row["doubts"], row["accepted"]) == (TOO_DEAR, 3, shown())
    assert (row["rate_units"], row["maximum"]) == (900_000_000, 7000)
    about = {"provider": "panel", "service": "1", "country": ""}
    told = {**about, "reason": TOO_DEAR, "before": shown(), "after": shown("9.00")}
    assert await scene.told() == [("catalogue.quarantined", told)]
    view = await scene.offer("followers")
    assert view.row is not None
    assert view.row.problem == TOO_DEAR
    assert (await scene.row("2"))["problem"] == TOO_DEAR
    assert await scene.history("1") == [(90_000_000, None), (900_000_000, None)]


async def test_values_that_return_end_the_quarantine_with_what_charges_had_taught(scene: Scene) -> None:
    await scene.sync()
    lesson = Lesson(1000, 95_000_000)
    row_id = (await scene.row("1"))["id"]
    await scene.house.database.write(lambda c: catalogue.set_charges(c, row_id, [Sample(1, 95, 1, 90)], lesson))
    await doubted(scene, **NINE)
    await doubted(scene, rate="0.90")
    row = await scene.row("1")
    assert (row["problem"], row["accepted"], row["doubts"]) == (None, None, 0)
    assert (row["charged_rate_units"], len(row["charges"])) == (95_000_000, 1)
    assert [name for name, _ in await scene.told()] == ["catalogue.quarantined"]


async def test_new_values_seen_in_ten_syncs_are_believed_and_the_change_is_told(scene: Scene) -> None:
    await scene.sync()
    await scene.house.database.write(lambda c: catalogue.set_charges(c, 1, [], Lesson(1000, 95_000_000)))
    for _ in range(BELIEVED_AFTER - 1):
        await doubted(scene, **NINE)
        assert (await scene.row("1"))["problem"]
    await doubted(scene, **NINE)
    row = await scene.row("1")
    assert (row["problem"], row["accepted"], row["doubts"], row["charged_rate_units"]) == (None, None, 0, None)
    names = [name for name, _ in await scene.told()]
    assert names == ["catalogue.quarantined", "catalogue.price_changed"]
    assert (await scene.told())[1][1]["before"] == {"amount": "0.90", "currency": "USD"}
    await doubted(scene, rate="0.90")
    assert (await scene.row("1"))["problem"], "now the old price is the odd one"


async def test_a_sync_that_was_not_complete_counts_for_nothing(scene: Scene) -> None:
    await scene.sync()
    await doubted(scene, **NINE)
    answers: list[dict[str, Any]] = [{"payload": []}, {"status": 502}, {"payload": [service(1, **NINE)]}]
    for answer in answers:
        scene.panel.fails("services", **answer)
        assert await scene.sync() is not None
    assert (await scene.row("1"))["doubts"] == 1


async def test_a_rename_under_the_same_id_is_quarantined_and_an_edit_is_not(scene: Scene) -> None:
    scene.panel.rows[0]["name"] = "Instagram Followers [R30]"
    await scene.sync()
    scene.panel.rows[0]["name"] = "𝗜𝗻𝘀𝘁𝗮𝗴𝗿𝗮𝗺 Followers ⚡ Refill 60 Days"
    await scene.sync()
    assert (await scene.row("1"))["problem"] is None
    scene.panel.rows[0]["name"] = "Instagram Likes [R30]"
    await scene.sync()
    row = await scene.row("1")
    assert "which may be another thing" in row["problem"]
    assert row["accepted"]["name"] == "𝗜𝗻𝘀𝘁𝗮𝗴𝗿𝗮𝗺 Followers ⚡ Refill 60 Days"


async def test_what_the_operator_releases_is_believed_at_once(scene: Scene) -> None:
    await scene.sync()
    await doubted(scene, **NINE)
    write = scene.house.database.write
    ids = await write(lambda c: release_rows(c, scene.house, "panel", "1", None))
    assert ids == [(await scene.row("1"))["id"]]
    assert [name for name, _ in await scene.told()] == ["catalogue.quarantined", "catalogue.price_changed"]
    await scene.sync()
    assert (await scene.row("1"))["problem"] is None
    assert (await scene.row("2"))["problem"] == TOO_DEAR, "the other one was not released"


async def test_a_price_of_nothing_is_believed_when_the_operator_says_so(scene: Scene) -> None:
    scene.panel.rows[0]["rate"] = "0"
    await scene.sync()
    assert (await scene.row("1"))["problem"] == "the rate '0' is not above 0"
    await scene.house.database.write(lambda c: release_rows(c, scene.house, "panel", "1", None))
    for _ in range(2):
        await scene.sync()
        assert (await scene.row("1"))["problem"] is None


@pytest.mark.parametrize("odd", [{"rate": "much"}, {"min": 500, "max": 100}])
async def test_what_nobody_could_buy_is_not_released(scene: Scene, odd: dict[str, Any]) -> None:
    scene.panel.rows[0] |= odd
    await scene.sync()
    with pytest.raises(Problem, match="nobody could buy it"):
        await scene.house.database.write(lambda c: release_rows(c, scene.house, "panel", "1", None))
    with pytest.raises(Problem, match="not in quarantine"):
        await scene.house.database.write(lambda c: release_rows(c, scene.house, "panel", "2", None))
    with pytest.raises(Problem, match="no such service"):
        await scene.house.database.write(lambda c: release_rows(c, scene.house, "panel", "999", None))


async def test_a_project_is_released_for_one_country_or_for_all(scene: Scene) -> None:
    scene.hstock.projects = [project("p2", country) for country in ("us", "de", "fr")]
    await scene.sync("hstock")
    for row in scene.hstock.projects:
        row["price"] = "50"
    await scene.sync("hstock")
    write = scene.house.database.write
    assert len(await write(lambda c: release_rows(c, scene.house, "hstock", "p2", "DE"))) == 1
    assert (await scene.row("p2", "de", "hstock"))["problem"] is None
    assert len(await write(lambda c: release_rows(c, scene.house, "hstock", "p2", None))) == 2


# --- a catalogue that really shrank ----------------------------------------------------------------------------------


async def test_a_shrunken_catalogue_is_believed_when_ten_syncs_in_a_row_have_shown_it(scene: Scene) -> None:
    await scene.sync()
    scene.panel.rows = scene.panel.rows[6:]
    for seen in range(1, BELIEVED_AFTER):
        refused = await scene.sync()
        assert refused is not None
        assert f"only 4 of 10 known services are left in the catalogue ({seen} of the 10 syncs in a row" in refused
        assert '{"catalogue": true}' in refused
        if seen == 5:
            scene.panel.fails("services", status=502)
            assert await scene.sync() is not None
            scene.panel.instead.clear()
    for _ in range(GONE_AFTER):
        view = await scene.offer("followers")
        assert view.row is not None
        assert view.row.problem is None
        assert await scene.sync() is None
    assert [name for name, _ in await scene.told() if name.startswith("catalogue.")] == ["catalogue.removed"]
    assert (await scene.health())["catalogue_rows"] == 4
    assert await scene.sync() is None
    assert (await scene.health())["services_shrunk"] == 0


async def test_a_whole_catalogue_in_between_begins_the_count_anew(scene: Scene) -> None:
    await scene.sync()
    whole, part = scene.panel.rows, scene.panel.rows[6:]
    for rows in ([part] * 8, [whole], [part] * (BELIEVED_AFTER - 1)):
        for scene.panel.rows in rows:
            await scene.sync()
    assert (await scene.health())["services_shrunk"] == BELIEVED_AFTER - 1
    assert {row["missing"] for row in (await scene.rows()).values()} == {0}


async def test_the_operator_may_say_that_a_catalogue_really_shrank(scene: Scene) -> None:
    await scene.sync()
    write = scene.house.database.write
    with pytest.raises(Problem, match="not in doubt"):
        await write(lambda c: release_catalogue(c, scene.house, "panel"))
    scene.panel.rows = scene.panel.rows[6:]
    await scene.sync()
    await write(lambda c: release_catalogue(c, scene.house, "panel"))
    assert (await scene.health())["next_catalogue_at"] == scene.clock.now()
    for _ in range(GONE_AFTER + 1):
        assert await scene.sync() is None
    assert (await scene.health())["catalogue_rows"] == 4


async def test_a_catalogue_that_stays_small_is_not_asked_for_every_half_minute(scene: Scene) -> None:
    await scene.sync()
    scene.panel.rows = scene.panel.rows[6:]
    waits = []
    for _ in range(3):
        await scene.sync()
        waits.append(((await scene.health())["next_catalogue_at"] - scene.clock.now()).total_seconds())
    assert waits == [RETRY_S, 900, 900]


async def test_an_empty_catalogue_is_not_believed_however_often_it_is_seen(scene: Scene) -> None:
    await scene.sync()
    scene.panel.rows = []
    for _ in range(BELIEVED_AFTER + GONE_AFTER):
        assert await scene.sync() == "the catalogue is empty"
    assert len(await scene.rows()) == 10
    with pytest.raises(Problem, match="not in doubt"):
        await scene.house.database.write(lambda c: release_catalogue(c, scene.house, "panel"))


async def test_numbers_shrink_by_themselves(scene: Scene) -> None:
    scene.hstock.projects = [project("p1", country) for country in ("us", "de", "fr", "es", "pl")]
    await scene.sync("hstock")
    scene.hstock.projects = scene.hstock.projects[:2]
    refused = await scene.sync("hstock")
    assert refused is not None
    assert refused.startswith(
        "numbers: only 2 of 5 known services are left in the catalogue (1 of the 10 syncs in a row"
    )
    await scene.house.database.write(lambda c: release_catalogue(c, scene.house, "hstock"))
    for _ in range(GONE_AFTER + 1):
        assert await scene.sync("hstock") is None
    assert (await scene.health("hstock"))["numbers_shrunk"] == 0


# --- numbers ---------------------------------------------------------------------------------------------------------


async def test_projects_are_merged_into_the_catalogue_a_row_for_each_country(scene: Scene) -> None:
    scene.hstock.projects = [
        project("p1", "us"),
        project("p1", "de", "0.40"),
        project("p1", "us", "0.70"),
        project("p2", "us", "0"),
    ]
    assert await scene.sync("hstock") is None
    stored = await scene.rows("hstock")
    assert {key for key, row in stored.items() if row["kind"] == "sms"} == {("p1", "us"), ("p1", "de"), ("p2", "us")}
    assert stored["p1", "us"]["rate_units"] == 70_000_000, "of two prices the dearer one"
    assert stored["p2", "us"]["problem"]


async def test_an_account_that_only_rents_numbers_has_a_catalogue(scene: Scene) -> None:
    scene.hstock.rows = []
    scene.hstock.projects = [project("p1", "us")]
    assert await scene.sync("hstock") is None
    assert (await scene.health("hstock"))["catalogue_at"] == scene.clock.now()


@pytest.mark.parametrize(
    "answer",
    [
        {"payload": []},
        {"payload": {"error": "There was an error processing your request"}},
        {"status": 502, "body": "bad gateway"},
        {"body": "null"},
        {"payload": {"error": "Invalid action"}},
    ],
)
async def test_numbers_that_cannot_be_listed_stay_and_do_not_hold_up_the_services(
    scene: Scene, answer: dict[str, Any]
) -> None:
    scene.hstock.projects = [project("p1", "us"), project("p2", "de")]
    await scene.sync("hstock")
    scene.hstock.fails("sms_projects", **answer)
    scene.hstock.rows[1]["rate"] = "1.20"
    for _ in range(GONE_AFTER + 1):
        scene.clock.advance(600)
        assert (await scene.sync("hstock") or "").startswith("numbers: ")
    assert (await scene.row("2", provider="hstock"))["rate_units"] == 120_000_000
    view = await scene.offer("code-us")
    assert view.row is not None
    assert view.row.problem is None
    health = await scene.health("hstock")
    assert health["catalogue_at"] == scene.clock.now()
    assert await scene.next_sync_in_s("hstock") == 600


async def test_services_that_cannot_be_listed_leave_the_numbers_as_they_were(scene: Scene) -> None:
    scene.hstock.projects = [project("p1", "us")]
    await scene.sync("hstock")
    before = await scene.rows("hstock")
    scene.hstock.fails("services", payload=[])
    for _ in range(GONE_AFTER):
        assert await scene.sync("hstock") is not None
    after = await scene.rows("hstock")
    assert {key: row["missing"] for key, row in after.items()} == {key: row["missing"] for key, row in before.items()}


async def test_a_provider_that_knows_no_numbers_is_synced_all_the_same(scene: Scene) -> None:
    scene.hstock.fails("sms_projects", payload={"error": "Invalid action"})
    assert await scene.sync("hstock") is None


async def test_only_the_countries_that_an_offer_sells_are_told_of(scene: Scene) -> None:
    scene.hstock.projects = [project("p1", "us"), project("p1", "de"), project("p2", "fr")]
    await scene.sync("hstock")
    for row in scene.hstock.projects:
        row["price"] = "0.80"
    await scene.sync("hstock")
    changed = [(data["service"], data["country"]) for name, data in await scene.told()]
    assert changed == [("p1", "us"), ("p2", "fr")]


async def test_a_service_and_a_project_of_the_same_id_are_two_things(scene: Scene) -> None:
    scene.hstock.rows = [service(2, entityType="product", stock=9)]
    scene.hstock.projects = [project("2", "us"), project("p1", "us")]
    await scene.sync("hstock")
    view = await scene.offer("gmail")
    assert view.row is not None
    assert view.row.kind == "product"
    scene.hstock.projects.append(project("2", ""))
    assert await scene.sync("hstock") is None
    assert (await scene.row("2", "", "hstock"))["kind"] == "product"


async def test_without_a_country_the_dearest_that_can_be_bought_is_reckoned_with(scene: Scene) -> None:
    scene.hstock.projects = [project("p2", "us", "0.40"), project("p2", "de", "0.60"), project("p2", "fr", "0.90")]
    await scene.sync("hstock")
    dearest = await scene.offer("code-any")
    assert dearest.row is not None
    assert (dearest.row.country, dearest.country) == ("fr", "")
    del scene.hstock.projects[2]
    for _ in range(GONE_AFTER):
        await scene.sync("hstock")
    left = await scene.offer("code-any")
    assert left.row is not None
    assert (left.row.country, left.row.problem) == ("de", None), "a country that is gone must not block the others"


async def test_the_country_of_the_order_chooses_the_row(scene: Scene) -> None:
    scene.hstock.projects = [project("p1", "us"), project("p2", "us", "0.40"), project("p2", "de", "0.60")]
    await scene.sync("hstock")
    chosen = await scene.offer("code-any", {"country": "US"})
    assert chosen.row is not None
    assert (chosen.row.country, chosen.country) == ("us", "US")
    assert (await scene.offer("code-any", {"country": "fr"})).row is None
    assert (await scene.offer("code-us", {"country": "de"})).row is None
    fixed = await scene.offer("code-us", {"country": "us"})
    assert fixed.row is not None


# --- the stage -------------------------------------------------------------------------------------------------------


async def test_what_is_due_is_begun_once_and_then_waits_its_interval(scene: Scene) -> None:
    assert await scene.tick() == 4, "a catalogue and a balance for each of two enabled providers"
    assert sorted(scene.synced) == ["hstock", "panel"]
    assert await scene.tick() == 0
    scene.clock.advance(300)
    assert await scene.tick() == 2
    scene.clock.advance(300)
    assert await scene.tick() == 3
    assert scene.panel.calls("services") == 1
    assert scene.hstock.calls("services") == 2


async def test_what_is_running_is_not_begun_a_second_time(scene: Scene) -> None:
    assert await scene.stage.run_once() == 4
    assert await scene.stage.run_once() == 0
    await scene.stage.idle()
    assert scene.panel.calls("services") == 1


@pytest.mark.parametrize("answer", BROKEN)
async def test_who_waits_for_the_first_sync_hears_of_it_whatever_came_of_it(
    scene: Scene, answer: dict[str, Any]
) -> None:
    scene.panel.fails("services", **answer)
    await scene.tick()
    assert scene.synced.count("panel") == 1


async def test_who_waits_for_the_first_sync_hears_of_a_crash_and_of_a_lost_answer(scene: Scene) -> None:
    scene.panel.raises("services", TimeoutError())
    scene.hstock.raises("services", RuntimeError("a defect"))
    await scene.tick()
    assert sorted(scene.synced) == ["hstock", "panel"]


async def test_a_sync_that_cannot_be_recorded_is_not_repeated_at_every_tick(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_work: Callable[[Connection], Any]) -> Any:
        raise StorageUnavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(scene.house.database, "write", full)
        for _ in range(5):
            await scene.tick()
            scene.clock.advance(1)
    assert scene.panel.calls("services") == 1
    assert scene.synced.count("panel") == 1
    scene.clock.advance(RETRY_S)
    await scene.tick()
    assert len(await scene.rows()) == 10


async def test_two_syncs_of_one_provider_at_once_both_end_well(scene: Scene) -> None:
    """The operator's own call may meet the scheduled one."""
    assert await asyncio.gather(*(scene.sync() for _ in range(4))) == [None] * 4
    assert len(await scene.rows()) == 10
    assert len(await scene.history("1")) == 1


async def test_a_sync_that_is_asked_for_does_not_wait_for_ever_for_a_turn(scene: Scene) -> None:
    gateway = scene.house.gateways["panel"]
    async with AsyncExitStack() as busy:
        for _ in range(gateway.settings.max_concurrency):
            await busy.enter_async_context(gateway.turn(Priority.PURCHASE))
        late = await scene.stage.sync(gateway, wait_s=0.05)
        assert late == "other calls left no turn for it in 0 s; it is synced as soon as there is one"
        assert gateway.waiting == 0
        scheduled = asyncio.create_task(scene.stage.sync(gateway, wait_s=None))
        await asyncio.sleep(0)
        assert await scene.stage.sync(gateway, wait_s=0.05) == "another sync of this provider is still running"
    assert await scheduled is None
    assert scene.panel.calls("services") == 1


async def test_a_sync_that_could_not_be_made_is_due(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.sync()
    monkeypatch.setattr(Limiter, "quiet_s", 3600.0)
    late = await scene.sync()
    assert late == "the provider wants no call for 3600 s; it is synced after that"
    health = await scene.health()
    assert (health["next_catalogue_at"], health["catalogue_error"]) == (scene.clock.now(), None)
    assert scene.panel.calls("services") == 1


async def test_stopping_cuts_what_runs_and_keeps_what_was_there(scene: Scene) -> None:
    await scene.sync()
    before = await scene.rows()
    scene.clock.advance(900)
    await scene.stage.run_once()
    await scene.stage.stop(30)
    await scene.stage.idle()
    assert (await scene.rows()).keys() == before.keys()


# --- balances --------------------------------------------------------------------------------------------------------


async def readings(scene: Scene, provider: str = "panel") -> list[Money]:
    def read(connection: Connection) -> list[Money]:
        rows = ledger.page(connection, provider, before=None, limit=100)
        return [Money(row["units"], row["currency"]) for row in reversed(rows) if row["kind"] == "reading"]

    return await scene.house.database.read(read)


async def test_a_balance_is_kept_and_entered_in_the_ledger(scene: Scene) -> None:
    await scene.tick()
    health = await scene.health()
    assert (health["balance_units"], health["balance_currency"]) == (10_084_292_000, "USD")
    assert health["balance_at"] == scene.clock.now()
    assert await readings(scene) == [Money.parse("100.84292", "USD")]


async def test_a_low_balance_is_told_once_until_it_has_been_filled_up(scene: Scene) -> None:
    for balance in ("10.00", "9.99", "5", "10", "0"):
        scene.panel.balance = balance
        await scene.tick()
        scene.clock.advance(300)
    low = [data for name, data in await scene.told() if name == "provider.balance_low"]
    assert low == [
        {"provider": "panel", "balance": {"amount": "9.99", "currency": "USD"}},
        {"provider": "panel", "balance": {"amount": "0.00", "currency": "USD"}},
    ]


@pytest.mark.parametrize(
    "answer",
    [
        {"payload": {"error": "Invalid API key"}},
        {"status": 502},
        {"payload": {"balance": "lots"}},
        {"payload": {"balance": "5", "currency": "TOOLONGTOO"}},
        {"payload": {"balance": "5", "currency": "$"}},
        {"body": ""},
    ],
)
async def test_a_balance_that_cannot_be_read_overwrites_nothing_and_is_asked_for_soon(
    scene: Scene, answer: dict[str, Any]
) -> None:
    await scene.tick()
    scene.clock.advance(300)
    scene.panel.fails("balance", **answer)
    await scene.tick()
    health = await scene.health()
    assert health["balance_units"] == 10_084_292_000
    assert (health["next_balance_at"] - scene.clock.now()).total_seconds() == RETRY_S
    assert len(await readings(scene)) == 1
    assert not any(name == "provider.balance_low" for name, _ in await scene.told())


async def test_a_negative_balance_is_low_and_pays_for_nothing(scene: Scene) -> None:
    scene.panel.balance = "-3.50"
    await scene.tick()
    view = await scene.offer("followers")
    assert view.provider.balance == Money.parse("-3.50", "USD")
    assert ("provider.balance_low", {"provider": "panel", "balance": {"amount": "-3.50", "currency": "USD"}}) in (
        await scene.told()
    )
