"""Refills and cancels. Decides whether one is accepted for an order; it never answers and knows no words.

The documents show only the accepted and the unknown-order case; the other refusals are those of real panels.
"""

from __future__ import annotations

from .account import Account
from .orders import REFUNDED_WORDS, Order, Refill
from .refusals import Reason, Refusal

_DAY_S = 86_400.0


def refill(account: Account, order_id: str, now: float) -> Refill:
    """Accept a refill of a completed order, or refuse it with the reason."""
    order = account.order(order_id, now)
    _check(account, order, now)
    behaviour = account.services.get(order.service.id, order.service).behaviour
    made = Refill(len(account.refills) + 1, order, now, behaviour.refill_s, behaviour.refill_outcome)
    order.refills.append(made)
    account.refills[str(made.id)] = made
    return made


def find_refill(account: Account, refill_id: str) -> Refill:
    """A refill by its id, or a refusal."""
    found = account.refills.get(refill_id.strip())
    if found is None:
        raise Refusal(Reason.REFILL_UNKNOWN)
    return found


def cancel(account: Account, order_id: str, now: float) -> Order:
    """Accept a cancel, which takes effect after the account's `cancel_s`, or refuse it. A second changes nothing."""
    order = account.order(order_id, now)
    if not order.service.cancel or order.view(now).final:
        raise Refusal(Reason.CANCEL_NEVER)
    if order.cancel_at is None:
        account.stop(order, now + account.settings.cancel_s)
    return order


def _check(account: Account, order: Order, now: float) -> None:
    settings, word = account.settings, order.view(now).status.lower()
    if not order.service.refill or order.children:
        raise Refusal(Reason.REFILL_NEVER)
    if word in REFUNDED_WORDS:
        raise Refusal(Reason.ORDER_CANCELED)
    if word != "completed":
        raise Refusal(Reason.ORDER_UNFINISHED)
    completed_at = min(order.completed_at(), now)
    if now > completed_at + order.service.refill_days * _DAY_S:
        raise Refusal(Reason.REFILL_EXPIRED)
    earliest = completed_at + settings.refill_min_age_s
    if order.refills:
        last = order.refills[-1]
        if last.at(now)[0].lower() in ("pending", "in progress", "processing"):
            raise Refusal(Reason.REFILL_RUNNING)
        earliest = max(earliest, last.created_at + settings.refill_cooldown_s)
    if now < earliest:
        raise Refusal(Reason.REFILL_EARLY, max(1, round((earliest - now) / 3600)))
    if settings.refill_needs_drop and not order.dropped(now):
        raise Refusal(Reason.REFILL_NOT_DROPPED)
