"""Daemons that are killed: a parent that has imported everything forks them, and each may carry one named point at
which it kills itself.

`python -m tests.torture.forge` is that parent: it never runs a loop or a thread, so its children begin as cleanly as a
cold process, only sooner.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tests.support.forked import die_with_parent, serve
from tests.torture.points import Hit, install

LOCKED: Final = 71
"""A child's exit code when another daemon still holds the lock."""


def _deadly(point: str | None, nth: int) -> Hit:
    """Die by SIGKILL when the point is reached the n-th time."""
    left = nth

    def hit(reached: str) -> None:
        nonlocal left
        if reached != point:
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return hit


def _shorten_pauses() -> None:
    """What waits for a minute or ten waits for seconds: nobody watches a torture that long."""
    from aggregator.domain import breaker, pauses
    from aggregator.flow import canceling, refilling

    for module, name, value in (
        (breaker, "FIRST_PAUSE", timedelta(seconds=1)),
        (breaker, "LONGEST_PAUSE", timedelta(seconds=4)),
        (pauses, "_ROUND_PAUSES_S", (1, 1, 2, 4)),
        (canceling, "SOON", timedelta(seconds=2)),
        (refilling, "SOON", timedelta(seconds=2)),
    ):
        assert hasattr(module, name)
        setattr(module, name, value)


def _child(order: Mapping[str, Any], ready: int) -> int:
    """The real daemon, from its config to its end."""
    from aggregator import daemon, log
    from aggregator.config import load
    from aggregator.storage.lock import AlreadyRunning

    die_with_parent()
    with open(order["log"], "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    install(_deadly(order["point"], order["nth"]))
    _shorten_pauses()
    settings = load(Path(order["config"]), {})
    redactor = log.configure(secrets=settings.secrets(), level="WARNING")

    def tell(_: object) -> None:
        os.write(ready, b"R")

    try:
        return asyncio.run(daemon.run(settings, redactor, ready=tell))
    except AlreadyRunning:
        return LOCKED


@dataclass(slots=True)
class Forge:
    """The parent, seen from outside. One daemon at a time."""

    process: subprocess.Popen[bytes]
    _events: deque[dict[str, Any]] = field(default_factory=deque)
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    pid: int | None = None

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._arrived:
                self._events.append(json.loads(line))
                self._arrived.notify_all()

    def wait(self, within_s: float) -> dict[str, Any] | None:
        """The next event; None when none came in time."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._events, within_s)
            return self._events.popleft() if self._events else None

    def start(self, config: Path, log: Path, point: str | None = None, nth: int = 1) -> None:
        order = {"config": str(config), "log": str(log), "point": point, "nth": nth}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        event = self.wait(30)
        assert event is not None, "the parent does not fork"
        assert event["event"] == "started", event
        self.pid = event["pid"]


@contextmanager
def forge() -> Iterator[Forge]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.forge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    made = Forge(process)
    thread = threading.Thread(target=made.listen, daemon=True)
    thread.start()
    try:
        event = made.wait(60)
        assert event == {"event": "serving"}, event
        yield made
    finally:
        if made.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(made.pid, signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=30)
        thread.join(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


if __name__ == "__main__":
    serve(_child)
