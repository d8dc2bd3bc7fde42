"""An answer of `/metrics`, read by Prometheus' own client library."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families


def counted(name: str, **labels: str) -> float:
    """What this process has counted so far; 0 where nobody counted yet. Tests share the counters: look before, too."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Scrape:
    """What one answer says."""

    def __init__(self, text: str) -> None:
        self.families: Mapping[str, Metric] = {one.name: one for one in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}

    def value(self, name: str, **labels: str) -> float | None:
        """A sample's value; None where there is no such series."""
        found = [one.value for one in self.samples if one.name == name and dict(one.labels) == labels]
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series that have these labels."""
        return sum(one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items())

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {(one.name, tuple(sorted(one.labels.items()))) for one in self.samples}
