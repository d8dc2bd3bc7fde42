"""What callers can order: our services with their best price now, and the ranking an order would get.

Decides nothing that routing does not decide: both ask the same rules with what the database knows, and no provider.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from aggregator.config import ServiceSettings
from aggregator.domain.catalogue import PRICE_PER
from aggregator.domain.routing import choose
from aggregator.flow.base import House
from aggregator.flow.intake import MAX_NUMBERS
from aggregator.flow.storefront import SOME_LINK, shelf
from aggregator.flow.views import World, load_world, offer_views, wanted
from aggregator.web.auth import Caller
from aggregator.web.bodies import read_body
from aggregator.web.models import QuoteRequest, quoted_order, read
from aggregator.web.query import Parameters, choice, query_of, text
from aggregator.web.rendering import json_response, listing
from aggregator.web.services import services_of

KIND: Final = choice("kind", PRICE_PER, "Only services of this kind.")
CATEGORY: Final = text("category", "Only services of this category of the config's.", longest=1000, example="Instagram")
LIST_QUERY: Final = Parameters(KIND, CATEGORY)


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
    on = shelf(house, service, world)
    best = on.best
    most = max((entry.row.maximum for entry in on.priced), default=None)
    if service.kind == "sms":
        most = MAX_NUMBERS if on.priced else None
    return {
        "service": name,
        "kind": service.kind,
        "title": service.title or (best.row.name if best else None),
        "category": service.category or (best.row.category if best else None),
        "panel_id": service.panel_id,
        "type": (best.row.type or "Default") if best and service.kind == "smm" else None,
        "available": best is not None,
        "reason": "; ".join(on.reasons) if best is None else None,
        "price": best.price.as_json() if best else None,
        "price_per": best.per if best else PRICE_PER[service.kind],
        "provider": best.offer.provider.name if best else None,
        "stock": best.row.stock if best else None,
        "min": min((entry.row.minimum for entry in on.priced), default=None),
        "max": most,
        "refill": any(entry.offer.refillable for entry in on.priced),
        "offers": len(service.offers),
    }


async def quote(request: web.Request, caller: Caller) -> web.Response:
    """`POST /v1/quote`: the ranking that an order placed now would get, by the stock last heard of."""
    services = services_of(request)
    house = services.house
    wish = quoted_order(read(QuoteRequest, await read_body(request)), caller.name, house.settings.currency)
    order = services.intake.check(wish._replace(link=wish.link or SOME_LINK))
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
