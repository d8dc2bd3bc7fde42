"""Drops and refills: when a finished order has lost enough, and when a refill may be asked for.

The rules know only numbers and times; who asks the provider, and how its words read, is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from aggregator.domain.ids import OrderId, RefillId
from aggregator.domain.orders import FINAL, Order, OrderState


class RefillState(StrEnum):
    """contract.md §2, `refills`."""

    REQUESTED = "requested"
    UNCLEAR = "unclear"
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    REJECTED = "rejected"


OPEN: Final = frozenset(RefillState) - {RefillState.COMPLETED, RefillState.REJECTED}


LATER_AT: Final = "later_at"
"""The outcome of a refusal that names the time to come back: that time counts in place of the cooldown."""
NO_DROP: Final = "no_drop"
MUCH_LATER: Final = 7
"""Cooldowns to wait where the provider sees no drop: who sees none today will not see one tomorrow."""
NEVER_AGAIN: Final = frozenset({"never", "window_over"})
"""Refusals that no later time changes."""


class Denial(StrEnum):
    """Why no refill may be asked for now, as a stable word for programs."""

    UNFINISHED = "not_completed"
    ENDED = "ended_otherwise"
    NOT_OFFERED = "not_offered"
    WINDOW_OVER = "window_over"
    TOO_EARLY = "too_early"
    RUNNING = "running"
    REFUSED = "refused_for_good"
    USED_UP = "used_up"
    NO_DROP = "no_drop"


@dataclass(frozen=True, slots=True)
class Denied:
    """Why no refill may be asked for now: a word for programs, a sentence for people, and when it may where that is
    known."""

    why: Denial
    text: str
    again_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refill:
    """One request to top an order up. `dropped` is the number of pieces lost when it was asked for."""

    id: RefillId
    number: int
    order: OrderId
    provider: str
    state: RefillState
    requested_at: datetime
    provider_refill: str | None = None
    dropped: int | None = None
    outcome: str | None = None
    detail: str | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RefillPolicy:
    """A service's `refill` settings (contract.md §1)."""

    auto: bool
    drop_percent: float
    window: timedelta
    cooldown: timedelta
    min_age: timedelta
    check_every: timedelta
    max_refills: int


def cooled_down(refills: Sequence[Refill], policy: RefillPolicy) -> datetime | None:
    """When the last cooldown that a refill has begun is over; None where none has begun one."""
    ends = [one.requested_at + _cooldown(one, policy) for one in refills if one.outcome != LATER_AT]
    return max(ends, default=None)


def _cooldown(refill: Refill, policy: RefillPolicy) -> timedelta:
    return MUCH_LATER * policy.cooldown if refill.outcome == NO_DROP else policy.cooldown


def drop(order: Order, baseline: int = 0) -> int | None:
    """Pieces that a completed order has lost since, by whoever says more; None where nothing is known.

    A provider that says Completed with `remains` above what it said at the completion, the `baseline`, says that so
    many are gone again. Who counted at the link says it by contract.md §2: start_count + (quantity - remains) -
    current, with nothing remaining when it completed; after the provider's figures last changed, such a count alone is
    believed.
    """
    said, counted = drop_said(order, baseline), _drop_counted(order)
    if counted is not None and order.count_at is not None and order.count_at > order.updated_at:
        return counted
    return max((lost for lost in (said, counted) if lost is not None), default=None)


def drop_said(order: Order, baseline: int = 0) -> int | None:
    """Pieces lost by the provider's own word; `remains` above the quantity is no figure to act on."""
    if order.state is not OrderState.COMPLETED or order.remains is None or order.remains > order.quantity:
        return None
    return max(0, order.remains - baseline)


def _drop_counted(order: Order) -> int | None:
    if order.state is not OrderState.COMPLETED or order.start_count is None or order.count is None:
        return None
    return min(max(0, order.start_count + order.quantity - order.count), order.quantity)


def surprising(order: Order) -> bool:
    """Whether a count says that all is gone: one such reading is more often a page that did not load than a loss."""
    return _drop_counted(order) == order.quantity


def dropped_enough(order: Order, lost: int, policy: RefillPolicy) -> bool:
    """Whether the loss reaches the threshold, a percentage of the quantity."""
    return lost > 0 and lost * 100 >= policy.drop_percent * order.quantity


def unfinished(order: Order) -> Denied | None:
    """Why an order in this state is never refilled; None for a completed one."""
    if order.state is OrderState.COMPLETED and order.finished_at is not None:
        return None
    why = Denial.ENDED if order.state in FINAL else Denial.UNFINISHED
    return Denied(why, f"the order is {order.state}; only a completed order is refilled")


def denial(
    order: Order, refills: Sequence[Refill], policy: RefillPolicy, at: datetime, *, offered: bool
) -> Denied | None:
    """Why no refill may be asked for now; None when it may.

    `offered`: the provider and this service of it take refills.
    """
    if (not_over := unfinished(order)) is not None or order.finished_at is None:
        return not_over
    if not offered:
        return Denied(Denial.NOT_OFFERED, "the provider gives no refills for this service")
    if not policy.window:
        return Denied(Denial.NOT_OFFERED, "the service's name at the provider says that there are no refills")
    if at - order.finished_at > policy.window:
        return Denied(Denial.WINDOW_OVER, f"the refill window of {policy.window} is over")
    if at - order.finished_at < policy.min_age:
        old_enough = order.finished_at + policy.min_age
        return Denied(Denial.TOO_EARLY, f"the order finished less than {policy.min_age} ago", old_enough)
    if any(refill.state in OPEN for refill in refills):
        return Denied(Denial.RUNNING, "a refill is running")
    final_word = next((refill for refill in refills if refill.outcome in NEVER_AGAIN), None)
    if final_word is not None:
        said = final_word.detail or final_word.outcome
        return Denied(Denial.REFUSED, f"the provider refused for good: {said}")
    if len([refill for refill in refills if refill.state is RefillState.COMPLETED]) >= policy.max_refills:
        return Denied(Denial.USED_UP, f"the order had its {policy.max_refills} refills")
    ends = cooled_down(refills, policy)
    if any(at - one.requested_at < policy.cooldown for one in refills if one.outcome != LATER_AT):
        return Denied(Denial.TOO_EARLY, f"the last refill was asked for less than {policy.cooldown} ago", ends)
    if ends is not None and at < ends:
        text = f"the provider saw no drop; it is asked again after {MUCH_LATER} times {policy.cooldown}"
        return Denied(Denial.NO_DROP, text, ends)
    return None
