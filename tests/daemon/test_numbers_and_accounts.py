"""Rented numbers and delivered accounts by the real daemon: each to its end, each thing handed over once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.processes import DaemonProcess, SandboxProcess, until

SERVICES = """
  two: {kind: sms, offers: [{provider: hstock, project: 65f0bb, country: us}]}
  ends: {kind: sms, offers: [{provider: hstock, project: 65f0cc, country: gb}]}
  scarce: {kind: sms, offers: [{provider: hstock, project: 65f0ff, country: de}]}
  gone: {kind: sms, offers: [{provider: hstock, project: 65f0dc, country: gb}]}
  half: {kind: product, offers: [{provider: hstock, service: "8"}]}
  byhand: {kind: product, offers: [{provider: hstock, service: "3"}]}
"""


@pytest.fixture
def daemon(make_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    made = make_daemon(more=SERVICES.strip("\n"))
    made.start()
    return made


def place(daemon: DaemonProcess, service: str, quantity: int = 1) -> int:
    answer = daemon.post("/v1/orders", {"service": service, "quantity": quantity})
    assert answer.status == 201, answer.body
    number: int = answer.json()["number"]
    return number


def order(daemon: DaemonProcess, number: int) -> Any:
    return daemon.get(f"/v1/orders/{number}").json()


def reaches(daemon: DaemonProcess, number: int, state: str) -> Any:
    return until(f"order {number} {state}", lambda: (o := order(daemon, number))["state"] == state and o)


def told(daemon: DaemonProcess, number: int, kind: str) -> list[dict[str, Any]]:
    events = daemon.get(f"/v1/orders/{number}/events").json()["events"]
    return [event["data"] for event in events if event["type"] == kind]


def codes(daemon: DaemonProcess, number: int) -> list[list[str]]:
    return [[code["code"] for code in one["codes"]] for one in order(daemon, number)["numbers"]]


def test_several_codes_of_several_numbers_are_kept_apart_and_told_once_over_a_kill(
    daemon: DaemonProcess, sandbox: SandboxProcess
) -> None:
    # A provider shows the newest code alone: the second ones come while nobody looks.
    sandbox.control("accounts/hstock/projects/65f0bb", {"country": "us", "behaviour": {"second_s": 60}})
    number = place(daemon, "two", 3)
    until("the first codes", lambda: (c := codes(daemon, number)) and all(c))
    daemon.kill()
    daemon.start()
    found = until("all codes", lambda: (c := codes(daemon, number)) and all(len(one) == 2 for one in c) and c)
    assert len({code for one in found for code in one}) == 6
    events = told(daemon, number, "sms.code")
    heard = [(event["number"]["provider_order"], event["code"]["code"]) for event in events]
    assert len(heard) == len(set(heard)) == 6
    assert reaches(daemon, number, "completed")["remains"] == 0
    log = daemon.log.read_text()
    assert not [code for one in found for code in one if f'"{code}"' in log]


def test_a_number_that_runs_out_ends_the_order_and_its_money_comes_back(
    daemon: DaemonProcess, sandbox: SandboxProcess
) -> None:
    sandbox.control("accounts/hstock/projects/65f0cc", {"country": "gb", "behaviour": {"lifetime_s": 40}})
    number = place(daemon, "ends", 2)
    ended = reaches(daemon, number, "canceled")
    assert {one["state"] for one in ended["numbers"]} == {"expired"}
    assert len(told(daemon, number, "sms.expired")) == 2

    def refunds() -> list[Any]:
        rows = daemon.get("/v1/providers/hstock/ledger").json()["ledger"]
        return [row for row in rows if row["kind"] == "refund" and row["order_number"] == number]

    until("both refunds", lambda: len(refunds()) == 2)


def test_fewer_numbers_than_asked_for_are_handled_one_by_one(daemon: DaemonProcess) -> None:
    number = place(daemon, "scarce", 3)
    assert len(reaches(daemon, number, "completed")["numbers"]) == 3
    # What is left is less than what is asked for: nobody has it in stock, and that is said.
    late = place(daemon, "scarce", 3)
    waiting = until("the reason", lambda: (o := order(daemon, late))["error"] and o)
    assert waiting["state"] == "accepted"
    assert "stock" in waiting["error"]["detail"]


def test_canceled_numbers_end_the_order(daemon: DaemonProcess) -> None:
    number = place(daemon, "gone", 2)
    assert {one["state"] for one in reaches(daemon, number, "canceled")["numbers"]} == {"canceled"}


def test_accounts_that_come_bit_by_bit_are_handed_over_once_each_over_a_kill(daemon: DaemonProcess) -> None:
    number = place(daemon, "half", 20)
    until("a first account", lambda: told(daemon, number, "order.delivery"))
    daemon.kill()
    daemon.start()
    done = reaches(daemon, number, "partial")
    assert done["remains"] == 10
    events = told(daemon, number, "order.delivery")
    assert sum(event["delivered"] for event in events) == 10
    assert events[-1]["total"] == 10
    accounts = daemon.get(f"/v1/orders/{number}/delivery").json()["accounts"]
    assert len(accounts) == len(set(accounts)) == 10
    log = daemon.log.read_text()
    assert not [account for account in accounts if account in log]


def test_what_a_person_delivers_may_take_long_without_alarm(daemon: DaemonProcess, sandbox: SandboxProcess) -> None:
    sandbox.control("accounts/hstock/services/3", {"behaviour": {"kind": "complete", "pending_s": 60, "run_s": 120}})
    number = place(daemon, "byhand", 2)
    reaches(daemon, number, "completed")
    assert len(daemon.get(f"/v1/orders/{number}/delivery").json()["accounts"]) == 2
    assert not told(daemon, number, "order.stuck")
