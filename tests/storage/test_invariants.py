"""The checker of the invariants: silent on every state that the program makes, and it sees each violation planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text

from aggregator.domain.events import Draft
from aggregator.domain.ids import RefillId
from aggregator.domain.money import Money
from aggregator.domain.orders import OrderState, Role, Summed, apply
from aggregator.storage import cancels, deliverables, idempotency, invariants, ledger, orders, refills
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer
from aggregator.storage.idempotency import Entry
from aggregator.storage.tables import deliveries, events
from tests.support import rows
from tests.support.examples import NOW, later
from tests.support.flow import on_sqlite

SEALER = Sealer("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")

# Which order is which in `everything`: they are numbered from 1. Rented numbers take their ids from the same
# sequence, the first the number of its order, the second 11.
ACCEPTED, PLANNED, PLACING, UNCLEAR, PENDING, COMPLETED, PARTIAL, FAILED, REFUSED, SMS = range(1, 11)
NUMBER = SMS
CORRECTED = 12
PARENT, RUN, SHORT, REST, WISHED = range(14, 19)


def everything(connection: Connection) -> None:
    """One order in each situation, and something of everything that belongs to orders."""
    rows.accept(connection)
    rows.plan(connection, rows.accept(connection))
    rows.place(connection, rows.accept(connection))
    rows.lose(connection, rows.accept(connection))
    rows.buy(connection, rows.accept(connection))
    charge = Money.parse("0.27", "USD")
    completed = rows.report(
        connection, rows.buy(connection, rows.accept(connection)), state=OrderState.COMPLETED, charge=charge, remains=0
    )
    rows.report(connection, rows.buy(connection, rows.accept(connection)), state=OrderState.PARTIAL, remains=157)
    rows.end(connection, rows.accept(connection), OrderState.FAILED)
    rows.refuse(connection, rows.accept(connection))
    rows.buy(connection, rows.accept(connection, kind="sms", link=None, quantity=2), rented=["15550100", "15550101"])
    corrected = rows.report(connection, rows.buy(connection, rows.accept(connection)), state=OrderState.COMPLETED)
    rows.report(connection, corrected, state=OrderState.CANCELED)
    ledger.book_charge(connection, "smmplus", completed.number, Money.parse("0.30", "USD"), NOW)
    ledger.book_charge(connection, "smmplus", completed.number, charge, NOW)
    ledger.add(connection, "smmplus", "reading", Money.parse("12", "USD"), NOW)
    deliverables.add_new(connection, SEALER, completed.number, ["user1:pass1", "user2:pass2"], NOW)
    refills.add(connection, RefillId("ref_1"), completed.number, "smmplus", 50, NOW)
    idempotency.keep(connection, "shop", "k-1", Entry(b"f", None, completed.number), NOW)
    rows.sequence(connection, "shop", "other", at=later(60))
    rows.report(connection, rows.buy(connection, rows.accept(connection)), state=OrderState.IN_PROGRESS, start_count=5)
    _relatives(connection)


def _relatives(connection: Connection) -> None:
    """A parent whose first run is over, an order whose rest is bought elsewhere, and one whose cancel was asked for."""
    params = {"runs": "2", "interval": "60"}
    parent = rows.accept(connection, role=Role.PARENT, quantity=2000, params=params)
    run = rows.accept(connection, role=Role.RUN, parent=parent.id, ordinal=1)
    going_on = apply(parent, Summed(OrderState.IN_PROGRESS), NOW)
    orders.save(connection, parent, going_on.order, going_on.events, NOW, next_run_at=later(3600))
    rows.end(connection, run, OrderState.FAILED)
    short = rows.buy(connection, rows.accept(connection))
    short = rows.report(connection, short, state=OrderState.PARTIAL, remains=157)
    rows.accept(connection, role=Role.REMAINDER, parent=short.id, ordinal=1, quantity=157)
    wished = rows.buy(connection, rows.accept(connection))
    number = cancels.add(connection, "cnl_1", wished.number, "smmplus", NOW)
    cancels.mark_sent(connection, [number], NOW)
    cancels.change(connection, number, state="asked", finished_at=NOW)
    asked = replace(wished, cancel_state="asked", cancel_at=NOW)
    orders.save(connection, wished, asked, (Draft("order.cancel_asked"),), NOW)


def execute(connection: Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(text(statement))


async def test_every_state_that_the_program_makes_is_healthy(database: Database) -> None:
    await database.write(everything)
    assert await database.read(invariants.check) == []
    states = await database.read(lambda c: set(c.execute(text("SELECT state FROM orders")).scalars()))
    assert len(states) >= 8


async def test_an_empty_database_is_healthy(database: Database) -> None:
    assert await database.read(invariants.check) == []


_DELIVERIES = (
    "(SELECT {} FROM (SELECT d.id FROM deliveries d JOIN events e ON e.seq = d.event_seq"
    f" WHERE e.order_number = {PENDING} AND d.endpoint = 'shop') AS of_one_order)"
)
FIRST_DELIVERY, LAST_DELIVERY = _DELIVERIES.format("min(id)"), _DELIVERIES.format("max(id)")

PLANTED: list[tuple[str, str, list[str]]] = [
    (
        "a second live attempt",
        f"order {PENDING}: an order has at most one live attempt",
        [
            "DROP INDEX uq_attempts_live",
            f"UPDATE attempts SET order_number = {PENDING}, ordinal = 2 WHERE order_number = {PLANNED}",
        ],
    ),
    (
        "an order that is placing without its intent",
        f"order {PLACING}: an order that is placing or unclear has its attempt in the same state",
        [f"UPDATE attempts SET state = 'planned' WHERE order_number = {PLACING}"],
    ),
    (
        "an order that is unclear while its attempt was refused",
        f"order {UNCLEAR}: an order that is placing or unclear has its attempt in the same state",
        [f"UPDATE attempts SET state = 'refused' WHERE order_number = {UNCLEAR}"],
    ),
    (
        "an order that is placing with an attempt of another order",
        f"order {PLACING}: an order that is placing or unclear has its attempt in the same state",
        [
            f"UPDATE orders SET attempt = (SELECT id FROM attempts WHERE order_number = {UNCLEAR})"
            f" WHERE number = {PLACING}"
        ],
    ),
    (
        "a bought order whose attempt bought something else",
        f"order {PENDING}: a bought order has a placed attempt with the same provider and provider's order",
        [f"UPDATE attempts SET provider_order = 'another' WHERE order_number = {PENDING}"],
    ),
    (
        "a bought order whose attempt was at another provider",
        f"order {PENDING}: a bought order has a placed attempt with the same provider and provider's order",
        [f"UPDATE attempts SET provider = 'another' WHERE order_number = {PENDING}"],
    ),
    (
        "a finished purchase without its attempt",
        f"order {PARTIAL}: a bought order has a placed attempt with the same provider and provider's order",
        [f"UPDATE orders SET attempt = NULL WHERE number = {PARTIAL}"],
    ),
    (
        "a purchase that its order does not know",
        "an attempt that may have bought belongs to an order that says so",
        [f"UPDATE attempts SET state = 'unclear', sent_at = created_at WHERE order_number = {PLANNED}"],
    ),
    (
        "a placed attempt of an order that waits to buy again",
        "an attempt that may have bought belongs to an order that says so",
        [f"UPDATE attempts SET state = 'placed', provider_order = '1' WHERE order_number = {REFUSED}"],
    ),
    (
        "a plan of an order that has ended",
        "only an order that waits for a provider has a plan",
        [f"UPDATE attempts SET order_number = {FAILED} WHERE order_number = {PLANNED}"],
    ),
    (
        "an accepted order with the purchase of before",
        f"order {ACCEPTED}: an accepted order carries nothing of a purchase",
        [f"UPDATE orders SET provider_order = '77' WHERE number = {ACCEPTED}"],
    ),
    (
        "two orders for one purchase",
        "a provider's order belongs to one order of ours",
        [
            f"UPDATE {table} SET provider_order = 'same' WHERE {key} IN ({PENDING}, {PARTIAL})"
            for table, key in (("orders", "number"), ("attempts", "order_number"))
        ],
    ),
    (
        "a missing attempt",
        f"order {PENDING}: attempts of an order are numbered from 1 without gap",
        [f"UPDATE attempts SET ordinal = 2 WHERE order_number = {PENDING}"],
    ),
    (
        "an event lost at the end",
        f"order {PENDING}: the events of an order are numbered from 1 without gap",
        [
            f"DELETE FROM deliveries WHERE event_seq IN (SELECT seq FROM events WHERE order_number = {PENDING})",
            f"DELETE FROM events WHERE order_number = {PENDING} AND sequence = 2",
        ],
    ),
    (
        "an event lost in the middle",
        f"order {CORRECTED}: the events of an order are numbered from 1 without gap",
        [f"UPDATE events SET sequence = sequence + 1 WHERE order_number = {CORRECTED} AND sequence = 4"],
    ),
    (
        "an order without any event",
        f"order {ACCEPTED}: the events of an order are numbered from 1 without gap",
        [
            f"DELETE FROM deliveries WHERE event_seq IN (SELECT seq FROM events WHERE order_number = {ACCEPTED})",
            f"DELETE FROM events WHERE order_number = {ACCEPTED}",
        ],
    ),
    (
        "a fact without its event",
        f"order {COMPLETED}: the events of an order are numbered from 1 without gap",
        [f"UPDATE orders SET sequence = sequence + 1 WHERE number = {COMPLETED}"],
    ),
    (
        "another first event",
        f"order {ACCEPTED}: an order's first event is order.accepted, and no later one",
        [f"UPDATE events SET type = 'order.progress' WHERE order_number = {ACCEPTED}"],
    ),
    (
        "a second order.accepted",
        f"order {PENDING}: an order's first event is order.accepted, and no later one",
        [f"UPDATE events SET type = 'order.accepted' WHERE order_number = {PENDING}"],
    ),
    (
        "a purchase nobody was told of",
        f"order {PENDING}: an order is placed once, and told so once",
        [f"UPDATE events SET type = 'order.progress' WHERE order_number = {PENDING} AND sequence = 2"],
    ),
    (
        "a purchase told twice",
        f"order {COMPLETED}: an order is placed once, and told so once",
        [f"UPDATE events SET type = 'order.placed' WHERE order_number = {COMPLETED} AND sequence = 3"],
    ),
    (
        "a purchase told that never was",
        f"order {UNCLEAR}: an order is placed once, and told so once",
        [f"UPDATE events SET type = 'order.placed' WHERE order_number = {UNCLEAR} AND sequence = 2"],
    ),
    (
        "another end told than the one that is",
        f"order {PARTIAL}: a final order's last end told is its state",
        [f"UPDATE events SET type = 'order.completed' WHERE order_number = {PARTIAL} AND sequence = 3"],
    ),
    (
        "an end that is only told",
        f"order {UNCLEAR}: a final order's last end told is its state; an order that goes on was told no end",
        [f"UPDATE events SET type = 'order.failed' WHERE order_number = {UNCLEAR} AND sequence = 2"],
    ),
    (
        "an end that is not told",
        f"order {PENDING}: a final order's last end told is its state",
        [f"UPDATE orders SET state = 'failed', finished_at = created_at WHERE number = {PENDING}"],
    ),
    (
        "an end told twice",
        f"order {CORRECTED}: the same end is not told twice in a row",
        [f"UPDATE events SET type = 'order.canceled' WHERE order_number = {CORRECTED} AND sequence = 3"],
    ),
    (
        "an unclear purchase nobody was told of",
        f"order {UNCLEAR}: an order whose purchase is unclear was told so",
        [f"UPDATE events SET type = 'order.progress' WHERE order_number = {UNCLEAR} AND sequence = 2"],
    ),
    (
        "an order's events in another order in the feed",
        f"order {PENDING}: an order's events get their positions in the order of their sequence",
        [
            f"UPDATE events SET position = 0 WHERE order_number = {PENDING} AND sequence = 2",
        ],
    ),
    (
        "an event passed over by the sequencer",
        f"order {PENDING}: an order's events get their positions in the order of their sequence",
        [f"UPDATE events SET position = NULL WHERE order_number = {PENDING} AND sequence = 1"],
    ),
    (
        "a hole in the positions",
        "events: positions run from 1 without gap",
        ["UPDATE events SET position = position + 1 WHERE position = (SELECT max(position) FROM events)"],
    ),
    (
        "a delivery of an event that is not in the feed yet",
        "a delivery is of an event that has its position",
        [f"UPDATE events SET position = NULL WHERE order_number = {PENDING}"],
    ),
    (
        "an endpoint at which nobody looks although something waits",
        "endpoint shop: an endpoint with something to send is looked at in time",
        ["UPDATE endpoints SET next_at = NULL WHERE name = 'shop'"],
    ),
    (
        "a delivery in a lane of its own",
        "delivery 1: a delivery waits in its event's lane; elsewhere instead of o1",
        ["UPDATE deliveries SET lane = 'elsewhere' WHERE id = 1"],
    ),
    (
        "an event twice for one endpoint",
        "an endpoint gets each event once",
        [
            "CREATE TABLE loose AS SELECT * FROM deliveries",
            "DROP TABLE deliveries",
            "ALTER TABLE loose RENAME TO deliveries",
            "INSERT INTO deliveries SELECT * FROM deliveries WHERE id = 1",
        ],
    ),
    (
        "a delivery that overtook one in its hold",
        "an event skips ahead of an earlier one only when that one's hold is over",
        [
            f"UPDATE deliveries SET tries = 1, hold_until = created_at WHERE id = {FIRST_DELIVERY}",
            "UPDATE deliveries SET state = 'delivered', next_at = NULL,"
            f" finished_at = (SELECT min(created_at) FROM orders) WHERE id = {LAST_DELIVERY}",
        ],
    ),
    (
        "a delivery that overtook one nobody tried",
        "an event skips ahead of an earlier one only when that one's hold is over",
        [
            f"UPDATE deliveries SET next_at = (SELECT min(created_at) FROM orders) WHERE id = {FIRST_DELIVERY}",
            f"UPDATE deliveries SET state = 'delivered', next_at = NULL, finished_at = created_at"
            f" WHERE id = {LAST_DELIVERY}",
        ],
    ),
    (
        "a bought order that nobody follows",
        f"order {PENDING}: a followed order has its next check",
        [f"UPDATE orders SET next_poll_at = NULL WHERE number = {PENDING}"],
    ),
    (
        "numbers that nobody watches",
        f"order {SMS}: a followed order has its next check",
        ["UPDATE numbers SET next_check_at = NULL"],
    ),
    (
        "a poll of an order that was not bought",
        f"order {FAILED}: an order that is not bought is not polled",
        [f"UPDATE orders SET next_poll_at = created_at WHERE number = {FAILED}"],
    ),
    (
        "an order that waits for ever",
        f"order {ACCEPTED}: an accepted order has its deadline",
        [f"UPDATE orders SET give_up_at = NULL WHERE number = {ACCEPTED}"],
    ),
    (
        "a waiting number without its next check",
        f"number {NUMBER}: a number that waits for its code has its next check",
        [f"UPDATE numbers SET next_check_at = NULL WHERE id = {NUMBER}"],
    ),
    (
        "a refill that nobody follows",
        "refill 1: a refill that runs has its next call",
        ["UPDATE refills SET next_poll_at = NULL"],
    ),
    *(
        (
            f"a claim of {table} without an end",
            f"{which}: a claim that is held ends; claimed for ever",
            [f"UPDATE {table} SET claim_token = 'x', claimed_until = NULL WHERE {where}"],
        )
        for table, which, where in (
            ("orders", "order 1", "number = 1"),
            ("attempts", "", f"order_number = {PLANNED}"),
            ("numbers", f"number {NUMBER}", f"id = {NUMBER}"),
            ("refills", "refill 1", "number = 1"),
            ("deliveries", "delivery 1", "id = 1"),
        )
    ),
    (
        "two open refills",
        f"order {COMPLETED}: an order has at most one open refill",
        [
            "DROP INDEX uq_refills_open",
            "INSERT INTO refills (id, order_number, provider, state, requested_at, next_poll_at)"
            f" SELECT 'ref_2', {COMPLETED}, 'smmplus', 'pending', requested_at, requested_at FROM refills",
        ],
    ),
    (
        "a refill of an order that was never completed",
        "refill 1: only an order that was completed is refilled",
        [f"UPDATE refills SET order_number = {PARTIAL}"],
    ),
    (
        "a refill asked at another provider",
        "refill 1: only an order that was completed is refilled, at the provider that did it",
        ["UPDATE refills SET provider = 'another'"],
    ),
    (
        "a number of an order for followers",
        f"number {NUMBER}: a number belongs to a bought order for numbers",
        [f"UPDATE numbers SET order_number = {PENDING} WHERE id = {NUMBER}"],
    ),
    (
        "an order that goes on although no number does",
        f"order {SMS}: an order for numbers ends when none of them waits",
        ["UPDATE numbers SET state = 'expired'"],
    ),
    (
        "a lost account",
        f"order {COMPLETED}: delivered accounts are numbered from 0 without gap",
        ["DELETE FROM accounts WHERE ordinal = 0"],
    ),
    (
        "an amount without a currency",
        "an amount has its currency, and a currency its amount; expected or cost",
        [f"UPDATE attempts SET cost_currency = NULL WHERE order_number = {PENDING}"],
    ),
    (
        "a number's charge without a currency",
        f"number {NUMBER}: an amount has its currency, and a currency its amount; charge",
        [f"UPDATE numbers SET charge_units = 5 WHERE id = {NUMBER}"],
    ),
    (
        "a charge that gives",
        "a charge takes, a refund and a top-up give, what nothing explains took",
        ["UPDATE ledger SET units = -units WHERE kind = 'charge'"],
    ),
    (
        "a charge of nothing",
        "a charge or a refund names its order, at the order's provider",
        ["UPDATE ledger SET order_number = NULL WHERE kind = 'charge'"],
    ),
    (
        "a charge at another provider",
        "a charge or a refund names its order, at the order's provider",
        ["UPDATE ledger SET provider = 'another' WHERE kind = 'refund'"],
    ),
    (
        "a charge of an order that was removed elsewhere",
        "a charge or a refund names its order, at the order's provider",
        [
            "INSERT INTO removed_purchases (provider, provider_order, order_number) VALUES ('another', '7', 999)",
            "UPDATE ledger SET order_number = 999 WHERE kind = 'refund'",
        ],
    ),
    (
        "a provider's order that was a removed order's before",
        "a provider's order that a removed order had belongs to no other",
        [
            "INSERT INTO removed_purchases (provider, provider_order, order_number)"
            f" SELECT provider, provider_order, 999 FROM orders WHERE number = {PENDING}"
        ],
    ),
    (
        "a number that was a removed order's before",
        "a provider's order that a removed order had belongs to no other",
        [
            "INSERT INTO removed_purchases (provider, provider_order, order_number)"
            f" SELECT provider, provider_order, 999 FROM numbers WHERE id = {NUMBER}"
        ],
    ),
    (
        "a key whose order is gone",
        "a key of order 999: an idempotency key that belongs to an order goes with it",
        ["UPDATE idempotency_keys SET order_number = 999"],
    ),
    (
        "a charge booked twice",
        f"order {COMPLETED}: what is booked for an order is what its provider charged",
        [
            "INSERT INTO ledger (provider, kind, units, currency, order_number, at)"
            " SELECT provider, kind, units, currency, order_number, at FROM ledger WHERE kind = 'charge'"
        ],
    ),
    (
        "a number's charge that was not booked",
        f"number {NUMBER}: what is booked for a rented number is what its provider charged",
        [
            f"UPDATE numbers SET charge_units = 7, charge_currency = 'USD' WHERE id = {NUMBER}",
            "INSERT INTO ledger (provider, kind, units, currency, order_number, number_id, at)"
            " SELECT n.provider, 'charge', -5, 'USD', n.order_number, n.id, n.created_at FROM numbers n"
            f" WHERE n.id = {NUMBER}",
        ],
    ),
    (
        "a child before its parent",
        f"order {ACCEPTED}: a child comes after its parent",
        [
            f"UPDATE orders SET parent = (SELECT id FROM orders p WHERE p.number = {PENDING}), ordinal = 1,"
            f" role = 'run' WHERE number = {ACCEPTED}"
        ],
    ),
    (
        "a child of somebody else's order",
        f"order {PENDING}: a child comes after its parent and belongs to the same owner",
        [
            f"UPDATE orders SET parent = (SELECT id FROM orders p WHERE p.number = {ACCEPTED}), owner = 'stranger',"
            " role = 'run', ordinal = 1"
            f" WHERE number = {PENDING}"
        ],
    ),
    (
        "an event of an unknown type",
        "an event's bytes tell the same as its row; unknown type order.lost",
        [f"UPDATE events SET type = 'order.lost' WHERE order_number = {PENDING} AND sequence = 2"],
    ),
    (
        "an event's bytes of another order",
        "an event's bytes tell the same as its row; the row says",
        [
            "UPDATE events SET body = (SELECT body FROM events o WHERE o.order_number = 1) WHERE sequence = 1"
            f" AND order_number = {PENDING}"
        ],
    ),
    (
        "an event's bytes of another number",
        "an event's bytes tell the same as its row; the row says",
        [
            # A backslash keeps `:2` from being a parameter.
            f"UPDATE events SET body = replace(body, 'sequence\"\\:2', 'sequence\"\\:3') WHERE order_number = {PENDING}"
        ],
    ),
    (
        "an event's bytes of another type",
        "an event's bytes tell the same as its row; the row says",
        [f"UPDATE events SET body = replace(body, 'order.placed', 'order.unclear') WHERE order_number = {PENDING}"],
    ),
    (
        "an event's bytes cut short",
        "an event's bytes tell the same as its row; unreadable body",
        [f"UPDATE events SET body = substr(body, 1, 40) WHERE order_number = {PENDING}"],
    ),
    (
        "an event's bytes with a number that is none",
        "an event's bytes tell the same as its row; unreadable body",
        [f"UPDATE events SET body = replace(body, '1000', 'NaN') WHERE order_number = {PENDING}"],
    ),
    (
        "an event that gives an order's parameters away",
        "an event's bytes tell the same as its row; the body holds the order's params",
        [f"UPDATE events SET body = replace(body, '\"link\"', '\"params\"') WHERE order_number = {PENDING}"],
    ),
    (
        "a refused cancel that its order shows as asked",
        f"order {WISHED}: an order's cancel is what became of the newest wish; asked, the newest wish is refused",
        ["UPDATE cancels SET state = 'refused'"],
    ),
    (
        "a cancel of which nobody has made a wish",
        f"order {PENDING}: an order's cancel is what became of the newest wish",
        [f"UPDATE orders SET cancel_state = 'asked' WHERE number = {PENDING}"],
    ),
    (
        "a cancel at a provider that does not have the order",
        "only an order that was bought is canceled at a provider, at the one that has it",
        ["UPDATE cancels SET provider = 'another'"],
    ),
    (
        "a cancel that was asked for and not told",
        f"order {WISHED}: a wish that the provider took or refused was told",
        ["UPDATE events SET type = 'order.progress' WHERE type = 'order.cancel_asked'"],
    ),
    (
        "a run of an order that is no parent",
        f"order {RUN}: runs belong to a parent",
        [f"UPDATE orders SET parent = (SELECT id FROM orders p WHERE p.number = {PENDING}) WHERE number = {RUN}"],
    ),
    (
        "a remainder of more than there was",
        f"order {REST}: runs belong to a parent, a remainder to an order that ended short, for no more than was",
        [f"UPDATE orders SET quantity = 1001 WHERE number = {REST}"],
    ),
    (
        "a remainder of an order that did not end short",
        f"order {REST}: runs belong to a parent, a remainder to an order that ended short",
        [f"UPDATE orders SET parent = (SELECT id FROM orders p WHERE p.number = {PENDING}) WHERE number = {REST}"],
    ),
    (
        "a run that is missing",
        f"order {PARENT}: the runs of a parent are numbered from 1 without gap",
        [f"UPDATE orders SET ordinal = 2 WHERE number = {RUN}"],
    ),
    (
        "a parent that was forgotten",
        f"order {PARENT}: a parent that goes on has a run to make or one that goes on",
        [f"UPDATE orders SET next_run_at = NULL, next_sum_at = NULL WHERE number = {PARENT}"],
    ),
    (
        "a parent that ended before its last run",
        f"order {PARENT}: a parent that was not canceled ends when all its runs were made",
        [f"UPDATE orders SET state = 'partial', finished_at = created_at, next_run_at = NULL WHERE number = {PARENT}"],
    ),
    (
        "a charge for a parent",
        f"order {PARENT}: nothing is booked for a parent",
        [f"UPDATE ledger SET order_number = {PARENT} WHERE order_number = {COMPLETED}"],
    ),
]


class _Undo(Exception):
    """Takes a planted violation back, tables and all."""


@pytest.mark.corrupts_database
async def test_every_violation_is_seen(database: Database, subtests: pytest.Subtests) -> None:
    await database.write(everything)
    rules_seen: set[str] = set()

    for what, caught, statements in PLANTED:
        broken: list[str] = []

        def plant(connection: Connection, broken: list[str] = broken, statements: list[str] = statements) -> None:
            execute(connection, statements)
            broken += invariants.check(connection)
            raise _Undo

        with subtests.test(what):
            with pytest.raises(_Undo):
                await database.write(plant)
            assert any(caught in line for line in broken), f"not seen; only {broken}"
            rules_seen |= {rule.says for rule in invariants._RULES for line in broken if rule.says in line}

    assert rules_seen == {rule.says for rule in invariants._RULES}, "a rule that nothing planted broke"
    assert await database.read(invariants.check) == []


@pytest.mark.prunes_database
async def test_removed_history_may_leave_holes_in_the_feed_and_nothing_else(database: Database) -> None:
    await database.write(everything)

    def prune(connection: Connection) -> None:
        execute(
            connection,
            [
                f"DELETE FROM deliveries WHERE event_seq IN (SELECT seq FROM events WHERE order_number = {FAILED})",
                f"DELETE FROM events WHERE order_number = {FAILED}",
                f"DELETE FROM orders WHERE number = {FAILED}",
            ],
        )

    await database.write(prune)
    assert await database.read(lambda c: invariants.check(c, pruned=True)) == []
    assert len(await database.read(invariants.check)) == 1


BODY = '{"type":"provider.up","timestamp":"2026-11-21T18:00:00.000Z","data":{"provider":"x"}}'


def _waiting(connection: Connection, first: int, last: int) -> None:
    """Events from one position to another for an endpoint: every second one went, and the next of its lane waits."""
    told = [
        {
            "id": f"evt_{place}",
            "type": "provider.up",
            "lane": f"lane{place // 2}",
            "position": place,
            "body": BODY,
            "created_at": NOW,
        }
        for place in range(first, last + 1)
    ]
    connection.execute(insert(events), told)
    added = select(events.c.seq, events.c.lane, events.c.position).where(events.c.position >= first)
    went = {"endpoint": "shop", "created_at": NOW, "tries": 1}
    for odd, how in ((0, {"state": "delivered", "finished_at": NOW}), (1, {"state": "pending", "next_at": NOW})):
        rows = [row for row in connection.execute(added) if row.position % 2 == odd]
        connection.execute(
            insert(deliveries), [{**went, **how, "event_seq": row.seq, "lane": row.lane} for row in rows]
        )


@on_sqlite
@pytest.mark.prunes_database
async def test_what_waits_for_an_endpoint_that_is_away_is_gone_through_once(database: Database) -> None:
    """A backup is checked while an endpoint is away for days. Counted are steps of SQLite's machine."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def look(connection: Connection) -> list[str]:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(step, 100)
        try:
            return invariants.check(connection, pruned=True)
        finally:
            driver.set_progress_handler(None, 0)

    costs = []
    for first, last in ((1, 500), (501, 2000)):
        await database.write(partial(_waiting, first=first, last=last))
        steps = 0
        assert await database.read(look) == []
        costs.append(steps)
    assert costs[1] < 6 * costs[0], f"four times as many rows cost more than in proportion: {costs}"
