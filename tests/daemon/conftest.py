"""A sandbox and a daemon as real processes, on each kind of database; both are ended with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import DaemonProcess, SandboxProcess, running_sandbox, write_config


@pytest.fixture
def sandbox() -> Iterator[SandboxProcess]:
    with running_sandbox(speed=20) as running:
        yield running


@pytest.fixture
def make_daemon(
    sandbox: SandboxProcess, tmp_path: Path, empty_database_url: str
) -> Iterator[Callable[..., DaemonProcess]]:
    """Writes a config for a daemon on a fresh, empty database; whatever still runs at the end is killed."""
    made: list[DaemonProcess] = []

    def make(**settings: object) -> DaemonProcess:
        daemon = write_config(tmp_path, empty_database_url, sandbox.url, **settings)  # type: ignore[arg-type]
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
