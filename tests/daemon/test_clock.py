"""A clock that is set while the daemon runs: said once, nothing lost, nothing given up early, nothing bought twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from aggregator.daemon import _ClockWatch
from aggregator.domain.clock import SteadyClock, parse_rfc3339
from aggregator.domain.errors import StorageUnavailable
from aggregator.storage import claims
from aggregator.storage.database import Database
from aggregator.storage.tables import orders
from tests.support import rows
from tests.support.databases import sqlite_url
from tests.support.flow import ShakyDatabase
from tests.support.processes import DaemonProcess, lines, running_sandbox, until, write_config

WISH = {"service": "followers", "quantity": 100, "link": "https://example.com/x"}
LATE = {"service": "late", "quantity": 100, "link": "https://example.com/late"}

# Read by every Python that starts with this folder in its path: the time is the machine's, plus what a file says.
_SITE = """
import datetime
import os

class _Set(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        with open(os.environ["CLOCK_SET_BY"]) as file:
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=float(file.read()))

import aggregator.domain.clock
aggregator.domain.clock.datetime = _Set
"""


def test_an_hour_forward_and_back_loses_nothing_and_gives_nothing_up(tmp_path: Path) -> None:
    offset, site = tmp_path / "offset", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE)

    def set_by(seconds: float) -> None:
        (tmp_path / "next").write_text(str(seconds))
        (tmp_path / "next").rename(offset)

    set_by(0)
    with running_sandbox(speed=20) as sandbox:
        daemon = write_config(tmp_path, sqlite_url(tmp_path / "aggregator.db"), sandbox.url)
        text = daemon.config.read_text()
        late = 'late: {kind: smm, offers: [{provider: smmplus, service: "1"}], give_up_after_s: 600}'
        daemon.config.write_text(text.replace("services:\n", f"services:\n  {late}\n"))
        root = str(Path(__file__).parents[2])
        daemon.environ = {"PYTHONPATH": f"{site}:{root}", "CLOCK_SET_BY": str(offset)}
        daemon.start()
        try:
            _forward_and_back(daemon, set_by)
            assert len(sandbox.ledger("add")) == len(daemon.orders()) == 4
            assert daemon.terminate() == 0
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill()
    assert "Traceback" not in daemon.log.read_text()


def _forward_and_back(daemon: DaemonProcess, set_by: Any) -> None:
    assert daemon.post("/v1/providers/smmplus/pause", {}).status == 200
    waits = daemon.post("/v1/orders", LATE).json()
    assert daemon.post("/v1/orders", WISH).status == 201
    for times, hours in ((1, 1), (2, 0)):
        set_by(hours * 3600)
        until("the clock is followed", lambda times=times: len(lines(daemon, "clock_followed")) == times)  # type: ignore[misc]
        taken = daemon.post("/v1/orders", WISH)
        assert taken.status == 201
        shown = parse_rfc3339(taken.json()["created_at"]) - datetime.now(UTC)
        assert abs(shown - timedelta(hours=hours)) < timedelta(minutes=1), "the time that is shown is the machine's"
        number = taken.json()["number"]
        until("it is bought and done", lambda number=number: _state(daemon, number) == "completed")  # type: ignore[misc]
        assert _state(daemon, waits["number"]) == "accepted", "given up by an hour that never passed"
        assert daemon.get("/livez").status == 200
    assert [line["direction"] for line in lines(daemon, "clock_jumped")] == ["forward", "back"]
    assert daemon.post("/v1/providers/smmplus/resume", {}).status == 200
    until("all is done", lambda: {order["state"] for order in daemon.orders()} == {"completed"})


def _state(daemon: DaemonProcess, number: object) -> str:
    return str(daemon.get(f"/v1/orders/{number}").json()["state"])


async def test_a_jump_whose_record_was_answered_by_nobody_moves_what_is_due_once(database: Database) -> None:
    elapsed, hours = 0.0, 0
    start = datetime(2026, 11, 21, 18, tzinfo=UTC)
    clock = SteadyClock(lambda: start + timedelta(seconds=elapsed, hours=hours), lambda: elapsed)
    await database.write(lambda c: rows.accept(c, created_at=start))
    shaky = ShakyDatabase(database)
    watch = _ClockWatch(shaky, clock)
    for expected in (1, 3, 1):
        hours, shaky.forget = expected, 2
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await watch.run_once()
        await watch.run_once()
        await watch.run_once()
        assert clock.now() == start + timedelta(hours=expected)
        due = await database.read(lambda c: c.execute(orders.select()).mappings().one())
        assert due["give_up_at"] == start + timedelta(days=1, hours=expected)


async def test_a_jump_that_cannot_be_recorded_yet_is_not_followed_and_told_once(database: Database) -> None:
    """Followed without its deadlines, it would end them."""
    elapsed, hours = 0.0, 0
    start = datetime(2026, 11, 21, 18, tzinfo=UTC)
    clock = SteadyClock(lambda: start + timedelta(seconds=elapsed, hours=hours), lambda: elapsed)
    order = await database.write(lambda c: rows.accept(c, created_at=start))
    shaky = ShakyDatabase(database)
    watch = _ClockWatch(shaky, clock)
    with capture_logs() as said:
        await watch.run_once()
        assert said == []
        hours, shaky.refuse = 1, 3
        for _ in range(3):
            elapsed += 1
            with pytest.raises(StorageUnavailable):
                await watch.run_once()
            assert clock.now() == start + timedelta(seconds=elapsed)
        await watch.run_once()
    assert clock.now() == start + timedelta(seconds=elapsed, hours=1)
    assert [line["event"] for line in said] == ["clock_jumped", "clock_followed"]
    due = await database.read(lambda c: c.execute(orders.select()).mappings().one())
    assert (due["number"], due["give_up_at"]) == (order.number, start + timedelta(days=1, hours=1))
    assert claims.is_deadline(orders.c.give_up_at)
