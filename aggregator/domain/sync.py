"""What a fresh catalogue changes: new rows, changed rows, rows gone, and the brake on absurd changes.

Pure: two catalogues in, a plan out. A catalogue that lost more than half of its rows is not believed. Rows that are
gone for good do not count against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
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

    def __add__(self, other: Diff) -> Diff:
        """Both, of different parts of a catalogue; each part is believed or refused for itself."""
        reasons = [reason for reason in (self.refused, other.refused) if reason is not None]
        return Diff(
            (*self.added, *other.added),
            (*self.changed, *other.changed),
            (*self.same, *other.same),
            (*self.missing, *other.missing),
            "; ".join(reasons) or None,
        )


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


def compare(
    stored: Mapping[Key, CatalogueRow], fresh: Mapping[Key, CatalogueRow], gone: Set[Key] = frozenset()
) -> Diff:
    """How the stored catalogue becomes the fresh one; an empty or halved one changes nothing.

    `gone` are stored rows that count as removed already: they may come back, and are missed no more.
    """
    if not fresh:
        return Diff(refused="the catalogue is empty")
    listed = [key for key in stored if key not in gone]
    kept = sum(key in fresh for key in listed)
    if listed and kept * 2 < len(listed):
        return Diff(refused=f"only {kept} of {len(listed)} known services are left in the catalogue")
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
    missing = tuple(key for key in listed if key not in fresh)
    return Diff(tuple(added), tuple(changed), tuple(same), missing)


def _bare(row: CatalogueRow) -> CatalogueRow:
    return replace(row, raw="", learned_per=None, charged_rate=None)
