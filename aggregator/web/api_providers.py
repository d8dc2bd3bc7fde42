"""Providers as the operator sees them: health, balance, catalogue, ledger; and sync, pause, resume and release.

Reads what the stages stored. Only `sync` waits for a provider, because that is what was asked for.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Final

from aiohttp import web

from aggregator.config import Settings
from aggregator.domain.clock import rfc3339
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.money import Money
from aggregator.domain.sync import BELIEVED_AFTER, Believed
from aggregator.flow import readings
from aggregator.flow.base import House
from aggregator.flow.catalogue_sync import release_catalogue, release_rows
from aggregator.log import get_logger
from aggregator.providers.gateway import Gateway
from aggregator.storage import catalogue, offered, reports, unknown_words
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, RowMapping
from aggregator.storage.offered import Filters
from aggregator.web.auth import Caller
from aggregator.web.bodies import read_body
from aggregator.web.models import EmptyRequest, ReleaseRequest, read, read_optional
from aggregator.web.once import once
from aggregator.web.problems import invalid
from aggregator.web.query import Parameters, choice, flag, query_of, text
from aggregator.web.rendering import Answer, dumps, json_response, listing, money_of, times
from aggregator.web.services import services_of

log = get_logger()

CATEGORY: Final = text("category", "Only rows of this category, to the letter.", longest=1000, example="Instagram")
QUARANTINED: Final = flag("quarantined", "`true`: only rows that are not believed; `false`: only the others.")
SUBCATEGORY: Final = text("subcategory", "Only rows of this subcategory, to the letter.", longest=1000, example="Likes")
KIND: Final = choice("kind", ("smm", "product", "sms"), "Only rows of this kind.")
WORDS: Final = text("q", "Words that must all be in a row's name, id or categories.", longest=200, example="usa mail")
CATALOGUE_QUERY: Final = Parameters(KIND, CATEGORY, SUBCATEGORY, WORDS, QUARANTINED, paged=True)
CATEGORIES_QUERY: Final = Parameters(KIND)
COUNTRY: Final = text("country", "Only what was told for this country.", longest=32, example="us")
HISTORY_QUERY: Final = Parameters(COUNTRY, paged=True)
LEDGER_QUERY: Final = Parameters(paged=True)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _known(connection: Connection, settings: Settings, request: web.Request) -> str:
    """The provider that the path names; Problem 404 when neither the config nor the database knows it."""
    name = request.match_info["provider"]
    if _NAME.fullmatch(name) and (name in settings.providers or name in catalogue.health(connection)):
        return name
    raise Problem(ProblemKind.NOT_FOUND, "there is no provider of this name")


def _document(
    house: House, connection: Connection, name: str, row: RowMapping | None, open_orders: int
) -> dict[str, object]:
    settings = house.settings.providers.get(name)
    gateway = house.gateways.get(name)
    capabilities: dict[str, object] | None = None
    if gateway is not None:
        capabilities = asdict(gateway.capabilities)
        capabilities["kinds"] = sorted(gateway.capabilities.kinds)
        capabilities["batched_status"] = gateway.batches
    down = house.health.down_reason(name) if settings is not None else None
    standing = house.health.standing(name, row, enabled=settings is not None and settings.enabled)
    return {
        "name": name,
        "configured": settings is not None,
        "dialect": settings.dialect if settings is not None else None,
        "enabled": settings.enabled if settings is not None else False,
        "paused": bool(row["paused"]) if row is not None else False,
        "state": standing.condition,
        "up": standing.up,
        "reason": standing.reason,
        "breaker": {
            "open": down is not None,
            "reason": down,
            "failures": row["failures"] if row is not None else 0,
            "since": _time(row, "down_since"),
            "until": _time(row, "open_until"),
        },
        "balance": money_of(row["balance_units"], row["balance_currency"]) if row is not None else None,
        "balance_at": _time(row, "balance_at"),
        "balance_low": bool(row["balance_low"]) if row is not None else False,
        "catalogue": {
            "synced_at": _time(row, "catalogue_at"),
            "rows": row["catalogue_rows"] if row is not None else None,
            "error": row["catalogue_error"] if row is not None else None,
            "next_at": _time(row, "next_catalogue_at"),
        },
        "ledger": readings.describe(connection, name, house.clock.now()),
        "capabilities": capabilities,
        "status_calls": _status_calls(gateway, row, open_orders) if gateway is not None else None,
        "unknown_words": [_word(word) for word in unknown_words.of_provider(connection, name)],
        "open_orders": open_orders,
    }


def _status_calls(gateway: Gateway, row: RowMapping | None, open_orders: int) -> dict[str, object]:
    """How statuses are asked for, as was found out or as the config says, and what asking for every open order once
    takes at the allowed rate; `sweep_s` null: no rate is set."""
    batch, rate = gateway.batch, gateway.settings.requests_per_second
    calls = -(-open_orders // gateway.status_batch)
    return {
        "form": batch.form,
        "limit": gateway.status_batch,
        "found_out_at": _time(row, "batch_at"),
        "configured": gateway.settings.status_batch,
        "sweep_calls": calls,
        "sweep_s": round(calls / float(rate), 1) if rate else None,
    }


def _word(row: RowMapping) -> dict[str, object]:
    return {
        "word": row["word"],
        "seen": row["seen"],
        "order_number": row["order_number"],
        **times(row, "first_at", "last_at"),
    }


def _time(row: RowMapping | None, name: str) -> str | None:
    return rfc3339(row[name]) if row is not None and row[name] is not None else None


def _one(house: House, connection: Connection, name: str) -> dict[str, object]:
    row = catalogue.health(connection).get(name)
    return _document(house, connection, name, row, reports.open_by_provider(connection).get(name, 0))


async def list_providers(request: web.Request, caller: Caller) -> web.Response:
    """Those of the config in its order, then those that only the database remembers."""
    house = services_of(request).house

    def load(connection: Connection) -> list[dict[str, object]]:
        rows, counts = catalogue.health(connection), reports.open_by_provider(connection)
        names = [*house.settings.providers, *sorted(name for name in rows if name not in house.settings.providers)]
        return [_document(house, connection, name, rows.get(name), counts.get(name, 0)) for name in names]

    return json_response(listing("providers", await house.database.read(load)))


async def get_provider(request: web.Request, caller: Caller) -> web.Response:
    house = services_of(request).house
    return json_response(await house.database.read(lambda c: _one(house, c, _known(c, house.settings, request))))


async def list_provider_services(request: web.Request, caller: Caller) -> web.Response:
    """The stored catalogue; `quarantined=true` for the rows that are not believed, with the reason."""
    query = query_of(request)
    filters = Filters(
        (request.match_info["provider"],),
        kind=query[KIND],
        category=query[CATEGORY],
        subcategory=query[SUBCATEGORY],
        quarantined=query[QUARANTINED],
        text=query[WORDS],
    )
    after, limit = query.cursor or 0, query.limit
    house = services_of(request).house

    def load(connection: Connection) -> list[RowMapping]:
        _known(connection, house.settings, request)
        return offered.page(connection, filters, after=after, limit=limit + 1)

    rows = await house.database.read(load)
    cursor = query.next_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None
    return json_response(listing("services", [_row_document(row) for row in rows[:limit]], cursor))


async def list_categories(request: web.Request, caller: Caller) -> web.Response:
    """`GET …/categories`: what `category` and `subcategory` may be, and how many stored rows each has."""
    kind = query_of(request)[KIND]
    house = services_of(request).house
    found = await house.database.read(
        lambda c: offered.categories(c, _known(c, house.settings, request), kind),
    )
    return json_response(listing("categories", [_category(name, parts) for name, parts in found.items()]))


def _category(name: str, parts: dict[str, int]) -> dict[str, object]:
    named = [{"subcategory": part, "services": count} for part, count in parts.items() if part]
    return {"category": name, "services": sum(parts.values()), "subcategories": named}


def _row_document(row: RowMapping) -> dict[str, object]:
    typed = catalogue.row_from(row)
    return {
        "service": typed.service,
        "country": typed.country or None,
        "kind": typed.kind,
        "name": typed.name,
        "type": typed.type,
        "category": typed.category,
        "subcategory": typed.subcategory or None,
        "description": typed.description or None,
        "rate": typed.rate.as_json() if typed.rate is not None else None,
        "rate_per": typed.learned_per,
        "charged_rate": typed.charged_rate.as_json() if typed.charged_rate is not None else None,
        "min": typed.minimum,
        "max": typed.maximum,
        "refill": typed.refill,
        "cancel": typed.cancel,
        "stock": typed.stock,
        "stock_known": typed.has_stock and typed.stock is not None,
        "auto_delivery": typed.auto_delivery,
        "quarantined": row["problem"] is not None,
        "reason": typed.problem,
        "quarantine": _quarantine(row) if row["problem"] is not None else None,
        **times(row, "stock_at", "first_seen_at", "seen_at"),
    }


def _quarantine(row: RowMapping) -> dict[str, object]:
    """What is doubted: what was believed (null: nothing yet), what the catalogue says now, how often it said so, and
    after how many times it is believed (null: never, because nobody could buy it)."""
    was = catalogue.believed(row)
    return {
        "before": was.as_json() if was is not None else None,
        "after": Believed.of(catalogue.row_from(row)).as_json(),
        "seen": row["doubts"] or None,
        "believed_after": BELIEVED_AFTER if row["doubts"] else None,
    }


async def list_history(request: web.Request, caller: Caller) -> web.Response:
    """Prices and stock that the provider's catalogue told of one service, newest first; only changes are entries."""
    query = query_of(request)
    country, before, limit = query[COUNTRY], query.cursor, query.limit
    service = request.match_info["service"]
    house = services_of(request).house

    def load(connection: Connection) -> list[RowMapping]:
        name = _known(connection, house.settings, request)
        storable = service.isprintable() and len(service) <= 128
        if not storable or not catalogue.rows_of(connection, name, service, country):
            raise Problem(ProblemKind.NOT_FOUND, "the provider's catalogue has no such service")
        return catalogue.history(connection, name, service, country=country, before=before, limit=limit + 1)

    rows = await house.database.read(load)
    cursor = query.next_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None
    return json_response(listing("history", [_history_document(row) for row in rows[:limit]], cursor))


def _history_document(row: RowMapping) -> dict[str, object]:
    rate = Money(row["rate_units"], row["currency"]).as_json() if row["rate_units"] is not None else None
    return {"country": row["country"] or None, "rate": rate, "stock": row["stock"], **times(row, "at")}


async def list_ledger(request: web.Request, caller: Caller) -> web.Response:
    """What the balance said and what orders were charged, newest first; what we pay is negative."""
    query = query_of(request)
    before, limit = query.cursor, query.limit
    house = services_of(request).house

    def load(connection: Connection) -> list[RowMapping]:
        name = _known(connection, house.settings, request)
        return reports.ledger_page(connection, name, before=before, limit=limit + 1)

    rows = await house.database.read(load)
    cursor = query.next_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None
    return json_response(listing("ledger", [_ledger_document(row) for row in rows[:limit]], cursor))


def _ledger_document(row: RowMapping) -> dict[str, object]:
    return {
        "id": row["id"],
        "kind": row["kind"],
        "amount": money_of(row["units"], row["currency"]),
        "order": row["order_id"],
        "order_number": row["order_number"],
        "note": row["note"],
        **times(row, "at"),
    }


async def sync(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/sync`: the provider as it stands once its catalogue was fetched; 409 when it was not taken over."""
    services = services_of(request)
    house = services.house
    body = await read_body(request)

    async def work(recording: House) -> None:
        read_optional(EmptyRequest, body)
        name = await house.database.read(lambda c: _known(c, house.settings, request))
        settings = house.settings.providers.get(name)
        if settings is None or not settings.enabled:
            raise Problem(ProblemKind.CONFLICT, "the provider is not in the config, or not enabled there")
        refused = await services.sync(name)
        log.info("sync_asked", provider=name, caller=caller.name, refused=refused)
        if refused is not None:
            raise Problem(ProblemKind.CONFLICT, f"the catalogue was not taken over, or not as a whole: {refused}")
        await services.intake.refresh()
        await recording.database.write(lambda _: name)

    return await once(request, house, caller.name, body, work, lambda c, name: _answer(house, c, name))


async def pause(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/pause`: nothing is bought there any more; what was bought is followed on."""
    return await _set_paused(request, caller, True)


async def resume(request: web.Request, caller: Caller) -> web.Response:
    return await _set_paused(request, caller, False)


async def _set_paused(request: web.Request, caller: Caller, paused: bool) -> web.Response:
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        read_optional(EmptyRequest, body)

        def write(connection: Connection) -> str:
            name = _known(connection, house.settings, request)
            catalogue.set_health(connection, name, house.clock.now(), paused=paused)
            if not paused:
                order_store.look_again(connection, house.clock.now())
            return name

        name = await recording.database.write(write)
        log.info("provider_paused" if paused else "provider_resumed", provider=name, caller=caller.name)
        house.wakeups.wake("routing")

    return await once(request, house, caller.name, body, work, lambda c, name: _answer(house, c, name))


async def release(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/release`: a quarantined service is believed as it is now, or the next catalogue although it shrank."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        wish = read(ReleaseRequest, body)
        if (wish.service is None) is (wish.catalogue is None):
            raise invalid('say what to release: {"service": "..."} or {"catalogue": true}', "service")
        if wish.country is not None and wish.service is None:
            raise invalid("belongs to a service; leave it out", "country")

        def write(connection: Connection) -> tuple[str, str | None, list[int]]:
            name = _known(connection, house.settings, request)
            if wish.service is None:
                release_catalogue(connection, house, name)
                return name, None, []
            return name, wish.service, release_rows(connection, house, name, wish.service, wish.country)

        await recording.database.write(write)
        log.info("release_asked", provider=request.match_info["provider"], service=wish.service, caller=caller.name)
        house.wakeups.wake("routing", "sequencing", "catalogue_sync")

    def render(connection: Connection, released: tuple[str, str | None, list[int]]) -> Answer:
        name, service, ids = released
        rows = catalogue.rows_of(connection, name, service, None) if service is not None else []
        shown = [_row_document(row) for row in rows if row["id"] in ids]
        return Answer(200, dumps({**_one(house, connection, name), "released": shown}))

    return await once(request, house, caller.name, body, work, render)


def _answer(house: House, connection: Connection, name: str) -> Answer:
    return Answer(200, dumps(_one(house, connection, name)))
