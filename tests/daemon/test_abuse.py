"""The daemon in a bad world: providers that hang or talk nonsense, a database that is locked, odd signals."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.support.processes import KEY, DaemonProcess, free_port, until

API_KEY = "key-of-a-bad-provider-0001"
WISH = {"service": "followers", "quantity": 100, "link": "https://example.com/x"}
CONFIG = """\
database: sqlite:///{folder}/orders.db
http: {{listen: ["127.0.0.1:{port}", "unix:{folder}/http.sock"]}}
keys: [{{name: shop, key: {key}, scopes: [orders, admin]}}]
providers: {{panel: {{dialect: panel_v2, url: "{url}", api_key: {api_key}, timeout_s: 2}}}}
services: {{followers: {{kind: smm, offers: [{{provider: panel, service: "1"}}]}}}}
"""


class _Nonsense(BaseHTTPRequestHandler):
    """Answers everything with a page that repeats what it was sent."""

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><html><title>Just a moment...</title>" + said)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def nonsense() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Nonsense)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/api/v2"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silence() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api/v2"


@contextmanager
def nobody() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}/api/v2"


@contextmanager
def running(folder: Path, url: str) -> Iterator[DaemonProcess]:
    config = folder / "config.yaml"
    config.touch(mode=0o600)
    daemon = DaemonProcess(config, free_port(), folder / "daemon.log")
    config.write_text(CONFIG.format(folder=folder, port=daemon.port, key=KEY, url=url, api_key=API_KEY))
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


def lines(daemon: DaemonProcess, event: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    return [line for line in told if line["event"] == event]


@pytest.mark.parametrize(
    ("provider", "words"),
    [(nonsense, "unreadable: HTTP 200, html"), (silence, "lost: timeout"), (nobody, "not_sent: ")],
    ids=["nonsense", "silence", "nobody"],
)
def test_a_bad_provider_is_named_and_nothing_else_suffers(provider: Any, words: str, tmp_path: Path) -> None:
    with provider() as url, running(tmp_path, url) as daemon:
        began = monotonic()
        taken = [daemon.post("/v1/orders", WISH) for _ in range(5)]
        assert {answer.status for answer in taken} == {201}
        assert monotonic() - began < 2, "intake waited for a provider"

        def told() -> str | None:
            found: str | None = daemon.get("/v1/providers").json()["providers"][0]["catalogue"]["error"]
            return found

        assert until("the provider's error", told).startswith(words)
        assert any(line["reason"].startswith(words) for line in lines(daemon, "catalogue_refused"))
        number = taken[0].json()["number"]
        until("a reason to wait", lambda: daemon.get(f"/v1/orders/{number}").json()["error"])
        assert {order["state"] for order in daemon.orders()} == {"accepted"}
        seen = [daemon.get(path).body for path in ("/metrics", "/v1/providers", f"/v1/orders/{number}/attempts")]
        began = monotonic()
        assert daemon.terminate() == 0
        assert monotonic() - began < 5
        log = daemon.log.read_bytes()
        stored = b"".join(path.read_bytes() for path in tmp_path.glob("orders.db*"))
        for secret in (API_KEY, KEY):
            assert secret.encode() not in b"".join([log, stored, *seen])
        assert b"Traceback" not in log


def test_a_locked_database_is_said_so_and_nothing_is_lost(tmp_path: Path) -> None:
    with nobody() as url, running(tmp_path, url) as daemon:
        assert daemon.post("/v1/orders", WISH).status == 201
        with closing(sqlite3.connect(tmp_path / "orders.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            # Longer than a client of this test waits elsewhere: it may stand behind another write, which waits as well.
            with closing(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)) as client:
                headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
                client.request("POST", "/v1/orders", json.dumps(WISH), headers)
                refused = client.getresponse()
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert daemon.get("/readyz").status == 503
            assert "aggregator_database_up 0.0" in daemon.get("/metrics").body.decode()
            assert len(daemon.orders()) == 1
        assert daemon.post("/v1/orders", WISH).status == 201
        assert len(daemon.orders()) == 2
        assert daemon.terminate() == 0


def test_signals_end_it_in_order_and_a_hangup_does_not(tmp_path: Path) -> None:
    with nobody() as url, running(tmp_path, url) as daemon:
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        until("its answer", lambda: lines(daemon, "hangup_ignored"))
        assert daemon.get("/readyz").status == 200
        assert daemon.signal(signal.SIGINT) == 0
        assert lines(daemon, "daemon_stopped")
        daemon.start()  # over the unix socket that it left
        assert daemon.terminate() == 0
        assert len(lines(daemon, "daemon_stopped")) == 2
