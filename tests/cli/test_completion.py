"""What a tab proposes, asked of real shells with the scripts that the command prints for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from aggregator.cli.main import cli
from aggregator.cli.names import Name

CONFIG: Final = """\
keys: [{name: shop, key: "credential:nowhere", scopes: [orders]}]
providers:
  smmplus: {dialect: panel_v2, url: "https://smm.plus/api/v2", api_key: "env:NOT_SET"}
  smmcheap: {dialect: panel_v2, url: "https://example.com/api/v2", api_key: "env:NOT_SET"}
  "bad\\nname": {}
services: {ig-likes: {kind: smm}, tg-members: {kind: smm}}
webhooks: [{name: shop}, {name: stats}, nothing]
"""
BASH: Final = """\
eval "$(_AGGREGATOR_COMPLETE=bash_source aggregator)"
complete -p aggregator
IFS=' ' read -r -a COMP_WORDS <<<"$1"
[[ $1 == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_aggregator_completion aggregator
printf '%s\\n' "${COMPREPLY[@]}"
"""
# The builtins that take proposals work in the line editor alone; these only print what they are given.
ZSH: Final = """\
compdef() { print "complete -F $1"; }
eval "$(_AGGREGATOR_COMPLETE=zsh_source aggregator)"
_describe() { local name=$2; [[ $1 == -V ]] && name=$3; print -l -- "${(P@)name}"; }
compadd() { print -l -- "${(P@)argv[-1]}"; }
words=("${(@s: :)1}")
CURRENT=${#words}
_aggregator_completion
"""
SHELLS: Final = [
    pytest.param(shell, marks=pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell} here"))
    for shell in ("bash", "zsh")
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    program = tmp_path / "aggregator"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aggregator "$@"\n')
    program.chmod(0o755)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "other.yaml").write_text("providers: {elsewhere: {}}\n")
    return tmp_path


def proposed(shell: str, line: str, folder: Path) -> list[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AGGREGATOR_")}
    environ |= {"PATH": f"{folder}:{os.environ['PATH']}"}
    no_files = "--norc" if shell == "bash" else "-f"
    script = BASH if shell == "bash" else ZSH
    done = subprocess.run(
        [shell, no_files, "-c", script, shell, line],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    first, *found = done.stdout.splitlines()
    assert "complete" in first, "the script says for which command it is"
    return sorted(word.split(":")[0] for word in found if word)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_is_proposed_commands_states_and_names(shell: str, folder: Path) -> None:
    assert proposed(shell, "aggregator or", folder) == ["orders"]
    assert proposed(shell, "aggregator orders list --state c", folder) == ["canceled", "completed"]
    assert proposed(shell, "aggregator providers pause smm", folder) == ["smmcheap", "smmplus"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("orders place ", ["ig-likes", "tg-members"]),
        ("orders list --service ig", ["ig-likes"]),
        ("services quote ", ["ig-likes", "tg-members"]),
        ("providers show ", ["smmcheap", "smmplus"]),
        ("ledger smmp", ["smmplus"]),
        ("ledger --config other.yaml ", ["elsewhere"]),
        ("ledger --config missing.yaml ", []),
        ("ledger --config / ", []),
        ("webhooks test ", ["shop", "stats"]),
        ("webhooks create new --event cat", [
            "catalogue.*", "catalogue.out_of_stock", "catalogue.price_changed", "catalogue.quarantined",
            "catalogue.removed",
        ]),
        ("orders resolve 7 --at smmc", ["smmcheap"]),
    ],
)  # fmt: skip
def test_names_are_those_of_the_config_that_the_command_would_use(
    line: str, found: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.shell_completion import ShellComplete

    monkeypatch.chdir(folder)
    monkeypatch.delenv("AGGREGATOR_CONFIG", raising=False)
    *before, last = line.split(" ")
    assert [item.value for item in ShellComplete(cli, {}, "aggregator", "_X").get_completions(before, last)] == found


def test_every_argument_that_names_something_of_the_config_proposes_it() -> None:
    """A command that is added later takes its names by these types, too."""
    bare: list[str] = []

    def look(command: object, path: str) -> None:
        import click

        if isinstance(command, click.Group):
            for name, one in command.commands.items():
                look(one, f"{path} {name}")
        elif isinstance(command, click.Command):
            named = {"provider", "service", "services", "--at"}
            for parameter in command.params:
                if parameter.name in named and not isinstance(parameter.type, Name):
                    bare.append(f"{path} {parameter.name}")

    look(cli, "aggregator")
    assert bare == []
