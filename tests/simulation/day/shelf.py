"""The SQLite file that a day is lived on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.simulation.seeds import _memory_folder
from tests.simulation.store import SqliteShelf
from tests.support.databases import apart, migrated, sqlite_url


@contextmanager
def day_shelf() -> Iterator[tuple[SqliteShelf, Path]]:
    """A shelf, and the folder it stands in."""
    with _memory_folder() as folder:
        template = folder / "template.db"
        apart(lambda: migrated(sqlite_url(template)))
        shelf = SqliteShelf(folder, template)
        try:
            yield shelf, folder
        finally:
            shelf.close()
