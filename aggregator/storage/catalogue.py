"""Providers' catalogues, stock and health in the database, and the views that routing ranks.

A row that a sync did not see is counted, not deleted; what disables an offer is decided by the flow, not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Select, bindparam, case, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.charges import Lesson, Sample
from aggregator.domain.money import Money
from aggregator.domain.sync import Believed, Doubted, Key, first_doubts
from aggregator.storage.tables import prices, provider_services, providers
from aggregator.storage.types import Instant

GONE_AFTER: Final = 3
"""Complete syncs without a row before it counts as removed."""


def ensure_providers(connection: Connection, names: Sequence[str], now: datetime) -> None:
    """A row for each configured provider, and everything due: a new daemon wants fresh catalogues and balances."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    for name in names:
        connection.execute(
            dialect.insert(providers).values(name=name, updated_at=now).on_conflict_do_nothing(index_elements=["name"])
        )
    if names:
        connection.execute(
            update(providers)
            .where(providers.c.name.in_(list(names)))
            .values(next_catalogue_at=now, next_balance_at=now, updated_at=now)
        )


_PROVIDERS: Final = select(providers)
_PROVIDER: Final = update(providers).where(providers.c.name == bindparam("of_provider"))


def health(connection: Connection) -> dict[str, RowMapping]:
    return {row["name"]: row for row in connection.execute(_PROVIDERS).mappings()}


def set_health(connection: Connection, name: str, at: datetime, **values: object) -> None:
    connection.execute(_PROVIDER, {"of_provider": name, "updated_at": at, **values})


def due(connection: Connection, column: str, now: datetime) -> list[str]:
    """Providers whose `next_catalogue_at` or `next_balance_at` has come."""
    return [row[0] for row in connection.execute(_due(column), {"now": now})]


@cache
def _due(column: str) -> Select[Any]:
    when = providers.c[column]
    return select(providers.c.name).where(when <= bindparam("now")).order_by(when)


def row_from(row: RowMapping, *, gone: bool = True) -> CatalogueRow:
    """The typed row; with `gone`, a row that several syncs did not show says so as its problem."""
    problem = row["problem"]
    if gone and problem is None and row["missing"] >= GONE_AFTER:
        problem = "the provider's catalogue no longer lists it"
    return CatalogueRow(
        service=row["service"],
        name=row["name"],
        kind=row["kind"],
        type=row["type"],
        category=row["category"],
        rate=_money(row["rate_units"], row["currency"]),
        minimum=row["minimum"],
        maximum=row["maximum"],
        refill=row["refill"],
        cancel=row["cancel"],
        subcategory=row["subcategory"],
        description=row["description"],
        stock=row["stock"],
        has_stock=row["has_stock"],
        auto_delivery=row["auto_delivery"],
        country=row["country"],
        problem=problem,
        learned_per=row["learned_per"],
        charged_rate=_money(row["charged_rate_units"], row["currency"]),
        known_since=row["first_seen_at"],
    )


def believed(row: RowMapping) -> Believed | None:
    """What was last believed of a row in quarantine; None when nothing ever was, or when nothing is doubted."""
    stated = row["accepted"]
    if stated is None:
        return None
    rate = Money.parse(stated["rate"]["amount"], stated["rate"]["currency"]) if stated["rate"] is not None else None
    return Believed(stated["name"], stated["kind"], stated["type"], rate)


def doubted(stored: Mapping[Key, RowMapping]) -> dict[Key, Doubted]:
    """The rows in quarantine of a stored catalogue."""
    return {key: Doubted(believed(row), row["doubts"]) for key, row in stored.items() if row["problem"] is not None}


def _money(units: int | None, currency: str) -> Money | None:
    return Money(units, currency) if units is not None else None


_OF_SERVICES: Final = (
    select(provider_services)
    .where(
        provider_services.c.provider == bindparam("of_provider"),
        provider_services.c.service.in_(bindparam("services", expanding=True)),
    )
    .order_by(provider_services.c.id)
)


def offer_rows(
    connection: Connection, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[CatalogueRow, datetime | None]]]:
    """Catalogue rows of (provider, service) pairs; a project has one per country. With each its stock's time."""
    found: dict[tuple[str, str], list[tuple[CatalogueRow, datetime | None]]] = {}
    by_provider: dict[str, list[str]] = {}
    for provider, service in wanted:
        by_provider.setdefault(provider, []).append(service)
    for provider, services in by_provider.items():
        rows = connection.execute(_OF_SERVICES, {"of_provider": provider, "services": services}).mappings()
        for row in rows:
            found.setdefault((provider, row["service"]), []).append((row_from(row), row["stock_at"]))
    return found


_OF_PROVIDER: Final = select(provider_services).where(provider_services.c.provider == bindparam("of_provider"))
_KEYS: Final = select(provider_services.c.id, provider_services.c.service, provider_services.c.country).where(
    provider_services.c.provider == bindparam("of_provider")
)
_ADD: Final = insert(provider_services)
_ADD_PRICES: Final = insert(prices)


def stored_rows(connection: Connection, provider: str) -> dict[tuple[str, str], RowMapping]:
    """The whole stored catalogue of a provider by (service, country)."""
    rows = connection.execute(_OF_PROVIDER, {"of_provider": provider}).mappings()
    return {(row["service"], row["country"]): row for row in rows}


def columns(row: CatalogueRow, account_currency: str) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "name": row.name,
        "type": row.type,
        "category": row.category,
        "subcategory": row.subcategory,
        "description": row.description,
        "rate_units": row.rate.units if row.rate is not None else None,
        "currency": row.rate.currency if row.rate is not None else account_currency,
        "minimum": row.minimum,
        "maximum": row.maximum,
        "refill": row.refill,
        "cancel": row.cancel,
        "has_stock": row.has_stock,
        "stock": row.stock,
        "auto_delivery": row.auto_delivery,
        "problem": row.problem,
    }


def insert_rows(
    connection: Connection, provider: str, rows: Sequence[CatalogueRow], currency: str, at: datetime
) -> None:
    """New rows of a catalogue, each with the first entry of its price history."""
    if not rows:
        return
    connection.execute(
        _ADD,
        [
            {
                "provider": provider,
                "service": row.service,
                "country": row.country,
                **columns(row, currency),
                "stock_at": at if row.has_stock else None,
                "doubts": first_doubts(row),
                "first_seen_at": at,
                "seen_at": at,
            }
            for row in rows
        ],
    )
    ids = {
        (service, country): row_id for row_id, service, country in connection.execute(_KEYS, {"of_provider": provider})
    }
    connection.execute(
        _ADD_PRICES,
        [
            {
                "provider_service": ids[row.service, row.country],
                "rate_units": row.rate.units if row.rate is not None else None,
                "stock": row.stock,
                "at": at,
            }
            for row in rows
        ],
    )


def update_row(connection: Connection, row_id: int, at: datetime, values: Mapping[str, Any], *, priced: bool) -> None:
    """Change one row; `priced` adds an entry to its price and stock history."""
    connection.execute(_SET_ROW, {"of_row": row_id, **values})
    if priced:
        connection.execute(
            insert(prices).values(
                provider_service=row_id, rate_units=values.get("rate_units"), stock=values.get("stock"), at=at
            )
        )


_NEWEST: Final = (
    select(prices.c.id)
    .where(prices.c.provider_service == provider_services.c.id)
    .order_by(prices.c.at.desc(), prices.c.id.desc())
    .limit(1)
    .correlate(provider_services)
    .scalar_subquery()
)
_TOLD_STOCK: Final = (
    select(provider_services.c.id, prices.c.stock)
    .join(prices, prices.c.id == _NEWEST)
    .where(provider_services.c.provider == bindparam("of_provider"), provider_services.c.has_stock)
)


def told_stock(connection: Connection, provider: str) -> dict[int, int | None]:
    """The stock that a provider's catalogue told last, by the row's id. What a row holds may be less: orders that are
    planned take theirs out of it at once."""
    return {row[0]: row[1] for row in connection.execute(_TOLD_STOCK, {"of_provider": provider})}


def history(
    connection: Connection, provider: str, service: str, *, country: str | None, before: int | None, limit: int
) -> list[RowMapping]:
    """Prices and stock of a service as its catalogue told them, newest first; without a country those of all."""
    query = (
        select(
            prices.c.id,
            prices.c.rate_units,
            prices.c.stock,
            prices.c.at,
            provider_services.c.country,
            provider_services.c.currency,
            provider_services.c.has_stock,
        )
        .join(provider_services, prices.c.provider_service == provider_services.c.id)
        .where(provider_services.c.provider == provider, provider_services.c.service == service)
    )
    if country is not None:
        query = query.where(func.lower(provider_services.c.country) == country.lower())
    if before is not None:
        query = query.where(prices.c.id < before)
    return list(connection.execute(query.order_by(prices.c.id.desc()).limit(limit)).mappings())


def rows_of(
    connection: Connection, provider: str, service: str, country: str | None, *, lock: bool = False
) -> list[RowMapping]:
    """The stored rows of one service or project; without a country those of all its countries."""
    query = select(provider_services).where(
        provider_services.c.provider == provider, provider_services.c.service == service
    )
    if country is not None:
        query = query.where(func.lower(provider_services.c.country) == country.lower())
    query = query.order_by(provider_services.c.id)
    return list(connection.execute(query.with_for_update() if lock else query).mappings())


_ROW: Final = (
    select(provider_services)
    .where(
        provider_services.c.provider == bindparam("of_provider"),
        provider_services.c.service == bindparam("of_service"),
        provider_services.c.country == bindparam("of_country"),
    )
    .with_for_update()
)
_SET_ROW: Final = update(provider_services).where(provider_services.c.id == bindparam("of_row"))


def find_row(connection: Connection, provider: str, service: str, country: str) -> RowMapping | None:
    """The stored row of one offer, locked: what its charges taught is changed by whoever knows all of them."""
    of = {"of_provider": provider, "of_service": service, "of_country": country}
    return connection.execute(_ROW, of).mappings().one_or_none()


def set_charges(
    connection: Connection,
    row_id: int,
    samples: Sequence[Sample],
    lesson: Lesson | None,
    *,
    unit: bool = True,
) -> None:
    """Keep an offer's newest charges; with a lesson, what they taught. `unit`: of what its rate buys, too."""
    values: dict[str, Any] = {"charges": [asdict(one) for one in samples]}
    if lesson is not None:
        values |= {"charged_rate_units": lesson.rate, **({"learned_per": lesson.per} if unit else {})}
    connection.execute(_SET_ROW, {"of_row": row_id, **values})


_SEEN: Final = (
    update(provider_services)
    .where(provider_services.c.id.in_(bindparam("ids", expanding=True)))
    .values(
        seen_at=bindparam("at", type_=Instant()),
        missing=0,
        stock_at=case(
            (provider_services.c.has_stock, bindparam("at", type_=Instant())), else_=provider_services.c.stock_at
        ),
    )
)


def mark_seen(connection: Connection, row_ids: Sequence[int], at: datetime) -> None:
    """Rows that a complete sync showed unchanged."""
    for start in range(0, len(row_ids), 500):
        connection.execute(_SEEN, {"ids": row_ids[start : start + 500], "at": at})


def mark_missing(connection: Connection, row_ids: Sequence[int]) -> None:
    """Rows that a complete sync did not show."""
    for start in range(0, len(row_ids), 500):
        connection.execute(
            update(provider_services)
            .where(provider_services.c.id.in_(row_ids[start : start + 500]))
            .values(missing=provider_services.c.missing + 1)
        )


def set_stock(connection: Connection, provider: str, service: str, stock: int | None, at: datetime) -> None:
    connection.execute(
        update(provider_services)
        .where(provider_services.c.provider == provider, provider_services.c.service == service)
        .values(stock=stock, stock_at=at)
    )


def set_stock_if_tracked(connection: Connection, provider: str, service: str, stock: int, at: datetime) -> None:
    """What a refusal tells of stock, where the dialect knows stock at all; elsewhere it would stay 0 for ever."""
    connection.execute(
        update(provider_services)
        .where(
            provider_services.c.provider == provider,
            provider_services.c.service == service,
            provider_services.c.has_stock,
        )
        .values(stock=stock, stock_at=at)
    )


_TYPE: Final = (
    select(provider_services.c.type)
    .where(
        provider_services.c.provider == bindparam("of_provider"),
        provider_services.c.service == bindparam("of_service"),
    )
    .limit(1)
)


def type_of(connection: Connection, provider: str, service: str) -> str:
    """The service type that the catalogue states; empty when it no longer lists the service."""
    return connection.execute(_TYPE, {"of_provider": provider, "of_service": service}).scalar() or ""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the catalogue says of a service that matters after it was bought."""

    name: str = ""
    refill: bool = False
    by_hand: bool = False
    """A person delivers it."""


NO_TRAITS: Final = Traits()
_TRAITS: Final = select(
    provider_services.c.service,
    provider_services.c.name,
    provider_services.c.refill,
    provider_services.c.auto_delivery,
).where(
    provider_services.c.provider == bindparam("of_provider"),
    provider_services.c.service.in_(bindparam("services", expanding=True)),
)


def traits(connection: Connection, provider: str, services: Sequence[str]) -> dict[str, Traits]:
    """By service id; those that the catalogue does not know are left out."""
    rows = connection.execute(_TRAITS, {"of_provider": provider, "services": list(services)})
    return {row[0]: Traits(row[1], bool(row[2]), not row[3]) for row in rows}


def reserve_stock(connection: Connection, provider: str, service: str, pieces: int) -> bool:
    """Lower the known stock by what is planned, unless others have taken it meanwhile; its age stays, so the provider
    is asked again in time."""
    stock = provider_services.c.stock
    done = connection.execute(
        update(provider_services)
        .where(provider_services.c.provider == provider, provider_services.c.service == service)
        .where(or_(stock.is_(None), stock >= pieces))
        .values(stock=stock - pieces)
    )
    return done.rowcount > 0


def stock_of(connection: Connection, provider: str, service: str) -> tuple[int | None, datetime | None]:
    """The known stock and when the provider said so."""
    row = connection.execute(
        select(provider_services.c.stock, provider_services.c.stock_at)
        .where(provider_services.c.provider == provider, provider_services.c.service == service)
        .limit(1)
    ).one_or_none()
    return (row[0], row[1]) if row is not None else (None, None)


def sizes(connection: Connection) -> dict[str, int]:
    """Rows listed per provider."""
    return {row[0]: row[1] for row in connection.execute(_SIZES)}


_SIZES: Final = (
    select(provider_services.c.provider, func.count())
    .where(provider_services.c.missing < GONE_AFTER)
    .group_by(provider_services.c.provider)
)
