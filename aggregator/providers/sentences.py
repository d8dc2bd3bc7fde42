"""Brings an error text to a canonical form, so that one table entry stands for all the ways a sentence is written.

It only ever drops words that carry no meaning and replaces synonyms; it never drops a negation, and never a word it
does not know: a text with an unknown word in it stays a different sentence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

from aggregator.providers.words import LONGEST_SENTENCE

_FILLERS: Final = frozenset(
    re.findall(
        r"\w+",
        "a an the your you we our i is are was were be been being this that these those has have had having "
        "do does did it its there here currently now for of on in to at with by from than or and equal as any "
        "so yet sorry oops whoops ops such selected given specified provided chosen choosen current moment "
        "will can dear customer theres youve",
    )
)

_SYNONYMS: Final[Mapping[str, str]] = {
    spelling: canonical
    for canonical, spellings in {
        "not": "dont doesnt isnt arent hasnt havent wasnt werent didnt",
        "cannot": "cant couldnt",
        "invalid": "incorrect wrong bad malformed illegal",
        "inactive": "disabled deactivated closed removed deleted discontinued paused suspended banned blocked stopped"
        " archived disable",
        "exist": "exists existing",
        "funds": "fund money credit credits cash",
        "balance": "wallet balances",
        "insufficient": "inadequate",
        "stock": "inventory",
        "quantity": "qty amount quantities amounts",
        "min": "minimal minimum",
        "max": "maximal maximum",
        "below": "less lower smaller fewer under",
        "above": "more greater higher larger bigger over exceed exceeds exceeded exceeding",
        "must": "should needs need",
        "link": "url links urls uri",
        "key": "token apikey",
        "parameter": "parameters param params field fields argument",
        "order": "orders",
        "service": "services",
        "product": "products",
        "item": "items",
        "account": "accounts",
        "number": "numbers",
        "comment": "comments",
        "request": "requests",
        "refill": "refills refilled",
        "cancel": "cancelled canceled cancellation canceling cancelling canceled cancelable cancellable",
        "completed": "complete finished done",
        "reached": "hit",
        "supported": "support supports",
        "allowed": "allow allows permitted",
        "available": "availability",
        "drop": "drops dropped",
    }.items()
    for spelling in spellings.split()
}

_JOINED: Final = (
    (re.compile(r"\bin progress\b"), "inprogress"),
    (re.compile(r"\bcan not\b"), "cannot"),
    (re.compile(r"\bno longer\b"), "not"),
    (re.compile(r"\btop ?up\b"), "topup"),
)
_REJOINED: Final = (
    (re.compile(r"\bnot (?:enough|sufficient)\b"), "insufficient"),
    (re.compile(r"\bnot valid\b"), "invalid"),
    (re.compile(r"\bnot (?:active|enabled)\b"), "inactive"),
    (re.compile(r"(?:# ?)+"), "# "),
)
_KEY: Final = re.compile(r"(?:[a-z]+\.)*errors?\.([a-z0-9_.\-]+)")
"""`neworder.error.not_enough_funds`, `error.incorrect_service_id`: what panels' translation files call it."""
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_TOKEN: Final = re.compile(r"#|[^\W\d_]+")
_PREFIX: Final = re.compile(
    r"(?:error|failed|fail|warning|validation error|validation failed|order failed|order rejected|order not placed"
    r"|order not created|cannot (?:create|place) order|failed (?:create|place) order|failure|order error)"
    r"(?: code)?(?: #)? (?=\S)"
)


_DOUBT: Final = re.compile(
    r"\b(?:timeout|timed out|unexpected|exception|internal|maybe|might|error processing|went invalid|unknown error)\b"
)
"""Whoever says this does not know what happened, whatever else the sentence holds."""


_EFFECT: Final = (
    r"(?:placed|created|submitted|accepted|queued?|charged|debited|deducted|taken|took|paid|partial(?:ly)?|delivered"
    r"|started|order start|success\w*|approved|received|reserved|bought|purchased|ordered|registered|saved|confirmed)"
)
_UNDER_WAY: Final = r"(?:processed|processing|pending|inprogress)"
_ORDER_NUMBER: Final = r"(?:\border (?:id |number |no )?#|(?<=order )(?:id |number |no )?#)"
_SPEAKS_OF_EFFECT: Final = re.compile(rf"\b(?:{_EFFECT}|{_UNDER_WAY})\b|{_ORDER_NUMBER}")
_DENIED: Final = re.compile(rf"\b(?:not|cannot|no|never|nothing|without|failed) (?:\w+ ){{0,2}}?{_EFFECT}\b")


def may_have_happened(text: str) -> bool:
    """Whether a text beside a refusal speaks of an order that exists, or says that nobody knows what happened."""
    if len(text) > LONGEST_SENTENCE:
        return True
    reduced = _reduced(text)
    return _DOUBT.search(reduced) is not None or _SPEAKS_OF_EFFECT.search(_DENIED.sub("", reduced)) is not None


def canonical(text: str) -> str:
    """A sentence in few words: case, punctuation, articles and numbers gone, synonyms made one.

    "Your balance isn't enough!" and "not enough balance" become `balance insufficient`, `insufficient balance`;
    "Quantity less than minimal 1,000" becomes `quantity below min #`; a translation key begins with `translationkey`.
    Empty where the text is a page, or says itself that nobody knows what happened.
    """
    if len(text) > LONGEST_SENTENCE:
        return ""
    reduced = _reduced(text)
    return "" if _DOUBT.search(reduced) else reduced


def _reduced(text: str) -> str:
    lowered = unicodedata.normalize("NFKC", text).casefold().strip(" \t\r\n.!?:;")
    match = _KEY.fullmatch(lowered)
    if match is not None:
        lowered = "translationkey " + match.group(1)
    lowered = re.sub(r"['’‘`´]", "", lowered)
    joined = " ".join(_TOKEN.findall(_NUMBER.sub(" # ", lowered)))
    for pattern, replacement in _JOINED:
        joined = pattern.sub(replacement, joined)
    kept = (_SYNONYMS.get(token, token) for token in joined.split() if token not in _FILLERS)
    reduced = " ".join(kept)
    for pattern, replacement in _REJOINED:
        reduced = pattern.sub(replacement, reduced)
    reduced = " ".join(reduced.split())
    return reduced if match is not None else _PREFIX.sub("", reduced, count=1)


# --- patterns of canonical sentences --------------------------------------------------------------------------------

_TAIL: Final = (
    r"(?:(?: (?:(?:place|create|completed|process|make) )?(?:new |another )?order)?"
    r"(?: (?:please|kindly|try|contact|choose|check|add|topup|recharge|deposit|min|max|only|required|must"
    r"|available|balance|left|usd|eur)\b.*)?|(?: #.*))"
)
"""What may follow a listed sentence without changing it: advice, the figures, "to place this order". No number of an
order: it would exist."""

_PART: Final[Mapping[str, str]] = {
    "K": r"(?:translationkey )?",
    "LINK": r"(?:(?:instagram|tiktok|youtube|facebook|twitter|telegram|spotify|threads|target|page|profile|post"
    r"|video) )?(?:link|username|profile|post|video|media|photo|reel|story|tweet|channel|group|publication|track"
    r"|playlist)",
    "SAME": r"(?:same )?(?:link|username|profile|post|account|page|video|channel|target)",
    "SERVICE": r"(?:requested )?(?:service|package|product|project|item|offer|country)(?: id)?(?: #)?",
    "GOODS": r"(?:service|product|item|package|account|phone number|number|phone|project|offer)",
    "PARAM": r"(?:service|order|orders|quantity|action|comment|username|usernames|hashtag|hashtags|keyword|keywords"
    r"|media|answer|answer number|group|groups|project|phone|country|runs|interval|expiry|delay|posts|min|max|refill"
    r"|device|service type|type)(?: id| ids)?",
    "OPEN": r"(?:inprogress|requested|request|exist|pending|active|submitted|created|processing|running|placed"
    r"|added|queue|sent|started|open)",
    "OPENED": r"(?:running|pending|processing|inprogress|open|unfinished|active)",
    "OF": r"(?:order|refill|task|activation|refill task)(?: id)?(?: #)?",
}


def listed(patterns: Iterable[str], *, under_way: bool = False, exists: bool = False) -> re.Pattern[str]:
    """One pattern of many: each names parts in angle brackets, each may be followed by the polite tail.

    Nothing that is left open may speak of an order that came about: "only 40 available, order partially placed" is no
    refusal. `under_way`: another order may be spoken of as being worked on; `exists`: the patterns themselves say that
    what was asked for is there already.
    """
    filled = (re.sub(r"<(\w+)>", lambda part: _PART[part.group(1)], pattern) for pattern in patterns)
    forbidden = rf"\b{_EFFECT}" if under_way else rf"(?:\b(?:{_EFFECT}|{_UNDER_WAY})|{_ORDER_NUMBER})"
    rest = rf"(?:(?!{forbidden}(?!\w)).)*"
    pattern = "(?:" + "|".join(filled) + ")" + _TAIL
    return re.compile(pattern if exists else pattern.replace(".*", rest))
