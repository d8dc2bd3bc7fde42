"""What systemd is told, over its datagram socket."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.notify import Notifier


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(5)
        yield listening


def test_states_arrive_one_by_one_at_a_socket_in_the_file_system(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager(path) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        for state in ("READY=1", "WATCHDOG=1", "STOPPING=1\nSTATUS=Bye…"):
            notifier.send(state)
            assert listening.recv(1000) == state.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_leading_at_sign_is_the_abstract_namespace() -> None:
    name = f"aggregator-test-{os.getpid()}"
    with manager(f"\0{name}") as listening:
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).send("READY=1")
        assert listening.recv(1000) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_a_manager_no_socket_is_even_made(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    Notifier(environ).send("READY=1")


@pytest.mark.parametrize("address", ["gone", "x" * 4000, "vsock:2:1234"])
def test_a_manager_that_cannot_be_reached_is_no_reason_to_fail(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Notifier({"NOTIFY_SOCKET": address}).send("READY=1")
    assert list(tmp_path.iterdir()) == []


def test_a_manager_that_went_away_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager(path):
        notifier = Notifier({"NOTIFY_SOCKET": path})
        notifier.send("READY=1")
    notifier.send("STOPPING=1")


def test_a_manager_that_hears_nothing_any_more_holds_nobody_up(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager(path) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        for _ in range(1000):
            notifier.send("WATCHDOG=1", wait_s=0)  # its queue takes a few
        notifier.send("STOPPING=1", wait_s=0.01)
        assert listening.recv(1000) == b"WATCHDOG=1"


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with manager(path) as listening:
        Notifier().send("READY=1")
        assert listening.recv(1000) == b"READY=1"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("30000000", 30.0), ("500000", 0.5), ("0", None), ("", None), ("-1", None), ("soon", None), ("²", None)],
)
def test_the_watchdogs_interval_is_read_and_zero_is_none(given: str, seconds: float | None) -> None:
    assert Notifier({"WATCHDOG_USEC": given}).watchdog_s == seconds
