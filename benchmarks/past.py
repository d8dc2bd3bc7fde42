"""Finished orders by the hundred thousand, for what is measured on a large database: made by the database itself, in
the columns that every schema has had since 0001.

Nine of ten were bought and completed (some are product orders with accounts, some rented numbers, some had a refill),
one failed; all have their events, a delivery each, their lines in the ledger and a key. What they say keeps the
promises of aggregator/storage/invariants.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection

EPOCH: Final = datetime(2025, 1, 1, tzinfo=UTC)
EVENTS: Final = 3
"""Of an order that was bought; a failed one has one less."""
KINDS: Final = 100
"""After so many orders their kinds come again."""
_CANDIDATE: Final = (
    '{"provider": "smmcheap", "service": "2", "eligible": true, "reason": "eligible, dearer by 0.05 USD",'
    ' "cost": {"amount": "0.95", "currency": "USD"}}'
)
_CANDIDATES: Final = f"[{_CANDIDATE}, {_CANDIDATE}, {_CANDIDATE}]"


class Past:
    """Writes orders, the one of number n made n times `every_s` seconds after EPOCH."""

    def __init__(self, connection: Connection, *, old_keys: bool, every_s: int = 1) -> None:
        self._connection = connection
        self._every_s = every_s
        self._sqlite = connection.dialect.name == "sqlite"
        self._old_keys = old_keys

    def write(self, first: int, last: int) -> None:
        numbers = f"WITH RECURSIVE n(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM n WHERE n < {last})"
        if not self._sqlite:
            numbers = f"WITH n(n) AS (SELECT generate_series({first}, {last}))"
        at, kind = self._at, self._kind
        bought, key = "n % 10 <> 0", self._bytes("n")
        state = "CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END"
        link = f"CASE WHEN {kind} = 'smm' THEN 'https://instagram.com/user' || n END"
        self._insert(
            "orders",
            numbers,
            "n",
            number="n",
            id="'ord_' || n",
            owner="'shop'",
            service="'ig-followers'",
            kind=kind,
            state=state,
            quantity="CASE WHEN n % 100 IN (1, 3) THEN 1 ELSE 1000 END",
            link=link,
            params="'{}'",
            reference="'shop-' || n",
            metadata="'{}'",
            provider=f"CASE WHEN {bought} THEN 'smmplus' END",
            provider_service=f"CASE WHEN {bought} THEN '1' END",
            provider_order=f"CASE WHEN {bought} THEN {self._text('n + 700000')} END",
            attempt=f"CASE WHEN {bought} THEN 'att_' || n END",
            expected_units=f"CASE WHEN {bought} THEN 90000000 END",
            expected_currency=f"CASE WHEN {bought} THEN 'USD' END",
            charge_units=f"CASE WHEN {bought} AND {kind} <> 'sms' THEN 27000000 + n % 1000 END",
            charge_currency=f"CASE WHEN {bought} AND {kind} <> 'sms' THEN 'USD' END",
            start_count=f"CASE WHEN {bought} THEN n % 5000 END",
            remains=f"CASE WHEN {bought} THEN 0 END",
            error_type="CASE WHEN n % 10 = 0 THEN 'no-offer' END",
            created_at=at(0),
            updated_at=at(600),
            finished_at=at(600),
            sequence=f"CASE WHEN {bought} THEN {EVENTS} ELSE 2 END",
            version="3",
        )
        self._insert(
            "attempts",
            numbers,
            bought,
            id="'att_' || n",
            order_number="n",
            ordinal="1",
            round="0",
            state="'placed'",
            provider="'smmplus'",
            service="'1'",
            expected_units="90000000",
            expected_currency="'USD'",
            cost_units="90000000",
            cost_currency="'USD'",
            candidates=f"'{_CANDIDATES}'",
            outcome="'placed'",
            detail="'placed as ' || (n + 700000)",
            provider_order=self._text("n + 700000"),
            created_at=at(0),
            sent_at=at(1),
            finished_at=at(1),
        )
        for place, (word, condition) in enumerate(
            (("accepted", "1 = 1"), ("placed", bought), ("completed", bought)), start=1
        ):
            self._event(numbers, place, f"'order.{word}'", condition)
        self._event(numbers, 2, "'order.failed'", "n % 10 = 0", given=3)
        self._insert(
            "deliveries",
            f"{numbers}, e AS (SELECT seq, lane, created_at FROM events"
            f" WHERE seq BETWEEN {first * EVENTS - 2} AND {last * EVENTS})",
            "1 = 1",
            source="e",
            event_seq="seq",
            endpoint="'shop'",
            lane="lane",
            state="'delivered'",
            tries="1",
            last_status="204",
            last_ms="12",
            created_at="created_at",
            finished_at="created_at",
        )
        self._insert(
            "numbers",
            numbers,
            "n % 100 = 3",
            id="n",
            order_number="n",
            provider="'smmplus'",
            provider_order=self._text("n + 700000"),
            phone="'1555' || n",
            country="'us'",
            state="'received'",
            codes='\'[{"code": "1234", "text": "1234 is your code", "received_at": "2025-01-01T00:00:00.000Z"}]\'',
            created_at=at(0),
        )
        self._insert(
            "accounts",
            numbers,
            "n % 100 = 1",
            order_number="n",
            ordinal="0",
            sealed=key,
            delivered_at=at(600),
        )
        self._insert(
            "refills",
            numbers,
            "n % 100 = 2",
            number="n",
            id="'ref_' || n",
            order_number="n",
            provider="'smmplus'",
            state="'completed'",
            provider_refill=self._text("n + 50000"),
            dropped="50",
            requested_at=at(600),
            sent_at=at(600),
            finished_at=at(600),
        )
        self._insert(
            "ledger",
            numbers,
            bought,
            provider="'smmplus'",
            kind="'charge'",
            units=f"CASE WHEN {kind} = 'sms' THEN -90000000 ELSE -27000000 - n % 1000 END",
            currency="'USD'",
            order_number="n",
            number_id=f"CASE WHEN {kind} = 'sms' THEN n END",
            note="'expected'",
            at=at(1),
        )
        if self._old_keys:
            fingerprint = "substr('0000000000000000000000000000000000000000000000000000000000000000', 1, 64)"
            given = {"owner": "'shop'", "key": "'key-' || n", "fingerprint": fingerprint}
            answer = {"status": "201", "body": "'{\"id\":\"ord_' || n || '\"}'"}
        else:
            given, answer = {"digest": key, "fingerprint": key}, {}
        self._insert("idempotency_keys", numbers, "1 = 1", **given, **answer, order_number="n", created_at=at(0))
        self._moved_on(last)

    _kind: Final = "CASE WHEN n % 100 = 1 THEN 'product' WHEN n % 100 = 3 THEN 'sms' ELSE 'smm' END"

    def _event(self, numbers: str, place: int, word: str, condition: str, given: int | None = None) -> None:
        seq = f"(n - 1) * {EVENTS} + {given or place}"
        order = (
            '\'{"id":"ord_\' || n || \'","number":\' || n || \',"service":"ig-followers","kind":"smm",\''
            ' || \'"link":"https://instagram.com/user\' || n || \'","quantity":1000,"reference":"shop-\' || n || \'",\''
            ' || \'"metadata":{},"provider":"smmplus","expected_cost":{"amount":"0.90","currency":"USD"},\''
            ' || \'"charge":null,"start_count":null,"remains":0,"parent":null,"children":[],"refills":[],\''
            ' || \'"numbers":[],"cancel":null,"error":null,"created_at":"2025-01-01T00:00:00.000Z"}\''
        )
        body = (
            f'\'{{"type":"\' || {word} || \'","timestamp":"2025-01-01T00:00:00.000Z","data":{{"order":\''
            f" || {order} || ',\"sequence\":{place}}}}}'"
        )
        self._insert(
            "events",
            numbers,
            condition,
            seq=seq,
            id=f"'evt_' || ({seq})",
            position=seq,
            order_number="n",
            sequence=str(place),
            type=word,
            lane="'o' || n",
            body=body,
            created_at=self._at((place - 1) * 300),
        )

    def _moved_on(self, last: int) -> None:
        """What the counters of a database say that has lived so."""
        execute = self._connection.exec_driver_sql
        execute("DELETE FROM sequences WHERE name IN ('position', 'positions_removed')")
        # A failed order leaves one position out; they count as removed.
        execute(f"INSERT INTO sequences (name, value) VALUES ('position', {last * EVENTS})")
        execute("DELETE FROM sequences WHERE name = 'positions_removed'")
        execute(f"INSERT INTO sequences (name, value) VALUES ('positions_removed', {last // 10})")
        if not self._sqlite:
            for table, column, value in (
                ("orders", "number", last),
                ("events", "seq", last * EVENTS),
                ("numbers", "id", last),
                ("refills", "number", last),
            ):
                execute(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), {value})")

    def _insert(self, table: str, numbers: str, condition: str, *, source: str = "n", **columns: str) -> None:
        condition = "1 = 1" if condition == "n" else condition
        names = ", ".join(f'"{name}"' for name in columns)
        statement = f"{numbers} SELECT {', '.join(columns.values())} FROM {source} WHERE {condition}"
        self._connection.exec_driver_sql(f"INSERT INTO {table} ({names}) {statement}")

    def _at(self, later_s: int) -> str:
        seconds = f"({int(EPOCH.timestamp()) + later_s} + n * {self._every_s})"
        return f"{seconds} * 1000000" if self._sqlite else f"to_timestamp({seconds})"

    def _text(self, number: str) -> str:
        return f"CAST({number} AS TEXT)"

    def _bytes(self, number: str) -> str:
        if self._sqlite:
            return f"CAST(printf('%016d', {number}) AS BLOB)"
        return f"convert_to(lpad(CAST({number} AS TEXT), 16, '0'), 'UTF8')"
