"""When a provider counts as down, for how long, and what closes it again."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.breaker import CLOSED, FAILURES_TO_OPEN, FIRST_PAUSE, LONGEST_PAUSE, Breaker, failed
from tests.support.examples import NOW


def after(failures: int) -> Breaker:
    """After the first failures at one moment."""
    breaker = CLOSED
    for _ in range(failures):
        breaker = failed(breaker, "timeout", NOW)
    return breaker


def test_a_few_failures_close_nothing_off() -> None:
    breaker = after(FAILURES_TO_OPEN - 1)
    assert not breaker.is_open(NOW)
    assert breaker.down_since is None


def test_the_last_of_consecutive_failures_opens_it() -> None:
    breaker = after(FAILURES_TO_OPEN)
    assert breaker == Breaker(FAILURES_TO_OPEN, NOW, "timeout", NOW + FIRST_PAUSE)
    assert breaker.is_open(NOW)


def test_a_wrong_key_opens_it_at_once() -> None:
    breaker = failed(CLOSED, "Invalid API key", NOW, fatal=True)
    assert breaker.is_open(NOW)
    assert breaker.reason == "Invalid API key"


def test_it_lets_a_call_through_after_the_pause() -> None:
    breaker = after(FAILURES_TO_OPEN)
    assert breaker.is_open(NOW + FIRST_PAUSE - timedelta(microseconds=1))
    assert not breaker.is_open(NOW + FIRST_PAUSE)


def test_each_failure_after_that_doubles_the_pause_up_to_the_longest() -> None:
    pauses = []
    breaker = after(FAILURES_TO_OPEN)
    for _ in range(8):
        assert breaker.open_until is not None
        at = breaker.open_until
        breaker = failed(breaker, "timeout", at)
        assert breaker.open_until is not None
        pauses.append(breaker.open_until - at)
    assert pauses[:4] == [FIRST_PAUSE * 2, FIRST_PAUSE * 4, FIRST_PAUSE * 8, FIRST_PAUSE * 16]
    assert pauses[4:] == [LONGEST_PAUSE] * 4


@given(st.integers(0, 100), st.integers(0, 29))
def test_many_calls_that_fail_together_are_one_outage(more: int, seconds: int) -> None:
    """Ten purchases that were under way when a provider was restarted once kept it closed off for ten minutes."""
    opened = after(FAILURES_TO_OPEN)
    breaker = opened
    for _ in range(more):
        breaker = failed(breaker, "timeout", NOW + timedelta(seconds=seconds))
    assert breaker == opened


def test_what_is_wrong_now_is_told_even_during_the_pause() -> None:
    breaker = failed(after(FAILURES_TO_OPEN), "Invalid API key", NOW, fatal=True)
    assert breaker == Breaker(FAILURES_TO_OPEN, NOW, "Invalid API key", NOW + FIRST_PAUSE)


def test_it_remembers_since_when_it_has_been_down_and_the_newest_reason() -> None:
    later = NOW + timedelta(hours=1)
    breaker = failed(after(FAILURES_TO_OPEN), "refused", later)
    assert (breaker.down_since, breaker.reason) == (NOW, "refused")


def test_a_failure_too_few_to_count_keeps_what_was_known() -> None:
    half_known = Breaker(1, NOW, "before", NOW)
    assert failed(half_known, "after", NOW).reason == "before"


@given(st.lists(st.tuples(st.integers(0, 3600), st.booleans()), max_size=40))
def test_it_is_down_exactly_when_it_has_a_reason_and_never_for_longer_than_the_longest_pause(
    failures: list[tuple[int, bool]],
) -> None:
    breaker, at = CLOSED, NOW
    for seconds, fatal in failures:
        at += timedelta(seconds=seconds)
        breaker = failed(breaker, "down", at, fatal=fatal)
        assert (breaker.down_since is None) is (breaker.reason is None) is (breaker.open_until is None)
        if breaker.open_until is not None:
            assert timedelta(0) < breaker.open_until - at <= LONGEST_PAUSE


def test_after_the_pause_it_is_on_trial_until_a_call_decides() -> None:
    breaker = after(FAILURES_TO_OPEN)
    assert not breaker.on_trial(NOW)
    assert breaker.on_trial(NOW + FIRST_PAUSE)
    assert not failed(breaker, "timeout", NOW + FIRST_PAUSE).on_trial(NOW + FIRST_PAUSE)
    assert not CLOSED.on_trial(NOW)
    assert not after(FAILURES_TO_OPEN - 1).on_trial(NOW)


def test_a_clock_that_is_put_back_does_not_keep_it_open_for_longer() -> None:
    breaker = after(FAILURES_TO_OPEN)
    earlier = NOW - timedelta(days=1)
    assert not breaker.is_open(earlier)
    assert breaker.on_trial(earlier)


@given(st.integers(1, 20), st.integers(-100_000, 100_000))
def test_it_is_never_open_and_on_trial_at_once(failures: int, seconds: int) -> None:
    breaker, at = after(failures), NOW + timedelta(seconds=seconds)
    assert not (breaker.is_open(at) and breaker.on_trial(at))
    assert (breaker.is_open(at) or breaker.on_trial(at)) is (failures >= FAILURES_TO_OPEN)
