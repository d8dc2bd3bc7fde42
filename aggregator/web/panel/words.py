"""What the panel door says when something cannot be done: the documents' own words, and those of live panels where the
documents are silent.

Decides which sentence a problem is. Every one of them is a sentence that panels' clients (and our own dialects) know: a
refusal that nobody can read would leave the caller not knowing whether anything was bought.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from aggregator.config.callers import Panel
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.refills import Denial

MAX_IDS: Final = 100
"""smm_plus.txt: "Order IDs (separated by a comma, up to 100 IDs)"."""


class Word(StrEnum):
    """What can be said; `{}` stands for what is said of it."""

    KEY = "Invalid API key"
    SCOPE = "Invalid API key: this needs a key with the scope {}"
    ACTION = "Incorrect request"
    METHOD = "Incorrect request: send this action by POST"
    SERVICE_MISSING = "Service ID is required"
    SERVICE = "Incorrect service ID"
    ORDER = "Incorrect order ID"
    REFILL = "Refill not found"
    TOO_MANY_IDS = "Too many IDs, up to {}"
    LINK = "Bad Link"
    QUANTITY = "Incorrect quantity"
    MINIMUM = "Quantity less than minimal {}"
    MAXIMUM = "Quantity more than maximal {}"
    PARAMETER = "Incorrect {}"
    TOO_LARGE = "Request is too large"
    STOCK = "Out of stock"
    RATE_LIMIT = "Rate limit reached, please slow down"
    BUSY = "There was an error processing your request. Please try again later"
    REFILL_NEVER = "Refill is not available"
    REFILL_EXPIRED = "guarantee_expired"
    REFILL_EARLY = "too soon to refill, wait {} hours"
    REFILL_RUNNING = "refill already in progress (ID: {})"
    REFILL_USED_UP = "refill limit reached"
    NO_DROP = "drop_not_detected"
    UNFINISHED = "order is not completed"
    ORDER_CANCELED = "order canceled"
    CANCEL_NEVER = "Cancel is not available"


# hstockplus.txt: "Invalid action", "Service ID is required", "Order not found", "Service not found"; smm_plus.txt has
# "Incorrect order ID" and "Refill not found" alone.
_OWN: Final[Mapping[Panel, Mapping[Word, str]]] = {
    "smm_plus": {Word.SERVICE_MISSING: str(Word.SERVICE)},
    "hstockplus": {
        Word.ACTION: "Invalid action",
        Word.SERVICE: "Service not found",
        Word.ORDER: "Order not found",
    },
}

_DENIALS: Final[Mapping[Denial, Word]] = {
    Denial.UNFINISHED: Word.UNFINISHED,
    Denial.ENDED: Word.ORDER_CANCELED,
    Denial.NOT_OFFERED: Word.REFILL_NEVER,
    Denial.WINDOW_OVER: Word.REFILL_EXPIRED,
    Denial.TOO_EARLY: Word.REFILL_EARLY,
    Denial.RUNNING: Word.REFILL_RUNNING,
    Denial.REFUSED: Word.REFILL_NEVER,
    Denial.USED_UP: Word.REFILL_USED_UP,
    Denial.NO_DROP: Word.NO_DROP,
}

_KINDS: Final[Mapping[ProblemKind, Word]] = {
    ProblemKind.UNAUTHENTICATED: Word.KEY,
    ProblemKind.TOO_MANY_REQUESTS: Word.RATE_LIMIT,
    ProblemKind.UNKNOWN_ORDER: Word.ORDER,
    ProblemKind.UNKNOWN_SERVICE: Word.SERVICE,
    ProblemKind.BAD_JSON: Word.ACTION,
    ProblemKind.TOO_LARGE: Word.TOO_LARGE,
}
"""What is left out is BUSY: nobody may conclude anything from it."""


class Refused(Exception):
    """An action cannot be done: a word, what it speaks of, and how many seconds later it makes sense to try again."""

    def __init__(self, word: Word, about: object = "", retry_after_s: int | None = None) -> None:
        super().__init__(word, about, retry_after_s)
        self.word = word
        self.about = about
        self.retry_after_s = retry_after_s

    def sentence(self, panel: Panel) -> str:
        """The refusal in the words of a document."""
        return _OWN[panel].get(self.word, str(self.word)).format(self.about)


def refusal(problem: Problem) -> Refused:
    """A problem of the first door in this door's words."""
    field, facts = problem.field or "", problem.facts
    found = Refused(_KINDS.get(problem.kind, Word.BUSY), retry_after_s=problem.retry_after_s)
    if problem.kind is ProblemKind.IDEMPOTENCY_MISMATCH:
        found = Refused(Word.PARAMETER, "Idempotency-Key: it belongs to another request")
    elif problem.kind is ProblemKind.INVALID_FIELD:
        if field == "quantity":
            found = _quantity(facts)
        elif field == "link":
            found = Refused(Word.LINK)
        elif field == "service":
            found = Refused(Word.SERVICE_MISSING)
        else:
            found = Refused(Word.PARAMETER, field.removeprefix("params.")) if field else Refused(Word.ACTION)
    return found


def _quantity(facts: Mapping[str, str | int]) -> Refused:
    if facts.get("reason") == "out_of_stock":
        return Refused(Word.STOCK)
    if "minimum" in facts:
        return Refused(Word.MINIMUM, facts["minimum"])
    return Refused(Word.MAXIMUM, facts["maximum"]) if "maximum" in facts else Refused(Word.QUANTITY)


def denied(why: Denial, wait_s: float | None, running: int | None) -> Refused:
    """Why an order cannot have a refill: `wait_s` until it may, and the one that is `running`, by its number."""
    if running is not None:
        return Refused(Word.REFILL_RUNNING, running)
    return Refused(_DENIALS[why], max(1, math.ceil((wait_s or 0) / 3600)))
