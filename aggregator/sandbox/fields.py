"""Strict reading of JSON and YAML objects. Decides whether a field has the right type and range, and names it if not.

Used for fault rules and control bodies; never for provider calls, which are as lax as real panels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal

from .money import amount


class FieldError(ValueError):
    """What is wrong with which field, for example `faults[2].probability: must be at most 1, got 3`."""


class Fields:
    """Takes known fields out of an object one by one; `done` refuses what is left over."""

    def __init__(self, body: object, path: str = "") -> None:
        if not isinstance(body, Mapping):
            raise FieldError(f"{path or 'body'}: must be an object, got {type(body).__name__}")
        self._left: dict[str, object] = {str(name): value for name, value in body.items()}
        self._known: list[str] = []
        self._path = f"{path}." if path else ""

    def has(self, name: str) -> bool:
        """Whether the field is there, null included."""
        self._known.append(name)
        return name in self._left

    def take(self, name: str) -> object:
        """The raw value, None if absent."""
        self._known.append(name)
        return self._left.pop(name, None)

    def text(self, name: str, choices: Iterable[str] = ()) -> str | None:
        """A string, one of `choices` if there are any."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(name, "must be a string", value)
        allowed = sorted(choices)
        if allowed and value not in allowed:
            raise self.error(name, f"must be one of {', '.join(allowed)}", value)
        return value

    def flag(self, name: str) -> bool | None:
        """True or false."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, "must be true or false", value)
        return value

    def integer(self, name: str, low: int = 0, high: int = 10**12) -> int | None:
        """A whole number in a range."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"must be a whole number from {low} to {high}", value)
        return value

    def number(self, name: str, low: float = 0, high: float = 1e9) -> float | None:
        """A finite number in a range; never used for money."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(name, "must be a number", value)
        if not low <= value <= high:
            raise self.error(name, f"must be from {low:g} to {high:g}", value)
        return float(value)

    def money(self, name: str) -> Decimal | None:
        """A plain decimal string, or a whole number; a float is refused because it is not exact."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.error(name, 'must be a plain decimal string such as "0.90"', value)
        try:
            return amount(str(value))
        except ValueError as exc:
            raise FieldError(f"{self._path}{name}: {exc}") from exc

    def texts(self, name: str) -> dict[str, str]:
        """An object of strings."""
        value = self.take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in [*value, *value.values()]):
            raise self.error(name, "must be an object of strings", value)
        return dict(value)

    def done(self) -> None:
        """Refuse every field that nobody took."""
        if self._left:
            known = ", ".join(dict.fromkeys(self._known))
            raise FieldError(f"{self._path}{min(self._left)}: unknown field; known are {known}")

    def error(self, name: str, demand: str, value: object) -> FieldError:
        """The error of one field, with its path and what was there instead."""
        return FieldError(f"{self._path}{name}: {demand}, got {value!r}")
