"""One rented SMS number. Decides which codes it has received at a moment and whether it has ended; never charges.

Its course is fixed when it is rented; codes and an end can also be forced by hand.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from decimal import Decimal

from .catalogue import NumberBehaviour, SmsProject
from .money import ZERO


@dataclass(frozen=True, slots=True)
class Code:
    """A received code, with the moment of its arrival in sandbox seconds."""

    at: float
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class NumberView:
    """What sms_code and sms_status say. `status` is active, code_received, expired or cancel."""

    status: str
    latest: Code | None
    charge: Decimal


@dataclass(slots=True)
class Number:
    """A rented number. `ends_at` is its expiry; `canceled_at` is when the provider takes it back, if ever."""

    ordinal: int
    id: str
    project: SmsProject
    phone: str
    charge: Decimal
    created_at: float
    codes: list[Code]
    ends_at: float
    canceled_at: float | None
    pushed: list[Code] = field(default_factory=list)
    returned: Decimal = ZERO

    def view(self, now: float) -> NumberView:
        """State at this moment. A number with a code stays `code_received`; without one its charge comes back."""
        end = self.ends_at if self.canceled_at is None else min(self.ends_at, self.canceled_at)
        received = [code for code in self.codes if code.at <= min(now, end)]
        received += [code for code in self.pushed if code.at <= now]
        if received:
            return NumberView("code_received", max(received, key=lambda code: code.at), self.charge)
        if now < end:
            return NumberView("active", None, self.charge)
        return NumberView("expired" if end == self.ends_at else "cancel", None, ZERO)

    def refund_due(self, now: float) -> Decimal:
        """How much of the charge is owed back at this moment."""
        return self.charge - self.view(now).charge

    def refund_moment(self) -> float:
        """When the number ends and, without a code, is paid back."""
        return self.ends_at if self.canceled_at is None else min(self.ends_at, self.canceled_at)


def course(behaviour: NumberBehaviour, now: float, rng: random.Random) -> tuple[list[Code], float, float | None]:
    """Decide the codes that will come, the expiry, and when the provider cancels (None: never)."""
    kind, factor = behaviour.kind, 1.0
    if kind == "mixed":
        kind = rng.choices(("code", "two_codes", "expire", "cancel"), weights=(70, 12, 12, 6))[0]
        factor = rng.uniform(0.5, 3.0)
    first = now + behaviour.code_s * factor
    moments = {"code": [first], "two_codes": [first, first + behaviour.second_s]}.get(kind, [])
    canceled_at = first if kind == "cancel" else None
    return [code_at(moment, rng) for moment in moments], now + behaviour.lifetime_s, canceled_at


def code_at(moment: float, rng: random.Random, code: str | None = None, text: str | None = None) -> Code:
    """A code with the text of the document's sample, unless given."""
    digits = f"{rng.randrange(1_000_000):06d}" if code is None else code
    return Code(moment, digits, f"Your verification code is {digits}" if text is None else text)
