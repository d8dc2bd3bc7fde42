"""Rented numbers: codes come once, an end does not take a code back, and the order follows its numbers."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.events import Draft
from aggregator.domain.money import Money
from aggregator.domain.numbers import (
    MOST_REPEATS,
    Code,
    Message,
    Number,
    NumberReport,
    NumberState,
    apply_report,
    order_state,
)
from aggregator.domain.orders import FINAL, OrderState
from tests.support.examples import NOW, a_number, later

N = NumberState


def after(*reports: NumberReport, number: Number | None = None) -> Number:
    number = number or a_number()
    for seconds, report in enumerate(reports):
        number = apply_report(number, report, later(seconds))[0]
    return number


def types(number: Number, report: NumberReport) -> list[str]:
    return [event.type for event in apply_report(number, report, later(99))[1]]


def test_a_code_makes_the_number_received_and_is_told_in_a_lane_of_its_own() -> None:
    number, events = apply_report(a_number(), NumberReport(code="1234", text="Your code: 1234"), later(5))

    assert number.state is N.RECEIVED
    assert number.codes == (Code("1234", "Your code: 1234", later(5)),)
    assert [(event.type, event.lane) for event in events] == [("sms.code", "n7")]
    assert events[0].data == {
        "number": {"phone": "15550100", "provider_order": "o-7"},
        "code": {"code": "1234", "text": "Your code: 1234", "received_at": "2026-11-21T18:00:05.000Z"},
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NumberReport(code="1234", text="hello 1234"), NumberReport(code="1234", text="hello 1234")),
        (NumberReport(code="1234"), NumberReport(code="1234", text="hello 1234")),
        (NumberReport(code="1234", text="hello 1234"), NumberReport(code="1234")),
        (NumberReport(code="1234"), NumberReport(state=N.RECEIVED, code="1234")),
    ],
)
def test_the_same_code_asked_in_two_ways_is_told_once(first: NumberReport, second: NumberReport) -> None:
    number = after(first)
    assert types(number, second) == []
    assert len(after(second, number=number).codes) == 1


def test_another_code_is_another_event() -> None:
    number = after(NumberReport(code="1234", text="a"))
    assert types(number, NumberReport(code="5678", text="b")) == ["sms.code"]
    number = after(NumberReport(code="1234", text="a"), NumberReport(code="5678", text="b"))
    assert types(number, NumberReport(code="1234", text="the first one again")) == ["sms.code"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NumberReport(code="1234", text="1234 came 5 s ago"), NumberReport(code="1234", text="1234 came 12 s ago")),
        (NumberReport(code="1234", text="Code 1234"), NumberReport(code="1234", text="<#> Code 1234")),
        (NumberReport(code="123 456"), NumberReport(code="123456")),
        (NumberReport(code="123-456"), NumberReport(code="123456")),
        (NumberReport(code="012345"), NumberReport(code="12345")),
        (NumberReport(code="1234"), NumberReport(state=N.RECEIVED, text="your code 12-34")),
        (NumberReport(code="1234", text="1234 or 5678"), NumberReport(state=N.RECEIVED, text="1234  or 5678")),
        (
            NumberReport(state=N.RECEIVED, text="1234 or 5678, 5 s ago"),
            NumberReport(state=N.RECEIVED, text="1234 or 5678, 11 s ago"),
        ),
    ],
)
def test_the_same_message_in_another_dress_is_told_once(first: NumberReport, second: NumberReport) -> None:
    assert len(after(first).codes) == 1
    assert types(after(first), second) == []


def test_a_text_without_a_code_is_told_where_the_provider_says_that_it_came() -> None:
    number, events = apply_report(a_number(), NumberReport(state=N.RECEIVED, text="1234 or 5678"), later(5))
    assert number.codes == (Code("", "1234 or 5678", later(5)),)
    assert (number.state, [event.type for event in events]) == (N.RECEIVED, ["sms.code"])
    assert types(number, NumberReport(state=N.RECEIVED, text="4321 or 8765")) == ["sms.code"]
    for state in (None, N.WAITING, N.EXPIRED):
        assert after(NumberReport(state=state, text="1234 or 5678")).codes == ()


def test_the_same_code_at_a_later_time_of_the_provider_is_another_one() -> None:
    number = after(NumberReport(code="1234", code_at=later(1)))
    assert types(number, NumberReport(code="1234", code_at=later(1))) == []
    assert types(number, NumberReport(code="1234")) == []
    assert types(number, NumberReport(code="1234", code_at=later(60))) == ["sms.code"]


def test_a_list_of_codes_is_cumulative() -> None:
    both = (Message("1234"), Message("5678"))
    number = after(NumberReport(code="5678", messages=both))
    assert [code.code for code in number.codes] == ["1234", "5678"]
    assert types(number, NumberReport(code="5678", messages=both)) == []
    assert types(number, NumberReport(code="1234", messages=(*both, Message("1234")))) == ["sms.code"]
    assert types(number, NumberReport(code="1234", messages=both[::-1])) == []


def test_two_ways_to_ask_that_show_different_codes_tell_each_once() -> None:
    """One shows the newest code, the other stays at the first: at every check again."""
    number = a_number()
    told: list[Draft] = []
    for newest in ("1111", "2222", "2222", "1111", "1111"):
        for source, code in (("code", newest), ("status", "1111")):
            number, events = apply_report(number, NumberReport(code=code), later(len(told)), source=source)
            told += events
    assert [code.code for code in number.codes] == ["1111", "2222", "1111"]
    assert len(told) == 3


def test_codes_shown_by_turns_come_to_an_end() -> None:
    number = after(*(NumberReport(code=str(1111 * (1 + turn % 2))) for turn in range(40)))
    assert len(number.codes) == 2 * MOST_REPEATS


def test_a_code_after_the_expiry_is_still_kept_and_told() -> None:
    expired = after(NumberReport(state=N.EXPIRED))
    number, events = apply_report(expired, NumberReport(state=N.EXPIRED, code="1234"), later(9))
    assert number.state is N.RECEIVED
    assert [event.type for event in events] == ["sms.code"]


def test_a_code_that_comes_with_the_expiry_wins() -> None:
    number, events = apply_report(a_number(), NumberReport(state=N.EXPIRED, code="1234"), later(9))
    assert number.state is N.RECEIVED
    assert [event.type for event in events] == ["sms.code"]


@pytest.mark.parametrize("state", [N.WAITING, N.EXPIRED, N.CANCELED])
def test_a_received_code_is_never_taken_back(state: NumberState) -> None:
    received = after(NumberReport(code="1234"))
    assert after(NumberReport(state=state), number=received) == received
    assert types(received, NumberReport(state=state)) == []


def test_received_without_a_code_waits_for_the_code() -> None:
    number, events = apply_report(a_number(), NumberReport(state=N.RECEIVED), later(1))
    assert (number.state, events) == (N.WAITING, ())


def test_an_expiry_is_told_once() -> None:
    assert types(a_number(), NumberReport(state=N.EXPIRED)) == ["sms.expired"]
    assert types(after(NumberReport(state=N.EXPIRED)), NumberReport(state=N.EXPIRED)) == []


def test_a_cancellation_is_no_expiry() -> None:
    assert types(a_number(), NumberReport(state=N.CANCELED)) == []
    canceled = after(NumberReport(state=N.CANCELED))
    assert canceled.state is N.CANCELED
    assert after(NumberReport(state=N.EXPIRED), number=canceled).state is N.CANCELED


def test_an_empty_report_changes_nothing() -> None:
    known = a_number(charge=Money(5, "USD"), expires_at=later(600), codes=(Code("1", "t", NOW),), state=N.RECEIVED)
    for report in (NumberReport(), NumberReport(code="", text="", phone="")):
        assert apply_report(known, report, later(1)) == (known, ())


def test_what_becomes_known_is_kept() -> None:
    number = after(
        NumberReport(phone="15550199", charge=Money(0, "USD"), expires_at=later(600)), number=a_number(phone="")
    )
    assert (number.phone, number.charge, number.expires_at) == ("15550199", Money(0, "USD"), later(600))


reports = st.builds(
    NumberReport,
    state=st.one_of(st.none(), st.sampled_from(N)),
    phone=st.sampled_from([None, "", "15550100"]),
    code=st.sampled_from([None, "", "1234", "5678"]),
    text=st.sampled_from([None, "", "a", "b"]),
    charge=st.one_of(st.none(), st.just(Money(5, "USD"))),
    expires_at=st.one_of(st.none(), st.just(later(600))),
)


@given(st.lists(reports, max_size=8))
def test_a_report_applied_twice_changes_and_tells_nothing(history: list[NumberReport]) -> None:
    number = a_number()
    for seconds, report in enumerate(history):
        number, _ = apply_report(number, report, later(seconds))
        assert apply_report(number, report, later(seconds + 0.5)) == (number, ())


@given(st.lists(reports, max_size=12))
def test_over_any_history_codes_only_grow_and_each_is_told_once(history: list[NumberReport]) -> None:
    number, told = a_number(), 0
    for seconds, report in enumerate(history):
        before = number
        number, events = apply_report(before, report, later(seconds))
        assert number.codes[: len(before.codes)] == before.codes
        assert (number.state is N.RECEIVED) == bool(number.codes)
        told += sum(event.type == "sms.code" for event in events)
    assert told == len(number.codes)


@pytest.mark.parametrize(
    "states", [states for size in range(4) for states in combinations_with_replacement(sorted(N), size)]
)
def test_the_order_follows_its_numbers(states: tuple[NumberState, ...]) -> None:
    order = order_state(a_number(state=state) for state in states)

    received = states.count(N.RECEIVED)
    if not states or N.WAITING in states:
        assert order is OrderState.IN_PROGRESS
    elif received == len(states):
        assert order is OrderState.COMPLETED
    else:
        assert order is (OrderState.PARTIAL if received else OrderState.CANCELED)
        assert order in FINAL
