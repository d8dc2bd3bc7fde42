"""A real application over a real house and database; keys for each scope; nothing but the doors is running."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from aggregator.domain.clock import ManualClock
from aggregator.storage.database import Database
from aggregator.web.server import create_app
from tests.web.support import Doors, open_house


@asynccontextmanager
async def opened_doors(database: Database, clock: ManualClock, folder: Path) -> AsyncIterator[Doors]:
    doors = Doors(await open_house(database, clock, folder))
    await doors.intake.refresh()
    async with TestClient(TestServer(create_app(doors.services))) as client:
        doors.client = client
        yield doors


@pytest_asyncio.fixture
async def doors(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Doors]:
    """The API on a fresh database; the test runs once on each kind."""
    async with opened_doors(database, clock, tmp_path) as doors:
        yield doors


@pytest_asyncio.fixture
async def sqlite_doors(sqlite_database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Doors]:
    """The API on SQLite alone, for what is decided before any database is asked."""
    async with opened_doors(sqlite_database, clock, tmp_path) as doors:
        yield doors
