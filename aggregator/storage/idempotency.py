"""Idempotency keys: what was answered to a request is stored in the same commit as what the request did.

Per caller name; a key's answer is replayed for the same body and refused for another one. The answer to one order is
not stored but made again of the order's row, all that it says being there for ever: ten million keys are small. Keys
and requests are known by 128 bits of SHA-256, so that each row has the same few bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from sqlalchemy import Connection

from aggregator.domain.errors import Problem, ProblemKind
from aggregator.storage.bulk import Lookup, Rows
from aggregator.storage.tables import idempotency_keys

_BYTES: Final = 16
SEALED: Final = "sealed:"
"""What a stored answer begins with that holds a secret; JSON never does."""


class Stored(NamedTuple):
    """An answer as it was given: HTTP status and exact body."""

    status: int
    body: str


class Entry(NamedTuple):
    """What a key stands for: a request, and its answer. Without `answer`, what is made of the order `order_number` as
    it was when it was accepted."""

    fingerprint: bytes
    answer: Stored | None
    order_number: int | None = None


Name = tuple[str, str]
"""Whose key, and which: owner and key."""


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """What makes two requests the same: method, path and the body's bytes."""
    return _hash(method.encode(), path.encode(), body)


@lru_cache(maxsize=64)  # asked for twice by each request: to look, and to write
def digest(name: Name) -> bytes:
    """The key's place in the table."""
    return _hash(name[0].encode(), name[1].encode())


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"\0".join(parts)).digest()[:_BYTES]


_ROWS: Final = Rows(idempotency_keys, "digest", "fingerprint", "status", "body", "order_number", "created_at")
_BY_DIGEST: Final = Lookup(idempotency_keys, "digest", "fingerprint", "status", "body", "order_number")


def mismatch() -> Problem:
    """What is said to a request whose key belongs to another one."""
    detail = "this Idempotency-Key was used for another request; use a new key for a new request"
    return Problem(ProblemKind.IDEMPOTENCY_MISMATCH, detail, "Idempotency-Key")


def find(connection: Connection, owner: str, key: str) -> Entry | None:
    return find_all(connection, [(owner, key)]).get((owner, key))


def find_all(connection: Connection, names: Sequence[Name]) -> dict[Name, Entry]:
    """Those of the keys that are taken."""
    by_digest = {digest(name): name for name in names}
    found: dict[Name, Entry] = {}
    for digest_, fingerprint, status, body, order_number in _BY_DIGEST.find(connection, list(by_digest)):
        answer = Stored(status, body) if body is not None else None
        found[by_digest[digest_]] = Entry(fingerprint, answer, order_number)
    return found


def keep(connection: Connection, owner: str, key: str, entry: Entry, at: datetime) -> bool:
    """Store what a key stands for; False when it is taken already and nothing was written."""
    return keep_all(connection, [((owner, key), entry)], at)


def keep_all(connection: Connection, entries: Sequence[tuple[Name, Entry]], at: datetime) -> bool:
    """The same for many keys that all differ; False when some were taken already, and were left as they are."""
    rows = [
        (
            digest(name),
            entry.fingerprint,
            entry.answer.status if entry.answer is not None else None,
            entry.answer.body if entry.answer is not None else None,
            entry.order_number,
            at,
        )
        for name, entry in entries
    ]
    return _ROWS.insert(connection, rows, unless_there="digest") == len(rows)
