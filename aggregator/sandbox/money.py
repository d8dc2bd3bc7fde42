"""Exact amounts. Decides how a sum is rounded and written in an answer; never touches a float.

Everything is a `Decimal` rounded to five fraction digits, which is what the samples of both documents show at most.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

QUANTUM = Decimal("0.00001")
ZERO = Decimal(0)
_PLAIN = re.compile(r"-?\d{1,15}(\.\d{1,8})?")


def amount(text: str) -> Decimal:
    """Read a plain decimal string such as "0.90"; anything else (exponent, NaN, blank) is a ValueError."""
    if not _PLAIN.fullmatch(text):
        raise ValueError(f'must be a plain decimal string such as "0.90", got {text!r}')
    return Decimal(text)


def rounded(value: Decimal) -> Decimal:
    """The value to five fraction digits, half up."""
    return value.quantize(QUANTUM, ROUND_HALF_UP)


def shown(value: Decimal, digits: int = 2) -> str:
    """Write an amount as the documents do: at least `digits` fraction digits, at most five, no exponent."""
    whole, _, fraction = f"{rounded(value):f}".partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(digits, '0')}"
