"""What really happened against what the daemon believes: the sandbox's own ledger is a witness that cannot be fooled.

Reads only. Every violation is one line that names the order.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, select

from aggregator.domain.evidence import DEBITS_TO_TRUST
from aggregator.domain.refills import LATER_AT
from aggregator.sandbox.ledger import Entry
from aggregator.sandbox.world import World
from aggregator.storage import invariants
from aggregator.storage.tables import accounts, attempts, cancels, events, ledger, numbers, orders, providers, refills

_UNITS: Final = 10**8
_STATES: Final = {
    "completed": "completed",
    "partial": "partial",
    "canceled": "canceled",
    "fail": "failed",
}


@dataclass(frozen=True, slots=True)
class Sale:
    """One purchase that a provider accepted."""

    account: str
    order: str
    orders: tuple[str, ...]
    key: str | None

    def __str__(self) -> str:
        return f"{self.account}/{self.order} under {self.key}"


def sales(entries: Iterable[Entry | Mapping[str, Any]]) -> list[Sale]:
    """The purchases among a ledger's entries, as they are or as JSON."""
    as_dicts = (entry if isinstance(entry, Mapping) else asdict(entry) for entry in entries)
    return [
        Sale(entry["account"], entry["order"], tuple(entry["orders"]), entry["idempotency_key"])
        for entry in as_dicts
        if entry["action"] in ("add", "add_sms")
    ]


@dataclass(frozen=True, slots=True)
class Witness:
    """Everybody but the daemon: providers, callers, the webhook endpoint."""

    world: World
    answered: Mapping[str, Sequence[str]]
    canceled: frozenset[str]
    refilled: frozenset[str]
    heard: Mapping[str, str]
    changed: Sequence[str]
    accounts: Callable[[bytes], str]
    pauses: Sequence[tuple[str, datetime, datetime]]
    cooldown_s: float


def violations(connection: Connection, witness: Witness) -> list[str]:
    """All of them; an empty list means that nothing was bought twice, lost or told wrongly."""
    rows = list(connection.execute(select(orders).order_by(orders.c.number)).mappings())
    tried = list(connection.execute(select(attempts)).mappings())
    return [
        *invariants.check(connection),
        *lost(rows, witness.answered),
        *purchases(rows, tried, sales(witness.world.ledger.entries()), witness.canceled),
        *_ends(rows, witness),
        *_goods(connection, rows, witness),
        *_codes(connection, witness),
        *_booked(connection, rows),
        *_refills(connection, rows, witness),
        *cancels_sent(connection, rows, [asdict(entry) for entry in witness.world.ledger.entries()]),
        *runs_made(rows),
        *remainders_made(rows),
        *_rests(connection, rows, witness),
        *told(connection, rows, witness.heard, witness.changed),
        *_pauses(tried, witness.pauses),
        *_breakers(connection),
        *_trust(connection, tried),
    ]


def lost(rows: Sequence[RowMapping], answered: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Invariant 1: an order that was answered exists, and one wish is one order."""
    known = {row["id"] for row in rows}
    per_wish = Counter(row["reference"] for row in rows if row["parent"] is None)
    for wish, ids in answered.items():
        for one in ids:
            if one not in known:
                yield f"lost: {wish} was answered with {one}, which does not exist"
        if len(set(ids)) > 1:
            yield f"double: {wish} was answered with several orders: {sorted(set(ids))}"
    for wish, count in per_wish.items():
        if count > 1:
            yield f"double: {wish} became {count} orders"


def purchases(
    rows: Sequence[RowMapping], tried: Sequence[RowMapping], sold: Sequence[Sale], canceled: Collection[str] = ()
) -> Iterator[str]:
    """Invariants 2 and 3 against what was really sold."""
    by_id = {row["id"]: row for row in tried}
    per_attempt = Counter(sale.key for sale in sold)
    per_order: Counter[int] = Counter()
    for sale in sold:
        row = by_id.get(sale.key or "")
        if row is None:
            yield f"double: nobody knows of {sale}"
            continue
        per_order[row["order_number"]] += 1
        if row["state"] not in ("placed", "unclear"):
            yield f"lost purchase: attempt {row['id']} is {row['state']}, but it was sold: {sale}"
        elif row["state"] == "placed" and row["provider_order"] not in sale.orders:
            yield f"wrong id: attempt {row['id']} is {row['provider_order']}, it was sold as {sale}"
    for key, count in per_attempt.items():
        if count > 1:
            yield f"double: attempt {key} was sold {count} times"
    for number, count in per_order.items():
        if count > 1:
            yield f"double: order {number} was bought {count} times"
    for row in tried:
        if row["state"] == "placed" and row["id"] not in per_attempt:
            yield f"invented: attempt {row['id']} of order {row['order_number']} is placed, and was never sold"
    for row in rows:
        if row["provider_order"] is not None and per_order[row["number"]] != 1:
            yield f"order {row['number']} is {row['state']} and has {per_order[row['number']]} purchases"
        if row["id"] in canceled and per_order[row["number"]]:
            yield f"double: order {row['number']} was canceled by its caller and bought"


def _ends(rows: Sequence[RowMapping], witness: Witness) -> Iterator[str]:
    """What was bought ended here as it ended there, at the price that was charged there."""
    now = witness.world.now()
    for row in rows:
        if row["kind"] == "sms" or row["provider_order"] is None or row["state"] not in _STATES.values():
            continue
        theirs = witness.world.accounts[row["provider"]].orders.get(row["provider_order"])
        if theirs is None:
            yield f"order {row['number']} is followed as {row['provider_order']}, which its provider does not know"
            continue
        view = theirs.view(now)
        if _STATES.get(view.status.lower()) != row["state"]:
            yield f"order {row['number']} ended {row['state']}, there it is {view.status}"
        elif row["charge_units"] is not None and Decimal(row["charge_units"]) / _UNITS != view.charge:
            yield f"order {row['number']} was charged {row['charge_units']} units here, {view.charge} there"


def _goods(connection: Connection, rows: Sequence[RowMapping], witness: Witness) -> Iterator[str]:
    """Delivered accounts are those that the provider delivered, each once."""
    now = witness.world.now()
    held: dict[int, list[str]] = defaultdict(list)
    for row in connection.execute(select(accounts).order_by(accounts.c.order_number, accounts.c.ordinal)).mappings():
        held[row["order_number"]].append(witness.accounts(row["sealed"]))
    for row in rows:
        if row["kind"] != "product" or row["provider_order"] is None:
            continue
        theirs = witness.world.accounts[row["provider"]].orders.get(row["provider_order"])
        if theirs is None or row["state"] not in ("completed", "partial"):
            continue
        wanted = list(theirs.accounts[: theirs.view(now).delivered])
        if held[row["number"]] != wanted:
            yield f"order {row['number']} holds {len(held[row['number']])} accounts, {len(wanted)} were delivered"


def _codes(connection: Connection, witness: Witness) -> Iterator[str]:
    """Every code that arrived is the number's own and was told once."""
    for row in connection.execute(select(numbers)).mappings():
        theirs = witness.world.accounts[row["provider"]].numbers.get(row["provider_order"])
        if theirs is None:
            yield f"number {row['id']} is {row['provider_order']}, which its provider does not know"
            continue
        codes = [code["code"] for code in row["codes"]]
        sent = {code.code for code in (*theirs.codes, *theirs.pushed)}
        if len(codes) != len(set(codes)) or not set(codes) <= sent:
            yield f"number {row['id']} has the codes {codes}, sent were {sorted(sent)}"


def _booked(connection: Connection, rows: Sequence[RowMapping]) -> Iterator[str]:
    """Money that a provider said it took is in the books."""
    charges = connection.execute(select(ledger.c.order_number).where(ledger.c.kind == "charge"))
    booked = {row[0] for row in charges}
    for row in rows:
        if row["charge_units"] and row["role"] != "parent" and row["number"] not in booked:
            yield f"order {row['number']} was charged {row['charge_units']} units, and nothing is booked"


def _refills(connection: Connection, rows: Sequence[RowMapping], witness: Witness) -> Iterator[str]:
    """Invariant 6: no refill is asked for twice in its cooldown; each accepted one was journaled before."""
    asked = list(connection.execute(select(refills).order_by(refills.c.number)).mappings())
    journaled = Counter(row["order_number"] for row in asked)
    for number in journaled:
        # Who was refused for now may come back when the provider says, which is sooner.
        wishes = [
            row["requested_at"].timestamp()
            for row in asked
            if row["order_number"] == number and row["outcome"] != LATER_AT
        ]
        if any(later - sooner < witness.cooldown_s for sooner, later in pairwise(wishes)):
            yield f"order {number} asked for two refills within their cooldown"
    ours = {(row["provider"], row["provider_order"]): row["number"] for row in rows if row["provider_order"]}
    given: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in witness.world.ledger.entries():
        if entry.action == "refill":
            given[entry.account, entry.order].append(entry.at)
    for place, moments in given.items():
        number = ours.get(place)
        if number is None:
            yield f"a refill of {place} was asked for, which is no order of ours"
        elif len(moments) > journaled[number]:
            yield f"order {number} got {len(moments)} refills, {journaled[number]} are journaled"
        if any(later - sooner < witness.cooldown_s - 1 for sooner, later in pairwise(moments)):
            yield f"order {number} got two refills within their cooldown"


def cancels_sent(
    connection: Connection, rows: Sequence[RowMapping], entries: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    """A wish to cancel is sent once, and nothing is canceled there that nobody wished to be."""
    wishes = Counter(row[0] for row in connection.execute(select(cancels.c.order_number)))
    ours = {(row["provider"], row["provider_order"]): row["number"] for row in rows if row["provider_order"]}
    asked = Counter((entry["account"], entry["order"]) for entry in entries if entry["action"] == "cancel")
    for place, count in asked.items():
        number = ours.get(place)
        if number is None:
            yield f"a cancel of {place} was asked for, which is no order of ours"
        elif count > wishes[number]:
            yield f"double: order {number} was asked to be canceled {count} times, by {wishes[number]} wishes"


def runs_made(rows: Sequence[RowMapping]) -> Iterator[str]:
    """A drip-feed of our own has exactly as many runs as were ordered, unless it was canceled."""
    made = Counter(row["parent"] for row in rows if row["role"] == "run")
    for row in rows:
        if row["role"] != "parent":
            continue
        wanted = int(row["params"]["runs"])
        over = row["finished_at"] is not None and row["cancel_state"] is None
        if made[row["id"]] > wanted or (over and made[row["id"]] != wanted):
            yield f"double: order {row['number']} has {made[row['id']]} runs of {wanted}"


def remainders_made(rows: Sequence[RowMapping]) -> Iterator[str]:
    """One remainder of an order at most."""
    for parent, count in Counter(row["parent"] for row in rows if row["role"] == "remainder").items():
        if count > 1:
            yield f"double: order {parent} has {count} remainders"


def _rests(connection: Connection, rows: Sequence[RowMapping], witness: Witness) -> Iterator[str]:
    """A remainder is of what is missing there, and was made after its refund was booked."""
    now = witness.world.now()
    by_id = {row["id"]: row for row in rows}
    refunds = list(
        connection.execute(select(ledger.c.order_number, ledger.c.at).where(ledger.c.kind == "refund")).all()
    )
    for row in (row for row in rows if row["role"] == "remainder"):
        parent = by_id[row["parent"]]
        if not any(number == parent["number"] and at <= row["created_at"] for number, at in refunds):
            yield f"order {row['number']} is the rest of order {parent['number']}, of which no refund was booked"
        theirs = witness.world.accounts[parent["provider"]].orders.get(parent["provider_order"])
        view = theirs.view(now) if theirs is not None else None
        if view is None or row["quantity"] != view.remains:
            missing = None if view is None else view.remains
            yield f"order {row['number']} is the rest of {row['quantity']}, missing there are {missing}"


def _pauses(tried: Sequence[RowMapping], pauses: Sequence[tuple[str, datetime, datetime]]) -> Iterator[str]:
    """Nothing is bought at a provider that its operator paused."""
    for row in tried:
        for provider, began, ended in pauses:
            if row["provider"] == provider and row["sent_at"] is not None and began < row["sent_at"] < ended:
                yield f"attempt {row['id']} was sent at {row['sent_at']}, while {provider} was paused"


def _breakers(connection: Connection) -> Iterator[str]:
    """A provider goes down and comes up by turns, whatever restarts lie between."""
    down: set[str] = set()
    kinds = ("provider.down", "provider.up")
    for row in connection.execute(select(events).where(events.c.type.in_(kinds)).order_by(events.c.seq)).mappings():
        provider = json.loads(row["body"])["data"]["provider"]
        if (row["type"] == "provider.down") == (provider in down):
            yield f"event {row['seq']}: {row['type']} of {provider}, which was told already"
        down ^= {provider}


def _trust(connection: Connection, tried: Sequence[RowMapping]) -> Iterator[str]:
    """A provider that was seen to debit late is not one that debits at once."""
    trusted = {
        row["name"] for row in connection.execute(select(providers)).mappings() if row["debits_seen"] >= DEBITS_TO_TRUST
    }
    for row in tried:
        seen = row["evidence"] or []
        proved = next((place for place, one in enumerate(seen) if one.get("verdict") == "bought"), 0)
        late = any(one.get("shown") == "unmoved" and one["sharp"] for one in seen[:proved])
        if late and row["provider"] in trusted:
            yield f"attempt {row['id']} was debited late, and {row['provider']} is trusted all the same"


def told(
    connection: Connection, rows: Sequence[RowMapping], heard: Mapping[str, str], changed: Sequence[str]
) -> Iterator[str]:
    """Invariant 5 to the end: the endpoint heard every event of every order, byte for byte."""
    stored = {row["id"]: row for row in connection.execute(select(events)).mappings()}
    if changed:
        yield f"events came with different bytes: {changed}"
    for event_id, body in heard.items():
        row = stored.get(event_id)
        if row is None:
            yield f"event {event_id} was told and does not exist"
        elif row["body"] != body:
            yield f"event {event_id} was told with other bytes than are stored"
    sequences: dict[int, set[int]] = defaultdict(set)
    for event_id in heard:
        row = stored.get(event_id)
        if row is not None and row["order_number"] is not None:
            sequences[row["order_number"]].add(row["sequence"])
    for row in rows:
        known = sequences[row["number"]]
        if known != set(range(1, row["sequence"] + 1)):
            yield f"order {row['number']} has {row['sequence']} events, heard were {sorted(known)}"
    yield from _repeated_codes(stored.values())


def _repeated_codes(stored: Any) -> Iterator[str]:
    seen: Counter[tuple[int, str, str]] = Counter()
    for row in stored:
        if row["type"] == "sms.code":
            data = json.loads(row["body"])["data"]
            seen[row["order_number"], data["number"]["provider_order"], data["code"]["code"]] += 1
    for (number, phone, code), count in seen.items():
        if count > 1:
            yield f"order {number}: code {code} of {phone} was told {count} times"
