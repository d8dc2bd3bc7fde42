"""What the panel door sells: services, categories, stock, projects of numbers, and the balance behind them.

Lists our services that have a `panel_id`, as the offer is that would win now; it asks no provider. One that nobody
could deliver now stays listed at the last known price: clients take a row that is gone for one that is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from aggregator.config import ServiceSettings
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.money import Money
from aggregator.flow.base import House
from aggregator.flow.storefront import Priced, Shelf, shelf, total
from aggregator.flow.views import World, load_world
from aggregator.storage import catalogue
from aggregator.storage.database import Connection
from aggregator.web.panel.calls import Call
from aggregator.web.panel.shapes import Listed, price
from aggregator.web.panel.window import WINDOW
from aggregator.web.panel.words import Refused, Word

LARGEST_PAGE: Final = 10_000


async def services(call: Call) -> object:
    """`action=services`, with the paging and the filters of hstockplus.txt."""
    category, subcategory = call.text("category"), call.text("subcategory")
    found = [
        call.shape.service(one)
        for one in await _listed(call)
        if category in ("", one.category) and subcategory in ("", one.subcategory)
    ]
    limit = min(call.number("limit") or 0, LARGEST_PAGE)
    return call.shape.services(found, max(1, call.number("page") or 1), limit)


async def categories(call: Call) -> object:
    # {"categories": [{"category": "Instagram", "subcategories": ["Followers", "Comments", "Likes"]}]}
    found: dict[str, list[str]] = {}
    for one in await _listed(call):
        names = found.setdefault(one.category, [])
        if one.subcategory and one.subcategory not in names:
            names.append(one.subcategory)
    return {"categories": [{"category": name, "subcategories": subs} for name, subs in found.items()]}


async def inventory(call: Call) -> object:
    # {"service": 23501, "stock": 42, "available": true, "entityType": "product", "autoDelivery": true}
    wanted = service_asked(call, "service")
    panel_id = wanted.panel_id or 0
    found = next(iter(await _priced(call.house, [(panel_id, call.house.settings.at_panel[panel_id])])), None)
    if found is None:
        raise Refused(Word.SERVICE)
    return {
        "service": found.id,
        "stock": found.stock,
        "available": found.available,
        "entityType": found.kind,
        "autoDelivery": found.shown.row.auto_delivery,
    }


async def balance(call: Call) -> object:
    """What the providers' accounts hold together, in the currency that prices are in."""
    # {"balance": "100.84292", "currency": "USD"}
    house = call.house

    def load(connection: Connection) -> list[Money]:
        rows = catalogue.health(connection)
        ours = [rows[name] for name, one in house.settings.providers.items() if one.enabled and name in rows]
        known = [row for row in ours if row["balance_units"] is not None]
        return [Money(row["balance_units"], row["balance_currency"]) for row in known]

    held = total(house, await house.database.read(load))
    return {"balance": held.amount, "currency": held.currency}


def service_asked(call: Call, name: str, *, numbers: bool = False) -> ServiceSettings:
    """The service that a parameter names by its `panel_id`; Problem when there is none of that kind."""
    if not call.text(name):
        raise Problem(ProblemKind.INVALID_FIELD, "is required", name)
    found = call.house.settings.at_panel.get(call.number(name) or 0)
    service = call.house.settings.services[found] if found is not None else None
    if service is None or (service.kind == "sms") is not numbers:
        raise Problem(ProblemKind.UNKNOWN_SERVICE, "is none that is sold here", name)
    return service


def quantity_asked(call: Call) -> int | None:
    """The parameter `quantity`, None when it is not there; Problem when it is no whole number."""
    if not call.text("quantity"):
        return None
    if (quantity := call.number("quantity")) is None:
        raise Problem(ProblemKind.INVALID_FIELD, "must be a whole number", "quantity")
    return quantity


async def _listed(call: Call) -> Sequence[Listed]:
    """All services other than numbers of which any price is known, by their id."""
    house, settings = call.house, call.house.settings
    names = [(one, name) for one, name in sorted(settings.at_panel.items()) if settings.services[name].kind != "sms"]
    return await call.request.app[WINDOW].look("services", lambda: _priced(house, names))


async def _priced(house: House, names: Sequence[tuple[int, str]]) -> list[Listed]:
    """Services by their id and name. Thousands of them take a second to price, so it is done beside the loop."""
    services = [house.settings.services[name] for _, name in names]
    world = await house.database.read(lambda c: load_world(c, services))

    def price_all() -> list[Listed]:
        shelves = ((panel_id, name, shelf(house, house.settings.services[name], world)) for panel_id, name in names)
        return [_as_listed(house, one, name, on, on.shown) for one, name, on in shelves if on.shown is not None]

    return await asyncio.to_thread(price_all)


def _as_listed(house: House, panel_id: int, name: str, on: Shelf, shown: Priced) -> Listed:
    row, gateway = shown.row, house.gateways.get(shown.offer.provider.name)
    return Listed(
        id=panel_id,
        name=on.service.title or row.name or name,
        type=row.type or "Default",
        category=on.service.category or row.category,
        subcategory=row.subcategory,
        kind=on.service.kind,
        shown=shown,
        stock=_stock(on),
        available=on.best is not None,
        cancel=row.cancel and gateway is not None and gateway.capabilities.cancel,
    )


def _stock(on: Shelf) -> int | None:
    """What one order could buy at most now: none where nobody could take one, unknown where somebody does not say."""
    if on.best is None:
        return 0
    known = [one.row.stock for one in on.priced]
    return None if None in known else max(stock for stock in known if stock is not None)


# --- numbers ---


@dataclass(frozen=True, slots=True)
class Project:
    """Numbers of one country that one of our services rents."""

    id: int
    name: str
    country: str
    title: str
    shown: Priced
    available: bool


async def sms_projects(call: Call) -> object:
    # [{"project_id": "65f...", "name": "OpenAI / ChatGPT", "price": "0.5000", "country_id": "us",
    #   "country_title": "United States"}]
    wanted = call.text("country").casefold()
    return [
        {
            "project_id": str(one.id),
            "name": one.name,
            "price": price(one.shown.price),
            "country_id": one.country,
            "country_title": one.title,
        }
        for one in await _projects(call)
        if wanted in ("", one.country.casefold())
    ]


async def sms_countries(call: Call) -> object:
    # [{"country_code": "us", "country_name": "United States"}]
    names = {one.country: one.title for one in await _projects(call)}
    return [{"country_code": code, "country_name": name} for code, name in names.items()]


async def _projects(call: Call) -> Sequence[Project]:
    house, settings = call.house, call.house.settings
    ours = [(one, name) for one, name in sorted(settings.at_panel.items()) if settings.services[name].kind == "sms"]

    async def work_out() -> list[Project]:
        world = await house.database.read(lambda c: load_world(c, [settings.services[name] for _, name in ours]))
        found = chain.from_iterable(_of_service(house, one, name, world) for one, name in ours)
        return await asyncio.to_thread(list, found)

    return await call.request.app[WINDOW].look("projects", work_out)


def _of_service(house: House, panel_id: int, name: str, world: World) -> Iterator[Project]:
    service = house.settings.services[name]
    for country in _countries(service, world):
        on = shelf(house, service, world, {"country": country} if country else {})
        if on.shown is not None:
            row = on.shown.row
            yield Project(
                panel_id, service.title or row.name or name, row.country, row.category, on.shown, on.best is not None
            )


def _countries(service: ServiceSettings, world: World) -> Sequence[str]:
    """The countries that a service's offers have, each once; an offer without one rents in all of its project's."""
    found: dict[str, str] = {}
    for offer in service.offers:
        rows = world.rows.get((offer.provider, offer.target), [])
        for country in [offer.country] if offer.country else [row.country for row, _ in rows if row.kind == "sms"]:
            found.setdefault(country.casefold(), country)
    return list(found.values())
