"""One way to print: JSON for programs, words for people."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click


def emit(data: Mapping[str, object], as_json: bool, words: str) -> None:
    """Print `data` as one JSON object, or else the words."""
    click.echo(json.dumps(data, ensure_ascii=False) if as_json else words)
