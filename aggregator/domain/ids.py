"""Identifiers: typed names for them, and UUIDv7 (RFC 9562 §5.7) so that new rows sort by their time of birth."""

from __future__ import annotations

import os
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


class _Drawn:
    """Random bits, drawn from the system for many ids at once: each call there gives other threads the interpreter."""

    _BITS: Final = 80
    _AT_ONCE: Final = 256

    def __init__(self) -> None:
        self._ready: list[int] = []
        # A forked process would give the same ids as its parent.
        os.register_at_fork(after_in_child=self._ready.clear)

    def __call__(self, bits: int) -> int:
        assert bits <= self._BITS
        while True:
            try:
                return self._ready.pop() & ((1 << bits) - 1)
            except IndexError:
                size = self._BITS // 8
                drawn = secrets.token_bytes(size * self._AT_ONCE)
                self._ready += [int.from_bytes(drawn[at : at + size], "big") for at in range(0, len(drawn), size)]


_drawn: Final = _Drawn()


def uuid7_hex(now: datetime, random_bits: RandomBits = _drawn) -> str:
    """A UUIDv7 without dashes: 48 bits of milliseconds, then version, variant and 74 random bits."""
    # In whole numbers: a float of seconds times 1000 falls short of the millisecond every now and then.
    milliseconds = (now - _EPOCH) // _MILLISECOND & ((1 << 48) - 1)
    drawn = random_bits(74)
    value = milliseconds << 80 | 0x7 << 76 | (drawn >> 62) << 64 | 0b10 << 62 | drawn & ((1 << 62) - 1)
    return f"{value:032x}"


def new_id(prefix: str, now: datetime, random_bits: RandomBits = _drawn) -> str:
    """`prefix`, an underscore and a fresh UUIDv7."""
    return f"{prefix}_{uuid7_hex(now, random_bits)}"


def first_id(prefix: str, at: datetime) -> str:
    """What sorts before every id of this prefix that was made at `at` or later, and after all older ones."""
    milliseconds = max(0, (at - _EPOCH) // _MILLISECOND) & ((1 << 48) - 1)
    return f"{prefix}_{milliseconds:012x}"
