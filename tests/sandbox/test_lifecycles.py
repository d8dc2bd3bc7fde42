"""What becomes of orders as time passes: words, remains, refunds, drops and refills; and that a seed decides it all."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal

import pytest

from tests.sandbox.support import Desk

DAY_S = 86_400


def words(desk: Desk, account: str, order: str, *moments: float) -> list[tuple[str, str]]:
    """Status and remains at each age, which must not decrease."""
    found, age = [], 0.0
    for moment in moments:
        desk.clock.tick(moment - age)
        age = moment
        answer = desk.ask(account, "status", order=order)
        found.append((answer["status"], answer["remains"]))
    return found


@pytest.mark.parametrize(
    ("service", "course", "charge"),
    [
        (1, [("Pending", "1000"), ("In progress", "500"), ("Completed", "0")], "0.90"),
        (19, [("Pending", "1000"), ("In progress", "800"), ("Partial", "600")], "0.008"),
        (20, [("Pending", "1000"), ("Canceled", "1000"), ("Canceled", "1000")], "0.00"),
        (22, [("Pending", "1000"), ("In progress", "1000"), ("Fail", "1000")], "0.00"),
    ],
)
def test_each_fate_has_its_course_and_its_final_charge(
    desk: Desk, service: int, course: list[tuple[str, str]], charge: str
) -> None:
    order = desk.buy("smmplus", service, 1000)
    assert words(desk, "smmplus", order, 0, 20, 35) == course
    assert desk.ask("smmplus", "status", order=order)["charge"] == charge
    assert 1000 - Decimal(desk.balance("smmplus")) == Decimal(charge)


def test_a_stuck_order_stays_pending_for_ever_until_canceled(desk: Desk) -> None:
    order = desk.buy("smmplus", 23, 1000)
    assert words(desk, "smmplus", order, 365 * DAY_S) == [("Pending", "1000")]
    desk.ask("smmplus", "cancel", orders=order)
    desk.clock.tick(30)
    assert desk.ask("smmplus", "status", order=order)["status"] == "Canceled"
    assert desk.balance("smmplus") == "1000.00"


def test_a_cancel_takes_effect_later_and_pays_back_the_rest(desk: Desk) -> None:
    order = desk.buy("smmplus", 24, 1000)
    desk.clock.tick(600 + 3570)
    assert desk.ask("smmplus", "cancel", orders=order) == [{"order": int(order), "cancel": 1}]
    assert desk.ask("smmplus", "status", order=order)["status"] == "In progress"
    desk.clock.tick(30)
    found = desk.ask("smmplus", "status", order=order)
    assert (found["status"], found["remains"], found["charge"]) == ("Partial", "500", "0.90")
    assert desk.balance("smmplus") == "999.10"
    desk.clock.tick(DAY_S)
    assert desk.ask("smmplus", "status", order=order)["remains"] == "500"


def test_a_cancel_that_comes_too_late_changes_nothing(desk: Desk) -> None:
    order = desk.buy("smmplus", 1, 1000)
    desk.clock.tick(10)
    desk.ask("smmplus", "cancel", orders=order)
    desk.clock.tick(30)
    assert desk.ask("smmplus", "status", order=order)["status"] == "Completed"
    assert desk.balance("smmplus") == "999.10"


def test_a_drop_shows_in_remains_and_a_refill_mends_it(desk: Desk) -> None:
    order = desk.buy("smmplus", 18, 1000)
    assert words(desk, "smmplus", order, 35, 94, 95) == [("Completed", "0"), ("Completed", "0"), ("Completed", "200")]
    desk.ask("smmplus", "refill", order=order)
    assert desk.ask("smmplus", "refill", order=order) == {"error": "refill already in progress"}
    desk.clock.tick(30)
    assert desk.ask("smmplus", "refill_status", refill=1) == {"status": "In progress"}
    assert desk.ask("smmplus", "status", order=order)["remains"] == "100"
    desk.clock.tick(30)
    assert desk.ask("smmplus", "refill_status", refill=1) == {"status": "Completed"}
    assert desk.ask("smmplus", "status", order=order)["remains"] == "0"
    assert desk.ask("smmplus", "refill", order=order) == {"error": "too soon to refill, wait 24 hours"}
    desk.clock.tick(DAY_S)
    assert desk.ask("smmplus", "refill", order=order) == {"refill": "2"}


def test_a_refill_mends_only_what_had_dropped_before_it(desk: Desk) -> None:
    order = desk.buy("smmplus", 18, 1000)
    desk.clock.tick(95)
    desk.ask("smmplus", "refill", order=order)
    desk.clock.tick(60)
    drops = desk.world.accounts["smmplus"].orders[order].drops
    drops.append(replace(drops[0], at=desk.world.now(), units=70))
    assert desk.ask("smmplus", "status", order=order)["remains"] == "70"


def test_a_rejected_refill_mends_nothing(desk: Desk) -> None:
    order = desk.buy("smmcheap", 7, 1000)
    desk.clock.tick(95)
    assert desk.ask("smmcheap", "refill", order=order) == {"refill": "1"}
    desk.clock.tick(60)
    assert desk.ask("smmcheap", "refill_status", refill=1) == {"status": "Rejected"}
    assert desk.ask("smmcheap", "status", order=order)["remains"] == "200"


@pytest.mark.parametrize(
    ("service", "age_s", "reason"),
    [
        (19, 40, "Service does not support refill"),
        (1, 10, "order is not completed"),
        (1, 35 + 30 * DAY_S + 1, "guarantee_expired"),
    ],
)
def test_a_refill_is_refused_with_its_reason(desk: Desk, service: int, age_s: float, reason: str) -> None:
    order = desk.buy("smmplus", service, 1000)
    desk.clock.tick(age_s)
    assert desk.ask("smmplus", "refill", order=order) == {"error": reason}


def test_a_canceled_order_is_never_refilled(desk: Desk) -> None:
    order = desk.buy("smmplus", 24, 1000)
    desk.ask("smmplus", "cancel", orders=order)
    desk.clock.tick(40)
    assert desk.ask("smmplus", "refill", order=order) == {"error": "order canceled"}


def test_an_account_may_want_age_or_a_drop_before_a_refill(desk: Desk) -> None:
    account = desk.world.accounts["smmplus"]
    account.settings = replace(account.settings, refill_min_age_s=2 * 3600, refill_needs_drop=True)
    order = desk.buy("smmplus", 1, 1000)
    desk.clock.tick(35)
    assert desk.ask("smmplus", "refill", order=order) == {"error": "too soon to refill, wait 2 hours"}
    desk.clock.tick(2 * 3600)
    assert desk.ask("smmplus", "refill", order=order) == {"error": "drop_not_detected"}


def test_the_public_count_follows_delivery_drop_and_refill(desk: Desk) -> None:
    link = "https://example.com/p"
    before = desk.world.links.count(link, desk.world.now())
    order = desk.buy("smmplus", 18, 1000)
    counts = []
    for seconds in (20, 15, 60):
        desk.clock.tick(seconds)
        counts.append(desk.world.links.count(link, desk.world.now()) - before)
    assert counts == [500, 1000, 800]
    assert desk.ask("smmplus", "status", order=order)["start_count"] == str(before)
    second = desk.buy("smmcheap", 1, 100)
    desk.clock.tick(40)
    assert desk.ask("smmcheap", "status", order=second)["start_count"] == str(before + 800)


def fates(seed: int) -> list[str]:
    desk = Desk(seed=seed)
    orders = [desk.buy("smmplus", 21, 100) for _ in range(60)]
    return [desk.world.accounts["smmplus"].orders[order].plan.kind for order in orders]


def test_a_seed_decides_every_fate() -> None:
    assert fates(1) == fates(1)
    assert fates(1) != fates(2)
    assert set(fates(1)) == {"complete", "partial", "cancel", "drop"}


def test_a_fate_does_not_depend_on_the_other_accounts() -> None:
    alone, crowded = Desk(), Desk()
    for _ in range(5):
        crowded.buy("smmcheap", 1, 100)
    ids = [desk.buy("smmplus", 21, 100) for desk in (alone, crowded)]
    plans = [desk.world.accounts["smmplus"].orders[ids[0]].plan for desk in (alone, crowded)]
    assert ids[0] == ids[1]
    assert plans[0] == plans[1]


def test_speed_shortens_lives_and_dates_stay_true() -> None:
    desk = Desk(speed=100)
    order = desk.buy("smmplus", 1, 1000)
    number = desk.ask("hstock", "add_sms", project_id="65f0aa")["orders"][0]["order"]
    desk.clock.tick(0.2)
    assert desk.ask("smmplus", "status", order=order)["remains"] == "500"
    desk.clock.tick(0.15)
    assert desk.ask("smmplus", "status", order=order)["status"] == "Completed"
    # 1200 sandbox seconds are 12 of the caller's, counted from START = 22:13:20.
    assert desk.ask("hstock", "sms_status", order=number)["expires_at"] == "2023-11-14T22:13:32.000Z"


def test_money_adds_up_whatever_happened() -> None:
    desk = Desk(seed=7)
    account = desk.world.accounts["smmplus"]
    orders = [desk.buy("smmplus", service, 123) for service in (1, 18, 19, 20, 21, 22) for _ in range(20)]
    for _ in range(30):
        desk.clock.tick(3.7)
        now = desk.world.now()
        net = sum(account.orders[order].view(now).charge for order in orders)
        assert account.balance_at(now) + net == 1000


def test_status_of_100_takes_no_longer_among_100_000_orders(desk: Desk) -> None:
    account = desk.world.accounts["smmplus"]
    order = account.orders[desk.buy("smmplus", 1, 50)]
    ids = [str(number) for number in range(30_000, 130_000)]
    asked = ids[::1000]
    assert len(asked) == 100

    def quickest() -> float:
        took = []
        for _ in range(20):
            begin = time.perf_counter()
            desk.ask("smmplus", "status", orders=",".join(asked))
            took.append(time.perf_counter() - begin)
        return min(took)

    account.orders.update({one: replace(order, id=one, drops=[], refills=[]) for one in asked})
    desk.clock.tick(20)
    alone = quickest()
    account.orders.update({one: replace(order, id=one, drops=[], refills=[]) for one in ids})
    # Looking at all of them would take hundreds of times as long.
    assert quickest() < 20 * alone
