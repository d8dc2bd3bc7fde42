"""Runs the daemon as its own process, as systemd would: restarted when it dies, ended by SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path


class Supervisor:
    """One daemon process. `on_restart` hears of a death and the new process id."""

    def __init__(self, config: Path, log: Path, on_restart: Callable[[int, int], None]) -> None:
        self._config = config
        self._log = log
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_alive())

    async def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "aggregator",
                "run",
                "--config",
                str(self._config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for the demo, which then ends the daemon in order.
                start_new_session=True,
            )

    async def _keep_alive(self) -> None:
        while not self._stopping:
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping:
                return
            await self._spawn()
            self._on_restart(code, self.pid)
            # A daemon that cannot start must not be started a thousand times a second.
            await asyncio.sleep(1)

    async def stop(self) -> int:
        """SIGTERM, and wait for the end; its exit code."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()
