"""Every name of `/metrics` follows Prometheus' rules, and what callers and providers invent makes no series."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from aggregator.domain.money import Money
from aggregator.flow.words import MOST_LABELS, note_unknown_word
from aggregator.storage import catalogue
from tests.monitoring.conftest import Watched
from tests.support.metrics import Scrape
from tests.support.promtool import promtool
from tests.web.support import an_order

# fmt: off
LABELS: Final = frozenset({
    "method", "route", "status", "state", "provider", "currency", "queue", "endpoint", "standing", "cause", "loop",
    "part", "action", "result", "outcome", "evidence", "type", "word", "version", "le",
})
# fmt: on
"""What may tell series apart. A new one has to be bounded: think before you add it."""
UNITS: Final = ("_seconds", "_bytes", "_ratio")
NO_UNITS: Final = re.compile(r"_(ms|millis|milliseconds|minutes|hours|days|kb|mb|percent|age|count|sum)(_|$)")


def ours(seen: Scrape) -> list[Metric]:
    return [family for name, family in seen.families.items() if not name.startswith(("process_", "python_"))]


async def test_names_helps_and_labels_follow_the_rules(watched: Watched) -> None:
    for family in ours(await watched.seen()):
        name = family.name
        assert re.fullmatch(r"aggregator_[a-z]+(_[a-z]+)*", name), name
        assert NO_UNITS.search(name) is None, f"{name}: base units alone, and timestamps instead of ages"
        assert family.documentation.endswith("."), name
        samples = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert samples <= {f"{name}_total"}, name
        elif family.type == "histogram":
            assert name.endswith(UNITS), name
        else:
            assert not name.endswith("_total"), name
        if "timestamp" in name:
            assert name.endswith("_timestamp_seconds"), name
        assert {label for sample in family.samples for label in sample.labels} <= LABELS, name


async def test_every_metric_has_a_series_once_everything_has_happened(watched: Watched) -> None:
    """What no scene here can move is a metric that nobody has seen move."""
    assert [family.name for family in ours(await watched.seen()) if not family.samples] == []


async def test_both_forms_are_well_formed_and_say_the_same(watched: Watched) -> None:
    text = Scrape(await watched.scrape())
    strict = await watched.scrape("application/openmetrics-text; version=1.0.0")
    assert strict.endswith("# EOF\n")
    read: Any = text_string_to_metric_families
    families = {one.name.removesuffix("_info") for one in read(strict)}
    # The older form knows no metrics of the type info, and takes the sample's name for the family's.
    assert families == {name.removesuffix("_info") for name in text.families} > {"aggregator_orders"}
    assert not [sample.name for sample in text.samples if sample.name.endswith("_created")]


async def test_promtool_finds_nothing_to_say(watched: Watched) -> None:
    assert promtool("check", "metrics", said=await watched.scrape()) == ""


async def test_orders_addresses_and_odd_inputs_make_no_series(watched: Watched) -> None:
    """The second flood adds nothing to the first, although nothing in it has been there before."""
    others = _values(await watched.seen())  # the metrics of a process are those of all its tests
    await flood(watched, "a")
    before = (await watched.seen()).series()
    await flood(watched, "b")
    seen = await watched.seen()
    # The provider speaks of another currency now: that series took the place of the other.
    assert {name for name, _ in seen.series() - before} == {"aggregator_provider_balance"}
    assert len(seen.series()) == len(before)
    assert len(seen.series()) < 2_500
    said = _values(seen) - others
    assert said
    assert not [value for value in said if re.search(r"very-private|127\.|ord_|[?&]", value)]


def _values(seen: Scrape) -> set[str]:
    return {value for sample in seen.samples for value in sample.labels.values()}


async def flood(watched: Watched, name: str) -> None:
    doors, street = watched.doors, watched.street
    host = ord(name)
    wishes = [
        an_order(
            service="slow",
            link=f"https://example.com/very-private-{name}-{place}",
            reference=f"very-private-{name}-{place}",
            metadata={"very-private": name},
            callback_url=f"http://127.{host}.0.{place}:8009/very-private",
        )
        for place in range(1, 101)
    ]
    results = (await doors.post("/v1/orders:batch", {"orders": wishes})).json["results"]
    assert {result["status"] for result in results} == {201}, results[0]
    await watched.deliver()
    for path in (f"/very-private-{name}", f"/v1/orders/ord_{name}", f"/v1/orders?reference=very-private-{name}"):
        await doors.get(path)
    await doors.post("/v1/orders", an_order(service=f"very-private-{name}"), headers={"X-Request-Id": f"id-{name}"})
    await doors.get("/v1/orders", key=f"very-private-{name}")
    async with doors.client.request({"a": "PROPFIND", "b": "MKCOL"}[name], "/v1/orders") as refused:
        assert refused.status == 405
    (order, *_) = await street.orders()
    now = street.clock.now()

    def invent(connection: Any) -> None:
        for place in range(2 * MOST_LABELS):
            note_unknown_word(connection, "smmplus", order, f"word {name} {place}", now)
        told = Money.parse("1", name.upper() * 3)
        balance = {"balance_units": told.units, "balance_currency": told.currency}
        catalogue.set_health(connection, "hstock", now, **balance)

    await street.house.database.write(invent)


@pytest.mark.parametrize("probe", ["/livez", "/readyz"])
async def test_the_probes_say_that_all_is_well(watched: Watched, probe: str) -> None:
    assert (await watched.doors.get(probe, key=None)).status == 200
