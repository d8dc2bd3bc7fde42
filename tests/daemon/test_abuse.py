"""The daemon in a bad world: providers that hang or talk nonsense, a database that is locked, odd signals."""

from __future__ import annotations

import http.client
import json
import resource
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.support.processes import KEY, DaemonProcess, free_port, lines, until
from tests.support.servers import silent_server

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
    with silent_server() as url:
        yield f"{url}/api/v2"


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


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        (nonsense, "answers HTML instead of JSON (HTTP 200, html): is `providers.panel.url` the API's address?"),
        (silence, "does not answer in time (timeout): raise `providers.panel.timeout_s`"),
        (nobody, "cannot be reached (ClientConnectorError: Connect call failed"),
    ],
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

        def said() -> bool:
            error = daemon.get(f"/v1/orders/{number}").json()["error"]
            return error is not None and words in error["detail"]

        until("the reason to wait", said)
        shown = daemon.get("/v1/providers").json()["providers"][0]
        assert (shown["state"], shown["up"]) == ("never_answered", False)
        assert shown["reason"].startswith(words)
        counted = daemon.get("/metrics").body.decode().splitlines()
        assert 'aggregator_provider_up{provider="panel"} 0.0' in counted
        assert 'aggregator_provider_state{provider="panel",state="never_answered"} 1.0' in counted
        assert sum(line.startswith('aggregator_provider_trouble{cause="') for line in counted) == 1
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
            began = monotonic()
            with closing(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)) as client:
                headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
                client.request("POST", "/v1/orders", json.dumps(WISH), headers)
                refused = client.getresponse()
            assert refused.status == 503
            assert monotonic() - began < 4, "whoever asks has less patience than a loop"
            assert int(refused.headers["Retry-After"]) > 0
            assert daemon.get("/readyz").status == 503
            assert "aggregator_database_up 0.0" in daemon.get("/metrics").body.decode()
            assert len(daemon.orders()) == 1
        assert daemon.post("/v1/orders", WISH).status == 201
        assert len(daemon.orders()) == 2
        assert daemon.terminate() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit of another process is Linux' own")
def test_a_full_disk_is_said_so_and_nothing_that_was_promised_is_lost(tmp_path: Path) -> None:
    huge = {**WISH, "params": {"comments": "x" * 99_000, "usernames": "y" * 99_000}}
    promised: list[str] = []

    def ask(daemon: DaemonProcess, wish: dict[str, Any]) -> int:
        answer = daemon.post("/v1/orders", wish)
        if answer.status == 201:
            promised.append(answer.json()["id"])
        else:
            assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True)
        return answer.status

    with nobody() as url, running(tmp_path, url) as daemon:
        assert daemon.process is not None
        assert ask(daemon, WISH) == 201
        size = max(file.stat().st_size for file in tmp_path.glob("orders.db*"))
        # No file may grow further than this; a log line fits, an order of 200 kB does not.
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (size + 150_000, resource.RLIM_INFINITY))
        with ThreadPoolExecutor(12) as clients:
            wishes = [huge if place % 3 == 0 else WISH for place in range(48)]
            answers = list(clients.map(lambda wish: ask(daemon, wish), wishes))
        assert set(answers[::3]) == {503}
        assert daemon.get("/readyz").status == 503
        assert sorted(order["id"] for order in daemon.orders()) == sorted(promised)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert ask(daemon, huge) == ask(daemon, WISH) == 201
        assert sorted(order["id"] for order in daemon.orders()) == sorted(promised)
        until("the daemon's readiness", lambda: daemon.get("/readyz").status == 200)
        told = lines(daemon, "storage_unavailable")
        assert any("disk full or broken" in line["reason"] or "make room" in line["reason"] for line in told)
        assert daemon.terminate() == 0
        assert "Traceback" not in daemon.log.read_text()


def test_signals_end_it_in_order_and_a_hangup_does_not(tmp_path: Path) -> None:
    with nobody() as url, running(tmp_path, url) as daemon:
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        until("its answer", lambda: lines(daemon, "config_reloaded"))
        assert daemon.get("/readyz").status == 200
        assert daemon.signal(signal.SIGINT) == 0
        assert lines(daemon, "daemon_stopped")
        assert not (tmp_path / "http.sock").exists()
        daemon.start()
        daemon.kill()
        assert (tmp_path / "http.sock").exists()
        daemon.start()  # over the unix socket that the dead one left
        assert daemon.terminate() == 0
        assert len(lines(daemon, "daemon_stopped")) == 2


def test_a_watchdog_that_ends_it_learns_where_each_thread_was(tmp_path: Path) -> None:
    with nobody() as url, running(tmp_path, url) as daemon:
        # Threads that run on while they are looked at may spoil the look: then the next one tells.
        for _ in range(3):
            ended = daemon.signal(signal.SIGABRT)
            assert ended in (-signal.SIGABRT, -signal.SIGSEGV)
            if ended == -signal.SIGABRT:
                break
            daemon.start()
        assert ended == -signal.SIGABRT
        said = daemon.log.read_text()
        assert "Fatal Python error: Aborted" in said
        assert "/aggregator/storage/writer.py" in said, "the writer's thread is among them"
        assert KEY not in said


def test_a_socket_that_somebody_lives_on_is_refused_in_words(tmp_path: Path) -> None:
    with nobody() as url, socket.socket(socket.AF_UNIX) as living:
        living.bind(str(tmp_path / "http.sock"))
        living.listen()
        config = tmp_path / "config.yaml"
        config.touch(mode=0o600)
        daemon = DaemonProcess(config, free_port(), tmp_path / "daemon.log")
        config.write_text(CONFIG.format(folder=tmp_path, port=daemon.port, key=KEY, url=url, api_key=API_KEY))
        daemon.start(ready=False)
        assert daemon.process is not None
        assert daemon.process.wait(timeout=30) == 1
        said = f"cannot listen on unix:{tmp_path}/http.sock: another process does; stop it, or change `http.listen`"
        assert daemon.tail().splitlines()[-1] == f"aggregator: {said}"
        assert (tmp_path / "http.sock").exists()
