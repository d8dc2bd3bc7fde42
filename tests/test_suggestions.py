"""Which offers are proposed, with what score, and what is said to differ."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.domain.catalogue import CatalogueRow, Kind
from aggregator.domain.money import Money
from aggregator.suggestions import GOOD, Likeness, Shelf, Shown, compare, mended, show


def offer(
    name: str, at: str = "a/1", *, kind: Kind = "smm", price: str | None = "1", refills: bool = True, **more: Any
) -> Shown:
    provider, _, service = at.partition("/")
    amount, _, currency = (price or "").partition(" ")
    rate = Money.parse(amount, currency or "USD") if price is not None else None
    row = CatalogueRow(service, name, kind, "Default", "", rate, 10, 1000, False, False)
    found = show(
        provider,
        replace(row, **more),
        refills=refills,
        rate_per={"smm": 1000, "product": 1},
        currency="USD",
        exchange_rates={"EUR": Decimal("1.10")},
    )
    assert found is not None
    return found


def likeness(one: Shown, other: Shown) -> Likeness:
    found = compare(one, other)
    assert found is not None
    return found


def told(one: Shown, other: Shown) -> list[str]:
    return [str(difference) for difference in likeness(one, other).differs]


def test_the_same_name_has_the_highest_score_and_no_difference() -> None:
    found = likeness(offer("Instagram Likes HQ | Max 50K"), offer("Instagram Likes HQ | Max 50K", "b/2"))
    assert (found.score, found.differs, found.same) == (100, (), True)
    assert found.why == ("both say: instagram likes, Default",)


def test_praise_and_pace_cost_little() -> None:
    found = likeness(offer("Instagram Likes"), offer("⚡ IG LIKES | Fast | 10K/Day | Max 50K | Cheapest", "b/2"))
    assert found.score >= 95
    assert found.same


@pytest.mark.parametrize(
    ("here", "there", "words", "least", "most"),
    [
        ("Instagram Followers R30", "Instagram Followers No Refill", "refill: 30 days here, none there", 80, 90),
        ("Instagram Followers R30", "Instagram Followers R365", "refill: 30 days here, 365 days there", 90, 96),
        ("Instagram Followers HQ", "Instagram Followers", "quality: high quality here, none there", 90, 98),
        ("Instagram Followers Real", "Instagram Followers Not Real", "quality: real here, no real there", 85, 95),
        ("Instagram Followers", "Instagram Followers Ruby", "words: none here, ruby there", 80, 90),
    ],
)
def test_what_differs_is_said_and_costs(here: str, there: str, words: str, least: int, most: int) -> None:
    one, other = offer(here, refill=True), offer(there, "b/2", refill=True)
    assert words in told(one, other)
    assert least <= likeness(one, other).score <= most
    assert not likeness(one, other).same


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("Instagram Followers", "Instagram Likes"),
        ("Instagram Followers USA", "Instagram Followers UK"),
        ("Instagram Followers Real", "Instagram Followers Bots"),
        ("Instagram Followers HQ", "Instagram Followers LQ"),
        ("Instagram Followers Ruby", "Instagram Followers Emerald"),  # a word in the place of a word
        ("Instagram Followers", "Instagram Followers ruby peak dawn river"),
        ("Zorgle Followers", "Blimpo Followers"),
        ("Zorgle Followers", "Followers"),  # nobody knows whose followers these are
        ("Zorgle flurbs", "Zorgle flurbs gnop"),
        ("", ""),
    ],
)
def test_two_things_are_never_compared(here: str, there: str) -> None:
    assert compare(offer(here), offer(there, "b/2")) is None


def test_unknown_services_are_alike_by_the_same_words_alone() -> None:
    assert likeness(offer("Zorgle flurbs"), offer("flurbs | ZORGLE | Max 50K", "b/2")).score >= 95
    assert likeness(offer("Zorgle flurbs"), offer("Zorgle flurbbs | R30", "b/2")).score >= 80


def test_two_words_that_nobody_knows_are_too_many() -> None:
    plain, odd = offer("Instagram Followers"), offer("Instagram Followers ruby peak", "b/2")
    assert likeness(plain, odd).score < GOOD
    assert compare(plain, odd, GOOD) is None


def test_misspellings_are_read_and_told() -> None:
    found = likeness(offer("Instagram Followers"), offer("Instgram Folowers", "b/2"))
    assert found.score >= 95
    assert "its folowers was read as followers" in found.why
    assert [mended(word) for word in ("likes", "vews", "inactive", "unverified", "x" * 400)] == [
        *("likes", "vews", "inactive", "unverified", "x" * 400)
    ]


def test_prices_are_compared_in_one_currency() -> None:
    assert offer("Instagram Likes", price="1 EUR").price == Money.parse("1.10", "USD")
    assert offer("Instagram Likes", price="9", type="Package").per == 1
    assert offer("Gmail", kind="product", price="0.5").per == 1
    learned = offer("Instagram Likes", price="0.01", learned_per=1)
    assert learned.price == Money.parse("10", "USD")
    charged = offer("Instagram Likes", charged_rate=Money.parse("3", "USD"))
    assert charged.price == Money.parse("3", "USD")
    foreign = offer("Instagram Likes", "b/2", price="5 TRY")
    assert foreign.price is None
    words = "price: 1.00 USD here, 5.00 TRY, without a rate in `exchange_rates` there"
    assert words in told(offer("Instagram Likes"), foreign)


def test_a_price_that_is_far_off_is_told() -> None:
    near, far = offer("Instagram Likes", "b/2", price="4.9"), offer("Instagram Likes", "b/3", price="0.1")
    assert told(offer("Instagram Likes"), near) == []
    assert "so far from it that it may be another thing" in told(offer("Instagram Likes"), far)[0]
    assert likeness(offer("Instagram Likes"), far).score == 100


def test_who_delivers_and_whether_it_can_be_canceled_is_told() -> None:
    here = offer("Gmail USA", kind="product")
    there = offer("Gmail USA", "b/2", kind="product", auto_delivery=False, cancel=True)
    assert told(here, there) == ["delivery: at once here, by a person there", "cancel: no here, yes there"]
    assert likeness(offer("Instagram Likes"), offer("Instagram Likes", "b/2", cancel=True)).same


def test_numbers_for_more_than_ours_are_told() -> None:
    here = offer("OpenAI / ChatGPT", kind="sms", country="us")
    there = offer("ChatGPT", "b/2", kind="sms", country="us")
    assert told(here, there) == ["project: chatgpt / openai here, chatgpt there"]


def test_proposals_leave_out_what_is_taken_and_begin_with_the_best() -> None:
    ours = [offer("Instagram Followers R30", refill=True)]
    rest = [
        offer("Instagram Followers R30", "a/2", price="2", refill=True),
        offer("Instagram Followers R30", "b/1", price="0.5", refill=True),
        offer("Instagram Followers", "b/2", price="0.1"),
        offer("Instagram Followers R30", "c/1", price="0.2", refill=True),
        offer("Instagram Likes R30", "c/2", price="0.2", refill=True),
    ]
    found = Shelf([*ours, *rest]).like(ours, taken={ours[0].key, ("c", "1", "")}, least=GOOD)
    assert [one.offer.key[:2] for one in found] == [("b", "1"), ("a", "2"), ("b", "2")]
    assert [one.offer.key[:2] for one in Shelf(rest).like(ours, taken=set(), least=99)] == [
        ("c", "1"),
        ("b", "1"),
        ("a", "2"),
    ]


def test_a_proposal_is_compared_with_the_one_of_ours_that_it_is_like() -> None:
    ours = [offer("Instagram Likes No Refill", "a/1"), offer("Instagram Likes R30", "b/1", refill=True)]
    (found,) = Shelf([offer("IG Likes R30", "c/1", refill=True)]).like(ours, taken=set(), least=GOOD)
    assert found.like is ours[1]
    assert found.likeness.same


def test_groups_are_of_several_providers_and_begin_with_the_cheapest() -> None:
    shelf = Shelf(
        [
            offer("TikTok Views", "a/1", price="3"),
            offer("TT Views | Fast", "b/1", price="1"),
            offer("TikTok Views HQ", "c/1", price="2"),
            offer("TikTok Views R30", "a/2", refill=True),  # a guarantee of its own
            offer("TikTok Views USA", "b/2"),
            offer("TikTok Likes", "a/3"),
            offer("TikTok Likes", "a/4"),  # of one provider
            offer("TikTok Shares", "a/5"),
            offer("TikTok Shares", "b/5"),
        ]
    )
    (group,) = shelf.groups(taken={("a", "5", "")}, least=GOOD)
    assert [one.offer.provider for one in group] == ["b", "c", "a"]
    assert {one.like.key[:2] for one in group} == {("a", "1")}
    assert [one.likeness.same for one in group] == [True, False, True]


def test_a_group_never_has_real_ones_and_bots() -> None:
    names = ("Instagram Likes", "IG Likes Bots", "IG Likes Real", "Instagram Likes Real", "Instagram Likes Bots")
    rows = [offer(name, f"{provider}/1") for name, provider in zip(names, "abcde", strict=True)]
    groups = Shelf(rows).groups(taken=set(), least=GOOD)
    found = [{quality for one in group for quality in one.offer.ware.qualities} for group in groups]
    assert sorted(map(sorted, found)) == [["bot"], ["real"]]


WORDS = """
Instagram IG TikTok Followers Likes Story Views USA India HQ Real Bots R30 No Refill Ruby Peak Folowers ⚡ | [Max 50K]
60 min Female 👍 подписчики
"""
NAMES = st.lists(st.sampled_from(WORDS.split()), max_size=7).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(NAMES, NAMES, st.booleans(), st.booleans())
def test_likeness_goes_both_ways_and_is_highest_for_itself(one: str, other: str, left: bool, right: bool) -> None:
    here, there = offer(one, refill=left), offer(other, "b/2", refill=right)
    found, back = compare(here, there), compare(there, here)
    assert (found is None) is (back is None)
    if found is None or back is None:
        return
    assert found.score == back.score <= likeness(here, here).score == 100
    assert {(one.what, one.here, one.there) for one in found.differs} == {
        (one.what, one.there, one.here) for one in back.differs
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(NAMES, min_size=2, max_size=14), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(names: list[str], rng: random.Random) -> None:
    rows = [offer(name, f"{'abc'[place % 3]}/{place}", price=str(place + 1)) for place, name in enumerate(names)]
    other = rng.sample(rows, len(rows))
    for least in (0, GOOD):
        assert Shelf(rows).groups(taken=set(), least=least) == Shelf(other).groups(taken=set(), least=least)
        proposed = Shelf(rows).like(rows[:1], taken=set(), least=least)
        assert proposed == Shelf(other).like(rows[:1], taken=set(), least=least)
        for group in Shelf(rows).groups(taken=set(), least=least):
            assert all(compare(one.like, one.offer, least) for one in group)
