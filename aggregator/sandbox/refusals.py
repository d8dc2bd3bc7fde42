"""Why a purchase, a refill or a cancel is refused. Decides the reasons; the words are each dialect's own.

A refusal never leaves anything behind: no charge, no stock taken, no ledger entry.
"""

from __future__ import annotations

from enum import Enum, auto


class Reason(Enum):
    """What is wrong with a request, independent of the words an account uses for it."""

    FUNDS = auto()
    SERVICE = auto()
    SERVICE_MISSING = auto()
    MINIMUM = auto()
    MAXIMUM = auto()
    QUANTITY = auto()
    STOCK_OUT = auto()
    STOCK_LOW = auto()
    LINK = auto()
    LINK_ACTIVE = auto()
    PARAMETER = auto()
    ORDER = auto()
    TOO_MANY = auto()
    REFILL_NEVER = auto()
    REFILL_EARLY = auto()
    REFILL_EXPIRED = auto()
    REFILL_RUNNING = auto()
    REFILL_NOT_DROPPED = auto()
    REFILL_UNKNOWN = auto()
    ORDER_UNFINISHED = auto()
    ORDER_CANCELED = auto()
    CANCEL_NEVER = auto()
    PHONE = auto()
    ACTION = auto()


class Refusal(Exception):
    """A request was refused and nothing was bought; `detail` fills the `{}` of the dialect's words."""

    def __init__(self, reason: Reason, detail: object = "") -> None:
        super().__init__(reason.name)
        self.reason = reason
        self.detail = detail
