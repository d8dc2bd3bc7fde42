"""Rented SMS numbers: their states, and what their codes and ends make of the order that rented them.

An order of n numbers is in progress until each is received, expired or canceled. A code that comes after the end is
still kept and told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from aggregator.domain.clock import rfc3339
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId
from aggregator.domain.money import Money
from aggregator.domain.orders import OrderState


class NumberState(StrEnum):
    """contract.md §2, `numbers`."""

    WAITING = "waiting"
    RECEIVED = "received"
    EXPIRED = "expired"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Code:
    """A code that arrived, with the message it came in."""

    code: str
    text: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Number:
    """One rented number. `number` is our integer for it, `phone` empty until the provider names it."""

    id: int
    number: int
    order: OrderId
    provider: str
    provider_order: str
    phone: str
    state: NumberState
    codes: tuple[Code, ...] = ()
    charge: Money | None = None
    expires_at: datetime | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NumberReport:
    """What a provider says of a number; None says nothing."""

    state: NumberState | None = None
    phone: str | None = None
    code: str | None = None
    text: str | None = None
    charge: Money | None = None
    expires_at: datetime | None = None


_RANK: Final = {NumberState.WAITING: 0, NumberState.EXPIRED: 1, NumberState.CANCELED: 1, NumberState.RECEIVED: 2}
"""A received code is never taken back by a later expiry; an expired number may still receive."""


def apply_report(number: Number, report: NumberReport, at: datetime) -> tuple[Number, tuple[Draft, ...]]:
    """The number after a report, with `sms.code` for each new code and `sms.expired` when it ran out without one."""
    state = number.state
    events: list[Draft] = []
    codes = number.codes
    if report.code and not any(_same_code(known, report) for known in codes):
        arrived = Code(report.code, report.text or "", at)
        codes = (*codes, arrived)
        state = NumberState.RECEIVED
    elif report.state is not None and _RANK[report.state] > _RANK[state]:
        # "received" without a code says that one will follow; the code itself makes it so.
        state = report.state if report.state is not NumberState.RECEIVED else state
    changed = replace(
        number,
        state=state,
        codes=codes,
        phone=report.phone or number.phone,
        charge=report.charge if report.charge is not None else number.charge,
        expires_at=report.expires_at or number.expires_at,
    )
    for code in codes[len(number.codes) :]:
        events.append(Draft("sms.code", code_data(changed, code), lane=f"n{number.number}"))
    if state is NumberState.EXPIRED and number.state is NumberState.WAITING:
        events.append(Draft("sms.expired", {"number": number_data(changed)}))
    return changed, tuple(events)


def _same_code(known: Code, report: NumberReport) -> bool:
    """The two ways to ask (sms_code, sms_status) tell the same code, one of them without its text."""
    return known.code == report.code and (not report.text or not known.text or known.text == report.text)


def number_data(number: Number) -> dict[str, object]:
    return {"phone": number.phone, "provider_order": number.provider_order}


def code_data(number: Number, code: Code) -> dict[str, object]:
    """The `data` of `sms.code` beside the order, contract.md §5."""
    return {
        "number": number_data(number),
        "code": {"code": code.code, "text": code.text, "received_at": rfc3339(code.received_at)},
    }


def order_state(numbers: Iterable[Number]) -> OrderState:
    """The state of the order that rented them: all received completed, some partial, none canceled."""
    states = [number.state for number in numbers]
    if not states or NumberState.WAITING in states:
        return OrderState.IN_PROGRESS
    received = states.count(NumberState.RECEIVED)
    if received == len(states):
        return OrderState.COMPLETED
    return OrderState.PARTIAL if received else OrderState.CANCELED
