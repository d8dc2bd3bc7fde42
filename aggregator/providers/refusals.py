"""Why a refill or a cancel is refused, in providers' sentences (quirks.md "Refill and cancel"). Tables, no decisions.

Listed as errors are: whole sentences in canonical form. A text that is not listed is no refusal; whether it is unclear
then depends on where it stands, and the dialect knows that.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from aggregator.providers.contract import Meaning, RefillRefusal, RefillRefused
from aggregator.providers.sentences import canonical, listed
from aggregator.providers.words import LONGEST_SENTENCE


@dataclass(frozen=True, slots=True)
class TurnedAway(RefillRefused):
    """The call was turned away, for what `meaning` says, and with it every order in it: no refill was asked for."""

    meaning: Meaning = Meaning.GENERIC


_REFILLS: Final[tuple[tuple[RefillRefusal, re.Pattern[str]], ...]] = tuple(
    (refusal, listed(patterns, exists=refusal is RefillRefusal.RUNNING))
    for refusal, patterns in (
        (
            RefillRefusal.RUNNING,
            (
                r"<K>(?:active |pending )?(?:refill|request)(?: request| task)? already <OPEN>(?: .*)?",
                r"<K>already (?:(?:active |pending |exist )+refill|refill (?:request |task )?<OPEN>|requested refill"
                r"|refilling)(?: .*)?",
                r"<K>refill(?: request| task)? (?:inprogress|processing|pending|active|running|exist|not completed)"
                r"(?: order)?(?: already)?",
                r"<K>(?:active|pending|previous|another|exist) refill(?: request| task)?"
                r"(?: (?:exist|inprogress|not completed|pending))?(?: order)?",
                r"order already (?:refilling|requested refill|pending refill|active refill|refill <OPEN>)(?: .*)?",
            ),
        ),
        (
            RefillRefusal.WINDOW_OVER,
            (
                r"<K>(?:refill )?(?:guarantee|warranty|refill)(?: (?:period|time|window|days|date|deadline|order))*"
                r" (?:expired|ended|passed|elapsed|out|above)(?: .*)?",
                r"<K>(?:refill |guarantee |warranty )*(?:period|window|deadline|time)(?: refill)?"
                r" (?:expired|inactive|passed|ended)",
                r"(?:expired|out) (?:refill|guarantee|warranty)(?: period)?",
                r"order(?: too)? (?:old|expired)(?: refill)?|order too old(?: .*)?",
            ),
        ),
        (
            RefillRefusal.NO_DROP,
            (
                r"<K>(?:no )?drop not (?:detected|found)(?: .*)?",
                r"<K>no drop(?: (?:detected|found|order))*",
                r"<K>(?:order |link |quantity )?not drop(?: .*)?",
                r"<K>refill not (?:required|needed|necessary)(?: .*)?",
                r"(?:start|current) count (?:above|equal).*",
            ),
        ),
        (
            RefillRefusal.LATER,
            (
                r"<K>too (?:soon|early)(?: refill| request)*(?: .*)?",
                r"<K>(?:refill task |order |status )*not completed(?: refill)?(?: .*)?",
                r"<K>(?:refill )?(?:please )?(?:wait|available|try again) (?:after |in |least |another |next )*#"
                r" (?:\w+)(?: .*)?",
                r"(?:request )?refill (?:requested )?(?:(?:not|only|available|allowed|possible|wait|after|every|each"
                r"|per|until|next|once) (?:requested )?)+#.*",
                r"refill too (?:soon|early)(?: .*)?",
                r"order completed refill requested below # hours? ago",
                r"(?:order|refill) (?:completed|requested) below # \w+ ago",
                r"refill not ready|refill(?: not)? available (?:tomorrow|later|soon)|cooldown(?: .*)?",
                r"order (?:still )?(?:inprogress|pending|processing)",
                r"only completed order refill(?: .*)?",
            ),
        ),
        (
            RefillRefusal.NEVER,
            (
                r"<K>(?:no refill|refill (?:not (?:available|supported|allowed|possible|offered|provided|included)"
                r"|inactive|unavailable|impossible))(?: (?:cancel |completed |partial )?(?:order|service|link"
                r"|product))*",
                r"<K>(?:service|order|product) (?:not|cannot|no|without)"
                r"(?: (?:supported|refill|eligible|available|allowed|refillable|guarantee|offer|provide))+",
                r"<K>(?:not eligible|cannot|not|unable) (?:request )?refill(?: (?:order|service))*",
                r"order not eligible(?: refill)?",
                r"<K>(?:max )?refill (?:limit|count|quantity)(?: (?:order|service))* (?:reached|above|used)",
                r"<K>refill (?:limit|max)|<K>max(?: number)? refill(?: (?:reached|above|used|limit))*",
                r"<K>no(?: above)? refill(?: (?:left|available|remaining))*",
                r"<K>order (?:cancel|refunded|failed|inactive)(?: refill)?",
            ),
        ),
    )
)

_CANCELS_ASKED: Final = listed(
    (
        r"<K>cancel(?: request| task)? already(?: .*)?",
        r"<K>already (?:requested |pending )?cancel(?: (?:requested|request|pending|inprogress))+",
        r"<K>cancel(?: request| task)? (?:pending|inprogress|processing|exist|requested)(?: .*)?",
        r"order already (?:requested cancel|pending cancel|cancel (?:requested|pending|inprogress))(?: request)?",
    ),
    exists=True,
)

_GENERIC: Final = re.compile(
    r"(?:^|\b)(?:error|exception|wrong|went|internal|unexpected|try again|later|timeout|timed|temporar\w*"
    r"|server|unknown|failed|busy|maintenance|unable|database|gateway|unavailable)(?:\b|$)"
)


_PASSING: Final = re.compile(
    r"\b(?:yet|currently|now|presently|today|temporar\w*|wait|later|soon|tomorrow|try again"
    r"|(?:at|for) (?:the|this) (?:current |present )?(?:moment|time)"
    r"|(?:in|after|within|for|another) (?:about )?\d+ ?(?:s|m|h|d|secs?|mins?|hrs?|seconds?|minutes?|hours?|days?"
    r"|weeks?))\b"
)
_LASTING: Final = re.compile(r"\b(?:no longer|any ?more|never|ever|permanently)\b")
_TEMPORARY: Final = re.compile(r"\btemporar(?:y|ily)\b ?")


def passing(text: str) -> bool:
    """Whether a refusal speaks of the moment: "not available yet", "currently", "try again in 12 hours". The canonical
    form has no such words, so a table cannot tell them from refusals for good."""
    lowered = " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text[:LONGEST_SENTENCE]).casefold()))
    return _PASSING.search(lowered) is not None and _LASTING.search(lowered) is None


def refill_refusal(text: str) -> RefillRefusal | None:
    """Why a refill is refused, or None where the text proves nothing."""
    reduced = _TEMPORARY.sub("", canonical(text)).strip()
    if not reduced:
        return None
    found = next((refusal for refusal, pattern in _REFILLS if pattern.fullmatch(reduced)), None)
    return RefillRefusal.LATER if found is RefillRefusal.NEVER and passing(text) else found


def cancel_already_asked(text: str) -> bool:
    return _CANCELS_ASKED.fullmatch(canonical(text)) is not None


def sounds_generic(text: str) -> bool:
    """Whether a text could be said of any failure: it blames the server, or asks to try again."""
    lowered = " ".join(re.findall(r"[^\W\d_]+", text[:LONGEST_SENTENCE].casefold()))
    return not lowered or _GENERIC.search(lowered) is not None
