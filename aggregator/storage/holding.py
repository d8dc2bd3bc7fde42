"""What of a restored database may have gone on elsewhere since its backup: found, and marked as held.

Pure SQL for flow/restoring.py, which decides; on the copy that is being restored, before any daemon has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, insert, select, text, update

from aggregator.domain.orders import RESTORED
from aggregator.storage.tables import LIVE_ATTEMPT, attempts, orders, providers, refills, sequences

SKIPPED: Final = "positions_skipped"
"""The row of `sequences` that says how many positions of the feed no event will have."""
POSITIONS_SKIPPED: Final = 1_000_000
NUMBERS_SKIPPED: Final = 100_000
"""More than a daemon gives between two backups: what callers know by a number must not become something else."""


def not_placed(connection: Connection) -> list[int]:
    """Orders of which the backup does not know a provider's order, parents aside, in the order of their numbers."""
    waiting = orders.c.state.in_(["accepted", "placing", "unclear"])
    query = select(orders.c.number).where(waiting, orders.c.role != "parent").order_by(orders.c.number)
    return list(connection.execute(query).scalars())


def open_parents(connection: Connection) -> list[int]:
    """Parents of which runs are still to be made."""
    query = select(orders.c.number).where(orders.c.next_run_at.is_not(None)).order_by(orders.c.number)
    return list(connection.execute(query).scalars())


def waiting_rests(connection: Connection) -> list[int]:
    """Ended orders whose rest was to be bought elsewhere."""
    query = select(orders.c.number).where(orders.c.next_remainder_at.is_not(None)).order_by(orders.c.number)
    return list(connection.execute(query).scalars())


def live_attempt(connection: Connection, order_number: int) -> RowMapping | None:
    query = select(attempts).where(attempts.c.order_number == order_number, text(f"attempts.{LIVE_ATTEMPT}"))
    return connection.execute(query).mappings().one_or_none()


def count_as_sent(connection: Connection, attempt_id: str, now: datetime) -> None:
    """A choice of which the backup knows nothing more: it may have been sent since."""
    sent = {"state": "placing", "sent_at": now, "claim_token": None, "claimed_until": None}
    connection.execute(update(attempts).where(attempts.c.id == attempt_id).values(**sent))


def mark(connection: Connection, attempt_id: str) -> None:
    """No evidence is looked for any more, and nothing is repeated under its key: only a person ends it."""
    connection.execute(update(attempts).where(attempts.c.id == attempt_id).values(outcome=RESTORED))


def move(connection: Connection, attempt_id: str, provider: str, service: str) -> None:
    """A person found it at another provider than the one that was thought of."""
    values = {"provider": provider, "service": service, "country": ""}
    connection.execute(update(attempts).where(attempts.c.id == attempt_id).values(**values))


def pause_all(connection: Connection, names: Iterable[str], now: datetime) -> None:
    """Nothing is bought anywhere, also at providers that the backup does not know."""
    known = set(connection.execute(select(providers.c.name)).scalars())
    connection.execute(update(providers).values(paused=True, open_until=None, updated_at=now))
    for name in sorted(set(names) - known):
        connection.execute(insert(providers).values(name=name, paused=True, updated_at=now))


def refills_may_be_asked(connection: Connection, now: datetime) -> None:
    """Refills that were about to be asked for count as asked; refills.interrupted ends them."""
    asked = update(refills).where(refills.c.state == "requested")
    connection.execute(asked.values(sent_at=now, claim_token=None, claimed_until=None))


def skip_numbers(connection: Connection) -> None:
    """Leave out the numbers and positions that may have been given since the backup. SQLite only."""
    connection.execute(text("UPDATE sqlite_sequence SET seq = seq + :count"), {"count": NUMBERS_SKIPPED})
    for name in ("position", SKIPPED):
        more = update(sequences).where(sequences.c.name == name)
        if not connection.execute(more.values(value=sequences.c.value + POSITIONS_SKIPPED)).rowcount:
            connection.execute(insert(sequences).values(name=name, value=POSITIONS_SKIPPED))
