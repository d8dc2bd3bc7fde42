"""`aggregator keys reseal` and `keys status`: changing the key that seals delivered accounts, while the daemon is at
work.

Works on the database itself, in steps that hold nobody up, and may be broken off and begun again at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aggregator.cli.failures import CannotDo
from aggregator.cli.options import config_option, json_option
from aggregator.cli.output import Page, emit, waiting
from aggregator.cli.settings import read_settings

if TYPE_CHECKING:
    from aggregator.config import Settings
    from aggregator.storage.database import Database
    from aggregator.storage.deliverables import Sealer

STEP: Final = 200
MOST_NAMED: Final = 5
SHOWN: Final = 8
"""Digits of a fingerprint that are shown."""


@dataclass(slots=True)
class _Done:
    """What sealing anew has done."""

    looked_at: int = 0
    sealed: int = 0
    closed: list[str] = field(default_factory=list)
    """What no key opens."""
    finished: bool = False


@click.command()
@config_option
@json_option
def reseal(config_path: Path | None, as_json: bool) -> None:
    """Seal anew, with the first line of the sealing key, all that its other lines have sealed.

    The daemon may be at work, once it was started with the new first line. When this has come to its end, the other
    lines are needed no longer, but by backups that were made before.
    """
    settings = read_settings(config_path)
    sealer = _sealer(settings)
    with waiting(shown=not as_json) as told:
        done = asyncio.run(_with_database(settings, lambda database: _reseal(database, sealer, told)))
    shown = {"looked_at": done.looked_at, "sealed": done.sealed, "cannot_be_opened": len(done.closed)}
    others = [one[:SHOWN] for one in sealer.fingerprints[1:]]
    if done.closed:
        named = ", ".join(done.closed[:MOST_NAMED]) + (", …" if len(done.closed) > MOST_NAMED else "")
        raise CannotDo(
            f"{done.sealed} sealed anew, but no line of the sealing key opens {len(done.closed)} others ({named}); put "
            "the key that sealed them back, as a line below the first, and run this again. No line may go yet"
        )
    if not done.finished:
        raise CannotDo("another key seals by now; run this again")
    may_go = f"; {', '.join(others)} may be removed from the sealing key" if others else ""
    backups = " (backups from before need it still: keep it where you keep those)" if others else ""
    emit(
        shown | {"may_go": others},
        as_json,
        f"{done.sealed} of {done.looked_at} sealed anew, all are sealed with {sealer.fingerprints[0][:SHOWN]} now"
        f"{may_go}{backups}",
    )


@click.command()
@config_option
@json_option
def status(config_path: Path | None, as_json: bool) -> None:
    """Tell which lines of the sealing key are needed, by the beginnings of their fingerprints."""
    from aggregator.storage import sealing

    settings = read_settings(config_path)
    sealer = _sealer(settings)

    async def look(database: Database) -> tuple[list[str], str | None]:
        return await database.read(sealing.needed), await database.read(sealing.seals_now)

    known, seals = asyncio.run(_with_database(settings, look))
    keys = [_row(place, one, known, seals) for place, one in enumerate(sealer.fingerprints, start=1)]
    keys += [
        {"line": None, "key": one[:SHOWN], "state": "missing: put it back"}
        for one in known
        if one not in sealer.fingerprints
    ]
    if as_json:
        emit({"keys": keys}, as_json, "")
        return
    Page().table(
        (">line", "key", "state"), [(str(key["line"] or "-"), str(key["key"]), str(key["state"])) for key in keys]
    )


def _row(place: int, fingerprint: str, known: list[str], seals: str | None) -> dict[str, Any]:
    if fingerprint == seals:
        state = "seals" if place == 1 else "seals until the daemon is started anew"
    elif place == 1:
        state = "seals once the daemon is started anew"
    else:
        state = "needed until `aggregator keys reseal`" if fingerprint in known else "may be removed"
    return {"line": place, "key": fingerprint[:SHOWN], "state": state}


def _sealer(settings: Settings) -> Sealer:
    from aggregator.daemon import open_sealer
    from aggregator.log import Redactor

    file = settings.sealing_key.file
    if file is not None and not file.exists():
        raise CannotDo(f"{file} does not exist; the daemon makes it at its first start")
    return open_sealer(settings, Redactor(()))


async def _with_database(settings: Settings, work: Any) -> Any:
    from aggregator.storage.database import open_database
    from aggregator.storage.migrate import versions

    path = settings.database.path
    if path is not None and not path.exists():
        raise CannotDo(f"{settings.database} does not exist; is `database` in the config right?")
    database = open_database(settings.database.reveal())
    try:
        before, newest = await versions(database)
        if before != newest:
            raise CannotDo(f"{settings.database} has schema {before}, not {newest}; run `aggregator migrate` first")
        return await work(database)
    finally:
        await database.close()


async def _reseal(database: Database, sealer: Sealer, told: Callable[[str], None]) -> _Done:
    from aggregator.domain.clock import SteadyClock
    from aggregator.storage import sealing
    from aggregator.storage.lock import AlreadyRunning, acquire

    lock = None
    try:
        lock = await acquire(database)
    except AlreadyRunning:
        if await database.read(sealing.seals_now) != sealer.fingerprints[0]:
            raise CannotDo(
                "the daemon that is running seals with another key than the first line of the sealing key; start it "
                "anew, then run this again"
            ) from None
    try:
        if lock is not None:
            # Nobody is at work, so that this is the start that the new key waits for.
            await database.write(partial(sealing.adopt, sealer=sealer, now=SteadyClock().now()))
        done = _Done()
        for kind in sealing.KINDS:
            await _reseal_kind(database, sealer, kind, done, told)
        if not done.closed:
            forget = partial(sealing.forget_others, first=sealer.fingerprints[0])
            done.finished = await database.write(forget)
        return done
    finally:
        if lock is not None:
            await lock.release()


async def _reseal_kind(database: Database, sealer: Sealer, kind: Any, done: _Done, told: Callable[[str], None]) -> None:
    from aggregator.storage import sealing

    after = None
    while rows := await database.read(partial(sealing.look, kind=kind, after=after, limit=STEP)):
        changed, closed = sealing.changes(sealer, kind, rows)
        done.looked_at += len(rows)
        done.closed += closed
        if changed:
            done.sealed += await database.write(partial(sealing.seal_anew, kind=kind, changed=changed))
        after = rows[-1]
        told(f"{done.looked_at} looked at, {done.sealed} sealed anew")
