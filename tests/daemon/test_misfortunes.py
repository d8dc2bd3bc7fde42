"""What happens to a daemon from outside: its file is taken away, its disk is read-only, it is stopped in the middle, a
credential is not there, an operator pauses. Each has its words, and nothing that was promised is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.test_abuse import CONFIG, WISH, nobody, running
from tests.daemon.test_followed import order, place, reaches
from tests.support.processes import KEY, DaemonProcess, SandboxProcess, lines, until

MakeDaemon = Callable[..., DaemonProcess]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_database_that_goes_away_under_it_ends_it_before_it_promises_more(how: str, tmp_path: Path) -> None:
    with nobody() as url, running(tmp_path, url) as daemon:
        assert daemon.process is not None
        assert daemon.post("/v1/orders", WISH).status == 201
        kept = tmp_path / "kept.db"
        (tmp_path / "orders.db").rename(kept)
        if how == "replaced":
            shutil.copy(kept, tmp_path / "orders.db")
        assert daemon.process.wait(timeout=30) == 2, "systemd must not start it again, on an empty one"
        (said,) = lines(daemon, "database_file_gone")
        assert said["reason"] == "the SQLite file was removed or replaced under the daemon"
        assert "Traceback" not in daemon.log.read_text()
        # What was written stands in the file and in its log; put back, both are the daemon's again.
        (tmp_path / "orders.db").unlink(missing_ok=True)
        kept.rename(tmp_path / "orders.db")
        daemon.start()
        assert len(daemon.orders()) == 1
        assert daemon.terminate() == 0


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts are root's, on Linux")
@pytest.mark.parametrize("before", ["nothing", "a database"])
def test_a_read_only_disk_is_said_in_words_and_nothing_is_touched(before: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with nobody() as url:
        daemon = DaemonProcess(tmp_path / "config.yaml", 1, tmp_path / "daemon.log")
        daemon.config.touch(mode=0o600)
        text = CONFIG.format(folder=tmp_path, port=1, key=KEY, url=url, api_key="key-of-a-provider-0001")
        daemon.config.write_text(text.replace(f"{tmp_path}/orders.db", f"{disk}/orders.db"))
        command = [sys.executable, "-m", "aggregator", "migrate", "--config", str(daemon.config)]
        if before == "a database":
            subprocess.run(command, check=True, capture_output=True)
        found = sorted(disk.iterdir())
        mounted = f'mount --bind {disk} {disk} && mount -o remount,bind,ro {disk} && exec "$@"'
        run = ["unshare", "--mount", "sh", "-c", mounted, "sh", *command[:3], "run", *command[4:]]
        done = subprocess.run(run, capture_output=True, text=True, timeout=60)
        if "mount:" in done.stderr or "unshare:" in done.stderr:
            pytest.skip(f"nothing can be mounted here, so no read-only disk was tried: {done.stderr.strip()}")
        assert done.returncode == 1
        said = {
            "nothing": f"{disk}/orders.db.lock cannot be written (Read-only file system); SQLite needs a folder",
            "a database": "the file cannot be read: unable to open database file; "
            f"{disk} cannot be written, which SQLite needs even to read",
        }[before]
        assert done.stderr.strip().splitlines()[-1].startswith(f"aggregator: sqlite:///{disk}/orders.db: {said}")
        assert "Traceback" not in done.stderr
        assert sorted(disk.iterdir()) == found


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (None, "does not exist; add LoadCredential=panel:/path/to/secret to the systemd unit"),
        ("", "is empty"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (Path, "is a directory; name a file"),
    ],
    ids=["missing", "empty", "binary", "directory"],
)
def test_a_credential_that_cannot_be_read_is_named_with_the_remedy(there: Any, words: str, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    if there is Path:
        (credentials / "panel").mkdir()
    elif there is not None:
        (credentials / "panel").write_bytes(there if isinstance(there, bytes) else there.encode())
    config = tmp_path / "config.yaml"
    config.touch(mode=0o600)
    url = "http://127.0.0.1:1/api/v2"
    config.write_text(CONFIG.format(folder=tmp_path, port=1, key=KEY, url=url, api_key="credential:panel"))
    done = subprocess.run(
        [sys.executable, "-m", "aggregator", "run", "--config", str(config)],
        env={**os.environ, "CREDENTIALS_DIRECTORY": str(credentials)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, "systemd must not start it again and again"
    assert done.stderr.splitlines()[0] == f"aggregator: {config} has 1 problem:"
    assert done.stderr.splitlines()[1] == f"providers.panel.api_key: the credential panel in {credentials} {words}"
    assert not (tmp_path / "orders.db").exists()


def test_sigterm_under_load_answers_what_it_took_and_buys_all_of_it_once(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    for account in ("smmplus", "smmcheap"):
        sandbox.control(f"accounts/{account}", {"balance": "100000"})
    sandbox.control("faults", [{"fault": "delay", "action": "add", "delay_s": 0.2, "count": 40}])
    daemon = make_daemon()
    daemon.start()
    assert daemon.process is not None
    taken: list[int] = []
    refused: list[int] = []

    def client(name: int) -> None:
        """Places orders until nobody answers any more."""
        for turn in range(1000):
            link = f"https://example.com/{name}-{turn}"
            try:
                answer = daemon.post("/v1/orders", {"service": "followers", "quantity": 50, "link": link})
            except OSError:
                return
            if answer.status == 201:
                taken.append(answer.json()["number"])
            else:
                refused.append(answer.status)

    with ThreadPoolExecutor(8) as clients:
        working = [clients.submit(client, name) for name in range(8)]
        until("a load", lambda: len(taken) > 60)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=60) == 0
        for one in working:
            one.result()
    assert set(refused) <= {503}, "it was told to come back"
    assert lines(daemon, "daemon_stopped")
    assert "Traceback" not in daemon.log.read_text()
    daemon.start()
    found = until("all of them", lambda: _ended(daemon), 60)
    assert set(taken) <= {one["number"] for one in found}
    assert all(one["state"] in ("completed", "partial", "canceled") for one in found), "a stop made none unclear"
    assert len(sandbox.ledger("add")) == len(found)


def _ended(daemon: DaemonProcess) -> list[dict[str, Any]]:
    found = daemon.orders()
    return found if all(one["finished_at"] or one["state"] == "unclear" for one in found) else []


def test_a_paused_provider_is_bought_from_no_more_and_what_was_bought_is_followed_to_its_end(
    make_daemon: MakeDaemon, sandbox: SandboxProcess
) -> None:
    sandbox.control("accounts/smmplus/services/1", {"behaviour": {"kind": "complete", "run_s": 30}})
    daemon = make_daemon()
    daemon.start()
    under_way = place(daemon, "plus")["number"]
    reaches(daemon, under_way, "in_progress")
    assert daemon.post("/v1/providers/smmplus/pause", None).json()["paused"] is True
    waiting = place(daemon, "plus", link="https://example.com/b")["number"]
    until("the reason", lambda: "paused" in json.dumps(order(daemon, waiting)["error"]))
    reaches(daemon, under_way, "completed")
    assert order(daemon, waiting)["state"] == "accepted"
    daemon.kill()
    daemon.start()
    assert daemon.get("/v1/providers/smmplus").json()["paused"] is True
    assert len(sandbox.ledger("add")) == 1
    daemon.post("/v1/providers/smmplus/resume", None)
    reaches(daemon, waiting, "completed")
    assert len(sandbox.ledger("add")) == 2
