"""A day of the daemon: nothing grows that should stay, nothing runs hot, all that is due comes at its time."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import SEED
from tests.simulation.day import verdict
from tests.simulation.day.day import Day
from tests.simulation.day.leaks import LEAKS, Leak
from tests.simulation.day.shelf import day_shelf
from tests.simulation.day.walk import Walk
from tests.simulation.store import SqliteShelf

OF_THIS_RUN = SEED % 1_000_000_000
PLANTED_HOURS = 6


@pytest.fixture(scope="module")
def shelf() -> Iterator[tuple[SqliteShelf, Path]]:
    with day_shelf() as made:
        yield made


def test_a_day_leaves_nothing_behind(shelf: tuple[SqliteShelf, Path]) -> None:
    """An endpoint and a provider are away for hours. `python -m tests.simulation.day SEED` shows its table."""
    day = Day(OF_THIS_RUN, *shelf)
    day.run()
    print(f"python -m tests.simulation.day {day.seed}")
    assert not day.violations, "\n".join([f"python -m tests.simulation.day {day.seed}", *day.violations])
    assert len(day.callers.placed) > 90
    assert len(day.levels) == 24


@pytest.mark.parametrize("leak", [LEAKS[SEED % len(LEAKS)]], ids=lambda leak: leak.name)
def test_a_planted_leak_is_seen(shelf: tuple[SqliteShelf, Path], leak: Leak) -> None:
    """One of them, which the seed chooses; `python -m tests.simulation.day --hours 6 --leak NAME` plants another."""
    with ExitStack() as stack:
        leak.plant(stack)
        found = Day(OF_THIS_RUN, *shelf, PLANTED_HOURS, absences=False).run()
    assert any(re.search(leak.shows, line) for line in found), "\n".join([f"{leak.name} was not seen:", *found])


def test_a_level_that_comes_back_has_not_grown() -> None:
    values = [3.0] * 12 + [500.0] * 10 + [5.0, 4.0]
    hours: list[verdict.Hour] = [{"queue": value} for value in values]
    assert [stretch.name for stretch in verdict.levels(hours) if stretch.grew] == []


def test_a_level_that_rises_by_one_an_hour_has_grown() -> None:
    hours: list[verdict.Hour] = [{"tasks": 20.0 + 2 * hour, "files": 12.0} for hour in range(24)]
    assert [stretch.name for stretch in verdict.levels(hours) if stretch.grew] == ["tasks"]


def test_an_hour_that_spins_is_hot_wherever_it_is() -> None:
    hours: list[verdict.Hour] = [{"runs": 20_000.0 if hour == 15 else 50.0} for hour in range(24)]
    assert [stretch.name for stretch in verdict.paces(hours) if stretch.grew] == ["the hottest hour of runs"]


class _Room:
    """As a stage holds things: attributes, slots of others, closures, partials, methods."""

    __module__ = "aggregator.flow.room"

    def __init__(self) -> None:
        self._kept: dict[str, list[int]] = {"a": [1, 2], "b": [3]}
        self._line: deque[int] = deque([1, 2, 3])
        hidden = {1, 2, 3, 4, 5}
        self._listener = partial(lambda _, held=None: (hidden, held), [])
        self.again = self.listen

    def listen(self) -> None:
        """Hold itself by a method."""


def test_a_walk_finds_every_collection_of_a_room() -> None:
    sizes = Walk({"room": _Room()}).sizes
    assert {"room._kept": 2, "room._kept[]": 3, "room._line": 3}.items() <= sizes.items()
    assert 5 in sizes.values()
