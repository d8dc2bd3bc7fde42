"""What the documents name is there: commands and options, settings, files, links, metrics, words of the program."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

import click
import pytest
import yaml

from aggregator.cli.main import cli
from tests.docs.shown import README, blocks, sections
from tests.support.house import load_settings

ROOT: Final = README.parent
DOCUMENTS: Final = tuple(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "TROUBLESHOOTING.md"))
COMMAND: Final = re.compile(r"(?:^|`|/|\s)aggregator ((?:[a-z][a-z-]*)(?: +[^\s`#|&;]+)*)", re.MULTILINE)


@cache
def source() -> str:
    """All that the program can say, as it is written."""
    files = [*sorted((ROOT / "aggregator").rglob("*.py")), ROOT / "monitoring" / "alerts.yaml"]
    return "\n".join(path.read_text() for path in files)


# --- commands ---


def typed(text: str) -> list[str]:
    """Each command of a document; a word that is no command of ours belongs to a sentence."""
    code = [*re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE), *re.findall(r"`([^`\n]+)`", text)]
    found = [match.strip() for piece in code for match in COMMAND.findall(piece)]
    return [command for command in found if command.split()[0] in cli.commands]


def unknown(command: str) -> str | None:
    """What of a command line the program does not know."""
    words, path = command.split(), ["aggregator"]
    chosen: click.Command = cli
    while words and isinstance(chosen, click.Group):
        name = words.pop(0)
        if name == "…":
            return None
        if name not in chosen.commands:
            return f"{' '.join(path)} has no {name}"
        chosen, path = chosen.commands[name], [*path, name]
    known = {option for parameter in chosen.params for option in (*parameter.opts, *parameter.secondary_opts)}
    wrong = [word for word in words if word.startswith("-") and word.split("=")[0] not in known]
    return f"{' '.join(path)} knows no {wrong[0]}" if wrong else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_is_there_with_its_options(document: Path) -> None:
    found = typed(document.read_text())
    assert found or document.name == "ARCHITECTURE.md"
    assert [f"{command}: {wrong}" for command in found if (wrong := unknown(command))] == []


def test_a_command_that_is_not_there_is_found() -> None:
    assert typed("`aggregator orders list --state unclear`, an aggregator is; `aggregator backup`") == [
        "orders list --state unclear",
        "backup",
    ]
    assert unknown("orders list --state unclear") is None
    assert unknown("orders mend 1") == "aggregator orders has no mend"
    assert unknown("orders list --colour") == "aggregator orders list knows no --colour"


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named - targets == set(), document.name


# --- settings ---


def test_the_smallest_config_loads(tmp_path: Path) -> None:
    [first] = [block for block in blocks(sections()["Configuration"]) if block.language == "yaml"]
    names = re.findall(r"env:(\w+)", first.text)
    settings = load_settings(tmp_path, first.text, {name: f"a-secret-of-enough-length-{name}" for name in names})
    assert set(settings.providers) == {"smmplus", "hstock"}
    assert settings.services["ig-followers"].offers


def test_every_other_yaml_is_yaml() -> None:
    for document in DOCUMENTS:
        for block in blocks(document.read_text()):
            if block.language == "yaml":
                assert yaml.safe_load(block.text)


# --- files, links, metrics ---


def anchors(document: Path) -> set[str]:
    headings = sections(document.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        led = ROOT / name if name else document
        assert led.exists(), target
        assert not anchor or anchor in anchors(led), target


@pytest.mark.parametrize("heading", ["Where is…?"])
def test_what_is_looked_for_is_where_the_readme_says(heading: str) -> None:
    rows = [row for row in sections()[heading].splitlines() if row.startswith("|")][2:]
    assert len(rows) > 20
    missing = []
    for row in rows:
        folder = ROOT
        for name in re.findall(r"`([\w.][\w./-]*)`", row):
            if not re.search(r"[./]", name):
                continue  # a name within the file
            path = ROOT / name if (ROOT / name).exists() else folder / name
            if not path.exists():
                missing.append(name)
            folder = path.parent
    assert missing == []


def test_every_file_that_is_named_by_its_path_is_there() -> None:
    pattern = re.compile(r"`((?:aggregator|tests|benchmarks|monitoring|systemd|migrations)/[\w./-]*)`")
    for document in DOCUMENTS:
        named = pattern.findall(document.read_text())
        assert [name for name in named if not (ROOT / name).exists()] == [], document.name


def test_every_metric_that_is_named_is_counted() -> None:
    [table] = re.findall(r"^\| metric \(.*?\n\n", README.read_text(), re.DOTALL | re.MULTILINE)
    cells = [row.split("|")[1] for row in table.splitlines()[2:] if row]
    named = [f"aggregator_{name}" for cell in cells for name in re.findall(r"`…?(\w+)`", cell) if "…" not in name]
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    named += re.findall(r"\b(aggregator_[a-z_]+[a-z])\b", text)
    assert len(named) > 30
    unsaid = [name for name in named if not re.search(rf'"{name}"|{name.removeprefix("aggregator_")}"', source())]
    assert unsaid == []


# --- words of the program ---


def quoted(text: str) -> list[str]:
    """What TROUBLESHOOTING.md says that one sees: on the lines that say so, and in the first column of its tables."""
    seen = re.findall(r"^\*\*Seen:\*\*(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    seen += [row.split("|")[1] for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
    return [words for piece in seen for words in re.findall(r"`([^`]+)`", piece)]


def unsaid(words: str, said: str) -> list[str]:
    """The pieces between what differs that stand nowhere."""
    return [piece for piece in re.split("…", words) if piece.strip(" :") and piece.strip() not in said]


def test_the_words_that_one_sees_are_the_programs() -> None:
    document = ROOT / "TROUBLESHOOTING.md"
    words = quoted(document.read_text())
    assert len(words) > 60
    elsewhere = {"Fatal Python error: Aborted"}
    assert [one for one in words if one not in elsewhere and unsaid(one, source())] == []


def test_every_entry_says_what_is_seen_and_what_to_do() -> None:
    entries = {
        name: text for name, text in sections((ROOT / "TROUBLESHOOTING.md").read_text()).items() if "\n**" in text
    }
    assert len(entries) >= 25
    assert [name for name, text in entries.items() if not ("**Seen:**" in text and "**Do:**" in text)] == []


def test_words_that_nobody_says_are_found() -> None:
    assert quoted("**Seen:** `this`; then `that …`\n\n| `a` | `b` |\n") == ["this", "that …", "a"]
    assert (
        unsaid("another daemon (process …) is running on …", 'f"another daemon (process {holder}) is running on') == []
    )
    assert unsaid("order_was_eaten", "order_stuck") == ["order_was_eaten"]


def test_the_way_to_a_running_service_is_six_commands_that_fit_the_unit() -> None:
    first = blocks(sections()["Running under systemd"])[0]
    lines = first.text.splitlines()
    assert len(lines) <= 6
    unit = (ROOT / "systemd" / "aggregator.service").read_text()
    [(program, config)] = re.findall(r"^ExecStart=(\S+)/bin/aggregator run --config (\S+)$", unit, re.MULTILINE)
    assert f"-m venv {program}" in first.text
    assert f" {config} " in first.text
    shared = re.findall(r'"(systemd/aggregator\.service)" = "(\S+)"', (ROOT / "pyproject.toml").read_text())
    assert lines[-1] == f"systemctl enable --now {program}/{shared[0][1]}"
