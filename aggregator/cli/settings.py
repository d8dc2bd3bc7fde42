"""The config file as commands read it, whole, with one list of everything that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.cli.failures import BadConfig

if TYPE_CHECKING:
    from aggregator.config import ConfigError, Settings


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
