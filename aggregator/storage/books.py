"""A provider's books in the database: what is certain, which purchases may or may not be in a reading, the anchor.

The anchor is the last reading that everything explained; what is certain is the anchor and all that was booked since,
in the currency of the balance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, and_, bindparam, case, func, or_, select, update

from aggregator.domain.books import Candidate, OpenPurchase
from aggregator.domain.clock import rfc3339
from aggregator.domain.evidence import dispensable, may_be_refunded, told_difference
from aggregator.domain.money import Money
from aggregator.domain.orders import RESTORED
from aggregator.storage import ledger
from aggregator.storage.tables import AT_WORK, OPEN_AT_PROVIDER, attempts, numbers, orders, providers, removed_purchases
from aggregator.storage.tables import ledger as ledger_table
from aggregator.storage.types import Instant

FRESH_PURCHASE: Final = "expected"
"""The note of what is booked when a purchase is made, and not when it is found out later."""
MOST_EVIDENCE: Final = 50
KEPT: Final = "kept"
"""The evidence that says what might hide a debit."""
MOST_LIVE: Final = 5000
MOST_ASKED: Final = 500
"""Orders that are over, or numbers, asked for again at once; the newest, and all orders that go on (MOST_LIVE)."""
MOST_REFUNDS: Final = 1000
MOST_CANDIDATES: Final = 200
_A_REFUND: Final = and_(ledger_table.c.kind == "refund", func.coalesce(ledger_table.c.note, "") != ledger.PRICE_TOLD)
_PAID_BACK: Final = ("partial", "canceled", "failed")
_FOUND_OUT: Final = func.coalesce(attempts.c.outcome, "") != RESTORED
_MAY_MASK: Final = ("placing", "unclear", "not_placed")
"""Attempts of which a purchase that was found could as well be."""


def _polled(provider: Any) -> tuple[ColumnElement[bool], ...]:
    """Orders that go on, as their index has them: else all that a provider ever had would be read, as with `_over`."""
    return orders.c.provider == provider, orders.c.next_poll_at.is_not(None), orders.c.finished_at.is_(None)


def _over(provider: Any) -> tuple[ColumnElement[bool], ...]:
    return orders.c.provider == provider, orders.c.finished_at.is_not(None)


# Statements of every tick are made once.
_AT: Final = update(providers).where(providers.c.name == bindparam("of_provider"))
_PROVIDER: Final = select(providers).where(providers.c.name == bindparam("of_provider"))
_MOVED: Final = select(func.coalesce(func.sum(ledger_table.c.units), 0)).where(
    ledger_table.c.provider == bindparam("of_provider"),
    ledger_table.c.id > bindparam("anchor"),
    ledger_table.c.kind != "reading",
    ledger_table.c.currency == bindparam("of_currency"),
)
_OPEN: Final = select(attempts.c.id, attempts.c.state, attempts.c.expected_units, attempts.c.expected_currency).where(
    attempts.c.provider == bindparam("of_provider"), AT_WORK, attempts.c.state.in_(["placing", "unclear"])
)
_LAST_BOOKED: Final = (
    select(ledger_table.c.id)
    .where(ledger_table.c.provider == bindparam("of_provider"), ledger_table.c.kind != "reading")
    .order_by(ledger_table.c.id.desc())
    .limit(1)
)
_PURCHASES_SINCE: Final = select(func.count(ledger_table.c.order_number.distinct())).where(
    ledger_table.c.provider == bindparam("of_provider"),
    ledger_table.c.id > bindparam("since"),
    ledger_table.c.kind == "charge",
    ledger_table.c.note == FRESH_PURCHASE,
)
_REFUNDS_SINCE: Final = select(func.count(ledger_table.c.order_number.distinct())).where(
    ledger_table.c.provider == bindparam("of_provider"),
    ledger_table.c.id > bindparam("since"),
    ledger_table.c.kind == "refund",
    func.coalesce(ledger_table.c.note, "").not_in([ledger.SEEN_REFUND, ledger.PRICE_TOLD]),
)
_OTHERS_UNCLEAR: Final = (
    select(attempts.c.id, attempts.c.expected_units, attempts.c.evidence, orders.c.id.label("order"))
    .join(orders, orders.c.number == attempts.c.order_number)
    .where(
        attempts.c.provider == bindparam("of_provider"),
        AT_WORK,
        attempts.c.state == "unclear",
        attempts.c.id != bindparam("of_attempt"),
    )
    .order_by(attempts.c.sent_at)
)
_SINCE: Final = bindparam("since", type_=Instant())
_UNANSWERED: Final = (
    select(func.coalesce(orders.c.charge_units, orders.c.expected_units)).where(
        orders.c.provider == bindparam("of_provider"),
        orders.c.asked_at.is_not(None),
        or_(orders.c.finished_at.is_(None), orders.c.finished_at >= _SINCE),
    ),
    select(func.coalesce(numbers.c.charge_units, orders.c.expected_units))
    .join(orders, orders.c.number == numbers.c.order_number)
    .where(
        numbers.c.provider == bindparam("of_provider"), numbers.c.asked_at.is_not(None), numbers.c.created_at >= _SINCE
    ),
)
_AT_ONCE: Final = bindparam("at", type_=Instant())


def _soon(table: Table, due: ColumnElement[datetime]) -> ColumnElement[datetime]:
    """Now; but who is due already keeps the place in the queue, or asking often would let the last ones wait for ever.
    One whose call is under way may be answered as it was before."""
    return case((and_(due <= _AT_ONCE, table.c.claim_token.is_(None)), due), else_=_AT_ONCE)


_POLLED_SOON: Final = _soon(orders, orders.c.next_poll_at)
_CHECKED_SOON: Final = _soon(numbers, numbers.c.next_check_at)
_PRESS: Final = (
    update(orders)
    .where(orders.c.provider == bindparam("of_provider"), orders.c.asked_at.is_not(None))
    .values(next_poll_at=_POLLED_SOON),
    update(numbers)
    .where(numbers.c.provider == bindparam("of_provider"), numbers.c.asked_at.is_not(None))
    .values(next_check_at=_CHECKED_SOON),
)
_UNCLEAR: Final = (
    select(attempts)
    .where(attempts.c.provider == bindparam("of_provider"), AT_WORK, attempts.c.state == "unclear", _FOUND_OUT)
    .order_by(attempts.c.sent_at)
)
_STILL_UNCLEAR: Final = (
    select(attempts).where(attempts.c.id == bindparam("of_attempt"), attempts.c.state == "unclear").with_for_update()
)
_EVIDENCE: Final = select(attempts.c.evidence).where(attempts.c.id == bindparam("of_attempt")).with_for_update()
_SET_EVIDENCE: Final = update(attempts).where(attempts.c.id == bindparam("of_attempt"))
_WINDOWS: Final = select(providers.c.name).where(providers.c.next_evidence_at <= bindparam("now"))
_SENT_LATELY: Final = (
    select(attempts.c.id)
    .where(attempts.c.provider == bindparam("of_provider"), AT_WORK, attempts.c.state == "unclear")
    .where(attempts.c.sent_at >= bindparam("sent_after"))
    .limit(1)
)
_UNREFUNDED: Final = (
    select(orders)
    .where(
        *_over(bindparam("of_provider")),
        orders.c.updated_at >= bindparam("since"),
        orders.c.state.in_(_PAID_BACK),
        ~select(ledger_table.c.id).where(_A_REFUND, ledger_table.c.order_number == orders.c.number).exists(),
    )
    .limit(MOST_REFUNDS)
)
_SET_ANCHOR: Final = _AT.values(
    anchor_id=providers.c.reading_id,
    difference_units=None,
    difference_seen=0,
    debits_seen=providers.c.debits_seen + bindparam("more_debits"),
    net_refunds=providers.c.net_refunds + bindparam("more_refunds"),
)


@dataclass(frozen=True, slots=True)
class Books:
    """Where a provider's books stand. `certain` None: there is no anchor yet."""

    currency: str | None
    certain: int | None
    difference: int | None
    difference_seen: int
    debits_seen: int
    reading_id: int | None
    net_refunds: int = 0
    gross_refunds: int = 0


def load(connection: Connection, provider: str) -> Books:
    row = connection.execute(_PROVIDER, {"of_provider": provider}).mappings().one_or_none()
    if row is None:
        return Books(None, None, None, 0, 0, None)
    certain = None
    if row["anchor_id"] is not None:
        of = {"of_provider": provider, "anchor": row["anchor_id"], "of_currency": row["balance_currency"]}
        moved = connection.execute(_MOVED, of).scalar_one()
        certain = row["anchor_units"] + int(moved)
    return Books(
        currency=row["balance_currency"],
        certain=certain,
        difference=row["difference_units"],
        difference_seen=row["difference_seen"],
        debits_seen=row["debits_seen"],
        reading_id=row["reading_id"],
        net_refunds=row["net_refunds"],
        gross_refunds=row["gross_refunds"],
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """What could make a reading mean two things: a purchase on its way, or something booked while it was read."""

    moving: bool
    open: frozenset[str]
    booked: int | None


def moment(connection: Connection, provider: str) -> Moment:
    """Where the provider's purchases stand now. No clock is asked: one may be put back between two looks."""
    of = {"of_provider": provider}
    rows = connection.execute(_OPEN, of).all()
    booked = connection.execute(_LAST_BOOKED, of).scalar()
    moving = any(row[1] == "placing" for row in rows)
    return Moment(moving, frozenset(row[0] for row in rows), booked)


def quiet_between(before: Moment, after: Moment) -> bool:
    """Whether nothing moved from one moment to the other: only then a reading between them means one thing."""
    return before == after and not before.moving


def open_purchases(connection: Connection, provider: str, currency: str) -> list[OpenPurchase] | None:
    """Purchases of which nobody knows whether they were debited; None when one of them costs other money than the
    balance is in, which makes every sum meaningless."""
    rows = connection.execute(_OPEN, {"of_provider": provider}).all()
    if any(row.expected_currency != currency for row in rows):
        return None
    return [OpenPurchase(row.id, row.expected_units) for row in rows]


def purchases_since(connection: Connection, provider: str, reading_id: int | None) -> int:
    """Purchases made and booked since the last reading: the next one is the first to show whether they were debited."""
    return int(connection.execute(_PURCHASES_SINCE, {"of_provider": provider, "since": reading_id or 0}).scalar_one())


def refunds_since(connection: Connection, provider: str, reading_id: int | None) -> int:
    """Refunds that a charge told of since the last reading: the next one shows whether they came."""
    return int(connection.execute(_REFUNDS_SINCE, {"of_provider": provider, "since": reading_id or 0}).scalar_one())


def booked_since(connection: Connection, provider: str, reading_id: int | None, units: int) -> bool:
    """Whether a charge or refund of just this amount was booked since the last reading."""
    found = connection.execute(
        select(ledger_table.c.id)
        .where(
            ledger_table.c.provider == provider,
            ledger_table.c.id > (reading_id or 0),
            ledger_table.c.kind.in_(["charge", "refund"]),
            ledger_table.c.units == units,
            func.coalesce(ledger_table.c.note, "") != FRESH_PURCHASE,
        )
        .limit(1)
    ).first()
    return found is not None


def open_window(connection: Connection, provider: str, at: datetime) -> None:
    """A purchase became unclear: its evidence is looked for from now on."""
    connection.execute(_AT, {"of_provider": provider, "next_evidence_at": at})


def due_windows(connection: Connection, now: datetime) -> list[str]:
    """Providers where evidence is to be looked for now."""
    rows = connection.execute(_WINDOWS, {"now": now})
    return [row[0] for row in rows]


def set_next_evidence(connection: Connection, provider: str, due: datetime | None) -> None:
    connection.execute(_AT, {"of_provider": provider, "next_evidence_at": due})


def window_open(connection: Connection, provider: str, sent_after: datetime) -> bool:
    """Whether an unclear purchase was sent so lately that its evidence must be kept sharp."""
    return connection.execute(_SENT_LATELY, {"of_provider": provider, "sent_after": sent_after}).first() is not None


def unclear(connection: Connection, provider: str) -> list[RowMapping]:
    """The unclear purchases at a provider whose end may be found out, in the order of their sending: not those that
    are held since a restore, whose story after the backup is not in this database."""
    return list(connection.execute(_UNCLEAR, {"of_provider": provider}).mappings())


def still_unclear(connection: Connection, attempt_id: str) -> RowMapping | None:
    """The row of an unclear purchase, locked; None when somebody ended it meanwhile. Its order is locked already."""
    return connection.execute(_STILL_UNCLEAR, {"of_attempt": attempt_id}).mappings().one_or_none()


@dataclass(frozen=True, slots=True)
class Between:
    """The ids between the purchases just before and just after an unclear one, and strangers beyond those two."""

    unknown: list[str]
    beyond: list[str]
    rivals: int
    """Other purchases with the same expected charge that a stranger's id could as well be of."""


def ids_between_neighbours(connection: Connection, attempt: RowMapping, most: int, controls: int) -> Between | None:
    """Where ids are consecutive numbers; None when there is no such neighbour, or when more than `most` lie between."""
    placed = select(attempts.c.provider_order, attempts.c.sent_at).where(
        attempts.c.provider == attempt["provider"], attempts.c.state == "placed", attempts.c.sent_at.is_not(None)
    )
    before = connection.execute(
        placed.where(attempts.c.sent_at < attempt["sent_at"]).order_by(attempts.c.sent_at.desc()).limit(1)
    ).first()
    after = connection.execute(
        placed.where(attempts.c.sent_at > attempt["sent_at"]).order_by(attempts.c.sent_at).limit(1)
    ).first()
    if before is None or after is None or not (_number(before[0]) and _number(after[0])):
        return None
    low, high = int(before[0]), int(after[0])
    if not 0 < high - low - 1 <= most:
        return None
    rivals = connection.execute(
        select(func.count()).where(
            attempts.c.provider == attempt["provider"],
            attempts.c.state.in_(_MAY_MASK),
            attempts.c.id != attempt["id"],
            attempts.c.expected_units == attempt["expected_units"],
            attempts.c.expected_currency == attempt["expected_currency"],
            # One that is still unclear may have been accepted whenever; one that is over, only about then.
            or_(attempts.c.state != "not_placed", attempts.c.sent_at.between(before[1], after[1])),
        )
    ).scalar_one()
    around = [number for number in range(max(1, low - most), high + controls + 1)]
    known = _ours(connection, attempt["provider"], [str(number) for number in around])
    strangers = [number for number in around if str(number) not in known]
    below = [number for number in strangers if number < low][-controls:]
    above = [number for number in strangers if number > high][:controls]
    return Between(
        unknown=[str(number) for number in strangers if low < number < high],
        beyond=[str(number) for number in (*below, *above)],
        rivals=int(rivals),
    )


def _ours(connection: Connection, provider: str, ids: list[str]) -> set[str]:
    """Those of a provider's ids that some order or rented number of ours has, or had before it was removed."""
    bought = select(orders.c.provider_order).where(orders.c.provider == provider, orders.c.provider_order.in_(ids))
    rented = select(numbers.c.provider_order).where(numbers.c.provider == provider, numbers.c.provider_order.in_(ids))
    gone = select(removed_purchases.c.provider_order).where(
        removed_purchases.c.provider == provider, removed_purchases.c.provider_order.in_(ids)
    )
    return {row[0] for query in (bought, rented, gone) for row in connection.execute(query)}


def _number(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 18


def set_anchor(connection: Connection, provider: str, units: int, *, debits: int, net_refunds: int = 0) -> None:
    """The reading just written explains everything: count from here, and what it taught."""
    taught = {"more_debits": debits, "more_refunds": net_refunds}
    connection.execute(_SET_ANCHOR, {"of_provider": provider, "anchor_units": units, **taught})


def set_difference(connection: Connection, provider: str, difference: int | None, seen: int) -> None:
    connection.execute(_AT, {"of_provider": provider, "difference_units": difference, "difference_seen": seen})


def distrust_debits(connection: Connection, provider: str) -> None:
    """A purchase was debited late: what was learnt of this provider's debits is worth nothing."""
    connection.execute(_AT, {"of_provider": provider, "debits_seen": 0})


def add_evidence(connection: Connection, attempt_id: str, evidence: Mapping[str, object]) -> None:
    """Store what was learned of an attempt; of too many readings those go that said nothing new."""
    known: Any = connection.execute(_EVIDENCE, {"of_attempt": attempt_id}).scalar()
    kept = [*(known or []), dict(evidence)]
    if len(kept) > MOST_EVIDENCE and (place := dispensable(kept)) is not None:
        del kept[place]
    connection.execute(_SET_EVIDENCE, {"of_attempt": attempt_id, "evidence": kept})


def note_kept(connection: Connection, attempt_id: str, why: Mapping[str, object], at: datetime) -> None:
    """Store what keeps an attempt from counting as not made; only the newest of these, and not again while it is so."""
    known: Any = connection.execute(_EVIDENCE, {"of_attempt": attempt_id}).scalar()
    said = {"kind": KEPT, **why}
    kept = [one for one in known or [] if one["kind"] == KEPT]
    if not any({**one, "at": None} == {**said, "at": None} for one in kept):
        others = [one for one in known or [] if one["kind"] != KEPT]
        connection.execute(
            _SET_EVIDENCE, {"of_attempt": attempt_id, "evidence": [*others, {**said, "at": rfc3339(at)}]}
        )


def has_readings(connection: Connection, attempt_id: str) -> bool:
    known: Any = connection.execute(select(attempts.c.evidence).where(attempts.c.id == attempt_id)).scalar()
    return any(one.get("kind") == "balance" for one in known or [])


def note_clock(connection: Connection, at: datetime, forward_s: float) -> None:
    """The clock was put forward, or back (below 0): for the purchases that are open, no such time has passed."""
    rows = connection.execute(select(attempts.c.id).where(AT_WORK, attempts.c.state.in_(["placing", "unclear"]))).all()
    for row in rows:
        add_evidence(connection, row[0], {"kind": "clock", "at": rfc3339(at), "forward_s": round(forward_s, 3)})
    # A look that was planned by a clock that has been put back since would leave the balance unread for too long.
    connection.execute(update(providers).where(providers.c.next_evidence_at > at).values(next_evidence_at=at))


def note_active_link(connection: Connection, provider: str, order_number: int, link: str | None, at: datetime) -> None:
    """The provider has an active order on this link: for unclear purchases of it, that speaks for "bought"."""
    if link is None:
        return
    rows = connection.execute(
        select(attempts.c.id)
        .join(orders, orders.c.number == attempts.c.order_number)
        .where(
            attempts.c.provider == provider,
            AT_WORK,
            attempts.c.state == "unclear",
            orders.c.link == link,
            orders.c.number != order_number,
        )
    ).all()
    for row in rows:
        add_evidence(connection, row[0], {"kind": "active_order", "at": rfc3339(at)})


def ask_again(connection: Connection, provider: str, now: datetime, since: datetime) -> int:
    """Let every order and number at a provider be asked now whose charge may have changed unseen; how many that are."""
    here = select(orders.c.number).where(orders.c.kind != "sms")
    live = here.where(*_polled(provider)).order_by(orders.c.next_poll_at).limit(MOST_LIVE)
    over = here.where(*_over(provider), orders.c.updated_at >= since).order_by(orders.c.updated_at.desc())
    asked = 0
    for some in (live, over.limit(MOST_ASKED)):
        those = update(orders).where(orders.c.number.in_(some), orders.c.provider_order.is_not(None))
        asked += connection.execute(those.values(next_poll_at=_POLLED_SOON, asked_at=_AT_ONCE), {"at": now}).rowcount
    rented = (
        select(numbers.c.id)
        .where(numbers.c.provider == provider, numbers.c.created_at >= since)
        .order_by(numbers.c.created_at.desc())
        .limit(MOST_ASKED)
    )
    these = update(numbers).where(numbers.c.id.in_(rented))
    checked = connection.execute(these.values(next_check_at=_CHECKED_SOON, asked_at=_AT_ONCE), {"at": now})
    return asked + checked.rowcount


def unanswered(connection: Connection, provider: str, since: datetime) -> int | None:
    """What those cost together that `ask_again` asked for and the provider did not answer for since: up to so much may
    have been paid back unseen. In 10^-8 units; None: any amount."""
    of = {"of_provider": provider, "since": since}
    costs = [row[0] for query in _UNANSWERED for row in connection.execute(query, of)]
    return None if None in costs else sum(costs)


def press(connection: Connection, provider: str, now: datetime) -> None:
    """Let those be asked now again that were not answered for."""
    of = {"of_provider": provider, "at": now}
    for statement in _PRESS:
        connection.execute(statement, of)


def candidates(connection: Connection, provider: str, since: datetime) -> list[Candidate]:
    """What could explain a difference: orders whose refund or price nobody told, purchases of which nobody knows."""
    rows: list[RowMapping] = []
    for which in ((orders.c.provider == provider, OPEN_AT_PROVIDER), _over(provider)):
        lately = select(orders).where(*which, orders.c.updated_at >= since).order_by(orders.c.number.desc())
        rows += connection.execute(lately.limit(MOST_CANDIDATES)).mappings()
    rows = sorted((row for row in rows if row["provider_order"]), key=lambda row: -row["number"])[:MOST_CANDIDATES]
    refunds = connection.execute(
        select(ledger_table.c.order_number, ledger_table.c.provider, func.sum(ledger_table.c.units))
        .where(_A_REFUND, ledger_table.c.order_number.in_([row["number"] for row in rows]))
        .group_by(ledger_table.c.order_number, ledger_table.c.provider)
    ).all()
    refunded = {row[0]: int(row[2]) for row in refunds if row[1] == provider}
    found: list[Candidate] = []
    for row in rows:
        if row["number"] not in refunded:
            found.extend(_of_order(row))
        else:
            found.append(Candidate("refund", -refunded[row["number"]], order=row["id"], number=row["number"]))
    of_provider = (
        select(attempts.c.id, attempts.c.expected_units, orders.c.id)
        .join(orders, orders.c.number == attempts.c.order_number)
        .where(attempts.c.provider == provider)
        .order_by(attempts.c.sent_at.desc())
        .limit(MOST_CANDIDATES)
    )
    for query in (
        of_provider.where(AT_WORK, attempts.c.state.in_(["placing", "unclear"])),
        of_provider.where(attempts.c.state == "not_placed", attempts.c.sent_at >= since),
    ):
        found.extend(Candidate("unclear", -row[1], order=row[2], attempt=row[0]) for row in connection.execute(query))
    return found


def refunds_due(connection: Connection, provider: str, since: datetime) -> list[Candidate] | None:
    """What the provider owes for orders that it did not finish and no refund is booked of; None: for too many."""
    rows = connection.execute(_UNREFUNDED, {"of_provider": provider, "since": since}).mappings().all()
    if len(rows) == MOST_REFUNDS:
        return None
    bought = [row for row in rows if row["provider_order"]]
    return [one for row in bought for one in _of_order(row) if one.kind == "refund" and one.units]


def may_be_refunded_unseen(connection: Connection, provider: str, besides: str) -> list[Candidate]:
    """The other unclear purchases, each of which may have been made and be refunded in part or whole; nobody can ask
    for them. `units` None: it may have cost any amount."""
    rows = connection.execute(_OTHERS_UNCLEAR, {"of_provider": provider, "of_attempt": besides}).all()
    return [
        Candidate(
            "unclear", None if told_difference(row.evidence) else row.expected_units, order=row.order, attempt=row.id
        )
        for row in rows
        if may_be_refunded(row.evidence or [])
    ]


def _of_order(row: RowMapping) -> list[Candidate]:
    charge, expected = row["charge_units"], row["expected_units"]
    paid = charge if charge is not None else expected
    found = []
    if row["state"] in _PAID_BACK and paid:
        left = row["remains"] if row["state"] == "partial" and row["remains"] is not None else row["quantity"]
        back = paid * min(left, row["quantity"]) // row["quantity"]
        # The refunds of numbers are each number's own, and told with its end.
        found.append(Candidate("refund", back, order=row["id"], number=None if row["kind"] == "sms" else row["number"]))
    if charge is None:
        found.append(Candidate("price", order=row["id"]))  # what it really cost, nobody has said
    elif expected not in (None, charge):
        found.append(Candidate("price", charge - expected, order=row["id"]))
    return found


def book_refunds(
    connection: Connection, provider: str, found: Sequence[Candidate], difference: Money, at: datetime
) -> None:
    """Book refunds that only the balance told of; the last of them takes what rounding made of the sum."""
    left = difference.units
    for place, one in enumerate(found, 1):
        units = left if place == len(found) else one.units or 0
        left -= units
        money = Money(units, difference.currency)
        ledger.add(connection, provider, "refund", money, at, order_number=one.number, note=ledger.SEEN_REFUND)
    connection.execute(
        update(providers)
        .where(providers.c.name == provider)
        .values(gross_refunds=providers.c.gross_refunds + len(found))
    )


def adopt(connection: Connection, provider: str, difference: Money, at: datetime, cause: str) -> None:
    """Book a difference that nothing explains, so that the books agree with the provider again."""
    kind = "top_up" if difference.units > 0 else "unexplained"
    ledger.add(connection, provider, kind, difference, at, note=f"unexplained: {cause}")
