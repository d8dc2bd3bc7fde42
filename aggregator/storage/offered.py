"""What providers offer, as people look through it: pages of stored catalogues by filters and words, and counts.

Nothing here writes, and no answer decides about an order. Pages go by the row's id, which stays: rows that arrive, or
change while somebody turns pages, move no other row.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Select, func, select

from aggregator.storage.catalogue import GONE_AFTER
from aggregator.storage.tables import provider_services as rows

CHUNK: Final = 500
"""Rows that are looked at for words at a time."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows; None: whichever. Every word of `text` must be in a row's name, id, category or subcategory."""

    providers: Sequence[str]
    kind: str | None = None
    category: str | None = None
    subcategory: str | None = None
    country: str | None = None
    quarantined: bool | None = None
    listed: bool | None = None
    """Whether the provider's catalogue still shows it."""
    text: str | None = None
    words: Sequence[str] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _fold(self.text or "").split())

    def narrow(self, query: Select[Any]) -> Select[Any]:
        query = query.where(rows.c.provider.in_(list(self.providers)))
        for column, value in ((rows.c.kind, self.kind), (rows.c.category, self.category)):
            if value is not None:
                query = query.where(column == value)
        if self.subcategory is not None:
            query = query.where(rows.c.subcategory == self.subcategory)
        if self.country is not None:
            query = query.where(func.lower(rows.c.country) == self.country.lower())
        if self.quarantined is not None:
            query = query.where(rows.c.problem.is_not(None) if self.quarantined else rows.c.problem.is_(None))
        if self.listed is not None:
            query = query.where(rows.c.missing < GONE_AFTER if self.listed else rows.c.missing >= GONE_AFTER)
        return query


def page(connection: Connection, filters: Filters, *, after: int, limit: int) -> list[RowMapping]:
    """The next rows beyond an id."""
    found: list[RowMapping] = []
    size = CHUNK if filters.words else limit
    while len(found) < limit:
        query = filters.narrow(select(rows)).where(rows.c.id > after).order_by(rows.c.id).limit(size)
        chunk = list(connection.execute(query).mappings())
        found += (row for row in chunk if not filters.words or _has(row, filters.words))
        if len(chunk) < size:
            break
        after = chunk[-1]["id"]
    return found[:limit]


def _has(row: RowMapping, words: Sequence[str]) -> bool:
    # In Python, for both databases alike: SQLite folds ASCII alone, and names are written in 𝗯𝗼𝗹𝗱 letters too.
    text = _fold(f"{row['name']} {row['service']} {row['category']} {row['subcategory']}")
    return all(word in text for word in words)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def categories(connection: Connection, provider: str, kind: str | None) -> dict[str, dict[str, int]]:
    """A provider's categories, and how many rows each of their subcategories has; "" stands for none."""
    query = Filters((provider,), kind=kind).narrow(select(rows.c.category, rows.c.subcategory, func.count()))
    found: dict[str, dict[str, int]] = {}
    for category, subcategory, count in connection.execute(query.group_by(rows.c.category, rows.c.subcategory)):
        found.setdefault(category, {})[subcategory] = count
    return {category: dict(sorted(found[category].items())) for category in sorted(found)}


@dataclass(frozen=True, slots=True)
class CountryOf:
    """A country as one provider names it, and how many projects have numbers there."""

    provider: str
    code: str
    title: str
    projects: int


def countries(connection: Connection, providers: Sequence[str]) -> list[CountryOf]:
    """The countries that providers rent numbers in."""
    filters = Filters(providers, kind="sms", listed=True)
    query = filters.narrow(select(rows.c.provider, rows.c.country, func.max(rows.c.category), func.count()))
    query = query.group_by(rows.c.provider, rows.c.country).order_by(rows.c.provider, rows.c.country)
    return [CountryOf(*row) for row in connection.execute(query)]
