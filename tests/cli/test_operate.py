"""The commands that ask a running daemon, from an order's placing to its end; a real daemon and a real sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from aggregator.cli import main as command
from tests.cli.support import Shell
from tests.support.databases import sqlite_url
from tests.support.processes import DaemonProcess, SandboxProcess, until

LINK: Final = ("--link", "https://example.com/x")
SOCKET_CONFIG: Final = """\
database: {database}
http: {{listen: ["unix:{socket}"]}}
providers:
  smmplus:
    dialect: panel_v2
    url: {sandbox}/smmplus/api/v2
    api_key: sandbox-smmplus-key
    status_every_s: {{min: 0.3, max: 2}}
services:
  likes: {{kind: smm, offers: [{{provider: smmplus, service: "18"}}], refill: {{auto: false, min_age_h: 0}}}}
"""


@dataclass(frozen=True)
class Watching:
    """A watch in a process of its own, and the file that it writes to."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[[Path, int], Watching]]:
    """Starts `orders watch` as a process of its own; what still runs at the end is killed."""
    started: list[Watching] = []

    def start(config: Path, number: int) -> Watching:
        log = tmp_path / f"watch-{number}.log"
        argv = [sys.executable, "-m", "aggregator", "orders", "watch", str(number), "--config", str(config)]
        with log.open("wb") as file:
            started.append(Watching(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file), log))
        return started[-1]

    yield start
    for watching in started:
        if watching.process.poll() is None:
            watching.process.kill()
            watching.process.wait()


def make_unclear(shell: Shell, sandbox: SandboxProcess, fault: str) -> int:
    """An order of which nobody knows whether it was bought; its number."""
    sandbox.control("faults", {"faults": [{"fault": fault, "account": "smmplus", "action": "add", "nth": 1}]})
    placed = shell.json("orders", "place", "plus", "--quantity", "100", *LINK)
    number = int(placed["number"])
    until("the order's being unclear", lambda: shell.state(number) == "unclear")
    return number


def purchases(sandbox: SandboxProcess, shell: Shell, number: int) -> list[dict[str, Any]]:
    """What the sandbox took for an order, by the order's attempts."""
    keys = {attempt["id"] for attempt in shell.json("orders", "show", str(number))["attempts"]}
    return [entry for entry in sandbox.ledger("add") if entry["idempotency_key"] in keys]


def test_an_order_from_its_placing_to_its_end(shell: Shell) -> None:
    wish = ("orders", "place", "followers", "--quantity", "100", *LINK, "--reference", "shop-778")
    more = ("--max-cost", "0.90 USD", "--provider", "smmplus", "--idempotency-key", "once")
    placed = shell.json(*wish, *more)
    number = str(placed["number"])
    assert (placed["reference"], placed["quantity"], placed["link"]) == ("shop-778", 100, LINK[1])
    assert shell(*wish, *more) == 0
    assert f"order {number}  accepted" in shell.out
    assert "nothing was ordered now" in shell.out
    assert f"aggregator orders watch {number} --config {shell.config}" in shell.out
    assert shell("orders", "watch", number) == 0
    assert shell.out.splitlines()[-1] == f"order {number}  completed"
    assert "at smmplus as " in shell.out
    assert shell("orders", "list", "--reference", "shop-778", "--state", "completed", "--service", "followers") == 0
    heading, row = shell.out.splitlines()
    assert heading.split()[:3] == ["#", "SERVICE", "STATE"]
    assert row.split()[:3] == [number, "followers", "completed"]
    assert shell("orders", "show", placed["id"]) == 0
    for words in ("attempt 1  placed", "chosen: the cheapest", "the order is pinned to smmplus", "order.completed"):
        assert words in shell.out
    assert "To decide" not in shell.out
    events = [json.loads(line) for line in _watch_json(shell, number)]
    assert [event["data"]["sequence"] for event in events] == list(range(1, len(events) + 1))
    shown = shell.json("orders", "show", number)
    assert events == shown["events"]
    assert shown["order"] in shell.json("orders", "list", "--provider", "smmplus")["orders"]
    assert "the order is completed already" in shell.refused("orders", "cancel", number)
    assert "no refill now" in shell.refused("orders", "refill", number)
    assert "only an unclear order can be resolved" in shell.refused("orders", "resolve", number, "--not-placed")


def _watch_json(shell: Shell, number: str) -> list[str]:
    assert shell("orders", "watch", number, "--json") == 0
    return shell.out.splitlines()


def test_an_unclear_order_that_was_bought(
    shell: Shell, sandbox: SandboxProcess, watched: Callable[[Path, int], Watching]
) -> None:
    number = make_unclear(shell, sandbox, "close_after")
    watch = watched(shell.config, number)

    def concluded() -> bool:
        assert shell("orders", "show", str(number)) == 0
        return "Concluded: it was bought" in shell.out

    until("the proof", concluded)
    desk = shell.out.partition("To decide")[2]
    for words in (
        *("to smmplus, for its service 1", "action=add, service=1, link=https://example.com/x, quantity=100"),
        *("no answer: closed", "should cost  0.09 USD", "do the 0.09 add up: bought", "would buy it twice"),
        f"aggregator orders resolve {number} --placed ID --config {shell.config}",
        f"aggregator orders resolve {number} --not-placed --config {shell.config}",
    ):
        assert words in desk, words
    until("its unclear state in the watch", lambda: "to decide: aggregator" in watch.said())
    assert watch.process.poll() is None
    (bought,) = purchases(sandbox, shell, number)
    provider_order = str(bought["orders"][0])
    assert shell("orders", "resolve", str(number), "--placed", provider_order) == 0
    assert f"order {number}  pending" in shell.out
    assert watch.process.wait(timeout=60) == 0
    assert f"at smmplus as {provider_order}" in watch.said()
    assert watch.said().endswith(f"order {number}  completed\n")
    assert shell("orders", "show", str(number)) == 0
    assert "shop said: it was bought." in shell.out
    assert len(purchases(sandbox, shell, number)) == 1
    second = make_unclear(shell, sandbox, "close_after")
    said = shell.refused("orders", "resolve", str(second), "--placed", provider_order)
    assert "another order has this provider order already" in said
    assert (
        shell("orders", "resolve", str(second), "--placed", str(purchases(sandbox, shell, second)[0]["orders"][0])) == 0
    )


def test_an_unclear_order_that_was_not_bought(shell: Shell, sandbox: SandboxProcess) -> None:
    number = make_unclear(shell, sandbox, "close_before")
    assert purchases(sandbox, shell, number) == []

    def looked_at() -> bool:
        assert shell("orders", "show", str(number)) == 0
        return "not debited by then" in shell.out

    until("a look at the balance", looked_at)
    assert "would buy it twice" not in shell.out
    assert "it must be resolved first" in shell.refused("orders", "cancel", str(number))
    assert shell("orders", "list", "--state", "unclear") == 0
    assert shell.out.splitlines()[1].split()[:3] == [str(number), "plus", "unclear"]
    resolved = shell.json("orders", "resolve", str(number), "--not-placed")
    assert resolved["state"] == "accepted"
    assert shell("orders", "watch", str(number)) == 0, shell.out + shell.err
    assert shell.out.endswith(f"order {number}  completed\n")
    assert len(purchases(sandbox, shell, number)) == 1
    assert shell("orders", "show", str(number)) == 0
    assert "shop said: it was not bought." in shell.out


def test_a_provider_is_paused_resumed_and_synced(shell: Shell, sandbox: SandboxProcess) -> None:
    def best() -> str:
        return str(shell.json("services", "quote", "followers", "--quantity", "1000")["best"]["provider"])

    assert best() == "smmcheap"
    assert shell("providers", "pause", "smmcheap") == 0
    assert "provider smmcheap  paused" in shell.out
    assert best() == "smmplus"
    assert shell("services", "quote", "followers", "--quantity", "1000") == 0
    assert "1000 of followers: 0.90 USD at smmplus/1" in shell.out
    assert "the provider is paused" in shell.out
    assert shell("providers", "list") == 0
    lines = {line.split()[0]: line.split()[1:3] for line in shell.out.splitlines()}
    assert lines["smmcheap"] == ["panel_v2", "paused"]
    assert lines["hstock"] == ["hstockplus", "up"]
    assert shell.json("providers", "resume", "smmcheap")["paused"] is False
    assert best() == "smmcheap"
    before = shell.json("providers", "show", "smmcheap")["catalogue"]["synced_at"]
    assert shell.json("providers", "sync", "smmcheap")["catalogue"]["synced_at"] > before
    sandbox.control("faults", {"faults": [{"fault": "html", "account": "smmcheap", "action": "services", "nth": 1}]})
    assert "the catalogue was not taken over, or not as a whole" in shell.refused("providers", "sync", "smmcheap")
    assert shell("providers", "show", "smmcheap") == 0
    assert "the last sync failed" in shell.out
    assert shell("providers", "sync", "smmcheap") == 0
    assert "the last sync failed" not in shell.out


def test_what_was_not_bought_is_canceled(shell: Shell) -> None:
    assert shell("providers", "pause", "hstock") == 0
    try:
        number = shell.json("orders", "place", "gmail", "--quantity", "1")["number"]
        assert shell("orders", "cancel", str(number)) == 0
        assert f"order {number}  canceled" in shell.out
        assert shell.json("orders", "show", str(number))["order"]["finished_at"] is not None
    finally:
        assert shell("providers", "resume", "hstock") == 0


def test_services_and_ledgers_are_listed(shell: Shell) -> None:
    assert shell("services", "list") == 0
    names = [line.split()[0] for line in shell.out.splitlines()]
    assert names == ["SERVICE", "followers", "plus", "likes", "gmail", "code"]
    kinds = shell.json("services", "list", "--kind", "sms")["services"]
    assert [one["service"] for one in kinds] == ["code"]
    assert shell("services", "list", "--category", "none of this name") == 0
    assert shell.out == "no services\n"
    assert shell("services", "quote", "gmail", "--quantity", "1", "--max-cost", "0.01") == 0
    assert "1 of gmail: nobody takes it now" in shell.out
    assert "more than max_cost 0.01 USD" in shell.out
    assert shell("ledger", "hstock", "--limit", "1") == 0
    heading, row = shell.out.splitlines()
    assert heading.split() == ["AT", "KIND", "AMOUNT", "ORDER", "NOTE"]
    assert row.split()[2] == "reading"


def test_a_list_says_how_it_goes_on(shell: Shell) -> None:
    for _ in range(2):
        shell.json("orders", "place", "likes", "--quantity", "20", *LINK, "--reference", "pages")
    assert shell("orders", "list", "--reference", "pages", "--limit", "1") == 0
    newest = shell.out
    told, _, cursor = shell.err.strip().rpartition(" ")
    assert told == "there is more: --cursor"
    assert shell("orders", "list", "--reference", "pages", "--limit", "1", "--cursor", cursor) == 0
    assert shell.err == ""
    assert shell.out != newest
    assert shell("orders", "list", "--reference", "nobody's") == 0
    assert shell.out == "no orders\n"


@pytest.fixture
def socket_daemon(sandbox: SandboxProcess, tmp_path: Path) -> Iterator[Callable[[], DaemonProcess]]:
    """A daemon without keys, on a unix socket; `./config.yaml` is its config."""
    config = tmp_path / "config.yaml"
    config.touch(mode=0o600)
    database, socket = json.dumps(sqlite_url(tmp_path / "a.db")), tmp_path / "a.sock"
    config.write_text(SOCKET_CONFIG.format(database=database, socket=socket, sandbox=sandbox.url))
    running = DaemonProcess(config, 0, tmp_path / "daemon.log")

    def start() -> DaemonProcess:
        running.start(ready=False)
        return running

    yield start
    if running.process is not None and running.process.poll() is None:
        running.kill()


def test_on_a_unix_socket_nobody_needs_a_key(
    socket_daemon: Callable[[], DaemonProcess],
    watched: Callable[[Path, int], Watching],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    running = socket_daemon()

    def answers() -> bool:
        return (tmp_path / "a.sock").exists() and command.main(["services", "list"]) == 0

    until("the daemon", answers)
    assert command.main(["orders", "place", "likes", "--quantity", "100", *LINK]) == 0
    capsys.readouterr()
    # It is killed while somebody watches, and started anew: the watch goes on.
    watch = watched(running.config, 1)
    until("the watch", lambda: "order.accepted" in watch.said())
    running.kill()
    socket_daemon()
    assert watch.process.wait(timeout=60) == 0
    assert watch.said().endswith("order 1  completed\n")
    until("the next daemon", answers)  # the watch may have heard of the end from the one before
    assert command.main(["orders", "refill", "1"]) == 0
    assert "REFILL  STATE" in capsys.readouterr().out
    assert command.main(["providers", "pause", "smmplus", "--url", f"unix:{tmp_path}/a.sock"]) == 0
    assert running.terminate() == 0
    capsys.readouterr()
    assert command.main(["orders", "list"]) == 1
    assert f"no daemon answers at unix:{tmp_path}/a.sock" in capsys.readouterr().err
