"""Which keys seal what is stored, and sealing it anew with the first one: accounts, and secrets that were made by API.

Decides when an earlier key is needed no longer. Keys themselves never enter the database, only their fingerprints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, insert, select, tuple_, update

from aggregator.storage.deliverables import Sealer, SealingError, check_key
from aggregator.storage.idempotency import SEALED
from aggregator.storage.tables import accounts, endpoints, idempotency_keys, sealing_keys


@dataclass(frozen=True, slots=True)
class Kind:
    """Where something sealed stands: the table, its key, and what is sealed in it."""

    table: Table
    key: tuple[str, ...]
    column: str
    prefix: str = ""

    @property
    def where(self) -> ColumnElement[bool]:
        sealed: ColumnElement[Any] = self.table.c[self.column]
        if not self.prefix:
            return sealed.is_not(None)
        # What is answered to an order holds no secret, and there are millions.
        return and_(self.table.c.order_number.is_(None), sealed.like(f"{self.prefix}%"))

    def name(self, row: Any) -> str:
        """How a person finds the row."""
        if self.table is accounts:
            return f"an account of order {row[0]}"
        return f"{self.table.name} {row[0]}" if isinstance(row[0], int) else f"one of {self.table.name}"


KINDS: Final = (
    Kind(accounts, ("order_number", "ordinal"), "sealed"),
    Kind(endpoints, ("id",), "secrets"),
    Kind(idempotency_keys, ("digest",), "body", prefix=SEALED),
)


Row = tuple[Any, ...]
"""The key of a row, and what is sealed there."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What is to be sealed anew: the row as it is, and what takes its place."""

    row: Row
    anew: Any


def adopt(connection: Connection, sealer: Sealer, now: datetime) -> None:
    """From now on the sealer's first key seals. SealingError when it lacks a key that is still needed; nothing is
    written then. The caller holds the daemon's lock."""
    known = {row.fingerprint for row in connection.execute(select(sealing_keys.c.fingerprint))}
    missing = sorted(known - set(sealer.fingerprints))
    stored = _anything(connection)
    if missing and stored:
        raise SealingError(
            f"the sealing key {_short(missing[0])} is missing, and what is stored was sealed with it; put it back, a "
            "line below the one that seals, and remove it when `aggregator keys reseal` has said that it may go"
        )
    check_key(connection, sealer)
    if not known and stored:
        # A database of an earlier release: nobody knows which of the keys sealed what.
        known = set(sealer.fingerprints)
    _note(connection, sealer.fingerprints[0], (known if stored else set()) - set(missing), now)


def _note(connection: Connection, first: str, known: set[str], now: datetime) -> None:
    rows_there = connection.execute(select(sealing_keys.c.fingerprint, sealing_keys.c.since))
    there = {row.fingerprint: row.since for row in rows_there}
    connection.execute(delete(sealing_keys))
    rows = [
        {"fingerprint": one, "seals": one == first, "since": there.get(one, now)} for one in sorted({first, *known})
    ]
    connection.execute(insert(sealing_keys), rows)


def seals_now(connection: Connection) -> str | None:
    """The fingerprint of the key that the daemon seals with; None before the first start of this release."""
    return connection.execute(select(sealing_keys.c.fingerprint).where(sealing_keys.c.seals)).scalar()


def needed(connection: Connection) -> list[str]:
    """The fingerprints of the keys with which something may be sealed, the one that seals first."""
    query = select(sealing_keys.c.fingerprint).order_by(sealing_keys.c.seals.desc(), sealing_keys.c.since)
    return list(connection.execute(query).scalars())


def look(connection: Connection, kind: Kind, after: Row | None, limit: int) -> list[Row]:
    """The next rows of a kind, each its key and what is sealed there."""
    key = [kind.table.c[name] for name in kind.key]
    query = select(*key, kind.table.c[kind.column]).where(kind.where).order_by(*key).limit(limit)
    if after is not None:
        last = after[: len(key)]
        query = query.where(tuple_(*key) > tuple_(*last) if len(key) > 1 else key[0] > last[0])
    return [tuple(row) for row in connection.execute(query)]


def changes(sealer: Sealer, kind: Kind, rows: Sequence[Row]) -> tuple[list[Changed], list[str]]:
    """Those of the rows that an earlier key sealed, and what no key of the sealer opens, in words."""
    changed, closed = [], []
    for row in rows:
        try:
            anew = _anew(sealer, row[-1], kind.prefix)
        except SealingError:
            closed.append(kind.name(row))
            continue
        if anew is not None:
            changed.append(Changed(row, anew))
    return changed, closed


def seal_anew(connection: Connection, kind: Kind, changed: Sequence[Changed]) -> int:
    """Write them; how many. One that somebody else has changed meanwhile is left: the first key sealed it."""
    column, written = kind.table.c[kind.column], 0
    for one in changed:
        same = and_(*(kind.table.c[name] == one.row[place] for place, name in enumerate(kind.key)))
        done = connection.execute(update(kind.table).where(same, column == one.row[-1]).values({kind.column: one.anew}))
        written += done.rowcount
    return written


def _anew(sealer: Sealer, sealed: Any, prefix: str) -> Any:
    if not prefix:
        return sealer.sealed_anew(sealed)
    anew = sealer.sealed_anew(str(sealed).removeprefix(prefix).encode())
    return prefix + anew.decode() if anew is not None else None


def forget_others(connection: Connection, first: str) -> bool:
    """All is sealed with this key now, and no other is needed; False when another one seals by now."""
    if seals_now(connection) != first:
        return False
    connection.execute(delete(sealing_keys).where(sealing_keys.c.fingerprint != first))
    return True


def _anything(connection: Connection) -> bool:
    """Whether anything sealed is stored."""
    return any(_first(connection, kind) for kind in KINDS)


def _first(connection: Connection, kind: Kind) -> bool:
    query: Any = select(kind.table.c[kind.key[0]]).where(kind.where).limit(1)
    return connection.execute(query).first() is not None


def _short(fingerprint: str) -> str:
    return fingerprint[:8]
