"""Where the running daemon is, and with which key it is asked.

Decides between the command line, the environment and the config file. Of the config file it needs `http.listen` and one
key alone: what the daemon's other secrets come from may well be out of an operator's reach.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aggregator.cli.failures import BadConfig
from aggregator.cli.settings import config_words, read_raw

if TYPE_CHECKING:
    from aggregator.config import Address, Settings

_KEY: Final = re.compile(r"[!-~]+")
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_OTHERWISE: Final = "or name the daemon with --url and its key with --key-file"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of the daemon. `as_json`: how its answers are wanted."""

    url: str | None = None
    key: str | None = field(default=None, repr=False)
    key_file: Path | None = None
    config: Path | None = None
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """One daemon's address, and what lets in there.

    `options` are those that find it once more, `key_from` says where the key stands; neither holds the key itself.
    """

    base: str
    name: str
    socket: Path | None = None
    key: str | None = field(default=None, repr=False)
    key_from: str | None = None
    config: Path | None = None
    options: tuple[str, ...] = ()

    def command(self, *words: str) -> str:
        """A command line to type next, for this same daemon."""
        return shlex.join(["aggregator", *words, *self.options])

    @property
    def how_to_start(self) -> str:
        """The command that starts the daemon at this address."""
        return shlex.join(["aggregator", "run", *(["--config", str(self.config)] if self.config else [])])


def find(asked: Asked, environ: Mapping[str, str] = os.environ, cwd: Path | None = None) -> Target:
    """The daemon to ask: --url, else the config that --config names, else $AGGREGATOR_URL, else the config that is
    found; its key: --key or --key-file, else $AGGREGATOR_KEY, else that config's.

    click.UsageError for an option that cannot be used, BadConfig for a config that does not say.
    """
    cwd = cwd or Path.cwd()
    key, key_from = _given_key(asked, environ)
    options = _options(asked)
    url, said_by = asked.url, "--url"
    if url is None and asked.config is None and environ.get("AGGREGATOR_URL"):
        url, said_by = environ["AGGREGATOR_URL"], "$AGGREGATOR_URL"
    if url is None:
        door = _Door.read(asked.config, environ, cwd)
        base, name, socket = door.place()
        if key is None:
            key, key_from = door.key(environ)
        return Target(base, name, socket, key, key_from, door.path, options)
    base, name, socket = _read_url(url, said_by)
    # The key of a config that only happens to lie here is not sent to whatever address was named.
    if key is None and asked.config is not None:
        key, key_from = _Door.read(asked.config, environ, cwd).key(environ)
    return Target(base, name, socket, key, key_from, None, options)


def _options(asked: Asked) -> tuple[str, ...]:
    given = (("--url", asked.url), ("--key-file", asked.key_file), ("--config", asked.config))
    return tuple(str(part) for option, value in given if value is not None for part in (option, value))


def _given_key(asked: Asked, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    if asked.key is not None and asked.key_file is not None:
        raise click.UsageError("--key and --key-file say the same; give one of them")
    if asked.key is not None:
        key, key_from = asked.key, "--key"
    elif asked.key_file is not None:
        try:
            key, key_from = asked.key_file.read_text().strip(), f"--key-file {asked.key_file}"
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise click.UsageError(f"--key-file: {asked.key_file} cannot be read: {reason}") from None
    elif environ.get("AGGREGATOR_KEY"):
        key, key_from = environ["AGGREGATOR_KEY"], "$AGGREGATOR_KEY"
    else:
        return None, None
    if not _KEY.fullmatch(key):  # never quoted: it is a key, or nearly one
        raise click.UsageError(f"{key_from}: must hold one key, of printable ASCII characters without spaces")
    return key, key_from


def _read_url(url: str, said_by: str) -> tuple[str, str, Path | None]:
    from pydantic_core import PydanticCustomError

    from aggregator.config import parse_address
    from aggregator.config.places import http_url

    try:
        if url.startswith("unix:"):
            return _place(parse_address(url))
        if "?" in http_url(url):
            raise click.UsageError(f"{said_by}: must not hold a query (?…)")
    except PydanticCustomError as exc:
        known = url.startswith(("unix:", "http:", "https:"))
        message = f"{said_by}: {exc.message()}{'' if known else ', or be a socket: unix:/path'}"
    else:
        base = url.rstrip("/")
        return base, base, None
    raise click.UsageError(message)


def _place(address: Address) -> tuple[str, str, Path | None]:
    """How an address that the daemon listens on is reached: base URL, name for people, unix socket."""
    from aggregator.config import TcpAddress

    if not isinstance(address, TcpAddress):
        return "http://localhost", str(address), address.path
    reached = f"http://{TcpAddress(_EVERYWHERE.get(address.host, address.host), address.port)}"
    return reached, reached, None


@dataclass(frozen=True, slots=True)
class _Door:
    """What a config file says of the daemon's doors: the raw `http` and `keys`, unchecked."""

    path: Path
    http: object
    keys: object
    public: bool

    @classmethod
    def read(cls, explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> _Door:
        try:
            path, document, public = read_raw(explicit, environ, cwd)
        except BadConfig as exc:
            raise BadConfig(f"{exc}; {_OTHERWISE}") from None
        return cls(path, document.data.get("http", {}), document.data.get("keys"), public)

    def place(self) -> tuple[str, str, Path | None]:
        """The first unix socket that the daemon listens on, else the first TCP address."""
        from aggregator.config import TcpAddress, UnixAddress

        listen = self._validated({"http": self.http}, {}).http.listen
        sockets = [address for address in listen if isinstance(address, UnixAddress)]
        # Without keys the daemon opens no TCP port.
        ports = [address for address in listen if isinstance(address, TcpAddress)] if self.keys else []
        if not (sockets or ports):
            remedy = "add `keys`, or listen on unix:/path"
            raise BadConfig(f"{self.path}: without keys the daemon opens no TCP port; {remedy}, {_OTHERWISE}")
        chosen = (sockets or ports)[0]
        if isinstance(chosen, TcpAddress) and chosen.port == 0:
            raise BadConfig(f"{self.path}: http.listen takes any free port (0); name the daemon with --url")
        return _place(chosen)

    def key(self, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
        """The first key with the scope admin, else the first one; none where none is configured."""
        if not self.keys:
            return None, None
        entries: list[Any] = self.keys if isinstance(self.keys, list) else [self.keys]
        admins = [place for place, entry in enumerate(entries) if _is_admin(entry)]
        place = admins[0] if admins else 0
        settings = self._validated({"keys": [entries[place]]}, environ, place)
        caller = settings.keys[0]
        current = caller.keys_at(datetime.now(UTC))
        if not current:
            raise BadConfig(f"{self.path}: keys[{place}] has no value that still counts; {_OTHERWISE}")
        return current[0].reveal(), f"keys[{place}] ({caller.name}) in {self.path}"

    def _validated(self, part: dict[str, Any], environ: Mapping[str, str], place: int = 0) -> Settings:
        """A part of the file as settings; BadConfig with its problems, `place` being where its key stood."""
        from pydantic import ValidationError

        from aggregator.config import ConfigError, Problem, Settings, Sources
        from aggregator.config.explain import explain
        from aggregator.config.problems import path_text

        absolute = self.path.absolute()
        sources = Sources(environ, absolute.parent, public_file=absolute if self.public else None)
        try:
            return Settings.model_validate(part, context=sources)
        except ValidationError as exc:
            found = explain(exc, part)
        moved = [((path[0], place, *path[2:]) if path[:2] == ("keys", 0) else path, text) for path, text in found]
        problems = ConfigError(Problem(path_text(path), text) for path, text in moved)
        # Raised here and not in the handler: pydantic's error holds the values.
        raise BadConfig(f"{config_words(self.path, problems)}\n({_OTHERWISE})")


def _is_admin(entry: object) -> bool:
    scopes = entry.get("scopes") if isinstance(entry, dict) else None
    return isinstance(scopes, list) and "admin" in scopes
