"""A planted bug: the mistake that somebody could make at one named point, patched into the program's own functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from tests.simulation.focus import SEED_CHOOSES, Focus

Plant = Callable[[ExitStack], None]
LOST: Final = ("reset_after", "close_after", "short_body_after", "timeout_after")
"""Purchases that were made and of which nobody hears."""
SOON_S: Final = 3600.0
"""Nothing that a planted bug leaves behind is worth hours of waiting."""


@dataclass(frozen=True, slots=True)
class Bug:
    """`plant` patches it in until the stack is closed; one of the seeds must see it.

    `shows` is found in what is broken then, and in nothing that is broken without the bug.
    """

    name: str
    plant: Plant
    shows: str
    focus: Focus = SEED_CHOOSES
    first: int = 0
    seeds: int = 6


def swap(stack: ExitStack, owner: Any, name: str, new: Any) -> None:
    """Put something in the place of an attribute until the stack is closed."""
    context: AbstractContextManager[Any] = patch.object(owner, name, new)
    stack.enter_context(context)
