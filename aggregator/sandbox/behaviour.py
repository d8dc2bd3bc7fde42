"""What becomes of an order. Decides an order's fate once, from a seeded generator, and its progress at any later age.

Everything here is a pure function of (plan, age): nothing is stored, nothing ticks, and no money is counted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["complete", "partial", "cancel", "drop", "fail", "stuck", "mixed"]
KINDS: tuple[str, ...] = get_args(Kind)
RefillOutcome = Literal["complete", "reject"]
REFILL_OUTCOMES: tuple[str, ...] = get_args(RefillOutcome)
NEVER = float("inf")

_FINAL_WORDS = {
    "complete": "Completed",
    "drop": "Completed",
    "partial": "Partial",
    "cancel": "Canceled",
    "fail": "Fail",
}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How orders of a service go. Durations are sandbox seconds; percents are of the ordered quantity."""

    kind: Kind = "complete"
    pending_s: float = 5.0
    run_s: float = 30.0
    delivered_percent: int = 40
    """How much a `partial` order delivers before it ends."""
    drop_percent: int = 20
    drop_after_s: float = 60.0
    """How long after completion a `drop` order loses `drop_percent`."""
    batch: int = 0
    """Delivered at a time, for people who deliver by hand; 0: smoothly."""
    refill_s: float = 60.0
    refill_outcome: RefillOutcome = "complete"


@dataclass(frozen=True, slots=True)
class Plan:
    """One order's fate, decided when it was placed. `target` and `drop` are units, times are sandbox seconds of age."""

    kind: Kind
    pending_s: float
    run_s: float
    target: int
    drop: int
    drop_after_s: float
    batch: int

    @property
    def finish_s(self) -> float:
        """The age at which the order becomes final by itself."""
        if self.kind == "stuck":
            return NEVER
        return self.pending_s if self.kind == "cancel" else self.pending_s + self.run_s


@dataclass(frozen=True, slots=True)
class Progress:
    """An order's natural status word and the units delivered so far."""

    status: str
    delivered: int


def decide(behaviour: Behaviour, quantity: int, rng: random.Random) -> Plan:
    """Fix an order's fate. Only `mixed` throws dice, so every other behaviour is exact to the second and the unit."""
    kind, factor = behaviour.kind, 1.0
    delivered, dropped = behaviour.delivered_percent, behaviour.drop_percent
    if kind == "mixed":
        fates: tuple[Kind, ...] = ("complete", "partial", "cancel", "drop")
        kind = rng.choices(fates, weights=(70, 12, 6, 12))[0]
        factor, delivered, dropped = rng.uniform(0.5, 1.5), rng.randint(10, 90), rng.randint(10, 40)
    share = {"complete": 100, "drop": 100, "partial": delivered}.get(kind, 0)
    return Plan(
        kind=kind,
        pending_s=behaviour.pending_s * factor,
        run_s=behaviour.run_s * factor,
        target=quantity * share // 100,
        drop=max(1, quantity * dropped // 100) if kind == "drop" else 0,
        drop_after_s=behaviour.drop_after_s,
        batch=behaviour.batch,
    )


def progress(plan: Plan, age: float, stop_age: float | None = None) -> Progress:
    """Status and delivered units at this age; `stop_age` is when an accepted cancel takes effect.

    A cancel that takes effect after the natural end changes nothing, as with real providers.
    """
    if stop_age is not None and stop_age <= age and stop_age < plan.finish_s:
        delivered = _delivered(plan, stop_age)
        return Progress("Partial" if delivered else "Canceled", delivered)
    if age < min(plan.pending_s, plan.finish_s) or plan.kind == "stuck":
        return Progress("Pending", 0)
    if age < plan.finish_s:
        return Progress("In progress", _delivered(plan, age))
    return Progress(_FINAL_WORDS[plan.kind], plan.target)


def _delivered(plan: Plan, age: float) -> int:
    if age >= plan.finish_s:
        return plan.target
    if age <= plan.pending_s or plan.kind == "stuck":
        return 0
    units = int(plan.target * (age - plan.pending_s) / plan.run_s)
    return units - units % plan.batch if plan.batch else units


def refill_progress(age: float, duration_s: float, outcome: RefillOutcome) -> tuple[str, float]:
    """A refill's status word, and the share (0 to 1) of the drop that it has made good."""
    if age >= duration_s:
        return ("Completed", 1.0) if outcome == "complete" else ("Rejected", 0.0)
    if age < duration_s / 5:
        return "Pending", 0.0
    return "In progress", age / duration_s if outcome == "complete" else 0.0
