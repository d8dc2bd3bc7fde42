"""The world as routing sees it, loaded by few queries: offers with their catalogue rows and histories, providers'
health.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from aggregator.config import OfferSettings, ProviderSettings, ServiceSettings, Settings
from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.children import own_params, runs_of
from aggregator.domain.history import OfferHistory
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, Role
from aggregator.domain.routing import OfferView, ProviderView, RefillWish, Wanted
from aggregator.flow.base import House
from aggregator.storage import attempts, catalogue, history, ledger
from aggregator.storage.database import Connection, RowMapping

Rows = Mapping[tuple[str, str], list[tuple[CatalogueRow, datetime | None]]]

LONG_QUIET_S: Final = 30.0
"""A provider that wants no call for longer than this is no place for an order that others could take now."""


@dataclass(frozen=True, slots=True)
class World:
    """What the database knew at one moment."""

    rows: Rows
    health: Mapping[str, RowMapping]
    in_flight: Mapping[str, list[Money]]
    moved: Mapping[str, list[Money]]
    """What was booked since the last balance reading; charges are negative."""
    histories: Mapping[tuple[str, str], OfferHistory] = field(default_factory=dict)
    """How earlier orders ended, by provider and service."""


def is_offered(settings: Settings, order: Order, provider: str, target: str) -> bool:
    """Whether the config, as it is now, lets an order be bought there."""
    service, account = settings.services.get(order.service), settings.providers.get(provider)
    offered = service is not None and any(one.provider == provider and one.target == target for one in service.offers)
    return offered and account is not None and account.enabled


def load_world(connection: Connection, services: Iterable[ServiceSettings]) -> World:
    wanted = sorted({(offer.provider, offer.target) for service in services for offer in service.offers})
    return World(
        rows=catalogue.offer_rows(connection, wanted),
        health=catalogue.health(connection),
        in_flight=attempts.in_flight(connection),
        moved=ledger.moved_since_reading(connection),
        histories=history.load(connection, wanted),
    )


def refill_wish(service: ServiceSettings) -> RefillWish:
    """Whether an offer's refills decide anything: only where the config speaks of them, as `auto` is usual."""
    if service.refill.required:
        return "required"
    return "wanted" if service.refill.auto and "auto" in service.refill.model_fields_set else "any"


def wanted(order: Order, service: ServiceSettings) -> Wanted:
    """What an order asks of an offer; a parent asks for each of its runs, which then knows nothing of the others."""
    runs = runs_of(order.params)
    ours = order.role is Role.PARENT
    return Wanted(
        kind=order.kind,
        quantity=order.quantity,
        link=order.link,
        params=own_params(order) if ours else order.params,
        max_cost=order.max_cost,
        pinned_provider=order.pinned_provider,
        strategy=service.strategy,
        refill=refill_wish(service),
        runs=runs,
        drip_feed=runs > 1 and not ours,
    )


def offer_views(
    house: House,
    service: ServiceSettings,
    world: World,
    tried: Mapping[tuple[str, str, str], str],
    params: Mapping[str, str],
) -> list[OfferView]:
    """Every configured offer of a service as it stands."""
    views = []
    for place, offer in enumerate(service.offers):
        settings = house.settings.providers.get(offer.provider)
        if settings is None:
            continue  # it left the config after the service was looked up
        provider = provider_view(house, offer.provider, settings, world)
        row, stock_at, country = _row(world.rows.get((offer.provider, offer.target), []), offer, params)
        views.append(
            OfferView(
                provider=provider,
                service=offer.target,
                country=country,
                row=row,
                stock_at=stock_at,
                tried=tried.get((offer.provider, offer.target, country)),
                order=place,
                history=world.histories.get((offer.provider, offer.target)),
            )
        )
    return views


def provider_view(house: House, name: str, settings: ProviderSettings, world: World) -> ProviderView:
    row = world.health.get(name)
    balance = None
    if row is not None and row["balance_units"] is not None:
        balance = Money(row["balance_units"], row["balance_currency"])
    return ProviderView(
        name=name,
        enabled=settings.enabled,
        paused=bool(row["paused"]) if row is not None else False,
        synced=row is not None and row["catalogue_at"] is not None,
        catalogue_error=row["catalogue_error"] if row is not None else None,
        down_reason=house.health.down_reason(name) or _quiet(house, name),
        balance=balance,
        in_flight=_in_flight(world.in_flight.get(name, []), world.moved.get(name, []), balance),
        rate_per={"smm": settings.rate_per.smm, "product": settings.rate_per.product},
        refills=name in house.gateways and house.gateways[name].capabilities.refill,
        drip_feed=name in house.gateways and house.gateways[name].capabilities.drip_feed,
    )


def _quiet(house: House, name: str) -> str | None:
    gateway = house.gateways.get(name)
    long = gateway is not None and gateway.quiet_s > LONG_QUIET_S
    return "its rate limit asks for a longer pause" if long else None


def _in_flight(costs: Iterable[Money], moved: Iterable[Money], balance: Money | None) -> Money | None:
    """What the balance does not show yet: purchases under way, and those booked since it was read."""
    if balance is None:
        return None
    under_way = sum(cost.units for cost in costs if cost.currency == balance.currency)
    booked = -sum(amount.units for amount in moved if amount.currency == balance.currency)
    return Money(under_way + max(0, booked), balance.currency)


def _row(
    rows: list[tuple[CatalogueRow, datetime | None]], offer: OfferSettings, params: Mapping[str, str]
) -> tuple[CatalogueRow | None, datetime | None, str]:
    """The catalogue row of an offer; a project has one per country, and the order may name the country."""
    # A service and a project may have the same id: two things of which an offer means one.
    rows = [entry for entry in rows if (entry[0].kind == "sms") is (offer.project is not None)]
    if offer.project is None:
        return (*rows[0], "") if rows else (None, None, "")
    country = offer.country or params.get("country") or ""
    if offer.country and params.get("country") and params["country"].casefold() != offer.country.casefold():
        return None, None, offer.country
    fitting = [entry for entry in rows if not country or entry[0].country.casefold() == country.casefold()]
    if not fitting:
        return None, None, country
    # Without a country the provider chooses; the dearest row is the cost that will not be exceeded. A row that nobody
    # can buy is chosen only where there is no other.
    row, stock_at = max(
        fitting, key=lambda entry: (entry[0].problem is None, entry[0].rate.units if entry[0].rate else 0)
    )
    return row, stock_at, country
