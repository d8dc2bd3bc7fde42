"""Identifiers: the layout of a UUIDv7 (RFC 9562 §5.7), and that they sort by birth."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator.domain.ids import new_id, uuid7_hex

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
instants = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(instants)
@example(datetime(2026, 11, 21, 18, 0, 0, 1000, tzinfo=UTC))
@example(datetime(2026, 11, 21, 18, 0, 0, 999_999, tzinfo=UTC))
def test_the_first_48_bits_are_the_millisecond_to_the_letter(now: datetime) -> None:
    assert int(uuid7_hex(now)[:12], 16) == (now - EPOCH) // timedelta(milliseconds=1)


@given(instants, st.integers(0, 2**64))
def test_version_variant_and_length_are_those_of_a_uuid7(now: datetime, seed: int) -> None:
    text = uuid7_hex(now, random.Random(seed).getrandbits)

    assert len(text) == 32
    uuid = UUID(text)
    assert uuid.version == 7
    assert uuid.variant == RFC_4122


@given(instants, st.integers(1, 10**12))
def test_a_later_millisecond_sorts_after(now: datetime, later_ms: int) -> None:
    try:
        later = now + timedelta(milliseconds=later_ms)
    except OverflowError:
        return
    assert new_id("ord", now) < new_id("ord", later)


def test_the_random_bits_fill_all_their_74_places() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    none, all_ = (int(uuid7_hex(now, source), 16) for source in (lambda bits: 0, lambda bits: (1 << bits) - 1))
    assert (none ^ all_).bit_count() == 74


def test_two_ids_of_one_instant_differ() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    assert len({new_id("ord", now) for _ in range(1000)}) == 1000


def test_the_same_random_source_repeats_the_id() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    first, second = (new_id("ord", now, random.Random(7).getrandbits) for _ in range(2))
    assert first == second
    assert first.startswith("ord_")


def test_the_zone_does_not_matter_but_must_be_there() -> None:
    now = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
    elsewhere = now.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
    assert uuid7_hex(now)[:12] == uuid7_hex(elsewhere)[:12]
    with pytest.raises(TypeError):
        uuid7_hex(datetime(2026, 11, 21))  # noqa: DTZ001
