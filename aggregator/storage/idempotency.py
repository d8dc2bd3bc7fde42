"""Idempotency keys: the answer to a request is stored in the same commit as what the request did.

Per caller name; a key's answer is replayed for the same body and refused for another one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.storage.tables import idempotency_keys


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored answer: HTTP status and exact body."""

    fingerprint: str
    status: int
    body: str


def fingerprint(method: str, path: str, body: bytes) -> str:
    """What makes two requests the same: method, path and the body's bytes."""
    return hashlib.sha256(b"\0".join((method.encode(), path.encode(), body))).hexdigest()


def find(connection: Connection, owner: str, key: str) -> Stored | None:
    row = connection.execute(
        select(idempotency_keys.c.fingerprint, idempotency_keys.c.status, idempotency_keys.c.body).where(
            idempotency_keys.c.owner == owner, idempotency_keys.c.key == key
        )
    ).one_or_none()
    return Stored(row[0], row[1], row[2]) if row is not None else None


def keep(
    connection: Connection,
    owner: str,
    key: str,
    stored: Stored,
    at: datetime,
    order_number: int | None = None,
) -> bool:
    """Store an answer; False when the key is taken already and nothing was written."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    result = connection.execute(
        dialect.insert(idempotency_keys)
        .values(
            owner=owner,
            key=key,
            fingerprint=stored.fingerprint,
            status=stored.status,
            body=stored.body,
            order_number=order_number,
            created_at=at,
        )
        .on_conflict_do_nothing(index_elements=["owner", "key"])
    )
    return bool(result.rowcount == 1)
