"""When the evidence of an unclear purchase is a proof; pure, from what was stored with the attempt.

Silence and an unmoved balance prove nothing by themselves: a slow provider may accept a purchase long after our
timeout. "Not bought" therefore needs an account that nobody else uses, a provider that was seen to debit at once, time,
and two readings with nothing else unexplained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from aggregator.domain.books import Shown
from aggregator.domain.clock import parse_rfc3339

DEBITS_TO_TRUST: Final = 20
"""Purchases that a provider must have been seen to debit at once before an unmoved balance says anything."""
READINGS_TO_TRUST: Final = 2
LEAST_TIMEOUTS: Final = 3


class Verdict(StrEnum):
    """What the evidence proves."""

    BOUGHT = "bought"
    NOT_BOUGHT = "not_bought"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Trust:
    """What is known of the provider whose balance is the evidence."""

    exclusive_account: bool
    debits_seen: int
    settle: timedelta


def settle_time(settle_s: float, timeout_s: float) -> timedelta:
    """How long after the sending a balance may settle: the setting, but at least three timeouts."""
    return timedelta(seconds=max(settle_s, LEAST_TIMEOUTS * timeout_s))


def verdict(evidence: Sequence[Mapping[str, Any]], sent_at: datetime, trust: Trust) -> Verdict:
    """What the readings since the sending prove. The newest count: a later reading corrects an earlier one."""
    readings = [one for one in evidence if one.get("kind") == "balance"]
    if readings and readings[-1]["sharp"] and readings[-1]["shown"] == Shown.DEBITED:
        return Verdict.BOUGHT
    settled = [one for one in readings if parse_rfc3339(one["at"]) >= sent_at + trust.settle]
    newest = settled[-READINGS_TO_TRUST:]
    unmoved = len(newest) == READINGS_TO_TRUST and all(one["sharp"] and one["shown"] == Shown.UNMOVED for one in newest)
    if unmoved and trust.exclusive_account and trust.debits_seen >= DEBITS_TO_TRUST:
        return Verdict.NOT_BOUGHT
    return Verdict.UNDECIDED
