"""What a catalogue row is read to sell; names as panels write them, and nasty ones."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.domain.catalogue import CatalogueRow, Kind
from aggregator.domain.vocabulary import WORDS, fold
from aggregator.domain.wares import MAX_NAME, Ware, read


def ware(
    name: str,
    kind: Kind = "smm",
    *,
    type: str = "Default",
    category: str = "",
    subcategory: str = "",
    country: str = "",
    refill: bool = False,
) -> Ware:
    row = CatalogueRow("1", name, kind, type, category, None, 1, 1000, refill, False, subcategory, country=country)
    found = read(row)
    assert found is not None
    return found


SAME = [
    ("Instagram Followers", "IG Followers | Max 500K | Speed 50K/Day | Instant ⚡"),
    ("Instagram Followers", "[5232] ~ 𝗜𝗻𝘀𝘁𝗮𝗴𝗿𝗮𝗺 𝗙𝗼𝗹𝗹𝗼𝘄𝗲𝗿𝘀 [Max 1M] [50-100K/D] 100% Fast 24/7"),
    ("Instagram Followers", "Followers on Insta | Worldwide 🌍 | Server 3 | Start 0-1H | Day 20K/50K"),
    ("Instagram Followers", "ɪɴꜱᴛᴀɢʀᴀᴍ Fоllоwers #12"),  # with two Cyrillic letters
    ("Instagram Followers", "Подписчики Инстаграм"),
    ("Instagram Followers", "متابعين انستقرام"),
    ("Instagram Followers", "Instagram粉丝"),
    ("Instagram Followers USA", "🇺🇸 Instagram Followers"),
    ("Instagram Followers USA", "Instagram Followers [US]"),
    ("Instagram Followers USA", "Instagram Followers from United States"),
    ("Instagram Likes", "Instagram Post Likes"),
    ("TikTok Views", "Tik Tok Video Views [10M/Day]"),
    ("Twitter Retweets", "X Reposts"),
    ("Twitter Followers", "Twitter Followers [ X ] | 100k/D"),
    ("Telegram Members", "TG Channel/Group Subscribers"),
    ("Spotify Plays", "Spotify Streams"),
    ("YouTube Live Stream Viewers (1 hour)", "YT Livestream Viewers [60 Minutes] 0-5 MIN Start"),
    ("YouTube Watch Time 4000 Hours", "YouTube Watchtime - 4k hours"),
    ("Facebook Reel Views 3 Seconds+", "FB Reels Views | 3 sec"),
]
OTHERS = [
    ("Instagram Followers", "Instagram Likes"),
    ("Instagram Followers", "TikTok Followers"),
    ("Instagram Followers", "Instagram Followers USA"),
    ("Instagram Followers USA", "Instagram Followers Brazil"),
    ("Instagram Followers 🇮🇳", "Instagram Followers 🇮🇩"),
    ("Instagram Followers", "Instagram Followers [IN]"),
    ("Instagram Followers", "Instagram Followers Female"),
    ("Instagram Female Followers", "Instagram Male Followers"),
    ("Instagram Story Views", "Instagram Video Views"),
    ("Instagram Reels Views", "Instagram Views"),
    ("Instagram Likes", "Instagram Auto Likes"),
    ("Instagram Likes", "Instagram Power Likes"),
    ("Instagram Likes", "Instagram Likes + Impressions"),
    ("Instagram Comments Random", "Instagram Comments Custom"),
    ("Instagram Comments Positive", "Instagram Comments Negative"),
    ("YouTube Likes", "YouTube Dislikes"),
    ("YouTube Comment Likes", "YouTube Likes"),
    ("YouTube Live Stream Viewers 30 min", "YouTube Live Stream Viewers 60 min"),
    ("YouTube Live Stream Viewers", "YouTube Live Stream Views"),
    ("YouTube Views [Ads]", "YouTube Views"),
    ("YouTube Watch Time 4000 Hours", "YouTube Watch Time 1000 Hours"),
    ("Facebook Page Likes", "Facebook Post Likes"),
    ("Facebook Page Likes", "Facebook Page Followers"),
    ("Facebook Page Followers", "Facebook Profile Followers"),
    ("Telegram Members", "Telegram Premium Members"),
    ("Telegram Premium Members 7 Days", "Telegram Premium Members 30 Days"),
    ("Telegram Post Views [Last 5]", "Telegram Post Views [Last 10]"),
    ("Telegram Reactions 👍", "Telegram Reactions 👎"),
    ("Twitter Followers", "Twitter Followers NFT"),
    ("Discord Members Online", "Discord Members Offline"),
    ("Website Traffic from Google", "Website Traffic from Facebook"),
    ("Verified comments", "Unverified comments"),
    ("Instagram Comments verified", "Instagram Comments not verified"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_ways_to_say_one_thing(one: str, other: str) -> None:
    assert ware(one).keys == ware(other).keys != ()
    assert ware(other).unknown == frozenset()


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_what_would_buy_another_thing(one: str, other: str) -> None:
    assert ware(one).keys != ware(other).keys


def test_types_are_never_one() -> None:
    assert ware("Instagram Likes").keys != ware("Instagram Likes", type="Package").keys
    assert (
        ware("Instagram Comments", type="custom comments").keys
        == ware("Instagram Custom Comments", type="Custom Comments").keys
    )
    assert ware("Instagram Likes", type="").keys == ware("Instagram Likes", type="DEFAULT").keys
    assert ware("X 1000 Followers", type="Package").keys != ware("X 5K Followers", type="Package").keys


def test_the_category_says_what_the_name_leaves_out() -> None:
    told = ware("Server 1 | R30 | Max 50K", category="Instagram Followers [USA]")
    assert told.keys == ware("Instagram Followers USA").keys
    assert told.around == ("instagram", "followers", "us")
    assert ware("Likes IG", category="TikTok Followers Brazil").keys == ware("Instagram Likes Brazil").keys
    assert ware("YouTube Views", category="YouTube Live Stream").keys != ware("YouTube Views").keys


@pytest.mark.parametrize(
    ("name", "refill", "words"),
    [
        ("Instagram Followers R30", True, "30 days"),
        ("Instagram Followers 𝗔𝗥𝟯𝟬", True, "30 days"),
        ("Instagram Followers | 365 Days Refill", True, "365 days"),
        ("Instagram Followers Lifetime Guaranteed", True, "lifetime"),
        ("Instagram Followers | No Refill", True, "none"),
        ("Instagram Followers", False, "none"),
        ("Instagram Followers", True, "yes, for how long is not said"),
        ("Instagram Followers R30", False, "30 days by its name, but its catalogue says none"),
    ],
)
def test_what_a_guarantee_is_said_to_be(name: str, refill: bool, words: str) -> None:
    told = ware(name, refill=refill)
    assert str(told.guarantee) == words
    assert told.keys == ware("Instagram Followers").keys


def test_a_provider_that_takes_no_refills_gives_no_guarantee() -> None:
    row = CatalogueRow("1", "Instagram Followers", "smm", "Default", "", None, 1, 9, True, False)
    found = read(row, refills=False)
    assert found is not None
    assert not found.guarantee.given


def test_qualities_and_unknown_words_are_kept() -> None:
    told = ware("Instagram Followers | HQ | Not Bots | Ruby Pool | Real Accounts | Old Data")
    assert told.qualities == {"high quality", "no bot", "real", "aged"}
    assert told.unknown == {"ruby", "pool"}


GOODS = [
    ("Gmail Account - USA", "USA Gmail Accounts | instant delivery | best price", True),
    ("Gmail PVA", "Gmail Accounts (Phone Verified)", True),
    ("FB Account 2FA", "Facebook Accounts with 2FA", True),
    ("Gmail Account - USA", "Gmail Account - UK", False),
    ("Gmail Account", "Outlook Account", False),
    ("Gmail Account", "Gmail Account aged", False),
    ("Facebook Account 2015", "Facebook Account 2016", False),
    ("Facebook Account 2 years", "Facebook Account 3 years", False),
    ("Gmail with recovery", "Gmail without recovery", False),
    ("Instagram account 1K followers", "Instagram account 10K followers", False),
    ("Netflix Premium 1 month", "Netflix Premium 12 months", False),
    ("Gmail Accounts", "Gmail Accounts + cookies", False),
    ("Fresh Gmail", "Gmail", False),
]


@pytest.mark.parametrize(("one", "other", "same"), GOODS)
def test_of_a_product_every_word_matters(one: str, other: str, same: bool) -> None:
    assert (ware(one, "product").keys == ware(other, "product").keys) is same


def test_a_product_without_its_own_name_is_its_categorys() -> None:
    told = ware("USA, aged", "product", category="Accounts-Email", subcategory="Outlook")
    assert told.keys == ware("Outlook aged USA", "product").keys
    assert told.around == ("outlook",)


def test_numbers_by_project_and_country() -> None:
    one = ware("OpenAI / ChatGPT", "sms", country="us", category="United States")
    assert set(one.keys) & set(ware("ChatGPT", "sms", country="USA").keys)
    assert not set(one.keys) & set(ware("ChatGPT", "sms", country="gb", category="United Kingdom").keys)
    assert not set(one.keys) & set(ware("Telegram", "sms", country="us").keys)
    dialled = ware("Telegram", "sms", country="+93", category="Afghanistan")
    assert dialled.keys == ware("telegram", "sms", country="af").keys
    odd = ware("Telegram", "sms", country="187"), ware("Telegram", "sms", country="22")
    assert odd[0].keys != odd[1].keys


def test_names_that_say_nothing_are_like_nothing() -> None:
    for name in ("", "   ", "⚡⚡⚡", "Max 50K | R30 | Instant", "Instagram | HQ | USA"):
        assert ware(name).keys == ()
    assert ware("", "product").keys == ()
    assert ware("", "sms", country="us").keys == ()


def test_a_name_too_long_to_be_sure_of_is_not_read() -> None:
    long = CatalogueRow("1", "word " * MAX_NAME, "smm", "Default", "", None, 1, 1, False, False)
    assert read(long) is None
    assert ware("Instagram Followers " + "⚡ fast " * 70).keys == ware("Instagram Followers").keys


@pytest.mark.parametrize(
    "part", ["1.", "1,", "0-", "9", "1k/", "refill ", "no ", "day ", "US|", "🇺🇸", "粉丝", "up to ", "("]
)
def test_no_name_takes_long(part: str) -> None:
    name = (part * MAX_NAME)[:MAX_NAME]
    began = process_time()
    ware(name, category=name)
    ware(name, "product")
    assert process_time() - began < 1


def test_misspelt_words_are_read_by_whoever_knows_them() -> None:
    row = CatalogueRow("1", "Instagram Folowers", "smm", "Default", "", None, 1, 9, True, False)
    found = read(row, mend=lambda word: {"folowers": "followers"}.get(word, word))
    assert found is not None
    assert found.keys == ware("Instagram Followers").keys
    assert found.mended == (("folowers", "followers"),)


def test_every_entry_of_the_tables_is_found_in_its_folded_form() -> None:
    assert "" not in WORDS
    assert all(fold(words) == words for words in WORDS)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.text(max_size=60), st.sampled_from(["smm", "product", "sms"]))
def test_any_text_is_read(name: str, category: str, kind: Kind) -> None:
    told = ware(name, kind, category=category, country=category[:8])
    assert told == ware(name, kind, category=category, country=category[:8])
    assert isinstance(told.says(), str)
