"""A provider's books in the database: what is certain, which purchases may or may not be in a reading, the anchor.

The anchor is the last reading that everything explained; what is certain is the anchor and all that was booked since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, func, or_, select, update

from aggregator.domain.books import OpenPurchase
from aggregator.domain.money import Money
from aggregator.storage import ledger
from aggregator.storage.tables import attempts, orders, providers
from aggregator.storage.tables import ledger as ledger_table


@dataclass(frozen=True, slots=True)
class Books:
    """Where a provider's books stand. `certain` None: there is no anchor yet."""

    currency: str | None
    certain: int | None
    booked: int
    """Purchases booked since the anchor."""
    difference: int | None
    difference_seen: int
    debits_seen: int


def load(connection: Connection, provider: str) -> Books:
    row = connection.execute(select(providers).where(providers.c.name == provider)).mappings().one_or_none()
    if row is None or row["anchor_id"] is None:
        return Books(row["balance_currency"] if row else None, None, 0, None, 0, row["debits_seen"] if row else 0)
    moved, booked = connection.execute(
        select(
            func.coalesce(func.sum(ledger_table.c.units), 0),
            func.count(ledger_table.c.order_number.distinct()),
        ).where(
            ledger_table.c.provider == provider,
            ledger_table.c.id > row["anchor_id"],
            ledger_table.c.kind != "reading",
        )
    ).one()
    return Books(
        currency=row["balance_currency"],
        certain=row["anchor_units"] + int(moved),
        booked=int(booked),
        difference=row["difference_units"],
        difference_seen=row["difference_seen"],
        debits_seen=row["debits_seen"],
    )


def quiet_between(connection: Connection, provider: str, begun: datetime) -> bool:
    """Whether no purchase was under way, or ended, since `begun`: only then a reading means one thing."""
    moving = connection.execute(
        select(attempts.c.id)
        .where(
            attempts.c.provider == provider,
            or_(attempts.c.state == "placing", and_(attempts.c.sent_at.is_not(None), attempts.c.finished_at >= begun)),
        )
        .limit(1)
    ).first()
    return moving is None


def open_purchases(connection: Connection, provider: str) -> list[OpenPurchase]:
    """Purchases of which nobody knows whether they were debited."""
    rows = connection.execute(
        select(attempts.c.id, attempts.c.expected_units).where(
            attempts.c.provider == provider, attempts.c.state.in_(["placing", "unclear"])
        )
    )
    return [OpenPurchase(row[0], row[1]) for row in rows]


def open_window(connection: Connection, provider: str, at: datetime) -> None:
    """A purchase became unclear: its evidence is looked for from now on."""
    connection.execute(update(providers).where(providers.c.name == provider).values(next_evidence_at=at))


def due_windows(connection: Connection, now: datetime) -> list[str]:
    """Providers where evidence is to be looked for now."""
    rows = connection.execute(select(providers.c.name).where(providers.c.next_evidence_at <= now))
    return [row[0] for row in rows]


def set_next_evidence(connection: Connection, provider: str, due: datetime | None) -> None:
    connection.execute(update(providers).where(providers.c.name == provider).values(next_evidence_at=due))


def window_open(connection: Connection, provider: str, sent_after: datetime) -> bool:
    """Whether an unclear purchase was sent so lately that its evidence must be kept sharp."""
    found = connection.execute(
        select(attempts.c.id)
        .where(attempts.c.provider == provider, attempts.c.state == "unclear", attempts.c.sent_at >= sent_after)
        .limit(1)
    ).first()
    return found is not None


def unclear(connection: Connection, provider: str) -> list[RowMapping]:
    """The unclear purchases at a provider, oldest first."""
    rows = connection.execute(
        select(attempts)
        .where(attempts.c.provider == provider, attempts.c.state == "unclear")
        .order_by(attempts.c.sent_at)
    )
    return list(rows.mappings())


def ids_between_neighbours(connection: Connection, attempt: RowMapping, most: int) -> list[str]:
    """The ids between those of the purchases just before and just after this one, where ids are consecutive numbers;
    empty when there is no such neighbour, or when there are more than `most`."""
    placed = select(attempts.c.provider_order).where(
        attempts.c.provider == attempt["provider"], attempts.c.state == "placed", attempts.c.sent_at.is_not(None)
    )
    before = connection.execute(
        placed.where(attempts.c.sent_at < attempt["sent_at"]).order_by(attempts.c.sent_at.desc()).limit(1)
    ).scalar()
    after = connection.execute(
        placed.where(attempts.c.sent_at > attempt["sent_at"]).order_by(attempts.c.sent_at).limit(1)
    ).scalar()
    if not (_number(before) and _number(after)):
        return []
    low, high = int(str(before)), int(str(after))
    if not 0 < high - low - 1 <= most:
        return []
    between = [str(number) for number in range(low + 1, high)]
    ours = connection.execute(
        select(orders.c.provider_order).where(
            orders.c.provider == attempt["provider"], orders.c.provider_order.in_(between)
        )
    )
    known = {row[0] for row in ours}
    return [one for one in between if one not in known]


def _number(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 18


def set_anchor(connection: Connection, provider: str, units: int, *, debits: int) -> None:
    """The reading just written explains everything: count from here."""
    connection.execute(
        update(providers)
        .where(providers.c.name == provider)
        .values(
            anchor_id=providers.c.reading_id,
            anchor_units=units,
            difference_units=None,
            difference_seen=0,
            debits_seen=providers.c.debits_seen + debits,
        )
    )


def set_difference(connection: Connection, provider: str, difference: int | None, seen: int) -> None:
    connection.execute(
        update(providers).where(providers.c.name == provider).values(difference_units=difference, difference_seen=seen)
    )


def add_evidence(connection: Connection, attempt_id: str, evidence: Mapping[str, object], *, most: int = 50) -> None:
    """Store what was learned of an attempt; the oldest of many gives way, the first one stays."""
    known: Any = connection.execute(select(attempts.c.evidence).where(attempts.c.id == attempt_id)).scalar()
    kept = list(known or [])
    if len(kept) >= most:
        del kept[1]
    connection.execute(update(attempts).where(attempts.c.id == attempt_id).values(evidence=[*kept, dict(evidence)]))


def candidates(connection: Connection, provider: str, since: datetime) -> list[dict[str, object]]:
    """Orders that could explain a difference: those whose end or charge may have moved money lately."""
    rows = connection.execute(
        select(
            orders.c.id,
            orders.c.state,
            orders.c.charge_units,
            orders.c.expected_units,
            orders.c.expected_currency,
            orders.c.quantity,
            orders.c.remains,
        )
        .where(orders.c.provider == provider, orders.c.updated_at >= since, orders.c.provider_order.is_not(None))
        .order_by(orders.c.number.desc())
        .limit(200)
    ).mappings()
    found: list[dict[str, object]] = []
    for row in rows:
        paid = row["charge_units"] if row["charge_units"] is not None else row["expected_units"]
        if row["state"] in ("partial", "canceled", "failed") and paid:
            left = row["remains"] if row["state"] == "partial" and row["remains"] is not None else row["quantity"]
            found.append(
                {"kind": "refund", "order": row["id"], "units": paid * min(left, row["quantity"]) // row["quantity"]}
            )
        if row["charge_units"] is not None and row["expected_units"] not in (None, row["charge_units"]):
            drift = row["expected_units"] - row["charge_units"]
            found.append({"kind": "price", "order": row["id"], "units": drift})
    return found


def adopt(connection: Connection, provider: str, difference: int, currency: str, at: datetime) -> None:
    """Book a difference that nothing explains, so that the books agree with the provider again."""
    kind = "top_up" if difference > 0 else "unexplained"
    note = "unexplained: more than was known" if difference > 0 else "unexplained: no order of ours"
    ledger.add(connection, provider, kind, Money(difference, currency), at, note=note)
