"""What is wrong with a configuration, as values: a path in the file and a sentence for its owner.

Decides how paths and close matches are written. Never sees a secret's value: whoever makes a Problem leaves it out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `path` is where in the file (`keys[0].name`), empty for the file as a whole."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(Exception):
    """The configuration cannot be used; the text lists every problem, one a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def refuse(message: str) -> PydanticCustomError:
    """What a validator raises: the message goes to the user word for word, without the value."""
    # The message is handed over as a value, because pydantic would read braces in the template.
    return PydanticCustomError("refused", "{message}", {"message": message})


def path_text(loc: Sequence[str | int]) -> str:
    """`("keys", 0, "name")` as `keys[0].name`."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean …?`, or the known words where none is close, or nothing where there are none."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f", did you mean {close[0]}?"
    return f"; known here: {', '.join(words)}" if words else ""
