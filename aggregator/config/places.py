"""Where the daemon listens, keeps its data and sends to: addresses, the database, the sealing key, URLs.

Decides which of them are well formed and safe. Never opens, resolves or creates any.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from aggregator.config.problems import refuse
from aggregator.config.secret import Secret, SecretError, Sources, sources_of

_MAX_SOCKET_PATH: Final = 107  # bytes of sockaddr_un.sun_path on Linux, without the closing NUL: unix(7)
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """`host:port` to listen on; port 0 means any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost counts as reachable from outside."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket to listen on."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(value: object) -> Address:
    """Read `host:port`, `[v6]:port` or `unix:/path`; a refusal that says what is wrong otherwise."""
    if isinstance(value, TcpAddress | UnixAddress):
        return value
    if not isinstance(value, str):
        raise refuse('must be text such as "127.0.0.1:8080", "[::1]:8080" or "unix:/run/aggregator.sock"')
    if value.startswith("unix:"):
        return _unix_address(value.removeprefix("unix:"))
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise refuse(f"must end in a colon and a port from 0 to 65535, got {value!r}")
    bare = host.removeprefix("[").removesuffix("]")
    if host != bare or ":" in host:
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise refuse(f"must hold an IPv6 address within its brackets, got {value!r}") from None
        if host != f"[{bare}]":
            raise refuse(f"an IPv6 address needs brackets: [{bare}]:{port}")
    elif not _HOST.fullmatch(host):
        raise refuse(f"needs a host before the port (every address: 0.0.0.0), got {value!r}")
    return TcpAddress(bare, int(port))


def _unix_address(path: str) -> UnixAddress:
    if not path.startswith("/") or "\0" in path:
        raise refuse(f"a unix socket needs a path from the root, such as unix:/run/aggregator.sock, got {path!r}")
    if len(path.encode()) > _MAX_SOCKET_PATH:
        raise refuse(f"a unix socket's path may have {_MAX_SOCKET_PATH} bytes, this one has {len(path.encode())}")
    return UnixAddress(Path(path))


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseUrl:
    """Which database: a SQLite file (`path`, absolute) or PostgreSQL. Prints without the password it may hold."""

    kind: Literal["sqlite", "postgresql"]
    path: Path | None
    url: Secret

    def reveal(self) -> str:
        """The whole URL: `sqlite:////absolute/path` or `postgresql://…`, password included."""
        return self.url.reveal()

    @property
    def passwords(self) -> tuple[str, ...]:
        """The password as it stands in the URL and decoded; empty where there is none."""
        found = _passwords(self.url.reveal())
        return tuple(dict.fromkeys((*found, *map(unquote, found))))

    def __repr__(self) -> str:
        text = self.url.reveal()
        if self.kind == "sqlite":
            return text
        # Options may carry a password as well, so they are left out whole.
        return re.sub(r"://([^/@:]*):[^/]*@", r"://\1:***@", text.partition("?")[0])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _database_url, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


def _passwords(url: str) -> tuple[str, ...]:
    authority = re.match(r"[a-z]+://[^/@:]*:([^/]*)@", url)
    option = re.findall(r"[?&](?:password|sslpassword)=([^&]*)", url)
    return tuple(filter(None, [authority[1] if authority else "", *option]))


def _database_url(value: object, info: ValidationInfo) -> DatabaseUrl:
    if isinstance(value, DatabaseUrl):
        return value
    if not isinstance(value, str):
        raise refuse("must be text: sqlite:///file or postgresql://user@host/name")
    sources = sources_of(info)
    try:
        return parse_database_url(value, sources)
    except SecretError as exc:
        message = str(exc)
    raise refuse(message)


def parse_database_url(text: str, sources: Sources) -> DatabaseUrl:
    """Read the `database` setting: a URL, or where a secret one is kept (`env:NAME` and the like).

    A relative SQLite path is one below $STATE_DIRECTORY, or below the current directory where systemd sets none.
    """
    if text.partition(":")[0] in {"env", "file", "credential"}:
        text = sources.resolve(text).reveal()
    elif _passwords(text):
        sources.seen.update(_passwords(text))
        sources.resolve(text)  # for its refusal: the password is a literal secret
    if text.startswith("sqlite:///"):
        return _sqlite(text.removeprefix("sqlite:///"), sources)
    if text.startswith("postgresql://"):
        try:
            parts = urlsplit(text)
            usable = parts.port != 0 and bool(parts.path.strip("/"))
        except ValueError:
            usable = False
        if not usable or parts.fragment or re.search(r"\s", text):
            raise SecretError("must look like postgresql://user@host:5432/name")
        return DatabaseUrl("postgresql", None, Secret(text))
    if text.startswith(("postgres://", "postgresql+")):
        raise SecretError("must begin with postgresql://, without a driver's name")
    raise SecretError("must be sqlite:///file or postgresql://user@host/name")


def _sqlite(name: str, sources: Sources) -> DatabaseUrl:
    if not name or name.endswith("/"):
        raise SecretError("must name a file: sqlite:///aggregator.db, or from the root sqlite:////srv/aggregator.db")
    if name == ":memory:" or name.startswith("file:"):
        raise SecretError("must be a file on disk; orders in memory would be lost")
    if "?" in name or "\0" in name:
        raise SecretError("takes no options after the file's name")
    path = sources.state_folder() / name
    return DatabaseUrl("sqlite", path, Secret(f"sqlite:///{path}"))


@dataclass(frozen=True, slots=True)
class SealingKey:
    """What seals delivered accounts at rest: a file, which storage reads and may create, or the value itself.

    Exactly one of the two is set; either may hold several keys, one a line, of which the first one seals. Config looks
    into no file: on the first start there is none yet.
    """

    file: Path | None = None
    value: Secret | None = None

    def __str__(self) -> str:
        return f"file:{self.file}" if self.file else str(self.value)


def read_sealing_key(value: object, info: ValidationInfo) -> SealingKey:
    """Read the `sealing_key` setting; None stands for `sealing.key` beside the database."""
    sources = sources_of(info)
    if isinstance(value, SealingKey):
        return value
    if value is None:
        database: DatabaseUrl | None = info.data.get("database")
        folder = database.path.parent if database and database.path else sources.state_folder()
        return SealingKey(file=folder / "sealing.key")
    if not isinstance(value, str):
        raise refuse("must be text: file:/path, env:NAME, credential:NAME or the value; quote numbers")
    try:
        if value.startswith("file:"):
            return SealingKey(file=sources.file_path(value.removeprefix("file:")))
        # While keys are changed, the new one and the old one stand there together.
        return SealingKey(value=sources.resolve(value, lines=True))
    except SecretError as exc:
        message = str(exc)
    raise refuse(message)


def http_url(value: str) -> str:
    """The URL unchanged, if it is http or https, with a host and without user info or fragment.

    The refusals never quote it: people put keys into URLs.
    """
    if not value.isprintable() or " " in value:
        raise refuse("must be a URL without spaces or control characters")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise refuse("must be a URL with a valid host and port") from None
    if parts.scheme not in {"http", "https"}:
        raise refuse("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise refuse("must not hold a user name or password")
    if not parts.hostname or port == 0:
        raise refuse("must be a URL with a valid host and port")
    if "#" in value:
        raise refuse("must not hold a fragment (#…)")
    return value


def count_url(value: str) -> str:
    """An http(s) URL whose host is literal and whose only placeholder is `{link}`."""
    http_url(value)
    if re.search(r"[{}]", urlsplit(value).netloc):
        raise refuse("must have a literal host; {link} may stand only in its path or query")
    if re.search(r"[{}]", value.replace("{link}", "")):
        raise refuse("knows no other placeholder than {link}")
    return value


def network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read `10.0.0.0/8` or a single address."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if not isinstance(value, str):
        raise refuse('must be text such as "10.0.0.0/8"')
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise refuse(f'must be a network such as "10.0.0.0/8", got {value!r}') from None
    raise refuse(f"has bits set after its prefix; did you mean {loose}?")
