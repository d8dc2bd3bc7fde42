"""Which offer takes an order: every candidate ranked, each with the reason it was or was not chosen.

Pure: the world (catalogue rows, balances, breakers, exchange rates, histories) comes in as views, a ranking goes out.
Prices are compared in one currency; an offer whose price cannot be expressed in it is not eligible, and the ranking
says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from aggregator.domain.catalogue import CatalogueRow, Kind, QuantityFrom, ServiceType, service_type
from aggregator.domain.clock import rfc3339
from aggregator.domain.history import OfferHistory
from aggregator.domain.money import Money, MoneyError, format_units
from aggregator.domain.parameters import ignored_params, missing_params
from aggregator.domain.value import Average, Worth, average, reliability, worth

Strategy = Literal["cheapest", "best_value"]
RefillWish = Literal["any", "wanted", "required"]

_BY_PIECES: Final = frozenset({QuantityFrom.CALLER, QuantityFrom.COMMENTS, QuantityFrom.USERNAMES})
"""Where an order's quantity is what a row's min and max limit; a package is one whatever they say."""
_AGE_STEP_S: Final = 3600
"""Offers that became known within the same hour are of one age: first syncs end in any order."""
_EQUAL: Final = (
    "can be refilled",
    "has a known stock",
    "completed more of its orders",
    "is known for longer",
    "comes first in the config",
)
"""What the better one of two equals does, in the order in which that is asked."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What routing must know of an order, and of the service it is for.

    `refill`: whether an offer that cannot be refilled comes after an equal one that can ("wanted"), or is none at all.
    `runs`: into how many runs the quantity goes; `drip_feed`: the provider is to make them, not we.
    """

    kind: Kind
    quantity: int
    link: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    max_cost: Money | None = None
    pinned_provider: str | None = None
    strategy: Strategy = "cheapest"
    refill: RefillWish = "any"
    runs: int = 1
    drip_feed: bool = False


@dataclass(frozen=True, slots=True)
class ProviderView:
    """A provider as it stands now. `in_flight` is the cost of purchases sent and not yet seen in the balance."""

    name: str
    enabled: bool = True
    paused: bool = False
    synced: bool = True
    catalogue_error: str | None = None
    """Why the newest catalogue was not taken over, or None."""
    down_reason: str | None = None
    balance: Money | None = None
    in_flight: Money | None = None
    rate_per: Mapping[str, int] = field(default_factory=dict)
    refills: bool = True
    """Whether a refill can be asked for there at all; rows claim it where nobody can."""
    drip_feed: bool = True
    """Whether it is told runs and interval at all; where it is not, it would deliver one run and forget the others."""


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
    history: OfferHistory | None = None

    @property
    def refillable(self) -> bool:
        return self.provider.refills and self.row is not None and self.row.refill


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer in a ranking. `expected` is in the provider's currency, `cost` in the one prices are compared in; with
    the strategy best_value, `worth` is what that cost counts as."""

    offer: OfferView
    eligible: bool
    reason: str
    expected: Money | None = None
    cost: Money | None = None
    type: ServiceType | None = None
    worth: Money | None = None

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

    def as_quote(self, kind: Kind, now: datetime) -> dict[str, object]:
        """The same with all that the decision was made from; `now` gives the stock its age."""
        row, stock_at = self.offer.row, self.offer.stock_at
        history = self.offer.history or OfferHistory()
        details: dict[str, object] = {"worth": self.worth.as_json() if self.worth is not None else None}
        if row is not None:
            whole = per_order(row, kind)
            details |= {
                "rate": row.rate.as_json() if row.rate is not None else None,
                "charged_rate": row.charged_rate.as_json() if row.charged_rate is not None else None,
                "rate_per": None if whole else pieces_per_rate(row, kind, self.offer.provider.rate_per),
                "rate_per_learned": row.learned_per is not None,
                "min": row.minimum,
                "max": row.maximum,
                "refill": self.offer.refillable,
                "stock_at": rfc3339(stock_at) if stock_at is not None and row.has_stock else None,
                "stock_age_s": (
                    max(0, round((now - stock_at).total_seconds())) if stock_at is not None and row.has_stock else None
                ),
                "known_since": rfc3339(row.known_since) if row.known_since is not None else None,
            }
        return {**self.as_json(), **details, "history": history.as_json()}


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates, the eligible first and the best of them at the top."""

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

    def as_quote(self, kind: Kind, now: datetime) -> list[dict[str, object]]:
        return [candidate.as_quote(kind, now) for candidate in self.candidates]

    def why(self) -> str:
        """The reasons in one sentence, for the order's error."""
        return "; ".join(
            f"{candidate.offer.provider.name}/{candidate.offer.service}: {candidate.reason}"
            for candidate in self.candidates
        )


@dataclass(slots=True)
class _Fit:
    """An offer that can take the order, while it is ranked. `weight` is what is compared: its cost, or its worth."""

    offer: OfferView
    row: CatalogueRow
    type: ServiceType
    expected: Money
    cost: Money
    worth: Worth | None = None
    weight: int = 0
    key: tuple[bool, bool, Decimal, float, int] = (False, False, Decimal(0), 0.0, 0)


def choose(
    wanted: Wanted, offers: Sequence[OfferView], *, currency: str, exchange_rates: Mapping[str, Decimal]
) -> Ranking:
    """Rank the offers for an order by real cost, or by what that is worth where the service's strategy is best_value.

    Between equals: refill where it is wanted, stock known before unknown, the more reliable, the one known for longer,
    their order in the config.
    """
    types: dict[str, ServiceType | str] = {}
    fits: list[_Fit] = []
    others: list[Candidate] = []
    for offer in offers:
        judged = _judge(wanted, offer, types, currency, exchange_rates)
        if isinstance(judged, _Fit):
            fits.append(judged)
        else:
            others.append(judged)
    if not fits:
        return Ranking(tuple(others))
    _weigh(wanted, fits)
    fits.sort(key=lambda fit: (fit.weight, fit.key))
    best = fits[0]
    ranked = [
        Candidate(fit.offer, True, reason, fit.expected, fit.cost, fit.type, fit.worth.cost if fit.worth else None)
        for fit, reason in ((fit, _reason(wanted, fit, best)) for fit in fits)
    ]
    return Ranking((*ranked, *others))


def _weigh(wanted: Wanted, fits: Sequence[_Fit]) -> None:
    """What each is compared by; little history counts as what is usual among these offers."""
    usual = average([fit.offer.history for fit in fits])
    for fit in fits:
        if wanted.strategy == "best_value":
            fit.worth = worth(fit.cost, fit.offer.history, usual)
        fit.weight = (fit.worth.cost if fit.worth is not None else fit.cost).units
        fit.key = _key(wanted, fit, usual)


def _key(wanted: Wanted, fit: _Fit, usual: Average) -> tuple[bool, bool, Decimal, float, int]:
    """What decides between equal weights, the smaller first; `_EQUAL` has the words for it."""
    since = fit.row.known_since
    return (
        wanted.refill == "wanted" and not fit.offer.refillable,
        fit.row.has_stock and fit.row.stock is None,
        -reliability(fit.offer.history, usual),
        since.timestamp() // _AGE_STEP_S if since is not None else float("inf"),
        fit.offer.order,
    )


def _reason(wanted: Wanted, fit: _Fit, best: _Fit) -> str:
    reason = _place(fit, best)
    if fit.worth is not None:
        reason += f"; counts as {fit.worth.cost.amount} {fit.worth.cost.currency}: {fit.worth.note}"
    if wanted.refill == "wanted" and not fit.offer.refillable:
        reason += "; this one cannot be refilled"
    return reason


def _place(fit: _Fit, best: _Fit) -> str:
    if fit is best:
        return "chosen: the cheapest that can take it" if fit.worth is None else "chosen: the best value"
    difference = fit.weight - best.weight
    if difference:
        amount = f"{format_units(difference)} {fit.cost.currency}"
        return f"eligible, dearer by {amount}" if fit.worth is None else f"eligible, worse by {amount}"
    place = next((place for place, (mine, its) in enumerate(zip(fit.key, best.key, strict=True)) if mine != its), -1)
    equal = "cost" if fit.worth is None else "value"
    return f"eligible at the same {equal}; the chosen one {_EQUAL[place]}"


def expected_cost(row: CatalogueRow, kind: Kind, quantity: int, rate_per: Mapping[str, int]) -> Money:
    """What `quantity` pieces should cost: by the piece for numbers, once for packages, else by what the rate buys.

    What charges have taught goes before the catalogue's rate and before the config's `rate_per`.

    MoneyError when the row has no usable rate or the cost is larger than can be stored.
    """
    return _cost(row, service_type(kind, row.type), kind, quantity, rate_per)


def _cost(
    row: CatalogueRow, kind_type: ServiceType | None, kind: Kind, quantity: int, rate_per: Mapping[str, int]
) -> Money:
    if row.rate is None:
        raise MoneyError("the catalogue has no usable price")
    rate = row.charged_rate or row.rate
    if kind_type is not None and kind_type.per_order:
        return rate
    return rate.times(quantity, pieces_per_rate(row, kind, rate_per))


def takes(offer: OfferView, kind: Kind, quantity: int) -> bool:
    """Whether an offer sells so many pieces at all, whatever stands in its way at the moment."""
    row = offer.row
    kind_type = service_type(kind, row.type) if row is not None else None
    if row is None or kind_type is None or row.kind != kind:
        return False
    return kind_type.quantity not in _BY_PIECES or row.minimum <= quantity <= row.maximum


def per_order(row: CatalogueRow, kind: Kind) -> bool:
    """Whether the rate buys one whole order, whatever its quantity."""
    kind_type = service_type(kind, row.type)
    return kind_type is not None and kind_type.per_order


def pieces_per_rate(row: CatalogueRow, kind: Kind, rate_per: Mapping[str, int]) -> int:
    """How many pieces the rate buys: one for numbers; as charges taught; as the config says."""
    if kind == "sms":
        return 1
    return row.learned_per or rate_per.get(kind, 1000 if kind == "smm" else 1)


def _judge(
    wanted: Wanted,
    offer: OfferView,
    types: dict[str, ServiceType | str],
    currency: str,
    exchange_rates: Mapping[str, Decimal],
) -> _Fit | Candidate:
    """The offer as one that can take the order, or with the reason why not. `types` remembers what was said of the
    service types so far: most offers are of the same one."""
    row = offer.row
    blocked = _blocked(wanted, offer)
    if blocked is not None or row is None:
        return Candidate(offer, False, blocked or "not in the provider's catalogue")
    kind_type = types.get(row.type)
    if kind_type is None:
        kind_type = types[row.type] = _fitting_type(wanted, row.type)
    if isinstance(kind_type, str):
        return Candidate(offer, False, kind_type)
    unfit = _unfit(wanted, offer, row, kind_type)
    if unfit is not None:
        return Candidate(offer, False, unfit)
    try:
        expected = _cost(row, kind_type, wanted.kind, wanted.quantity, offer.provider.rate_per)
        cost = _converted(expected, currency, exchange_rates)
    except MoneyError as exc:
        return Candidate(offer, False, str(exc))
    if cost is None:
        reason = f"no exchange rate from {expected.currency} to {currency} (config `exchange_rates`)"
        return Candidate(offer, False, reason, expected)
    reason = _unaffordable(wanted, offer.provider, expected, cost, exchange_rates, currency)
    if reason:
        return Candidate(offer, False, reason, expected, cost, kind_type)
    return _Fit(offer, row, kind_type, expected, cost)


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
        return _unlisted(provider)
    if provider.down_reason is not None:
        return f"the provider is down: {provider.down_reason}"
    if row.problem is not None:
        return f"quarantined: {row.problem}"
    if row.kind != wanted.kind:
        return f"the provider sells this as {row.kind}, the order wants {wanted.kind}"
    return None


def _unlisted(provider: ProviderView) -> str:
    """Why there is no row: the provider does not list it, or nobody knows what it lists, and why."""
    error = provider.catalogue_error
    if not provider.synced:
        return "the provider's catalogue is not synced yet" + (f": {error}" if error is not None else "")
    return "not in the provider's catalogue" + (
        f" (the newest was not taken over: {error})" if error is not None else ""
    )


def _fitting_type(wanted: Wanted, raw: str) -> ServiceType | str:
    """The service type, when it takes what the order says, or why it does not."""
    kind_type = service_type(wanted.kind, raw)
    if kind_type is None:
        return f"unknown service type {raw!r}"
    lacking = missing_params(kind_type, wanted.link, wanted.params)
    if lacking:
        return f"its type {kind_type.name!r} needs {', '.join(lacking)}"
    ignored = ignored_params(kind_type, wanted.params)
    if ignored:
        return f"its type {kind_type.name!r} does not take {', '.join(ignored)}"
    return kind_type


def _unfit(wanted: Wanted, offer: OfferView, row: CatalogueRow, kind_type: ServiceType) -> str | None:
    """Why what is sold there is not what the order wants."""
    if wanted.refill == "required" and not offer.refillable:
        return "it cannot be refilled, which the service requires (config `refill.required`)"
    if wanted.drip_feed and not offer.provider.drip_feed:
        return f"it has no drip-feed, the order wants {wanted.runs} runs"
    piece = wanted.quantity // wanted.runs
    if kind_type.quantity in _BY_PIECES and not row.minimum <= piece <= row.maximum:
        return f"takes {row.minimum} to {row.maximum}, the order wants {piece}"
    needed = wanted.quantity if wanted.drip_feed else piece
    if row.has_stock and row.stock is not None and row.stock < needed:
        return f"out of stock: {row.stock} of {needed}"
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
