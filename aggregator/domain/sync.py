"""What a fresh catalogue changes: new rows, changed rows, rows gone, and the brake on absurd changes.

Pure: two catalogues in, a plan out. A catalogue that lost more than half of its rows is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from aggregator.domain.catalogue import CatalogueRow

Key = tuple[str, str]
"""(service, country)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row that differs from what was stored. `priced`: rate or stock moved, so the history gets an entry."""

    before: CatalogueRow
    after: CatalogueRow
    priced: bool

    @property
    def price_changed(self) -> bool:
        return self.before.rate != self.after.rate

    @property
    def sold_out(self) -> bool:
        return self.after.stock == 0 and self.before.stock != 0


@dataclass(frozen=True, slots=True)
class Diff:
    """What to write; `refused` says why nothing of it is believed."""

    added: tuple[CatalogueRow, ...] = ()
    changed: tuple[Change, ...] = ()
    same: tuple[Key, ...] = ()
    missing: tuple[Key, ...] = ()
    refused: str | None = None


def distinct(rows: Iterable[CatalogueRow]) -> dict[Key, CatalogueRow]:
    """One row per service and country. Pages repeat rows; of two that differ the dearer one is believed."""
    found: dict[Key, CatalogueRow] = {}
    for row in rows:
        key = (row.service, row.country)
        known = found.get(key)
        found[key] = row if known is None else _dearer(known, row)
    return found


def _dearer(one: CatalogueRow, other: CatalogueRow) -> CatalogueRow:
    if one.rate is None or other.rate is None:
        return one if one.rate is not None else other
    return other if other.rate.units > one.rate.units else one


def compare(stored: Mapping[Key, CatalogueRow], fresh: Mapping[Key, CatalogueRow]) -> Diff:
    """How the stored catalogue becomes the fresh one; an empty or halved one changes nothing."""
    if not fresh:
        return Diff(refused="the catalogue is empty")
    kept = sum(key in fresh for key in stored)
    if stored and kept * 2 < len(stored):
        return Diff(refused=f"only {kept} of {len(stored)} known services are left in the catalogue")
    added, changed, same = [], [], []
    for key, row in fresh.items():
        before = stored.get(key)
        if before is None:
            added.append(row)
        elif _bare(before) == _bare(row):
            same.append(key)
        else:
            priced = before.rate != row.rate or before.stock != row.stock
            changed.append(Change(before, row, priced))
    missing = tuple(key for key in stored if key not in fresh)
    return Diff(tuple(added), tuple(changed), tuple(same), missing)


def _bare(row: CatalogueRow) -> CatalogueRow:
    return replace(row, raw="")
