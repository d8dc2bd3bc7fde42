"""Secrets: a value that does not show itself, and the places where one may come from.

Decides where `env:`, `file:`, `credential:` and literal values are read and when they are refused. Never puts a value
into a text that somebody might read.
"""

from __future__ import annotations

import hmac
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from aggregator.config.problems import refuse

MASK: Final = "[secret]"
_MAX_FILE_BYTES: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Secret:
    """A value that prints as `[secret]`; `reveal` gives it away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself: for the place that sends, compares or signs with it, never for a text."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class SecretError(ValueError):
    """The secret is missing, empty, or may not stand where it stands; the text is made for the user."""


@dataclass(slots=True)
class Sources:
    """What the file's values are read against: the environment, the file's folder, and who may read the file.

    `seen` collects every value that was met, so that no error text can carry one.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)
    cwd: Path = field(default_factory=Path.cwd)
    public_file: Path | None = None
    """The config file when others may read it too; then it may hold no literal secret."""
    seen: set[str] = field(default_factory=set)

    def resolve(self, text: str, *, lines: bool = False) -> Secret:
        """The secret that `text` names or is; SecretError says what is missing and how to mend it.

        `lines`: it may be several secrets, one a line.
        """
        scheme, colon, name = text.partition(":")
        read: dict[str, Callable[[str], str]] = {
            "env": self._from_environment,
            "file": self._from_file,
            "credential": self._from_credential,
        }
        if colon and scheme in read:
            value = read[scheme](name)
        elif colon and scheme.strip().lower() in read:
            raise SecretError(f"write {scheme.strip().lower()}: in lower case and without spaces around it")
        else:
            value = self._literal(text)
        self.seen.add(value)
        parts = [line for line in re.split(r"\r?\n", value) if line] if lines else [value]
        self.seen.update(parts)
        if any(part != part.strip() or any(ord(char) < 32 or ord(char) == 127 for char in part) for part in parts):
            raise SecretError(
                "holds a control character or spaces at the ends of a line"
                if lines
                else "holds a line break, a control character or spaces at its ends"
            )
        return Secret("\n".join(parts))

    def state_folder(self) -> Path:
        """Where state lives unless the file says otherwise: systemd's $STATE_DIRECTORY, else where we were started."""
        # systemd joins several directories with colons; the first is the service's own.
        return self.cwd / self.environ.get("STATE_DIRECTORY", "").split(":")[0]

    def file_path(self, name: str) -> Path:
        """The path after `file:`, seen from the config file's folder."""
        if not name.strip():
            raise SecretError("file: must be followed by a path")
        return self.folder / name

    def _literal(self, text: str) -> str:
        self.seen.add(text)
        if not text.strip():
            raise SecretError("is empty; give env:NAME, file:/path, credential:NAME or the value")
        if self.public_file is not None:
            command = f"chmod 600 {shlex.quote(str(self.public_file))}"
            raise SecretError(
                "a secret may stand in the file only if its owner alone can read it; "
                f"run: {command}, or give env:NAME, file:/path or credential:NAME"
            )
        return text

    def _from_environment(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise SecretError("env: must be followed by the name of an environment variable")
        value = self.environ.get(name)
        if value is None:
            raise SecretError(
                f"the environment variable {name} is not set; export it, or set it in the service's EnvironmentFile"
            )
        if not value.strip():
            raise SecretError(f"the environment variable {name} is empty")
        return value

    def _from_file(self, name: str) -> str:
        path = self.file_path(name)
        return _read(path, f"the file {path}", "create it with the secret as its only line")

    def _from_credential(self, name: str) -> str:
        if not name or "/" in name or name in {".", ".."}:
            raise SecretError("credential: must be followed by the name of a systemd credential")
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        remedy = f"add LoadCredential={name}:/path/to/secret to the systemd unit"
        if not folder:
            raise SecretError(f"there is no $CREDENTIALS_DIRECTORY to find {name} in; {remedy}")
        return _read(Path(folder) / name, f"the credential {name} in {folder}", remedy)


def _read(path: Path, what: str, remedy: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise SecretError(f"{what} does not exist; {remedy}") from None
    except PermissionError:
        raise SecretError(f"{what} cannot be read by this user; mend its owner or mode") from None
    except IsADirectoryError:
        raise SecretError(f"{what} is a directory; name a file") from None
    except (OSError, ValueError) as exc:
        reason = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else "bad path"
        raise SecretError(f"{what} cannot be read: {reason}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise SecretError(f"{what} is larger than {_MAX_FILE_BYTES} bytes; is it the right file?")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise SecretError(f"{what} is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise SecretError(f"{what} is empty")
    return text


def sources_of(info: ValidationInfo) -> Sources:
    """The sources that `load` passed as pydantic's context; bare ones where a model is made by hand."""
    return info.context if isinstance(info.context, Sources) else Sources()


def _validate(value: object, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise _wrong_type()
    try:
        return sources_of(info).resolve(value)
    except SecretError as exc:
        message = str(exc)
    raise refuse(message)


def _wrong_type() -> PydanticCustomError:
    return refuse("must be text: env:NAME, file:/path, credential:NAME or the value; quote numbers")
