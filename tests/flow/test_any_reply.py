"""Whatever a provider answers goes into both databases alike, and keeps nobody else's answer out.

The replies of one provider are made of plausible documents with absurd values in them; its neighbours in the same
batches and catalogues answer as they should, and must come to their end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, String, select, text
from structlog.testing import capture_logs

from aggregator.domain import sizes
from aggregator.domain.catalogue import service_type
from aggregator.domain.clock import ManualClock
from aggregator.domain.orders import Order
from aggregator.domain.wire import HttpReply, HttpRequest, Outcome
from aggregator.flow.base import House
from aggregator.flow.catalogue_sync import CatalogueSync
from aggregator.flow.intake import Intake, NewOrder
from aggregator.flow.placement import Placement
from aggregator.flow.polling import Polling
from aggregator.flow.readings import take_reading
from aggregator.flow.refilling import Refilling
from aggregator.flow.routing import Routing
from aggregator.flow.sequencing import Sequencing
from aggregator.flow.sms_watch import SmsWatch
from aggregator.outbound import Outbound
from aggregator.providers.contract import AddRequest, Placed, Unclear
from aggregator.providers.limits import Limiter, Priority
from aggregator.providers.reading import currency
from aggregator.storage import catalogue, invariants, tables
from aggregator.storage.database import Database, open_database
from tests.support import rows
from tests.support.examples import NOW
from tests.support.house import make_house

CONFIG: Final = {
    "keys": [],
    "providers": {
        name: {
            "dialect": dialect,
            "url": f"http://127.0.0.1:9/{name}",
            "api_key": f"key-of-{name}-0001",
            "requests_per_second": 0,
        }
        for name, dialect in (("panel", "panel_v2"), ("stock", "hstockplus"))
    },
    "services": {
        "likes": {"kind": "smm", "offers": [{"provider": "panel", "service": "7"}], "refill": {"auto": False}},
        "mail": {"kind": "product", "offers": [{"provider": "stock", "service": "7"}]},
        "codes": {"kind": "sms", "offers": [{"provider": "stock", "project": "abc", "country": "us"}]},
    },
}
GOOD_ROW: Final = {
    "service": 7, "name": "Good", "type": "Default", "category": "Good", "rate": "1.00", "min": 1, "max": 1000,
    "refill": True, "cancel": True, "stock": 500,
}  # fmt: skip
GOOD_PROJECT: Final = {"project_id": "abc", "name": "App", "price": "0.50", "country_id": "us", "country_title": "US"}
DONE: Final = {"charge": "0.27", "start_count": "10", "status": "Completed", "remains": "0", "currency": "USD"}
FAILURES: Final = {"stage_failed", "routing_failed", "placement_failed", "poll_recording_failed", "stage_cancelled"}

odd = st.one_of(
    st.text(max_size=12),
    st.sampled_from([7, 8, 9, 10, 32, 33, 64, 65, 100, 101, 128, 129, 255, 256, 5000]).map(lambda size: "x" * size),
    st.sampled_from([9, 33, 65, 101, 129]).map(lambda size: "ß" * size),
    st.sampled_from([-1, 0, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, -(2**63), "92233720368.54775807", "-1", "1e30"]),
    st.sampled_from(["9" * 19, "9" * 40, "99999999999.99", "0.000000001", "120481927710.83", "NaN", "\x00", "a\x00b"]),
    st.sampled_from(
        ["\ud800", "€URO", "POINTS", "BITCOINSX", "COINSOFGOLD", "9999-12-31T23:59:59-05:00", "0001-01-01"]
    ),
    st.sampled_from([None, True, [], {}, ["x" * 200], {"x": "y" * 200}, [[1]], 1.5]),
)


def document(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """The document with an absurd value in some of its fields."""
    return st.fixed_dictionaries({name: st.one_of(st.just(value), odd) for name, value in fields.items()})


REPLIES: Final = st.fixed_dictionaries(
    {
        "services": st.lists(
            document(
                service=1, name="A", type="Default", category="B", subcategory="C", description="D", rate="0.90",
                min=1, max=1000, refill=True, cancel=True, stock=5, entityType="smm", autoDelivery=True,
            ),
            max_size=3,
        ),
        "sms_projects": st.lists(
            document(project_id="p", name="A", price="0.50", country_id="us", country_title="B"), max_size=3
        ),
        "balance": document(balance="100.84", currency="USD"),
        "add": document(order=501),
        "status": document(
            charge="0.27", start_count="10", status="In progress", remains="5", currency="USD",
            accounts=["a:b"], orders=[1, 2], entityType="smm",
        ),
        "refill": document(refill=9),
        "refill_status": document(status="Completed"),
        "add_sms": st.lists(
            document(order=601, phone="+1234567890", country="us", status="active"), min_size=1, max_size=3
        ).map(lambda numbers: {"orders": numbers}),
        "sms_code": document(status="completed", code="123456", sms_content="Your code is 123456"),
        "sms_status": document(
            status="code_received", phone="+1", code="123456", charge="0.5", currency="USD",
            expires_at="2026-11-21T19:00:00Z",
        ),
        "inventory": document(service=7, stock=42, available=True),
    }
)  # fmt: skip


class _Provider(Outbound):
    """Both providers at once: absurd about what is asked in the victim's name, and right about the neighbour."""

    def __init__(self) -> None:
        self.replies: dict[str, Any] = {}

    async def close(self) -> None:
        """There is nothing to close."""

    async def read(self, request: HttpRequest, timeout_s: float) -> Outcome:
        return HttpReply(200, json.dumps(self._answer(dict(request.form))).encode())

    async def spend(self, request: HttpRequest, timeout_s: float) -> Outcome:
        return await self.read(request, timeout_s)

    def _answer(self, form: dict[str, str]) -> Any:
        action = form["action"]
        if action == "services":
            return [*self.replies["services"], GOOD_ROW]
        if action == "sms_projects":
            return [*self.replies["sms_projects"], GOOD_PROJECT]
        if action in ("status", "refill", "refill_status"):
            asked = form.get("orders", form.get("order", form.get("refills", form.get("refill", "")))).split(",")
            answers = {one: DONE if one.startswith("good") else self.replies[action] for one in asked}
            return answers if len(asked) > 1 else answers[asked[0]]
        return self.replies[action]


class _Place:
    """One house on one database, and its stages."""

    def __init__(self, url: str, clock: ManualClock, folder: Path) -> None:
        self.provider = _Provider()
        self.clock = clock
        self.database: Database = open_database(url)
        self._folder = folder

    def build(self) -> House:
        house = make_house(self.database, self.clock, self._folder, json.dumps(CONFIG), outbound=self.provider)
        self.routing, self.placement = Routing(house), Placement(house)
        self.sync, self.intake = CatalogueSync(house, synced=self.routing.sync_ended), Intake(house)
        self.stages = (
            self.routing, self.placement, Polling(house), Refilling(house), SmsWatch(house), Sequencing(house),
        )  # fmt: skip
        self.house = house
        return house

    async def live(self, replies: dict[str, Any]) -> dict[str, Any]:
        """A whole life under these replies; what is stored of it, without what is random."""
        self.provider.replies = replies
        house = self.build()
        await self.database.write(_emptied)
        await self.database.write(lambda c: catalogue.ensure_providers(c, ["panel", "stock"], self.clock.now()))
        for gateway in house.gateways.values():
            await self.sync._sync(gateway)
            await take_reading(house, gateway, Priority.STATUS)
            await house.health.answered(gateway.name)
        await self.intake.refresh()
        neighbours, victims = await self.database.write(self._bought)
        wishes = [
            NewOrder("shop", "likes", 5, "https://example.com/a"),
            NewOrder("shop", "mail", 1),
            NewOrder("shop", "codes", 1),
        ]
        await self.intake.take(wishes)
        for _ in range(4):
            for stage in self.stages:
                await stage.run_once()
                await stage.idle()
            for gateway in house.gateways.values():
                await house.health.answered(gateway.name, purchase=True)
            self.clock.advance(40)
        stored = await self.database.read(_shown)
        for order in neighbours:
            assert stored["states"][order.number] == "completed", "the neighbour's answer was kept out"
        assert stored["services"] >= {("panel", "7"), ("stock", "7"), ("stock", "abc")}, "a good row was kept out"
        assert not await self.database.read(invariants.check)
        assert victims
        return stored

    def _bought(self, connection: Connection) -> tuple[list[Order], list[Order]]:
        now = self.clock.now()

        def bought(provider: str, theirs: str, **fields: Any) -> Order:
            order = rows.accept(connection, created_at=now, **fields)
            return rows.buy(connection, order, provider=provider, provider_order=theirs, at=now)

        return (
            [bought("panel", "good1"), bought("panel", "good2"), bought("stock", "good3")],
            [bought("panel", "bad1"), bought("panel", "bad2"), bought("stock", "bad3")],
        )


def _emptied(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        names = ", ".join(table.name for table in tables.metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        return
    for table in reversed(tables.metadata.sorted_tables):
        connection.execute(table.delete())
    connection.execute(text("DELETE FROM sqlite_sequence"))


def _shown(connection: Connection) -> dict[str, Any]:
    """What both databases must hold alike."""
    o, a, s, n = tables.orders.c, tables.attempts.c, tables.provider_services.c, tables.numbers.c
    p, r, ledger = tables.providers.c, tables.refills.c, tables.ledger.c

    def found(*columns: Any, by: Any) -> list[tuple[Any, ...]]:
        # What is written at one moment comes in any order.
        return sorted((tuple(row) for row in connection.execute(select(*columns).order_by(by))), key=repr)

    return {
        "states": dict(found(o.number, o.state, by=o.number)),
        "services": {(provider, service) for provider, service in found(s.provider, s.service, by=s.id)},
        "orders": found(
            o.state, o.provider_order, o.charge_units, o.charge_currency, o.start_count, o.remains, o.error_type,
            o.error_detail, by=o.number,
        ),
        "attempts": found(a.state, a.outcome, a.detail, a.provider_order, by=a.order_number),
        "rows": found(
            s.service, s.country, s.name, s.type, s.category, s.rate_units, s.currency, s.minimum, s.maximum, s.stock,
            s.problem, by=s.id,
        ),
        "numbers": found(
            n.provider_order, n.phone, n.country, n.state, n.codes, n.charge_units, n.charge_currency, n.expires_at,
            by=n.id,
        ),
        "providers": found(
            p.balance_units, p.balance_currency, p.catalogue_rows, p.catalogue_error, p.difference_units, by=p.name
        ),
        "refills": found(r.state, r.provider_refill, r.outcome, r.detail, by=r.number),
        "ledger": found(ledger.kind, ledger.units, ledger.currency, ledger.note, by=ledger.id),
    }  # fmt: skip


@pytest.fixture
def both(
    sqlite_database_url: str, postgres_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Lives the same life on both databases, and holds one against the other."""
    monkeypatch.setattr(Limiter, "pause", lambda *_: None)

    async def live(replies: dict[str, Any]) -> None:
        shown = []
        for place in places:
            place.clock._now = NOW
            with capture_logs() as said:
                shown.append(await place.live(replies))
            failed = [line for line in said if line["event"] in FAILURES or line["log_level"] == "error"]
            assert not failed, failed
        assert shown[0] == shown[1]

    with asyncio.Runner() as runner:
        folders = [tmp_path / "a", tmp_path / "b"]
        for folder in folders:
            folder.mkdir()
        urls = (sqlite_database_url, postgres_database_url)
        places = [_Place(url, ManualClock(NOW), folder) for url, folder in zip(urls, folders, strict=True)]
        try:
            yield lambda replies: runner.run(live(replies))
        finally:
            for place in places:
                runner.run(place.database.close())


def test_whatever_a_provider_answers_both_databases_behave_alike(both: Callable[[dict[str, Any]], None]) -> None:
    # A life takes a second or so on two databases: what fails is shown as it is, and not made smaller for minutes.
    @settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=(Phase.reuse, Phase.generate))
    @given(REPLIES)
    def holds(replies: dict[str, Any]) -> None:
        both(replies)

    holds()


def test_a_currency_longer_than_its_column_is_none() -> None:
    """Both databases take the longest one; a longer one is no currency that anybody could settle in."""
    longest = "C" * sizes.MAX_CURRENCY
    assert currency(longest, "USD") == longest
    assert currency(longest + "C", "USD") is None


LIMITS: Final = {
    sizes.MAX_ID: (
        tables.provider_services.c.service, tables.orders.c.provider_order, tables.attempts.c.provider_order,
        tables.attempts.c.service, tables.numbers.c.provider_order, tables.refills.c.provider_refill,
    ),
    sizes.MAX_CURRENCY: (
        tables.providers.c.balance_currency, tables.provider_services.c.currency, tables.orders.c.charge_currency,
        tables.orders.c.expected_currency, tables.numbers.c.charge_currency, tables.ledger.c.currency,
    ),
    sizes.MAX_TYPE: (tables.provider_services.c.type,),
    sizes.MAX_COUNTRY: (tables.provider_services.c.country, tables.attempts.c.country, tables.numbers.c.country),
    sizes.MAX_PHONE: (tables.numbers.c.phone,),
}  # fmt: skip


def test_what_is_taken_from_a_provider_fits_its_column() -> None:
    for limit, columns in LIMITS.items():
        for column in columns:
            assert isinstance(column.type, String)
            assert column.type.length == limit, column


@pytest.mark.parametrize("length", [128, 129, 5000])
async def test_a_purchase_under_an_id_that_cannot_be_kept_is_unclear_in_words(
    database: Database, clock: ManualClock, tmp_path: Path, length: int
) -> None:
    place = _Place("sqlite:////nowhere", clock, tmp_path)
    place.database = database
    place.provider.replies = {"add": {"order": "7" * length}}
    gateway = place.build().gateways["panel"]
    kind = service_type("smm", None)
    assert kind is not None
    result, _ = await gateway.add(AddRequest("7", "smm", kind, 5, "https://example.com/a"))
    if length <= sizes.MAX_ID:
        assert result == Placed("7" * length)
        return
    assert isinstance(result, Unclear)
    assert result.reason == "id_too_long"
    assert f"an order id of {length} characters" in result.text
