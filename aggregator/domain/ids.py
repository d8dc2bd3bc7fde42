"""Identifiers: typed names for them, and UUIDv7 (RFC 9562 §5.7) so that new rows sort by their time of birth."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NewType

OrderId = NewType("OrderId", str)
"""`ord_` and 32 hexadecimal digits."""
OrderNumber = NewType("OrderNumber", int)
"""The integer that the panel door and people use."""
AttemptId = NewType("AttemptId", str)
EventId = NewType("EventId", str)
RefillId = NewType("RefillId", str)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

RandomBits = Callable[[int], int]
"""Called with a number of bits, answers that many random ones; injected so that a run can be repeated."""


def uuid7_hex(now: datetime, random_bits: RandomBits = secrets.randbits) -> str:
    """A UUIDv7 without dashes: 48 bits of milliseconds, then version, variant and 74 random bits."""
    # In whole numbers: a float of seconds times 1000 falls short of the millisecond every now and then.
    milliseconds = (now - _EPOCH) // _MILLISECOND & ((1 << 48) - 1)
    # One draw, not two: each call into the system's source gives other threads the interpreter.
    drawn = random_bits(74)
    value = milliseconds << 80 | 0x7 << 76 | (drawn >> 62) << 64 | 0b10 << 62 | drawn & ((1 << 62) - 1)
    return f"{value:032x}"


def new_id(prefix: str, now: datetime, random_bits: RandomBits = secrets.randbits) -> str:
    """`prefix`, an underscore and a fresh UUIDv7."""
    return f"{prefix}_{uuid7_hex(now, random_bits)}"


def first_id(prefix: str, at: datetime) -> str:
    """What sorts before every id of this prefix that was made at `at` or later, and after all older ones."""
    milliseconds = max(0, (at - _EPOCH) // _MILLISECOND) & ((1 << 48) - 1)
    return f"{prefix}_{milliseconds:012x}"
