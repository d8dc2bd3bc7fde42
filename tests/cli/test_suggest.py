"""`services suggest` before a real daemon with three providers: proposals, lines for the config, mistakes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.cli import main as command
from aggregator.cli import suggest
from aggregator.cli.failures import CannotDo, Refused
from aggregator.cli.suggest_view import _flow
from aggregator.config import Settings, load
from aggregator.config.document import parse
from tests.cli.support import Shell
from tests.support.databases import sqlite_url
from tests.support.processes import DaemonProcess, call, free_port, until, write_config

Edit = Callable[[str, str], Shell]


@pytest.fixture(scope="module", autouse=True)
def _synced(daemon: DaemonProcess) -> None:
    """Every catalogue was read once."""
    until(
        "the catalogues",
        lambda: all(one["catalogue"]["rows"] for one in daemon.get("/v1/providers").json()["providers"]),
    )


@pytest.fixture
def edited(daemon: DaemonProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Edit:
    """A shell whose config is the daemon's with a change: it is the file that lines are proposed for."""
    copy = tmp_path / "config.yaml"

    def change(old: str, new: str) -> Shell:
        text = daemon.config.read_text()
        assert old in text
        copy.touch(mode=0o600)
        copy.write_text(text.replace(old, new))
        return Shell(copy, capsys)

    return change


def proposed(shell: Shell, *argv: str) -> dict[str, list[str]]:
    document = shell.json("services", "suggest", *argv)
    return {
        one["service"]: [f"{offer['provider']}/{offer['service']}" for offer in one["proposals"]]
        for one in document["services"]
    }


def pasted(shell: Shell, folder: Path, lines: str) -> Settings:
    """The config with these lines in the place of the services that they name, loaded as the daemon would."""
    document = yaml.safe_load(shell.config.read_text())
    document["services"] |= yaml.safe_load(lines)
    text = yaml.safe_dump({name: value for name, value in document.items() if name != "services"}, sort_keys=False)
    kept = {name: value for name, value in document["services"].items() if name not in parse(lines, "lines").data}
    text += "services:\n" + lines + "".join(f"  {name}: {json.dumps(value)}\n" for name, value in kept.items())
    target = folder / "pasted.yaml"
    target.touch(mode=0o600)
    target.write_text(text)
    return load(target, os.environ)


def test_offers_of_others_that_mean_the_same(shell: Shell) -> None:
    assert proposed(shell) == {
        "followers": ["smmplus/24", "hstock/1"],
        "plus": ["smmplus/24", "hstock/1"],
        "likes": ["hstock/6"],
        "gmail": [],
        "code": [],
    }
    assert shell("services", "suggest", "--service", "followers") == 0
    said = shell.out
    for words in (
        "followers: 2 proposals, prices per 1000",
        "hstock/1  why: both say: instagram followers, Default",
        "hstock/1  differs: refill: 30 days here, none there; cancel: yes here, no there",
        "Instagram Followers Slow [365 days]",
        "-19 %",
        "+190 %",
        "--yaml prints the lines",
    ):
        assert words in said, words
    assert "likes" not in said


def test_json_has_both_offers_their_prices_and_what_differs(shell: Shell) -> None:
    document = shell.json("services", "suggest", "--service", "followers", "--provider", "hstock")
    (one,) = document["services"]
    assert [offer["service"] for offer in one["ours"]] == ["1", "1"]
    (found,) = one["proposals"]
    assert (found["provider"], found["service"], found["name"]) == ("hstock", "1", "Instagram Followers")
    assert found["like"]["name"] == "Instagram Followers [R30]"
    assert (found["price"], found["price_per"]) == ({"amount": "0.50", "currency": "USD"}, 1000)
    assert (found["dearer_percent"], found["min"], found["max"]) == ("-19.35", 100, 10_000)
    assert found["differs"][0] == {"what": "refill", "here": "30 days", "there": "none", "grave": True}
    assert 80 <= found["score"] < 100
    assert "# - {provider: hstock" in document["yaml"]


def test_prices_follow_the_configs_rates(edited: Edit) -> None:
    shell = edited("services:\n", 'currency: EUR\nexchange_rates: {USD: "0.5"}\nservices:\n')
    (one,) = shell.json("services", "suggest", "--service", "likes")["services"]
    assert one["proposals"][0]["price"] == {"amount": "0.04", "currency": "EUR"}
    shell = edited("services:\n", "currency: EUR\nservices:\n")
    assert shell("services", "suggest", "--service", "likes") == 0
    assert "0.08 USD, without a rate in `exchange_rates` there" in shell.out


def test_the_lines_keep_all_that_a_service_has(shell: Shell, tmp_path: Path) -> None:
    before = shell.config.read_text()
    assert shell("services", "suggest", "--yaml") == 0
    lines = shell.out
    assert '- {provider: hstock, service: "6"} # 98 · 0.08 USD per 1000 · Instagram Likes\n' in lines
    assert '# - {provider: hstock, service: "1"} # 89' in lines
    now = pasted(shell, tmp_path, lines)
    was = load(shell.config, os.environ)
    assert [offer.provider for offer in now.services["likes"].offers] == ["smmcheap", "smmplus", "hstock"]
    assert now.services["plus"] == was.services["plus"]
    assert set(now.services) == set(was.services)
    taken = lines.replace("# - {", "- {")
    assert len(pasted(shell, tmp_path, taken).services["plus"].offers) == 3
    assert not pasted(shell, tmp_path, taken).services["plus"].refill.auto
    assert shell.config.read_text() == before


def test_new_services_are_proposed_for_what_belongs_to_none(shell: Shell, tmp_path: Path) -> None:
    assert shell("services", "suggest", "--new") == 0
    assert "telegram-members-r30: telegram members, Default" in shell.out
    document = shell.json("services", "suggest", "--new")
    groups = {one["service"]: one["offers"] for one in document["groups"]}
    assert [offer["provider"] for offer in groups["telegram-members-r30"]] == ["smmcheap", "smmplus"]
    assert {"instagram-comments", "tiktok-views", "youtube-subscribers"} <= set(groups)
    assert shell("services", "suggest", "--new", "--yaml") == 0
    now = pasted(shell, tmp_path, shell.out)
    assert [offer.target for offer in now.services["telegram-members-r30"].offers] == ["6", "21"]
    assert shell("services", "suggest", "--new", "--limit", "1", "--min-score", "99") == 0
    assert "more with --limit" in shell.out


def test_what_is_configured_anywhere_is_not_proposed(edited: Edit) -> None:
    shell = edited("services:\n", 'services:\n  cheap: {kind: smm, offers: [{provider: hstock, service: "6"}]}\n')
    assert proposed(shell)["likes"] == []
    assert proposed(shell)["cheap"] == []


def test_a_service_that_must_be_refilled_gets_no_others(edited: Edit) -> None:
    shell = edited("refill: {auto: false}", "refill: {required: true}")
    assert proposed(shell, "--service", "plus") == {"plus": ["smmplus/24"]}
    assert shell("services", "suggest", "--service", "plus") == 0
    assert "it wants offers that can be refilled" in shell.out


def test_what_could_not_be_compared_is_told(edited: Edit) -> None:
    shell = edited(
        'offers: [{provider: smmplus, service: "1"}], refill', 'offers: [{provider: smmplus, service: "404"}], refill'
    )
    assert proposed(shell)["plus"] == []
    assert shell("services", "suggest", "--service", "plus") == 0
    assert "smmplus/404 is in no catalogue that was read" in shell.out
    shell = edited('project: "65f0aa", country: us', 'project: "65f0aa"')
    assert shell("services", "suggest", "--service", "code") == 0
    assert "takes any country, so nothing was compared with it" in shell.out
    shell = edited('{provider: smmcheap, service: "1"}', '{provider: smmcheap, service: "2"}')
    assert shell("services", "suggest", "--service", "followers") == 0
    assert "its own offers seem to be two things" in shell.out
    shell = edited(
        "providers:\n", "providers:\n  later: {dialect: panel_v2, url: https://a.example, api_key: env:NIX}\n"
    )
    assert shell("services", "suggest") == 0
    assert "the running daemon does not know later yet; start it anew" in shell.out
    shell = edited("{dialect: panel_v2,", "{enabled: false, dialect: panel_v2,")
    assert shell("services", "suggest", "--yaml") == 0
    assert "smmplus is disabled in the config" in shell.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--service folowers", "there is no service 'folowers' in"),
        ("--service folowers", "did you mean followers?"),
        ("--provider smmpluss", "did you mean smmplus?"),
        ("--new --service likes", "leave --service out"),
        ("--yaml --json", "give one of them"),
        ("--min-score 101", "101 is not in the range"),
        ("--limit 0", "0 is not in the range"),
    ],
)
def test_asked_wrongly(argv: str, words: str, shell: Shell) -> None:
    assert shell("services", "suggest", *argv.split()) == 2
    assert words in shell.err


def test_mistakes_in_the_config_are_listed(edited: Edit) -> None:
    shell = edited("provider: smmcheap, service", "provider: smmchaep, service")
    assert shell("services", "suggest") == 2
    assert "services.followers.offers[1].provider: there is no provider smmchaep, did you mean smmcheap?" in shell.err
    shell = edited("services:\n  followers:", "services:\n  followers: {kind: smm, offers: []}\n  followers:")
    assert shell("services", "suggest") == 2
    assert "stands here twice" in shell.err


def test_without_a_daemon_or_a_catalogue_the_next_step_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    running = write_config(tmp_path, sqlite_url(tmp_path / "a.db"), f"http://127.0.0.1:{port}", timeout_s=1)
    argv = ["services", "suggest", "--config", str(running.config)]
    assert command.main(argv) == 1
    assert f"start it: aggregator run --config {running.config}" in capsys.readouterr().err
    running.start(ready=False)
    try:
        until("the daemon's door", lambda: _open(running))
        assert command.main(argv) == 1
        said = capsys.readouterr().err
        assert "there is no catalogue to compare:" in said
        assert f"aggregator providers sync hstock --config {running.config}" in said
        assert command.main([*argv, "--key", "not-a-key-of-this-daemon"]) == 1
        assert "the key came from --key" in capsys.readouterr().err
    finally:
        running.kill()


def _open(running: DaemonProcess) -> bool:
    try:
        return call("GET", f"{running.url}/livez").status in (200, 503)
    except OSError:
        return False


def test_a_config_without_services_is_told_of_new(shell: Shell, tmp_path: Path) -> None:
    text = shell.config.read_text()
    empty = tmp_path / "empty.yaml"
    empty.touch(mode=0o600)
    empty.write_text(text[: text.index("services:\n")])
    assert command.main(["services", "suggest", "--config", str(empty)]) == 1
    assert command.main(["services", "suggest", "--new", "--config", str(empty)]) == 0


def test_the_providers_keys_need_not_be_at_hand(edited: Edit) -> None:
    shell = edited("api_key: sandbox-smmplus-key", "api_key: env:OUT_OF_REACH")
    assert proposed(shell, "--service", "likes") == {"likes": ["hstock/6"]}


async def test_a_daemon_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    class Busy:
        """Refuses so many times, then answers."""

        def __init__(self, times: int, status: int = 429) -> None:
            self.times, self.status = times, status

        async def get(self, path: str, **query: object) -> Any:
            self.times -= 1
            if self.times >= 0:
                raise Refused("busy", status=self.status, document={}, body=b"", wait_s=2)
            return type("Answer", (), {"document": {"services": []}})

    monkeypatch.setattr(asyncio, "sleep", wait)
    assert await suggest._page(Busy(3), "/x", {}) == {"services": []}  # type: ignore[arg-type]
    assert waits == [2, 2, 2]
    with pytest.raises(CannotDo, match="too much to do"):
        await suggest._page(Busy(1000), "/x", {})  # type: ignore[arg-type]
    with pytest.raises(Refused):
        await suggest._page(Busy(1, 403), "/x", {})  # type: ignore[arg-type]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.sampled_from(["no", "0123", "1e5", "1:30", "# x", "a: b", "~", "'", '"', "\\", "👍", "true", "1.0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "on", "b c"]), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_whatever_a_service_has_is_written_as_it_is_read(value: Any) -> None:
    written = _flow({"name": value})
    assert "\n" not in written
    assert parse(written, "the line").data == {"name": value}
