"""Doors that were opened by somebody else, and doors that must not be opened: real processes, real descriptors."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.web.activation import BadSocket, check_doors, passed_sockets
from tests.support.processes import KEY, DaemonProcess, free_port, until

CONFIG = """\
database: sqlite:///{folder}/orders.db
http: {{listen: [{listen}]}}
{keys}
"""
KEYS = f"keys: [{{name: shop, key: {KEY}, scopes: [admin]}}]"
# What systemd does between fork and exec: the sockets become 3, 4, …, and their number goes to this very process.
PASS_ON = """\
import os, sys
sockets = [os.dup(int(one)) for one in sys.argv[1].split(",")]
for place, one in enumerate(sockets):
    os.dup2(one, 20 + place)
for place in range(len(sockets)):
    os.dup2(20 + place, 3 + place, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES="http:local"[:4 + 6 * (len(sockets) > 1)])
os.execv(sys.executable, [sys.executable, "-m", "aggregator", "run", "--config", sys.argv[2]])
"""  # noqa: E501


def a_daemon(folder: Path, *, keys: bool = True, listen: str | None = None) -> DaemonProcess:
    port = free_port()
    config = folder / "config.yaml"
    config.touch(mode=0o600)
    listen = listen or f'"127.0.0.1:{port}"'
    config.write_text(CONFIG.format(folder=folder, listen=listen, keys=KEYS if keys else ""))
    return DaemonProcess(config, port, folder / "daemon.log")


@contextmanager
def handed(daemon: DaemonProcess, sockets: Sequence[socket.socket]) -> Iterator[subprocess.Popen[bytes]]:
    numbers = [one.fileno() for one in sockets]
    with daemon.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PASS_ON, ",".join(map(str, numbers)), str(daemon.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=numbers,
        )
    daemon.process = process
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


def asked(connection: socket.socket, path: str, key: str | None = KEY) -> bytes:
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    connection.settimeout(30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{authorization}Connection: close\r\n\r\n".encode())
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def a_unix_socket(path: Path, mode: int = 0o660) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    path.chmod(mode)
    made.listen()
    return made


def test_sockets_that_are_passed_win_and_hold_callers_until_the_daemon_is_there(tmp_path: Path) -> None:
    daemon = a_daemon(tmp_path)
    path = tmp_path / "passed.sock"
    with socket.create_server(("127.0.0.1", 0)) as tcp, a_unix_socket(path) as unix:
        early = socket.create_connection(tcp.getsockname()), socket.socket(socket.AF_UNIX)
        early[1].connect(str(path))
        with handed(daemon, [tcp, unix]) as process:
            for connection in early:
                with connection:
                    assert asked(connection, "/v1/orders").startswith(b"HTTP/1.1 200")
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", daemon.port))  # http.listen stays shut
            listening = f'"listen": ["127.0.0.1:{tcp.getsockname()[1]}", "unix:{path}"]'
            assert until("its line", lambda: listening in daemon.tail())
            process.terminate()
            assert process.wait(timeout=30) == 0
        assert path.exists(), "the file is systemd's"
        # Both are still open: whoever comes now waits for the next daemon.
        socket.create_connection(tcp.getsockname()).close()


def test_a_passed_unix_socket_without_keys_is_the_local_admins(tmp_path: Path) -> None:
    daemon = a_daemon(tmp_path, keys=False)
    path = tmp_path / "passed.sock"
    with a_unix_socket(path) as unix, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        with handed(daemon, [unix]):
            assert asked(caller, "/v1/providers", None).startswith(b"HTTP/1.1 200")


def test_without_keys_a_passed_tcp_socket_is_refused_at_start(tmp_path: Path) -> None:
    daemon = a_daemon(tmp_path, keys=False)
    with socket.create_server(("127.0.0.1", 0)) as passed, handed(daemon, [passed]) as process:
        assert process.wait(timeout=30) == 2
    said = r"aggregator: a TCP socket was passed in \(127\.0\.0\.1:[0-9]+\), but there are no keys"
    assert re.search(said, daemon.tail())
    assert "Traceback" not in daemon.tail()
    assert not (tmp_path / "orders.db").exists()


def test_without_keys_no_passed_socket_may_be_open_to_everybody(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(b"\0aggregator-test-" + os.urandom(8).hex().encode())
        abstract.listen()
        check_doors([abstract], keys=True)
        with pytest.raises(BadSocket, match=r"unix:@aggregator-test-.* has no file, so anybody on this machine"):
            check_doors([abstract], keys=False)
    with a_unix_socket(tmp_path / "open.sock", 0o666) as for_all, a_unix_socket(tmp_path / "shut.sock") as for_some:
        check_doors([for_all, for_some], keys=True)
        check_doors([for_some], keys=False)
        with pytest.raises(BadSocket, match=r"anybody .* may connect to unix:.*/open\.sock.* SocketMode=0660"):
            check_doors([for_some, for_all], keys=False)


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080", "my-host:8080", "0:8080"])
def test_listening_elsewhere_without_a_key_is_refused_at_start(tmp_path: Path, address: str) -> None:
    daemon = a_daemon(tmp_path, keys=False, listen=f'"{address}"')
    daemon.start(ready=False)
    assert daemon.process is not None
    assert daemon.process.wait(timeout=30) == 2
    said = f"http.listen[0]: {address} can be reached from outside, which needs keys: add some, or listen on unix:/path"
    assert said in daemon.tail()


# --- what is looked at before anything is served ---


def told(number: int, **more: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "PATH": "/bin", **more}


def test_what_said_so_is_gone_and_no_child_inherits_the_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        number = os.dup(made.fileno())
        os.set_inheritable(number, True)
        environment = told(number)
        (passed,) = passed_sockets(environment, first=number)
        with passed:
            assert environment == {"PATH": "/bin"}
            assert not os.get_inheritable(number)
            assert passed.getsockname() == made.getsockname()


@pytest.mark.parametrize("pid", ["1", "", "x"])
def test_sockets_for_another_process_are_none_of_ours(pid: str) -> None:
    environment = told(3, LISTEN_PID=pid)
    assert passed_sockets(environment, first=987_654) == []
    assert environment == {"PATH": "/bin"}


def test_what_cannot_be_a_door_is_refused_in_words(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(BadSocket, match="is no socket"):
        passed_sockets(told(0), first=file.fileno())
    with socket.socket() as idle, pytest.raises(BadSocket, match="Accept=no"):
        passed_sockets(told(0), first=os.dup(idle.fileno()))
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(BadSocket, match="does not listen"):
        passed_sockets(told(0), first=os.dup(datagrams.fileno()))
    with pytest.raises(BadSocket, match=r"descriptor 987654 \(http\) cannot be used: Bad file descriptor"):
        passed_sockets(told(0), first=987_654)
    for number in ("-1", "65", "x", "1 "):
        with pytest.raises(BadSocket, match="LISTEN_FDS"):
            passed_sockets(told(0, LISTEN_FDS=number))
