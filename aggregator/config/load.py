"""From a path to Settings: which file is read, and one list of everything that is wrong with it.

Never starts anything and never writes; a file with any problem gives no settings at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from aggregator.config.crosscheck import crosscheck
from aggregator.config.document import Document, parse
from aggregator.config.explain import explain
from aggregator.config.models import Settings
from aggregator.config.problems import ConfigError, Problem, path_text
from aggregator.config.secret import MASK, Sources

SYSTEM_CONFIG: Final = Path("/etc/aggregator/config.yaml")
_MAX_BYTES: Final = 16 * 1024 * 1024


def find_config_path(
    explicit: Path | None, environ: Mapping[str, str], cwd: Path, *, system: Path = SYSTEM_CONFIG
) -> Path:
    """The configuration file: what was asked for, else $AGGREGATOR_CONFIG, ./config.yaml, /etc/aggregator/config.yaml.

    A file that was named by the user is taken even if it does not exist, so that `load` can say so. Raises
    ConfigError with all places when nothing was named and none of them holds a file.
    """
    if explicit is not None:
        return cwd / explicit
    if environ.get("AGGREGATOR_CONFIG"):
        return cwd / environ["AGGREGATOR_CONFIG"]
    places = (cwd / "config.yaml", system)
    for place in places:
        if place.exists():
            return place
    looked = ", ".join(["$AGGREGATOR_CONFIG (not set)", *map(str, places)])
    message = f"no configuration file; looked at: {looked}. Name one with --config, or copy config.example.yaml"
    raise ConfigError([Problem("", message)])


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read and check a whole file. `environ` serves env: secrets, $CREDENTIALS_DIRECTORY and $STATE_DIRECTORY.

    Raises ConfigError with every problem; no text of it carries a secret.
    """
    text, mode = _read(path)
    private = mode & 0o077 == 0
    absolute = Path(os.path.abspath(path))
    sources = Sources(environ, absolute.parent, public_file=None if private else absolute)
    return read_text(text, sources, name=str(path))


def read_text(text: str, sources: Sources, *, name: str = "the configuration") -> Settings:
    """Like `load`, for a text that is already at hand; `name` is what errors call it."""
    document = parse(text, name)
    found: list[tuple[tuple[str | int, ...], str]] = []
    settings = None
    try:
        settings = Settings.model_validate(document.data, context=sources)
    except ValidationError as exc:
        found += explain(exc, document.data)
    found += crosscheck(document.data, sources)
    if settings is None or found or document.problems:
        # Raised here and not in the handler: pydantic's error holds the values.
        raise ConfigError(_in_order(document, found, sources))
    return settings


def _in_order(document: Document, found: list[tuple[tuple[str | int, ...], str]], sources: Sources) -> list[Problem]:
    """All problems in the order of the file, each once, without any secret that was met."""
    listed = [(document.position(path), Problem(path_text(path), _clean(text, sources))) for path, text in found]
    places = {path_text(path): position for path, position in document.order.items()}
    listed += [(places.get(problem.path, -1), problem) for problem in document.problems]
    listed.sort(key=lambda entry: entry[0])
    return list(dict.fromkeys(problem for _, problem in listed))


def _clean(text: str, sources: Sources) -> str:
    for secret in sorted(sources.seen, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, MASK)
    return text


def _read(path: Path) -> tuple[str, int]:
    """The file's text and mode bits, both of the same open file."""
    problem = ""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            problem = f"{path} is larger than {_MAX_BYTES} bytes; is it the right file?"
        else:
            return raw.decode("utf-8-sig"), stat.S_IMODE(mode)
    except FileNotFoundError:
        problem = f"{path} does not exist"
    except IsADirectoryError:
        problem = f"{path} is a directory; name the file in it"
    except PermissionError:
        problem = f"{path} cannot be read by this user; mend its owner or mode"
    except UnicodeDecodeError as exc:
        problem = f"{path} is not UTF-8 text (byte {exc.start})"
    except (OSError, ValueError) as exc:
        reason = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else "bad path"
        problem = f"{path} cannot be read: {reason}"
    raise ConfigError([Problem("", problem)])
