"""`aggregator backup` and `aggregator copy-database`, beside a daemon that is at work and without one."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

import pytest

from aggregator.cli import main as command
from tests.cli.support import Shell
from tests.support.databases import violations
from tests.support.processes import DaemonProcess, SandboxProcess, write_config


def run(*argv: str | Path) -> int:
    return command.main([str(part) for part in argv])


def count(path: Path, table: str = "orders") -> int:
    with sqlite3.connect(path) as connection:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    connection.close()
    return int(rows)


def ordered(daemon: DaemonProcess, count: int) -> None:
    wish = {"service": "followers", "quantity": 100, "link": "https://example.com/a"}
    answer = daemon.post("/v1/orders:batch", {"orders": [wish] * count})
    assert answer.status == 200, answer.body


@pytest.fixture
def mine(tmp_path: Path, database_url: str, sandbox: SandboxProcess) -> DaemonProcess:
    """A daemon that is not started yet, of this test alone, on each kind of database."""
    return write_config(tmp_path, database_url, sandbox.url)


def test_a_backup_is_made_while_orders_flow(
    mine: DaemonProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.start()
    stop = threading.Event()

    def order_on() -> None:
        while not stop.is_set():
            ordered(mine, 5)

    ordered(mine, 20)
    ordering = threading.Thread(target=order_on)
    ordering.start()
    try:
        folder = tmp_path / "backups"
        folder.mkdir()
        assert run("backup", folder, "--config", mine.config) == 0
        assert "keep a copy of" in capsys.readouterr().out
        (copy,) = folder.iterdir()
        assert copy.name.startswith("aggregator-")
        made = count(copy)
        assert made >= 20
        assert run("backup", folder / "second.db", "--config", mine.config, "--json") == 0
        told = json.loads(capsys.readouterr().out)
    finally:
        stop.set()
        ordering.join()
    assert told["orders"] == count(folder / "second.db") > made
    assert (told["path"], told["bytes"]) == (str(folder / "second.db"), (folder / "second.db").stat().st_size)
    assert mine.terminate() == 0
    assert violations(f"sqlite:///{copy}") == []


def test_a_database_moves_to_the_other_kind_and_its_orders_go_on_there(
    mine: DaemonProcess,
    database_url: str,
    tmp_path: Path,
    sandbox: SandboxProcess,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sqlite = database_url.startswith("sqlite")
    target: str = request.getfixturevalue("postgres_database_url") if sqlite else f"sqlite:///{tmp_path}/new/there.db"
    mine.start()
    ordered(mine, 3)
    assert run("copy-database", database_url, target) == 1
    assert "stop it first" in capsys.readouterr().err
    assert mine.terminate() == 0

    assert run("copy-database", database_url, target, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"]["orders"] == 3
    if not sqlite:
        assert (tmp_path / "new/there.db").stat().st_mode & 0o777 == 0o600
    assert run("copy-database", database_url, target) == 1
    assert "the target is not empty" in capsys.readouterr().err

    (tmp_path / "moved").mkdir()
    moved = write_config(tmp_path / "moved", target, sandbox.url)
    moved.start()
    ordered(moved, 1)
    assert [order["number"] for order in moved.orders()] == [1, 2, 3, 4]
    assert moved.terminate() == 0
    assert violations(target) == []


def test_what_cannot_be_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    assert run("backup", tmp_path / "copy.db") == 1
    assert "does not exist; is `database` in the config right?" in capsys.readouterr().err
    assert run("migrate") == 0
    assert run("backup", tmp_path / "none" / "copy.db") == 1
    assert "copy.db cannot be written: " in capsys.readouterr().err
    assert run("backup", tmp_path / "copy.db") == 0
    assert run("backup", tmp_path / "copy.db") == 1
    assert "is there already; name another file" in capsys.readouterr().err
    here = f"sqlite:///{tmp_path}/aggregator.db"
    assert run("copy-database", here, here) == 2
    assert run("copy-database", "mysql://x/y", here) == 2
    assert "must be sqlite:///file or postgresql://" in capsys.readouterr().err
    assert run("copy-database", f"sqlite:///{tmp_path}/none.db", here) == 1
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "other.db").write_bytes(b"no database at all, whatever its name may be. " * 40)
    assert run("copy-database", here, f"sqlite:///{tmp_path}/other.db") == 1
    assert "is not an aggregator database" in capsys.readouterr().err
    assert (tmp_path / "other.db").read_bytes().startswith(b"no database")


def test_the_backup_of_a_shell_shows_its_json(shell: Shell, tmp_path: Path) -> None:
    told = shell.json("backup", str(tmp_path / "copy.db"))
    assert (tmp_path / "copy.db").stat().st_size == told["bytes"]
