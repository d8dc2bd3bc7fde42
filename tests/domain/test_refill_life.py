"""Every life of an order's refills that rules and providers can make: what must hold in all of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.domain.ids import RefillId
from aggregator.domain.refills import (
    LATER_AT,
    MUCH_LATER,
    NEVER_AGAIN,
    NO_DROP,
    OPEN,
    Refill,
    RefillPolicy,
    RefillState,
    denial,
    drop,
    dropped_enough,
)
from tests.support.examples import NOW, a_completed_order, a_refill, a_refill_policy

R = RefillState
HOUR = timedelta(hours=1)


class RefillLife(RuleBasedStateMachine):
    """Time, losses, wishes and a provider that answers anything."""

    def __init__(self) -> None:
        super().__init__()
        self.order = a_completed_order()
        self.policy: RefillPolicy = a_refill_policy()
        self.now = NOW
        self.refills: list[Refill] = []

    @initialize(
        cooldown=st.integers(0, 48), age=st.integers(0, 24), window=st.sampled_from((0, 1, 30)), most=st.integers(1, 3)
    )
    def configure(self, cooldown: int, age: int, window: int, most: int) -> None:
        self.policy = a_refill_policy(
            cooldown=cooldown * HOUR, min_age=age * HOUR, window=timedelta(days=window), max_refills=most
        )

    @rule(hours=st.floats(0, 60, allow_nan=False))
    def time_passes(self, hours: float) -> None:
        self.now += hours * HOUR

    @rule(remains=st.one_of(st.none(), st.integers(-5, 2000)), count=st.one_of(st.none(), st.integers(0, 5000)))
    def somebody_counts(self, remains: int | None, count: int | None) -> None:
        self.order = replace(self.order, remains=remains, count=count, count_at=self.now if count is not None else None)

    @rule(offered=st.booleans())
    def a_refill_is_wished(self, offered: bool) -> None:
        reason = denial(self.order, self.refills, self.policy, self.now, offered=offered)
        assert reason == denial(self.order, [*reversed(self.refills)], self.policy, self.now, offered=offered)
        if reason is not None:
            return
        assert offered
        number = len(self.refills) + 1
        asked = a_refill(
            id=RefillId(f"ref_{number}"), number=number, state=R.REQUESTED, requested_at=self.now, dropped=1
        )
        self.refills.append(asked)
        assert denial(self.order, self.refills, self.policy, self.now, offered=True) is not None, "asked twice"

    @precondition(lambda self: any(one.state in OPEN for one in self.refills))
    @rule(
        state=st.sampled_from(sorted(RefillState)),
        why=st.sampled_from((LATER_AT, NO_DROP, "later", "never", "window_over")),
    )
    def the_provider_answers(self, state: RefillState, why: str) -> None:
        over = state in (R.COMPLETED, R.REJECTED)
        self.refills[-1] = replace(
            self.refills[-1],
            state=state,
            outcome=why if state is R.REJECTED else None,
            finished_at=self.now if over else None,
        )

    @invariant()
    def one_runs_at_most(self) -> None:
        assert sum(one.state in OPEN for one in self.refills) <= 1

    @invariant()
    def no_two_fall_into_one_cooldown(self) -> None:
        # The one for which the provider named another time began none.
        begun = [one for one in self.refills if one.outcome != LATER_AT]
        for sooner, later in pairwise(begun):
            least = self.policy.cooldown * (MUCH_LATER if sooner.outcome == NO_DROP else 1)
            assert later.requested_at - sooner.requested_at >= least

    @invariant()
    def all_lie_between_the_least_age_and_the_end_of_the_window(self) -> None:
        assert self.order.finished_at is not None
        for one in self.refills:
            assert self.policy.min_age <= one.requested_at - self.order.finished_at <= self.policy.window

    @invariant()
    def none_follows_a_last_word_or_the_last_one(self) -> None:
        for place, one in enumerate(self.refills):
            if one.outcome in NEVER_AGAIN:
                assert place == len(self.refills) - 1
        assert sum(one.state is R.COMPLETED for one in self.refills) <= self.policy.max_refills

    @invariant()
    def a_drop_is_a_part_of_the_order(self) -> None:
        lost = drop(self.order)
        assert lost is None or 0 <= lost <= self.order.quantity
        assert not dropped_enough(self.order, 0, self.policy)


TestRefillLife = RefillLife.TestCase
TestRefillLife.settings = settings(max_examples=60, stateful_step_count=30)
