"""The panel door over a real house and database; nothing but the doors is running."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from aggregator.domain.clock import ManualClock
from aggregator.storage.database import Database
from tests.web.panel.support import PanelDoors, opened_panel


@pytest_asyncio.fixture
async def doors(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[PanelDoors]:
    """The door on a fresh database; the test runs once on each kind."""
    async with opened_panel(database, clock, tmp_path) as doors:
        yield doors


@pytest_asyncio.fixture
async def sqlite_doors(sqlite_database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[PanelDoors]:
    """The door on SQLite alone, for what is decided before any database is asked."""
    async with opened_panel(sqlite_database, clock, tmp_path) as doors:
        yield doors
