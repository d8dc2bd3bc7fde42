"""Opening the doors: addresses, stale sockets, sockets of others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import stat
from pathlib import Path

import aiohttp
import pytest

from aggregator.config import TcpAddress, UnixAddress
from aggregator.domain.clock import ManualClock
from aggregator.storage.database import Database
from aggregator.web.server import create_app, start_sites
from tests.web.support import Doors, open_house


@pytest.fixture
async def app(sqlite_database: Database, clock: ManualClock, tmp_path: Path) -> aiohttp.web.Application:
    return create_app(Doors(await open_house(sqlite_database, clock, tmp_path)).services)


async def alive(connector: aiohttp.BaseConnector, host: str) -> int:
    async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://{host}/livez") as response:
        return response.status


async def test_tcp_and_unix_are_served_together(app: aiohttp.web.Application, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    runner = await start_sites(app, [TcpAddress("127.0.0.1", 0), UnixAddress(path)])
    try:
        port = next(address[1] for address in runner.addresses if not isinstance(address, str))
        assert await alive(aiohttp.TCPConnector(), f"127.0.0.1:{port}") == 200
        assert await alive(aiohttp.UnixConnector(str(path)), "local") == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        await runner.cleanup()


async def test_what_is_not_http_is_noted_without_its_words(
    app: aiohttp.web.Application, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = await start_sites(app, [TcpAddress("127.0.0.1", 0)])
    try:
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        with caplog.at_level(logging.DEBUG):
            writer.write(b"GET http://[::1/?key=my-secret-key HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).split()[1] == b"400"
        writer.close()
        await writer.wait_closed()
    finally:
        await runner.cleanup()
    told = caplog.text + "".join(capsys.readouterr())
    assert "malformed_http_request" in told
    assert "my-secret-key" not in told


async def test_a_socket_that_was_passed_in_is_served(app: aiohttp.web.Application) -> None:
    passed = socket.create_server(("127.0.0.1", 0))
    port = passed.getsockname()[1]
    runner = await start_sites(app, [passed])
    try:
        assert await alive(aiohttp.TCPConnector(), f"127.0.0.1:{port}") == 200
    finally:
        await runner.cleanup()


async def test_the_socket_of_a_dead_daemon_is_replaced(app: aiohttp.web.Application, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    runner = await start_sites(app, [UnixAddress(path)])
    try:
        assert await alive(aiohttp.UnixConnector(str(path)), "local") == 200
    finally:
        await runner.cleanup()


async def test_a_sockets_file_goes_with_its_door(app: aiohttp.web.Application, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    runner = await start_sites(app, [UnixAddress(path)])
    assert path.is_socket()
    for site in list(runner.sites):
        await site.stop()
    assert not path.exists()
    await runner.cleanup()


async def test_a_socket_that_somebody_else_put_there_meanwhile_stays(
    app: aiohttp.web.Application, tmp_path: Path
) -> None:
    path = tmp_path / "api.sock"
    runner = await start_sites(app, [UnixAddress(path)])
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        (tmp_path / "other").rename(path)
        await runner.cleanup()
    assert path.is_socket()


async def test_a_socket_whose_queue_is_full_is_a_living_one(app: aiohttp.web.Application, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as living, contextlib.ExitStack() as stack:
        living.bind(str(path))
        living.listen(0)
        for _ in range(8):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        with pytest.raises(OSError, match=r"another process does; stop it, or change `http\.listen`"):
            await start_sites(app, [UnixAddress(path)])
    assert path.exists()


async def test_the_socket_of_a_living_one_is_not(app: aiohttp.web.Application, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(OSError, match="another process"):
            await start_sites(app, [UnixAddress(path)])
    assert path.exists()


async def test_a_file_that_is_no_socket_is_kept(app: aiohttp.web.Application, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="no socket"):
        await start_sites(app, [UnixAddress(path)])
    assert path.read_text() == "precious"


async def test_a_port_that_is_taken_leaves_nothing_open(app: aiohttp.web.Application, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
            await start_sites(app, [UnixAddress(tmp_path / "api.sock"), TcpAddress("127.0.0.1", port)])
    assert not (tmp_path / "api.sock").exists()


async def test_a_host_that_does_not_resolve_is_named(app: aiohttp.web.Application) -> None:
    with pytest.raises(OSError, match=r"cannot listen on no\.such\.host\.invalid:8080: "):
        await start_sites(app, [TcpAddress("no.such.host.invalid", 8080)])
