"""Instants: aware or refused, UTC, written as RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.clock import ManualClock, SystemClock, parse_rfc3339, require_utc, rfc3339

offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


class _NoOffset(tzinfo):
    """A zone that does not know its offset: its datetimes are as naive as those without a zone."""

    def utcoffset(self, when: datetime | None) -> None:
        return None

    def dst(self, when: datetime | None) -> None:
        return None

    def tzname(self, when: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    "naive",
    [datetime(2026, 11, 21), datetime.min, datetime.max, datetime(2026, 11, 21, tzinfo=_NoOffset())],  # noqa: DTZ001, DTZ901
)
def test_a_naive_datetime_is_refused(naive: datetime) -> None:
    with pytest.raises(ValueError, match="naive"):
        require_utc(naive)
    with pytest.raises(ValueError, match="naive"):
        rfc3339(naive)
    with pytest.raises(ValueError, match="naive"):
        ManualClock(naive)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=offsets))  # noqa: DTZ001
def test_any_zone_becomes_the_same_instant_in_utc(value: datetime) -> None:
    instant = require_utc(value)
    assert instant == value
    assert instant.utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"])
def test_an_instant_outside_of_the_years_1_to_9999_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 11, 21, 18, 0, tzinfo=UTC), "2026-11-21T18:00:00.000Z"),
        (datetime(2026, 11, 21, 18, 0, 0, 999_999, tzinfo=UTC), "2026-11-21T18:00:00.999Z"),
        (datetime(2026, 11, 21, 20, 30, tzinfo=timezone(timedelta(hours=2, minutes=30))), "2026-11-21T18:00:00.000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999Z"),
    ],
)
def test_instants_are_written_in_utc_with_milliseconds(value: datetime, text: str) -> None:
    assert rfc3339(value) == text


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=offsets))  # noqa: DTZ001
def test_what_is_written_is_read_back_to_the_millisecond(value: datetime) -> None:
    instant = parse_rfc3339(rfc3339(value))
    assert timedelta(0) <= value - instant < timedelta(milliseconds=1)


@pytest.mark.parametrize("text", ["2026-11-21T18:00:00Z", "2026-11-21t18:00:00z", " 2026-11-21T20:00:00+02:00 "])
def test_the_usual_spellings_are_read(text: str) -> None:
    assert parse_rfc3339(text) == datetime(2026, 11, 21, 18, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-11-21", "2026-11-21T18:00:00", "1700000000", "2026-13-01T00:00:00Z"]
)
def test_what_names_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are Python's own
        parse_rfc3339(text)


def test_the_machines_clock_is_aware_and_its_spans_only_grow() -> None:
    clock = SystemClock()
    before, began = clock.now(), clock.monotonic()
    assert before.utcoffset() == timedelta(0)
    assert clock.monotonic() >= began


def test_a_manual_clock_moves_only_when_told(clock: ManualClock) -> None:
    start = clock.now()
    assert clock.now() == start
    clock.advance(90.5)
    assert clock.now() == start + timedelta(seconds=90.5)
    assert clock.monotonic() == 90.5
