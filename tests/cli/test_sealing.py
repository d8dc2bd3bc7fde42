"""`aggregator keys reseal` and `keys status`: the way from one sealing key to the next, and what is refused on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from aggregator.cli import main as command
from aggregator.cli import sealing as reseal
from aggregator.storage import sealing
from aggregator.storage.database import Connection, Database
from aggregator.storage.deliverables import Sealer
from aggregator.storage.lock import acquire
from tests.storage.test_sealing import stored
from tests.support.databases import opened
from tests.support.examples import NOW

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


class Place:
    """A config, its database and its key file."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.key = folder / "sealing.key"
        self.config = folder / "config.yaml"
        self.config.touch(mode=0o600)
        self.config.write_text(f"database: {url}\nsealing_key: file:{self.key}\n")

    def write(self, work: Callable[[Connection], Any]) -> Any:
        async def run() -> Any:
            async with opened(self.url) as database:
                return await database.write(work)

        return asyncio.run(run())

    def keys(self, *lines: str) -> Sealer:
        self.key.write_text("\n".join(lines) + "\n")
        return Sealer("\n".join(lines))

    def started(self, sealer: Sealer) -> None:
        """What a daemon does at its start."""
        self.write(partial(sealing.adopt, sealer=sealer, now=NOW))

    def run(self, *argv: str) -> int:
        return command.main(["keys", *argv, "--config", str(self.config)])


@pytest.fixture
def place(tmp_path: Path, sqlite_database_url: str) -> Place:
    made = Place(tmp_path, sqlite_database_url)
    made.write(partial(stored, sealer=Sealer(OLD), count=500))
    made.started(made.keys(OLD))
    return made


def states(place: Place, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert place.run("status", "--json") == 0
    return [key["state"] for key in json.loads(capsys.readouterr().out)["keys"]]


def test_the_way_from_one_key_to_the_next(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(place, capsys) == ["seals"]
    both = place.keys(NEW, OLD)
    assert states(place, capsys) == ["seals once the daemon is started anew", "seals until the daemon is started anew"]
    place.started(both)
    assert states(place, capsys) == ["seals", "needed until `aggregator keys reseal`"]
    assert place.run("reseal") == 0
    said = capsys.readouterr().out
    assert "502 of 502 sealed anew" in said
    assert f"{both.fingerprints[1][:8]} may be removed" in said
    assert states(place, capsys) == ["seals", "may be removed"]
    place.started(place.keys(NEW))


def test_it_goes_on_where_it_was_killed(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.started(place.keys(NEW, OLD))
    real = sealing.changes

    def killed(sealer: Sealer, kind: Any, rows: Any) -> Any:
        if len(rows[0]) > 2 and rows[0][1] >= 2 * reseal.STEP:
            raise KeyboardInterrupt
        return real(sealer, kind, rows)

    with monkeypatch.context() as patch:
        patch.setattr(sealing, "changes", killed)
        assert place.run("reseal") != 0
    assert states(place, capsys) == ["seals", "needed until `aggregator keys reseal`"]
    assert place.run("reseal", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["looked_at"], shown["sealed"]) == (502, 102)


def test_a_daemon_that_still_seals_with_the_old_key_is_to_be_started_anew(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.keys(NEW, OLD)

    async def beside(database: Database) -> int:
        lock = await acquire(database)
        try:
            return await asyncio.to_thread(place.run, "reseal")
        finally:
            await lock.release()

    async def run() -> int:
        async with opened(place.url) as database:
            return await beside(database)

    assert asyncio.run(run()) == 1
    assert "start it anew, then run this again" in capsys.readouterr().err
    place.started(place.keys(NEW, OLD))
    assert asyncio.run(run()) == 0, "beside a daemon that seals with the new one"


def test_a_key_that_is_missing_is_asked_for(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    sealer = Sealer(OLD)
    place.keys(NEW)
    assert place.run("reseal") == 2
    assert f"the sealing key {sealer.fingerprints[0][:8]} is missing" in capsys.readouterr().err
    assert states(place, capsys) == ["seals once the daemon is started anew", "missing: put it back"]
    place.key.unlink()
    assert place.run("status") == 1
    assert "does not exist" in capsys.readouterr().err


def test_status_is_a_table(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("status") == 0
    out = capsys.readouterr().out
    assert "LINE" in out
    assert Sealer(OLD).fingerprints[0][:8] in out
