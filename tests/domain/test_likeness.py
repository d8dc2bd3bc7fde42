"""When a name under the same id may mean another thing."""

from __future__ import annotations

import pytest

from aggregator.domain.likeness import same_meaning

EDITS = [
    ("Instagram Followers", "Instagram Followers"),
    ("Instagram Followers", "INSTAGRAM  followers!!"),
    ("Instagram Followers [R30] [Fast]", "Followers Instagram | Refill 60 Days | ⚡ Instant"),
    ("Instagram Followers", "𝗜𝗻𝘀𝘁𝗮𝗴𝗿𝗮𝗺 𝗙𝗼𝗹𝗹𝗼𝘄𝗲𝗿𝘀 R365"),
    ("Instagram Folowers", "Instagram Followers"),
    ("TikTok Views", "Tik Tok Views [Max 10K/Day]"),
    ("IG High Quality Likes", "IG HQ Likes"),
    ("Instagram Followers USA Female", "Instagram Followers USA"),
    ("100", "500"),
    ("", "Instagram Followers"),
    ("", ""),
    ("Service 1", "Service 1 [fast]"),
    ("Service 1", "Cheapest service"),
]
OTHERS = [
    ("Instagram Followers", "Instagram Likes"),
    ("Instagram Followers [R30] [Fast] [HQ]", "Instagram Likes [R30] [Fast] [HQ]"),
    ("Instagram Followers", "TikTok Followers"),
    ("YouTube Live Stream Viewers", "YouTube Live Stream Views"),
    ("Real Followers", "Bot Followers"),
    ("Active accounts", "Inactive accounts"),
    ("Подписчики Инстаграм", "Лайки Инстаграм"),
    ("Gmail", "Outlook"),
    ("Instagram Followers", ""),
    ("Instagram Followers", "Instagram"),
    ("Service 1", "Instagram Likes"),
    ("A", "B"),
]


@pytest.mark.parametrize(("before", "after"), EDITS)
def test_an_edit_leaves_the_meaning(before: str, after: str) -> None:
    assert same_meaning(before, after)


@pytest.mark.parametrize(("before", "after"), OTHERS)
def test_other_words_may_be_another_thing(before: str, after: str) -> None:
    assert not same_meaning(before, after)


def test_the_longest_name_is_judged_at_once() -> None:
    one, other = " ".join(f"wörd{'x' * n}" for n in range(2000)), " ".join(f"other{'y' * n}" for n in range(2000))
    assert not same_meaning(one, other)
