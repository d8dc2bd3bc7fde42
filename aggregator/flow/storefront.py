"""What our services cost and are sold as at this moment: the offer that would win the smallest order, and its price.

Both doors list from here. It asks the same rules as routing with what the database knows; it decides about no order,
and it never asks a provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from aggregator.config import ServiceSettings
from aggregator.domain.catalogue import PRICE_PER, CatalogueRow, service_type
from aggregator.domain.money import Money, MoneyError
from aggregator.domain.routing import Candidate, OfferView, Wanted, choose, expected_cost
from aggregator.domain.value import average, worth
from aggregator.flow.base import House
from aggregator.flow.views import World, offer_views, refill_wish

SOME_LINK: Final = "https://example.com/"
"""Where an order goes changes no price, so nobody needs a link to ask for one."""


@dataclass(frozen=True, slots=True)
class Priced:
    """An offer with what it asks for `per` pieces in the config's currency."""

    offer: OfferView
    row: CatalogueRow
    price: Money
    per: int


@dataclass(frozen=True, slots=True)
class Shelf:
    """A service as it is sold now: the offers that could take an order, the winner first, and the others with the
    reason why they could not. `shown` is what to list: the winner, else the cheapest that is known, which cannot take
    an order now."""

    service: ServiceSettings
    priced: tuple[Priced, ...]
    refused: tuple[tuple[OfferView, str], ...]
    shown: Priced | None

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(f"{view.provider.name}/{view.service}: {reason}" for view, reason in self.refused)

    @property
    def best(self) -> Priced | None:
        return self.priced[0] if self.priced else None


def shelf(house: House, service: ServiceSettings, world: World, params: Mapping[str, str] | None = None) -> Shelf:
    """The service by what the world knows; `params` may name the country of rented numbers."""
    views = offer_views(house, service, world, {}, params or {})
    judged = [(view, _judge(house, service, view), _price(house, service, view)) for view in views]
    priced = _ranked(service, [one for _, candidate, one in judged if candidate.eligible and one is not None])
    refused = tuple((view, candidate.reason) for view, candidate, _ in judged if not candidate.eligible)
    known = [one for view, _, one in judged if one is not None and _sold(service, view)]
    cheapest = sorted(known, key=lambda one: one.price.units)
    return Shelf(service, priced, refused, next(iter((*priced, *cheapest)), None))


def _ranked(service: ServiceSettings, able: list[Priced]) -> tuple[Priced, ...]:
    """The winner first, by what the service's strategy compares; equals in the config's order."""
    usual = average([one.offer.history for one in able])

    def weight(one: Priced) -> int:
        if service.strategy == "best_value":
            return worth(one.price, one.offer.history, usual).cost.units
        return one.price.units

    return tuple(sorted(able, key=weight))


def _sold(service: ServiceSettings, view: OfferView) -> bool:
    """Whether a catalogue that we believe lists the offer, whatever stands in its way now."""
    row = view.row
    return row is not None and row.problem is None and row.kind == service.kind and view.provider.enabled


def _judge(house: House, service: ServiceSettings, view: OfferView) -> Candidate:
    """Whether the smallest order could go there now, else why not."""
    row = view.row
    probe = Wanted(service.kind, 1)
    if row is not None:
        kind_type = service_type(service.kind, row.type)
        params = dict.fromkeys(kind_type.required, "1") if kind_type is not None else {}
        probe = Wanted(service.kind, max(1, row.minimum), SOME_LINK, params, refill=refill_wish(service))
    settings = house.settings
    ranking = choose(probe, [view], currency=settings.currency, exchange_rates=settings.exchange_rates)
    return ranking.candidates[0]


def _price(house: House, service: ServiceSettings, view: OfferView) -> Priced | None:
    """The offer's price in the config's currency; None where it cannot be told."""
    row = view.row
    if row is None:
        return None
    kind_type = service_type(service.kind, row.type)
    per = 1 if kind_type is not None and kind_type.per_order else PRICE_PER[service.kind]
    try:
        price = in_currency(house, expected_cost(row, service.kind, per, view.provider.rate_per))
    except MoneyError:
        return None
    return Priced(view, row, price, per) if price is not None else None


def in_currency(house: House, amount: Money) -> Money | None:
    """An amount in the currency that prices are compared in; None without a rate. MoneyError when it is too large."""
    settings = house.settings
    if amount.currency == settings.currency:
        return amount
    rate = settings.exchange_rates.get(amount.currency)
    return amount.convert(rate, settings.currency) if rate is not None else None


def shown_in_currency(house: House, amount: Money) -> Money:
    """The same where people read it: as it is where it cannot be converted."""
    try:
        return in_currency(house, amount) or amount
    except MoneyError:
        return amount


def total(house: House, amounts: Iterable[Money]) -> Money:
    """What amounts of several currencies come to in the one that prices are compared in; one without a rate is left
    out."""
    known = (in_currency(house, amount) for amount in amounts)
    return Money(sum(amount.units for amount in known if amount is not None), house.settings.currency)
