"""Killed and restarted at bad moments: nothing accepted is lost, nothing is bought twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import DaemonProcess, SandboxProcess, until, write_config
from tests.torture.forge import forge
from tests.torture.victim import new_victim, receiving

FINAL = ("completed", "partial", "canceled", "failed")
SETTLED = (*FINAL, "unclear")


def test_sigkill_under_load_loses_no_order_and_buys_none_twice(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    sandbox.control("accounts/smmplus", {"balance": "100000"})
    # Slow answers make it likely that a kill hits a purchase in flight.
    sandbox.control("faults", [{"fault": "delay", "action": "add", "delay_s": 0.1}])
    daemon = make_daemon()
    daemon.start()
    answered: set[str] = set()
    for round_ in range(4):
        for n in range(12):
            wish = {"service": "plus", "quantity": 50, "link": f"https://example.com/{round_}/{n}"}
            answer = daemon.post("/v1/orders", wish)
            assert answer.status == 201
            answered.add(answer.json()["id"])
        wanted = len(sandbox.ledger("add")) + random.randrange(6)
        until("some purchases", lambda: len(sandbox.ledger("add")) >= wanted)  # noqa: B023
        daemon.kill()
        daemon.start()
    orders = until("the end of all orders", lambda: _settled(daemon), within_s=60)
    assert answered <= {order["id"] for order in orders}
    _compare(orders, daemon, sandbox)
    assert daemon.terminate() == 0


def test_killed_between_commit_and_answer_the_same_request_gets_the_same_order(
    sandbox: SandboxProcess, tmp_path: Path, empty_database_url: str
) -> None:
    wish = {"service": "plus", "quantity": 50, "link": "https://example.com/once", "metadata": {"of": "käse"}}
    batch = {"orders": [wish, {"service": "nothing"}, wish]}
    with forge() as parent, receiving() as receiver:
        victim = new_victim(parent, tmp_path, empty_database_url, sandbox.url, receiver.url)
        answers = []
        for path, body, key in (("/v1/orders", wish, "k-1"), ("/v1/orders:batch", batch, "k-2")):
            assert victim.start("intake.committed")
            with pytest.raises(OSError, match=r"."):
                victim.post(path, body, key)
            assert victim.died(30)
            assert victim.start()
            again = [victim.post(path, body, key) for _ in range(2)]
            assert [answer.headers.get("Idempotent-Replayed") for answer in again] == ["true", "true"]
            assert again[0].body == again[1].body
            answers.append(again[0])
            if key == "k-1":
                victim.kill()
        assert [answer.status for answer in answers] == [201, 200]
        results = answers[1].json()["results"]
        assert [result["status"] for result in results] == [201, 422, 201]
        ids = {answers[0].json()["id"], *(result["order"]["id"] for result in results if "order" in result)}
        listed = victim.get("/v1/orders").json()["orders"]
        assert {order["id"] for order in listed} == ids
        assert len(listed) == 3
        assert victim.terminate() == 0


def _settled(daemon: DaemonProcess) -> list[dict[str, Any]] | None:
    orders = daemon.orders()
    return orders if all(order["state"] in SETTLED for order in orders) else None


def _compare(orders: list[dict[str, Any]], daemon: DaemonProcess, sandbox: SandboxProcess) -> None:
    """The providers' own ledgers against what the daemon believes; every purchase carries its attempt's id."""
    bought = Counter(entry["idempotency_key"] for entry in sandbox.ledger("add", "add_sms"))
    assert max(bought.values()) == 1
    for order in orders:
        attempts = daemon.get(f"/v1/orders/{order['id']}/attempts").json()["attempts"]
        purchases = sum(bought[attempt["id"]] for attempt in attempts)
        if order["state"] == "unclear":
            assert purchases <= 1, order
        elif order["state"] == "failed":
            assert purchases == 0, order
        else:
            assert purchases == 1, order


def test_sigterm_lets_a_purchase_in_flight_end(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    daemon.start()
    sandbox.control("faults", [{"fault": "delay", "action": "add", "delay_s": 1.5}])
    number = daemon.post("/v1/orders", {"service": "plus", "quantity": 50, "link": "https://example.com/x"}).json()[
        "number"
    ]
    until("the purchase in flight", lambda: daemon.get(f"/v1/orders/{number}").json()["state"] == "placing")
    assert daemon.terminate() == 0
    assert len(sandbox.ledger("add")) == 1
    daemon.start()
    assert daemon.get(f"/v1/orders/{number}").json()["state"] not in ("accepted", "placing", "unclear")


def test_a_purchase_interrupted_by_sigkill_is_unclear_and_a_person_ends_it(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    daemon.start()
    sandbox.control("faults", [{"fault": "timeout_after", "action": "add", "count": 1}])
    number = daemon.post("/v1/orders", {"service": "plus", "quantity": 50, "link": "https://example.com/x"}).json()[
        "number"
    ]
    until("the provider's acceptance", lambda: sandbox.ledger("add"))
    daemon.kill()
    daemon.start()
    order = daemon.get(f"/v1/orders/{number}").json()
    assert order["state"] == "unclear"
    bought = sandbox.ledger("add")[0]["order"]
    assert daemon.post(f"/v1/orders/{number}/resolve", {"outcome": "placed", "provider_order": bought}).status == 200
    until("the order's end", lambda: daemon.get(f"/v1/orders/{number}").json()["state"] == "completed")
    assert len(sandbox.ledger("add")) == 1


def test_a_second_daemon_on_the_same_database_is_refused(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess, tmp_path: Path, empty_database_url: str
) -> None:
    make_daemon().start()
    folder = tmp_path / "second"
    folder.mkdir()
    second = write_config(folder, empty_database_url, sandbox.url)
    ended = subprocess.run(
        [sys.executable, "-m", "aggregator", "run", "--config", str(second.config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert "another daemon" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("fault", ["timeout_before", "reset_after", "http_500_after", "html", "wrong_json_after"])
def test_a_lost_answer_makes_the_order_unclear_and_nothing_is_sent_again(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess, fault: str
) -> None:
    daemon = make_daemon(timeout_s=1)
    daemon.start()
    sandbox.control("faults", [{"fault": fault, "action": "add", "count": 1}])
    number = daemon.post("/v1/orders", {"service": "plus", "quantity": 50, "link": "https://example.com/x"}).json()[
        "number"
    ]
    until("the verdict", lambda: daemon.get(f"/v1/orders/{number}").json()["state"] == "unclear")
    calls = sandbox.calls()["smmplus"]["actions"]["add"]["calls"]
    daemon.kill()
    daemon.start()
    assert daemon.get(f"/v1/orders/{number}").json()["state"] == "unclear"
    assert sandbox.calls()["smmplus"]["actions"]["add"]["calls"] == calls == 1
