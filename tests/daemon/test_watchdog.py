"""systemd's watchdog is fed while the daemon goes round, and by no means when a part of it hangs: real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.databases import sqlite_url
from tests.support.processes import WITHIN_S, DaemonProcess, running_sandbox, until, write_config
from tests.support.servers import silent_server
from tests.support.wedged import LIMIT_S

FEED_EVERY_S: Final = 0.1
WATCHDOG_USEC: Final = str(int(3 * FEED_EVERY_S * 1_000_000))
SECRET: Final = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
FED: Final = "WATCHDOG=1"


@dataclass
class Watched:
    """A daemon of which a part can be made to hang, and what it tells the service manager."""

    daemon: DaemonProcess
    manager: socket.socket
    process: subprocess.Popen[bytes]

    def say(self, part: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(part.encode() + b"\n")
        self.process.stdin.flush()

    def hears(self, within_s: float = WITHIN_S) -> str:
        """The next word to the manager; TimeoutError when none comes."""
        self.manager.settimeout(within_s)
        return self.manager.recv(1000).decode()

    def heard(self) -> list[str]:
        """All words that have arrived by now."""
        words = []
        self.manager.setblocking(False)
        while True:
            try:
                words.append(self.manager.recv(1000).decode())
            except BlockingIOError:
                return words

    def stuck(self) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in self.daemon.log.read_text().splitlines()]
        return [line["loops"] for line in lines if line["event"] == "loop_stuck"]


@contextmanager
def watched(daemon: DaemonProcess) -> Iterator[Watched]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, daemon.log.open("ab") as log:
        address = daemon.config.parent / "notify"
        address.unlink(missing_ok=True)
        manager.bind(str(address))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.wedged", str(daemon.config)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": WATCHDOG_USEC},
        )
        daemon.process = process
        with process:
            try:
                one = Watched(daemon, manager, process)
                assert one.hears(2 * WITHIN_S) == "READY=1", daemon.tail()
                yield one
            finally:
                if process.poll() is None:
                    process.kill()


@pytest.fixture(scope="module")
def wedged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("wedged")
    with silent_server() as nobody, watched(write_config(folder, sqlite_url(folder / "orders.db"), nobody)) as one:
        yield one


@pytest.mark.parametrize("part", ["polling", "placement", "delivery", "writer"])
def test_when_a_loop_hangs_the_feeding_stops_and_it_goes_on_when_the_loop_does(wedged: Watched, part: str) -> None:
    while wedged.hears() != FED:
        continue
    before = len(wedged.stuck())
    wedged.say(part)
    until("the word of it", lambda: len(wedged.stuck()) > before)
    wedged.heard()  # what was said until then
    said = len(wedged.stuck())
    until("more of it", lambda: len(wedged.stuck()) >= said + 5)
    assert wedged.heard() == []
    assert all(part in loops for loops in wedged.stuck()[said:])
    alive = wedged.daemon.get("/livez")
    assert (alive.status, part in alive.json()["detail"]) == (503, True)
    wedged.say("free")
    assert wedged.hears() == FED


def test_when_the_whole_process_hangs_the_feeding_stops(wedged: Watched) -> None:
    while wedged.hears() != FED:
        continue
    wedged.say("process")

    def quiet() -> bool:
        # Absence gives no signal: ten times as long as it usually takes.
        wedged.heard()
        try:
            wedged.hears(10 * FEED_EVERY_S)
        except TimeoutError:
            return True
        return False

    until("silence", quiet)
    wedged.say("free")
    assert wedged.hears() == FED


def test_calls_that_take_long_are_no_reason_to_starve_it(tmp_path: Path) -> None:
    """Purchases, polls and webhooks that all wait for somebody far longer than a loop may stay away."""
    enough = int(2 * LIMIT_S / FEED_EVERY_S)
    with running_sandbox(speed=20) as sandbox, silent_server() as nobody:
        hook = f'webhooks: [{{name: shop, url: "{nobody}/hook", secret: {SECRET}}}]'
        daemon = write_config(tmp_path, sqlite_url(tmp_path / "orders.db"), sandbox.url, timeout_s=30, more=hook)
        with watched(daemon) as one:
            until("readiness", lambda: daemon.get("/readyz").status == 200)
            wish = {"service": "plus", "quantity": 100, "link": "https://example.com/first"}
            number = daemon.post("/v1/orders", wish).json()["number"]

            def bought(order: int) -> Any:
                return daemon.get(f"/v1/orders/{order}").json()["provider_order"]

            until("the purchase", lambda: bought(number))
            sandbox.control("faults", [{"fault": "delay", "delay_s": 25}])
            wishes = [{**wish, "link": f"https://example.com/{n}"} for n in range(3)]
            taken = [daemon.post("/v1/orders", one_wish).json()["number"] for one_wish in wishes]

            def underway() -> list[str]:
                return [daemon.get(f"/v1/orders/{order}").json()["state"] for order in taken]

            until("purchases under way", lambda: underway().count("placing") == 3)
            one.heard()
            for _ in range(enough):
                assert one.hears() == FED
            assert underway() == ["placing"] * 3, "they took no longer than a loop may stay away"
