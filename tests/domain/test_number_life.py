"""Every life of rented numbers that reports can make, in any order and repeated: what must hold in all of them."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.domain.money import Money
from aggregator.domain.numbers import Code, Number, NumberReport, NumberState, apply_report, order_state
from aggregator.domain.orders import OrderState
from tests.support.examples import NOW, a_number

N = NumberState
reports = st.builds(
    NumberReport,
    state=st.one_of(st.none(), st.sampled_from(sorted(N))),
    phone=st.sampled_from((None, "", "15550100", "15550101")),
    code=st.sampled_from((None, "", "1111", "2222", "3333")),
    text=st.sampled_from((None, "", "your code", "another text")),
    charge=st.one_of(st.none(), st.integers(0, 10**9).map(lambda units: Money(units, "USD"))),
    expires_at=st.one_of(st.none(), st.integers(0, 600).map(lambda seconds: NOW + timedelta(seconds=seconds))),
)


class NumberLife(RuleBasedStateMachine):
    """A few numbers of one order, and providers that say anything of them."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[Number] = []
        self.at: datetime = NOW
        self.told: Counter[str] = Counter()
        self.expired: Counter[int] = Counter()

    @initialize(count=st.integers(1, 3))
    def rent(self, count: int) -> None:
        self.numbers = [a_number(id=n, number=n, provider_order=f"o-{n}") for n in range(1, count + 1)]

    @rule(which=st.integers(0, 2), report=reports)
    def a_report_comes(self, which: int, report: NumberReport) -> None:
        place = which % len(self.numbers)
        before = self.numbers[place]
        self.at += timedelta(seconds=1)
        after, events = apply_report(before, report, self.at)
        assert apply_report(after, report, self.at + timedelta(seconds=1)) == (after, ()), "the same report told twice"
        self._nothing_is_taken_back(before, after)
        codes = [event for event in events if event.type == "sms.code"]
        assert len(codes) == len(after.codes) - len(before.codes)
        assert all(event.lane == f"n{before.number}" for event in codes)
        self.expired[before.number] += sum(event.type == "sms.expired" for event in events)
        self.told[before.provider_order] += len(codes)
        self.numbers[place] = after

    @staticmethod
    def _nothing_is_taken_back(before: Number, after: Number) -> None:
        kept: tuple[Code, ...] = after.codes[: len(before.codes)]
        assert kept == before.codes
        assert before.state is not N.RECEIVED or after.state is N.RECEIVED
        assert before.state is N.WAITING or after.state is not N.WAITING
        assert after.phone or not before.phone
        assert after.charge is not None or before.charge is None
        assert after.expires_at is not None or before.expires_at is None

    @invariant()
    def a_code_is_told_once(self) -> None:
        for number in self.numbers:
            assert self.told[number.provider_order] == len(number.codes)
            assert len(set(number.codes)) == len(number.codes)

    @invariant()
    def a_number_that_has_a_code_is_received_and_no_other(self) -> None:
        assert all((number.state is N.RECEIVED) == bool(number.codes) for number in self.numbers)

    @invariant()
    def an_end_without_a_code_is_told_once(self) -> None:
        assert all(count <= 1 for count in self.expired.values())

    @invariant()
    def the_order_follows_its_numbers(self) -> None:
        states = [number.state for number in self.numbers]
        state = order_state(self.numbers)
        if not states or N.WAITING in states:
            assert state is OrderState.IN_PROGRESS
        elif all(one is N.RECEIVED for one in states):
            assert state is OrderState.COMPLETED
        else:
            assert state is (OrderState.PARTIAL if N.RECEIVED in states else OrderState.CANCELED)


TestNumberLife = NumberLife.TestCase
TestNumberLife.settings = settings(max_examples=60, stateful_step_count=30)
