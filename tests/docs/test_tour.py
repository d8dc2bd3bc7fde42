"""What the README shows is what happens: its tour and its commands are done again, against real processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode
from urllib.request import urlopen

import pytest

from tests.docs.shown import ANYTHING, Block, blocks, commands, differences, follows, sections, unsaid
from tests.support.databases import sqlite_url
from tests.support.processes import KEY, DaemonProcess, call, free_port, running_sandbox, until

DRAWN: Final = frozenset({"ms", "accounts"})
TWO_OFFERS: Final = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys: [{{name: shop, key: {key}, scopes: [orders, admin]}}]
providers:
  smmplus: {{dialect: panel_v2, url: "{sandbox}/smmplus/api/v2", api_key: sandbox-smmplus-key, status_every_s: {often}}}
  smmcheap: {{dialect: panel_v2, url: "{sandbox}/smmcheap/api/v2", api_key: sandbox-smmcheap-key, status_every_s: {often}}}
services:
  ig-followers:
    kind: smm
    offers: [{{provider: smmplus, service: "1"}}, {{provider: smmcheap, service: "1"}}]
    refill: {{auto: false}}
"""  # noqa: E501


# --- make demo ---


@contextmanager
def demo(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "aggregator",
                "demo",
                "--port",
                "0",
                "--speed",
                "30",
                "--keep",
                str(folder / "demo"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "COLUMNS": "160"},
        )
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def test_the_tour_is_what_the_demo_shows(tmp_path: Path) -> None:
    first, *documents = blocks(sections()["A tour of five minutes"])
    with demo(tmp_path) as (process, output):
        until("the end of the orders", lambda: "Ctrl-C ends everything." in output.read_text(), within_s=120)
        said = output.read_text()
        assert unsaid(first.text, said) == [], said
        url, key = re.findall(r"Bearer (demo_[\w-]+)' (http://[\d.:]+)/v1/orders\n", said)[0][::-1]
        authorized = {"Authorization": f"Bearer {key}"}
        assert [block.language for block in documents] == ["json"] * 3
        for block in documents:
            real = asked(block, url, authorized)
            assert list(differences(json.loads(block.text), real, drawn=DRAWN)) == []
        panel_door(url, key)
        # "Now kill it: kill -9 with the number that the demo prints."
        [killed] = re.findall(r"kill -9 (\d+)", said)
        os.kill(int(killed), signal.SIGKILL)
        until("the new start", lambda: "the daemon died (-9); started again as process" in output.read_text())
        until("its readiness", lambda: answers(f"{url}/readyz"), within_s=60)
        [ledger] = re.findall(r"curl (http://[\d.:]+/control/ledger)", said)
        bought = [entry for entry in call("GET", ledger).json()["entries"] if entry["action"] in ("add", "add_sms")]
        assert len(bought) == 6, "one for each order: five of the demo, one of the panel door"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def answers(url: str) -> bool:
    try:
        return call("GET", url).status == 200
    except OSError:
        return False


def asked(block: Block, url: str, headers: dict[str, str]) -> Any:
    """The answer to the request that stands in the text before a block."""
    method, path = re.findall(r"`(GET|POST) (/v1/[^`]+)`", block.before)[-1]
    body = None
    if method == "POST":
        [quantity] = re.findall(r"with a quantity of (\d+)", block.before)
        body = {"service": "ig-followers", "link": "https://instagram.com/example", "quantity": int(quantity)}
    answer = call(method, url + path, body, headers).json()
    if path.endswith("/attempts"):
        shown = json.loads(block.text)["ordinal"]
        return next(attempt for attempt in answer["attempts"] if attempt["ordinal"] == shown)
    return answer


def panel_door(url: str, key: str) -> None:
    """What the panel door's example shows: a purchase, and its status beside that of an order of nobody's."""
    [block] = blocks(sections()["The panel door: this daemon as a provider"])
    (buying, bought), (asking, told) = commands(block.text)
    shown = str(json.loads(bought)["order"])
    real = str(said_by(buying, url, key)["order"])
    assert list(differences(json.loads(bought), {"order": int(real)}, drawn=frozenset({"order"}))) == []
    # In the example's place of an order that does not exist stands one that does, in the demo.
    asking = asking.replace(f"{shown},7", f"{real},999")
    until("its status", lambda: None not in said_by(asking, url, key)[real].values())
    answer = said_by(asking, url, key)
    wanted = {"7": answer["999"], shown: answer[real]}
    shape = json.loads(told.replace("In progress", ANYTHING))
    assert list(differences(shape, wanted, drawn=frozenset({"charge", "start_count", "remains"}))) == []


def said_by(typed: str, url: str, key: str) -> Any:
    """The answer to a line of curl; where an order stands, any word for that is as good."""
    program, silent, address, *rest = shlex.split(typed.replace("$KEY", key))
    assert (program, silent, rest[::2]) == ("curl", "-s", ["-d"] * (len(rest) // 2))
    form = [pair for one in rest[1::2] for pair in parse_qsl(one)]
    place = url + address.removeprefix("http://127.0.0.1:8080")
    with urlopen(place, data=urlencode(form).encode(), timeout=30) as answer:
        found = json.load(answer)
    for one in found.values():
        if isinstance(one, dict) and one.get("status") in ("Pending", "Processing", "In progress", "Completed"):
            one["status"] = ANYTHING
    return found


# --- the command line ---


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with two offers; its order 1 goes through, the answer to the purchase of its order 2 is lost."""
    folder = tmp_path_factory.mktemp("shop")
    with running_sandbox() as sandbox:
        daemon = DaemonProcess(folder / "config.yaml", free_port(), folder / "daemon.log")
        daemon.config.touch(mode=0o600)
        often = "{min: 0.3, max: 1}"
        database = sqlite_url(folder / "aggregator.db")
        text = TWO_OFFERS.format(database=database, port=daemon.port, key=KEY, sandbox=sandbox.url, often=often)
        daemon.config.write_text(text)
        daemon.start()
        yield daemon
        assert daemon.terminate() == 0


def typed(command: str, folder: Path) -> str:
    """What a command of the README says, typed beside the config."""
    program, *arguments = shlex.split(command)
    assert program == "aggregator"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AGGREGATOR_")}
    done = subprocess.run(
        [sys.executable, "-m", "aggregator", *arguments],
        cwd=folder,
        env={**environ, "COLUMNS": "240"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_what_the_commands_say_is_what_the_readme_shows(shop: DaemonProcess) -> None:
    [block] = blocks(sections()["Command line"])
    shows = commands(block.text)
    assert len(shows) == 4
    for command, shown in shows:
        if "watch 1" in command:
            one_that_goes_through(shop)
        if "show 2" in command:
            one_whose_answer_is_lost(shop)
        said = typed(command, shop.config.parent)
        assert follows(shown, said), f"{command} says:\n{said}"


def one_that_goes_through(shop: DaemonProcess) -> None:
    """An order that is seen three times: bought, nearly through, and over."""
    wish = {"service": "ig-followers", "quantity": 1000, "link": "https://instagram.com/example"}
    assert shop.post("/v1/orders", wish).json()["number"] == 1
    reached(shop, "pending")
    bought = shop.get("/v1/orders/1").json()["provider_order"]
    for status, state, remains in (("In progress", "in_progress", 61), ("Completed", "completed", 0)):
        looks = {"status": status, "remains": remains, "start_count": 15967}
        steer(shop, f"accounts/smmcheap/orders/{bought}", looks)
        reached(shop, state)


def reached(shop: DaemonProcess, state: str) -> None:
    until(state, lambda: shop.get("/v1/orders/1").json()["state"] == state, within_s=60)


def one_whose_answer_is_lost(shop: DaemonProcess) -> None:
    """An order whose purchase was sent to one provider, and closed without a word."""
    steer(shop, "faults", [{"fault": "close_before", "account": "smmplus", "action": "add"}])
    wish = {"service": "ig-followers", "quantity": 100, "link": "https://instagram.com/other", "provider": "smmplus"}
    assert shop.post("/v1/orders", wish).json()["number"] == 2

    def evidence() -> Any:
        attempts = shop.get("/v1/orders/2/attempts").json()["attempts"]
        return attempts and attempts[-1]["evidence"]

    until("some evidence", evidence, within_s=60)


def steer(shop: DaemonProcess, what: str, body: object) -> None:
    [sandbox] = re.findall(r'"(http://[^/]+)/smmplus', shop.config.read_text())
    assert call("POST", f"{sandbox}/control/{what}", body).status == 200


def test_a_backup_says_what_the_readme_shows(shop: DaemonProcess) -> None:
    (shop.config.parent / "backups").mkdir()
    [block] = [one for one in blocks(sections()["Backups, and another database"]) if one.text.startswith("$ ")]
    for command, shown in commands(block.text):
        said = typed(command, shop.config.parent)
        assert follows(re.sub(r"\b\d+ orders", f"{len(shop.orders())} orders", shown), said), said


def test_a_command_that_says_something_else_is_found() -> None:
    """The comparison itself: what would have to fail does."""
    assert follows("a 1 s\n…\nd", "x\na 2.5 s\nb\nc\nd\n")
    assert not follows("a\nd", "a\nb\nd")
    assert not follows("charge 0.62 USD", "charge 0.63 USD")
    assert not follows("smmcheap", "smmcheap/1")
    assert unsaid("one\none\n…", "one\ntwo") == ["one"]
    assert list(differences({"a": [1], "ms": 8}, {"a": [2], "ms": 9}, drawn=frozenset({"ms"}))) == [".a[0] is 2"]
    assert list(differences({"a": "x"}, {})) == [".a is not there"]
    assert ANYTHING == "…"
