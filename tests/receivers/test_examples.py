"""The README's receivers do what it says: they run here, as they stand there, against requests as they are sent.

Python always; JavaScript and PHP where their interpreter is, and skipped loudly where it is not. The published
verifiers are asked as well: Python's is in the development lock, JavaScript's is fetched by `make test` where npm is.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from standardwebhooks import Webhook

from aggregator.domain import webhooks

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text()
OLD, NEW = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (7, 8))


@dataclass(frozen=True)
class Request:
    """One request as the daemon sends it, what the receiver must answer, and whether it counts as stale (None: it is
    not taken at all)."""

    headers: dict[str, str]
    body: bytes
    status: int
    stale: bool | None

    def as_json(self) -> dict[str, str | dict[str, str]]:
        return {"headers": self.headers, "body": base64.b64encode(self.body).decode()}


def request(
    event_id: str, data: dict[str, Any], status: int = 204, stale: bool | None = False, *, age_s: float = 0
) -> Request:
    """Signed with the old and the new secret, as while they are being changed."""
    document = {"type": "order.progress", "timestamp": "2026-11-21T18:00:00.000Z", "data": data}
    body = json.dumps(document, separators=(",", ":")).encode()
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in (NEW, OLD)]
    headers = webhooks.headers(event_id, datetime.now(UTC) - timedelta(seconds=age_s), body, keys)
    return Request(headers, body, status, stale)


def an_order(order: str, sequence: int) -> dict[str, Any]:
    return {"order": {"id": order, "state": "in_progress", "note": "ü 🦊"}, "sequence": sequence}


def requests() -> list[Request]:
    first = request("evt_1", an_order("ord_1", 1))
    forged = request("evt_9", an_order("ord_1", 9), 401, None)
    return [
        first,
        replace(first, stale=None),  # the same again
        request("evt_3", an_order("ord_1", 3)),
        request("evt_2", an_order("ord_1", 2), stale=True),
        request("evt_4", an_order("ord_2", 1)),
        request("evt_5", {"provider": "smmplus"}),
        replace(forged, body=forged.body.replace(b"in_progress", b"completed")),
        replace(forged, headers={**forged.headers, "webhook-id": "evt_10"}),
        replace(forged, headers={**forged.headers, "webhook-signature": "v1,AAAA v2,BBBB"}),
        replace(forged, headers={name: v for name, v in forged.headers.items() if name != "webhook-signature"}),
        request("evt_11", an_order("ord_1", 11), 401, None, age_s=301),
        request("evt_12", an_order("ord_1", 12), age_s=200),
    ]


def example(language: str) -> str:
    """The block of this language in the README's page for receivers."""
    page = README.partition("### Receiving them")[2].partition("\n## ")[0]
    (block,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return str(block)


def interpreter(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: the README's example for it is not run")
    return found


def judge(asked: list[Request], statuses: list[int], queued: list[Any]) -> None:
    assert statuses == [one.status for one in asked]
    taken = [one for one in asked if one.stale is not None]
    assert [stale for _, stale in queued] == [one.stale for one in taken]
    assert [event for event, _ in queued] == [json.loads(one.body) for one in taken]


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_the_receiver_in_python(secret: str) -> None:
    queued: list[Any] = []
    space: dict[str, Any] = {"SECRET": secret, "enqueue": lambda *one: queued.append(one)}
    exec(example("python"), space)
    asked = requests()
    judge(asked, [space["receive"](one.headers, one.body) for one in asked], queued)


JAVASCRIPT: Final = """
const SECRET = process.argv[2], queued = [], statuses = [];
const enqueue = (event, stale) => queued.push([event, stale]);
%s
for (const one of JSON.parse(require("node:fs").readFileSync(0)))
  statuses.push(receive(one.headers, Buffer.from(one.body, "base64")));
console.log(JSON.stringify({ statuses, queued }));
"""
PHP: Final = """<?php
define("SECRET", $argv[1]);
$queued = [];
function enqueue($event, $stale) { global $queued; $queued[] = [$event, $stale]; }
%s
$statuses = array_map(fn($one) => receive($one["headers"], base64_decode($one["body"])),
                      json_decode(stream_get_contents(STDIN), true));
echo json_encode(["statuses" => $statuses, "queued" => $queued]);
"""


@pytest.mark.parametrize(("name", "language", "program"), [("node", "javascript", JAVASCRIPT), ("php", "php", PHP)])
@pytest.mark.parametrize("secret", [OLD, NEW])
def test_the_receivers_in_other_languages(tmp_path: Path, name: str, language: str, program: str, secret: str) -> None:
    command, script, asked = interpreter(name), tmp_path / "receiver.js", requests()
    script.write_text(program % example(language))
    given = json.dumps([one.as_json() for one in asked])
    done = subprocess.run([command, str(script), secret], input=given.encode(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    judge(asked, said["statuses"], said["queued"])


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_the_published_verifier_of_python_takes_every_good_request(secret: str) -> None:
    for one in requests():
        if one.status == 204:
            assert Webhook(secret).verify(one.body, one.headers) == json.loads(one.body)


def test_the_published_verifier_of_javascript_takes_every_good_request(tmp_path: Path) -> None:
    command, script = interpreter("node"), tmp_path / "published.js"
    script.write_text(
        """
        let Webhook;
        try { Webhook = require("standardwebhooks").Webhook; } catch { process.exit(3); }
        for (const one of JSON.parse(require("node:fs").readFileSync(0)))
          new Webhook(process.argv[2]).verify(Buffer.from(one.body, "base64").toString(), one.headers);
        """
    )
    good = [one.as_json() for one in requests() if one.status == 204]
    for secret in (OLD, NEW):
        done = subprocess.run(
            [command, str(script), secret],
            input=json.dumps(good).encode(),
            capture_output=True,
            timeout=60,
            env={"NODE_PATH": str(ROOT / ".venv" / "verifiers" / "node_modules"), **os.environ},
        )
        if done.returncode == 3:
            pytest.skip("`make test` could not fetch it: the published verifier of JavaScript is not asked")
        assert done.returncode == 0, done.stderr.decode()
