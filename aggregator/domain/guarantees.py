"""How long a service's name promises refills: `R30`, `AR30`, `Refill 30 Days`, `365 days`, `Lifetime`, `No Refill`.

Pure text. Names come in any letters, mathematical bold ones included (quirks.md, "Refill and cancel"), so they are
folded by NFKC first. A name that promises nothing readable says nothing: the config decides then.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import timedelta
from typing import Final

NONE: Final = timedelta(0)
LIFETIME: Final = timedelta(days=3650)
"""What "lifetime" is taken for: nobody outlives ten years."""
FEWEST_DAYS: Final = 7
"""A bare number of days below this is a speed or a start time, not a guarantee."""

_NO_REFILL: Final = re.compile(
    r"\b(?:no|non|not|without|zero)[\s\-_]*(?:auto[\s\-_]*)?(?:refill|guarantee|warranty)|\bnr\b"
    r"|\b(?:refill|guarantee|warranty)\s*[:=\-–]?\s*(?:no|none|off|not available|disabled|❌|✖|0)(?![\w])"
)
_LIFETIME: Final = re.compile(r"life[\s\-_]*time|\br\s*∞|\bforever\b")
_NAMED: Final = re.compile(
    r"\ba?r\s*-?\s*(\d{1,4})d?\b|\b(\d{2,4})d?\s?a?r\b"
    r"|(?:refill|guarantee[d]?|warranty)\W{0,3}(?:for\W*)?(\d{1,4})\s*-?\s*(d(?:ays?)?|m(?:onths?)?|y(?:ears?)?)\b"
    r"|\b(\d{1,4})\s*-?\s*(d(?:ays?)?|m(?:onths?)?|y(?:ears?)?)\W{0,3}(?:auto\W*)?(?:refill|guarantee|warranty)"
)
_BARE: Final = re.compile(
    r"(?<![\d\-–~/])(?<!max )(?<!min )\b(\d{1,4})\s*-?\s*days?\b"
    r"(?!\W*(?:old|aged|deliver|start|speed|complet|finish|drip|trial|subscri|post|view|ago|/))"
)
_DAYS: Final = {"d": 1, "m": 30, "y": 365}


def guarantee_named(name: str) -> timedelta | None:
    """The guarantee that a name promises: NONE where it says there is none, None where it does not speak of it."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    if _NO_REFILL.search(folded):
        return NONE
    if _LIFETIME.search(folded):
        return LIFETIME
    found = _NAMED.search(folded)
    if found is not None:
        short, short_before, after, after_unit, before, before_unit = found.groups()
        number = int(short or short_before or after or before)
        days = number * _DAYS[(after_unit or before_unit or "d")[0]]
        return min(timedelta(days=days), LIFETIME) if days else None
    bare = _BARE.search(folded)
    if bare is not None and int(bare[1]) >= FEWEST_DAYS:
        return min(timedelta(days=int(bare[1])), LIFETIME)
    return None
