"""The demo as a person runs it: a process of its own, which shows what it promises and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.demo.main import free_port
from tests.support.processes import until

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def start(tmp_path: Path, output: Path) -> Iterator[Start]:
    """Starts `aggregator demo`, its files below the test's folder; whatever it left running is killed, and an error."""
    started: list[subprocess.Popen[bytes]] = []
    folder = tmp_path / "demo"

    def run(*argv: str) -> subprocess.Popen[bytes]:
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "aggregator", "demo", "--port", "0", "--keep", str(folder), *argv],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)
    left = _daemons(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "the demo left its daemon running"


def _daemons(folder: Path) -> list[int]:
    """Processes that run with the config of this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(folder / "config.yaml") in words:
            found.append(int(entry.name))
    return found


def test_it_shows_every_order_to_its_end_and_one_purchase_for_each(start: Start, output: Path) -> None:
    code = start("--once", "--speed", "30").wait(timeout=90)
    said = output.read_text()
    assert code == 0, said
    assert "the providers' own ledgers: 5 purchases for 5 orders" in said
    assert re.search(r"webhooks: \d+ events, all signatures verified; \d+ repeated, 0 forged", said)
    assert "webhook  order.dropped" in said
    assert "webhook  refill.completed" in said
    assert "webhook  sms.code" in said
    assert said.endswith("daemon ended with exit code 0\n")
    assert "Traceback" not in said


def test_a_daemon_that_is_killed_is_started_again_and_buys_nothing_twice(start: Start, output: Path) -> None:
    demo = start("--speed", "30")
    until("the fifth order", lambda: "order 5:" in output.read_text())
    found = re.search(r"\(process (\d+),", output.read_text())
    assert found is not None
    os.kill(int(found[1]), signal.SIGKILL)
    until("the end of the orders", lambda: "Ctrl-C ends everything." in output.read_text(), within_s=90)
    said = output.read_text()
    assert "the daemon died (-9); started again as process" in said
    purchases = re.search(r"ledgers: (\d) purchases for 5 orders", said)
    assert purchases is not None
    assert int(purchases[1]) == 5 or ("/resolve" in said and int(purchases[1]) < 5)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=30) == 0
    assert "Traceback" not in output.read_text()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, "sandbox "),
        (signal.SIGINT, "daemon "),
        (signal.SIGINT, "order 1:"),
        (signal.SIGHUP, "ready "),
    ],
)
def test_ended_at_any_moment_it_leaves_nothing(start: Start, output: Path, number: signal.Signals, words: str) -> None:
    demo = start()
    until("the moment", lambda: words in output.read_text(), within_s=90)
    demo.send_signal(number)
    assert demo.wait(timeout=30) == 0, output.read_text()
    assert "Traceback" not in output.read_text()


@pytest.mark.parametrize("words", ["daemon ", "order 1:"])
def test_killed_it_takes_its_daemon_along(start: Start, output: Path, tmp_path: Path, words: str) -> None:
    demo = start()
    until("the moment", lambda: words in output.read_text(), within_s=90)
    assert _daemons(tmp_path / "demo")
    demo.kill()
    assert demo.wait(timeout=30) == -signal.SIGKILL
    until("the daemon's end", lambda: not _daemons(tmp_path / "demo"))


def test_a_port_that_is_taken_is_no_obstacle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)
    assert free_port(port) == port


def test_the_chosen_port_is_nobody_elses_until_the_daemon_has_it() -> None:
    port = free_port(0)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    for _ in range(2):  # as often as the daemon is started again
        with socket.create_server(("127.0.0.1", port)) as daemon, socket.create_connection(("127.0.0.1", port)):
            accepted, _ = daemon.accept()
            accepted.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
