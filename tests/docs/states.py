"""The state diagrams of ARCHITECTURE.md, made from the tables of `aggregator/domain/orders.py`.

`python -m tests.docs.states` (`make diagram`) writes them anew. States that have the same moves stand in one box: an
arrow to or from a box means each state in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from aggregator.domain.orders import FINAL, FOLLOWED, PARENT_TRANSITIONS, TRANSITIONS, OrderState

ARCHITECTURE: Final = Path(__file__).parents[2] / "ARCHITECTURE.md"
Table = Mapping[OrderState, frozenset[OrderState]]
TABLES: Final[Mapping[str, Table]] = {"states": TRANSITIONS, "parents": PARENT_TRANSITIONS}
BOXES: Final[Mapping[str, tuple[frozenset[OrderState], str]]] = {
    "bought": (FOLLOWED, "bought, each may follow each"),
    "over": (FINAL, "over, one may be corrected into another"),
}
WHY: Final[Mapping[tuple[str, str, str], str]] = {
    ("states", "accepted", "placing"): "the intent is on disk",
    ("states", "accepted", "canceled"): "by the caller",
    ("states", "accepted", "failed"): "nobody took it in time, or the caller's own fault",
    ("states", "placing", "accepted"): "refused, or never sent",
    ("states", "placing", "unclear"): "the answer was lost",
    ("states", "unclear", "accepted"): "not bought, by proof or by a person's word",
    ("states", "unclear", "bought"): "bought, by a person's word",
}
"""What is said beside an arrow; the tables themselves do not say why. Mermaid takes no colon and no semicolon in it."""


def boxed(table: Table) -> dict[OrderState, str]:
    """The box of each state, where all of a box are there, lead to each other, and have the same moves out of it."""
    found: dict[OrderState, str] = {}
    for box, (members, _) in BOXES.items():
        together = all(members <= table.get(one, frozenset()) | {one} for one in members)
        if together and len({table[one] - members for one in members}) == 1:
            found |= dict.fromkeys(members, box)
    return found


def arrows(table: Table) -> Iterator[tuple[str, str]]:
    """Every move of the table, those of a box once; a move within a box is what its name says."""
    boxes, seen = boxed(table), set()
    for state in OrderState:
        start = boxes.get(state, str(state))
        ends = table.get(state, frozenset())
        for end in OrderState:
            box = boxes.get(end)
            if end not in ends or (box is not None and box == start):
                continue
            whole = box is not None and BOXES[box][0] <= ends
            arrow = start, box if whole and box is not None else str(end)
            if arrow not in seen:
                seen.add(arrow)
                yield arrow


def diagram(name: str) -> str:
    """The diagram of a table, in Mermaid, which GitHub draws."""
    table = TABLES[name]
    boxes, pairs = boxed(table), list(arrows(table))
    lines = ["stateDiagram-v2", "    [*] --> accepted"]
    for box, (_, title) in BOXES.items():
        if members := [str(state) for state in OrderState if boxes.get(state) == box]:
            lines += [f'    state "{title}" as {box} {{', *(f"        {member}" for member in members), "    }"]
    for start, end in pairs:
        why = WHY.get((name, start, end))
        lines.append(f"    {start} --> {end}" + (f" : {why}" if why else ""))
    return "\n".join(lines)


def written(text: str) -> str:
    """The document with each diagram as it has to be; ValueError where there is no place for one."""
    for name in TABLES:
        block = re.compile(rf"(<!-- {name}: [^\n]*-->\n```mermaid\n).*?(\n```)", re.DOTALL)
        text, places = block.subn(lambda found, n=name: found[1] + diagram(n) + found[2], text)  # type: ignore[misc]
        if places != 1:
            raise ValueError(f"ARCHITECTURE.md has {places} places for the diagram {name}")
    return text


if __name__ == "__main__":
    ARCHITECTURE.write_text(written(ARCHITECTURE.read_text()))
