"""What a fresh catalogue changes: new rows, changed rows, rows gone, and the brake on absurd changes.

Pure: two catalogues in, a plan out. A catalogue that lost more than half of its rows is not believed. Rows that are
gone for good do not count against it. A row that suddenly is another thing, or has an absurd price, goes into
quarantine: what was believed of it is kept, until the old values return, or the new ones have been seen often enough.
Of a catalogue that is not complete the rows that came are taken over, and nothing counts as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import reduce
from typing import Final

from aggregator.domain.catalogue import CatalogueRow, Kind, service_type
from aggregator.domain.likeness import same_meaning
from aggregator.domain.money import Money

Key = tuple[str, str]
"""(service, country)."""

BELIEVED_AFTER: Final = 10
"""Syncs in a row that must have shown the same before a doubt is given up."""
MOST_FACTOR: Final = 5
"""A price more than so many times the last believed one, or less than such a part of it, is doubted."""
_SHOWN: Final = 80
"""Letters of a name or type in a reason."""
_RIVALS: Final = 3
"""Rows of one id that a reason names beside the one that stays."""


@dataclass(frozen=True, slots=True)
class Believed:
    """What is believed of a row, and doubted as soon as it changes too much."""

    name: str
    kind: Kind
    type: str
    rate: Money | None

    @classmethod
    def of(cls, row: CatalogueRow) -> Believed:
        return cls(row.name, row.kind, row.type, row.rate)

    def as_json(self) -> dict[str, object]:
        rate = self.rate.as_json() if self.rate is not None else None
        return {"name": self.name, "kind": self.kind, "type": self.type, "rate": rate}


@dataclass(frozen=True, slots=True)
class Doubted:
    """A stored row in quarantine: what was believed before (None: it never was), and how many syncs have shown the
    values that are doubted."""

    was: Believed | None
    seen: int


@dataclass(frozen=True, slots=True)
class Change:
    """One row that differs from what was stored. `priced`: rate or stock moved, so the history gets an entry.

    `was` is what was believed of it so far; `doubts` how many syncs have shown the values that are doubted now.
    """

    before: CatalogueRow
    after: CatalogueRow
    priced: bool
    sold_out: bool
    was: Believed | None
    doubts: int = 0

    @property
    def price_changed(self) -> bool:
        """Whether another price is believed than before; a doubted one is none."""
        return self.after.problem is None and self.after.rate != (self.was.rate if self.was is not None else None)

    @property
    def accepted(self) -> Believed | None:
        """What stays believed of a row in quarantine; the columns of any other row are believed themselves."""
        return self.was if self.after.problem is not None else None

    @property
    def quarantined(self) -> bool:
        return self.after.problem is not None and self.before.problem is None

    @property
    def released(self) -> bool:
        return self.after.problem is None and self.before.problem is not None


@dataclass(frozen=True, slots=True)
class Diff:
    """What to write; `refused` says why nothing of it is believed, `shrunk` that most of the known rows are gone,
    `incomplete` why rows are not there without being missing."""

    added: tuple[CatalogueRow, ...] = ()
    changed: tuple[Change, ...] = ()
    same: tuple[Key, ...] = ()
    missing: tuple[Key, ...] = ()
    refused: str | None = None
    shrunk: bool = False
    incomplete: str | None = None
    contradicted: tuple[CatalogueRow, ...] = ()
    """Rows that the fresh catalogue also states otherwise."""

    @property
    def complaint(self) -> str | None:
        """Why a part of it, or all, was not taken over."""
        return "; ".join(reason for reason in (self.refused, self.incomplete) if reason is not None) or None

    def __add__(self, other: Diff) -> Diff:
        """Both, of different parts of a catalogue; each part is believed or refused for itself."""
        reasons = [reason for reason in (self.refused, other.refused) if reason is not None]
        gaps = [reason for reason in (self.incomplete, other.incomplete) if reason is not None]
        return Diff(
            (*self.added, *other.added),
            (*self.changed, *other.changed),
            (*self.same, *other.same),
            (*self.missing, *other.missing),
            "; ".join(reasons) or None,
            self.shrunk or other.shrunk,
            "; ".join(gaps) or None,
            (*self.contradicted, *other.contradicted),
        )


def distinct(
    rows: Iterable[CatalogueRow],
    stored: Mapping[Key, CatalogueRow] | None = None,
    doubted: Mapping[Key, Doubted] | None = None,
    values: Mapping[str, Decimal] | None = None,
) -> dict[Key, CatalogueRow]:
    """One row per service and country. Pages repeat rows; of those that contradict each other the one stays that agrees
    with what is believed of the `stored` row, and without such a one the dearest, in doubt."""
    found: dict[Key, list[CatalogueRow]] = {}
    for row in rows:
        found.setdefault((row.service, row.country), []).append(row)
    stored, doubted, values = stored or {}, doubted or {}, values or {}
    return {
        key: group[0] if len(group) == 1 else _chosen(group, _believed(stored.get(key), doubted.get(key)), values)
        for key, group in found.items()
    }


def _chosen(group: Sequence[CatalogueRow], was: Believed | None, values: Mapping[str, Decimal]) -> CatalogueRow:
    """One of several rows of one id. Numbers are documented to come at several prices: the dearest is reckoned with."""
    sound = [row for row in group if row.problem is None and row.rate is not None]
    dearest = reduce(_dearer, sound or group)
    if not sound or dearest.kind == "sms":
        return dearest
    agreeing = [row for row in sound if was is not None and _doubt(was, row, values) is None]
    exact = [row for row in agreeing if was is not None and row.rate == was.rate]
    best = exact[0] if exact else reduce(_dearer, agreeing or sound)
    rivals = [row for row in sound if _contradict(best, row)]
    if not rivals:
        return best
    told = " and ".join(dict.fromkeys(_stated(row) for row in rivals[:_RIVALS]))
    if was is not None:  # where even the best does not agree, that is doubted by itself
        return replace(best, rivals=told)
    return replace(best, rivals=told, problem=f"the catalogue states it several times: {_stated(best)} and {told}")


def _contradict(one: CatalogueRow, other: CatalogueRow) -> bool:
    if one.rate != other.rate or _type_name(one.kind, one.type) != _type_name(other.kind, other.type):
        return True
    return not same_meaning(one.name, other.name)


def _stated(row: CatalogueRow) -> str:
    price = f"{row.rate.amount} {row.rate.currency}" if row.rate is not None else "no price"
    return f"{_cut(row.name)} ({_cut(row.type)}) at {price}"


def _dearer(one: CatalogueRow, other: CatalogueRow) -> CatalogueRow:
    if one.rate is None or other.rate is None:
        return one if one.rate is not None else other
    return other if other.rate.units > one.rate.units else one


def compare(
    stored: Mapping[Key, CatalogueRow],
    fresh: Mapping[Key, CatalogueRow],
    gone: Set[Key] = frozenset(),
    *,
    doubted: Mapping[Key, Doubted] | None = None,
    told: Mapping[Key, int | None] | None = None,
    values: Mapping[str, Decimal] | None = None,
    believe_shrink: bool = False,
    incomplete: str | None = None,
) -> Diff:
    """How the stored catalogue becomes the fresh one; an empty one changes nothing, and a halved one neither unless
    `believe_shrink` says so.

    `gone` are stored rows that count as removed already: they may come back, and are missed no more. `doubted` are
    those in quarantine. `told` is the stock that the provider told last, where it is not what is stored: our own orders
    lower that. `values` are the values of currencies in a common one; prices in others are not compared. `incomplete`
    says why the fresh catalogue is known not to be all: what it lacks is then neither missing nor a shrinking.
    """
    if not fresh:
        return Diff(refused="the catalogue is empty", incomplete=incomplete)
    listed = [key for key in stored if key not in gone]
    kept = sum(key in fresh for key in listed)
    shrunk = incomplete is None and kept * 2 < len(listed)
    if shrunk and not believe_shrink:
        refused = f"only {kept} of {len(listed)} known services are left in the catalogue"
        return Diff(refused=refused, shrunk=True)
    doubted, told, values = doubted or {}, told or {}, values or {}
    added, changed, same = [], [], []
    for key, row in fresh.items():
        before = stored.get(key)
        if before is None:
            added.append(row)
            continue
        after, was, doubts = _judge(before, row, doubted.get(key), values)
        stock = told.get(key, before.stock)
        priced = before.rate != after.rate or stock != after.stock
        if not priced and _bare(before) == _bare(after) and doubts == (doubted[key].seen if key in doubted else 0):
            same.append(key)
        else:
            changed.append(Change(before, after, priced, after.stock == 0 and stock != 0, was, doubts))
    missing = tuple(key for key in listed if key not in fresh) if incomplete is None else ()
    contradicted = tuple(row for row in fresh.values() if row.rivals is not None)
    return Diff(tuple(added), tuple(changed), tuple(same), missing, None, shrunk, incomplete, contradicted)


def _bare(row: CatalogueRow) -> CatalogueRow:
    return replace(row, raw="", learned_per=None, charged_rate=None)


# --- doubts ----------------------------------------------------------------------------------------------------------


def unusable(row: CatalogueRow) -> bool:
    """Whether a row has a problem that nobody can decide to live with, such as no readable price; a price of 0, or the
    dearest of several, is one that the operator may believe."""
    return row.problem is not None and not _free(row) and row.rivals is None


def first_doubts(row: CatalogueRow) -> int:
    """How many syncs have shown the doubted values of a row that is seen for the first time."""
    return 1 if row.problem is not None and not unusable(row) else 0


def _free(row: CatalogueRow) -> bool:
    return row.rate is not None and row.rate.units == 0


def _judge(
    before: CatalogueRow, fresh: CatalogueRow, doubted: Doubted | None, values: Mapping[str, Decimal]
) -> tuple[CatalogueRow, Believed | None, int]:
    """The fresh row with its problem, if any; what was believed of it before; how often its doubted values were
    seen, 0 where seeing them often makes them no better."""
    was = _believed(before, doubted)
    reason = _doubt(was, fresh, values)
    if reason is None or unusable(fresh):
        return replace(fresh, problem=reason), was, 0
    again = before.problem is not None and doubted is not None and Believed.of(before) == Believed.of(fresh)
    seen = doubted.seen + 1 if again and doubted is not None else 1
    if seen >= BELIEVED_AFTER:
        return replace(fresh, problem=None), was, 0
    return replace(fresh, problem=reason), was, seen


def _believed(stored: CatalogueRow | None, doubted: Doubted | None) -> Believed | None:
    if stored is not None and stored.problem is None:
        return Believed.of(stored)
    return doubted.was if doubted is not None else None


def _doubt(was: Believed | None, row: CatalogueRow, values: Mapping[str, Decimal]) -> str | None:
    """Why a row is not believed, or None. A row that never was is doubted for what it is, not for what changed."""
    accepted_free = _free(row) and was is not None and was.rate == row.rate
    reasons = [row.problem] if row.problem is not None and not accepted_free else []
    if was is not None:
        if _type_name(was.kind, was.type) != _type_name(row.kind, row.type):
            reasons.append(f"its type was {_cut(was.type)} ({was.kind}) and is {_cut(row.type)} ({row.kind}) now")
        if not same_meaning(was.name, row.name):
            reasons.append(f"its name was {_cut(was.name)} and is {_cut(row.name)} now, which may be another thing")
        if row.problem is None and was.rate is not None and row.rate is not None:
            reasons += _price_doubt(was.rate, row.rate, values)
    return "; ".join(reasons) or None


def _price_doubt(was: Money, now: Money, values: Mapping[str, Decimal]) -> list[str]:
    if was.currency == now.currency:
        before, after = Decimal(was.units), Decimal(now.units)
    elif was.currency in values and now.currency in values:
        before, after = was.units * values[was.currency], now.units * values[now.currency]
    else:
        return []
    told = f"the price was {was.amount} {was.currency} and is {now.amount} {now.currency} now"
    if before and after > before * MOST_FACTOR:
        return [f"{told}, more than {MOST_FACTOR} times as much"]
    if before and after * MOST_FACTOR < before:
        return [f"{told}, less than a fifth of it"]
    return []


def _type_name(kind: Kind, raw: str) -> tuple[Kind, str]:
    """A type as it is compared: its spelling says nothing."""
    known = service_type(kind, raw)
    return kind, known.name if known is not None else " ".join(raw.split()).casefold()


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")
