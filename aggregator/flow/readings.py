"""A provider's balance, read and held against the books: what it proves of purchases that nobody knows the end of.

Stores every reading, what it shows of each open purchase, and differences that stand. It never decides about an order;
reconciliation does, from what is stored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from prometheus_client import Gauge

from aggregator.domain.books import Candidate, Judged, fitting, judge, refunds, standing
from aggregator.domain.clock import rfc3339
from aggregator.domain.events import Draft
from aggregator.domain.money import UNIT, Money, MoneyError, format_units, units_of
from aggregator.domain.sizes import MAX_CURRENCY
from aggregator.flow.base import House, log
from aggregator.providers.contract import Failure, FailureKind
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import books, catalogue, ledger, outbox
from aggregator.storage.books import Books, Moment
from aggregator.storage.database import Connection

RETRY_S: Final = 30.0
"""A balance that could not be read is asked for again this soon, or after the usual interval when that is shorter."""
STANDS_AFTER: Final = 3
"""Readings that must show the same difference before it is told; until then it may be a charge not yet known."""
PATIENCE: Final = 10
"""Readings after which a difference is told although not every order that may explain it was answered for."""
TRUSTED_AFTER: Final = 3
"""Refunds that must have been seen to come, net or gross, before a provider is known to tell them so."""
LOOK_BACK: Final = timedelta(days=7)
"""How far back orders are named as candidates for a difference."""
MOST_SHOWN: Final = 20

DIFFERENCE = Gauge(
    "aggregator_ledger_difference",
    "What the last reading of a provider's balance differs from the books by, beyond all that is in flight.",
    ["provider"],
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One balance as it was stored; `judged` None where it proves nothing: purchases were moving, or no anchor yet."""

    balance: Money
    judged: Judged | None


async def take_reading(house: House, gateway: Gateway, priority: Priority) -> Reading | Failure:
    """Ask for the balance and store it with all that it shows.

    A reading between two purchases is evidence, but follows the last one too closely to say that a difference stands.
    """
    async with gateway.turn(priority):
        return await take_reading_now(house, gateway, stands=priority is not Priority.PURCHASE)


async def take_reading_now(house: House, gateway: Gateway, *, stands: bool = True) -> Reading | Failure:
    """The same inside a turn that the caller holds."""
    before = await house.database.read(partial(books.moment, provider=gateway.name))
    answer = await gateway.balance()
    if isinstance(answer, Money) and len(answer.currency) > MAX_CURRENCY:
        answer = Failure(FailureKind.UNREADABLE, f"a balance in {answer.currency[:20]!r}")
    await house.health.note(gateway.name, answer)
    if isinstance(answer, Failure):
        await house.database.write(lambda c: _failed(c, house, gateway))
        log.warning("balance_unknown", provider=gateway.name, kind=str(answer.kind), text=answer.text)
        return answer
    balance = answer
    reading, wake = await house.database.write(lambda c: _store(c, house, gateway, balance, before, stands))
    if reading.judged is not None:
        # A float: a graph's line, never an amount that anybody computes with.
        DIFFERENCE.labels(gateway.name).set(0 if reading.judged.within else reading.judged.difference / UNIT)
    house.wakeups.wake(*wake)
    return reading


def _failed(connection: Connection, house: House, gateway: Gateway) -> None:
    now = house.clock.now()
    every_s = min(RETRY_S, float(gateway.settings.balance_every_s))
    catalogue.set_health(connection, gateway.name, now, next_balance_at=now + timedelta(seconds=every_s))


def _store(
    connection: Connection, house: House, gateway: Gateway, balance: Money, quiet_from: Moment, stands: bool
) -> tuple[Reading, list[str]]:
    """Store a reading and what it shows; which stages have to do because of it."""
    now = house.clock.now()
    ledger.lock(connection, gateway.name)
    known = catalogue.health(connection).get(gateway.name)
    low = balance.units < _least(gateway)
    was_low = bool(known is not None and known["balance_low"])
    before = books.load(connection, gateway.name)
    reading_id = ledger.add(connection, gateway.name, "reading", balance, now)
    catalogue.set_health(
        connection,
        gateway.name,
        now,
        reading_id=reading_id,
        next_balance_at=now + timedelta(seconds=float(gateway.settings.balance_every_s)),
        balance_units=balance.units,
        balance_currency=balance.currency,
        balance_at=now,
        balance_low=low,
    )
    wake = []
    if low and not was_low:
        data = {"provider": gateway.name, "balance": balance.as_json()}
        outbox.append_general(connection, Draft("provider.balance_low", data), now)
        log.warning("provider_balance_low", provider=gateway.name, balance=balance.amount)
        wake.append("sequencing")
    judged = None
    if books.quiet_between(quiet_from, books.moment(connection, gateway.name)):
        judged = _judge(connection, gateway, balance, before, now)
    if judged is not None:
        wake.extend(_follow(connection, gateway, balance, before, judged, now, stands))
    return Reading(balance, judged), wake


def _least(gateway: Gateway) -> int:
    try:
        return units_of(gateway.settings.min_balance)
    except MoneyError:
        return 0


def _judge(connection: Connection, gateway: Gateway, balance: Money, before: Books, now: datetime) -> Judged | None:
    """Hold a quiet reading against the books; None where it cannot be."""
    open_purchases = books.open_purchases(connection, gateway.name, balance.currency)
    if before.certain is None or before.currency != balance.currency or open_purchases is None:
        # The first reading is where the books begin; what is open then can never be told from it.
        if open_purchases == []:
            books.set_anchor(connection, gateway.name, balance.units, debits=0)
        return None
    judged = judge(before.certain, balance.units, open_purchases)
    for attempt, shown in judged.shown.items():
        if before.difference is not None and not books.has_readings(connection, attempt):
            # Its debit may just have hidden what was there before.
            _note_difference(connection, attempt, before.difference, now)
        books.add_evidence(
            connection,
            attempt,
            {
                "kind": "balance",
                "at": rfc3339(now),
                "balance": balance.amount,
                "certain": format_units(before.certain),
                "difference": format_units(judged.difference),
                "shown": str(shown),
                "sharp": judged.explained,
            },
        )
    return judged


def _note_difference(connection: Connection, attempt: str, units: int, now: datetime) -> None:
    books.add_evidence(
        connection, attempt, {"kind": "difference", "at": rfc3339(now), "difference": format_units(units)}
    )


def _follow(
    connection: Connection,
    gateway: Gateway,
    balance: Money,
    before: Books,
    judged: Judged,
    now: datetime,
    stands: bool,
) -> list[str]:
    """What a judged reading means for the books: they agree, or a difference begins, stands, or is told."""
    if judged.within:
        if not judged.shown:
            # What was bought since the reading before is in this one: the provider debits at once.
            fresh = books.purchases_since(connection, gateway.name, before.reading_id)
            told = books.refunds_since(connection, gateway.name, before.reading_id)
            books.set_anchor(connection, gateway.name, balance.units, debits=fresh, net_refunds=told)
        elif before.difference_seen:
            books.set_difference(connection, gateway.name, None, 0)
        return []
    if before.gross_refunds >= TRUSTED_AFTER and not judged.shown:
        came = refunds(judged.difference, books.candidates(connection, gateway.name, now - LOOK_BACK))
        if came:
            # This provider never tells refunds in its charges: the balance is where they show.
            books.book_refunds(connection, gateway.name, came, Money(judged.difference, balance.currency), now)
            books.set_anchor(connection, gateway.name, balance.units, debits=0)
            return []
    if not stands and before.difference is not None:
        return []
    known = before.difference
    if known is not None and books.booked_since(connection, gateway.name, before.reading_id, known):
        known = None  # that one was explained; this is another
    part, seen = standing(known, before.difference_seen, judged.difference)
    wait = seen < STANDS_AFTER or (seen < PATIENCE and books.unanswered(connection, gateway.name, now - LOOK_BACK) != 0)
    if wait:
        books.set_difference(connection, gateway.name, part, seen)
        # A charge or refund that nobody told yet is the usual cause: ask for all of them.
        asked = books.ask_again(connection, gateway.name, now, now - LOOK_BACK) if seen < STANDS_AFTER else 0
        return ["polling", "sms_watch"] if asked else []
    _tell(connection, gateway, balance, part, judged, now)
    rest = judged.difference - part
    books.set_difference(connection, gateway.name, rest or None, 1 if rest else 0)
    return ["sequencing"]


def _tell(connection: Connection, gateway: Gateway, balance: Money, part: int, judged: Judged, now: datetime) -> None:
    """Tell a difference that stands, with what might have caused it, and make the books agree again."""
    difference = Money(part, balance.currency)
    candidates = books.candidates(connection, gateway.name, now - LOOK_BACK)
    shown = explain(part, candidates)
    data = {
        "provider": gateway.name,
        "difference": difference.as_json(),
        "balance": balance.as_json(),
        "candidates": [one.as_json() for one in shown],
    }
    outbox.append_general(connection, Draft("provider.ledger_difference", data), now)
    log.warning("ledger_difference", provider=gateway.name, difference=difference.amount)
    came = [] if judged.shown else refunds(part, candidates)
    if came and all(one.kind == "refund" for one in shown):
        books.book_refunds(connection, gateway.name, came, difference, now)
    else:
        books.adopt(connection, gateway.name, difference, now, _cause(shown))
    for attempt in judged.shown:
        # The books agree from now on without knowing why, so they prove nothing of what was open meanwhile.
        _note_difference(connection, attempt, part, now)
    if any(one.kind == "unclear" and one.units == part and one.attempt not in judged.shown for one in shown):
        # A purchase that counts as never made was debited after all.
        books.distrust_debits(connection, gateway.name)


def explain(difference: int, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates to show for a difference: those that fit alone, else all, and who else may have been at it."""
    fits = fitting(difference, candidates)
    if fits:
        return fits[:MOST_SHOWN]
    stranger = Candidate("top_up" if difference > 0 else "outside", difference)
    return [*candidates[:MOST_SHOWN], stranger]


def _cause(shown: Sequence[Candidate]) -> str:
    if len(shown) > 1:
        return "more than one possible cause"
    what = shown[0].order or shown[0].attempt
    return f"perhaps {shown[0].kind} of {what}" if what else f"perhaps {shown[0].kind}"


def describe(connection: Connection, provider: str, now: datetime) -> dict[str, object] | None:
    """Where a provider's books stand, for the operator; None before they begin."""
    known = books.load(connection, provider)
    if known.certain is None or known.currency is None:
        return None
    found: list[Candidate] = []
    if known.difference is not None:
        found = explain(known.difference, books.candidates(connection, provider, now - LOOK_BACK))
    return {
        "certain": Money(known.certain, known.currency).as_json(),
        "difference": Money(known.difference, known.currency).as_json() if known.difference is not None else None,
        "readings": known.difference_seen,
        "candidates": [one.as_json() for one in found],
        "debits_seen": known.debits_seen,
        "refunds": _refunds_told(known),
    }


def _refunds_told(known: Books) -> str | None:
    """Whether this provider's charges tell refunds (net) or not (gross); None while too few were seen."""
    if max(known.net_refunds, known.gross_refunds) < TRUSTED_AFTER:
        return None
    return "net" if known.net_refunds > known.gross_refunds else "gross"
