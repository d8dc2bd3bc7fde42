"""Status words that no table knows, per provider, with the first order that showed each."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from aggregator.storage.tables import unknown_words

MOST_WORDS: Final = 200
"""Words kept per provider; one that invents a new word for each answer fills no disk."""


def note(connection: Connection, provider: str, word: str, order_number: int, at: datetime) -> bool:
    """Count a word; whether it is new."""
    mine: Any = unknown_words.c.provider == provider
    seen = connection.execute(
        update(unknown_words)
        .where(mine, unknown_words.c.word == word)
        .values(seen=unknown_words.c.seen + 1, last_at=at)
    )
    if seen.rowcount:
        return False
    if connection.execute(select(func.count()).select_from(unknown_words).where(mine)).scalar_one() >= MOST_WORDS:
        return False
    connection.execute(
        insert(unknown_words).values(
            provider=provider, word=word, seen=1, order_number=order_number, first_at=at, last_at=at
        )
    )
    return True


def of_provider(connection: Connection, provider: str) -> list[RowMapping]:
    """The words seen last first."""
    query = select(unknown_words).where(unknown_words.c.provider == provider)
    return list(connection.execute(query.order_by(unknown_words.c.last_at.desc(), unknown_words.c.word)).mappings())
