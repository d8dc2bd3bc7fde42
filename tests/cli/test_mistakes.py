"""Mistakes in front of a running daemon, and in front of none: words instead of tracebacks, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.cli import main as command
from tests.cli.support import Shell
from tests.support.processes import KEY, DaemonProcess, free_port


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("orders place nix --quantity 5", "what to do: see aggregator services list --config"),
        ("orders place plus --quantity 5 --link https://a.example", "quantity: must be 50 to 10000, got 5"),
        ("orders place plus --quantity 50", "mend --link"),
        ("orders place plus --quantity 50 --link https://a.example --provider nix", "mend --provider|providers list"),
        ("orders place plus --quantity 50 --link https://a.example --max-cost 1XYZ", "mend --max-cost"),
        ("orders place plus --quantity 50 --link https://a.example --param a=1 --param a=2", "mend --param a=…"),
        ("orders list --since yesterday", "mend --since"),
        ("orders list --cursor nix", "mend --cursor"),
        ("orders show 999999", "what to do: see aggregator orders list --config"),
        ("orders watch 999999", "There is no such order"),
        ("orders cancel 999999", "There is no such order"),
        ("orders refill 999999", "There is no such order"),
        ("orders resolve 999999 --placed 5", "There is no such order"),
        ("providers show nix", "what to do: see aggregator providers list --config"),
        ("providers sync nix", "there is no provider of this name"),
        ("providers pause nix", "there is no provider of this name"),
        ("providers resume nix", "there is no provider of this name"),
        ("services quote nix --quantity 5", "There is no such service"),
        ("services quote plus --quantity 5", "mend --quantity"),
        ("ledger nix", "there is no provider of this name"),
        ("ledger smmplus --cursor nix", "mend --cursor"),
        ("orders list --key this-key-is-not-known", "the key came from --key"),
    ],
)
def test_what_the_daemon_refuses_is_said_in_words(argv: str, words: str, shell: Shell) -> None:
    said = shell.refused(*argv.split())
    assert any(word in said for word in words.split("|"))
    assert "this-key-is-not-known" not in said
    assert shell.out == ""
    assert shell(*argv.split(), "--json") == 1
    problem = json.loads(shell.out)
    assert problem["title"] in shell.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("orders place", "Missing argument 'SERVICE'"),
        ("orders place plus --quantity 0", "0 is not in the range"),
        ("orders place plus --max-cost cheap", "must be an amount such as 0.90"),
        ("orders place plus --param comments", "must look like name=value"),
        ("orders place plus --provider a/b", "must be the name of one of the config's `providers`"),
        ("orders list --state lost", "'lost' is not one of"),
        ("orders list --limit 501", "501 is not in the range"),
        ("orders show ../providers", "must be a number such as 1001"),
        ("orders watch 0x1", "must be a number such as 1001"),
        ("orders cancel -1", "No such option"),
        ("orders refill", "Missing argument 'ORDER'"),
        ("orders resolve 1", "say how it ended"),
        ("orders resolve 1 --placed 5 --not-placed", "say how it ended"),
        ("orders nix", "No such command"),
        ("providers show ..", "must be the name of one of"),
        ("providers sync a/b", "must be the name of one of"),
        ("providers pause a?b", "must be the name of one of"),
        ("providers resume", "Missing argument 'NAME'"),
        ("services list --kind tea", "'tea' is not one of"),
        ("services quote", "Missing argument 'SERVICE'"),
        ("ledger a/../b", "must be the name of one of"),
        ("orders list --url ftp://a", "--url: must begin with http://"),
        ("orders list --key-file /none", "--key-file: /none cannot be read"),
    ],
)
def test_what_is_asked_wrongly_is_2(argv: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(argv.split()) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    "argv",
    [
        "orders place plus --quantity 50",
        "orders list",
        "orders show 1",
        "orders watch 1",
        "orders cancel 1",
        "orders refill 1",
        "orders resolve 1 --not-placed",
        "providers list",
        "providers show a",
        "providers sync a",
        "providers pause a",
        "providers resume a",
        "services list",
        "services quote a",
        "ledger a",
    ],
)
def test_a_daemon_that_is_not_up_is_one_line(argv: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, port = tmp_path / "config.yaml", free_port()
    config.touch(mode=0o600)
    config.write_text(f"http: {{listen: ['127.0.0.1:{port}']}}\nkeys: [{{name: shop, key: {KEY}}}]\n")
    assert command.main(argv.split()) == 1
    said = capsys.readouterr()
    where = f"no daemon answers at http://127.0.0.1:{port} (Connection refused)"
    assert said.err == f"aggregator: {where}; start it: aggregator run --config {config}\n"
    assert said.out == ""


def test_without_any_config_the_way_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["orders", "list"]) == 2
    said = capsys.readouterr().err
    assert "no configuration file; looked at: $AGGREGATOR_CONFIG (not set)" in said
    assert "name the daemon with --url and its key with --key-file" in said


def test_the_environment_finds_a_daemon(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGGREGATOR_URL", daemon.url)
    assert command.main(["services", "list"]) == 1
    assert "give a key with --key-file or $AGGREGATOR_KEY" in capsys.readouterr().err
    monkeypatch.setenv("AGGREGATOR_KEY", KEY)
    assert command.main(["services", "list"]) == 0
    assert "followers" in capsys.readouterr().out


def test_a_reader_who_has_had_enough_is_no_error(daemon: DaemonProcess) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "aggregator", "services", "list", "--config", str(daemon.config)]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_letters_that_a_terminal_does_not_have_are_escaped(daemon: DaemonProcess) -> None:
    argv = [sys.executable, "-m", "aggregator", "services", "list", "--config", str(daemon.config)]
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False, env=environ)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Followers IG \\U0001d411" in done.stdout
