"""Secrets in what the suite stored, logged or was answered: looked for at the end of each test that had any.

Known are those of every config that was loaded and every one that a redactor was told of, in this process, and those
in the configs of daemons that run as processes. They are looked for as they are and in the ways that programs echo
them. Whether the program's own redactor knows these ways is not asked: this is another look at the same thing.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sqlalchemy import Connection, inspect, make_url, text

from aggregator.config import ConfigError, Settings, load
from aggregator.log import MIN_SECRET_LENGTH, Redactor

if TYPE_CHECKING:
    from tests.support.processes import DaemonProcess

_known: Final[set[str]] = set()
_daemons: Final[list[_Watched]] = []


def forms(secret: str) -> set[bytes]:
    """The secret as it is, in a URL, in JSON, in base64 wherever it begins, and in hexadecimal (PostgreSQL's bytes)."""
    raw = secret.encode()
    found = {raw, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), raw.hex().encode()}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).rstrip(b"=")
        found.add(encoded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6])
    return {form for form in found if len(form) >= MIN_SECRET_LENGTH}


def found_in(data: bytes, secrets: Iterable[str]) -> list[str]:
    """Which secrets stand in the data, each by the beginning that tells which one it is."""
    return sorted({f"{secret[:8]}…" for secret in secrets for form in forms(secret) if form in data})


# --- in this process ---


def watch() -> None:
    """From now on it is known which secrets there are. Called once, before any test."""
    secrets, add = Settings.secrets, Redactor.add

    def noted_secrets(self: Settings) -> Iterator[str]:
        for secret in secrets(self):
            _note(secret)
            yield secret

    def noted_add(self: Redactor, secret: str) -> None:
        _note(secret)
        add(self, secret)

    Settings.secrets = noted_secrets  # type: ignore[method-assign]
    Redactor.add = noted_add  # type: ignore[method-assign]


def _note(secret: str) -> None:
    if len(secret) >= MIN_SECRET_LENGTH:  # shorter ones are not redacted, which the README says
        _known.add(secret)


def forget() -> None:
    """A test begins: what earlier ones had is no concern of it."""
    _known.clear()


def in_rows(connection: Connection) -> list[str]:
    """Which of the known secrets stand in any column of any table."""
    if not _known:
        return []
    if connection.dialect.name == "sqlite":
        name = make_url(str(connection.engine.url)).database or ""
        return in_sqlite(Path(name), _known)
    tables = inspect(connection).get_table_names()
    rows = connection.execute(text(" UNION ALL ".join(f'SELECT t::text FROM "{one}" t' for one in tables)))
    return found_in("\n".join(rows.scalars()).encode(), _known)


def in_sqlite(path: Path, secrets: Iterable[str]) -> list[str]:
    """The same for a file, byte by byte: what was deleted and what waits in the log beside it, too."""
    files = [file for file in path.parent.glob(f"{path.name}*") if file.is_file()]
    return found_in(b"\n".join(file.read_bytes() for file in files), secrets)


# --- daemons as processes ---


class _Watched:
    """A daemon, and how far its log was read."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self._read = 0
        self._config: tuple[float, frozenset[str]] = (0.0, frozenset())

    def secrets(self) -> frozenset[str]:
        """Those of its config as it is now, and those that it had."""
        try:
            changed = self.daemon.config.stat().st_mtime
            if changed != self._config[0]:
                settings = load(self.daemon.config, {**os.environ, **self.daemon.environ})
                now = {secret for secret in settings.secrets() if len(secret) >= MIN_SECRET_LENGTH}
                self._config = changed, self._config[1] | now
        except (ConfigError, OSError):
            pass  # a config that is wrong on purpose, or gone with its folder
        return self._config[1]

    def leaks(self) -> Iterator[str]:
        secrets = self.secrets()
        if not secrets:
            return
        with suppress(OSError), self.daemon.log.open("rb") as log:
            log.seek(self._read)
            said = log.read()
            self._read = log.tell()
            for one in found_in(said, secrets):
                yield f"{one} in {self.daemon.log.name}"
        for path in self.daemon.config.parent.glob("*.db"):
            for one in in_sqlite(path, secrets):
                yield f"{one} in {path.name}"

    @property
    def over(self) -> bool:
        return self.daemon.process is None or self.daemon.process.poll() is not None


def started(daemon: DaemonProcess) -> None:
    """This one is looked at, until it has ended."""
    if not any(one.daemon is daemon for one in _daemons):
        _daemons.append(_Watched(daemon))


def answered(daemon: DaemonProcess, path: str, body: bytes) -> None:
    """AssertionError when an answer of the daemon holds a secret of its config."""
    for watched in _daemons:
        if watched.daemon is daemon:
            assert not (found := found_in(body, watched.secrets())), f"{path} tells {', '.join(found)}"


def of_daemons() -> list[str]:
    """What daemons have logged and stored that they must not; those that have ended are looked at a last time."""
    found = [leak for watched in _daemons for leak in watched.leaks()]
    _daemons[:] = [watched for watched in _daemons if not watched.over]
    return found
