"""What belongs to orders: the ledger's bookings, idempotency keys, delivered accounts, refills and rented numbers."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from aggregator.domain.errors import ClaimLost
from aggregator.domain.ids import OrderId, RefillId
from aggregator.domain.money import MAX_UNITS, Money
from aggregator.domain.numbers import Code, Number, NumberState, Place
from aggregator.domain.orders import OrderState
from aggregator.storage import deliverables, idempotency, ledger, numbers, refills
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer, SealingError, load_or_create_key
from aggregator.storage.idempotency import Entry, Stored, fingerprint
from tests.support import rows
from tests.support.examples import NOW, later

SEALER = Sealer("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")


# --- the ledger


async def test_a_charge_is_booked_by_its_changes_and_once(database: Database) -> None:
    order = await database.write(lambda c: rows.buy(c, rows.accept(c)))
    charges = ["0.30", "0.30", "0.27", "0.27", "0.50", "0"]

    def says(connection: Connection, amount: str) -> None:
        ledger.book_charge(connection, "smmplus", order.number, Money.parse(amount, "USD"), NOW)

    for amount in charges:
        await database.write(lambda c, a=amount: says(c, a))  # type: ignore[misc]
    booked = await database.read(lambda c: ledger.page(c, "smmplus", before=None, limit=10))
    assert [(row["kind"], row["units"]) for row in reversed(booked)] == [
        ("charge", -30_000_000),
        ("refund", 3_000_000),
        ("charge", -23_000_000),
        ("refund", 50_000_000),
    ]
    assert await database.read(lambda c: ledger.charged(c, order.number, "USD")) == 0


async def test_the_largest_amounts_are_booked_exactly(database: Database) -> None:
    def work(connection: Connection) -> None:
        for units in (MAX_UNITS, -MAX_UNITS, 0):
            ledger.add(connection, "smmplus", "reading", Money(units, "USD"), NOW)

    await database.write(work)
    found = await database.read(lambda c: ledger.page(c, "smmplus", before=None, limit=2))
    rest = await database.read(lambda c: ledger.page(c, "smmplus", before=found[-1]["id"], limit=2))
    assert [row["units"] for row in [*found, *rest]] == [0, -MAX_UNITS, MAX_UNITS]


# --- idempotency keys


async def test_an_answer_is_kept_once_per_caller_and_key(database: Database) -> None:
    order = await database.write(rows.accept)
    first, second = Entry(b"f1", Stored(201, '{"id": "🦊"}')), Entry(b"f2", None, order.number)

    async def keep(owner: str, key: str, entry: Entry) -> bool:
        return await database.write(lambda c: idempotency.keep(c, owner, key, entry, NOW))

    assert await keep("shop", "k", first)
    assert not await keep("shop", "k", second)
    assert await keep("other", "k", second)
    assert await keep("shop", "K", second)
    assert await database.read(lambda c: idempotency.find(c, "shop", "k")) == first
    assert await database.read(lambda c: idempotency.find(c, "other", "k")) == second
    assert await database.read(lambda c: idempotency.find(c, "shop", "unknown")) is None


async def test_of_two_requests_with_one_key_at_the_same_time_one_is_kept(database: Database) -> None:
    """With the key taken, the order of the same transaction must not stay either."""

    class Taken(Exception):
        pass

    def request(connection: Connection, number: int) -> None:
        order = rows.accept(connection, reference=f"try {number}")
        answer = Stored(201, f"try {number}")
        if not idempotency.keep(connection, "shop", "k", Entry(b"f", answer, order.number), NOW):
            raise Taken

    results = await asyncio.gather(
        *(database.write(lambda c, n=number: request(c, n)) for number in range(10)),  # type: ignore[misc]
        return_exceptions=True,
    )

    assert sorted(type(result).__name__ for result in results) == ["NoneType"] + ["Taken"] * 9
    stored = await database.read(lambda c: idempotency.find(c, "shop", "k"))
    references = await database.read(lambda c: list(c.execute(text("SELECT reference FROM orders")).scalars()))
    assert stored is not None
    assert stored.answer is not None
    assert references == [stored.answer.body]


def test_requests_differ_by_method_path_and_every_byte() -> None:
    requests = [
        ("POST", "/v1/orders", b"{}"),
        ("POST", "/v1/orders", b"{ }"),
        ("POST", "/v1/orders:batch", b"{}"),
        ("PUT", "/v1/orders", b"{}"),
        ("POST", "/v1/orders", b"{}\0"),
    ]
    assert len({fingerprint(*request) for request in requests}) == len(requests)


# --- delivered accounts


async def test_accounts_repeated_in_every_status_are_handed_over_once(database: Database) -> None:
    order = await database.write(lambda c: rows.buy(c, rows.accept(c, kind="product")))
    same, last = "user1:pass1", "emoji:🦊\ud800\0"
    for delivered, answer in (
        ([same], (1, 1)),
        ([same], (0, 1)),
        ([same, "user2:pass2"], (1, 2)),
        (["user2:pass2", same], (0, 2)),
        ([same, "user2:pass2", same, last], (2, 4)),
        ([], (0, 4)),
    ):
        told = await database.write(
            lambda c, d=delivered: deliverables.add_new(c, SEALER, order.number, d, NOW)  # type: ignore[misc]
        )
        assert told == answer
    found = await database.read(lambda c: deliverables.read(c, SEALER, order.number))
    assert found == [same, "user2:pass2", same, last]


async def test_an_account_that_is_only_written_differently_is_handed_over_once(database: Database) -> None:
    order = await database.write(lambda c: rows.buy(c, rows.accept(c, kind="product")))
    for delivered, answer in (
        (['{"login": "u", "password": "p"}', "a:b"], (2, 2)),
        (['{"password": "p", "login": "u"}', "a:b "], (0, 2)),
        (['{"password": "p", "login": "u"}', '{"login":"u","password":"p"}', " a:b", "a:b"], (2, 4)),
        (["a:b", "a: b", "{a:b"], (2, 6)),
    ):
        told = await database.write(
            lambda c, d=delivered: deliverables.add_new(c, SEALER, order.number, d, NOW)  # type: ignore[misc]
        )
        assert told == answer
    found = await database.read(lambda c: deliverables.read(c, SEALER, order.number))
    assert found[:2] == ['{"login": "u", "password": "p"}', "a:b"]


async def test_accounts_are_unreadable_in_the_database_and_with_another_key(database: Database) -> None:
    order = await database.write(lambda c: rows.buy(c, rows.accept(c, kind="product")))
    await database.write(lambda c: deliverables.add_new(c, SEALER, order.number, ["user1:pass1"], NOW))
    raw = await database.read(lambda c: c.execute(text("SELECT sealed FROM accounts")).scalar_one())
    assert b"pass1" not in bytes(raw)
    another = Sealer("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")
    with pytest.raises(SealingError, match="give the right one back"):
        await database.read(lambda c: deliverables.read(c, another, order.number))


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    key = load_or_create_key(path)
    assert load_or_create_key(path).strip() == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Sealer(key).open(Sealer(key).seal("x")) == "x"


def test_after_a_change_of_keys_old_accounts_still_open() -> None:
    old, new = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
    sealed = Sealer(old).seal("user1:pass1")
    assert Sealer(f"{new}\n{old}\n").open(sealed) == "user1:pass1"
    with pytest.raises(SealingError):
        Sealer(old).open(Sealer(f"{new}\n{old}").seal("x"))


@pytest.mark.parametrize("keys", ["", "\n", "short", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\nshort", "ключ"])
def test_what_is_no_sealing_key_is_refused(keys: str) -> None:
    with pytest.raises(SealingError, match="32 bytes"):
        Sealer(keys)


# --- refills


async def test_an_order_has_one_open_refill_at_a_time(database: Database) -> None:
    order = await database.write(lambda c: rows.report(c, rows.buy(c, rows.accept(c)), state=OrderState.COMPLETED))

    def ask(connection: Connection, name: str) -> int:
        return refills.add(connection, RefillId(name), order.number, "smmplus", 50, NOW)

    assert await database.write(lambda c: ask(c, "ref_1")) == 1
    with pytest.raises(IntegrityError):
        await database.write(lambda c: ask(c, "ref_2"))
    (row,) = await database.write(
        lambda c: refills.claim_due(c, "smmplus", "requested", NOW, limit=5, lease_s=60, token="mine")
    )
    with pytest.raises(ClaimLost):
        await database.write(lambda c: refills.settle(c, row["number"], "yours", state="rejected", finished_at=NOW))
    await database.write(
        lambda c: refills.settle(c, row["number"], "mine", state="rejected", finished_at=NOW, next_poll_at=None)
    )
    assert await database.write(lambda c: ask(c, "ref_3")) > 1


# --- rented numbers


async def rented(database: Database) -> Number:
    order = await database.write(lambda c: rows.buy(c, rows.accept(c, kind="sms"), rented=["15550100"]))
    found = await database.read(lambda c: numbers.of_orders(c, {order.number: OrderId(order.id)}))
    return found[order.id][0]


async def test_a_number_comes_back_as_it_was_saved(database: Database) -> None:
    before = await rented(database)
    (row,) = await database.write(
        lambda c: numbers.claim_due(c, "smmplus", later(1), limit=5, lease_s=60, token="mine")
    )
    codes = (Code("1234", "Ваш код: 1234 🦊", later(2)), Code("5678", "", later(3)))
    after = Number(
        id=before.id,
        number=before.number,
        order=before.order,
        provider=before.provider,
        provider_order=before.provider_order,
        phone="15550199",
        state=NumberState.WAITING,
        codes=codes,
        charge=Money(MAX_UNITS, "EUR"),
        expires_at=later(600.000001),
        created_at=before.created_at,
        places=(Place("code", 1), Place("status", 0, later(1))),
    )
    await database.write(lambda c: numbers.save(c, after, token="mine", next_check_at=later(9), checks=1))
    number = await database.read(lambda c: numbers.of_orders(c, {row["order_number"]: before.order}))
    assert number[before.order] == (after,)
    assert sorted(number[before.order][0].places, key=str) == sorted(after.places, key=str)
    with pytest.raises(ClaimLost):
        await database.write(lambda c: numbers.save(c, after, token="mine", next_check_at=later(9), checks=1))


async def test_a_number_is_checked_when_it_is_due(database: Database) -> None:
    await rented(database)
    for now, found in ((0.999999, 0), (1, 1), (2, 0), (61, 1)):
        claimed = await database.write(
            lambda c, n=now: numbers.claim_due(c, "smmplus", later(n), limit=5, lease_s=60, token="x")  # type: ignore[misc]
        )
        assert len(claimed) == found
