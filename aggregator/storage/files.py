"""What is done with a SQLite file as a file: made for its owner alone, copied while others write, put on the disk."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote


def make_private(path: Path) -> None:
    """An empty file that only its owner can read; what stood there before is removed."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def copy_pages(source: Path, target: Path, *, read_only: bool = False) -> None:
    """SQLite's online backup in one step into a private file: one moment, while others go on writing. `read_only`: the
    source is nobody's, and must not be touched."""
    make_private(target)
    mode = "ro" if read_only else "rw"
    reading = sqlite3.connect(f"file:{quote(str(source.resolve()))}?mode={mode}", uri=True)
    with closing(reading), closing(sqlite3.connect(target)) as copy:
        reading.backup(copy)


def one_file(path: Path) -> None:
    """Take in what stands in a log beside it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def flush(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk when it returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
