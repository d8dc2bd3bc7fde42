"""What names of services promise."""

from __future__ import annotations

from datetime import timedelta

import pytest

from aggregator.domain.guarantees import LIFETIME, NONE, guarantee_named


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("Instagram Followers [R30]", 30),
        ("IG Followers | AR30 | Fast", 30),
        ("Followers R365", 365),
        ("Followers Refill 30 Days", 30),
        ("Followers [Refill: 90D]", 90),
        ("Followers - 60 Days Refill ♻️", 60),
        ("TikTok Likes 365 days", 365),
        ("Followers 30D Auto Refill", 30),
        ("Followers | 12 Months Refill", 360),
        ("Followers 1 Year Guarantee", 365),
        ("Followers \U0001d411\U0001d7d1\U0001d7ce", 30),
        ("Followers \U0001d411\U0001d41e\U0001d41f\U0001d422\U0001d425\U0001d425 \U0001d7d1\U0001d7ce Days", 30),
        ("R-45 followers", 45),
        ("Followers 30DR", 30),
        ("Followers R30D", 30),
        ("Followers 30R", 30),
    ],
)
def test_a_guarantee_is_read_from_a_name(name: str, days: int) -> None:
    assert guarantee_named(name) == timedelta(days=days)


@pytest.mark.parametrize(
    "name",
    [
        "Followers No Refill",
        "Followers (NO-REFILL)",
        "Likes Non Refill 30 days",
        "[NR] Likes",
        "Refill: No",
        "Refill - None",
        "Likes (Refill Off)",
    ],
)
def test_a_name_can_say_that_there_is_none(name: str) -> None:
    assert guarantee_named(name) == NONE


@pytest.mark.parametrize("name", ["Followers Lifetime Refill", "Followers [R∞]", "LIFE TIME guarantee"])
def test_lifetime(name: str) -> None:
    assert guarantee_named(name) == LIFETIME


@pytest.mark.parametrize(
    "name",
    [
        "Instagram Followers",
        "Likes, 5K/day",
        "Start 0-1 day",
        "Speed 10-20 days",
        "Views 3 days delivery",
        "R Likes",
        "7 days delivery",
        "Max 30 days old accounts",
        "4R accounts",
        "Refill: Yes",
        "4K video views",
        "R0",
        "",
    ],
)
def test_other_numbers_promise_nothing(name: str) -> None:
    assert guarantee_named(name) is None
