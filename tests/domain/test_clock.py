"""Instants: aware or refused, UTC, written as RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.clock import TOLERANCE, ManualClock, SteadyClock, parse_rfc3339, require_utc, rfc3339

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
    clock = SteadyClock()
    before, began = clock.now(), clock.monotonic()
    assert before.utcoffset() == timedelta(0)
    assert abs(before - datetime.now(UTC)) < TOLERANCE
    assert clock.monotonic() >= began
    assert clock.jump == timedelta(0)


class _Machine:
    """A machine whose wall clock can be set."""

    def __init__(self) -> None:
        self.elapsed = 100.0
        self.set_by = timedelta(0)
        self.clock = SteadyClock(self._wall, lambda: self.elapsed)

    def _wall(self) -> datetime:
        return datetime(2026, 11, 21, 18, tzinfo=UTC) + timedelta(seconds=self.elapsed) + self.set_by


@pytest.mark.parametrize("jump", [timedelta(hours=1), -timedelta(hours=1), TOLERANCE + timedelta(seconds=1)])
def test_a_jump_is_held_back_until_it_is_followed(jump: timedelta) -> None:
    machine = _Machine()
    before = machine.clock.now()
    machine.set_by = jump
    machine.elapsed += 5
    assert machine.clock.now() == before + timedelta(seconds=5)
    assert machine.clock.jump == jump
    machine.elapsed += 5
    machine.clock.follow(jump)
    assert machine.clock.now() == before + timedelta(seconds=10) + jump
    assert machine.clock.jump == timedelta(0)


def test_a_jump_that_is_taken_back_before_it_was_followed_never_was() -> None:
    machine = _Machine()
    before = machine.clock.now()
    machine.set_by = timedelta(hours=1)
    assert machine.clock.now() == before
    machine.set_by = timedelta(0)
    assert machine.clock.jump == timedelta(0)
    assert machine.clock.now() == before


def test_small_corrections_are_followed_at_once_however_many() -> None:
    machine = _Machine()
    before = machine.clock.now()
    for _ in range(60):
        machine.set_by += timedelta(seconds=1)
        assert machine.clock.now() - before == machine.set_by
        assert machine.clock.jump == timedelta(0)


def test_a_thread_that_was_held_up_between_the_two_clocks_sees_no_jump() -> None:
    delays = [0.0, 0.0, 7.0, 0.0, 0.0, 0.0]
    elapsed = 0.0

    def monotonic() -> float:
        nonlocal elapsed
        elapsed += delays.pop(0) if delays else 0.0
        return elapsed

    clock = SteadyClock(lambda: datetime(2026, 11, 21, tzinfo=UTC) + timedelta(seconds=elapsed), monotonic)
    assert clock.jump == timedelta(0)


def test_a_manual_clock_moves_only_when_told(clock: ManualClock) -> None:
    start = clock.now()
    assert clock.now() == start
    clock.advance(90.5)
    assert clock.now() == start + timedelta(seconds=90.5)
    assert clock.monotonic() == 90.5
