"""The README's blocks, and whether what they show is what a program really says.

What differs from run to run (times, ports, ids that are drawn, seconds that it took) counts as equal, everything else
has to be there to the letter; `…` stands for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

README: Final = Path(__file__).parents[2] / "README.md"
FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ANYTHING: Final = "…"
VARYING: Final = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?Z"), "TIME"),
    (re.compile(r"-\d{8}T\d{6}Z"), "-TIME"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"\(process \d+, log /[^)]*\)"), "(process N, log FILE)"),
    (re.compile(r"\btime x\d+"), "time xN"),
    (re.compile(r"\b\d+(?:\.\d+)? (s|ms|bytes|events)\b"), r"N \1"),
    (re.compile(r"\[\d/(\d)\]"), r"[N/\1]"),
    (re.compile(r"\bdemo_[\w-]+"), "demo_…"),
    (re.compile(r"\b\d+ of (\d+) left, start count \d+"), r"N of \1 left, start count N"),
    (re.compile(r"\S*/sealing\.key"), "sealing.key"),
    (re.compile(r"\b7\d{5}\b"), "ID"),  # the sandbox counts its orders from 700001 on
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block, and the text between the one before it and it."""

    language: str
    text: str
    before: str


def sections(text: str | None = None) -> dict[str, str]:
    """What stands under each heading, of whatever level, without what stands under the next one."""
    found: dict[str, str] = {}
    name, fenced = "", False
    for line in (README.read_text() if text is None else text).splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            name = line.strip("# \n")
        found[name] = found.get(name, "") + line
    return found


def blocks(section: str) -> list[Block]:
    found, at = [], 0
    for fence in FENCE.finditer(section):
        found.append(Block(fence[1], fence[2], section[at : fence.start()]))
        at = fence.end()
    return found


def plain(text: str) -> str:
    """The line without what varies, and with one space for many."""
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return re.sub(r"\s+", " ", text).strip()


def is_line(shown: str, real: str) -> bool:
    """Whether the real line is the one that is shown."""
    pieces = map(re.escape, plain(shown).split(ANYTHING))
    return re.fullmatch(".*".join(pieces), plain(real)) is not None


def unsaid(shown: str, real: str) -> list[str]:
    """The lines that are shown and that nobody says, in whatever order; each real line stands for one that is shown."""
    said, missing = real.splitlines(), []
    for line in shown.splitlines():
        if plain(line) in ("", ANYTHING):
            continue
        place = next((number for number, one in enumerate(said) if is_line(line, one)), None)
        if place is None:
            missing.append(line)
        else:
            del said[place]
    return missing


def follows(shown: str, real: str) -> bool:
    """Whether the lines that are shown are said one right after the other; where `…` stands alone, others may come in
    between, as they may before and after."""
    wanted = [line for line in shown.splitlines() if plain(line)]
    said = [line for line in real.splitlines() if plain(line)]

    def from_here(want: int, place: int) -> bool:
        if want == len(wanted):
            return True
        if plain(wanted[want]) == ANYTHING:
            return any(from_here(want + 1, later) for later in range(place, len(said) + 1))
        return place < len(said) and is_line(wanted[want], said[place]) and from_here(want + 1, place + 1)

    return any(from_here(0, start) for start in range(len(said)))


def differences(shown: Any, real: Any, path: str = "", drawn: frozenset[str] = frozenset()) -> Iterator[str]:
    """Where a document that is shown, perhaps shortened, is not the real one. Under the names in `drawn` only the kinds
    of values, and the kinds of characters in texts, are compared."""
    name = path.rsplit(".", 1)[-1].split("[")[0]
    if isinstance(shown, dict) and isinstance(real, dict):
        for key, value in shown.items():
            if key in real:
                yield from differences(value, real[key], f"{path}.{key}", drawn)
            else:
                yield f"{path}.{key} is not there"
    elif isinstance(shown, list) and isinstance(real, list):
        if len(shown) != len(real):
            yield f"{path} has {len(real)} entries"
        for number, (one, other) in enumerate(zip(shown, real, strict=False)):
            yield from differences(one, other, f"{path}[{number}]", drawn)
    elif type(shown) is not type(real):
        yield f"{path} is {real!r}"
    elif name in drawn:
        if isinstance(shown, str) and kinds(shown) != kinds(real):
            yield f"{path} is {real!r}"
    elif isinstance(shown, str) and is_line(shown, real):
        return
    elif shown != real:
        yield f"{path} is {real!r}"


def kinds(text: str) -> str:
    """Each run of letters and digits as one sign: what a text that was drawn has in common with another one."""
    return re.sub(r"[A-Za-z0-9]+", "x", text)


def commands(block: str) -> list[tuple[str, str]]:
    """What is typed after each `$ `, and what it says."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    assert not parts[0].strip(), "something stands before the first command"
    typed: Sequence[str] = [re.sub(r" +#.*", "", one) for one in parts[1::2]]
    return list(zip(typed, parts[2::2], strict=True))
