"""What a charge teaches of the offer it was bought from: how many pieces its rate buys, and what it really costs.

Shared by the stages that hear of charges. Three that agree change what routing counts with, and tell it; it never
touches an order.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aggregator.domain.charges import Lesson, Sample, fits, learn, remember
from aggregator.domain.events import Draft
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState
from aggregator.domain.routing import per_order, pieces_per_rate
from aggregator.flow.base import House, log
from aggregator.storage import attempts, catalogue, ledger, outbox
from aggregator.storage.database import Connection, RowMapping

REFUNDED: Final = frozenset({OrderState.PARTIAL, OrderState.CANCELED, OrderState.FAILED})
"""What was not delivered, or not all of it, is paid back: its charge is no price."""


def learn_from_charge(
    connection: Connection, house: House, order: Order, charge: Money, now: datetime, *, number: int | None = None
) -> None:
    """Take the charge of an order that nothing was refunded of; `number`: or of one number of it."""
    if order.attempt is None or order.state in REFUNDED or order.params.get("runs"):
        return
    attempt = attempts.get(connection, order.attempt)
    if attempt is None or attempt["rate_units"] is None or attempt["provider"] not in house.settings.providers:
        return
    ledger.lock(connection, attempt["provider"])  # before the row, as everywhere
    row = catalogue.find_row(connection, attempt["provider"], attempt["service"], attempt["country"] or "")
    if (
        row is None
        or not charge.units
        or row["currency"] != charge.currency
        or row["rate_units"] != attempt["rate_units"]
    ):
        return  # the catalogue asks another price by now: this charge says nothing of it
    believed, pieces, doubtful = _believed(house, row, order)
    sample = Sample(number or order.number, charge.units, pieces, attempt["rate_units"])
    known = [Sample(**one) for one in row["charges"] or ()]
    if learn(known, believed, doubtful=doubtful) == believed and fits(sample, believed):
        return  # the usual case: nothing new
    samples = remember(known, sample)
    lesson = learn(samples, believed, doubtful=doubtful)
    catalogue.set_charges(connection, row["id"], samples, lesson, unit=doubtful)
    if lesson is not None and lesson != believed:
        _tell(connection, attempt["provider"], row, believed, lesson, now)
        house.wakeups.wake("sequencing")


def _believed(house: House, row: RowMapping, order: Order) -> tuple[Lesson, int, bool]:
    """What is counted with so far, how many pieces a charge of this order is for, and whether it is open to doubt how
    many the rate buys."""
    typed = catalogue.row_from(row)
    if per_order(typed, order.kind) or order.kind == "sms":
        return Lesson(1, row["charged_rate_units"]), 1, False
    settings = house.settings.providers[row["provider"]].rate_per
    per = pieces_per_rate(typed, order.kind, {"smm": settings.smm, "product": settings.product})
    return Lesson(per, row["charged_rate_units"]), order.quantity, True


def _tell(connection: Connection, provider: str, row: RowMapping, before: Lesson, after: Lesson, now: datetime) -> None:
    """One event: what pieces cost by the catalogue or by what was learned before, and what they really do."""

    def shown(lesson: Lesson) -> dict[str, str]:
        units = lesson.rate if lesson.rate is not None else row["rate_units"]
        return Money(units, row["currency"]).as_json()

    data: dict[str, object] = {
        "provider": provider,
        "service": row["service"],
        "country": row["country"],
        "before": shown(before),
        "after": shown(after),
        "per": {"before": before.per, "after": after.per},
        "cause": "charges",
    }
    outbox.append_general(connection, Draft("catalogue.price_changed", data), now)
    log.warning("price_learned", provider=provider, service=row["service"], per=after.per, rate=shown(after)["amount"])
