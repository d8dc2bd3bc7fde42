"""ARCHITECTURE.md shows the moves that the tables allow, and names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aggregator.domain.orders import OrderState
from tests.docs.states import ARCHITECTURE, BOXES, TABLES, WHY, arrows, boxed, diagram, written

ROOT = Path(__file__).parents[2]


def test_the_diagrams_are_those_of_the_tables() -> None:
    assert written(ARCHITECTURE.read_text()) == ARCHITECTURE.read_text(), "make diagram writes them anew"


@pytest.mark.parametrize("name", TABLES)
def test_a_diagram_shows_every_move_and_no_other(name: str) -> None:
    table = TABLES[name]
    boxes = boxed(table)

    def members(place: str) -> set[OrderState]:
        return {state for state in OrderState if str(state) == place or boxes.get(state) == place}

    shown = {(start, end) for one, other in arrows(table) for start in members(one) for end in members(other)}
    for box, (states, _) in BOXES.items():
        if box in boxes.values():
            shown |= {(start, end) for start in states for end in states if start != end}
    assert shown == {(start, end) for start, ends in table.items() for end in ends}
    drawn = re.findall(r"^ +(\w+) --> (\w+)", diagram(name), re.MULTILINE)
    assert drawn == list(arrows(table))


def test_every_reason_stands_beside_an_arrow() -> None:
    assert {(name, *arrow) for name in TABLES for arrow in arrows(TABLES[name])} >= set(WHY)
    assert not any(set(why) & set(":;\n") for why in WHY.values()), "Mermaid would end the text there"


def test_a_table_that_changes_changes_its_diagram(monkeypatch: pytest.MonkeyPatch) -> None:
    before = diagram("states")
    less = {**TABLES["states"], OrderState.PENDING: frozenset({OrderState.COMPLETED})}
    monkeypatch.setitem(TABLES, "states", less)
    assert diagram("states") != before
    assert "bought" not in boxed(less).values()
    with pytest.raises(ValueError, match="0 places"):
        written("nothing")
