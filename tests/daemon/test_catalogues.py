"""Catalogues that lie, shrink or vanish, and what the real daemon makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.processes import DaemonProcess, SandboxProcess, until


def services(daemon: DaemonProcess, provider: str, query: str = "") -> dict[str, Any]:
    rows = daemon.get(f"/v1/providers/{provider}/services?limit=500{query}").json()["services"]
    return {row["service"]: row for row in rows}


def quoted(daemon: DaemonProcess, service: str = "followers") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.post("/v1/quote", {"service": service, "quantity": 100}).json()["candidates"]
    return found


def told(daemon: DaemonProcess, kind: str) -> list[dict[str, Any]]:
    events = daemon.get("/v1/events?after=0&limit=500").json()["events"]
    return [event["data"] for event in events if event["type"] == kind]


def test_a_price_too_good_to_be_true_is_not_believed_until_somebody_says_so(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    daemon.start()
    until("both catalogues", lambda: all(one["eligible"] for one in quoted(daemon)))
    sandbox.control("accounts/smmplus/services/1", {"rate": "0.01"})
    assert daemon.post("/v1/providers/smmplus/sync", {}).status == 200
    first, second = quoted(daemon)
    assert (first["provider"], second["provider"], second["eligible"]) == ("smmcheap", "smmplus", False)
    assert "0.90" in second["reason"]
    assert "0.01" in second["reason"]
    (event,) = told(daemon, "catalogue.quarantined")
    assert (event["provider"], event["service"]) == ("smmplus", "1")
    assert list(services(daemon, "smmplus", "&quarantined=true")) == ["1"]
    daemon.kill()
    daemon.start()
    until("the sync after the start", lambda: daemon.get("/v1/providers/smmplus").json()["catalogue"]["synced_at"])
    assert list(services(daemon, "smmplus", "&quarantined=true")) == ["1"]
    assert daemon.post("/v1/providers/smmplus/release", {"service": "1"}).status == 200
    assert quoted(daemon)[0]["provider"] == "smmplus"
    assert not services(daemon, "smmplus", "&quarantined=true")
    assert daemon.terminate() == 0


def test_a_catalogue_that_fails_or_is_half_gone_disables_nothing(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    daemon.start()
    until("the catalogues", lambda: all(one["eligible"] for one in quoted(daemon)))
    whole = services(daemon, "smmcheap")
    for body in ("[]", '{"error": "Something went wrong"}', "<html>", "null", '[{"service": 1, "na'):
        rule = {"fault": "wrong_json_before", "account": "smmcheap", "action": "services", "body": body}
        sandbox.control("faults", [rule])
        assert daemon.post("/v1/providers/smmcheap/sync", {}).status == 409
        assert services(daemon, "smmcheap").keys() == whole.keys()
        assert quoted(daemon)[0]["provider"] == "smmcheap"
    sandbox.control("faults", [])
    for service in list(whole)[1:]:
        sandbox.control(f"accounts/smmcheap/services/{service}", {"remove": True})
    half = daemon.post("/v1/providers/smmcheap/sync", {})
    assert half.status == 409
    assert "only 1 of 7" in half.json()["detail"]
    assert services(daemon, "smmcheap").keys() == whole.keys()
    assert daemon.post("/v1/providers/smmcheap/release", {"catalogue": True}).status == 200
    assert quoted(daemon)[0]["provider"] == "smmcheap"
    assert daemon.terminate() == 0


def test_a_service_that_is_missed_three_times_is_gone_and_may_come_back(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    daemon.start()
    until("the catalogues", lambda: all(one["eligible"] for one in quoted(daemon)))
    sandbox.control("accounts/smmcheap/services/1", {"remove": True})
    for missing in range(1, 4):
        assert daemon.post("/v1/providers/smmcheap/sync", {}).status == 200
        assert quoted(daemon)[0]["provider"] == ("smmcheap" if missing < 3 else "smmplus")
    (event,) = until("the event", lambda: told(daemon, "catalogue.removed"))
    assert (event["provider"], event["service"]) == ("smmcheap", "1")
    sandbox.control("accounts/smmcheap/services/1", {"remove": False})
    assert daemon.post("/v1/providers/smmcheap/sync", {}).status == 200
    assert quoted(daemon)[0]["provider"] == "smmcheap"
    assert daemon.terminate() == 0


def test_prices_and_stock_are_remembered(make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess) -> None:
    daemon = make_daemon()
    daemon.start()
    until("the catalogues", lambda: all(one["eligible"] for one in quoted(daemon)))
    for rate in ("0.80", "0.70"):
        sandbox.control("accounts/smmplus/services/1", {"rate": rate})
        assert daemon.post("/v1/providers/smmplus/sync", {}).status == 200
    history = daemon.get("/v1/providers/smmplus/services/1/history").json()["history"]
    assert [entry["rate"]["amount"] for entry in history] == ["0.70", "0.80", "0.90"]
    assert [event["after"]["amount"] for event in told(daemon, "catalogue.price_changed")] == ["0.80", "0.70"]
    assert daemon.terminate() == 0
