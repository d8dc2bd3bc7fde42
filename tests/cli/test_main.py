"""The command as a person meets it: exit codes, words instead of tracebacks, `--json`, help."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import sys
from base64 import b64decode, urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest

from aggregator import __version__
from aggregator.cli import main as command

CONFIG = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys: [{{name: shop, key: key-of-the-shop-0001, scopes: [orders]}}]
providers: {{panel: {{dialect: panel_v2, url: "http://127.0.0.1:9/api/v2", api_key: key-of-the-panel}}}}
services: {{followers: {{kind: smm, offers: [{{provider: panel, service: "1"}}]}}}}
{more}
"""


def write(folder: Path, *, database: str = "", port: int = 0, more: str = "", mode: int = 0o600) -> Path:
    path = folder / "config.yaml"
    path.touch()
    path.chmod(mode)
    path.write_text(CONFIG.format(database=database or f"sqlite:///{folder}/orders.db", port=port, more=more))
    return path


def run(*argv: str | Path) -> int:
    return command.main([str(part) for part in argv])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == run("--version") == 0
    assert capsys.readouterr().out == f"aggregator {__version__}\n" * 2
    assert run("version", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"name": "aggregator", "version": __version__}


@pytest.mark.parametrize("name", sorted(command.cli.commands))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == run(name, "-h") == 0
    assert f"Usage: aggregator {name}" in capsys.readouterr().out


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["version", "--nonsense"], "No such option"),
        (["run", "--log-level", "LOUD"], "'LOUD' is not one of"),
        (["demo", "--port", "70000"], "70000 is not in the range"),
        (["demo", "--speed", "0"], "must be greater than 0"),
        (["demo", "--speed", "nan"], "must be greater than 0"),
        (["sandbox", "--speed", "-1"], "must be greater than 0"),
        (["sandbox", "--speed", "inf"], "must be greater than 0"),
        (["sandbox", "--host", "0.0.0.0"], "listens on loopback only"),
        (["sandbox", "--faults", "none.yaml"], "does not exist"),
    ],
)
def test_wrong_arguments_are_2(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run", "check", "migrate"])
def test_every_problem_of_a_config_is_listed_with_its_path(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, more='currency: usd\nwebhooks: [{name: a, url: "ftp://x", secret: "env:NONE"}]\nodd: 1')
    assert run(name, "--config", path) == 2
    first, *problems = capsys.readouterr().err.splitlines()
    assert first == f"aggregator: {path} has 4 problems:"
    assert [line.partition(":")[0] for line in problems] == ["currency", "webhooks[0].url", "webhooks[0].secret", "odd"]
    assert not (tmp_path / "orders.db").exists()


def test_a_config_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--config", tmp_path / "none.yaml") == 2
    assert capsys.readouterr().err == f"aggregator: {tmp_path}/none.yaml does not exist\n"
    assert run("check") == 2
    assert "looked at: $AGGREGATOR_CONFIG (not set)" in capsys.readouterr().err


def test_a_literal_secret_for_all_to_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, mode=0o644)
    assert run("check", "--config", path) == 2
    said = capsys.readouterr().err
    assert f"chmod 600 {path}" in said
    assert "key-of-the" not in said


def test_check_says_what_a_config_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, port=8080)
    assert run("check", "--offline", "--config", path) == 0
    assert "followers" in capsys.readouterr().out
    assert run("check", "--offline", "--json", "--config", path) == 0
    assert json.loads(capsys.readouterr().out) == {
        "database": f"sqlite:///{tmp_path}/orders.db",
        "listen": ["127.0.0.1:8080"],
        "providers": {"panel": {"dialect": "panel_v2"}},
        "services": {"followers": {"kind": "smm", "offers": [{"offer": "panel/1"}]}},
        "webhooks": {},
    }


def test_check_says_that_no_door_would_be_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    assert run("check") == 0
    assert "without keys no TCP port is opened" in capsys.readouterr().out


def test_migrate_makes_the_database_and_may_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, database=f"sqlite:///{tmp_path}/new/folder/orders.db")
    for _ in range(2):
        assert run("migrate", "--json", "--config", path) == 0
        assert json.loads(capsys.readouterr().out)["ok"] is True
    assert (tmp_path / "new/folder/orders.db").stat().st_mode & 0o777 == 0o600


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    assert run("migrate", "--config", path) == 0
    with sqlite3.connect(tmp_path / "orders.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert run("migrate", "--config", path) == 1
    assert "which this version does not know" in capsys.readouterr().err


def _no_database(tmp_path: Path) -> Path:
    (tmp_path / "orders.db").write_bytes(b"this is not a database, it only has its name. " * 100)
    return write(tmp_path)


def _a_folder(tmp_path: Path) -> Path:
    (tmp_path / "orders.db").mkdir()
    return write(tmp_path)


def _below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return write(tmp_path, database=f"sqlite:///{tmp_path}/file/orders.db")


def _out_of_reach(tmp_path: Path) -> Path:
    return write(tmp_path, database="postgresql://somebody@127.0.0.1:1/orders")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_no_database, "orders.db is not an aggregator database"),
        (_a_folder, "orders.db is not an aggregator database: it is a directory"),
        (_below_a_file, "cannot be made: File exists"),
        (_out_of_reach, "postgresql://somebody@127.0.0.1:1/orders: the database is out of reach"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(
    make: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--config", make(tmp_path)) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "[Errno" not in said or "Connect call failed" in said


@pytest.mark.parametrize("content", [b"no key\n", b"\xff\xfe\x00", b""])
def test_a_sealing_key_that_is_none_is_named(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sealing.key").write_bytes(content)
    assert run("run", "--config", write(tmp_path)) == 2
    assert f"{tmp_path}/sealing.key" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("run", "--config", write(tmp_path, port=port)) == 1
    assert f"aggregator: cannot listen on 127.0.0.1:{port}: Address already in use\n" in capsys.readouterr().err


def test_keys_are_of_the_right_make(capsys: pytest.CaptureFixture[str]) -> None:
    def made(*argv: str) -> str:
        assert run("keys", "generate", *argv, "--json") == 0
        return str(json.loads(capsys.readouterr().out)["key"])

    assert re.fullmatch(r"agg_[A-Za-z0-9_-]{43}", made())
    assert len(b64decode(made("--webhook").removeprefix("whsec_"), validate=True)) == 32
    assert len(urlsafe_b64decode(made("--sealing"))) == 32
    assert made() != made()


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(command, "read_settings", fail)
    with pytest.raises(ZeroDivisionError):
        run("migrate")


def test_the_version_is_printed_without_loading_the_program() -> None:
    code = (
        "import sys; from aggregator.cli.main import main; main(['version']);"
        "sys.exit(any(name in sys.modules for name in ('sqlalchemy', 'pydantic', 'aiohttp')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
