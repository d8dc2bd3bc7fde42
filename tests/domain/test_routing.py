"""Which offer takes an order, and what is said of every other one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.catalogue import SERVICE_TYPES, CatalogueRow, Kind
from aggregator.domain.history import OfferHistory
from aggregator.domain.money import MAX_UNITS, UNIT, Money, MoneyError
from aggregator.domain.routing import Candidate, OfferView, ProviderView, Ranking, Wanted, choose, expected_cost

RATES = {"EUR": Decimal("1.08"), "JPY": Decimal("0.0066")}


def money(amount: str, currency: str = "USD") -> Money:
    return Money.parse(amount, currency)


def a_row(rate: str | Money | None = "0.90", **fields: Any) -> CatalogueRow:
    usual: dict[str, Any] = {
        "service": "1",
        "name": "Followers",
        "kind": "smm",
        "type": "Default",
        "category": "Instagram",
        "minimum": 50,
        "maximum": 10_000,
        "refill": True,
        "cancel": False,
    }
    return CatalogueRow(rate=money(rate) if isinstance(rate, str) else rate, **{**usual, **fields})


def an_offer(name: str = "smmplus", row: CatalogueRow | None = None, *, order: int = 0, **provider: Any) -> OfferView:
    return OfferView(ProviderView(name, **provider), "1", row=row or a_row(), order=order)


WANTED = Wanted("smm", 1000, "https://instagram.com/username")


def ranked(offers: Sequence[OfferView], wanted: Wanted = WANTED, rates: dict[str, Decimal] = RATES) -> Ranking:
    return choose(wanted, offers, currency="USD", exchange_rates=rates)


def only(offer: OfferView, wanted: Wanted = WANTED) -> Candidate:
    [candidate] = ranked([offer], wanted).candidates
    return candidate


def names(ranking: Ranking) -> list[str]:
    return [candidate.offer.provider.name for candidate in ranking.candidates]


def best(ranking: Ranking) -> str | None:
    return ranking.best.offer.provider.name if ranking.best else None


# --- the cheapest ----------------------------------------------------------------------------------------------------


def test_the_cheapest_wins_and_the_others_are_told_by_how_much_they_are_dearer() -> None:
    ranking = ranked([an_offer("dear", a_row("1.20")), an_offer("cheap", a_row("0.90"), order=1)])
    assert names(ranking) == ["cheap", "dear"]
    assert [candidate.reason for candidate in ranking.candidates] == [
        "chosen: the cheapest that can take it",
        "eligible, dearer by 0.30 USD",
    ]
    assert ranking.candidates[0].expected == money("0.90")


def test_a_price_per_piece_is_compared_with_one_per_thousand_by_what_the_order_costs() -> None:
    wanted = Wanted("product", 2)
    per_piece = an_offer("per-piece", a_row("0.50", kind="product", minimum=1))
    per_thousand = an_offer("per-1000", a_row("400", kind="product", minimum=1), rate_per={"product": 1000})
    ranking = ranked([per_piece, per_thousand], wanted)
    assert best(ranking) == "per-1000"
    assert [candidate.cost for candidate in ranking.candidates] == [money("0.80"), money("1.00")]


@pytest.mark.parametrize(
    ("kind", "type_", "quantity", "rate_per", "cost"),
    [
        ("smm", "Default", 1000, {}, "0.90"),
        ("smm", "Default", 1, {}, "0.0009"),
        ("smm", "Default", 1000, {"smm": 1}, "900"),
        ("smm", "Default", 50, {"smm": 100}, "0.45"),
        ("smm", "Package", 1, {}, "0.90"),
        ("smm", "custom comments package", 1, {"smm": 1000}, "0.90"),
        ("smm", "Custom Comments", 10, {}, "0.009"),
        ("product", "anything", 3, {}, "2.70"),
        ("product", "anything", 3, {"product": 1000}, "0.0027"),
        ("sms", "SMS numbers", 3, {"smm": 7, "product": 7}, "2.70"),
    ],
)
def test_what_an_order_should_cost(kind: Kind, type_: str, quantity: int, rate_per: dict[str, int], cost: str) -> None:
    assert expected_cost(a_row(kind=kind, type=type_), kind, quantity, rate_per) == money(cost)


def test_a_price_that_grows_beyond_what_can_be_stored_is_not_eligible() -> None:
    row = a_row(Money(MAX_UNITS, "USD"))
    with pytest.raises(MoneyError):
        expected_cost(row, "smm", 10**15, {})
    candidate = only(an_offer(row=replace(row, maximum=10**15)), replace(WANTED, quantity=10**15))
    assert (candidate.eligible, candidate.reason) == (False, "the cost is larger than can be stored")


def test_a_package_costs_once_whatever_its_limits_say() -> None:
    wanted = replace(WANTED, quantity=1)
    package = an_offer("package", a_row("2.00", type="Package", minimum=1000, maximum=1000))
    candidate = only(package, wanted)
    assert (candidate.eligible, candidate.cost) == (True, money("2.00"))


# --- currencies ------------------------------------------------------------------------------------------------------


def test_prices_are_compared_in_one_currency_and_paid_in_the_providers() -> None:
    ranking = ranked([an_offer("usd", a_row("1.00")), an_offer("eur", a_row(money("0.93", "EUR")), order=1)])
    assert best(ranking) == "usd"
    ranking = ranked([an_offer("usd", a_row("1.00")), an_offer("eur", a_row(money("0.92", "EUR")), order=1)])
    assert best(ranking) == "eur"
    assert ranking.candidates[0].expected == money("0.92", "EUR")
    assert ranking.candidates[0].cost == money("0.9936")


def test_without_an_exchange_rate_an_offer_is_not_eligible_and_says_so() -> None:
    ranking = ranked([an_offer("rub", a_row(money("0.01", "RUB"))), an_offer("usd", order=1)])
    assert names(ranking) == ["usd", "rub"]
    lacking = ranking.candidates[1]
    assert (lacking.eligible, lacking.cost, lacking.expected) == (False, None, money("0.01", "RUB"))
    assert lacking.reason == "no exchange rate from RUB to USD (config `exchange_rates`)"


def test_a_cost_that_cannot_be_stored_in_the_other_currency_is_not_eligible() -> None:
    offer = an_offer(row=a_row(money("90000000000", "EUR")))
    candidate = only(offer)
    assert not candidate.eligible
    assert "larger than can be stored" in candidate.reason


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantity", "fits"), [(49, False), (50, True), (10_000, True), (10_001, False)])
def test_the_quantity_lies_within_the_offers_limits_both_included(quantity: int, fits: bool) -> None:
    candidate = only(an_offer(), replace(WANTED, quantity=quantity))
    assert candidate.eligible is fits
    if not fits:
        assert candidate.reason == f"takes 50 to 10000, the order wants {quantity}"


@pytest.mark.parametrize(("count", "fits"), [(9, False), (10, True), (21, False)])
def test_limits_hold_for_the_number_of_comments_too(count: int, fits: bool) -> None:
    wanted = Wanted("smm", count, "https://x.test", {"comments": "\n".join("nice" for _ in range(count))})
    offer = an_offer(row=a_row(type="Custom Comments", minimum=10, maximum=20))
    assert only(offer, wanted).eligible is fits


@pytest.mark.parametrize(
    ("has_stock", "stock", "fits"),
    [
        (True, 1000, True),
        (True, 999, False),
        (True, 0, False),
        (True, None, True),
        (False, None, True),
        (False, 0, True),
    ],
)
def test_stock_counts_where_the_dialect_knows_it_and_null_is_unknown(
    has_stock: bool, stock: int | None, fits: bool
) -> None:
    candidate = only(an_offer(row=a_row(has_stock=has_stock, stock=stock)))
    assert candidate.eligible is fits
    if not fits:
        assert candidate.reason == f"out of stock: {stock} of 1000"


def test_at_the_same_cost_known_stock_goes_before_unknown_stock() -> None:
    unknown = an_offer("unknown", a_row(has_stock=True, stock=None))
    known = an_offer("known", a_row(has_stock=True, stock=5000), order=1)
    without = an_offer("without", a_row(has_stock=False), order=2)
    assert names(ranked([unknown, known, without])) == ["known", "without", "unknown"]


def test_unknown_stock_that_is_cheaper_still_wins() -> None:
    unknown = an_offer("unknown", a_row("0.89", has_stock=True, stock=None))
    known = an_offer("known", a_row("0.90", has_stock=True, stock=5000), order=1)
    assert best(ranked([unknown, known])) == "unknown"


# --- types and parameters --------------------------------------------------------------------------------------------


def test_an_offer_of_another_kind_is_no_offer() -> None:
    candidate = only(an_offer(row=a_row(kind="product")))
    assert candidate.reason == "the provider sells this as product, the order wants smm"


def test_a_type_that_nobody_documented_is_not_guessed_at() -> None:
    candidate = only(an_offer(row=a_row(type="Quantum Likes")))
    assert (candidate.eligible, candidate.reason) == (False, "unknown service type 'Quantum Likes'")


@pytest.mark.parametrize(
    ("type_", "wanted", "lacks"),
    [
        ("Default", replace(WANTED, link=None), "link"),
        ("Custom Comments", WANTED, "comments"),
        ("Mentions with Hashtags", replace(WANTED, params={"usernames": "a"}), "hashtags"),
        ("Poll", replace(WANTED, params={"answer_number": ""}), "answer_number"),
    ],
)
def test_what_the_type_needs_and_the_order_lacks_is_named(type_: str, wanted: Wanted, lacks: str) -> None:
    candidate = only(an_offer(row=a_row(type=type_)), wanted)
    assert candidate.reason == f"its type {SERVICE_TYPES[type_.casefold()].name!r} needs {lacks}"


def test_a_candidate_carries_its_type_for_whoever_builds_the_purchase() -> None:
    assert only(an_offer(row=a_row(type="DEFAULT"))).type is SERVICE_TYPES["default"]


# --- providers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "reason"),
    [
        ({"enabled": False}, "the provider is disabled in the config"),
        ({"paused": True}, "the provider is paused"),
        ({"down_reason": "Invalid API key"}, "the provider is down: Invalid API key"),
    ],
)
def test_a_provider_that_takes_nothing_says_why(provider: dict[str, Any], reason: str) -> None:
    candidate = only(an_offer(**provider))
    assert (candidate.eligible, candidate.reason) == (False, reason)


@pytest.mark.parametrize(
    ("synced", "error", "reason"),
    [
        (True, None, "not in the provider's catalogue"),
        (True, "answers HTML", "not in the provider's catalogue (the newest was not taken over: answers HTML)"),
        (False, None, "the provider's catalogue is not synced yet"),
        (False, "answers HTML", "the provider's catalogue is not synced yet: answers HTML"),
    ],
)
def test_an_offer_without_a_row_says_whether_the_catalogue_is_known_and_why_not(
    synced: bool, error: str | None, reason: str
) -> None:
    offer = OfferView(ProviderView("smmplus", synced=synced, catalogue_error=error), "1")
    ranking = ranked([offer])
    assert ranking.candidates[0].reason == reason
    assert ranking.waits_for_sync is not synced


def test_a_row_known_from_an_earlier_run_is_good_before_the_first_sync() -> None:
    assert only(an_offer(synced=False)).eligible


def test_a_quarantined_row_is_no_bargain() -> None:
    candidate = only(an_offer(row=a_row(problem="the rate '0' is not above 0")))
    assert candidate.reason == "quarantined: the rate '0' is not above 0"


def test_a_row_without_a_price_is_not_eligible() -> None:
    assert only(an_offer(row=a_row(None))).reason == "the catalogue has no usable price"


def test_an_offer_that_refused_in_this_round_is_not_asked_again() -> None:
    offer = replace(an_offer(), tried="refused in this round: funds")
    assert only(offer).reason == "refused in this round: funds"


def test_a_pinned_order_goes_nowhere_else_however_cheap() -> None:
    offers = [an_offer("cheap", a_row("0.01")), an_offer("pinned", order=1)]
    ranking = ranked(offers, replace(WANTED, pinned_provider="pinned"))
    assert names(ranking) == ["pinned", "cheap"]
    assert ranking.candidates[1].reason == "the order is pinned to pinned"


def test_a_pinned_order_whose_provider_is_down_has_no_offer() -> None:
    offers = [an_offer("other"), an_offer("pinned", order=1, down_reason="timeout")]
    assert ranked(offers, replace(WANTED, pinned_provider="pinned")).best is None


# --- money limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_cost", "fits"),
    [
        (money("0.90"), True),
        (money("0.89999999"), False),
        (money("0.84", "EUR"), True),
        (money("0.83", "EUR"), False),
        (money("0"), False),
        (Money(MAX_UNITS, "EUR"), True),
        (Money(MAX_UNITS, "USD"), True),
    ],
)
def test_max_cost_is_kept_in_whatever_currency_it_was_given(max_cost: Money, fits: bool) -> None:
    candidate = only(an_offer(), replace(WANTED, max_cost=max_cost))
    assert candidate.eligible is fits
    if not fits:
        assert candidate.reason == f"costs 0.90 USD, more than max_cost {max_cost.amount} {max_cost.currency}"


def test_max_cost_in_the_providers_own_currency_is_compared_without_rounding() -> None:
    offer = an_offer(row=a_row(money("1000.00000001", "JPY")))
    assert not only(offer, replace(WANTED, max_cost=money("1000", "JPY"))).eligible
    assert only(offer, replace(WANTED, max_cost=money("1000.00000001", "JPY"))).eligible


def test_max_cost_in_a_currency_without_a_rate_lets_nobody_spend() -> None:
    candidate = only(an_offer(), replace(WANTED, max_cost=money("5000", "RUB")))
    assert not candidate.eligible
    assert candidate.reason == "no exchange rate from RUB, the currency of max_cost, to USD"


@pytest.mark.parametrize(
    ("balance", "in_flight", "fits"),
    [
        (money("0.90"), None, True),
        (money("0.89"), None, False),
        (money("1.80"), money("0.90"), True),
        (money("1.80"), money("0.91"), False),
        (money("-5"), None, False),
        (None, None, True),
        (None, money("100"), True),
        (money("0.01", "EUR"), None, True),
    ],
)
def test_the_wallet_less_what_is_in_flight_must_pay_for_it(
    balance: Money | None, in_flight: Money | None, fits: bool
) -> None:
    """An unknown balance, or one in another currency than the price, proves nothing against an offer."""
    candidate = only(an_offer(balance=balance, in_flight=in_flight))
    assert candidate.eligible is fits
    if not fits:
        assert candidate.reason.startswith("the wallet has ")


# --- ties and reasons ------------------------------------------------------------------------------------------------


def test_at_the_same_cost_the_configs_order_decides_whatever_order_they_come_in() -> None:
    offers = [an_offer(name, order=place) for place, name in enumerate("abc")]
    for arrangement in (offers, offers[::-1], [offers[1], offers[2], offers[0]]):
        ranking = ranked(arrangement)
        assert names(ranking) == ["a", "b", "c"]
        assert ranking.candidates[1].reason == "eligible at the same cost; the chosen one comes first in the config"


NOW = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
GOOD = OfferHistory(completed=20, ordered=20_000, delivered=20_000, duration_s=3600)
POOR = OfferHistory(completed=12, canceled=8, ordered=20_000, delivered=12_000, duration_s=3600)


def since(days: float) -> CatalogueRow:
    return a_row(known_since=NOW - timedelta(days=days))


def test_at_the_same_cost_the_more_reliable_wins_whatever_the_config_says() -> None:
    ranking = ranked([replace(an_offer("poor"), history=POOR), replace(an_offer("good", order=1), history=GOOD)])
    assert names(ranking) == ["good", "poor"]
    assert ranking.candidates[1].reason == ("eligible at the same cost; the chosen one completed more of its orders")


def test_an_offer_without_history_stands_between_the_good_and_the_bad() -> None:
    offers = [
        replace(an_offer("poor"), history=POOR),
        an_offer("new", order=1),
        replace(an_offer("good"), history=GOOD),
    ]
    assert names(ranked(offers)) == ["good", "new", "poor"]
    few = replace(an_offer("few", order=1), history=OfferHistory(canceled=4, ordered=400))
    assert names(ranked([offers[0], few, offers[2]])) == ["good", "few", "poor"], "four ends say nothing yet"


def test_reliability_breaks_ties_and_buys_nothing_dearer() -> None:
    ranking = ranked([replace(an_offer("poor", a_row("0.89")), history=POOR), replace(an_offer("good"), history=GOOD)])
    assert best(ranking) == "poor"


def test_at_the_same_cost_and_reliability_the_one_known_for_longer_wins() -> None:
    ranking = ranked([an_offer("new", since(1)), an_offer("old", since(30), order=1)])
    assert names(ranking) == ["old", "new"]
    assert ranking.candidates[1].reason == "eligible at the same cost; the chosen one is known for longer"


def test_reliability_goes_before_age() -> None:
    old = replace(an_offer("old", since(300)), history=POOR)
    assert best(ranked([old, replace(an_offer("new", since(1), order=1), history=GOOD)])) == "new"


def test_first_syncs_of_one_start_make_nobody_older() -> None:
    later = an_offer("first in the config", a_row(known_since=NOW + timedelta(seconds=40)))
    assert best(ranked([later, an_offer("synced first", a_row(known_since=NOW), order=1)])) == "first in the config"


# --- refills ---------------------------------------------------------------------------------------------------------


def test_where_refill_is_wanted_it_decides_between_equals_and_its_lack_is_said() -> None:
    without = an_offer("without", a_row(refill=False))
    offers = [without, an_offer("with", order=1)]
    assert best(ranked(offers)) == "without"
    wanted = replace(WANTED, refill="wanted")
    ranking = ranked(offers, wanted)
    assert [candidate.reason for candidate in ranking.candidates] == [
        "chosen: the cheapest that can take it",
        "eligible at the same cost; the chosen one can be refilled; this one cannot be refilled",
    ]
    cheaper = ranked([an_offer("without", a_row("0.80", refill=False)), offers[1]], wanted)
    assert cheaper.candidates[0].reason == "chosen: the cheapest that can take it; this one cannot be refilled"


def test_where_refill_is_required_nothing_else_is_bought() -> None:
    offers = [an_offer("without", a_row("0.10", refill=False)), an_offer("with", order=1)]
    ranking = ranked(offers, replace(WANTED, refill="required"))
    assert names(ranking) == ["with", "without"]
    assert ranking.candidates[1].reason == (
        "it cannot be refilled, which the service requires (config `refill.required`)"
    )


def test_a_row_that_claims_refills_where_the_dialect_has_none_has_none() -> None:
    claims = an_offer("claims", a_row(refill=True), refills=False)
    assert not only(claims, replace(WANTED, refill="required")).eligible


# --- parameters ------------------------------------------------------------------------------------------------------


def test_what_the_type_would_ignore_is_not_bought() -> None:
    wanted = replace(WANTED, params={"comments": "nice", "runs": "3", "interval": "10", "username": " "})
    candidate = only(an_offer(), wanted)
    assert (candidate.eligible, candidate.reason) == (False, "its type 'Default' does not take comments")
    assert only(an_offer(), replace(WANTED, params={"runs": "3", "interval": "10"})).eligible


# --- value -----------------------------------------------------------------------------------------------------------

VALUE = replace(WANTED, strategy="best_value")


def test_best_value_weighs_what_was_delivered_against_the_price() -> None:
    offers = [replace(an_offer("poor", a_row("0.80")), history=POOR), replace(an_offer("good"), history=GOOD)]
    assert best(ranked(offers)) == "poor"
    ranking = ranked(offers, VALUE)
    assert names(ranking) == ["good", "poor"]
    assert [candidate.reason for candidate in ranking.candidates] == [
        "chosen: the best value; counts as 0.90 USD: 100.0% of what was ordered was delivered, after 1.0 h on average",
        "eligible, worse by 0.43333333 USD; counts as 1.33333333 USD: 60.0% of what was ordered was delivered,"
        " after 1.0 h on average",
    ]
    assert ranking.candidates[1].cost == money("0.80"), "what it costs is still what is told"
    assert ranking.candidates[1].worth == money("1.33333333")


def test_a_poor_history_loses_to_a_perfect_one_only_by_what_it_costs() -> None:
    offers = [replace(an_offer("poor", a_row("0.53")), history=POOR), replace(an_offer("good"), history=GOOD)]
    assert best(ranked(offers, VALUE)) == "poor"


def test_with_too_little_history_an_offer_counts_as_average() -> None:
    new = an_offer("new", a_row("0.70"), order=2)
    offers = [replace(an_offer("poor", a_row("0.80")), history=POOR), replace(an_offer("good"), history=GOOD), new]
    ranking = ranked(offers, VALUE)
    assert names(ranking) == ["good", "new", "poor"]
    # The others' pieces cost 1 and 5/3 times their price: 4/3 on average.
    assert ranking.candidates[1].worth == money("0.93333333")
    assert "too few of its orders have ended, so it counts as average" in ranking.candidates[1].reason


def test_without_any_history_best_value_is_the_cheapest() -> None:
    ranking = ranked([an_offer("dear", a_row("1.20")), an_offer("cheap", order=1)], VALUE)
    assert names(ranking) == ["cheap", "dear"]
    assert ranking.candidates[0].worth == money("0.90")


def test_time_counts_where_all_else_is_equal() -> None:
    slow = replace(an_offer("slow"), history=replace(GOOD, duration_s=90_000))
    quick = replace(an_offer("quick", order=1), history=replace(GOOD, duration_s=1800))
    ranking = ranked([slow, quick], VALUE)
    assert names(ranking) == ["quick", "slow"]
    assert "after 1.0 d on average" in ranking.candidates[1].reason
    assert best(ranked([slow, quick])) == "slow", "the cheapest asks for nothing but the price"


def test_max_cost_is_about_money_and_not_about_worth() -> None:
    poor = replace(an_offer("poor"), history=POOR)
    assert only(poor, replace(VALUE, max_cost=money("0.90"))).eligible


# --- quotes ----------------------------------------------------------------------------------------------------------


def test_a_quote_tells_what_the_decision_was_made_from() -> None:
    row = a_row(has_stock=True, stock=5000, learned_per=1, charged_rate=money("0.95"), known_since=NOW)
    offer = replace(an_offer(row=row), stock_at=NOW, history=POOR)
    [shown] = json.loads(json.dumps(ranked([offer], VALUE).as_quote("smm", NOW + timedelta(seconds=90))))
    assert shown["expected_cost"] == {"amount": "950.00", "currency": "USD"}
    assert (shown["rate"]["amount"], shown["charged_rate"]["amount"]) == ("0.90", "0.95")
    assert (shown["rate_per"], shown["rate_per_learned"]) == (1, True)
    assert (shown["stock"], shown["stock_age_s"], shown["stock_at"]) == (5000, 90, "2026-11-21T18:00:00.000Z")
    assert (shown["known_since"], shown["refill"]) == ("2026-11-21T18:00:00.000Z", True)
    assert (shown["history"]["reliability"], shown["history"]["ends"]) == ("0.6000", 20)
    assert shown["worth"] == {"amount": "1583.33333333", "currency": "USD"}


def test_a_quote_of_an_offer_that_nobody_knows_has_its_reason_and_an_empty_history() -> None:
    [shown] = ranked([OfferView(ProviderView("smmplus"), "1")]).as_quote("smm", NOW)
    assert (shown["reason"], shown["worth"]) == ("not in the provider's catalogue", None)
    assert OfferHistory().as_json() == shown["history"]
    package = an_offer(row=a_row(type="Package"))
    [whole] = ranked([package]).as_quote("smm", NOW)
    assert (whole["rate_per"], whole["stock_age_s"]) == (None, None)


def test_no_offers_is_an_empty_ranking() -> None:
    ranking = ranked([])
    assert (ranking.best, ranking.as_json(), ranking.why(), ranking.waits_for_sync) == (None, [], "", False)


def test_the_reasons_make_one_sentence_for_the_orders_error() -> None:
    ranking = ranked([an_offer("a", paused=True), an_offer("b", enabled=False, order=1)])
    assert ranking.why() == "a/1: the provider is paused; b/1: the provider is disabled in the config"


def test_a_ranking_is_plain_json_with_exact_money() -> None:
    [entry] = json.loads(json.dumps(ranked([an_offer(row=a_row("0.27819", has_stock=True, stock=5000))]).as_json()))
    assert entry == {
        "provider": "smmplus",
        "service": "1",
        "eligible": True,
        "reason": "chosen: the cheapest that can take it",
        "expected_cost": {"amount": "0.27819", "currency": "USD"},
        "cost": {"amount": "0.27819", "currency": "USD"},
        "stock": 5000,
    }


# --- for every world -------------------------------------------------------------------------------------------------

amounts = st.integers(0, MAX_UNITS)
monies = st.builds(Money, amounts, st.sampled_from(["USD", "EUR", "JPY", "RUB"]))
rows = st.builds(
    lambda rate, kind, type_, limits, has_stock, stock, problem: a_row(
        rate,
        kind=kind,
        type=type_,
        minimum=min(limits),
        maximum=max(limits),
        has_stock=has_stock,
        stock=stock,
        problem=problem,
    ),
    st.one_of(st.none(), monies, st.builds(Money, st.integers(1, UNIT), st.just("USD"))),
    st.sampled_from(["smm", "smm", "smm", "product", "sms"]),
    st.sampled_from(["Default", "Package", "Custom Comments", "Subscriptions", "", "Quantum"]),
    st.tuples(st.integers(0, 2000), st.integers(0, 2000)),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 2000)),
    st.sampled_from([None, None, None, "absurd"]),
)
providers = st.builds(
    ProviderView,
    name=st.sampled_from(["a", "b", "c"]),
    enabled=st.sampled_from([True, True, True, False]),
    paused=st.sampled_from([False, False, False, True]),
    synced=st.booleans(),
    down_reason=st.sampled_from([None, None, None, "timeout"]),
    balance=st.one_of(st.none(), st.builds(Money, st.integers(-UNIT, MAX_UNITS), st.sampled_from(["USD", "EUR"]))),
    in_flight=st.one_of(st.none(), st.builds(Money, st.integers(0, 100 * UNIT), st.just("USD"))),
    rate_per=st.fixed_dictionaries({}, optional={"smm": st.sampled_from([1, 1000]), "product": st.just(1000)}),
)
histories = st.builds(
    lambda ends, ordered, share, duration: OfferHistory(
        ends[0], ends[1], ends[2], ends[3], ordered, ordered * share // 100, duration
    ),
    st.tuples(*[st.integers(0, 50)] * 4),
    st.integers(0, 10**15),
    st.integers(0, 100),
    st.one_of(st.none(), st.integers(0, 10**7)),
)
offer_views = st.builds(
    OfferView,
    provider=providers,
    service=st.just("1"),
    country=st.sampled_from(["", "us"]),
    row=st.one_of(st.none(), rows),
    tried=st.sampled_from([None, None, None, "refused in this round"]),
    order=st.integers(0, 5),
    history=st.one_of(st.none(), histories),
)
orders = st.builds(
    Wanted,
    kind=st.sampled_from(["smm", "smm", "product", "sms"]),
    quantity=st.integers(1, 2000),
    link=st.sampled_from([None, "https://x.test", "https://x.test"]),
    params=st.sampled_from([{}, {"comments": "a\nb"}]),
    max_cost=st.one_of(st.none(), monies),
    pinned_provider=st.sampled_from([None, None, "a"]),
    strategy=st.sampled_from(["cheapest", "best_value"]),
    refill=st.sampled_from(["any", "wanted", "required"]),
)


@given(orders, st.lists(offer_views, max_size=8), st.randoms(use_true_random=False))
def test_in_every_world_the_chosen_one_is_the_cheapest_and_everybody_has_a_reason(
    wanted: Wanted, offers: list[OfferView], chance: Any
) -> None:
    ranking = ranked(offers, wanted)
    assert len(ranking.candidates) == len(offers)
    eligible = [candidate for candidate in ranking.candidates if candidate.eligible]
    assert list(ranking.candidates[: len(eligible)]) == eligible, "the eligible come first"
    for candidate in ranking.candidates:
        assert candidate.reason
    for candidate in eligible:
        assert candidate.expected is not None
        assert candidate.cost is not None
        assert candidate.offer.row is not None
        assert candidate.offer.row.problem is None
        if candidate.expected.currency == "USD":
            assert candidate.cost == candidate.expected
    counted = [candidate.worth if wanted.strategy == "best_value" else candidate.cost for candidate in eligible]
    costs = [one.units for one in counted if one is not None]
    assert len(costs) == len(eligible)
    assert costs == sorted(costs)
    assert ranking.best == (eligible[0] if eligible else None)
    json.dumps([ranking.as_json(), ranking.as_quote(wanted.kind, NOW)])
    # The order in which equals are looked at decides nothing but ties of equal place.
    shuffled = list(offers)
    chance.shuffle(shuffled)
    again = ranked(shuffled, wanted).best
    assert (again is None) is (ranking.best is None)
    if again is not None and ranking.best is not None:
        assert (again.cost, again.worth, again.offer.order) == (
            ranking.best.cost,
            ranking.best.worth,
            ranking.best.offer.order,
        )
