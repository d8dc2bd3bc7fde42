"""Which offer takes an order: every candidate ranked, each with the reason it was or was not chosen.

Pure: the world (catalogue rows, balances, breakers, exchange rates) comes in as views, a ranking goes out. Prices are
compared in one currency; an offer whose price cannot be expressed in it is not eligible, and the ranking says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from aggregator.domain.catalogue import CatalogueRow, Kind, QuantityFrom, ServiceType, service_type
from aggregator.domain.money import Money, MoneyError
from aggregator.domain.parameters import missing_params

_BY_PIECES: Final = frozenset({QuantityFrom.CALLER, QuantityFrom.COMMENTS, QuantityFrom.USERNAMES})
"""Where an order's quantity is what a row's min and max limit; a package is one whatever they say."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What routing must know of an order."""

    kind: Kind
    quantity: int
    link: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    max_cost: Money | None = None
    pinned_provider: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderView:
    """A provider as it stands now. `in_flight` is the cost of purchases sent and not yet seen in the balance."""

    name: str
    enabled: bool = True
    paused: bool = False
    synced: bool = True
    down_reason: str | None = None
    balance: Money | None = None
    in_flight: Money | None = None
    rate_per: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OfferView:
    """One configured offer with what the catalogue says of it; `row` None: not in the catalogue.

    `tried` is why this round does not ask it again, `order` its place in the config: the last tie-breaker.
    """

    provider: ProviderView
    service: str
    country: str = ""
    row: CatalogueRow | None = None
    stock_at: datetime | None = None
    tried: str | None = None
    order: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer in a ranking. `expected` is in the provider's currency, `cost` in the one prices are compared in."""

    offer: OfferView
    eligible: bool
    reason: str
    expected: Money | None = None
    cost: Money | None = None
    type: ServiceType | None = None

    def as_json(self) -> dict[str, object]:
        row = self.offer.row
        return {
            "provider": self.offer.provider.name,
            "service": self.offer.service,
            **({"country": self.offer.country} if self.offer.country else {}),
            "eligible": self.eligible,
            "reason": self.reason,
            "expected_cost": self.expected.as_json() if self.expected else None,
            "cost": self.cost.as_json() if self.cost else None,
            "stock": row.stock if row is not None else None,
        }


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates, the eligible first and the cheapest of them at the top."""

    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate | None:
        first = self.candidates[0] if self.candidates else None
        return first if first is not None and first.eligible else None

    @property
    def waits_for_sync(self) -> bool:
        return any(not candidate.offer.provider.synced for candidate in self.candidates)

    def as_json(self) -> list[dict[str, object]]:
        return [candidate.as_json() for candidate in self.candidates]

    def why(self) -> str:
        """The reasons in one sentence, for the order's error."""
        return "; ".join(
            f"{candidate.offer.provider.name}/{candidate.offer.service}: {candidate.reason}"
            for candidate in self.candidates
        )


def choose(
    wanted: Wanted, offers: Sequence[OfferView], *, currency: str, exchange_rates: Mapping[str, Decimal]
) -> Ranking:
    """Rank the offers for an order by real cost, then stock known before unknown, then their order in the config."""
    judged = [_judge(wanted, offer, currency, exchange_rates) for offer in offers]
    eligible = sorted(
        (candidate for candidate in judged if candidate.eligible),
        key=lambda c: (c.cost.units if c.cost else 0, _stock_unknown(c.offer), c.offer.order),
    )
    others = [candidate for candidate in judged if not candidate.eligible]
    if not eligible:
        return Ranking(tuple(others))
    best = eligible[0]
    ranked = [replace(best, reason="chosen: the cheapest that can take it")]
    ranked += [replace(candidate, reason=_dearer(candidate, best)) for candidate in eligible[1:]]
    return Ranking((*ranked, *others))


def _stock_unknown(offer: OfferView) -> bool:
    return offer.row is not None and offer.row.has_stock and offer.row.stock is None


def _dearer(candidate: Candidate, best: Candidate) -> str:
    assert candidate.cost is not None
    assert best.cost is not None
    difference = candidate.cost - best.cost
    if difference.units:
        return f"eligible, dearer by {difference.amount} {difference.currency}"
    return "eligible at the same cost; another comes first"


def expected_cost(row: CatalogueRow, kind: Kind, quantity: int, rate_per: Mapping[str, int]) -> Money:
    """What `quantity` pieces should cost: by the piece for numbers, once for packages, else by what the rate buys.

    What charges have taught goes before the catalogue's rate and before the config's `rate_per`.

    MoneyError when the row has no usable rate or the cost is larger than can be stored.
    """
    if row.rate is None:
        raise MoneyError("the catalogue has no usable price")
    rate = row.charged_rate or row.rate
    if per_order(row, kind):
        return rate
    return rate.times(quantity, pieces_per_rate(row, kind, rate_per))


def per_order(row: CatalogueRow, kind: Kind) -> bool:
    """Whether the rate buys one whole order, whatever its quantity."""
    kind_type = service_type(kind, row.type)
    return kind_type is not None and kind_type.per_order


def pieces_per_rate(row: CatalogueRow, kind: Kind, rate_per: Mapping[str, int]) -> int:
    """How many pieces the rate buys: one for numbers; as charges taught; as the config says."""
    if kind == "sms":
        return 1
    return row.learned_per or rate_per.get(kind, 1000 if kind == "smm" else 1)


def _judge(wanted: Wanted, offer: OfferView, currency: str, exchange_rates: Mapping[str, Decimal]) -> Candidate:
    blocked = _blocked(wanted, offer)
    if blocked is not None or offer.row is None:
        return Candidate(offer, False, blocked or "not in the provider's catalogue")
    row = offer.row
    try:
        expected = expected_cost(row, wanted.kind, wanted.quantity, offer.provider.rate_per)
        cost = _converted(expected, currency, exchange_rates)
    except MoneyError as exc:
        return Candidate(offer, False, str(exc))
    kind_type = service_type(wanted.kind, row.type)
    if cost is None:
        reason = f"no exchange rate from {expected.currency} to {currency} (config `exchange_rates`)"
        return Candidate(offer, False, reason, expected)
    reason = _unaffordable(wanted, offer.provider, expected, cost, exchange_rates, currency)
    return Candidate(offer, reason == "", reason, expected, cost, kind_type)


def _converted(expected: Money, currency: str, exchange_rates: Mapping[str, Decimal]) -> Money | None:
    if expected.currency == currency:
        return expected
    rate = exchange_rates.get(expected.currency)
    return expected.convert(rate, currency) if rate is not None else None


def _blocked(wanted: Wanted, offer: OfferView) -> str | None:
    """Why an offer cannot take the order whatever it costs."""
    provider, row = offer.provider, offer.row
    if wanted.pinned_provider is not None and provider.name != wanted.pinned_provider:
        return f"the order is pinned to {wanted.pinned_provider}"
    if not provider.enabled:
        return "the provider is disabled in the config"
    if provider.paused:
        return "the provider is paused"
    if offer.tried is not None:
        return offer.tried
    if row is None:
        return "not in the provider's catalogue" if provider.synced else "the provider's catalogue is not synced yet"
    if provider.down_reason is not None:
        return f"the provider is down: {provider.down_reason}"
    if row.problem is not None:
        return f"quarantined: {row.problem}"
    return _unfit(wanted, row)


def _unfit(wanted: Wanted, row: CatalogueRow) -> str | None:
    if row.kind != wanted.kind:
        return f"the provider sells this as {row.kind}, the order wants {wanted.kind}"
    kind_type = service_type(wanted.kind, row.type)
    if kind_type is None:
        return f"unknown service type {row.type!r}"
    lacking = missing_params(kind_type, wanted.link, wanted.params)
    if lacking:
        return f"its type {kind_type.name!r} needs {', '.join(lacking)}"
    if kind_type.quantity in _BY_PIECES and not row.minimum <= wanted.quantity <= row.maximum:
        return f"takes {row.minimum} to {row.maximum}, the order wants {wanted.quantity}"
    if row.has_stock and row.stock is not None and row.stock < wanted.quantity:
        return f"out of stock: {row.stock} of {wanted.quantity}"
    return None


def _unaffordable(
    wanted: Wanted,
    provider: ProviderView,
    expected: Money,
    cost: Money,
    exchange_rates: Mapping[str, Decimal],
    currency: str,
) -> str:
    limit = wanted.max_cost
    if limit is not None and limit.currency == expected.currency:
        if expected.units > limit.units:
            return f"costs {expected.amount} {expected.currency}, more than max_cost {limit.amount} {limit.currency}"
    elif limit is not None:
        try:
            same = _converted(limit, currency, exchange_rates)
        except MoneyError:  # more than can be stored, hence more than any cost
            same = cost
        if same is None:
            return f"no exchange rate from {limit.currency}, the currency of max_cost, to {currency}"
        if cost.units > same.units:
            return f"costs {cost.amount} {cost.currency}, more than max_cost {limit.amount} {limit.currency}"
    balance = provider.balance
    if balance is not None and balance.currency == expected.currency:
        held = provider.in_flight.units if provider.in_flight is not None else 0
        if balance.units - held < expected.units:
            free = Money(balance.units - held, balance.currency)
            return f"the wallet has {free.amount} {free.currency} free, the order costs {expected.amount}"
    return ""
