"""From pydantic's errors to sentences for the owner of the file.

Decides the wording and whether a wrong value may be quoted. Never quotes a value where a secret may stand.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final, Union

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aggregator.config.models import Settings
from aggregator.config.problems import did_you_mean
from aggregator.config.values import Model

_SECRET_NAMES: Final = frozenset({"key", "api_key", "value", "secret", "callback_secret", "sealing_key", "database"})

_MESSAGES: Final = {
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entry",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping (name: value)",
    "mapping_type": "must be a mapping (name: value)",
    "model_type": "must be a mapping (name: value)",
    "missing": "is required",
}
_CONTAINERS: Final = frozenset({"tuple_type", "dict_type", "mapping_type", "model_type"})
_UNQUOTED: Final = frozenset({"missing", "refused", "too_long", "too_short", "string_too_long"})


def explain(error: ValidationError, data: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """Each error as (path, message); `data` is what was validated."""
    return [
        (_path(detail["loc"], data), _message(detail))
        for detail in error.errors(include_url=False)
        if detail["type"] != "default_factory_not_called"
    ]


def _path(loc: tuple[str | int, ...], data: object) -> tuple[str | int, ...]:
    """Where in the file: without pydantic's own steps into a single value that it took for a list."""
    path: list[str | int] = []
    for part in loc:
        if part == "[key]" or not isinstance(data, dict | list):
            break
        path.append(part)
        known = part in data if isinstance(data, dict) else isinstance(part, int) and part < len(data)
        data = data[part] if known else {}  # type: ignore[index]
    return tuple(path)


def _message(detail: ErrorDetails) -> str:
    kind, loc, context, value = detail["type"], detail["loc"], detail.get("ctx", {}), detail["input"]
    if kind == "refused":
        return str(context["message"])
    if kind == "extra_forbidden":
        return f"unknown setting{did_you_mean(str(loc[-1]), _known_names(loc[:-1]))}"
    if kind == "literal_error":
        return f"must be one of {_choices(loc)}{_got(loc, value)}"
    message = _MESSAGES.get(kind)
    text = message.format(**context) if message else detail["msg"]
    if kind in _UNQUOTED:
        return text
    if kind in _CONTAINERS:
        remedy = "; remove the name, or write [] or {}" if value is None else ""
        return f"{text}, got {_noun(value)}{remedy}"
    hint = "; put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
    return text + _got(loc, value) + hint


def _got(loc: tuple[str | int, ...], value: object) -> str:
    if any(part in _SECRET_NAMES for part in loc if isinstance(part, str)):
        return f", got {_noun(value)}"
    if value is None or isinstance(value, bool | int | float):
        return f", got {_noun(value) if value is None else json.dumps(value)}"
    if isinstance(value, str):
        return f', got "{value[:60]}"' if value.isprintable() else ""
    return f", got {_noun(value)}"


def _noun(value: object) -> str:
    names: dict[type, str] = {
        type(None): "nothing",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), "something else")


def _choices(loc: tuple[str | int, ...]) -> str:
    found = _at(loc)
    return ", ".join(str(choice) for choice in typing.get_args(found))


def _known_names(loc: tuple[str | int, ...]) -> list[str]:
    found = _at(loc)
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, Model) else []


def _at(loc: tuple[str | int, ...]) -> Any:
    """The type of what stands at `loc`, without annotations and `| None`; None where there is no such place."""
    found: Any = Settings
    for part in loc:
        if isinstance(found, type) and issubclass(found, Model):
            found = found.model_fields[str(part)].annotation if part in found.model_fields else None
        else:
            # A mapping's values come last, as do a tuple's entries before the ellipsis.
            found = next((a for a in reversed(typing.get_args(found)) if a is not Ellipsis), None)
        found = _bare(found)
    return found


def _bare(found: Any) -> Any:
    while True:
        origin = typing.get_origin(found)
        if origin is Annotated:
            found = typing.get_args(found)[0]
        elif origin in {Union, types.UnionType}:
            found = next(a for a in typing.get_args(found) if a is not type(None))
        elif origin is not None and hasattr(origin, "__metadata__"):
            found = origin[typing.get_args(found)]
        else:
            return found
