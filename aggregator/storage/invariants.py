"""What a database alone can show of the design's invariants: every row that breaks one, in words.

It reads only, decides nothing and mends nothing. It expects a database at rest or inside one transaction: between the
statements of a running daemon it could see half of a change. What CHECK and UNIQUE constraints refuse is left to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from aggregator.domain.events import EVENT_TYPES
from aggregator.storage.holding import POSITIONS_SKIPPED, SKIPPED
from aggregator.storage.removal import POSITIONS_REMOVED


@dataclass(frozen=True, slots=True)
class _Rule:
    """A statement that must hold, and a query for the rows where it does not: (which row, what is seen there)."""

    says: str
    broken: str


_BOUGHT: Final = "('pending', 'processing', 'in_progress', 'completed', 'partial', 'canceled', 'failed')"
_FOLLOWED: Final = "('pending', 'processing', 'in_progress')"
_FINAL: Final = "('completed', 'partial', 'canceled', 'failed')"
_FINAL_EVENTS: Final = "('order.completed', 'order.partial', 'order.canceled', 'order.failed')"
_LIVE: Final = "('planned', 'placing', 'placed', 'unclear')"

_RULES: Final = (
    # --- an order has at most one live purchase, and its state tells which (invariants 2 and 3)
    _Rule(
        "an order has at most one live attempt",
        f"""
        SELECT 'order ' || order_number, count(*) || ' live attempts' FROM attempts
        WHERE state IN {_LIVE} GROUP BY order_number HAVING count(*) > 1
        """,
    ),
    _Rule(
        "an order that is placing or unclear has its attempt in the same state",
        """
        SELECT 'order ' || o.number, o.state || ', its attempt is ' || coalesce(a.state, 'missing')
        FROM orders o LEFT JOIN attempts a ON a.id = o.attempt AND a.order_number = o.number
        WHERE o.state IN ('placing', 'unclear') AND (a.state IS NULL OR a.state <> o.state)
        """,
    ),
    _Rule(
        "a bought order has a placed attempt with the same provider and provider's order",
        f"""
        SELECT 'order ' || o.number,
          o.state || ' as ' || coalesce(o.provider, '?') || '/' || coalesce(o.provider_order, '?')
          || ', its attempt is ' || coalesce(
            a.state || ' as ' || coalesce(a.provider, '?') || '/' || coalesce(a.provider_order, '?'), 'missing')
        FROM orders o LEFT JOIN attempts a ON a.id = o.attempt AND a.order_number = o.number
        WHERE o.state IN {_BOUGHT} AND (o.attempt IS NOT NULL OR o.provider_order IS NOT NULL)
          AND (a.id IS NULL OR a.state <> 'placed' OR a.provider <> o.provider OR a.provider_order <> o.provider_order
               OR o.provider IS NULL OR o.provider_order IS NULL)
        """,
    ),
    _Rule(
        "an attempt that may have bought belongs to an order that says so",
        """
        SELECT 'attempt ' || a.id, a.state || ', order ' || o.number || ' is ' || o.state
        FROM attempts a JOIN orders o ON o.number = a.order_number
        WHERE (a.state IN ('placing', 'unclear') AND (o.state <> a.state OR coalesce(o.attempt, '') <> a.id))
           OR (a.state = 'placed' AND coalesce(o.attempt, '') <> a.id)
           OR (a.state = 'placed' AND o.state IN ('accepted', 'placing', 'unclear'))
        """,
    ),
    _Rule(
        "only an order that waits for a provider has a plan",
        """
        SELECT 'attempt ' || a.id, 'planned, order ' || o.number || ' is ' || o.state
        FROM attempts a JOIN orders o ON o.number = a.order_number WHERE a.state = 'planned' AND o.state <> 'accepted'
        """,
    ),
    _Rule(
        "an accepted order carries nothing of a purchase",
        """
        SELECT 'order ' || number,
          'attempt ' || coalesce(attempt, '-') || ', bought as ' || coalesce(provider_order, '-')
        FROM orders WHERE state = 'accepted' AND (attempt IS NOT NULL OR provider_order IS NOT NULL)
        """,
    ),
    _Rule(
        "a provider's order belongs to one order of ours",
        """
        SELECT provider || '/' || provider_order, count(*) || ' orders' FROM orders
        WHERE provider_order IS NOT NULL GROUP BY provider, provider_order HAVING count(*) > 1
        """,
    ),
    _Rule(
        "a provider's order that a removed order had belongs to no other",
        """
        SELECT r.provider || '/' || r.provider_order,
          'of order ' || o.number || ', and of ' || r.order_number || ' before'
        FROM removed_purchases r
        JOIN orders o ON o.provider = r.provider AND o.provider_order = r.provider_order
        UNION ALL
        SELECT r.provider || '/' || r.provider_order,
          'number ' || n.id || ' of order ' || n.order_number || ', and of ' || r.order_number || ' before'
        FROM removed_purchases r
        JOIN numbers n ON n.provider = r.provider AND n.provider_order = r.provider_order
        """,
    ),
    _Rule(
        "an idempotency key that belongs to an order goes with it",
        """
        SELECT 'a key of order ' || k.order_number, 'the order is not there'
        FROM idempotency_keys k LEFT JOIN orders o ON o.number = k.order_number
        WHERE k.order_number IS NOT NULL AND o.number IS NULL
        """,
    ),
    _Rule(
        "attempts of an order are numbered from 1 without gap",
        """
        SELECT 'order ' || order_number, count(*) || ' attempts, numbered ' || min(ordinal) || ' to ' || max(ordinal)
        FROM attempts GROUP BY order_number HAVING min(ordinal) <> 1 OR max(ordinal) <> count(*)
        """,
    ),
    # --- a fact and its event are one commit (invariant 5)
    _Rule(
        "the events of an order are numbered from 1 without gap, up to the order's own count",
        """
        SELECT 'order ' || o.number, 'counts ' || o.sequence || ', has ' || count(e.seq) || ' numbered '
          || coalesce(min(e.sequence), 0) || ' to ' || coalesce(max(e.sequence), 0)
        FROM orders o LEFT JOIN events e ON e.order_number = o.number GROUP BY o.number, o.sequence
        HAVING count(e.seq) <> o.sequence OR coalesce(min(e.sequence), 0) <> 1
            OR coalesce(max(e.sequence), 0) <> o.sequence
        """,
    ),
    _Rule(
        "an order's first event is order.accepted, and no later one",
        """
        SELECT 'order ' || order_number, type || ' is number ' || sequence FROM events
        WHERE order_number IS NOT NULL AND (sequence = 1) <> (type = 'order.accepted')
        """,
    ),
    _Rule(
        "an order is placed once, and told so once",
        f"""
        SELECT 'order ' || o.number, o.state || ', order.placed told ' || count(e.seq) || ' times'
        FROM orders o LEFT JOIN events e ON e.order_number = o.number AND e.type = 'order.placed'
        GROUP BY o.number, o.state, o.provider_order
        HAVING count(e.seq) > 1 OR (count(e.seq) = 1) <> (o.state IN {_BOUGHT} AND o.provider_order IS NOT NULL)
        """,
    ),
    _Rule(
        "a final order's last end told is its state; an order that goes on was told no end",
        f"""
        SELECT 'order ' || o.number, o.state || ', told ' || coalesce(e.type, 'no end')
        FROM orders o LEFT JOIN events e ON e.order_number = o.number AND e.sequence = (
          SELECT max(l.sequence) FROM events l WHERE l.order_number = o.number AND l.type IN {_FINAL_EVENTS})
        WHERE (o.state IN {_FINAL} AND coalesce(e.type, '') <> 'order.' || o.state)
           OR (o.state NOT IN {_FINAL} AND e.type IS NOT NULL)
        """,
    ),
    _Rule(
        "the same end is not told twice in a row",
        f"""
        SELECT 'order ' || e.order_number, e.type || ' is number ' || p.sequence || ' and ' || e.sequence
        FROM events e JOIN events p ON p.order_number = e.order_number AND p.type = e.type AND p.sequence = (
          SELECT max(b.sequence) FROM events b
          WHERE b.order_number = e.order_number AND b.sequence < e.sequence AND b.type IN {_FINAL_EVENTS})
        WHERE e.type IN {_FINAL_EVENTS}
        """,
    ),
    _Rule(
        "an order whose purchase is unclear was told so",
        """
        SELECT 'order ' || o.number, 'unclear without order.unclear' FROM orders o WHERE o.state = 'unclear'
          AND NOT EXISTS (SELECT 1 FROM events e WHERE e.order_number = o.number AND e.type = 'order.unclear')
        """,
    ),
    # --- positions are given in order (the feed misses nothing)
    _Rule(
        "an order's events get their positions in the order of their sequence",
        """
        SELECT 'order ' || a.order_number, 'event ' || b.sequence || ' has position ' || b.position || ', event '
          || a.sequence || ' before it ' || coalesce('has ' || a.position, 'has none')
        FROM events a JOIN events b ON b.order_number = a.order_number AND b.sequence = a.sequence + 1
        WHERE b.position IS NOT NULL AND (a.position IS NULL OR a.position > b.position)
        """,
    ),
    _Rule(
        "a delivery is of an event that has its position",
        """
        SELECT 'delivery ' || d.id, 'event ' || e.id || ' has none'
        FROM deliveries d JOIN events e ON e.seq = d.event_seq WHERE e.position IS NULL
        """,
    ),
    _Rule(
        "a delivery waits in its event's lane",
        """
        SELECT 'delivery ' || d.id, d.lane || ' instead of ' || e.lane
        FROM deliveries d JOIN events e ON e.seq = d.event_seq WHERE d.lane <> e.lane
        """,
    ),
    _Rule(
        "an endpoint gets each event once",
        """
        SELECT endpoint || ', event ' || event_seq, count(*) || ' deliveries' FROM deliveries
        GROUP BY endpoint, event_seq HAVING count(*) > 1
        """,
    ),
    _Rule(
        "an event skips ahead of an earlier one only when that one's hold is over",
        """
        SELECT 'delivery ' || id, 'waits in lane ' || lane || ', and a later one reached ' || endpoint
        FROM (
          -- Each lane is gone through once: pairs would be as many as the square of what waits at an endpoint.
          SELECT id, endpoint, lane, state, finished_at, tries, next_at, hold_until,
            min(reached_at) OVER later AS first_at, max(reached_at) OVER later AS last_at
          FROM (
            SELECT d.*, CASE WHEN d.state = 'delivered' THEN d.finished_at END AS reached_at
            FROM deliveries d
            WHERE (d.endpoint, d.lane) IN (
              SELECT w.endpoint, w.lane FROM deliveries w WHERE w.state = 'pending' AND w.finished_at IS NULL)
          ) AS lanes
          WINDOW later AS (
            PARTITION BY endpoint, lane ORDER BY event_seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        ) AS waiting
        WHERE state = 'pending' AND finished_at IS NULL
          AND ((tries = 0 AND next_at < last_at) OR hold_until > first_at)
        """,
    ),
    _Rule(
        "an endpoint with something to send is looked at in time",
        """
        SELECT 'endpoint ' || p.name, 'delivery ' || d.id || ' waits, and nobody looks'
        FROM endpoints p JOIN deliveries d ON d.endpoint = p.name
        WHERE p.enabled AND d.state = 'pending' AND d.claim_token IS NULL AND p.next_at IS NULL
        """,
    ),
    # --- what is due is a column: nothing that goes on is forgotten
    _Rule(
        "a followed order has its next check",
        f"""
        SELECT 'order ' || o.number, o.state || ' and nothing is due' FROM orders o
        WHERE o.state IN {_FOLLOWED} AND o.next_poll_at IS NULL AND o.role <> 'parent' AND NOT EXISTS (
          SELECT 1 FROM numbers n WHERE n.order_number = o.number AND n.next_check_at IS NOT NULL)
        """,
    ),
    _Rule(
        "an order that is not bought is not polled",
        """
        SELECT 'order ' || number, state || ' with a next poll' FROM orders
        WHERE next_poll_at IS NOT NULL AND provider_order IS NULL
        """,
    ),
    _Rule(
        "an accepted order has its deadline",
        """
        SELECT 'order ' || number, 'never gives up' FROM orders WHERE state = 'accepted' AND give_up_at IS NULL
        """,
    ),
    _Rule(
        "a number that waits for its code has its next check",
        """
        SELECT 'number ' || id, 'waiting and nothing is due' FROM numbers
        WHERE state = 'waiting' AND next_check_at IS NULL
        """,
    ),
    _Rule(
        "a refill that runs has its next call",
        """
        SELECT 'refill ' || number, state || ' and nothing is due' FROM refills
        WHERE state IN ('requested', 'pending', 'in_progress') AND next_poll_at IS NULL
        """,
    ),
    _Rule(
        "a claim that is held ends",
        " UNION ALL ".join(
            f"SELECT '{noun} ' || {key}, 'claimed for ever' FROM {noun}s"
            " WHERE claim_token IS NOT NULL AND claimed_until IS NULL"
            for noun, key in (
                ("order", "number"),
                ("attempt", "id"),
                ("number", "id"),
                ("refill", "number"),
                ("cancel", "number"),
            )
        )
        + " UNION ALL SELECT 'delivery ' || id, 'claimed for ever' FROM deliveries"
        " WHERE claim_token IS NOT NULL AND claimed_until IS NULL",
    ),
    # --- cancels
    _Rule(
        "an order's cancel is what became of the newest wish",
        """
        SELECT 'order ' || o.number, coalesce(o.cancel_state, 'none') || ', the newest wish is '
          || coalesce(c.state, 'missing')
        FROM orders o LEFT JOIN cancels c ON c.number = (
          SELECT max(l.number) FROM cancels l WHERE l.order_number = o.number)
        WHERE o.role <> 'parent' AND coalesce(o.cancel_state, '') <>
          CASE WHEN c.state = 'requested' THEN 'asked' ELSE coalesce(c.state, '') END
        """,
    ),
    _Rule(
        "only an order that was bought is canceled at a provider, at the one that has it",
        """
        SELECT 'cancel ' || c.number, 'of order ' || o.number || ' at ' || c.provider || ', the order is at '
          || coalesce(o.provider, '-')
        FROM cancels c JOIN orders o ON o.number = c.order_number
        WHERE coalesce(o.provider, '') <> c.provider OR o.provider_order IS NULL
        """,
    ),
    _Rule(
        "a wish that the provider took or refused was told",
        """
        SELECT 'order ' || c.order_number, count(*) || ' wishes ended, told ' || (SELECT count(*) FROM events e
          WHERE e.order_number = c.order_number AND e.type IN ('order.cancel_asked', 'order.cancel_refused'))
        FROM cancels c WHERE c.state <> 'requested' GROUP BY c.order_number
        HAVING count(*) <> (SELECT count(*) FROM events e
          WHERE e.order_number = c.order_number AND e.type IN ('order.cancel_asked', 'order.cancel_refused'))
        """,
    ),
    # --- refills, numbers and accounts
    _Rule(
        "an order has at most one open refill",
        """
        SELECT 'order ' || order_number, count(*) || ' open refills' FROM refills
        WHERE state NOT IN ('completed', 'rejected') GROUP BY order_number HAVING count(*) > 1
        """,
    ),
    _Rule(
        "only an order that was completed is refilled, at the provider that did it",
        """
        SELECT 'refill ' || r.number, 'of order ' || o.number || ' at ' || r.provider || ', the order is ' || o.state
          || ' at ' || coalesce(o.provider, '-')
        FROM refills r JOIN orders o ON o.number = r.order_number
        WHERE coalesce(o.provider, '') <> r.provider OR NOT EXISTS (
          SELECT 1 FROM events e WHERE e.order_number = o.number AND e.type = 'order.completed')
        """,
    ),
    _Rule(
        "a number belongs to a bought order for numbers, at the same provider",
        f"""
        SELECT 'number ' || n.id, 'of order ' || o.number || ', ' || o.kind || ', ' || o.state || ' at '
          || coalesce(o.provider, '-')
        FROM numbers n JOIN orders o ON o.number = n.order_number
        WHERE o.kind <> 'sms' OR o.state NOT IN {_BOUGHT} OR coalesce(o.provider, '') <> n.provider
        """,
    ),
    _Rule(
        "an order for numbers ends when none of them waits",
        f"""
        SELECT 'order ' || o.number, o.state || ', ' || count(*) || ' numbers, ' ||
          sum(CASE WHEN n.state = 'waiting' THEN 1 ELSE 0 END) || ' waiting'
        FROM orders o JOIN numbers n ON n.order_number = o.number GROUP BY o.number, o.state
        HAVING (o.state IN {_FINAL}) <> (sum(CASE WHEN n.state = 'waiting' THEN 1 ELSE 0 END) = 0)
        """,
    ),
    _Rule(
        "delivered accounts are numbered from 0 without gap",
        """
        SELECT 'order ' || order_number, count(*) || ' accounts, numbered ' || min(ordinal) || ' to ' || max(ordinal)
        FROM accounts GROUP BY order_number HAVING min(ordinal) <> 0 OR max(ordinal) <> count(*) - 1
        """,
    ),
    # --- money
    _Rule(
        "an amount has its currency, and a currency its amount",
        """
        SELECT 'attempt ' || id, 'expected or cost' FROM attempts
        WHERE (expected_units IS NULL) <> (expected_currency IS NULL) OR (cost_units IS NULL) <> (cost_currency IS NULL)
        UNION ALL
        SELECT 'number ' || id, 'charge' FROM numbers WHERE (charge_units IS NULL) <> (charge_currency IS NULL)
        UNION ALL
        SELECT 'provider ' || name, 'balance' FROM providers WHERE (balance_units IS NULL) <> (balance_currency IS NULL)
        UNION ALL
        SELECT 'ledger ' || id, 'no currency' FROM ledger WHERE currency = ''
        """,
    ),
    _Rule(
        "a charge takes, a refund and a top-up give, what nothing explains took",
        """
        SELECT 'ledger ' || id, kind || ' of ' || units || ' units' FROM ledger
        WHERE (kind IN ('charge', 'unexplained') AND units >= 0) OR (kind IN ('refund', 'top_up') AND units <= 0)
        """,
    ),
    _Rule(
        "a charge or a refund names its order, at the order's provider",
        """
        SELECT 'ledger ' || l.id, l.kind || ' at ' || l.provider || ' of order '
          || coalesce(o.number || ' at ' || coalesce(o.provider, '-'), 'none')
        FROM ledger l LEFT JOIN orders o ON o.number = l.order_number
        LEFT JOIN (SELECT DISTINCT provider, order_number FROM removed_purchases) r
          ON r.order_number = l.order_number AND r.provider = l.provider
        WHERE l.kind IN ('charge', 'refund')
          AND CASE WHEN o.number IS NULL THEN r.order_number IS NULL ELSE coalesce(o.provider, '') <> l.provider END
        """,
    ),
    _Rule(
        "what is booked for an order is what its provider charged",
        """
        SELECT 'order ' || o.number, 'charged ' || o.charge_units || ' units, booked ' || -sum(l.units)
        FROM orders o JOIN ledger l ON l.order_number = o.number AND l.kind IN ('charge', 'refund')
        WHERE o.charge_currency = l.currency AND o.kind <> 'sms'
        GROUP BY o.number, o.charge_units
        HAVING -sum(l.units) <> o.charge_units
          AND -sum(CASE WHEN l.note = 'seen in the balance' THEN 0 ELSE l.units END) <> o.charge_units
        """,
    ),
    _Rule(
        "what is booked for a rented number is what its provider charged",
        """
        SELECT 'number ' || n.id, 'charged ' || n.charge_units || ' units, booked ' || -sum(l.units)
        FROM numbers n JOIN ledger l ON l.number_id = n.id AND l.kind IN ('charge', 'refund')
        WHERE n.charge_currency = l.currency
        GROUP BY n.id, n.charge_units HAVING -sum(l.units) <> n.charge_units
        """,
    ),
    # --- relatives
    _Rule(
        "a child comes after its parent and belongs to the same owner",
        """
        SELECT 'order ' || c.number, 'of ' || c.owner || ', its parent ' || p.number || ' of ' || p.owner
        FROM orders c JOIN orders p ON p.id = c.parent WHERE p.number >= c.number OR p.owner <> c.owner
        """,
    ),
    _Rule(
        "runs belong to a parent, a remainder to an order that ended short, for no more than was missing",
        """
        SELECT 'order ' || c.number, c.role || ' of ' || c.quantity || ', its parent ' || p.number || ' is a ' || p.role
          || ' of ' || p.quantity
        FROM orders c JOIN orders p ON p.id = c.parent
        WHERE (c.role = 'run') <> (p.role = 'parent') OR c.quantity > p.quantity OR c.service <> p.service
           OR (c.role = 'remainder' AND NOT EXISTS (SELECT 1 FROM events e
                 WHERE e.order_number = p.number AND e.type IN ('order.partial', 'order.canceled')))
        """,
    ),
    _Rule(
        "the runs of a parent are numbered from 1 without gap, and are a part of it together",
        """
        SELECT 'order ' || p.number, count(*) || ' runs, numbered ' || min(c.ordinal) || ' to ' || max(c.ordinal)
          || ', of ' || sum(c.quantity) || ' pieces of ' || p.quantity
        FROM orders p JOIN orders c ON c.parent = p.id AND c.role = 'run' GROUP BY p.number, p.quantity
        HAVING min(c.ordinal) <> 1 OR max(c.ordinal) <> count(*) OR sum(c.quantity) > p.quantity
        """,
    ),
    _Rule(
        "a parent that goes on has a run to make or one that goes on",
        """
        SELECT 'order ' || p.number, p.state || ' and nothing is due' FROM orders p
        WHERE p.role = 'parent' AND p.finished_at IS NULL AND p.next_run_at IS NULL AND p.next_sum_at IS NULL
          AND NOT EXISTS (SELECT 1 FROM orders c LEFT JOIN orders r ON r.parent = c.id WHERE c.parent = p.id
            AND (c.finished_at IS NULL OR c.next_remainder_at IS NOT NULL OR r.id IS NOT NULL))
        """,
    ),
    _Rule(
        "a parent that was not canceled ends when all its runs were made and ended",
        """
        SELECT 'order ' || p.number, p.state || ', ' || coalesce(sum(c.quantity), 0) || ' pieces of ' || p.quantity
        FROM orders p LEFT JOIN orders c ON c.parent = p.id AND c.role = 'run'
        WHERE p.role = 'parent' AND p.finished_at IS NOT NULL AND p.cancel_state IS NULL
          AND p.number NOT IN (SELECT value FROM sequences WHERE name LIKE 'removing:%')
        GROUP BY p.number, p.state, p.quantity HAVING coalesce(sum(c.quantity), 0) <> p.quantity
        """,
    ),
    _Rule(
        "nothing is booked for a parent",
        """
        SELECT 'order ' || o.number, 'ledger ' || l.id FROM ledger l JOIN orders o ON o.number = l.order_number
        WHERE o.role = 'parent'
        """,
    ),
)

_BROKEN: Final = " UNION ALL ".join(
    f"SELECT {place} AS place, * FROM ({rule.broken}) AS broken" for place, rule in enumerate(_RULES)
)
"""All of them in one statement: most databases that are looked at break none."""


def check(connection: Connection, *, pruned: bool = False) -> list[str]:
    """Every violation, as one line each; an empty list is a healthy database.

    `pruned`: retention removed old rows, which leaves holes in the positions of the feed.
    """
    holes = [] if pruned else _broken_positions(connection)
    return [*_broken_rules(connection), *holes, *_broken_bodies(connection)]


def _broken_rules(connection: Connection) -> Iterator[str]:
    for place, which, seen in connection.exec_driver_sql(_BROKEN):
        yield f"{which}: {_RULES[place].says}; {seen}"


def _broken_positions(connection: Connection) -> Iterator[str]:
    """The sequencer gives positions from 1 without gap, but for those that restores have left out. The events of some
    are removed since."""
    count, highest = connection.execute(text("SELECT count(position), coalesce(max(position), 0) FROM events")).one()
    known = text("SELECT value FROM sequences WHERE name = :name")
    left_out, removed, given = (
        connection.execute(known, {"name": name}).scalar() or 0 for name in (SKIPPED, POSITIONS_REMOVED, "position")
    )
    if removed:  # the newest ones, perhaps
        highest = max(highest, given)
    missing = highest - count - removed
    if missing and not (0 < missing <= left_out and missing % POSITIONS_SKIPPED == 0):
        gone = f", {removed} removed" if removed else ""
        yield f"events: positions run from 1 without gap; {count} positions up to {highest}{gone}"


def _broken_bodies(connection: Connection) -> Iterator[str]:
    """An event's bytes tell the same as its row."""
    rows = connection.execute(
        text(
            "SELECT e.seq, e.type, e.sequence, e.body, o.id FROM events e"
            " LEFT JOIN orders o ON o.number = e.order_number ORDER BY e.seq"
        )
    )
    for seq, type_, sequence, body, order_id in rows:
        seen = _body_contradiction(body, type_, sequence, order_id)
        if seen is not None:
            yield f"event {seq}: an event's bytes tell the same as its row; {seen}"


def _body_contradiction(body: str, type_: str, sequence: int | None, order_id: str | None) -> str | None:
    if type_ not in EVENT_TYPES:
        return f"unknown type {type_}"
    try:
        document: dict[str, Any] = json.loads(body, parse_constant=_refuse)
        data = document["data"]
        told = (document["type"], data.get("sequence"), data.get("order", {}).get("id"))
        forbidden = {"params", "accounts"} & set(data.get("order", {}))
    except (ValueError, KeyError, AttributeError) as exc:
        return f"unreadable body: {exc!r}"
    if order_id is not None and told != (type_, sequence, order_id):
        return f"the row says {(type_, sequence, order_id)}, the body {told}"
    if told[0] != type_:
        return f"the row says {type_}, the body {told[0]}"
    return f"the body holds the order's {', '.join(sorted(forbidden))}" if forbidden else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
