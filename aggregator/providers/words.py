"""Status words and the figures in sentences: tables, and how a word is spelled to look it up. No decisions.

A word that is in no table is unknown, and unknown is a state of its own: nothing may be concluded from it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

from aggregator.domain.numbers import NumberState
from aggregator.domain.orders import OrderState
from aggregator.domain.refills import RefillState

LONGEST_SENTENCE: Final = 1000
"""Longer texts are pages, not sentences."""

# --- status words, any case, blanks, underscores and hyphens alike ---------------------------------------------------

ORDER_STATES: Final[Mapping[str, OrderState]] = {
    "pending": OrderState.PENDING,
    "processing": OrderState.PROCESSING,
    "inprogress": OrderState.IN_PROGRESS,
    "active": OrderState.IN_PROGRESS,  # a subscription's: {"status":"Active","posts":10,"orders":[101]}
    "completed": OrderState.COMPLETED,
    "complete": OrderState.COMPLETED,
    "partial": OrderState.PARTIAL,
    "partiallycompleted": OrderState.PARTIAL,
    "canceled": OrderState.CANCELED,
    "cancelled": OrderState.CANCELED,
    "refunded": OrderState.CANCELED,  # contract.md §2: Refunded reads canceled, Fail reads failed
    "fail": OrderState.FAILED,
    "failed": OrderState.FAILED,
}

REFILL_STATES: Final[Mapping[str, RefillState]] = {
    "pending": RefillState.PENDING,
    "processing": RefillState.IN_PROGRESS,
    "inprogress": RefillState.IN_PROGRESS,
    "completed": RefillState.COMPLETED,
    "complete": RefillState.COMPLETED,
    "rejected": RefillState.REJECTED,
    "canceled": RefillState.REJECTED,
    "cancelled": RefillState.REJECTED,
    "failed": RefillState.REJECTED,
    "fail": RefillState.REJECTED,
}

NUMBER_STATES: Final[Mapping[str, NumberState]] = {
    "active": NumberState.WAITING,
    "waiting": NumberState.WAITING,
    "pending": NumberState.WAITING,
    "codereceived": NumberState.RECEIVED,
    "completed": NumberState.RECEIVED,
    "received": NumberState.RECEIVED,
    "expired": NumberState.EXPIRED,
    "timeout": NumberState.EXPIRED,
    "cancel": NumberState.CANCELED,
    "canceled": NumberState.CANCELED,
    "cancelled": NumberState.CANCELED,
    "refund": NumberState.CANCELED,
    "refunded": NumberState.CANCELED,
}

ENVELOPE_FAILED: Final = frozenset({"error", "err", "fail", "failed", "failure", "false"})
"""`status` values that speak of the call: {"status":"fail","message":"…"}."""
ENVELOPE_SUCCEEDED: Final = frozenset({"success", "successful", "ok", "true"})
"""{"status":"success","order":23501}: that `status` is not an order status."""


def word(text: str) -> str:
    """A status word as the tables spell it: `In progress`, `IN_PROGRESS` and `in-progress` are one."""
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", text).casefold())


def sentence(text: str) -> str:
    """A text without case, punctuation and doubled blanks: how the operator's own readings are compared."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text[:LONGEST_SENTENCE]).casefold()))


# --- figures in a sentence ------------------------------------------------------------------------------------------

_SPANS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("second", "seconds", "sec", "secs", "s"), 1),
    **dict.fromkeys(("minute", "minutes", "min", "mins", "m"), 60),
    **dict.fromkeys(("hour", "hours", "hr", "hrs", "h"), 3600),
    **dict.fromkeys(("day", "days", "d"), 86_400),
    **dict.fromkeys(("week", "weeks"), 604_800),
}
_SPAN: Final = re.compile(r"(\d{1,6})\s*-?\s*([a-z]+)\b", re.ASCII)
_LONGEST_WAIT_S: Final = 366 * 86_400


def wait_named(text: str) -> float | None:
    """The time a text asks to wait, in seconds: `too soon to refill, wait 23 hours`, `1 day 3 hours`."""
    spans = [
        int(count) * _SPANS[unit] for count, unit in _SPAN.findall(text[:LONGEST_SENTENCE].casefold()) if unit in _SPANS
    ]
    total = sum(spans)
    return float(total) if 0 < total <= _LONGEST_WAIT_S else None


_NAMED: Final = re.compile(r"(?:#|\bid\b)\s*[:#]?\s*(\d{1,20})\b", re.IGNORECASE | re.ASCII)


def id_named(text: str) -> str | None:
    """An id that a sentence names: `Refill already in progress (ID: 55)`, `… #55`."""
    found = _NAMED.findall(text[:LONGEST_SENTENCE])
    return found[0] if len(found) == 1 else None
