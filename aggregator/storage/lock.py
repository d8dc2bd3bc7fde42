"""One daemon per database: a lock that the system frees when its holder dies, however it dies.

Whoever holds it knows that no other daemon is at work, so every earlier claim is void at once.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from aggregator.domain.errors import StorageUnavailable
from aggregator.storage.database import Database, PostgresDatabase, SqliteDatabase

_ADVISORY_KEY: Final = 0x6167_6772_6567_6174
"""The letters "aggregat" as a 64-bit integer."""
_OUT_OF_REACH: Final = (DBAPIError, OSError, TimeoutError)
_STILL_OURS: Final = text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted"
    " AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = :key"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)


class AlreadyRunning(Exception):
    """Another daemon works on this database; stop it first, or give this one a database of its own."""


class DaemonLock(Protocol):
    async def held(self) -> bool:
        """Whether the lock is still ours."""
        ...

    async def release(self) -> None: ...


async def acquire(database: Database) -> DaemonLock:
    """Take the lock; AlreadyRunning when somebody has it."""
    if isinstance(database, SqliteDatabase):
        return FileLock(database.path)
    assert isinstance(database, PostgresDatabase)
    return await AdvisoryLock.take(database)


class FileLock:
    """flock(2) on a file beside the database: the kernel drops it with the process."""

    def __init__(self, database: Path) -> None:
        # Through symbolic links to the file itself, as SQLite does: two names of one database are one database.
        real = database.resolve()
        real.parent.mkdir(parents=True, exist_ok=True)
        path = real.with_name(real.name + ".lock")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            reason = f"{path} cannot be written ({exc.strerror}); SQLite needs a folder that it may write to"
            raise StorageUnavailable(reason) from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise AlreadyRunning(
                f"another daemon (process {holder}) is running on {database}; stop it first, "
                "or give this one a database of its own"
            ) from exc
        except OSError:
            os.close(self._file)
            raise
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    async def held(self) -> bool:
        return self._file >= 0

    async def release(self) -> None:
        if self._file >= 0:
            # Said aloud: a child process that is just being started still shares the open file.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = -1


class AdvisoryLock:
    """A PostgreSQL session lock on a connection kept for nothing else."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._lost = False

    @classmethod
    async def take(cls, database: PostgresDatabase) -> AdvisoryLock:
        try:
            connection = await database.engine.connect()
        except _OUT_OF_REACH as exc:
            raise StorageUnavailable(f"the database is out of reach: {exc}") from exc
        try:
            got = (await connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_KEY})).scalar()
            # A session lock outlives the transaction; no transaction may stay open beside it.
            await connection.commit()
        except _OUT_OF_REACH as exc:
            await connection.close()
            raise StorageUnavailable(f"the database is out of reach: {exc}") from exc
        if not got:
            await connection.close()
            raise AlreadyRunning(
                "another daemon is running on this PostgreSQL database; stop it first, "
                "or give this one a database of its own"
            )
        return cls(connection)

    async def held(self) -> bool:
        # Once lost it stays lost: the connection may come back, and the lock would not come back with it.
        if not self._lost:
            try:
                self._lost = not (await self._connection.execute(_STILL_OURS, {"key": _ADVISORY_KEY})).scalar()
                await self._connection.commit()
            except Exception:
                self._lost = True
        return not self._lost

    async def release(self) -> None:
        self._lost = True
        try:
            # Said aloud, because the server would notice a closed connection only a moment later.
            await self._connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_KEY})
            await self._connection.commit()
        except Exception:
            await self._connection.invalidate()
        await self._connection.close()
