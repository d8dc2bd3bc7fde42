"""The config changes under the running daemon: all of it at one moment, or nothing, and no order is lost or doubled."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import yaml

from aggregator.cli import main as command
from tests.daemon.test_followed import place, reaches
from tests.support.processes import KEY, DaemonProcess, SandboxProcess, call, lines, until
from tests.support.servers import serving

MakeDaemon = Callable[..., DaemonProcess]
NEW_KEY = "test-key-of-the-other-one-0002"
SECRET = "whsec_dGVzdC1zZWNyZXQtb2YtYW4tZW5kcG9pbnQtMDE="


def edit(daemon: DaemonProcess, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the config anew."""
    config = yaml.safe_load(daemon.config.read_text())
    change(config)
    daemon.config.write_text(yaml.safe_dump(config, sort_keys=False))


def hang_up(daemon: DaemonProcess, event: str) -> dict[str, Any]:
    """SIGHUP, and what the log says of it."""
    assert daemon.process is not None
    before = len(lines(daemon, event))
    daemon.process.send_signal(signal.SIGHUP)
    found: dict[str, Any] = until(event, lambda: lines(daemon, event)[before:])[0]
    return found


def reload(daemon: DaemonProcess) -> Any:
    answer = daemon.post("/v1/reload", None)
    assert answer.status == 200, answer.body
    return answer.json()


class _Told(BaseHTTPRequestHandler):
    types: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.types.append(body["type"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_hangup_brings_new_providers_services_keys_and_endpoints(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    whole = yaml.safe_load(daemon.config.read_text())

    def only_cheap(config: dict[str, Any]) -> None:
        config["providers"] = {"smmcheap": whole["providers"]["smmcheap"]}
        config["services"] = {"followers": {"kind": "smm", "offers": [{"provider": "smmcheap", "service": "1"}]}}

    edit(daemon, only_cheap)
    daemon.start()
    reaches(daemon, place(daemon, "followers")["number"], "completed")
    refused = daemon.post("/v1/orders", {"service": "plus", "quantity": 100, "link": "https://example.com/b"})
    assert (refused.status, refused.json()["field"]) == (422, "service")
    _Told.types.clear()

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Told)) as server:

        def everything(config: dict[str, Any]) -> None:
            config["providers"], config["services"] = whole["providers"], whole["services"]
            config["keys"].append({"name": "other", "key": NEW_KEY})
            url = f"http://127.0.0.1:{server.server_address[1]}/hook"
            config["webhooks"] = [{"name": "late", "url": url, "secret": SECRET, "events": ["order.completed"]}]

        edit(daemon, everything)
        said = hang_up(daemon, "config_reloaded")
        assert "providers.smmplus (added)" in said["paths"]
        assert "webhooks.late (added)" in said["paths"]
        assert KEY not in daemon.log.read_text()
        assert NEW_KEY not in daemon.log.read_text()
        done = reaches(daemon, place(daemon, "plus")["number"], "completed")
        assert done["provider"] == "smmplus"
        until("the new endpoint's event", lambda: _Told.types == ["order.completed"])
    mine = call("GET", f"{daemon.url}/v1/orders", headers={"Authorization": f"Bearer {NEW_KEY}"})
    assert (mine.status, mine.json()["orders"]) == (200, [])

    def without_other(config: dict[str, Any]) -> None:
        config["keys"] = [key for key in config["keys"] if key["name"] != "other"]
        del config["webhooks"]

    edit(daemon, without_other)
    assert reload(daemon)["changes"] == [
        {"path": "keys.other", "how": "removed"},
        {"path": "webhooks.late", "how": "removed"},
    ]
    assert call("GET", f"{daemon.url}/v1/orders", headers={"Authorization": f"Bearer {NEW_KEY}"}).status == 401
    assert daemon.get("/v1/webhooks/late").json()["enabled"] is False
    assert len(sandbox.ledger("add")) == 2
    assert daemon.terminate() == 0


def test_a_file_that_cannot_be_used_changes_nothing_and_all_that_is_wrong_is_said(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    daemon.start()
    good = daemon.config.read_text()

    def spoil(config: dict[str, Any]) -> None:
        config["providers"]["smmplus"]["timeout_s"] = -3
        config["services"]["followers"]["offers"] = [{"provider": "smmpluss", "service": "1"}]
        del config["services"]["likes"]

    edit(daemon, spoil)
    answer = daemon.post("/v1/reload", None)
    assert answer.status == 409
    errors = {one["field"]: one["detail"] for one in answer.json()["errors"]}
    assert "must be greater than 0" in errors["providers.smmplus.timeout_s"]
    assert "did you mean smmplus?" in errors["services.followers.offers[0].provider"]
    assert any("timeout_s" in line for line in hang_up(daemon, "config_refused")["problems"])
    daemon.config.write_text("providers: [")
    assert daemon.post("/v1/reload", None).status == 409
    daemon.config.unlink()
    assert "does not exist" in daemon.post("/v1/reload", None).json()["detail"]
    # Even the half of it that was right is not in use.
    reaches(daemon, place(daemon, "likes")["number"], "completed")
    daemon.config.write_text(good)
    assert "chmod 600" in daemon.post("/v1/reload", None).json()["detail"], "others may read its secrets"
    daemon.config.chmod(0o600)
    assert reload(daemon) == {"changes": [], "warnings": []}


def test_what_is_read_at_the_start_alone_is_refused_with_the_remedy(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()

    def move(config: dict[str, Any]) -> None:
        config["http"]["listen"] = ["127.0.0.1:1"]
        config["providers"]["smmplus"]["timeout_s"] = 7

    edit(daemon, move)
    answer = daemon.post("/v1/reload", None)
    assert answer.status == 409
    assert answer.json()["detail"] == "http.listen: is read at the start alone; restart the daemon to apply this"
    assert "http.listen" in hang_up(daemon, "config_refused")["problems"][0]
    assert daemon.get("/readyz").status == 200


def test_an_offer_that_is_taken_out_is_not_bought_again_and_what_is_under_way_there_ends_there(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    """Purchases hang at the cheap provider when its offer leaves the config: those end there, all others elsewhere."""
    daemon = make_daemon(timeout_s=20)
    for account in ("smmplus", "smmcheap"):
        sandbox.control(f"accounts/{account}", {"balance": "100000"})
    daemon.start()
    until("the catalogues", lambda: all(one["up"] for one in daemon.get("/v1/providers").json()["providers"]))
    sandbox.control("faults", [{"fault": "delay", "action": "add", "account": "smmcheap", "delay_s": 4, "count": 4}])
    numbers = [place(daemon, "followers", link=f"https://example.com/{n}")["number"] for n in range(12)]
    until("the hanging purchases", lambda: sum(o["state"] == "placing" for o in daemon.orders()) >= 3)

    def drop(config: dict[str, Any]) -> None:
        config["services"]["followers"]["offers"] = [{"provider": "smmplus", "service": "1"}]

    edit(daemon, drop)
    assert reload(daemon)["changes"] == [{"path": "services.followers.offers", "how": "changed"}]
    done = [reaches(daemon, number, "completed") for number in numbers]
    at = [order["provider"] for order in done]
    assert 3 <= at.count("smmcheap") <= 4, at
    assert len(sandbox.ledger("add")) == 12


def test_a_provider_that_leaves_is_warned_of_while_orders_are_there_and_comes_back(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    daemon = make_daemon()
    sandbox.control("accounts/smmplus/services/1", {"behaviour": {"kind": "complete", "run_s": 60}})
    daemon.start()
    number = place(daemon, "plus")["number"]
    reaches(daemon, number, "in_progress")
    whole = daemon.config.read_text()

    def drop(config: dict[str, Any]) -> None:
        del config["providers"]["smmplus"], config["services"]["plus"]
        for service in config["services"].values():
            service["offers"] = [one for one in service["offers"] if one["provider"] != "smmplus"]

    edit(daemon, drop)
    warnings = reload(daemon)["warnings"]
    assert "providers.smmplus is gone, and 1 unfinished orders there are followed no longer" in warnings[0]
    assert daemon.get("/v1/providers/smmplus").json()["configured"] is False
    daemon.config.write_text(whole)
    assert reload(daemon)["warnings"] == []
    reaches(daemon, number, "completed")
    assert len(sandbox.ledger("add")) == 1


def test_reloads_under_load_lose_nothing_and_buy_nothing_twice(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    """Two providers come and go ten times while orders are taken; the last reload is followed by a kill -9."""
    daemon = make_daemon()
    for account in ("smmplus", "smmcheap"):
        sandbox.control(f"accounts/{account}", {"balance": "100000"})
    daemon.start()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(4))
        placing = [
            pool.submit(
                daemon.post, "/v1/orders", {"service": "followers", "quantity": 50, "link": f"https://e.com/{n}"}
            )
            for n in range(120)
        ]
        for turn in range(10):

            def toggle(config: dict[str, Any], turn: int = turn) -> None:
                plus, cheap = ({"provider": name, "service": "1"} for name in ("smmplus", "smmcheap"))
                config["services"]["followers"]["offers"] = [plus] if turn % 2 else [cheap, plus]
                config["providers"]["smmcheap"]["enabled"] = not turn % 2
                config["providers"]["smmplus"]["max_concurrency"] = 2 + turn

            edit(daemon, toggle)
            reload(daemon)
        taken = [one.result() for one in placing]
    daemon.kill()
    daemon.start()
    assert {answer.status for answer in taken} == {201}
    numbers = {answer.json()["number"] for answer in taken}
    finals = ("completed", "partial", "canceled", "unclear")
    found = until("all orders", lambda: all(one["state"] in finals for one in daemon.orders()) and daemon.orders(), 60)
    assert {order["number"] for order in found} == numbers
    assert len(sandbox.ledger("add")) <= 120
    placed = [order for order in found if order["provider_order"]]
    assert len({(order["provider"], order["provider_order"]) for order in placed}) == len(placed)


def test_the_command_says_what_changed_or_what_is_wrong(
    make_daemon: MakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = make_daemon()
    daemon.start()

    def run(*more: str) -> tuple[int, str]:
        code = command.main(["reload", "--config", str(daemon.config), *more])
        out, err = capsys.readouterr()
        return code, out + err

    assert run() == (0, "the daemon goes by this config already\n")
    edit(daemon, lambda config: config["providers"]["smmplus"].update(timeout_s=6))
    code, said = run()
    assert code == 0
    assert "providers.smmplus.timeout_s" in said
    assert "changed" in said
    edit(daemon, lambda config: config["providers"]["smmplus"].update(timeout_s=0))
    code, said = run()
    assert code == 1
    assert "providers.smmplus.timeout_s: must be greater than 0" in said
    edit(daemon, lambda config: config["keys"][0].update(key=NEW_KEY))
    code, said = run()
    assert code == 1
    assert "send it SIGHUP (systemctl reload aggregator)" in said
    edit(daemon, lambda config: config["providers"]["smmplus"].update(timeout_s=5))
    hang_up(daemon, "config_reloaded")
    assert run() == (0, "the daemon goes by this config already\n")
