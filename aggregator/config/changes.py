"""What differs between two configurations, by path, and what of it a running daemon cannot take over.

Decides no more than that; no value is part of what it says, so no secret can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from aggregator.config.models import Settings
from aggregator.config.problems import Problem, path_text
from aggregator.config.values import Model

_FIXED: Final = ("database", "http", "sealing_key")
"""What is opened once, at the start."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting, or one entry of a table or a list of names (`providers.smmplus`, `webhooks.shop`)."""

    path: str
    how: Literal["added", "removed", "changed"]


def changes(before: Settings, after: Settings) -> tuple[Change, ...]:
    """In the order of the file's settings; empty when both mean the same."""
    return tuple(_changes((), before, after))


def needs_restart(before: Settings, after: Settings) -> tuple[Problem, ...]:
    """What changed and is read at the start alone."""
    found = [one.path for one in changes(before, after) if one.path.partition(".")[0].partition("[")[0] in _FIXED]
    # The first key opens TCP ports, and without the last one they close.
    if before.listen != after.listen and not found:
        found.append("keys")
    return tuple(Problem(path, "is read at the start alone; restart the daemon to apply this") for path in found)


def _changes(path: tuple[str, ...], before: object, after: object) -> Iterator[Change]:
    old, new = _entries(before), _entries(after)
    if old is None or new is None or type(before) is not type(after):
        if before != after:
            yield Change(path_text(path), "changed")
        return
    for name in [*old, *(name for name in new if name not in old)]:
        inner = (*path, name)
        if name not in new:
            yield Change(path_text(inner), "removed")
        elif name not in old:
            yield Change(path_text(inner), "added")
        else:
            yield from _changes(inner, old[name], new[name])
    if list(old) != list(new) and old.keys() == new.keys():
        yield Change(path_text(path), "changed")  # their order says which comes first


def _entries(value: object) -> Mapping[str, object] | None:
    """What a value consists of, by name; None for one that is compared as a whole."""
    if isinstance(value, Model):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple):
        named = {str(one.name): one for one in value if isinstance(one, Model) and hasattr(one, "name")}
        return named if len(named) == len(value) else None
    return None
