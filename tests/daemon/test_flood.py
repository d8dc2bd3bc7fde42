"""The daemon under abuse, in small: benchmarks/abuse.py with numbers that a test can bear."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from benchmarks.abuse import LEAST, MEGABYTE, Target, attack, attacks
from tests.support.processes import KEY, DaemonProcess, free_port

ROOM = 50
CONNECTIONS = 10_000
ATTACKS = attacks(connections=400, slow=100, large=80, hold_s=1)


def a_daemon(folder: Path) -> DaemonProcess:
    config = folder / "config.yaml"
    config.touch(mode=0o600)
    daemon = DaemonProcess(config, free_port(), folder / "daemon.log")
    config.write_text(
        f"database: sqlite:///{folder}/orders.db\n"
        f'http: {{listen: ["127.0.0.1:{daemon.port}"], max_connections: {ROOM}}}\n'
        f"keys: [{{name: shop, key: {KEY}, scopes: [orders, admin]}}]\n"
    )
    daemon.start()
    return daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    daemon = a_daemon(tmp_path_factory.mktemp("flood"))
    yield daemon
    assert daemon.terminate() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize(("name", "work"), ATTACKS, ids=[name for name, _ in ATTACKS])
def test_others_are_answered_and_memory_stays_where_it_was(
    daemon: DaemonProcess, name: str, work: Callable[..., object]
) -> None:
    assert daemon.process is not None
    target = Target(daemon.port, daemon.process.pid, KEY)
    before = target.resident
    seen = asyncio.run(attack(target, name, work))  # type: ignore[arg-type]
    print(seen.line())
    assert not seen.failed
    assert len(seen.waits_s) >= LEAST
    # 80 bodies of 1 MiB were sent; 32 MiB of them find room at once.
    assert seen.peak - before < 64 * MEGABYTE
    if "silent" in name or "dripping" in name:
        assert seen.told["left open"] <= ROOM < seen.told.total()
    if "bodies" in name:
        assert seen.told["503"] > 0
    assert daemon.get("/readyz").status == 200


def test_ten_thousand_connections_keep_nobody_from_being_answered(daemon: DaemonProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may open {hard} files alone: {CONNECTIONS} connections were NOT tried")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    silent: list[socket.socket] = []
    try:
        for number in range(1, CONNECTIONS + 1):
            silent.append(socket.create_connection(("127.0.0.1", daemon.port), timeout=30))
            if number % 1000 == 0:
                assert daemon.get("/v1/orders").status == 200, f"beside {number} connections"
    finally:
        for one in silent:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert daemon.get("/readyz").status == 200


def test_a_daemon_that_stops_waits_for_no_reader(tmp_path: Path) -> None:
    daemon = a_daemon(tmp_path)

    def asked(path: str) -> socket.socket:
        reader = socket.create_connection(("127.0.0.1", daemon.port), timeout=30)
        reader.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        return reader

    with asked("/v1/events/stream") as stream, asked("/v1/events?wait=30") as poll:
        head = b""
        while b"retry: 2000" not in head:  # head and first block come in one piece or in two
            piece = stream.recv(65536)
            assert piece, head
            head += piece
        began = monotonic()
        assert daemon.terminate() == 0
        assert monotonic() - began < 8
        ends = [b"".join(iter(partial(one.recv, 65536), b"")) for one in (stream, poll)]
        assert ends[0].endswith(b"0\r\n\r\n"), "the stream ended as streams do"
        assert ends[1].endswith(b'{"events":[],"next_after":0}')
    assert "Traceback" not in daemon.log.read_text()
