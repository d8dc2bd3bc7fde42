"""Exact money: an integer count of 10^-8 units together with a currency.

Decides how amounts are read, rounded, compared and written. Never uses a binary float and never converts between
currencies without an explicit rate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final

SCALE: Final = 8
"""Digits after the point that are kept."""
UNIT: Final = 10**SCALE
FEWEST_DIGITS: Final = 2
"""No provider rounds an amount to fewer digits than these."""
ROUNDING_STEPS: Final = tuple(10 ** (SCALE - digits) for digits in range(FEWEST_DIGITS, SCALE))
"""The steps, in units, to which a provider may round, coarsest first."""
MAX_UNITS: Final = 2**63 - 1
"""The largest amount a signed 64-bit column holds: 92,233,720,368.54775807."""

_CONTEXT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_QUANTUM: Final = Decimal(1).scaleb(-SCALE)
# Stricter than Decimal itself, which also takes `1_000`, other scripts' digits, NaN and Infinity.
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


class MoneyError(ValueError):
    """The text is not an amount of money, or lies outside of what can be stored."""


def parse_decimal(raw: object) -> Decimal:
    """Read a provider's or a caller's number; strings with spaces around them are welcome, floats are not.

    Raises MoneyError for anything that is not a finite decimal number.
    """
    if isinstance(raw, bool) or not isinstance(raw, int | str | Decimal):
        raise MoneyError(f"expected a decimal number, got {type(raw).__name__}")
    # Python refuses to write out an integer of thousands of digits, with an error of its own.
    text = "" if isinstance(raw, int) and raw.bit_length() > 256 else str(raw).strip()
    if not 0 < len(text) <= 64:
        raise MoneyError("expected a decimal number of 1 to 64 characters")
    if not _NUMBER.fullmatch(text):
        raise MoneyError(f"expected a decimal number, got {text!r}")
    value = Decimal(text)
    if value and not -40 < value.adjusted() < 40:
        raise MoneyError(f"the number {text!r} is out of range")
    return value


def units_of(value: Decimal) -> int:
    """Scale to 10^-8 units, rounding half to even; MoneyError outside of a signed 64-bit integer."""
    try:
        units = int(value.quantize(_QUANTUM, context=_CONTEXT).scaleb(SCALE, context=_CONTEXT))
    except InvalidOperation as exc:
        raise MoneyError(f"the amount {value} is larger than can be stored") from exc
    if not -MAX_UNITS <= units <= MAX_UNITS:
        raise MoneyError(f"the amount {value} is larger than can be stored")
    return units


def format_units(units: int) -> str:
    """A plain decimal with 2 to 8 fraction digits and no exponent, as contract.md §2 asks."""
    sign = "-" if units < 0 else ""
    whole, fraction = divmod(abs(units), UNIT)
    digits = f"{fraction:0{SCALE}d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{digits}"


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in 10^-8 units of `currency` (ISO 4217 or whatever a provider calls it, upper case)."""

    units: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.units) is not int:
            raise MoneyError(f"expected a whole number of units, got {type(self.units).__name__}")
        if not -MAX_UNITS <= self.units <= MAX_UNITS:
            raise MoneyError("the amount is larger than can be stored")

    @classmethod
    def parse(cls, raw: object, currency: str) -> Money:
        """Read `raw`, a string, integer or Decimal; MoneyError when it is none of them or out of range."""
        return cls(units_of(parse_decimal(raw)), currency.upper())

    @property
    def amount(self) -> str:
        return format_units(self.units)

    @property
    def decimal(self) -> Decimal:
        return Decimal(self.units).scaleb(-SCALE, context=_CONTEXT)

    def __add__(self, other: Money) -> Money:
        return Money(self.units + self._same(other).units, self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.units - self._same(other).units, self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.units < self._same(other).units

    def __le__(self, other: Money) -> bool:
        return self.units <= self._same(other).units

    def _same(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise MoneyError(f"cannot combine {self.currency} with {other.currency}")
        return other

    def times(self, numerator: int, denominator: int = 1) -> Money:
        """This amount times a ratio of whole numbers, rounded half to even: the cost of `numerator` pieces at a
        rate per `denominator`."""
        units, rest = divmod(self.units * numerator, denominator)
        if 2 * rest > denominator or (2 * rest == denominator and units % 2):
            units += 1
        if abs(units) > MAX_UNITS:
            raise MoneyError("the cost is larger than can be stored")
        return Money(units, self.currency)

    def convert(self, rate: Decimal, currency: str) -> Money:
        """The value in `currency`, where one unit of this currency is worth `rate` of it."""
        return Money(units_of(_CONTEXT.multiply(self.decimal, rate)), currency)

    def as_json(self) -> dict[str, str]:
        return {"amount": self.amount, "currency": self.currency}
