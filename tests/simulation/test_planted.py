"""Does the simulation see? Each bug is planted alone and must show within a few seeds; nothing of it shows without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from aggregator.flow.base import Wakeups
from tests.conftest import SEED
from tests.simulation.focus import SEED_CHOOSES
from tests.simulation.planted import aftercare, claims, events, evidence, following, purchases
from tests.simulation.planted.bug import Bug, swap
from tests.simulation.seeds import Simulator, simulator

BUGS = (*purchases.BUGS, *claims.BUGS, *events.BUGS, *following.BUGS, *evidence.BUGS, *aftercare.BUGS)


@pytest.fixture(scope="module")
def on_sqlite() -> Iterator[Simulator]:
    with simulator() as made:
        yield made


def _shown(on_sqlite: Simulator, bug: Bug, seed: int) -> list[str]:
    return [line for line in on_sqlite.run(seed, bug.focus).violations if re.search(bug.shows, line)]


PARTS: Final = 2
"""A run plants every second bug: which ones, its seed says."""


@pytest.mark.parametrize("bug", BUGS[SEED % PARTS :: PARTS], ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(on_sqlite: Simulator, bug: Bug) -> None:
    for seed in range(bug.first, bug.first + bug.seeds):
        with ExitStack() as stack:
            bug.plant(stack)
            shown = _shown(on_sqlite, bug, seed)
        if shown:
            assert _shown(on_sqlite, bug, seed) == [], "the same shows without the bug"
            return
    pytest.fail(f"{bug.name}: not seen by the seeds {bug.first}:{bug.first + bug.seeds}")


def test_lost_wake_ups_are_no_bug(on_sqlite: Simulator) -> None:
    """Every hint is lost; what is due is found all the same."""
    with ExitStack() as stack:
        swap(stack, Wakeups, "wake", lambda self, *names: None)
        for seed in range(4):
            assert on_sqlite.run(seed, SEED_CHOOSES).violations == []
