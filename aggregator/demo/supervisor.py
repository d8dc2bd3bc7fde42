"""Runs the daemon as its own process, as systemd would: restarted when it dies, ended by SIGTERM.

The daemon is on a leash: it ends with the process that runs it, even when that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

PAUSE_S = 1.0
"""A daemon that cannot start must not be started a thousand times a second."""


class Supervisor:
    """One daemon process. `on_restart` hears of a death and the new process id."""

    def __init__(self, config: Path, log: Path, on_restart: Callable[[int, int], None]) -> None:
        self._config = config
        self._log = log
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[int] | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        process = await self._spawn()
        self._watch = asyncio.create_task(self._keep_alive(process))

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "aggregator.demo.leash",
                "run",
                "--config",
                str(self._config),
                # Nothing is ever written; its end is what the daemon waits for.
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for the demo, which then ends the daemon in order.
                start_new_session=True,
            )
        return self._process

    async def _keep_alive(self, process: asyncio.subprocess.Process) -> int:
        """Until `stop` is called and the process has ended; its exit code."""
        while True:
            code = await process.wait()
            if self._stopping.is_set():
                return code
            process = await self._spawn()
            if self._stopping.is_set():  # asked while the process was being made, so nobody has told it yet
                _end(process)
                continue
            self._on_restart(code, self.pid)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), PAUSE_S)

    async def stop(self) -> int:
        """SIGTERM, and wait for the end; its exit code."""
        self._stopping.set()
        if self._watch is None or self._process is None:
            return 0
        _end(self._process)
        return await self._watch


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
