"""Running seeds, one after another, each on a fresh database and in virtual time."""

from __future__ import annotations

import gc
import random
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

from structlog.processors import format_exc_info
from structlog.testing import capture_logs

from aggregator.domain.ids import new_id, uuid7_hex
from aggregator.storage import claims
from tests.simulation.focus import SEED_CHOOSES, Focus
from tests.simulation.life import Life, Shelf
from tests.simulation.outcome import Outcome, unexpected
from tests.simulation.store import PostgresShelf, SqliteShelf
from tests.simulation.virtual import Stuck, VirtualLoop, run_virtual
from tests.support.databases import apart, migrated, sqlite_url
from tests.support.postgres import PostgresServer, memory_folder


class Simulator:
    """Runs seeds on one kind of database; engines and compiled statements are made once."""

    def __init__(self, folder: Path, shelf: Shelf) -> None:
        self._folder = folder
        self._shelf = shelf

    def run(self, seed: int, focus: Focus = SEED_CHOOSES) -> Outcome:
        """One seed from its beginning to its verdict."""
        self._shelf.fresh()
        loop = VirtualLoop()
        life = Life(seed, self._shelf, loop, self._folder, focus)
        outcome = life.outcome
        with ExitStack() as stack:
            outcome.logged = stack.enter_context(capture_logs(processors=[format_exc_info]))
            stack.enter_context(_ids_of(seed))
            stack.enter_context(_no_collections())
            try:
                run_virtual(loop, life.main())
            except Stuck as exc:
                outcome.violations.append(f"stuck: {exc}")
            except Exception as exc:
                outcome.violations.append("failed:\n" + "".join(traceback.format_exception(exc)))
        outcome.violations += unexpected(outcome.logged)
        return outcome


@contextmanager
def simulator() -> Iterator[Simulator]:
    """On SQLite."""
    with _memory_folder() as folder:
        template = folder / "template.db"
        apart(lambda: migrated(sqlite_url(template)))
        shelf = SqliteShelf(folder, template)
        try:
            yield Simulator(folder, shelf)
        finally:
            shelf.close()


@contextmanager
def postgres_simulator(server: PostgresServer, template: str) -> Iterator[Simulator]:
    """On PostgreSQL; `template` is the name of a migrated database."""
    with _memory_folder() as folder:
        shelf = PostgresShelf(server, template)
        try:
            yield Simulator(folder, shelf)
        finally:
            shelf.close()


@contextmanager
def _memory_folder() -> Iterator[Path]:
    """A folder that lives in memory, if there is one."""
    folder = Path(tempfile.mkdtemp(prefix="aggregator-sim-", dir=memory_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ids_of(seed: int) -> Iterator[None]:
    """Ids and tokens come from the seed too, so that rows sort the same way each time."""
    tokens = random.Random(f"tokens:{seed}")
    with ExitStack() as stack:
        for function in (new_id, uuid7_hex):
            stack.enter_context(patch.object(function, "__defaults__", (tokens.getrandbits,)))
        stack.enter_context(patch.object(claims, "new_token", lambda: f"{tokens.getrandbits(128):032x}"))
        yield


@contextmanager
def _no_collections() -> Iterator[None]:
    """A run is short, and looking for cycles in it again and again is a fifth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
