"""What numbers can be rented for, over all providers: projects and countries, for choosing what to configure.

Reads the stored catalogues; asks no provider and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiohttp import web

from aggregator.config import Settings
from aggregator.storage import catalogue, offered
from aggregator.storage.database import RowMapping
from aggregator.storage.offered import CountryOf, Filters
from aggregator.web.auth import Caller
from aggregator.web.problems import invalid
from aggregator.web.query import Parameter, Parameters, Query, query_of, text
from aggregator.web.rendering import json_response, listing, times
from aggregator.web.services import services_of

PROVIDER: Final[Parameter[str | None]] = Parameter(
    "provider",
    "Only what this provider has, by its name in the config.",
    {"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    lambda _, value: value,
    None,
    "smmplus",
)
COUNTRY: Final = text("country", "Only this country, as the provider writes it.", longest=32, example="us")
WORDS: Final = text("q", "Words that must all be in a name, id or title.", longest=200, example="openai")
PROJECTS_QUERY: Final = Parameters(PROVIDER, COUNTRY, WORDS, paged=True)
COUNTRIES_QUERY: Final = Parameters(PROVIDER, WORDS, paged=True)


async def list_projects(request: web.Request, caller: Caller) -> web.Response:
    """`GET /v1/sms/projects`: what `project` and `country` of an offer may be, each with its price."""
    query = query_of(request)
    house = services_of(request).house
    filters = Filters(
        _providers(house.settings, query),
        kind="sms",
        country=query[COUNTRY],
        text=query[WORDS],
        listed=True,
    )
    after, limit = query.cursor or 0, query.limit
    rows = await house.database.read(lambda c: offered.page(c, filters, after=after, limit=limit + 1))
    cursor = query.next_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None
    return json_response(listing("projects", [_project(house.settings, row) for row in rows[:limit]], cursor))


def _project(settings: Settings, row: RowMapping) -> dict[str, object]:
    typed = catalogue.row_from(row)
    return {
        "provider": row["provider"],
        "project": typed.service,
        "name": typed.name,
        "country": typed.country or None,
        "country_title": typed.category or None,
        "rate": typed.rate.as_json() if typed.rate is not None else None,
        "stock": typed.stock,
        "stock_known": typed.has_stock and typed.stock is not None,
        "quarantined": row["problem"] is not None,
        "reason": typed.problem,
        "services": _users(settings, row["provider"], typed.service, typed.country),
        **times(row, "seen_at"),
    }


def _users(settings: Settings, provider: str, project: str, country: str) -> list[str]:
    """Our services that may rent it; an offer without a country takes any."""
    return [
        name
        for name, service in settings.services.items()
        if any(
            offer.provider == provider
            and offer.project == project
            and (offer.country is None or offer.country.casefold() == country.casefold())
            for offer in service.offers
        )
    ]


async def list_countries(request: web.Request, caller: Caller) -> web.Response:
    """`GET /v1/sms/countries`: by code, each with the providers that have numbers there and how they write it."""
    query = query_of(request)
    house = services_of(request).house
    names, said = _providers(house.settings, query), (query[WORDS] or "").casefold()
    after, limit = query.cursor_text, query.limit
    merged = _merge(await house.database.read(lambda c: offered.countries(c, names)))
    found = [
        code
        for code in sorted(merged)
        if (after is None or code > after) and (said in code or said in _title(merged[code]).casefold())
    ]
    cursor = query.next_cursor_text(found[limit - 1]) if len(found) > limit else None
    return json_response(listing("countries", [_country(code, merged[code]) for code in found[:limit]], cursor))


def _merge(found: Iterable[CountryOf]) -> dict[str, list[CountryOf]]:
    merged: dict[str, list[CountryOf]] = {}
    for one in found:
        merged.setdefault(one.code.casefold(), []).append(one)
    return merged


def _title(same: list[CountryOf]) -> str:
    return next((one.title for one in same if one.title), "")


def _country(code: str, same: list[CountryOf]) -> dict[str, object]:
    return {
        "country": code or None,
        "title": _title(same) or None,
        "providers": [
            {
                "provider": one.provider,
                "country": one.code or None,
                "title": one.title or None,
                "projects": one.projects,
            }
            for one in same
        ],
    }


def _providers(settings: Settings, query: Query) -> list[str]:
    asked = query[PROVIDER]
    if asked is None:
        return list(settings.providers)
    if asked not in settings.providers:
        raise invalid(f"must be one of {', '.join(settings.providers)}", PROVIDER.name)
    return [asked]
