"""When stored evidence proves that a purchase was made or not made; everything doubtful proves nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.clock import rfc3339
from aggregator.domain.evidence import (
    DEBITS_TO_TRUST,
    Trust,
    Verdict,
    dispensable,
    may_be_refunded,
    moved_late,
    settle_time,
    spoiled,
    verdict,
)
from tests.support.examples import NOW

SETTLE = timedelta(seconds=900)
TRUST = Trust(True, DEBITS_TO_TRUST, SETTLE)
BOUGHT, NOT_BOUGHT, UNDECIDED = Verdict.BOUGHT, Verdict.NOT_BOUGHT, Verdict.UNDECIDED


def reading(after_s: float, shown: str = "unmoved", balance: str = "10.00", *, sharp: bool = True) -> dict[str, Any]:
    at = rfc3339(NOW + timedelta(seconds=after_s))
    return {"kind": "balance", "at": at, "balance": balance, "certain": "10.00", "shown": shown, "sharp": sharp}


def decided(*evidence: dict[str, Any], trust: Trust = TRUST) -> Verdict:
    return verdict(evidence, NOW, trust)


QUIET = (reading(1), reading(60), reading(900), reading(960))


def test_two_readings_after_the_settling_time_prove_not_bought() -> None:
    assert decided(*QUIET) is NOT_BOUGHT
    assert decided(*QUIET[2:]) is NOT_BOUGHT


@pytest.mark.parametrize("unread", [(reading(901), reading(960)), (reading(1), reading(902), reading(960))])
def test_a_balance_that_went_unread_may_have_been_debited_and_refunded_meanwhile(unread: Any) -> None:
    assert decided(*unread) is UNDECIDED


@pytest.mark.parametrize(
    "trust",
    [
        replace(TRUST, exclusive_account=False),
        replace(TRUST, debits_seen=DEBITS_TO_TRUST - 1),
        replace(TRUST, settle=SETTLE + timedelta(seconds=1)),
        replace(TRUST, settle=timedelta(seconds=1000)),
    ],
)
def test_any_condition_that_is_missing_leaves_it_undecided(trust: Trust) -> None:
    assert decided(*QUIET, trust=trust) is UNDECIDED


@pytest.mark.parametrize(
    "evidence",
    [
        (),
        QUIET[:2],
        QUIET[:3],
        (reading(899.999), reading(960)),
        (reading(900), reading(904)),
        (*QUIET, reading(1000, sharp=False, shown="undecided")),
        (*QUIET, reading(1000, shown="undecided")),
        ({"kind": "difference", "at": rfc3339(NOW)}, *QUIET),
        (*QUIET, {"kind": "active_order", "at": rfc3339(NOW)}),
        ({"kind": "verdict", "verdict": "bought", "at": rfc3339(NOW)}, *QUIET),
        ({"kind": "clock", "at": rfc3339(NOW), "forward_s": 3600}, *QUIET),
        ({"kind": "clock", "at": rfc3339(NOW), "forward_s": 0.5}, *QUIET),
    ],
)
def test_too_little_or_contradicting_evidence_proves_nothing(evidence: tuple[dict[str, Any], ...]) -> None:
    assert decided(*evidence) is UNDECIDED


def test_what_a_clock_gained_by_a_jump_is_waited_for_once_more() -> None:
    jumped = ({"kind": "clock", "at": rfc3339(NOW), "forward_s": 3600.0}, reading(4500), reading(4560))
    assert decided(*jumped) is NOT_BOUGHT
    assert decided(jumped[0], *jumped) is UNDECIDED


def test_a_clock_that_is_put_forward_and_back_is_waited_for_no_longer() -> None:
    def clock(forward_s: float) -> dict[str, Any]:
        return {"kind": "clock", "at": rfc3339(NOW), "forward_s": forward_s}

    assert decided(clock(3600), clock(-3600), reading(900), reading(960)) is NOT_BOUGHT
    assert decided(clock(-3600), clock(3600), reading(900), reading(960)) is NOT_BOUGHT
    assert decided(clock(3600), reading(3700), reading(3760), clock(-3600), reading(200)) is UNDECIDED
    assert decided(clock(-3600), reading(-3000), reading(899)) is UNDECIDED
    assert decided(clock(-7200), clock(3600), reading(899), reading(890)) is UNDECIDED


def test_a_debit_proves_bought_whatever_is_known_of_the_provider() -> None:
    assert decided(reading(1, "debited"), trust=Trust(False, 0, SETTLE)) is BOUGHT
    assert decided(*QUIET, reading(1000, "debited", "9.10")) is BOUGHT
    assert decided(reading(1, "debited", sharp=False)) is UNDECIDED


def test_a_debit_that_something_made_good_again_is_no_proof_of_not_bought() -> None:
    """A top-up of the same amount, or a refund that nobody told."""
    assert decided(reading(1), reading(60, "debited", "9.10"), reading(900), reading(960)) is UNDECIDED


def test_money_that_came_before_the_debit_does_not_hide_it() -> None:
    assert decided(reading(60, "undecided", "10.90", sharp=False), reading(900), reading(960)) is UNDECIDED


def test_a_refund_that_is_told_late_spoils_nothing() -> None:
    """The balance stood still while the books caught up."""
    refund = [reading(at, "undecided", "10.90", sharp=False) for at in (60, 120)]
    assert decided(reading(1), *refund, reading(180, balance="10.90"), reading(900), reading(960)) is NOT_BOUGHT
    assert decided(reading(1), *refund, reading(180, balance="10.00"), reading(900), reading(960)) is UNDECIDED


def test_an_unexplained_reading_may_yet_be_explained() -> None:
    open_end = (*QUIET, reading(1000, "undecided", "10.90", sharp=False))
    assert not spoiled(open_end)
    assert spoiled((*open_end, reading(1060, "undecided", "10.95", sharp=False)))


@given(
    st.lists(
        st.tuples(st.sampled_from(["unmoved", "debited", "undecided"]), st.booleans(), st.sampled_from(["10", "9.10"])),
        max_size=8,
    )
)
def test_a_second_purchase_is_never_based_on_a_doubtful_last_word(readings: list[tuple[str, bool, str]]) -> None:
    evidence = [
        reading(800 + 60 * n, shown, balance, sharp=sharp) for n, (shown, sharp, balance) in enumerate(readings)
    ]
    if verdict(evidence, NOW, TRUST) is NOT_BOUGHT:
        assert readings[-1][:2] == ("unmoved", True)
        assert sum(shown == "unmoved" and sharp for shown, sharp, _ in readings) >= 2
        for (shown, sharp, balance), after in pairwise(readings):
            assert (shown, sharp) == ("unmoved", True) or after[2] == balance


@pytest.mark.parametrize(("settle_s", "timeout_s", "waits"), [(900, 30, 900), (90, 30, 90), (10, 30, 90)])
def test_the_settling_time_is_at_least_three_timeouts(settle_s: float, timeout_s: float, waits: float) -> None:
    assert settle_time(settle_s, timeout_s) == timedelta(seconds=waits)


def test_a_debit_after_an_unmoved_reading_came_late() -> None:
    assert moved_late((reading(1), reading(60, "debited")))
    assert not moved_late((reading(1, "debited"), reading(60, "debited")))
    assert not moved_late((reading(1), reading(60)))
    assert not moved_late(())


def test_only_what_never_seemed_bought_has_no_refund() -> None:
    assert not may_be_refunded(())
    assert not may_be_refunded(QUIET)
    assert may_be_refunded((*QUIET, reading(1020, "debited"), reading(1080)))
    assert may_be_refunded((reading(1, "undecided"), *QUIET))
    assert may_be_refunded((reading(1, sharp=False), *QUIET))


def test_of_too_much_evidence_only_readings_that_say_nothing_new_give_way() -> None:
    told = [reading(n) for n in range(3)]
    assert dispensable([reading(0, "debited"), {"kind": "difference"}, *told, *told]) == 2
    assert dispensable([reading(0), {"kind": "difference"}, reading(1, "debited"), *told]) is None
    assert dispensable([reading(0), reading(1)]) is None


def test_a_busy_provider_is_not_out_of_sight_because_readings_gave_way() -> None:
    kept: list[dict[str, Any]] = []
    for after_s in range(0, 3000, 5):
        kept.append(reading(after_s))
        if len(kept) > 50:
            place = dispensable(kept)
            assert place is not None
            del kept[place]
    assert len(kept) == 50
    assert decided(*kept) is NOT_BOUGHT
