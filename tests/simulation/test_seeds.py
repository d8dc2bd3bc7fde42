"""Seeds of the simulation: whatever happens in whatever order, nothing is bought twice, lost or told wrongly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import SEED
from tests.simulation.outcome import Outcome
from tests.simulation.seeds import Simulator, postgres_simulator, simulator
from tests.support.postgres import PostgresServer

SEEDS = 200
AT_ONCE = 10
ON_POSTGRESQL = 6
FIXED = (10109, 669588782, 724319607)
"""Seeds that found something once."""


@pytest.fixture(scope="module")
def on_sqlite() -> Iterator[Simulator]:
    with simulator() as made:
        yield made


def _passed(outcome: Outcome) -> None:
    print(outcome.line())
    assert not outcome.violations, "\n".join(
        [f"make simulate SEED={outcome.seed}", *outcome.violations, *outcome.story]
    )


@pytest.mark.parametrize("block", range(SEEDS // AT_ONCE))
def test_random_seeds_keep_every_promise(on_sqlite: Simulator, block: int) -> None:
    """Other seeds in each test run; the run's own seed chooses them, so that it repeats them."""
    for place in range(AT_ONCE):
        _passed(on_sqlite.run(SEED % 1_000_000_000 + block * AT_ONCE + place))


def test_seeds_that_found_something_once(on_sqlite: Simulator) -> None:
    for seed in FIXED:
        _passed(on_sqlite.run(seed))


def test_a_seed_is_one_run(on_sqlite: Simulator) -> None:
    """Crashes, faults and all: the same seed takes the same steps, which is what makes a failure worth its number."""
    seed = SEED % 1_000_000_000
    first, second = on_sqlite.run(seed), on_sqlite.run(seed)
    assert first.steps > 0
    assert (first.trace, first.steps, first.story) == (second.trace, second.steps, second.story)


@pytest.mark.parametrize("place", range(ON_POSTGRESQL))
def test_random_seeds_keep_every_promise_on_postgresql(
    postgres_server: PostgresServer, request: pytest.FixtureRequest, place: int
) -> None:
    template: str = request.getfixturevalue("_postgres_template")
    with postgres_simulator(postgres_server, template) as made:
        _passed(made.run(SEED % 1_000_000_000 + place))
