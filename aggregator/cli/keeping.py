"""`aggregator backup`, `restore` and `copy-database`: the database as a file and back, and into another one.

They ask no daemon.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

import click

from aggregator.cli.failures import CannotDo
from aggregator.cli.options import config_option, json_option
from aggregator.cli.output import emit, waiting
from aggregator.cli.settings import read_settings

if TYPE_CHECKING:
    from aggregator.config import DatabaseUrl, Settings
    from aggregator.flow.restoring import Held
    from aggregator.storage.backups import Backup

_NEXT: Final = (
    "  aggregator run                                      it follows what was placed, and buys nothing",
    "  aggregator orders list --state unclear              what may have been bought since the backup",
    "  aggregator orders resolve ORDER --placed ID         it was; --at PROVIDER where it was another one",
    "  aggregator orders resolve ORDER --not-placed        it was not",
    "  aggregator orders resolve --all-restored --not-placed   all the others were not, either",
    "  aggregator providers resume NAME                    buy there again",
)


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@config_option
@json_option
def backup(target: Path, config_path: Path | None, as_json: bool) -> None:
    """Write the database to the file TARGET, while the daemon may be at work; in a folder, under a name with the time.

    The copy is one moment's, is read through and checked before it gets its name, and is a SQLite file also where the
    database is PostgreSQL. The sealing key is not in it.
    """
    from aggregator.storage.copying import CannotCopy

    settings = read_settings(config_path)
    if target.is_dir():
        target /= f"aggregator-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
    path = settings.database.path
    if path is not None and not path.exists():
        raise CannotDo(f"{settings.database} does not exist; is `database` in the config right?")
    began = monotonic()
    try:
        with _progress(quiet=as_json) as told:
            made = asyncio.run(_back_up(settings.database, target, told))
    except CannotCopy as exc:
        raise CannotDo(str(exc)) from exc
    seconds = monotonic() - began
    key = settings.sealing_key.file
    shown = {"path": str(made.path), "bytes": made.bytes, "orders": made.orders, "schema": made.schema}
    where = f"; keep a copy of {key} elsewhere: without it delivered accounts cannot be opened" if key else ""
    emit(
        shown | {"seconds": round(seconds, 3), "sealing_key": str(key) if key else None},
        as_json,
        f"{made.path}: {made.orders} orders, {made.bytes} bytes, verified, {seconds:.1f} s{where}",
    )


async def _back_up(url: DatabaseUrl, target: Path, told: Callable[[str, int], None]) -> Backup:
    from aggregator.storage.backups import back_up
    from aggregator.storage.database import open_database

    database = open_database(url.reveal())
    try:
        return await back_up(database, target, told)
    finally:
        await database.close()


@click.command("copy-database")
@click.argument("source")
@click.argument("target")
@json_option
def copy_database(source: str, target: str, as_json: bool) -> None:
    """Copy all of the database SOURCE into TARGET, which is empty or not there yet: from SQLite to PostgreSQL, or back.

    Both are URLs as in the config's `database`, or env:NAME, file:/path, credential:NAME of one. No daemon may be
    running on either. Every row is compared before the copy is kept.
    """
    from aggregator.storage.copying import CannotCopy

    urls = _url(source, "SOURCE"), _url(target, "TARGET")
    if urls[0].reveal() == urls[1].reveal():
        raise click.BadParameter("is SOURCE itself", param_hint="TARGET")
    if urls[0].path is not None and not urls[0].path.exists():
        raise CannotDo(f"{urls[0]} does not exist")
    began = monotonic()
    try:
        with _progress(quiet=as_json) as told:
            rows = asyncio.run(_copy(urls[0], urls[1], told))
    except CannotCopy as exc:
        raise CannotDo(str(exc)) from exc
    total, seconds = sum(rows.values()), monotonic() - began
    emit(
        {"source": str(urls[0]), "target": str(urls[1]), "rows": rows, "seconds": round(seconds, 3)},
        as_json,
        f"{total} rows copied and compared, {rows['orders']} orders among them, {seconds:.1f} s; "
        f"now set `database: {urls[1]}` in the config and start the daemon",
    )


@click.command()
@click.argument("backup_file", metavar="BACKUP", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Also where the database holds orders; a SQLite file is kept beside it.")
@config_option
@json_option
def restore(backup_file: Path, replace: bool, config_path: Path | None, as_json: bool) -> None:
    """Make BACKUP the config's database, with the daemon stopped.

    What may have been bought since the backup is held: all providers are paused, every order that was not placed is
    `unclear` until you resolve it, and drip-feeds make no runs.
    """
    from aggregator.storage.copying import CannotCopy

    settings = read_settings(config_path)
    try:
        with _progress(quiet=as_json) as told:
            held, kept = asyncio.run(_restore(settings, backup_file, replace, told))
    except CannotCopy as exc:
        raise CannotDo(str(exc)) from exc
    words = [
        f"{settings.database} is {backup_file} now{f'; what was there before is {kept}' if kept else ''}.",
        f"Held: {held.orders} orders, {held.parents} drip-feeds; all providers are paused. What to do next:",
        *_NEXT,
    ]
    shown = {"database": str(settings.database), "held_orders": held.orders, "held_parents": held.parents}
    emit(shown | {"rests_left": held.rests, "kept": str(kept) if kept else None}, as_json, "\n".join(words))


async def _restore(
    settings: Settings, backup_file: Path, replace: bool, told: Callable[[str, int], None]
) -> tuple[Held, Path | None]:
    from aggregator.domain.clock import SteadyClock
    from aggregator.flow.restoring import hold
    from aggregator.storage.database import open_database
    from aggregator.storage.lock import acquire
    from aggregator.storage.restoring import restore as put_in_place

    database, now = open_database(settings.database.reveal()), SteadyClock().now()
    try:
        lock = await acquire(database)
        try:
            work = lambda connection: hold(connection, settings, now)  # noqa: E731
            return await put_in_place(backup_file, database, work, replace=replace, told=told)
        finally:
            await lock.release()
    finally:
        await database.close()


async def _copy(source: DatabaseUrl, target: DatabaseUrl, told: Callable[[str, int], None]) -> dict[str, int]:
    from aggregator.storage.copying import CannotCopy, copy_all
    from aggregator.storage.database import open_database
    from aggregator.storage.lock import acquire
    from aggregator.storage.migrate import migrate, versions
    from aggregator.storage.ownership import check_ours

    reading, writing = open_database(source.reveal()), open_database(target.reveal())
    try:
        before, newest = await versions(reading)
        if before != newest:
            raise CannotCopy(f"{source} has schema {before}, not {newest}; run `aggregator migrate` there first")
        locks = [await acquire(reading)]
        try:
            if target.path is not None:
                target.path.parent.mkdir(parents=True, exist_ok=True)
            await check_ours(writing)
            locks.append(await acquire(writing))
            await migrate(writing)
            return await copy_all(reading, writing, told)
        finally:
            for lock in locks:
                await lock.release()
    finally:
        await reading.close()
        await writing.close()


def _url(text: str, hint: str) -> DatabaseUrl:
    from aggregator.config.places import parse_database_url
    from aggregator.config.secret import SecretError, Sources

    try:
        return parse_database_url(text, Sources(environ=os.environ))
    except SecretError as exc:
        raise click.BadParameter(str(exc), param_hint=hint) from exc


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Which table is being copied, on a terminal."""
    with waiting(shown=not quiet) as told:
        told("copying")
        yield lambda table, rows: told(f"copying {table}: {rows} rows")
