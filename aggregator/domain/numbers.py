"""Rented SMS numbers: their states, and what their codes and ends make of the order that rented them.

An order of n numbers is in progress until each is received, expired or canceled. A code that comes after the end is
still kept and told.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
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
class Place:
    """Which of a number's codes one way to ask (`source`) showed last, and when that one came in, as it said."""

    source: str
    index: int
    at: datetime | None = None


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
    places: tuple[Place, ...] = field(default=(), compare=False)
    """How far each way to ask has come in `codes`: what a repeated answer is compared with, and nobody else's news."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that came in, as a provider shows it: `code` empty where its text does not give it away."""

    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class NumberReport:
    """What a provider says of a number; None says nothing."""

    state: NumberState | None = None
    phone: str | None = None
    code: str | None = None
    text: str | None = None
    charge: Money | None = None
    expires_at: datetime | None = None
    code_at: datetime | None = None
    """When the code came in, where the provider says so."""
    messages: tuple[Message, ...] = ()
    """Every code so far, oldest first, where the answer lists them; `code` is then one of these."""


_RANK: Final = {NumberState.WAITING: 0, NumberState.EXPIRED: 1, NumberState.CANCELED: 1, NumberState.RECEIVED: 2}
"""A received code is never taken back by a later expiry; an expired number may still receive."""


MOST_REPEATS: Final = 5
"""How often one number is told the same code. A provider that shows two codes by turns would never come to an end."""


def apply_report(
    number: Number, report: NumberReport, at: datetime, *, source: str = ""
) -> tuple[Number, tuple[Draft, ...]]:
    """The number after a report, with `sms.code` for each new code and `sms.expired` when it ran out without one.

    `source` is the way it was asked: two of them may show different codes, each again and again.
    """
    state = number.state
    events: list[Draft] = []
    codes, places = _arrived(number, report, at, source)
    if len(codes) > len(number.codes):
        state = NumberState.RECEIVED
    elif report.state is not None and _RANK[report.state] > _RANK[state]:
        # "received" without a code says that one will follow; the code itself makes it so.
        state = report.state if report.state is not NumberState.RECEIVED else state
    changed = replace(
        number,
        state=state,
        codes=codes,
        places=places,
        phone=report.phone or number.phone,
        charge=report.charge if report.charge is not None else number.charge,
        expires_at=report.expires_at or number.expires_at,
    )
    for code in codes[len(number.codes) :]:
        events.append(Draft("sms.code", code_data(changed, code), lane=f"n{number.number}"))
    if state is NumberState.EXPIRED and number.state is NumberState.WAITING:
        events.append(Draft("sms.expired", {"number": number_data(changed)}))
    return changed, tuple(events)


def _arrived(
    number: Number, report: NumberReport, at: datetime, source: str
) -> tuple[tuple[Code, ...], tuple[Place, ...]]:
    """The number's codes with those that are new in the report, and where each source stands then."""
    if report.messages:
        return _listed(number.codes, report.messages, at), number.places
    received = report.state is NumberState.RECEIVED
    if not report.code and not (report.text and received):
        return number.codes, number.places
    shown = Message(report.code or "", report.text or "")
    here = next((place for place in number.places if place.source == source), None)
    codes = number.codes
    after = -1
    if here is not None:
        after = here.index
        later = report.code_at is not None and here.at is not None and report.code_at > here.at
        if _same_code(codes[here.index], shown) and not later:
            kept = replace(here, at=here.at or report.code_at)
            return codes, _placed(number.places, kept)
    # What the other source has told already is passed over in its order; only what lies beyond is new.
    index = next((i for i in range(after + 1, len(codes)) if _same_code(codes[i], shown)), None)
    if index is None:
        if sum(_same_code(code, shown) for code in codes) >= MOST_REPEATS:
            return codes, number.places
        index, codes = len(codes), (*codes, Code(shown.code, shown.text, at))
    return codes, _placed(number.places, Place(source, index, report.code_at))


def _placed(places: tuple[Place, ...], place: Place) -> tuple[Place, ...]:
    return (*(one for one in places if one.source != place.source), place)


def _listed(codes: tuple[Code, ...], messages: Iterable[Message], at: datetime) -> tuple[Code, ...]:
    """A list is cumulative: of what it holds as often as before, nothing is new."""
    shown: Counter[int] = Counter()
    known = list(codes)
    for message in messages:
        # Messages that are the same are counted under the first code that they are the same as.
        first = next((i for i, code in enumerate(known) if _same_code(code, message)), len(known))
        shown[first] += 1
        if shown[first] > sum(_same_code(code, message) for code in known) and shown[first] <= MOST_REPEATS:
            known.append(Code(message.code, message.text, at))
    return tuple(known)


_BETWEEN: Final = re.compile(r"[\s\-\u2010-\u2015\u2212]+")
_PASSING: Final = re.compile(r"\d+")
_FEWEST_DIGITS: Final = 4


def _same_code(known: Code, shown: Message) -> bool:
    """Whether both are one message: by the code as its digits read, or, without one, by the text.

    The ways to ask tell the same code, one without its text, one with "received 12 s ago" in it; one writes `123 456`,
    one a number that has lost its leading zeros.
    """
    if known.code and shown.code:
        return _bare(known.code) == _bare(shown.code)
    if shown.code:
        return False
    named = len(_bare(known.code)) >= _FEWEST_DIGITS and _bare(known.code) in _bare(shown.text)
    return named or (bool(known.text) and _lasting(known.text) == _lasting(shown.text))


def _bare(code: str) -> str:
    bare = _BETWEEN.sub("", code).casefold()
    return bare.lstrip("0") or "0" if bare.isdecimal() else bare


def _lasting(text: str) -> str:
    """A text without what passes: blanks, and numbers too short for a code, such as an age in seconds."""
    kept = _PASSING.sub(lambda run: run[0] if len(run[0]) >= _FEWEST_DIGITS else "", text)
    return " ".join(kept.casefold().split())


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
