"""`aggregator …` as a real process that begins in a tenth of a second: forked from a parent that imported everything.

`python -m tests.support.forked` is that parent. It runs no loop and no thread, so its children begin as cleanly as a
process from nothing does; they have their own signals, exit codes and log. It ends when its standard input does, and
they end with it.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

_LATE_IMPORTS: Final = (
    "aggregator.cli.main",
    "aggregator.daemon",
    "aggregator.sandbox.server",
    "alembic.command",
    "alembic.script",
    "asyncpg",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.pysqlite",
)


def die_with_parent() -> None:
    """On Linux the kernel ends this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def warm_up() -> None:
    """Import what a daemon and a sandbox import, late imports too."""
    for name in _LATE_IMPORTS:
        importlib.import_module(name)


# --- the parent ---


def _run(order: Mapping[str, Any], _ready: int) -> int:
    """The command, in the child."""
    from aggregator.cli.main import main

    die_with_parent()
    with open(order["log"], "ab", buffering=0) as file, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["aggregator", *order["arguments"]]
    try:
        return int(main() or 0)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)


Child = Callable[[Mapping[str, Any], int], int]
"""What a child does with its order, and the pipe by which it may say that it is ready; its exit code."""


def _fork(order: Mapping[str, Any], child: Child, theirs: Sequence[int]) -> tuple[int, int]:
    """The child's pid, and a pipe that ends when it does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 70
    try:
        for descriptor in (reading, *theirs):
            os.close(descriptor)
        code = child(order, writing)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(child: Child) -> None:
    """Fork a process for each line that comes in; tell its pid, when it says that it is ready, and how it ended."""
    warm_up()
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    children: dict[int, int] = {}
    _say({"event": "serving"})
    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                line = sys.stdin.buffer.readline()
                if not line:
                    return
                pid, pipe = _fork(json.loads(line), child, [selector.fileno(), *children])
                children[pipe] = pid
                selector.register(pipe, selectors.EVENT_READ)
                _say({"event": "started", "pid": pid})
                continue
            if os.read(key.fd, 1):
                _say({"event": "ready", "pid": children[key.fd]})
                continue
            selector.unregister(key.fd)
            os.close(key.fd)
            pid = children.pop(key.fd)
            _, status = os.waitpid(pid, 0)
            _say({"event": "ended", "pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(event: Mapping[str, Any]) -> None:
    print(json.dumps(event), flush=True)


# --- seen from the tests ---


class ForkedProcess:
    """What the tests use of `subprocess.Popen`."""

    def __init__(self, parent: _Parent, pid: int) -> None:
        self._parent = parent
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.wait(0, raises=False)

    def wait(self, timeout: float | None = None, *, raises: bool = True) -> int | None:
        if self.returncode is None:
            self.returncode = self._parent.ended(self.pid, timeout)
        if self.returncode is None and raises:
            raise subprocess.TimeoutExpired(["aggregator"], timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Parent:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self._started: list[int] = []
        self._codes: dict[int, int] = {}
        self._serving = False
        self._news = threading.Condition()
        self._one_at_a_time = threading.Lock()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        with self._news:
            assert self._news.wait_for(lambda: self._serving, 60), "the parent of forked processes does not begin"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            with self._news:
                match event["event"]:
                    case "started":
                        self._started.append(event["pid"])
                    case "ended":
                        self._codes[event["pid"]] = event["code"]
                    case "serving":
                        self._serving = True
                self._news.notify_all()

    def start(self, arguments: Sequence[str], log: Path) -> ForkedProcess:
        assert self._process.stdin is not None
        with self._one_at_a_time:  # each is answered with its own pid
            return self._start(self._process.stdin, arguments, log)

    def _start(self, orders: IO[bytes], arguments: Sequence[str], log: Path) -> ForkedProcess:
        orders.write(json.dumps({"arguments": [*arguments], "log": str(log)}).encode() + b"\n")
        orders.flush()
        with self._news:
            assert self._news.wait_for(lambda: self._started, 30), "the parent does not fork"
            return ForkedProcess(self, self._started.pop(0))

    def ended(self, pid: int, timeout: float | None) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        with self._news:
            self._news.wait_for(lambda: pid in self._codes, timeout)
            return self._codes.pop(pid, None)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._listener.join(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()


_parents: Final[list[_Parent]] = []
_making: Final = threading.Lock()


def start(arguments: Sequence[str], log: Path) -> ForkedProcess:
    """`aggregator` with these arguments; what it writes goes to the end of `log`."""
    with _making:
        if not _parents:
            _parents.append(_Parent())
            atexit.register(_parents[0].close)
    return _parents[0].start(arguments, log)


if __name__ == "__main__":
    serve(_run)
