"""Every test of the command runs in a folder of its own, with an environment that says nothing.

Those that ask a running daemon share one with their module, and a sandbox; both are real processes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.cli.support import Shell
from tests.support.databases import sqlite_url, violations
from tests.support.processes import KEY, DaemonProcess, SandboxProcess, running_sandbox, write_config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in (
        *("AGGREGATOR_CONFIG", "AGGREGATOR_URL", "AGGREGATOR_KEY"),
        *("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY"),
    ):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    # Commands set up logging for their whole process.
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with running_sandbox(speed=20) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(sandbox: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One daemon for all tests here; each places orders of its own."""
    folder = tmp_path_factory.mktemp("operate")
    url = sqlite_url(folder / "aggregator.db")
    running = write_config(folder, url, sandbox.url, timeout_s=2)
    running.start()
    try:
        running.synced()
        yield running
        assert running.terminate() == 0
    finally:
        if running.process is not None and running.process.poll() is None:
            running.kill()
    assert KEY not in running.log.read_text()
    assert not violations(url)


@pytest.fixture
def shell(daemon: DaemonProcess, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(daemon.config, capsys)
