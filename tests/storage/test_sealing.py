"""Changing the key that seals: what an earlier one sealed is found and sealed anew, and no key goes too early."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Connection, delete, select

from aggregator.storage import deliverables, endpoints, idempotency, sealing
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer, SealingError
from aggregator.storage.idempotency import SEALED, Entry, Stored
from aggregator.storage.tables import accounts, idempotency_keys, sealing_keys
from aggregator.storage.tables import endpoints as endpoints_table
from tests.support import rows
from tests.support.examples import NOW, later

OLD, NEW, THIRD = (Fernet.generate_key().decode() for _ in range(3))
BEFORE, BOTH, AFTER = Sealer(OLD), Sealer(f"{NEW}\n{OLD}\n"), Sealer(NEW)


def stored(connection: Connection, sealer: Sealer = BEFORE, count: int = 3) -> None:
    """Something of all that is sealed."""
    order = rows.buy(connection, rows.accept(connection, kind="product", link=None))
    deliverables.add_new(connection, sealer, order.number, [f"user{n}:pass{n}" for n in range(count)], NOW)
    endpoints.create(connection, "made", {}, sealer.seal('[{"value": "whsec_x"}]'), NOW)
    answer = Stored(201, SEALED + sealer.seal('{"secret": "whsec_x"}').decode())
    idempotency.keep(connection, "boss", "k", Entry(b"f", answer), NOW)


def seal_all(connection: Connection, sealer: Sealer, limit: int = 2) -> tuple[int, list[str]]:
    sealed, closed = 0, []
    for kind in sealing.KINDS:
        after = None
        while found := sealing.look(connection, kind, after, limit):
            changed, unopened = sealing.changes(sealer, kind, found)
            sealed += sealing.seal_anew(connection, kind, changed)
            closed += unopened
            after = found[-1]
    return sealed, closed


async def test_all_that_is_sealed_is_sealed_anew_and_opens_with_the_new_key_alone(database: Database) -> None:
    await database.write(stored)
    await database.write(lambda c: sealing.adopt(c, BEFORE, NOW))
    await database.write(lambda c: sealing.adopt(c, BOTH, later(1)))
    assert await database.write(lambda c: seal_all(c, BOTH)) == (5, [])
    assert await database.write(lambda c: seal_all(c, BOTH)) == (0, []), "what is done is not done again"
    assert await database.write(lambda c: sealing.forget_others(c, BOTH.fingerprints[0]))
    await database.write(lambda c: sealing.adopt(c, AFTER, later(2)))

    def opened(connection: Connection) -> list[str]:
        (number,) = connection.execute(select(accounts.c.order_number).distinct()).scalars()
        found = deliverables.read(connection, AFTER, number)
        found.append(AFTER.open(connection.execute(select(endpoints_table.c.secrets)).scalar_one()))
        body = connection.execute(select(idempotency_keys.c.body)).scalar_one()
        return [*found, AFTER.open(body.removeprefix(SEALED).encode())]

    assert await database.read(opened) == [
        *(f"user{n}:pass{n}" for n in range(3)),
        '[{"value": "whsec_x"}]',
        '{"secret": "whsec_x"}',
    ]


async def test_a_key_that_goes_too_early_is_missed_at_the_start(database: Database) -> None:
    """Also when the newest account is sealed with the new key already."""
    await database.write(stored)
    await database.write(lambda c: sealing.adopt(c, BEFORE, NOW))
    await database.write(lambda c: sealing.adopt(c, BOTH, later(1)))

    def more(connection: Connection) -> None:
        order = rows.buy(connection, rows.accept(connection, kind="product", link=None))
        deliverables.add_new(connection, BOTH, order.number, ["new:account"], NOW)

    await database.write(more)
    with pytest.raises(SealingError, match=f"the sealing key {BEFORE.fingerprints[0][:8]} is missing"):
        await database.write(lambda c: sealing.adopt(c, AFTER, later(2)))
    assert await database.read(sealing.needed) == [*BOTH.fingerprints]
    assert not await database.write(lambda c: sealing.forget_others(c, BEFORE.fingerprints[0])), "the new one seals"


async def test_a_database_of_an_earlier_release_needs_every_line_that_it_comes_with(database: Database) -> None:
    await database.write(stored)
    with pytest.raises(SealingError, match="did not seal what is stored"):
        await database.write(lambda c: sealing.adopt(c, AFTER, NOW))
    await database.write(lambda c: sealing.adopt(c, BOTH, NOW))
    with pytest.raises(SealingError, match="is missing"):
        await database.write(lambda c: sealing.adopt(c, AFTER, NOW))


async def test_where_nothing_is_stored_any_key_will_do(database: Database) -> None:
    for sealer in (BEFORE, AFTER, Sealer(THIRD)):
        await database.write(lambda c, s=sealer: sealing.adopt(c, s, NOW))  # type: ignore[misc]
        assert await database.read(sealing.needed) == [sealer.fingerprints[0]]


async def test_what_no_key_opens_is_named_and_left(database: Database) -> None:
    await database.write(stored)
    sealed, closed = await database.write(lambda c: seal_all(c, Sealer(f"{NEW}\n{THIRD}")))
    assert sealed == 0
    assert closed[0].startswith("an account of order ")
    assert len(closed) == 5


async def test_what_was_changed_meanwhile_is_not_overwritten(database: Database) -> None:
    await database.write(stored)
    kind = sealing.KINDS[1]
    found = await database.read(lambda c: sealing.look(c, kind, None, 10))
    changed, _ = sealing.changes(BOTH, kind, found)
    fresh = BOTH.seal('[{"value": "whsec_y"}]')
    await database.write(lambda c: endpoints.save(c, "made", secrets=fresh, updated_at=NOW))
    assert await database.write(lambda c: sealing.seal_anew(c, kind, changed)) == 0
    kept = await database.read(lambda c: c.execute(select(endpoints_table.c.secrets)).scalar_one())
    assert BOTH.open(kept) == '[{"value": "whsec_y"}]'


async def test_no_key_is_in_the_database(database: Database) -> None:
    await database.write(stored)
    await database.write(lambda c: sealing.adopt(c, BOTH, NOW))
    shown = await database.read(lambda c: str(c.execute(select(sealing_keys)).all()))
    assert OLD[:12] not in shown
    assert NEW[:12] not in shown
    await database.write(lambda c: c.execute(delete(sealing_keys)))
