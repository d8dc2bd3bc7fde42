"""What callers can order: our services with their best price now, and the ranking an order would get.

Decides nothing that routing does not decide: both ask the same rules with what the database knows, and no provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from aggregator.config import ServiceSettings
from aggregator.domain.catalogue import CatalogueRow, service_type
from aggregator.domain.money import Money
from aggregator.domain.routing import Candidate, OfferView, Wanted, choose, expected_cost
from aggregator.flow.base import House
from aggregator.flow.intake import MAX_NUMBERS
from aggregator.flow.views import World, load_world, offer_views, refill_wish, wanted
from aggregator.web.auth import Caller
from aggregator.web.bodies import read_body
from aggregator.web.models import QuoteRequest, quoted_order, read
from aggregator.web.query import Parameters, choice, query_of, text
from aggregator.web.rendering import json_response, listing
from aggregator.web.services import services_of

PRICE_PER: Final[Mapping[str, int]] = {"smm": 1000, "product": 1, "sms": 1}
"""How many pieces a listed price buys; a service sold as a whole is priced as one."""
KIND: Final = choice("kind", PRICE_PER, "Only services of this kind.")
CATEGORY: Final = text("category", "Only services of this category of the config's.", longest=1000, example="Instagram")
LIST_QUERY: Final = Parameters(KIND, CATEGORY)
_SOME_LINK: Final = "https://example.com/"


@dataclass(frozen=True, slots=True)
class _Priced:
    """An offer that could take an order now, and what it asks for `per` pieces in the config's currency."""

    offer: OfferView
    row: CatalogueRow
    price: Money
    per: int


async def list_services(request: web.Request, caller: Caller) -> web.Response:
    """`GET /v1/services`, in the config's order."""
    query = query_of(request)
    kind, category = query[KIND], query[CATEGORY]
    house = services_of(request).house
    asked = {
        name: service
        for name, service in house.settings.services.items()
        if kind in (None, service.kind) and category in (None, service.category)
    }
    world = await house.database.read(lambda c: load_world(c, asked.values()))
    return json_response(listing("services", [_document(house, name, asked[name], world) for name in asked]))


def _document(house: House, name: str, service: ServiceSettings, world: World) -> dict[str, object]:
    judged = [_judge(house, service, offer) for offer in offer_views(house, service, world, {}, {})]
    priced = sorted((entry for entry in judged if isinstance(entry, _Priced)), key=lambda entry: entry.price.units)
    reasons = [entry for entry in judged if isinstance(entry, str)]
    best = priced[0] if priced else None
    most = max((entry.row.maximum for entry in priced), default=None)
    if service.kind == "sms":
        most = MAX_NUMBERS if priced else None
    return {
        "service": name,
        "kind": service.kind,
        "title": service.title or (best.row.name if best else None),
        "category": service.category or (best.row.category if best else None),
        "panel_id": service.panel_id,
        "type": (best.row.type or "Default") if best and service.kind == "smm" else None,
        "available": best is not None,
        "reason": "; ".join(reasons) if best is None else None,
        "price": best.price.as_json() if best else None,
        "price_per": best.per if best else PRICE_PER[service.kind],
        "provider": best.offer.provider.name if best else None,
        "stock": best.row.stock if best else None,
        "min": min((entry.row.minimum for entry in priced), default=None),
        "max": most,
        "refill": any(entry.offer.refillable for entry in priced),
        "offers": len(service.offers),
    }


def _judge(house: House, service: ServiceSettings, offer: OfferView) -> _Priced | str:
    """The offer's price when the smallest order could go there now, else why not."""
    row = offer.row
    probe = Wanted(service.kind, 1)
    if row is not None:
        kind_type = service_type(service.kind, row.type)
        params = dict.fromkeys(kind_type.required, "1") if kind_type is not None else {}
        probe = Wanted(service.kind, max(1, row.minimum), _SOME_LINK, params, refill=refill_wish(service))
    candidate = _one(house, probe, offer)
    where = f"{offer.provider.name}/{offer.service}"
    if not candidate.eligible or row is None:
        return f"{where}: {candidate.reason}"
    per = 1 if candidate.type is not None and candidate.type.per_order else PRICE_PER[service.kind]
    price = expected_cost(row, service.kind, per, offer.provider.rate_per)
    if price.currency != house.settings.currency:
        price = price.convert(house.settings.exchange_rates[price.currency], house.settings.currency)
    return _Priced(offer, row, price, per)


def _one(house: House, probe: Wanted, offer: OfferView) -> Candidate:
    settings = house.settings
    ranking = choose(probe, [offer], currency=settings.currency, exchange_rates=settings.exchange_rates)
    return ranking.candidates[0]


async def quote(request: web.Request, caller: Caller) -> web.Response:
    """`POST /v1/quote`: the ranking that an order placed now would get, by the stock last heard of."""
    services = services_of(request)
    house = services.house
    wish = quoted_order(read(QuoteRequest, await read_body(request)), caller.name, house.settings.currency)
    # Where it goes changes no price, so nobody needs a link to ask for one.
    order = services.intake.check(replace(wish, link=wish.link or _SOME_LINK))
    service = house.settings.services[order.service]
    world = await house.database.read(lambda c: load_world(c, [service]))
    offers = offer_views(house, service, world, {}, order.params)
    settings = house.settings
    ranking = choose(wanted(order, service), offers, currency=settings.currency, exchange_rates=settings.exchange_rates)
    now = house.clock.now()
    return json_response(
        {
            "service": order.service,
            "quantity": order.quantity,
            "strategy": service.strategy,
            "best": ranking.best.as_quote(order.kind, now) if ranking.best else None,
            "candidates": ranking.as_quote(order.kind, now),
        }
    )
