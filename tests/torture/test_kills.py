"""Real daemons, killed at every named point and in between, on both databases: nothing double, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import SEED
from tests.support.databases import KINDS
from tests.torture.forge import Forge, forge
from tests.torture.harness import torture
from tests.torture.points import POINTS

PARTS: Final = 4
"""Tests per database, so that they can be spread over the workers of a parallel run."""
KILLS: Final = 13
"""Of each part, among them the cold ones."""
COLD: Final = 2
ORDERS_PER_KILL: Final = 3


def _points(kind: str, part: int) -> tuple[str, ...]:
    """Each named point is one part's of one of the databases; which database's changes from run to run."""
    mine = (KINDS.index(kind) + SEED) % len(KINDS) * PARTS + part
    return POINTS[mine :: len(KINDS) * PARTS]


@pytest.fixture(scope="module")
def parent() -> Iterator[Forge]:
    with forge() as made:
        yield made


def test_every_named_point_is_somebodys() -> None:
    assert sorted(point for kind in KINDS for part in range(PARTS) for point in _points(kind, part)) == sorted(POINTS)
    assert len(KINDS) * PARTS * KILLS >= 100


@pytest.mark.parametrize("part", range(PARTS))
def test_a_killed_daemon_buys_nothing_twice_and_loses_nothing(
    parent: Forge, database_url: str, tmp_path: Path, part: int
) -> None:
    points = _points("sqlite" if database_url.startswith("sqlite") else "postgresql", part)
    with torture(parent, tmp_path, database_url, SEED % 1_000_000_000 + part) as work:
        report = work.run(KILLS, ORDERS_PER_KILL, cold=COLD, points=points)
    print(*report.lines(), sep="\n")
    assert report.fine, "\n".join(report.lines())
    assert report.kills >= KILLS
    missed = [point for point in points if not report.by_point[point]]
    assert not missed, f"no kill fell at {', '.join(missed)}: such a point tests nothing"
