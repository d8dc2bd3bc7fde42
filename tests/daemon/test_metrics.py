"""What a real daemon says of itself: every loop, every queue's end, a loop that is looked at; and promtool's word."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.metrics import Scrape
from tests.support.processes import DaemonProcess, SandboxProcess, until
from tests.support.promtool import promtool


def test_a_daemon_at_work_tells_how_it_is_doing(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    daemon.start()
    wish = {"service": "plus", "quantity": 50, "link": "https://example.com/watched"}
    assert daemon.post("/v1/orders", wish).status == 201
    until("the end", lambda: all(order["state"] == "completed" for order in daemon.orders()))
    for probe in ("/livez", "/readyz"):
        assert daemon.get(probe).status == 200

    def looked() -> Scrape | None:
        found = Scrape(daemon.get("/metrics").body.decode())
        return found if found.value("aggregator_event_loop_lag_seconds_count") else None

    seen: Scrape = until("a look at the loop", looked)
    assert seen.value("aggregator_attempts_total", provider="smmplus", outcome="placed") == 1
    assert seen.value("aggregator_events_total", type="order.completed") == 1
    assert seen.value("aggregator_order_placed_seconds_count") == 1
    assert seen.total("aggregator_provider_calls_total", action="add", result="ok") == 1
    assert seen.total("aggregator_status_batch_fill_ratio_count", provider="smmplus") >= 1
    assert (seen.value("aggregator_database_commit_seconds_count") or 0) > 5
    assert seen.value("aggregator_database_waiting_writes") is not None
    assert seen.total("aggregator_database_size_bytes") > 0
    loops = {one.labels["loop"]: one.value for one in seen.samples if "loop_last_run" in one.name}
    assert {"routing", "placement", "polling", "delivery", "reconcile", "intake", "lock"} <= set(loops)
    assert all(abs(time.time() - at) < 60 for at in loops.values())
    assert promtool("check", "metrics", said=daemon.get("/metrics").body.decode()) == ""
    assert daemon.terminate() == 0
