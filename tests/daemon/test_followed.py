"""Orders followed to their end by the real daemon: what providers can do, what they say, what others count."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.processes import DaemonProcess, SandboxProcess, until
from tests.support.servers import serving

DROPS = 'drops: {kind: smm, offers: [{provider: smmplus, service: "1"}], refill: {min_age_h: 0, check_every_h: 0.0003}}'


def place(daemon: DaemonProcess, service: str, quantity: int = 100, link: str | None = "https://example.com/a") -> Any:
    wish = {"service": service, "quantity": quantity} | ({"link": link} if link else {})
    answer = daemon.post("/v1/orders", wish)
    assert answer.status == 201, answer.body
    return answer.json()


def order(daemon: DaemonProcess, number: int) -> Any:
    return daemon.get(f"/v1/orders/{number}").json()


def reaches(daemon: DaemonProcess, number: int, state: str) -> Any:
    return until(f"order {number} {state}", lambda: (o := order(daemon, number))["state"] == state and o)


def provider(daemon: DaemonProcess, name: str = "smmplus") -> Any:
    return daemon.get(f"/v1/providers/{name}").json()


def told(daemon: DaemonProcess, kind: str) -> list[dict[str, Any]]:
    events = daemon.get("/v1/events?after=0&limit=500").json()["events"]
    return [event["data"] for event in events if event["type"] == kind]


def settings(sandbox: SandboxProcess, account: str = "smmplus", **changes: object) -> None:
    sandbox.control(f"accounts/{account}", changes)


def slow(sandbox: SandboxProcess) -> None:
    """Orders of smmplus/1 that go on for long."""
    sandbox.control("accounts/smmplus/services/1", {"behaviour": {"kind": "complete", "pending_s": 5, "run_s": 90_000}})


@pytest.mark.parametrize("batch", ["order", "none"])
def test_how_a_provider_takes_batches_is_found_out_shown_and_kept(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess, batch: str
) -> None:
    settings(sandbox, batch=batch, balance="100000")
    slow(sandbox)
    daemon = make_daemon()
    daemon.start()
    wishes = [{"service": "plus", "quantity": 50, "link": f"https://example.com/{n}"} for n in range(20)]
    assert daemon.post("/v1/orders:batch", {"orders": wishes}).status == 200
    form = {"order": "order", "none": "single"}[batch]
    shown = until("the form", lambda: (p := provider(daemon)["status_calls"])["found_out_at"] and p)
    assert shown["form"] == form
    until("all of them", lambda: all(o["state"] == "in_progress" for o in daemon.orders()))
    assert provider(daemon)["status_calls"]["sweep_calls"] == {"order": 1, "none": 20}[batch]
    daemon.kill()
    daemon.start()
    assert until("the form again", lambda: provider(daemon)["status_calls"]["form"]) == form
    assert daemon.terminate() == 0


def test_words_that_nobody_knows_are_shown_and_conclude_nothing(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    slow(sandbox)
    daemon = make_daemon()
    daemon.start()
    number = place(daemon, "plus")["number"]
    theirs = reaches(daemon, number, "in_progress")["provider_order"]
    sandbox.control(f"accounts/smmplus/orders/{theirs}", {"status": "Marinating"})
    (word,) = until("the word", lambda: provider(daemon)["unknown_words"])
    assert (word["word"], word["order_number"]) == ("Marinating", number)
    assert (
        'aggregator_unknown_words_total{provider="smmplus",word="Marinating"}' in daemon.get("/metrics").body.decode()
    )
    assert order(daemon, number)["state"] == "in_progress"
    sandbox.control(f"accounts/smmplus/orders/{theirs}", {"status": "Completed"})
    reaches(daemon, number, "completed")
    assert daemon.terminate() == 0


def test_an_end_that_the_provider_corrects_is_corrected_across_a_kill(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    daemon = make_daemon(more=f"  {DROPS}")
    daemon.start()
    number = place(daemon, "drops")["number"]
    done = reaches(daemon, number, "completed")
    daemon.kill()
    sandbox.control(f"accounts/smmplus/orders/{done['provider_order']}", {"status": "Partial", "remains": 40})
    daemon.start()
    partial = reaches(daemon, number, "partial")
    assert partial["remains"] == 40
    events = [event["type"] for event in daemon.get(f"/v1/orders/{number}/events").json()["events"]]
    assert events[-2:] == ["order.completed", "order.partial"]
    assert [data["order"]["number"] for data in told(daemon, "order.partial")] == [number]
    assert daemon.terminate() == 0


def test_three_charges_settle_what_a_rate_buys_and_everybody_can_see_it(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    settings(sandbox, "hstock", product_rate_per=1000, balance="100000")
    daemon = make_daemon()
    daemon.start()
    for _ in range(3):
        number = place(daemon, "gmail", 5, None)["number"]
        first = reaches(daemon, number, "completed")
    (event,) = until("the event", lambda: told(daemon, "catalogue.price_changed"))
    assert (event["service"], event["per"], event["cause"]) == ("2", {"before": 1, "after": 1000}, "charges")
    services = daemon.get("/v1/providers/hstock/services?limit=500").json()["services"]
    assert [row["rate_per"] for row in services if row["service"] == "2"] == [1000]
    after = place(daemon, "gmail", 5, None)
    after = reaches(daemon, after["number"], "completed")
    assert after["expected_cost"] == first["charge"]
    assert daemon.terminate() == 0


def test_a_callers_count_leads_to_a_refill_once_across_a_kill(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    daemon = make_daemon(more=f"  {DROPS}")
    daemon.start()
    product = place(daemon, "gmail", 1, None)
    number = place(daemon, "drops", 1000)["number"]
    done = reaches(daemon, number, "completed")
    full = done["start_count"] + 1000
    assert daemon.post(f"/v1/orders/{number}/count", {"count": "many"}).status == 422
    assert daemon.post(f"/v1/orders/{number}/count", {"count": -1}).status == 422
    assert daemon.post(f"/v1/orders/{product['number']}/count", {"count": 5}).status == 409
    assert daemon.post(f"/v1/orders/{number}/count", {"count": full - 10}).status == 202
    assert not told(daemon, "order.dropped")
    answer = daemon.post(f"/v1/orders/{number}/count", {"count": full - 300})
    assert (answer.status, answer.json()["count"]) == (202, full - 300)
    daemon.kill()
    daemon.start()
    refilled = until("the refill", lambda: [r for r in order(daemon, number)["refills"] if r["state"] == "completed"])
    assert [refill["drop"] for refill in refilled] == [300]
    (event,) = told(daemon, "order.dropped")
    assert event["drop"] == 300
    assert order(daemon, number)["count"] is None
    assert len(sandbox.ledger("refill")) == 1
    assert daemon.terminate() == 0


class _Counter(ThreadingHTTPServer):
    """Counts at a link, as a `count_source` of the config."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Count)
        self.count = 0


class _Count(BaseHTTPRequestHandler):
    server: _Counter

    def do_GET(self) -> None:
        body = json.dumps({"data": {"count": str(self.server.count)}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def counting() -> Iterator[_Counter]:
    with serving(_Counter()) as server:
        yield server


def test_a_count_source_leads_to_a_refill(make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess) -> None:
    with counting() as counter:
        counter.count = 10**9
        source = f'"http://127.0.0.1:{counter.server_address[1]}/c?link={{link}}"'
        service = DROPS.removesuffix("}") + f", count_source: {{url: {source}, pointer: /data/count}}}}"
        daemon = make_daemon(more=f"  {service}")
        daemon.start()
        number = place(daemon, "drops", 1000)["number"]
        done = reaches(daemon, number, "completed")
        counted = until("a count", lambda: order(daemon, number)["count"])
        assert (counted, order(daemon, number)["refills"]) == (10**9, [])
        counter.count = done["start_count"] + 1000 - 400
        refill = until("the refill", lambda: order(daemon, number)["refills"])[0]
        assert refill["drop"] == 400
        assert daemon.terminate() == 0
