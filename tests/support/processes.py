"""The daemon and the sandbox as real processes, for tests that kill them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from aggregator.demo import main as demo
from tests.support import forked, leaks
from tests.support.forked import ForkedProcess

KEY: Final = "test-key-of-the-shop-0001"
WITHIN_S: Final = 30.0
LOOK_EVERY_S: Final = 0.05
"""Another process gives no signal to wait on, so its doors are asked in small steps, bounded by WITHIN_S."""


def free_port() -> int:
    """A port that stays free for whoever listens on it. Until somebody does, connections to it are refused."""
    return demo.free_port(0)


def until(what: str, condition: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """Ask until the condition gives something true, and return it; AssertionError naming what did not come."""
    end = monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        if monotonic() > end:
            raise AssertionError(f"{what} did not come within {within_s:g} s")
        sleep(LOOK_EVERY_S)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(method: str, url: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
    """One request; OSError when nobody answers."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return Answer(reply.status, dict(reply.headers), reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error


@dataclass(slots=True)
class DaemonProcess:
    """`aggregator run` in a folder of its own. `crashes` and `start` may alternate as often as a test likes."""

    config: Path
    port: int
    log: Path
    process: subprocess.Popen[bytes] | ForkedProcess | None = None
    environ: dict[str, str] = field(default_factory=dict)
    """With an environment of its own it starts from nothing."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, ready: bool = True) -> None:
        leaks.started(self)
        arguments = ["run", "--config", str(self.config)]
        if self.environ:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "aggregator", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.environ},
                )
        else:
            self.process = forked.start(arguments, self.log)
        if ready:
            until("the daemon's readiness", self._ready)

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")
        try:
            return call("GET", f"{self.url}/readyz").status == 200
        except OSError:
            return False

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def synced(self) -> None:
        """Until every catalogue was read, which is when amounts can be refused."""

        def all_synced() -> bool:
            return all(one["catalogue"]["synced_at"] for one in self.get("/v1/providers").json()["providers"])

        until("the first sync", all_synced)

    def kill(self) -> None:
        """SIGKILL, as the worst moment does."""
        self.signal(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        return self.signal(signal.SIGTERM)

    def signal(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        assert code is not None
        return code

    def get(self, path: str) -> Answer:
        return self._told(path, call("GET", self.url + path, headers={"Authorization": f"Bearer {KEY}"}))

    def post(self, path: str, body: object, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._told(path, call("POST", self.url + path, body, {"Authorization": f"Bearer {KEY}", **named}))

    def _told(self, path: str, answer: Answer) -> Answer:
        leaks.answered(self, path, answer.body)
        return answer

    def orders(self) -> list[dict[str, Any]]:
        """Every order, by number."""
        found: list[dict[str, Any]] = []
        path = "/v1/orders?limit=500"
        while True:
            page = self.get(path).json()
            found.extend(page["orders"])
            if page["next_cursor"] is None:
                return sorted(found, key=lambda order: int(order["number"]))
            path = f"/v1/orders?limit=500&cursor={page['next_cursor']}"


def lines(daemon: DaemonProcess, event: str) -> list[dict[str, Any]]:
    """What the daemon's log says of this event."""
    told = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    return [line for line in told if line["event"] == event]


@dataclass(slots=True)
class SandboxProcess:
    """`aggregator sandbox` on a free port."""

    process: ForkedProcess
    url: str

    def ledger(self, *actions: str) -> list[dict[str, Any]]:
        """What it really accepted, of these actions."""
        entries: list[dict[str, Any]] = call("GET", f"{self.url}/control/ledger").json()["entries"]
        return [entry for entry in entries if entry["action"] in actions]

    def control(self, path: str, body: object) -> Any:
        answer = call("POST", f"{self.url}/control/{path}", body)
        assert answer.status == 200, answer.body
        return answer.json()

    def calls(self) -> dict[str, Any]:
        accounts: dict[str, Any] = call("GET", f"{self.url}/control/calls").json()["accounts"]
        return accounts


@contextmanager
def running_sandbox(*, speed: float = 1.0, seed: int = 0) -> Iterator[SandboxProcess]:
    port = free_port()
    arguments = ["sandbox", "--port", str(port), "--speed", str(speed), "--seed", str(seed)]
    process = forked.start(arguments, Path(os.devnull))
    sandbox = SandboxProcess(process, f"http://127.0.0.1:{port}")

    def healthy() -> bool:
        assert process.poll() is None, f"the sandbox ended with {process.returncode}"
        try:
            return call("GET", f"{sandbox.url}/control/health").status == 200
        except OSError:
            return False

    try:
        until("the sandbox", healthy)
        yield sandbox
    finally:
        process.terminate()
        process.wait(timeout=30)


CONFIG: Final = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys:
  - {{name: shop, key: {key}, scopes: [orders, admin]}}
providers:
  smmplus: {{dialect: panel_v2, url: "{sandbox}/smmplus/api/v2", api_key: sandbox-smmplus-key, {limits}}}
  smmcheap: {{dialect: panel_v2, url: "{sandbox}/smmcheap/api/v2", api_key: sandbox-smmcheap-key, {limits}}}
  hstock:
    dialect: hstockplus
    url: {sandbox}/hstock/api/v2
    api_key: sandbox-hstock-key
    code_every_s: {{min: 0.2, max: 1}}
    {limits_block}
services:
  followers: {{kind: smm, offers: [{{provider: smmplus, service: "1"}}, {{provider: smmcheap, service: "1"}}]}}
  plus: {{kind: smm, offers: [{{provider: smmplus, service: "1"}}], refill: {{auto: false}}}}
  likes: {{kind: smm, offers: [{{provider: smmcheap, service: "2"}}, {{provider: smmplus, service: "18"}}]}}
  gmail: {{kind: product, offers: [{{provider: hstock, service: "2"}}]}}
  code: {{kind: sms, offers: [{{provider: hstock, project: "65f0aa", country: us}}]}}
{more}
"""


def write_config(
    folder: Path, database: str, sandbox: str, *, timeout_s: float = 5, more: str = "", port: int | None = None
) -> DaemonProcess:
    """A config for the sandbox's accounts, and the daemon that would run with it."""
    limits = f"timeout_s: {timeout_s}, requests_per_second: 0, status_every_s: {{min: 0.3, max: 2}}"
    block = limits.replace(", requests", "\n    requests").replace(", status", "\n    status")
    port = port or free_port()
    config = folder / "config.yaml"
    config.touch(mode=0o600)
    config.write_text(
        CONFIG.format(
            database=json.dumps(database),
            port=port,
            key=KEY,
            sandbox=sandbox,
            limits=limits,
            limits_block=block,
            more=more,
        )
    )
    return DaemonProcess(config, port, folder / "daemon.log")
