"""The drill: a backup while orders flow, the loss of what came since, the restore, and a person's word on orders."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aggregator.cli import main as command
from tests.support.databases import violations
from tests.support.processes import DaemonProcess, SandboxProcess, running_sandbox, until, write_config

LINK = "https://example.com/restored"


def run(*argv: str | Path) -> int:
    return command.main([str(part) for part in argv])


@pytest.fixture
def own_sandbox() -> Any:
    with running_sandbox(speed=20) as running:
        yield running


@pytest.fixture
def mine(tmp_path: Path, database_url: str, own_sandbox: SandboxProcess) -> Any:
    daemon = write_config(tmp_path, database_url, own_sandbox.url)
    yield daemon
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.kill()


def place(daemon: DaemonProcess, name: str) -> int:
    wish = {"service": "plus", "quantity": 100, "link": f"{LINK}/{name.replace(' ', '-')}", "reference": name}
    answer = daemon.post("/v1/orders", wish)
    assert answer.status == 201, answer.body
    return int(answer.json()["number"])


def order(daemon: DaemonProcess, number: int) -> Any:
    return daemon.get(f"/v1/orders/{number}").json()


def ended(daemon: DaemonProcess, number: int) -> Any:
    """The order, once its provider has brought it to an end."""
    final = ("completed", "partial", "canceled")
    found = until(f"the end of {number}", lambda: (o := order(daemon, number))["state"] in final and o, 60)
    assert found["provider_order"], found
    return found


def sold(sandbox: SandboxProcess) -> list[str]:
    return [str(entry["order"]) for entry in sandbox.ledger("add")]


def test_nothing_is_bought_twice_after_a_restore(
    mine: DaemonProcess,
    database_url: str,
    tmp_path: Path,
    own_sandbox: SandboxProcess,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine.start()
    config = ("--config", mine.config)
    done = place(mine, "done")
    ended(mine, done)
    assert mine.post("/v1/providers/smmplus/pause", {}).status == 200
    since, never = place(mine, "bought since the backup"), place(mine, "never bought")
    assert run("backup", tmp_path / "copy.db", *config) == 0

    # What the backup does not know of: one of them is bought, the other one is canceled, and a third comes in.
    assert mine.post(f"/v1/orders/{never}/cancel", {}).status == 202
    assert mine.post("/v1/providers/smmplus/resume", {}).status == 200
    ended(mine, since)
    lost = place(mine, "lost")
    ended(mine, lost)
    newest = mine.get("/v1/events?after=0&limit=500").json()["next_after"]
    bought = sold(own_sandbox)
    assert len(bought) == 3
    assert run("restore", tmp_path / "copy.db", *config) == 1
    assert "stop it first" in capsys.readouterr().err
    mine.kill()

    assert run("restore", tmp_path / "copy.db", *config) == 1
    assert "the database holds orders; --replace" in capsys.readouterr().err
    assert run("restore", tmp_path / "copy.db", "--replace", "--json", *config) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["held_orders"], told["held_parents"]) == (2, 0)
    if database_url.startswith("sqlite"):
        with sqlite3.connect(told["kept"]) as kept:
            assert kept.execute("SELECT count(*) FROM orders").fetchone() == (4,)
        kept.close()

    mine.start()
    assert order(mine, done)["state"] == "completed"
    held = mine.get("/v1/orders?state=unclear").json()["orders"]
    assert [(one["number"], one["error"]["type"]) for one in held] == [(never, "restored"), (since, "restored")]
    events = mine.get(f"/v1/events?after={newest}&limit=500").json()["events"]
    causes = [event["data"]["cause"] for event in events if event["type"] == "order.unclear"]
    assert causes == ["restored", "restored"], "who has read all events before the loss hears of it"
    assert run("orders", "show", str(since), *config) == 0
    shown = capsys.readouterr().out
    assert "When that was made this order was not bought; it may have been " in shown
    assert f"orders resolve {since} --placed ID --at smmplus" in shown
    assert place(mine, "new") > lost + 1000, "a caller's number becomes no other order"

    assert run("orders", "resolve", str(since), "--placed", bought[1], *config) == 0
    assert ended(mine, since)["provider_order"] == bought[1]
    assert run("orders", "resolve", "--all-restored", "--not-placed", "--json", *config) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"released": [never]}
    assert order(mine, never)["state"] == "accepted"
    assert sold(own_sandbox) == bought, "nothing is bought while all providers are paused"
    assert run("providers", "resume", "smmplus", *config) == 0
    ended(mine, never)
    until("the new order", lambda: len(sold(own_sandbox)) == 5)
    assert mine.terminate() == 0
    assert violations(database_url) == []


def test_what_is_no_backup_is_refused_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    database = tmp_path / "aggregator.db"
    assert run("restore", tmp_path / "none.db") == 1
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "garbage.db").write_bytes(b"no database at all, whatever its name may be. " * 40)
    assert run("restore", tmp_path / "garbage.db") == 1
    assert "is not a backup that can be read" in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    assert run("restore", tmp_path / "other.db") == 1
    assert "it has the tables of another program" in capsys.readouterr().err
    assert not database.exists()

    assert run("migrate") == 0
    assert run("backup", tmp_path / "copy.db") == 0
    content = (tmp_path / "copy.db").read_bytes()
    with sqlite3.connect(tmp_path / "copy.db") as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.close()
    assert run("restore", tmp_path / "copy.db") == 1
    assert "which this version does not know" in capsys.readouterr().err
    (tmp_path / "copy.db").write_bytes(content)
    assert run("restore", tmp_path / "copy.db") == 0
    assert (tmp_path / "copy.db").read_bytes() == content, "a backup is only read"
    assert database.stat().st_mode & 0o777 == 0o600
    (kept,) = tmp_path.glob("aggregator.db.before-restore-*")
    assert violations(f"sqlite:///{kept}") == []
    assert not list(tmp_path.glob("*.restoring*"))


def test_a_damaged_database_is_put_aside_when_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    assert run("migrate") == 0
    assert run("backup", tmp_path / "copy.db") == 0
    database = tmp_path / "aggregator.db"
    database.write_bytes(b"only what a broken disk has left of it. " * 400)
    assert run("restore", tmp_path / "copy.db") == 1
    assert "the database that is there cannot be used" in capsys.readouterr().err
    assert run("restore", tmp_path / "copy.db", "--replace") == 0
    (kept,) = tmp_path.glob("aggregator.db.before-restore-*")
    assert kept.read_bytes().startswith(b"only what a broken disk")
    assert violations(f"sqlite:///{database}") == []
