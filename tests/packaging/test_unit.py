"""The service as systemd would run it: the daemon does its work under what the unit allows, and can do nothing else.

systemd need not run for that: `tests.support.confined` makes the same mounts, rights and filters. Where that cannot be
done (no root, no libseccomp, no `systemd-analyze`), the run says so at its end.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any, Final

import pytest

from tests.support import confined, unconfined
from tests.support.processes import KEY, DaemonProcess, free_port, running_sandbox, until

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = """\
http: {{listen: ["127.0.0.1:{port}", "unix:/run/aggregator/http.sock"]}}
keys: [{{name: shop, key: "credential:shop", scopes: [orders, admin]}}]
providers:
  hstock:
    dialect: hstockplus
    url: {sandbox}/hstock/api/v2
    api_key: credential:hstock
    requests_per_second: 0
    status_every_s: {{min: 0.3, max: 2}}
services: {{gmail: {{kind: product, offers: [{{provider: hstock, service: "2"}}]}}}}
"""
PROBE: Final = """\
import ctypes, errno, json, mmap, os, pathlib, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
def own_file(mode):
    path = pathlib.Path("/var/lib/aggregator/probe")
    path.write_text("x")
    path.chmod(mode)
tries = {
    "write /etc": lambda: pathlib.Path("/etc/probe").write_text("x"),
    "write /usr": lambda: pathlib.Path("/usr/probe").write_text("x"),
    "write the program": lambda: pathlib.Path(sys.argv[1], "probe").write_text("x"),
    "see processes": lambda: os.stat("/proc/1"),
    "see the kernel": lambda: os.stat("/proc/kallsyms"),
    "see disks": lambda: os.stat("/dev/kmsg"),
    "become root": lambda: os.setuid(0),
    "give away": lambda: os.chown("/var/lib/aggregator", 0, 0),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "make namespaces": lambda: call("unshare", 0x10000000),
    "talk to the kernel": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "sniff": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "write code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "run real-time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "raise priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 1),
    "setuid file": lambda: own_file(0o4755),
    "other personality": lambda: call("personality", 8),
    "trace": lambda: call("ptrace", 0, 0, 0, 0),
    "set the clock": lambda: call("settimeofday", ctypes.byref((ctypes.c_long * 2)(0, 0)), None),
    "own file": lambda: own_file(0o600),
    "thread": lambda: threading.Thread(target=int).start(),
    "child": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "network": lambda: [socket.socket(family) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)],
    "temporary file": lambda: pathlib.Path("/tmp/probe").write_text("x"),
}
found = {}
for name, attempt in tries.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as exc:
        found[name] = errno.errorcode[exc.errno]
home = [entry for folder in ("/root", "/home") for entry in os.listdir(folder)]
print(json.dumps({"found": found, "tmp": os.listdir("/tmp"), "status": open("/proc/self/status").read()}))
"""
REFUSED: Final = {
    "write /etc": "EROFS", "write /usr": "EROFS", "write the program": "EROFS", "see processes": "ENOENT",
    "see the kernel": "ENOENT", "see disks": "ENOENT", "become root": "EPERM", "give away": "EPERM", "mount": "EPERM",
    "make namespaces": "EPERM", "talk to the kernel": "EAFNOSUPPORT", "sniff": "EAFNOSUPPORT", "write code": "EPERM",
    "run real-time": "EPERM", "raise priority": "EPERM", "setuid file": "EPERM", "other personality": "EPERM",
    "trace": "EPERM", "set the clock": "EPERM",
}  # fmt: skip
GRANTED: Final = ("own file", "thread", "child", "network", "temporary file")

where_it_can_be_tried = pytest.mark.skipif(bool(unconfined.WHY), reason=unconfined.WHY)


def test_every_line_of_the_unit_that_takes_something_away_is_tried_or_said_to_be_beyond_this() -> None:
    takes = ("Protect", "Private", "Restrict", "SystemCall", "Lock", "NoNew", "Memory", "Capab", "Ambient", "Device")
    named = {key for key in confined.settings() if key.startswith(takes)}
    known = confined.TRIED | confined.NOT_TRIED
    assert named - known == set(), "give them a place in tests/support/confined.py"
    assert known - confined.settings().keys() == set()


@contextmanager
def as_service(
    folder: Path, *arguments: str, log: Any, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Python with these arguments, confined; its state and its credentials are the folders of these names."""
    state, credentials = folder / "state", folder / "credentials"
    for made in (state, credentials):
        made.mkdir(exist_ok=True)
    os.chown(state, confined.USER, confined.USER)
    state.chmod(int(confined.settings()["StateDirectoryMode"][0], 8))
    order = {
        "argv": [sys.executable, *arguments],
        "state": str(state),
        "credentials": str(credentials),
        "kept": sorted({str(ROOT), sys.prefix, sys.base_prefix, *site.getsitepackages(), *unconfined.PATHS}),
        "environ": {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environ},
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.confined", json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)


@where_it_can_be_tried
def test_what_the_unit_takes_away_is_gone_and_what_is_needed_is_there(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log:
        with as_service(tmp_path, "-c", PROBE, str(ROOT), log=log, environ={}) as process:
            process.wait(timeout=60)
        log.seek(0)
        said = log.read().decode()
    assert process.returncode == 0, said
    told = json.loads(said)
    assert told["found"] == REFUSED | dict.fromkeys(GRANTED, "done")
    # The checkout itself may lie in /tmp, and is what the test brings along.
    brought = {path.parts[2] for path in (ROOT, Path(sys.executable)) if path.is_relative_to("/tmp")}
    assert set(told["tmp"]) - brought == {"probe"}
    status = dict(line.split(":\t", 1) for line in told["status"].splitlines() if ":\t" in line)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert set(status["Uid"].split()) == {str(confined.USER)}
    assert (tmp_path / "state" / "probe").stat().st_uid == confined.USER


@where_it_can_be_tried
def test_the_daemon_does_its_work_under_them(tmp_path: Path) -> None:
    """From READY=1 to an order that was bought, followed, delivered sealed, and read; then SIGTERM."""
    port, notified = free_port(), "aggregator-test-unit-" + os.urandom(8).hex()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "shop").write_text(KEY + "\n")
    (credentials / "hstock").write_text("sandbox-hstock-key\n")
    with (
        running_sandbox(speed=20) as sandbox,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        (tmp_path / "daemon.log").open("ab") as log,
    ):
        # For all to read, as in /etc; there is no secret in it.
        config = tmp_path / "state" / "config.yaml"
        config.parent.mkdir()
        config.write_text(CONFIG.format(port=port, sandbox=sandbox.url))
        config.chmod(0o644)
        manager.bind("\0" + notified)
        manager.settimeout(60)
        command = ("-m", "aggregator", "run", "--config", "/var/lib/aggregator/config.yaml")
        environ = {"NOTIFY_SOCKET": "@" + notified}
        with as_service(tmp_path, *command, log=log, environ=environ) as process:
            daemon = DaemonProcess(config, port, tmp_path / "daemon.log", process)
            until("its end, or readiness", lambda: process.poll() is not None or manager_has(manager))
            assert process.poll() is None, daemon.tail()
            assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]
            order = daemon.post("/v1/orders", {"service": "gmail", "quantity": 2, "link": "https://example.com"}).json()

            def accounts() -> list[str]:
                answer = daemon.get(f"/v1/orders/{order['number']}/delivery")
                return list(answer.json().get("accounts", ())) if answer.status == 200 else []

            until("the accounts", lambda: len(accounts()) == 2)
            until("the end", lambda: daemon.get(f"/v1/orders/{order['number']}").json()["state"] == "completed")
            metrics = daemon.get("/metrics").body.decode()
            assert 'aggregator_attempts_total{outcome="placed",provider="hstock"} 1.0' in metrics
            of_process = ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds")
            assert all(f"\nprocess_{name} " in metrics for name in of_process)
            started = float(metrics.split("\nprocess_start_time_seconds ", 1)[1].split()[0])
            assert abs(time() - started) < 300
            made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
            assert {"aggregator.db", "sealing.key"} <= made.keys()
            assert {mode & 0o077 for name, mode in made.items() if name != "config.yaml"} == {0}
            assert daemon.terminate() == 0
        assert manager.recv(100) in (b"WATCHDOG=1", b"STOPPING=1")
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        assert [line for line in lines if line["level"] in ("warning", "error", "critical")] == []
        assert KEY not in daemon.log.read_text()


def manager_has(manager: socket.socket) -> bool:
    """Whether it heard something by now."""
    try:
        return bool(manager.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here; .ci/run installs it")
def test_systemd_reads_the_units_without_a_word_and_rates_the_service_as_locked_up(tmp_path: Path) -> None:
    def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)

    for unit in ROOT.glob("systemd/aggregator.*"):
        text = unit.read_text().replace("/opt/aggregator/bin/aggregator", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    for unit in sorted(tmp_path.glob("aggregator.*")):
        verified = analyze("verify", "--man=no", unit)
        assert (verified.returncode, unit.name in verified.stdout + verified.stderr) == (0, False), verified.stderr
    if "--offline" not in analyze("security", "--help").stdout:
        pytest.skip("this systemd rates installed units alone")
    rated = analyze("security", "--no-pager", "--offline=true", "--threshold=12", tmp_path / "aggregator.service")
    assert rated.returncode == 0, rated.stdout
