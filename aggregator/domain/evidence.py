"""When the evidence of an unclear purchase is a proof; pure, from what was stored with the attempt.

Silence and an unmoved balance prove nothing by themselves: a slow provider may accept a purchase long after our
timeout, and cancel and refund it before anybody looks. "Not bought" therefore needs an account that nobody else uses, a
provider that was seen to debit at once, time, two readings, a balance that was never out of sight for long, and that no
reading since the sending showed anything that the books did not explain later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from aggregator.domain.books import Shown
from aggregator.domain.clock import parse_rfc3339

DEBITS_TO_TRUST: Final = 20
"""Purchases that a provider must have been seen to debit at once before an unmoved balance says anything."""
APART: Final = timedelta(seconds=5)
"""Two readings closer together than this are one."""
LEAST_TIMEOUTS: Final = 3

Evidence = Sequence[Mapping[str, Any]]


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

    @property
    def enough(self) -> bool:
        """Whether an unmoved balance of this provider can prove anything at all."""
        return self.exclusive_account and self.debits_seen >= DEBITS_TO_TRUST


def settle_time(settle_s: float, timeout_s: float) -> timedelta:
    """How long after the sending a balance may settle: the setting, but at least three timeouts."""
    return timedelta(seconds=max(settle_s, LEAST_TIMEOUTS * timeout_s))


def settled_at(evidence: Evidence, sent_at: datetime, settle: timedelta) -> datetime:
    """When the balance has settled, by a clock that may have been put forward since: that was no time that passed. One
    that was put back as well takes as much of it away again, and no more."""
    jumped = sum(float(one["forward_s"]) for one in evidence if one.get("kind") == "clock")
    return sent_at + settle + timedelta(seconds=max(0.0, jumped))


def verdict(evidence: Evidence, sent_at: datetime, trust: Trust) -> Verdict:
    """What is proved by what was seen since the sending.

    "Bought" changes nothing but words, so the newest reading says it. "Not bought" buys again, so a single reading that
    ever said otherwise forbids it.
    """
    readings = _readings(evidence)
    if readings and readings[-1]["sharp"] and readings[-1]["shown"] == Shown.DEBITED:
        return Verdict.BOUGHT
    if not trust.enough or spoiled(evidence):
        return Verdict.UNDECIDED
    least = settled_at(evidence, sent_at, trust.settle)
    if _out_of_sight(evidence, sent_at, trust.settle):
        return Verdict.UNDECIDED
    settled = _readings(_since_put_back(evidence))
    moments = [moment for one in settled if (moment := parse_rfc3339(one["at"])) >= least and _unmoved(one)]
    apart = len(moments) >= 2 and moments[-1] - moments[0] >= APART
    return Verdict.NOT_BOUGHT if apart and _unmoved(readings[-1]) else Verdict.UNDECIDED


def _out_of_sight(evidence: Evidence, sent_at: datetime, longest: timedelta) -> bool:
    """Whether the balance went unread for longer than it takes to settle: a purchase that was canceled and refunded
    meanwhile leaves it as it was. What a clock jumped was no time that passed."""
    jumped, seen = timedelta(), [sent_at]
    for one in evidence:
        if one.get("kind") == "clock":
            jumped += timedelta(seconds=float(one["forward_s"]))
        elif one.get("kind") == "balance":
            seen.append(parse_rfc3339(one["at"]) - jumped)
    return any(later - earlier > longest for earlier, later in pairwise(seen))


def spoiled(evidence: Evidence) -> bool:
    """Whether something was seen since the sending that forbids to conclude "not bought" from a balance.

    A difference that the books took over without an explanation may be this very purchase at another price. One that
    the books explained while the balance stood still (a refund that was told late) may not.
    """
    if told_difference(evidence):
        return True
    if any(one.get("kind") == "active_order" or one.get("verdict") == "bought" for one in evidence):
        return True
    doubtful: str | None = None
    for one in _readings(evidence):
        if doubtful is not None and one["balance"] != doubtful:
            return True
        doubtful = None if _unmoved(one) else one["balance"]
    return False


def may_be_refunded(evidence: Evidence) -> bool:
    """Whether another unclear purchase may have been made, and so be canceled and refunded without anybody being told:
    some reading showed more of it than that the balance had not moved."""
    return not all(_unmoved(one) for one in _readings(evidence))


def told_difference(evidence: Evidence) -> bool:
    """Whether the books took over a difference while a purchase was open: it may have cost more than was expected."""
    return any(one.get("kind") == "difference" for one in evidence)


def moved_late(evidence: Evidence) -> bool:
    """Whether the newest reading shows a debit that an earlier one did not: the provider does not debit at once."""
    readings = _readings(evidence)
    debited = bool(readings) and bool(readings[-1]["sharp"]) and readings[-1]["shown"] == Shown.DEBITED
    return debited and any(_unmoved(one) for one in readings[:-1])


def _since_put_back(evidence: Evidence) -> Evidence:
    """What was seen since the clock was put back: until then it showed a time that was not yet come."""
    back = [place for place, one in enumerate(evidence) if one.get("kind") == "clock" and float(one["forward_s"]) < 0]
    return evidence[back[-1] + 1 :] if back else evidence


def _readings(evidence: Evidence) -> list[Mapping[str, Any]]:
    return [one for one in evidence if one.get("kind") == "balance"]


def _unmoved(reading: Mapping[str, Any]) -> bool:
    return bool(reading["sharp"]) and reading["shown"] == Shown.UNMOVED


def dispensable(evidence: Evidence) -> int | None:
    """Which of too many pieces may go: a reading that said nothing new, and without which the balance was out of sight
    for the shortest time. Neither the first nor one of the newest."""
    read_at = [(place, parse_rfc3339(one["at"])) for place, one in enumerate(evidence) if one.get("kind") == "balance"]
    unseen = [
        (abs(after - before), place)  # below zero where the clock was put back
        for (_, before), (place, _), (_, after) in zip(read_at, read_at[1:], read_at[2:], strict=False)
        if place < len(evidence) - 3 and _unmoved(evidence[place])
    ]
    return min(unseen)[1] if unseen else None
