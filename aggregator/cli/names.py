"""Names that commands take: which ones may become part of a path, and what the shell proposes for them after a tab.

Proposals come from the config file alone, unchecked, without its secrets; nobody is asked. A file that cannot be
read proposes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

Proposals = Callable[[click.Context], Iterable[str]]


class Name(click.ParamType):  # type: ignore[type-arg]  # older releases of click know no argument
    """A name of a certain shape. `meant` says in an error what it would have to be."""

    def __init__(self, name: str, shape: str, meant: str, proposals: Proposals) -> None:
        self.name = name
        self._shape = re.compile(shape)
        self._meant = meant
        self._proposals = proposals

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not self._shape.fullmatch(value):
            raise click.BadParameter(f"must be {self._meant}, got {value!r}", ctx, param)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # A name of another shape, with a line break in it, say, would spoil what the shell reads.
        fit = (name for name in self._proposals(ctx) if self._shape.fullmatch(name))
        return [CompletionItem(name) for name in sorted(fit) if name.startswith(incomplete)]


def configured(section: str) -> Proposals:
    """The names in a section of the config that the command would use."""

    def proposals(context: click.Context) -> list[str]:
        from aggregator.config import ConfigError, find_config_path
        from aggregator.config.document import parse

        try:
            path = find_config_path(context.params.get("config_path"), os.environ, Path.cwd())
            found = parse(path.read_text(encoding="utf-8-sig"), str(path)).data.get(section)
        except (ConfigError, OSError, UnicodeDecodeError):
            return []
        if isinstance(found, list):
            found = [entry.get("name") for entry in found if isinstance(entry, dict)]
        return [name for name in found if isinstance(name, str)] if isinstance(found, dict | list) else []

    return proposals


def _event_patterns(_: click.Context) -> list[str]:
    from aggregator.domain.events import EVENT_TYPES

    return ["*", *sorted({f"{event.split('.')[0]}.*" for event in EVENT_TYPES}), *EVENT_TYPES]


_ANY: Final = r"(?s:.*)"
"""Whatever it is, the daemon says best what is wrong with it: it travels in a body or a query."""

provider_name: Final = Name(
    "provider_name",
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    "the name of one of the config's `providers`",
    configured("providers"),
)
endpoint_name: Final = Name(
    "endpoint_name",
    r"[A-Za-z0-9][A-Za-z0-9._:@\[\]-]{0,139}",  # or of a caller's host (`shop@example.com:443`)
    "the name of an endpoint, as `aggregator webhooks list` shows it",
    configured("webhooks"),
)
service_name: Final = Name("text", _ANY, "", configured("services"))
event_pattern: Final = Name("text", _ANY, "", _event_patterns)
