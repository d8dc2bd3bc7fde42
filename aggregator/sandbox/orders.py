"""One order of a fake provider. Decides what it looks like at a moment; it never charges, refuses or answers anybody.

Everything but forced values and asked-for cancels and refills follows from (plan, created_at, now).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from .behaviour import Plan, RefillOutcome, progress, refill_progress
from .catalogue import Service
from .money import ZERO, rounded

REFUNDED_WORDS = frozenset({"canceled", "cancelled", "refunded", "fail", "failed"})
FINAL_WORDS = REFUNDED_WORDS | {"completed", "partial"}


@dataclass(frozen=True, slots=True)
class Drop:
    """Units that fell off again at a moment after completion."""

    at: float
    units: int


@dataclass(slots=True)
class Refill:
    """One accepted refill; `forced` overrides the status word."""

    id: int
    order: Order
    created_at: float
    duration_s: float
    outcome: RefillOutcome
    forced: str | None = None

    def at(self, now: float) -> tuple[str, float]:
        """Status word and the share of the drop made good."""
        word, share = refill_progress(now - self.created_at, self.duration_s, self.outcome)
        if self.forced is None:
            return word, share
        return self.forced, 1.0 if self.forced.lower() == "completed" else 0.0


@dataclass(frozen=True, slots=True)
class OrderView:
    """What a status answer is made of. `charge` is net of refunds; `start_count` None: not started, so not known."""

    status: str
    delivered: int
    remains: int
    charge: Decimal
    start_count: int | None
    final: bool


@dataclass(slots=True)
class Order:
    """A purchase, or the parent of the runs of a drip-feed or the posts of a subscription.

    `charge` is what was taken for this order itself: a parent's is 0, its children carry theirs.
    """

    ordinal: int
    id: str
    service: Service
    link: str
    quantity: int
    params: Mapping[str, str]
    charge: Decimal
    created_at: float
    plan: Plan
    start_count: int = 0
    accounts: tuple[str, ...] = ()
    children: tuple[Order, ...] = ()
    subscription: bool = False
    cancel_at: float | None = None
    forced_status: str | None = None
    forced_remains: int | None = None
    forced_start_count: int | None = None
    drops: list[Drop] = field(default_factory=list)
    refills: list[Refill] = field(default_factory=list)
    returned: Decimal = ZERO
    """What has been paid back so far; kept by the account."""

    def view(self, now: float) -> OrderView:
        """The order as a status answer shows it at this moment."""
        if self.children:
            return self._family(now)
        stop = None if self.cancel_at is None else self.cancel_at - self.created_at
        natural = progress(self.plan, now - self.created_at, stop)
        status = natural.status if self.forced_status is None else self.forced_status
        word, delivered = status.lower(), natural.delivered
        if self.forced_status is not None and word == "completed":
            delivered = self.quantity
        elif self.forced_status is not None and word in REFUNDED_WORDS:
            delivered = 0
        remains = self.quantity - delivered
        if word == "completed":
            remains += self.dropped(now)
        if self.forced_remains is not None:
            remains = self.forced_remains
            delivered = max(0, min(self.quantity, self.quantity - remains))
        start = None if word == "pending" else self.start_count
        return OrderView(
            status=status,
            delivered=delivered,
            remains=remains,
            charge=self.charge - self._refund(word, delivered),
            start_count=start if self.forced_start_count is None else self.forced_start_count,
            final=word in FINAL_WORDS,
        )

    def visible_children(self, now: float) -> list[Order]:
        """Runs or posts that have begun; later ones do not exist yet for a caller."""
        return [child for child in self.children if child.created_at <= now]

    def dropped(self, now: float) -> int:
        """Units lost after completion and not made good by a refill asked for afterwards."""
        lost = 0
        for drop in self.drops:
            if drop.at <= now:
                shares = [refill.at(now)[1] for refill in self.refills if refill.created_at >= drop.at]
                lost += drop.units - int(drop.units * max(shares, default=0.0))
        return lost

    def refund_due(self, now: float) -> Decimal:
        """How much of `charge` the provider owes back at this moment."""
        return ZERO if self.children else self.charge - self.view(now).charge

    def refund_moment(self) -> float:
        """When a refund can become due by itself or by the accepted cancel; infinite if never."""
        natural = self.plan.finish_s if self.plan.kind in ("partial", "cancel", "fail") else float("inf")
        moment = self.created_at + natural
        return moment if self.cancel_at is None else min(moment, self.cancel_at)

    def completed_at(self) -> float:
        """When the natural completion is or was."""
        return self.created_at + self.plan.finish_s

    def _refund(self, word: str, delivered: int) -> Decimal:
        if word in REFUNDED_WORDS:
            return self.charge
        if word == "partial" and self.quantity:
            return self.charge - rounded(self.charge * delivered / self.quantity)
        return ZERO

    def _family(self, now: float) -> OrderView:
        views = [child.view(now) for child in self.children]
        words = {view.status for view in views}
        if all(view.final for view in views):
            mixed = "Partial" if words & {"Completed", "Partial"} else "Canceled"
            if self.subscription:
                mixed = "Completed" if self.cancel_at is None else "Canceled"
            status = words.pop() if len(words) == 1 else mixed
        elif self.subscription:
            status = "Active"
        else:
            status = "Pending" if words == {"Pending"} else "In progress"
        first = views[0].start_count
        return OrderView(
            status=status if self.forced_status is None else self.forced_status,
            delivered=sum(view.delivered for view in views),
            remains=sum(view.remains for view in views),
            charge=sum((view.charge for view in views), ZERO),
            start_count=first,
            final=all(view.final for view in views),
        )
