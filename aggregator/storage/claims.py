"""Claiming due rows: one conditional update that marks them with a token nobody else has.

A claim ends when its holder writes, when `claimed_until` passes, or when a new daemon voids all of them at start. The
write checks the token, so a holder that was overtaken writes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    Table,
    Update,
    and_,
    bindparam,
    case,
    insert,
    null,
    or_,
    select,
    text,
    update,
)

from aggregator.domain.errors import ClaimLost
from aggregator.storage.tables import sequences
from aggregator.storage.types import Instant

_SHIFTED: Final = "clock"
"""The row of `sequences` that holds the key of the last jump of the clock."""


def new_token() -> str:
    return secrets.token_hex(16)


NOW: Final = bindparam("now", type_=Instant())
"""This moment, in a statement that is made once and runs each second: naming its parts costs more than running it."""


def unclaimed(table: Table, now: datetime | BindParameter[datetime] = NOW) -> ColumnElement[bool]:
    return or_(table.c.claim_token.is_(None), table.c.claimed_until <= now)


def still_asked(table: Table) -> ColumnElement[Any]:
    """What becomes of `asked_at` when claimed rows are written: the question that the claim saw is answered by the
    parameter `answered_to` being the same; one that was asked since stands."""
    return case((table.c.asked_at == bindparam("answered_to", type_=Instant()), null()), else_=table.c.asked_at)


class Claimable:
    """Rows that a stage works on, and the statements of a claim on them.

    `where` tells which; it may speak of NOW and of parameters of its own, which `claim` is given.
    """

    def __init__(
        self, table: Table, key: Column[Any], *, where: ColumnElement[bool], order_by: Sequence[ColumnElement[Any]]
    ) -> None:
        these = key.in_(bindparam("keys", type_=key.type, expanding=True))
        self.free = (
            select(key)
            .where(and_(where, unclaimed(table)))
            .order_by(*order_by)
            .limit(bindparam("at_most", type_=Integer()))
            # PostgreSQL only; SQLite has one writer and the compiler leaves it out.
            .with_for_update(skip_locked=True)
        )
        self.mark = (
            update(table)
            .where(these)
            .values(claim_token=bindparam("token"), claimed_until=bindparam("until", type_=Instant()))
        )
        self.claimed = select(table).where(these).order_by(*order_by)


def claim(
    connection: Connection, of: Claimable, now: datetime, *, limit: int, lease_s: float, token: str, **parameters: Any
) -> list[RowMapping]:
    """Mark up to `limit` free rows with `token` until `now + lease_s`, and return them in their order."""
    keys = [row[0] for row in connection.execute(of.free, {"now": now, "at_most": limit, **parameters})]
    if not keys:
        return []
    connection.execute(of.mark, {"keys": keys, "token": token, "until": now + timedelta(seconds=lease_s)})
    return list(connection.execute(of.claimed, {"keys": keys}).mappings())


def release(
    connection: Connection, table: Table, key: Column[Any], value: object, token: str, **values: object
) -> None:
    """Give a claimed row back with its results; ClaimLost when somebody else holds it by now."""
    done = connection.execute(_release(table, key), {"of_key": value, "of_token": token, **values})
    if done.rowcount != 1:
        raise ClaimLost(f"{table.name} {value}")


@cache
def _release(table: Table, key: Column[Any]) -> Update:
    held = (key == bindparam("of_key"), table.c.claim_token == bindparam("of_token"))
    return update(table).where(*held).values(claim_token=None, claimed_until=None)


def shift_once(connection: Connection, tables: Sequence[Table], by: timedelta, key: int) -> int:
    """The same as `shift_all`, and nothing when it was done under this key already."""
    last = connection.execute(select(sequences.c.value).where(sequences.c.name == _SHIFTED)).scalar()
    if last == key:
        return 0
    if last is None:
        connection.execute(insert(sequences).values(name=_SHIFTED, value=key))
    else:
        connection.execute(update(sequences).where(sequences.c.name == _SHIFTED).values(value=key))
    return shift_all(connection, tables, by)


def shift_all(connection: Connection, tables: Sequence[Table], by: timedelta) -> int:
    """Move every claim, due time and deadline along with a clock that has jumped: what was due in a minute still is.

    What has happened keeps its time, and so does what nobody waits for any more.
    """
    sqlite = connection.dialect.name == "sqlite"
    # Instants are microseconds there (types.py).
    distance = str(by // timedelta(microseconds=1)) if sqlite else f"INTERVAL '{by.total_seconds()} seconds'"
    moved = 0
    for table in tables:
        for column in filter(is_deadline, table.c):
            still = " AND finished_at IS NULL" if column.name == "give_up_at" else ""
            done = connection.execute(
                text(
                    f"UPDATE {table.name} SET {column.name} = {column.name} + {distance}"
                    f" WHERE {column.name} IS NOT NULL{still}"
                )
            )
            moved += done.rowcount
    return moved


_MOMENTS: Final = frozenset({"claimed_until", "hold_until", "give_up_at", "failing_since", "last_failure_at"})


def is_deadline(column: Column[Any]) -> bool:
    """Whether a column holds a moment that somebody waits for, or from which a time is counted."""
    return column.name.startswith("next_") or column.name in _MOMENTS


def void_all(connection: Connection, tables: Sequence[Table]) -> int:
    """End every claim: the caller holds the daemon's lock, so nobody is at work on any of them."""
    voided = 0
    for table in tables:
        voided += connection.execute(_void(table)).rowcount
    return voided


@cache
def _void(table: Table) -> Update:
    return update(table).where(table.c.claim_token.is_not(None)).values(claim_token=None, claimed_until=None)
