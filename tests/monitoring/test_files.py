"""The alert rules and the dashboard ask for what the daemon really says; promtool runs the rules' own tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.monitoring.conftest import Watched
from tests.support.metrics import Scrape
from tests.support.promql import asked
from tests.support.promtool import MONITORING, promtool

OF_PROMETHEUS: Final = frozenset({"up", "ALERTS"})
"""What Prometheus itself makes."""
OF_THE_SCRAPE: Final = frozenset({"job", "instance", "alertname", "alertstate", "severity"})
ROWS: Final = ["Money and unclear purchases", "Orders", "Providers", "Deliveries", "The daemon itself"]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where each PromQL expression stands, and the expression."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    board = dashboard()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            yield variable["name"], f"sum by ({found[2]}) ({found[1]})"


def test_the_reader_of_promql_finds_every_name_and_label() -> None:
    found = asked(
        'histogram_quantile(0.9, sum by (le, a) (rate(x_bucket{b=~"c|{d}",e="f"}[5m])))'
        " / on (g) group_left (h) y offset 5m > 1e9 and z{} == bool 1 unless absent(w)"
    )
    assert [one.name for one in found] == ["x_bucket", "y", "z", "w"]
    assert found[0].equal == {"e": "f"}
    assert found[0].labels == {"le", "a", "b", "e", "g", "h"}
    with pytest.raises(ValueError, match="cannot read"):
        asked("sum(x) § 1")


async def test_alerts_and_panels_ask_for_what_a_real_answer_says(watched: Watched) -> None:
    seen = await watched.seen()
    wrong = [(where, what) for where, expression in expressions() for what in missing(seen, expression)]
    assert wrong == []
    assert list(missing(seen, 'sum(aggregator_order) + aggregator_orders{stat="x"} + aggregator_orders{state="gone"}'))


def missing(seen: Scrape, expression: str) -> Iterator[str]:
    """What an expression asks for that nobody says: a name, a label, a value."""
    metrics = [one for one in asked(expression) if one.name not in OF_PROMETHEUS]
    labels: set[str] = set()
    for one in metrics:
        series = [sample.labels for sample in seen.samples if sample.name == one.name]
        if not series:
            yield one.name
        labels |= {label for sample in series for label in sample}
        for label, value in one.equal.items():
            if label not in OF_THE_SCRAPE and not any(sample.get(label) == value for sample in series):
                yield f'{one.name}{{{label}="{value}"}}'
    for label in {label for one in metrics for label in one.labels} - labels - OF_THE_SCRAPE:
        yield label


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    for rule in rules():
        name = rule["alert"]
        assert re.fullmatch(r"Aggregator[A-Z][A-Za-z]+", name)
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert re.fullmatch(r"\d+[mh]", rule["for"]), name
        assert set(rule["annotations"]) == {"summary", "description"}, name
        assert len(rule["annotations"]["description"]) > 100, name
        assert rule["annotations"]["description"].endswith("."), name
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_what_a_text_names_is_a_label_that_its_alert_has() -> None:
    """A misspelt one would be empty in the middle of the night."""
    for rule in rules():
        text = " ".join(rule["annotations"].values())
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
        kept = {label.strip() for group in grouped for label in group.split(",")}
        for label in re.findall(r"\$labels\.(\w+)", text):
            aggregated = re.search(r"\bsum\b", rule["expr"]) is not None
            assert not aggregated or label in kept, (rule["alert"], label)


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = dashboard()
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == ROWS
    assert "id" not in board, "a number of somebody else's Grafana"
    (source,) = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies upon another"
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"] == wanted, panel["title"]
            assert all(target["datasource"] == wanted for target in panel["targets"]), panel["title"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_promtool_takes_the_scrape_that_the_readme_shows(tmp_path: Path) -> None:
    readme = (MONITORING.parent / "README.md").read_text()
    (block,) = [one for one in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "scrape_configs" in one]
    config = tmp_path / "prometheus.yml"
    config.write_text(block)
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", str(config))


def test_promtool_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "alerts.yaml")


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    """As the rules of a file, because promtool reads no dashboards."""
    found = [one.replace("$provider", "smmplus") for _, one in expressions()]
    rules = [{"record": f"panel:{place}", "expr": one} for place, one in enumerate(found)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(found)} rules found" in promtool("check", "rules", str(file))


def test_promtool_sees_the_alerts_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml")
