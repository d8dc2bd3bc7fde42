"""A provider's balance, read and held against the books: what it proves of purchases that nobody knows the end of.

Stores every reading, what it shows of each open purchase, and differences that stand. It never decides about an order;
reconciliation does, from what is stored here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aggregator.domain.books import Judged, Shown, judge
from aggregator.domain.clock import rfc3339
from aggregator.domain.events import Draft
from aggregator.domain.money import Money, MoneyError, format_units, units_of
from aggregator.flow.base import House, log
from aggregator.providers.contract import Failure, FailureKind
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import books, catalogue, ledger, outbox
from aggregator.storage.books import Books
from aggregator.storage.database import Connection

RETRY_S: Final = 30.0
"""A balance that could not be read is asked for again this soon, or after the usual interval when that is shorter."""
STANDS_AFTER: Final = 3
"""Readings that must show the same difference before it is told; until then it may be a charge not yet known."""
LOOK_BACK: Final = timedelta(days=7)
"""How far back orders are named as candidates for a difference."""
MAX_CURRENCY: Final = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """One balance as it was stored; `judged` None where it proves nothing: purchases were moving, or no anchor yet."""

    balance: Money
    judged: Judged | None


async def take_reading(house: House, gateway: Gateway, priority: Priority) -> Reading | Failure:
    """Ask for the balance and store it with all that it shows."""
    async with gateway.turn(priority):
        return await take_reading_now(house, gateway)


async def take_reading_now(house: House, gateway: Gateway) -> Reading | Failure:
    """The same inside a turn that the caller holds."""
    begun = house.clock.now()
    answer = await gateway.balance()
    if isinstance(answer, Money) and len(answer.currency) > MAX_CURRENCY:
        answer = Failure(FailureKind.UNREADABLE, f"a balance in {answer.currency[:20]!r}")
    await house.health.note(gateway.name, answer)
    if isinstance(answer, Failure):
        await house.database.write(lambda c: _failed(c, house, gateway))
        log.info("balance_unknown", provider=gateway.name, kind=str(answer.kind), text=answer.text)
        return answer
    balance = answer
    reading, told = await house.database.write(lambda c: _store(c, house, gateway, balance, begun))
    if told:
        house.wakeups.wake("sequencing")
    return reading


def _failed(connection: Connection, house: House, gateway: Gateway) -> None:
    now = house.clock.now()
    every_s = min(RETRY_S, float(gateway.settings.balance_every_s))
    catalogue.set_health(connection, gateway.name, now, next_balance_at=now + timedelta(seconds=every_s))


def _store(
    connection: Connection, house: House, gateway: Gateway, balance: Money, begun: datetime
) -> tuple[Reading, bool]:
    now = house.clock.now()
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
    told = False
    if low and not was_low:
        data = {"provider": gateway.name, "balance": balance.as_json()}
        outbox.append_general(connection, Draft("provider.balance_low", data), now)
        log.warning("provider_balance_low", provider=gateway.name, balance=balance.amount)
        told = True
    judged, difference_told = _judge(connection, gateway, balance, before, begun, now)
    return Reading(balance, judged), told or difference_told


def _least(gateway: Gateway) -> int:
    try:
        return units_of(gateway.settings.min_balance)
    except MoneyError:
        return 0


def _judge(
    connection: Connection, gateway: Gateway, balance: Money, before: Books, begun: datetime, now: datetime
) -> tuple[Judged | None, bool]:
    """Hold a reading against the books, where it means one thing."""
    if not books.quiet_between(connection, gateway.name, begun):
        return None, False
    open_purchases = books.open_purchases(connection, gateway.name)
    if before.certain is None or before.currency != balance.currency:
        # The first reading is where the books begin; what is open then can never be told from it.
        if not open_purchases:
            books.set_anchor(connection, gateway.name, balance.units, debits=0)
        return None, False
    judged = judge(before.certain, balance.units, open_purchases)
    for attempt, shown in judged.shown.items():
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
    if judged.explained:
        if not open_purchases:
            # Everything booked since the anchor is in this reading: the provider debits at once.
            books.set_anchor(connection, gateway.name, balance.units, debits=before.booked)
        elif before.difference_seen:
            books.set_difference(connection, gateway.name, None, 0)
        return judged, False
    return judged, _differs(connection, gateway, balance, before, judged, now)


def _differs(
    connection: Connection, gateway: Gateway, balance: Money, before: Books, judged: Judged, now: datetime
) -> bool:
    """A difference that nothing explains: told, with what might have caused it, once it has stood long enough."""
    seen = before.difference_seen + 1 if judged.difference == before.difference else 1
    if seen < STANDS_AFTER:
        books.set_difference(connection, gateway.name, judged.difference, seen)
        return False
    possible = books.candidates(connection, gateway.name, now - LOOK_BACK)
    exact = [one for one in possible if one["units"] == judged.difference]
    shown = [{**one, "units": None, "amount": format_units(int(str(one["units"])))} for one in exact or possible[:20]]
    for one in shown:
        del one["units"]
    data = {
        "provider": gateway.name,
        "difference": Money(judged.difference, balance.currency).as_json(),
        "balance": balance.as_json(),
        "candidates": [*shown, *({"kind": "unclear", "attempt": attempt} for attempt in judged.shown)],
    }
    outbox.append_general(connection, Draft("provider.ledger_difference", data), now)
    log.warning("ledger_difference", provider=gateway.name, difference=format_units(judged.difference))
    # From here on the books agree again; what was told stays in the ledger as a row of its own.
    books.adopt(connection, gateway.name, judged.difference, balance.currency, now)
    books.set_difference(connection, gateway.name, None, 0)
    if not judged.shown:
        books.set_anchor(connection, gateway.name, balance.units, debits=0)
    return True


def shows_unmoved(evidence: dict[str, object]) -> bool:
    """Whether one stored reading speaks for "not bought"."""
    return evidence.get("kind") == "balance" and evidence.get("shown") == str(Shown.UNMOVED) and bool(evidence["sharp"])
