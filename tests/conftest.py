"""Fixtures for all tests: databases of both kinds, a clock that stands still, and a seed that repeats a run.

Every test that used a database ends with the check of the design's invariants on it, and of secrets in it; one that
breaks them on purpose says so with `@pytest.mark.corrupts_database`. What daemons log is looked through, too.
"""

from __future__ import annotations

import atexit
import gc
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from hypothesis import settings

from aggregator.domain.clock import ManualClock
from aggregator.storage.database import Database, PostgresDatabase, SqliteDatabase
from tests.support import compiled, leaks, promtool, unconfined
from tests.support.databases import KINDS, apart, copy_sqlite, migrated, opened, sqlite_url, violations
from tests.support.lent import LentDatabase
from tests.support.postgres import PostgresServer, memory_folder

compiled.share()
leaks.watch()
settings.register_profile("aggregator", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("aggregator")

# Files that are thrown away need no disk: each commit of a test would wait for it.
if (memory := memory_folder()) is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))

_GIVEN_SEED = os.environ.get("AGGREGATOR_TEST_SEED")
SEED = int(_GIVEN_SEED) if _GIVEN_SEED else random.SystemRandom().getrandbits(32)
# Workers of a parallel run are told the seed by their environment.
os.environ["AGGREGATOR_TEST_SEED"] = str(SEED)
_SEED_LINE = f"random seed: {SEED} (AGGREGATOR_TEST_SEED={SEED} repeats this run)"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "corrupts_database: breaks the invariants of its database on purpose")
    config.addinivalue_line("markers", "prunes_database: removes old rows, which leaves holes in the feed's positions")
    if _GIVEN_SEED and not config.getoption("--hypothesis-seed", None):
        config.option.hypothesis_seed = _GIVEN_SEED


_LONG: Final = (
    "tests/simulation/test_day.py",
    "tests/web/test_schemathesis.py",
    "tests/torture/test_kills.py",
    "tests/packaging/test_wheel.py",
    "tests/simulation/test_seeds.py",
    "tests/cli/test_keeping.py",
    "tests/daemon/",
)
"""Where single tests take seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: what is left for the end of a parallel run, when workers wait for each other, is short."""

    def place(item: pytest.Item) -> int:
        return next((place for place, name in enumerate(_LONG) if item.nodeid.startswith(name)), len(_LONG))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    # Thousands of collected tests live to the end: looking through them for cycles again and again is a tenth of the
    # suite's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_report_header() -> str:
    return _SEED_LINE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())]
    for missing in (promtool.MISSING, unconfined.WHY):
        if missing and any(missing in why for why in skipped):
            terminalreporter.write_line(f"SKIPPED: {missing}")
    # `-q` hides the header, and the seed is wanted most where something failed.
    if not terminalreporter.showheader:
        terminalreporter.write_line(_SEED_LINE)


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    random.seed(f"{SEED}:{request.node.nodeid}")


@pytest.fixture(autouse=True)
def _no_secret_is_told() -> Iterator[None]:
    """No secret of a test stands in what its daemons logged; `_checked` looks into its databases."""
    leaks.forget()
    yield
    told = leaks.of_daemons()
    assert not told, "secrets were told:\n" + "\n".join(told)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves only when the test says so."""
    return ManualClock(datetime(2026, 11, 21, 18, 0, tzinfo=UTC))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL, started by the first test that needs one and ended with the run."""
    server = PostgresServer()
    atexit.register(server.remove)
    try:
        server.start()
        yield server
    finally:
        server.remove()
        atexit.unregister(server.remove)


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: PostgresServer) -> str:
    name = postgres_server.create()
    apart(lambda: migrated(postgres_server.url(name)))
    return name


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "aggregator.db"
    apart(lambda: migrated(sqlite_url(path)))
    return path


def _checked(request: pytest.FixtureRequest, look: Callable[..., list[str]]) -> None:
    if request.node.get_closest_marker("corrupts_database") is None:
        broken = look(pruned=request.node.get_closest_marker("prunes_database") is not None)
        assert not broken, "the test left its database in a wrong state:\n" + "\n".join(broken)


def _fresh_postgres(request: pytest.FixtureRequest, template: str | None) -> Iterator[str]:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create(template=template)
    try:
        yield server.url(name)
        _checked(request, partial(violations, server.url(name)))
    finally:
        server.drop(name)


@pytest.fixture
def sqlite_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh, migrated SQLite file."""
    url = copy_sqlite(request.getfixturevalue("_sqlite_template"), tmp_path / "aggregator.db")
    yield url
    _checked(request, partial(violations, url))


@pytest.fixture
def postgres_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a fresh, migrated PostgreSQL database."""
    yield from _fresh_postgres(request, request.getfixturevalue("_postgres_template"))


@pytest.fixture(scope="session")
def _lent(postgres_server: PostgresServer, _postgres_template: str) -> Iterator[LentDatabase]:
    lent = LentDatabase(postgres_server, _postgres_template)
    yield lent
    lent.close()


@pytest.fixture
def _lent_database_url(request: pytest.FixtureRequest, _lent: LentDatabase) -> Iterator[str]:
    with _lent.lend() as url:
        yield url
        _checked(request, _lent.violations)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated database without a row; the test runs once on each kind."""
    url: str = request.getfixturevalue("sqlite_database_url" if request.param == "sqlite" else "_lent_database_url")
    return url


@pytest.fixture(params=KINDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table, on each kind; for SQLite a file that does not exist yet."""
    if request.param == "postgresql":
        yield from _fresh_postgres(request, None)
        return
    url = sqlite_url(tmp_path / "aggregator.db")
    yield url
    _checked(request, partial(violations, url))


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A fresh, migrated, open database; the test runs once on each kind."""
    async with opened(database_url) as open_one:
        yield open_one


@pytest_asyncio.fixture
async def sqlite_database(sqlite_database_url: str) -> AsyncIterator[SqliteDatabase]:
    async with opened(sqlite_database_url) as open_one:
        assert isinstance(open_one, SqliteDatabase)
        yield open_one


@pytest_asyncio.fixture
async def postgres_database(postgres_database_url: str) -> AsyncIterator[PostgresDatabase]:
    async with opened(postgres_database_url) as open_one:
        assert isinstance(open_one, PostgresDatabase)
        yield open_one
