"""One daemon that is started again and again, and the webhook endpoint that survives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import IO, Any, Final

from tests.support.processes import KEY, Answer, call, free_port
from tests.support.servers import serving
from tests.torture.forge import LOCKED, Forge

CONFIG: Final = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys: [{{name: shop, key: {key}, scopes: [orders, admin]}}]
providers:
  smmplus:
    {{dialect: panel_v2, url: "{sandbox}/smmplus/api/v2", api_key: sandbox-smmplus-key, {limits}}}
  smmcheap:
    {{dialect: panel_v2, url: "{sandbox}/smmcheap/api/v2", api_key: sandbox-smmcheap-key, {limits},
      idempotent_add: true}}
  hstock:
    {{dialect: hstockplus, url: "{sandbox}/hstock/api/v2", api_key: sandbox-hstock-key, {limits},
      code_every_s: {{min: 0.1, max: 0.5}}}}
services:
  followers: {{kind: smm, offers: [{{provider: smmplus, service: "1"}}, {{provider: smmcheap, service: "1"}}], {once}}}
  plus: {{kind: smm, offers: [{{provider: smmplus, service: "1"}}], {once}}}
  cheap: {{kind: smm, offers: [{{provider: smmcheap, service: "1"}}], {once}}}
  drops: {{kind: smm, offers: [{{provider: smmcheap, service: "7"}}], {once}}}
  drip: {{kind: smm, offers: [{{provider: hstock, service: "1"}}], {once}}}
  rest: {{kind: smm, offers: [{{provider: smmplus, service: "19"}}, {{provider: smmcheap, service: "1"}}],
    reroute_remainder: true, {once}}}
  gmail: {{kind: product, offers: [{{provider: hstock, service: "2"}}]}}
  code: {{kind: sms, offers: [{{provider: hstock, project: "65f0aa", country: us}}]}}
webhooks:
  - {{name: shop, url: "{hook}", retry_s: [0.3, 1, 3, 10, 600],
      secret: whsec_a2lsbGVkLXNlY3JldC1vZi0zMi1ieXRlcy0wMDAwMDAx}}
"""
LIMITS: Final = (
    "timeout_s: 1, requests_per_second: 0, status_every_s: {min: 0.2, max: 1}, settle_s: 3, max_concurrency: 8"
)
ONCE: Final = "refill: {auto: false, min_age_h: 0, cooldown_h: 24, max_refills: 1}"


def write_config(folder: Path, database: str, sandbox: str, hook: str, port: int) -> Path:
    path = folder / "config.yaml"
    path.touch(mode=0o600)
    path.write_text(
        CONFIG.format(
            database=json.dumps(database), port=port, key=KEY, sandbox=sandbox, hook=hook, limits=LIMITS, once=ONCE
        )
    )
    return path


class Receiver(ThreadingHTTPServer):
    """Keeps what the webhook endpoint heard, in the order in which it took it. Of every seventh event it refuses the
    first try, so that others have to wait for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.heard: dict[str, str] = {}
        self.changed: list[str] = []
        self.taken: list[str] = []
        self.refused: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Hook(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        event_id = self.headers["webhook-id"]
        if int(event_id[-4:], 16) % 7 == 0 and event_id not in self.server.refused:
            self.server.refused.add(event_id)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.server.taken.append(event_id)
        if self.server.heard.setdefault(event_id, body) != body:
            self.server.changed.append(event_id)
        self.send_response(204)
        self.end_headers()

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    with serving(Receiver()) as server:
        yield server


@dataclass(slots=True)
class Victim:
    """One daemon's config, started again and again: forked, or cold."""

    forge: Forge
    config: Path
    log: Path
    port: int
    cold: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, point: str | None = None, nth: int = 1, *, within_s: float = 30.0) -> bool:
        """Start it; False when it died before it was ready."""
        end = monotonic() + within_s
        while True:
            self.forge.start(self.config, self.log, point, nth)
            event = self.forge.wait(max(0.0, end - monotonic()))
            assert event is not None, f"neither ready nor dead within {within_s:g} s:\n{self.tail()}"
            if event["event"] == "ready":
                return True
            self.forge.pid = None
            if event["code"] == -signal.SIGKILL:
                return False
            # PostgreSQL frees the lock of a killed daemon a moment later; its supervisor starts the next one again.
            assert event["code"] == LOCKED, f"it ended with {event['code']}:\n{self.tail()}"

    def start_cold(self, *, within_s: float = 30.0) -> None:
        """`aggregator run`, as an operator starts it, until it is ready."""
        file: IO[bytes]
        with self.log.open("ab") as file:
            self.cold = subprocess.Popen(
                [sys.executable, "-m", "aggregator", "run", "--config", str(self.config), "--log-level", "WARNING"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        end = monotonic() + within_s
        while not self._answers():
            assert self.cold.poll() is None, f"it ended with {self.cold.returncode}:\n{self.tail()}"
            assert monotonic() < end, f"not ready within {within_s:g} s"
            with suppress(subprocess.TimeoutExpired):
                self.cold.wait(0.02)

    def _answers(self) -> bool:
        try:
            return call("GET", f"{self.url}/readyz").status == 200
        except OSError:
            return False

    def died(self, within_s: float) -> bool:
        """Whether it ended by itself within this time."""
        if self.forge.pid is None:
            return True
        event = self.forge.wait(within_s)
        if event is None:
            return False
        self._ended(event)
        return True

    def _ended(self, event: Mapping[str, Any]) -> None:
        assert event["event"] == "ended", event
        self.forge.pid = None
        assert event["code"] == -signal.SIGKILL, f"it ended with {event['code']}:\n{self.tail()}"

    def kill(self) -> None:
        """SIGKILL now, and wait until it is gone."""
        if self.cold is not None:
            self.cold.kill()
            self.cold.wait()
            self.cold = None
        elif self.forge.pid is not None:
            with suppress(ProcessLookupError):  # at a point that it was to die at it was faster
                os.kill(self.forge.pid, signal.SIGKILL)
            assert self.died(30)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.forge.pid is not None
        os.kill(self.forge.pid, signal.SIGTERM)
        event = self.forge.wait(60)
        assert event is not None, "it does not stop"
        self.forge.pid = None
        code: int = event["code"]
        return code

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def get(self, path: str) -> Answer:
        return call("GET", self.url + path, headers={"Authorization": f"Bearer {KEY}"})

    def post(self, path: str, body: object, key: str | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {KEY}"} | ({"Idempotency-Key": key} if key else {})
        return call("POST", self.url + path, body, headers)


def new_victim(forge: Forge, folder: Path, database: str, sandbox: str, hook: str) -> Victim:
    port = free_port()
    return Victim(forge, write_config(folder, database, sandbox, hook, port), folder / "daemon.log", port)
