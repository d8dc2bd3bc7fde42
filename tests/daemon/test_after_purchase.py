"""Cancels, drip-feeds and remainders through real processes, killed at their worst moments, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, update

from aggregator.storage.tables import orders
from tests.support.databases import opened
from tests.support.processes import DaemonProcess, SandboxProcess, until

FINAL = ("completed", "partial", "canceled", "failed")
SLOW = 'slow: {kind: smm, offers: [{provider: smmplus, service: "24"}]}'
DRIP = 'drip: {kind: smm, offers: [{provider: hstock, service: "1"}]}'
BOTH = (
    "both: {kind: smm, reroute_remainder: true, refill: {auto: false},"
    ' offers: [{provider: smmcheap, service: "1"}, {provider: smmplus, service: "1"}]}'
)
LINK = "https://example.com/x"
MakeDaemon = Callable[..., DaemonProcess]


def placed(daemon: DaemonProcess, service: str, **fields: Any) -> int:
    """The number of a new order."""
    answer = daemon.post("/v1/orders", {"service": service, "quantity": 200, "link": LINK, **fields})
    assert answer.status == 201, answer.body
    return int(answer.json()["number"])


def order_of(daemon: DaemonProcess, number: int | str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get(f"/v1/orders/{number}").json()
    return found


def bought(daemon: DaemonProcess, service: str) -> int:
    number = placed(daemon, service)
    until("the purchase", lambda: order_of(daemon, number)["provider_order"])
    return number


def ended(daemon: DaemonProcess, number: int | str, within_s: float = 30.0) -> dict[str, Any]:
    def order() -> dict[str, Any] | None:
        found = order_of(daemon, number)
        return found if found["state"] in FINAL else None

    found: dict[str, Any] = until(f"the end of order {number}", order, within_s)
    return found


def told(daemon: DaemonProcess, number: int | str) -> list[str]:
    return [event["type"] for event in daemon.get(f"/v1/orders/{number}/events").json()["events"]]


def booked(daemon: DaemonProcess, provider: str, order: dict[str, Any]) -> list[str]:
    entries = daemon.get(f"/v1/providers/{provider}/ledger?limit=500").json()["ledger"]
    return [entry["kind"] for entry in reversed(entries) if order["number"] == entry["order_number"]]


def test_a_cancel_is_asked_for_and_its_money_is_in_the_ledger_when_the_provider_says_so(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    daemon = make_daemon(more=f"  {SLOW}")
    daemon.start()
    number = bought(daemon, "slow")
    answer = daemon.post(f"/v1/orders/{number}/cancel", {}, Idempotency_Key="once")
    assert answer.status == 202, answer.body
    assert answer.json()["cancel"]["state"] == "asked"
    assert answer.json()["state"] not in FINAL, "asked is not canceled"
    assert (
        daemon.post(f"/v1/orders/{number}/cancel", {}, Idempotency_Key="once").headers["Idempotent-Replayed"] == "true"
    )
    order = ended(daemon, number)
    assert (order["state"], order["charge"]) == ("canceled", {"amount": "0.00", "currency": "USD"})
    assert booked(daemon, "smmplus", order) == ["charge", "refund"]
    assert told(daemon, number)[-2:] == ["order.cancel_asked", "order.canceled"]
    assert len(sandbox.ledger("cancel")) == 1


def test_a_cancel_that_nobody_can_do_is_a_conflict_and_a_refused_one_says_why(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    daemon = make_daemon(more=f"  {SLOW}\n  {DRIP}")
    daemon.start()
    answer = daemon.post(f"/v1/orders/{bought(daemon, 'drip')}/cancel", {})
    assert answer.status == 409
    assert answer.json()["detail"] == "hstock knows no cancel: its protocol (hstockplus) has none"

    bought(daemon, "slow")
    sandbox.control("accounts/smmplus/services/24", {"cancel": False})
    number = bought(daemon, "slow")
    assert daemon.post(f"/v1/orders/{number}/cancel", {}).status == 202
    until("the refusal", lambda: order_of(daemon, number)["cancel"]["state"] == "refused")
    order = order_of(daemon, number)
    assert order["cancel"]["detail"] == "Cancel is not available"
    assert order["state"] not in FINAL
    assert told(daemon, number)[-1] == "order.cancel_refused"
    assert daemon.post(f"/v1/orders/{number}/cancel", {}).status == 202, "after a refusal it may be asked again"


def test_a_kill_between_sending_and_recording_a_cancel_makes_it_unclear_and_it_is_not_sent_again(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    daemon = make_daemon(more=f"  {SLOW}")
    daemon.start()
    number = bought(daemon, "slow")
    sandbox.control("faults", [{"fault": "timeout_after", "action": "cancel", "count": 1}])
    assert daemon.post(f"/v1/orders/{number}/cancel", {}).status == 202
    until("the provider's acceptance", lambda: sandbox.ledger("cancel"))
    daemon.kill()
    daemon.start()
    until("the verdict", lambda: order_of(daemon, number)["cancel"]["state"] == "unclear")
    order = ended(daemon, number)
    assert (order["state"], order["cancel"]["state"]) == ("canceled", "unclear")
    assert sandbox.calls()["smmplus"]["actions"]["cancel"]["calls"] == 1


def test_a_drip_feed_of_our_own_makes_each_run_once_over_kills(
    make_daemon: MakeDaemon, sandbox: SandboxProcess, empty_database_url: str
) -> None:
    daemon = make_daemon(more=f"  {DRIP}")
    daemon.start()
    number = placed(daemon, "drip", params={"runs": 4, "interval": 1})
    for run in range(1, 5):
        until(f"run {run}", lambda: len(order_of(daemon, number)["children"]) == run)  # noqa: B023
        assert order_of(daemon, number)["state"] == "in_progress"
        daemon.kill()
        asyncio.run(_a_minute_passes(empty_database_url))
        daemon.start()
        for child in order_of(daemon, number)["children"]:
            _resolve(daemon, sandbox, child)
    parent = ended(daemon, number, within_s=60)
    runs = [order_of(daemon, child) for child in parent["children"]]
    assert len(runs) == 4
    assert {run["parent"] for run in runs} == {parent["id"]}
    listed = daemon.get(f"/v1/orders?parent={parent['id']}").json()["orders"]
    assert [run["id"] for run in reversed(listed)] == parent["children"]
    keys = [entry["idempotency_key"] for entry in sandbox.ledger("add")]
    assert len(keys) == len(set(keys)) == 4
    assert (parent["state"], parent["quantity"]) == ("completed", 800)
    assert parent["charge"] == {"amount": "0.40", "currency": "USD"}
    assert daemon.terminate() == 0


def _resolve(daemon: DaemonProcess, sandbox: SandboxProcess, child: str) -> None:
    """What a person says of a run whose purchase the kill has hit."""
    until("the end of the purchase", lambda: order_of(daemon, child)["state"] != "placing")
    if order_of(daemon, child)["state"] != "unclear":
        return
    (attempt,) = daemon.get(f"/v1/orders/{child}/attempts").json()["attempts"]
    sold = [entry["order"] for entry in sandbox.ledger("add") if entry["idempotency_key"] == attempt["id"]]
    said = {"outcome": "placed", "provider_order": sold[0]} if sold else {"outcome": "not_placed"}
    assert daemon.post(f"/v1/orders/{child}/resolve", said).status == 200


async def _a_minute_passes(url: str) -> None:
    """Nobody runs, and the next run comes due."""

    def write(connection: Connection) -> None:
        due = update(orders).where(orders.c.next_run_at.is_not(None))
        connection.execute(due.values(next_run_at=datetime.now(UTC)))

    async with opened(url) as database:
        await database.write(write)


@pytest.mark.parametrize("moment", ["partial", "remainder"])
def test_the_rest_of_a_partial_order_is_bought_once_over_a_kill(
    make_daemon: MakeDaemon, sandbox: SandboxProcess, moment: str
) -> None:
    sandbox.control("accounts/smmcheap/services/1", {"behaviour": {"kind": "partial", "run_s": 10}})
    daemon = make_daemon(more=f"  {BOTH}")
    daemon.start()
    number = placed(daemon, "both", quantity=1000)

    def reached() -> bool:
        order = order_of(daemon, number)
        return order["state"] == "partial" if moment == "partial" else bool(order["children"])

    until(f"the {moment}", reached)
    daemon.kill()
    daemon.start()
    children = until("the remainder", lambda: order_of(daemon, number)["children"])
    until("its end", lambda: order_of(daemon, children[0])["state"] in (*FINAL, "unclear"))
    order, (child,) = order_of(daemon, number), children
    rest = order_of(daemon, child)
    assert (rest["quantity"], rest["parent"]) == (600, order["id"])
    accounts = [entry["account"] for entry in sandbox.ledger("add")]
    # A kill that hits the purchase itself leaves it unclear: bought or not, and never twice.
    assert accounts == ["smmcheap", "smmplus"] or (rest["state"], accounts) == ("unclear", ["smmcheap"])
    assert booked(daemon, "smmcheap", order) == ["charge", "refund"]
