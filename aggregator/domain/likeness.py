"""Whether a service's new name still means the same thing, judged by its words alone.

A name may gain and lose adornments ("fast", "R30", a price, an emoji), be reordered or mistyped. One whose other words
were exchanged for different ones may be another thing under the same id. A doubt costs some hours without an offer, a
mistake buys the wrong thing: in between, this doubts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Final

ALIKE: Final = 0.85
"""Two words that share so much and begin alike are one, mistyped or in another number: "Folower", "followers"."""
MAX_WORDS: Final = 60
"""Longer names are compared by their first words."""

_WORD: Final = re.compile(r"[^\W_]+")
_PRAISE: Final = """
a ai all always an and any are at auto automatic best brand by cheap cheapest completed day daily days drop drops
dropping ever exclusive fast faster fastest for from good guarantee guaranteed high hour hourly hours hot hq
immediate in instant instantly is life lifetime limited lq low max maximum min minimum minute minutes mq natural new
no non not of offer ok on only or our per perfect possible premium price quality quick rate recommended refill
refillable refills reliable sale server servers service slow special speed stable start starts super the time to top
ultra up update updated usd very warranty week weeks with within without working year years
"""
ADORNMENTS: Final = frozenset(_PRAISE.split())
"""Words that praise a service or describe its pace and warranty; what is sold does not change with them."""


def same_meaning(before: str, after: str) -> bool:
    """Whether one name is at most an edit of the other."""
    left, right = _words(before), _words(after)
    if not left:
        return not right or not before.strip()  # nothing was said of what is sold, or now something else is
    lost, gained = _difference(left, right)
    if lost and gained:
        return "".join(lost) == "".join(gained)  # "Tik Tok" and "TikTok"
    # Words only came or went: it is the same thing while most of them are still there.
    longer = max(len(left), len(right))
    return 2 * (longer - len(lost) - len(gained)) > longer or not (lost or gained)


def _words(name: str) -> list[str]:
    """The words that say what is sold: folded, so that 𝗕𝗼𝗹𝗱 letters are letters, without figures and adornments."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    words = [word for word in _WORD.findall(folded) if not any(char.isdigit() for char in word)]
    return list(dict.fromkeys(word for word in words if word not in ADORNMENTS))[:MAX_WORDS]


def _difference(left: Sequence[str], right: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of each that have no counterpart in the other, in their order."""
    lost = [word for word in left if word not in right]
    gained = [word for word in right if word not in left]
    for word in tuple(lost):
        twin = next((other for other in gained if _alike(word, other)), None)
        if twin is not None:
            lost.remove(word)
            gained.remove(twin)
    return lost, gained


def _alike(one: str, other: str) -> bool:
    # The first letter keeps "active" and "inactive" apart.
    return one[0] == other[0] and SequenceMatcher(None, one, other, autojunk=False).ratio() >= ALIKE
