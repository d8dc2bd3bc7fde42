"""Columns lose nothing: instants to the microsecond whatever their zone, JSON to the letter, money to the last unit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, insert, select
from sqlalchemy.exc import StatementError

from aggregator.domain.money import MAX_UNITS
from aggregator.storage.database import Database
from aggregator.storage.types import Instant, JsonText

EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12, minutes=-30))
FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)

samples = Table(
    "samples",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("at", Instant),
    Column("document", JsonText),
    Column("units", BigInteger),
)


@pytest_asyncio.fixture
async def store(database: Database) -> AsyncIterator[Database]:
    await database.write(lambda connection: samples.create(connection))
    yield database
    await database.write(lambda connection: samples.drop(connection))


async def kept(store: Database, **values: Any) -> Any:
    """The value as it comes back."""
    ((name, value),) = values.items()
    await store.write(lambda connection: connection.execute(insert(samples).values({name: value})))
    newest = select(samples.c[name]).order_by(samples.c.id.desc()).limit(1)
    return await store.read(lambda connection: connection.execute(newest).scalar_one())


INSTANTS = [
    datetime(2026, 11, 21, 18, 0, tzinfo=UTC),
    datetime(2026, 11, 21, 18, 0, 0, 1, tzinfo=UTC),
    datetime(2026, 11, 21, 18, 0, 0, 999_999, tzinfo=UTC),
    datetime(2026, 11, 21, 8, 0, 0, 123_456, tzinfo=EAST),
    datetime(2026, 11, 21, 8, 0, 0, 123_456, tzinfo=WEST),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    FIRST,
    FIRST + timedelta(microseconds=1),
    LAST - timedelta(microseconds=1),
    LAST,
]


async def test_an_instant_comes_back_the_same_and_in_utc(store: Database) -> None:
    for instant in INSTANTS:
        back = await kept(store, at=instant)
        assert back == instant
        assert back.utcoffset() == timedelta(0)


async def test_instants_sort_by_time_whatever_their_zone(store: Database) -> None:
    noon = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    instants = [LAST, noon, noon.astimezone(EAST) + timedelta(microseconds=1), FIRST, noon.astimezone(WEST)]
    await store.write(lambda c: c.execute(insert(samples), [{"at": instant} for instant in instants]))

    found = await store.read(lambda c: list(c.execute(select(samples.c.at).order_by(samples.c.at)).scalars()))
    until = await store.read(lambda c: list(c.execute(select(samples.c.id).where(samples.c.at <= noon)).scalars()))

    assert found == sorted(instants)
    assert sorted(until) == [2, 4, 5]


async def test_a_naive_instant_never_reaches_the_database(store: Database) -> None:
    with pytest.raises((ValueError, StatementError), match="naive"):
        await kept(store, at=datetime(2026, 11, 21))  # noqa: DTZ001
    naive = select(samples).where(samples.c.at <= datetime(2026, 11, 21))  # noqa: DTZ001
    with pytest.raises((ValueError, StatementError), match="naive"):
        await store.read(lambda connection: connection.execute(naive))


async def test_an_instant_outside_of_the_years_1_to_9999_is_refused(store: Database) -> None:
    with pytest.raises((ValueError, StatementError), match="years 1 to 9999"):
        await kept(store, at=datetime.max.replace(tzinfo=WEST))


DOCUMENTS: list[Any] = [
    {},
    [],
    {"z": 1, "a": 2, "m": {"y": 1, "b": 2}},
    {"emoji": "🦊 ok", "nul": "a\0b", "lone": "\ud800 \udfff", "line": "\u2028"},
    {"\0": "\ud83d"},
    {"big": 2**80, "negative": -(2**63), "deep": [[[[None, True, False, ""]]]]},
    {"price": "120481927710.83", "exact": 0.1},
    "just text",
    "\0",
    0,
    False,
    "x" * 1_000_000,
]


async def test_json_comes_back_the_same(store: Database) -> None:
    for document in DOCUMENTS:
        back = await kept(store, document=document)
        assert back == document
        assert type(back) is type(document)
        if isinstance(document, dict):
            assert list(back) == list(document)


async def test_a_number_that_json_has_not_is_refused(store: Database) -> None:
    for number in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises((ValueError, StatementError), match="JSON"):
            await kept(store, document={"rate": number})


async def test_nothing_is_nothing(store: Database) -> None:
    assert await kept(store, at=None) is None
    assert await kept(store, document=None) is None


async def test_money_is_exact_at_every_size(store: Database) -> None:
    for units in (0, 1, -1, MAX_UNITS, -MAX_UNITS, MAX_UNITS - 1, 2**53 + 1):
        back = await kept(store, units=units)
        assert back == units
        assert type(back) is int
