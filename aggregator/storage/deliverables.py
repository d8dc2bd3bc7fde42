"""Delivered accounts: sealed at rest, each handed over once although providers repeat them in every status.

The sealing key never enters the database; without it the rows are noise.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Connection, func, insert, select

from aggregator.storage.tables import accounts


class SealingError(Exception):
    """The sealing key is unusable, or it is not the one that sealed what is stored."""


class Sealer:
    """Seals and opens with Fernet (AES-128-CBC with HMAC-SHA256). Several keys, a line each: the first one seals."""

    def __init__(self, keys: str) -> None:
        lines = [line.strip() for line in keys.splitlines() if line.strip()]
        self.fingerprints: tuple[str, ...] = tuple(map(fingerprint, lines))
        """By which the keys can be told apart, the one that seals first; they say nothing of the keys."""
        try:
            self._fernet = MultiFernet([Fernet(line) for line in lines])
            self._first = Fernet(lines[0])
            self.seal("probe")
        except (ValueError, IndexError, TypeError) as exc:
            raise SealingError(
                "the sealing key must be 32 bytes as URL-safe base64, one key a line; "
                "make one with: aggregator keys generate --sealing"
            ) from exc

    def seal(self, text: str) -> bytes:
        return self._fernet.encrypt(text.encode("utf-8", "surrogatepass"))

    def open(self, sealed: bytes) -> str:
        try:
            return self._fernet.decrypt(bytes(sealed)).decode("utf-8", "surrogatepass")
        except InvalidToken as exc:
            raise SealingError("this sealing key did not seal what is stored; give the right one back") from exc

    def sealed_anew(self, sealed: bytes) -> bytes | None:
        """The same under the first key; None when it is sealed with that already."""
        token = bytes(sealed)
        try:
            self._first.decrypt(token)
        except InvalidToken:
            return self.seal(self.open(token))
        return None


def fingerprint(key: str) -> str:
    """The first half of a key's SHA-256, in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def load_or_create_key(path: Path) -> str:
    """The key in a file; made with mode 0600 when there is none yet."""
    if path.exists():
        return path.read_text(encoding="ascii")
    key = Fernet.generate_key()
    # Whole or not at all: a crash in between must not leave an empty key that refuses every later start.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(key + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return key.decode()


def add_new(
    connection: Connection, sealer: Sealer, order_number: int, delivered: Sequence[str], at: datetime
) -> tuple[int, int]:
    """Store what was not stored yet: (new accounts, accounts in all).

    `delivered` is cumulative; the same account twice in it counts twice.
    """
    known = Counter(map(_canonical, read(connection, sealer, order_number)))
    total = sum(known.values())
    fresh: list[str] = []
    for account in delivered:
        if known[_canonical(account)] > 0:
            known[_canonical(account)] -= 1
        else:
            fresh.append(account)
    if fresh:
        connection.execute(
            insert(accounts),
            [
                {
                    "order_number": order_number,
                    "ordinal": ordinal,
                    "sealed": sealer.seal(account),
                    "delivered_at": at,
                }
                for ordinal, account in enumerate(fresh, start=total)
            ],
        )
    return len(fresh), total + len(fresh)


def _canonical(account: str) -> str:
    """An account as it is compared: providers repeat one with a blank at its end, or an object with its keys moved."""
    text = account.strip()
    if text.startswith("{"):
        try:
            return json.dumps(json.loads(text), sort_keys=True)
        except (ValueError, RecursionError):
            return text
    return text


def read(connection: Connection, sealer: Sealer, order_number: int) -> list[str]:
    """The accounts of an order, opened, in the order they came."""
    rows = connection.execute(
        select(accounts.c.sealed).where(accounts.c.order_number == order_number).order_by(accounts.c.ordinal)
    )
    return [sealer.open(row[0]) for row in rows]


def check_key(connection: Connection, sealer: Sealer) -> None:
    """SealingError when the newest sealed account cannot be opened: a lost key is found at the start, not later."""
    query = select(accounts.c.sealed).order_by(accounts.c.order_number.desc(), accounts.c.ordinal.desc()).limit(1)
    newest = connection.execute(query).scalar()
    if newest is not None:
        sealer.open(newest)


def count(connection: Connection, order_number: int) -> int:
    query = select(func.count()).where(accounts.c.order_number == order_number)
    return int(connection.execute(query).scalar_one())
