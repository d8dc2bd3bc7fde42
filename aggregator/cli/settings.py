"""The config file as commands read it, with one list of everything that is wrong with it: whole, or what it says of
offers alone, for which no secret is looked up."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregator.cli.failures import BadConfig

if TYPE_CHECKING:
    from aggregator.config import ConfigError, Settings
    from aggregator.config.document import Document


def read_settings(config_path: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the config file, wherever it is found; BadConfig when it cannot be used."""
    from aggregator.config import ConfigError, find_config_path, load

    path = config_path
    try:
        path = find_config_path(config_path, environ, Path.cwd())
        return load(path, environ)
    except ConfigError as exc:
        words = config_words(path, exc)
    raise BadConfig(words)


def config_words(path: Path | None, error: ConfigError) -> str:
    """Every problem, under the file's name."""
    if not any(problem.path for problem in error.problems):
        return str(error)  # it is about the file as a whole, and names it
    count = len(error.problems)
    return f"{path} has {count} problem{'s' if count > 1 else ''}:\n{error}"


def read_raw(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> tuple[Path, Document, bool]:
    """The config file, its values as they are written, and whether others than its owner may read it; BadConfig."""
    from aggregator.config import ConfigError, find_config_path
    from aggregator.config.document import parse

    path = explicit
    try:
        path = find_config_path(explicit, environ, cwd)
        with path.open("rb") as file:
            public = bool(stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077)
            text = file.read().decode("utf-8-sig")
        return path, parse(text, str(path)), public
    except ConfigError as exc:
        words = config_words(path, exc)
    except FileNotFoundError:
        words = f"{path} does not exist"
    except (OSError, UnicodeDecodeError) as exc:
        words = f"{path} cannot be read: {exc.strerror if isinstance(exc, OSError) else 'it is not UTF-8 text'}"
    raise BadConfig(words)


@dataclass(frozen=True, slots=True)
class Offered:
    """What a config says of offers: providers (without their keys), services, currency and rates; and the services as
    they are written there."""

    path: Path
    settings: Settings
    written: Mapping[str, Mapping[str, Any]]


def read_offered(explicit: Path | None, environ: Mapping[str, str] = os.environ, cwd: Path | None = None) -> Offered:
    """The offers of the config file, wherever it is found; BadConfig when they cannot be used."""
    from pydantic import ValidationError

    from aggregator.config import ConfigError, Problem, Settings, Sources
    from aggregator.config.crosscheck import crosscheck
    from aggregator.config.explain import explain
    from aggregator.config.problems import path_text

    path, document, _ = read_raw(explicit, environ, cwd or Path.cwd())
    data = document.data
    part: dict[str, Any] = {
        name: data[name] for name in ("currency", "exchange_rates", "providers", "services") if name in data
    }
    if isinstance(part.get("providers"), dict):
        # Nothing is asked of a provider here, and the key may well be out of an operator's reach.
        part["providers"] = {
            name: {**one, "api_key": "unread"} if isinstance(one, dict) else one
            for name, one in part["providers"].items()
        }
    sources = Sources(environ, path.absolute().parent)
    found = list(crosscheck(part, sources))
    settings = None
    try:
        settings = Settings.model_validate(part, context=sources)
    except ValidationError as exc:
        found += explain(exc, part)
    problems = dict.fromkeys((*document.problems, *(Problem(path_text(place), text) for place, text in found)))
    if settings is None or problems:
        raise BadConfig(config_words(path, ConfigError(problems)))
    return Offered(path, settings, part.get("services") or {})
