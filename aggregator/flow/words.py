"""Status words that no table knows: kept with the order that showed them, counted, and nothing concluded from them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from prometheus_client import Counter

from aggregator.domain.orders import Order
from aggregator.flow.base import log
from aggregator.providers.reading import without_goods
from aggregator.storage import unknown_words
from aggregator.storage.database import Connection

MOST_LABELS: Final = 50
"""Words of a provider that get a series of their own; what a broken provider invents beyond them is `(other)`."""
MOST_CHARS: Final = 100

UNKNOWN_WORDS = Counter(
    "aggregator_unknown_words_total",
    "Status words that no table knows; nothing is concluded from them.",
    ["provider", "word"],
)
_labels: dict[str, set[str]] = {}


def note_unknown_word(connection: Connection, provider: str, order: Order, word: str, at: datetime) -> None:
    """Count a word and keep where it was seen; told in the log when it is new."""
    word = without_goods(word)[:MOST_CHARS]
    labels = _labels.setdefault(provider, set())
    if word in labels or len(labels) < MOST_LABELS:
        labels.add(word)
        UNKNOWN_WORDS.labels(provider, word).inc()
    else:
        UNKNOWN_WORDS.labels(provider, "(other)").inc()
    if unknown_words.note(connection, provider, word, order.number, at):
        log.warning("unknown_status_word", provider=provider, order_id=order.id, word=word)


def note_number_word(connection: Connection, provider: str, order: Order, word: str, at: datetime) -> None:
    """The same for a rented number, without the digits: `STATUS_OK:123456` is a word with a code in it."""
    note_unknown_word(connection, provider, order, re.sub(r"\d+", "#", word), at)
