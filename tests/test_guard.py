"""A caller's URL is sent to no address that is not public, whatever its name says at which moment."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from aggregator.domain.wire import LostReply, NotSent
from aggregator.outbound import Delivered, Outbound

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
HEADERS = {"content-type": "application/json", "webhook-id": "evt_1"}


@dataclass
class Names:
    """A name server under the test's control; each answer is given once, the last one for ever."""

    answers: list[Sequence[str]] = field(default_factory=list)
    asked: int = 0

    def __call__(self, host: str, port: int) -> Sequence[tuple[int, str]]:
        self.asked += 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in found]


@dataclass
class Host:
    port: int = 0
    heard: int = 0


@pytest_asyncio.fixture
async def host() -> AsyncIterator[Host]:
    """A server on loopback, on a port that callbacks may use."""
    here = Host()

    async def hear(request: web.Request) -> web.Response:
        await request.read()
        here.heard += 1
        return web.Response(text="thanks")

    app = web.Application()
    app.router.add_post("/hook", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    for here.port in range(8300, 8700):
        try:
            await web.TCPSite(runner, "127.0.0.1", here.port).start()
            break
        except OSError:
            continue
    try:
        yield here
    finally:
        await runner.cleanup()


async def send(client: Outbound, url: str, *, guarded: bool = True) -> Delivered | LostReply | NotSent:
    return await client.deliver(url, b"{}", HEADERS, 5, guarded=guarded)


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["100.64.0.9"], ["0.0.0.0"], ["224.0.0.1"], ["::1"],
        ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"], ["2002:7f00:1::1"], ["fe80::1%lo"], ["8.8.8.8", "127.0.0.1"],
    ],
)  # fmt: skip
async def test_a_name_that_leads_inside_is_sent_nothing(host: Host, answer: list[str]) -> None:
    async with Outbound(look_up=Names([answer])) as client:
        outcome = await send(client, f"http://shop.example.com:{host.port}/hook")
    assert isinstance(outcome, NotSent)
    assert "callbacks.allow" in outcome.reason
    assert host.heard == 0


@pytest.mark.parametrize("literal", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "127.1", "2130706433"])
async def test_a_literal_address_is_looked_at_as_well(host: Host, literal: str) -> None:
    """Intake refuses them; what got past it, by an older version or another reader of URLs, is refused here."""
    names = Names([["127.0.0.1"]])
    async with Outbound(look_up=names) as client:
        outcome = await send(client, f"http://{literal}:{host.port}/hook")
    assert isinstance(outcome, NotSent), outcome
    assert host.heard == 0


async def test_what_was_looked_at_is_what_is_connected_to(host: Host) -> None:
    """A name that changes between the look and the connection is looked up once for both."""
    names = Names([["127.0.0.1"], ["10.0.0.1"]])
    async with Outbound(allow=LOOPBACK, look_up=names) as client:
        outcome = await send(client, f"http://shop.example.com:{host.port}/hook")
        assert isinstance(outcome, Delivered)
        assert (outcome.status, outcome.excerpt, names.asked, host.heard) == (200, "thanks", 1, 1)
        # The next try looks anew: what was good once is not good for ever.
        again = await send(client, f"http://shop.example.com:{host.port}/hook")
    assert isinstance(again, NotSent)
    assert "private" in again.reason
    assert (names.asked, host.heard) == (2, 1)


async def test_a_port_of_something_else_is_not_reached(host: Host) -> None:
    async with Outbound(allow=LOOPBACK, look_up=Names([["127.0.0.1"]])) as client:
        outcome = await send(client, "http://shop.example.com:6379/")
    assert isinstance(outcome, NotSent)
    assert "port" in outcome.reason


async def test_the_operators_endpoints_are_not_looked_at(host: Host) -> None:
    async with Outbound(look_up=Names([["10.0.0.1"]])) as client:
        outcome = await send(client, f"http://127.0.0.1:{host.port}/hook", guarded=False)
    assert isinstance(outcome, Delivered)


async def test_a_proxy_of_the_environment_is_not_asked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{host.port}")
    async with Outbound(look_up=Names([["10.0.0.1"]])) as client:
        outcome = await send(client, "http://shop.example.com:8000/hook")
    assert isinstance(outcome, NotSent)
    assert host.heard == 0


async def test_a_name_server_that_does_not_answer_holds_up_nobody_else(host: Host) -> None:
    release = threading.Event()

    def look_up(name: str, _port: int) -> Sequence[tuple[int, str]]:
        if name.startswith("dead"):
            release.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, "127.0.0.1")]

    async with Outbound(allow=LOOPBACK, look_up=look_up) as client:
        dead = [asyncio.create_task(send(client, f"http://dead{n}.example:{host.port}/hook")) for n in range(40)]
        alive = await send(client, f"http://shop.example.com:{host.port}/hook")
        assert isinstance(alive, Delivered)
        assert not any(task.done() for task in dead)
        release.set()
        outcomes = await asyncio.gather(*dead)
    assert all(isinstance(outcome, NotSent) for outcome in outcomes)


async def test_a_name_that_no_server_knows_is_not_sent(host: Host) -> None:
    def look_up(*_: object) -> Sequence[tuple[int, str]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with Outbound(look_up=look_up) as client:
        outcome = await send(client, "http://nowhere.example:8000/hook")
    assert isinstance(outcome, NotSent)


# --- answers that are no good


@asynccontextmanager
async def raw(answer: bytes, *, then: float = 0, again: bytes = b"", times: int = 0) -> AsyncIterator[int]:
    """The port of a server that says these bytes and then, slowly, others; it ends with the block."""
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            for _ in range(times):
                await writer.drain()
                await asyncio.sleep(then)
                writer.write(again)
            await writer.drain()
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            if not writer.is_closing():
                writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def test_an_endpoint_that_answers_byte_by_byte_is_cut_off() -> None:
    async with raw(b"HTTP/1.1 200", then=0.05, again=b" ", times=200) as port, Outbound() as client:
        outcome = await client.deliver(f"http://127.0.0.1:{port}/", b"{}", HEADERS, 0.3)
    assert isinstance(outcome, LostReply)


async def test_a_status_counts_although_its_body_never_ends() -> None:
    async with raw(b"HTTP/1.1 204 OK\r\nContent-Length: 9\r\n\r\n", then=0.2, times=20) as port, Outbound() as client:
        outcome = await client.deliver(f"http://127.0.0.1:{port}/", b"{}", HEADERS, 5)
    assert isinstance(outcome, Delivered)
    assert outcome.status == 204


async def test_of_a_giant_answer_only_the_beginning_is_read() -> None:
    async with (
        raw(
            b"HTTP/1.1 500 Oh\r\nContent-Encoding: gzip\r\nContent-Length: 99999999999\r\n\r\n",
            again=b"x" * 65_536,
            times=100_000,
        ) as port,
        Outbound() as client,
    ):
        outcome = await client.deliver(f"http://127.0.0.1:{port}/", b"{}", HEADERS, 5)
    assert isinstance(outcome, Delivered)
    assert (outcome.status, len(outcome.excerpt) <= 512) == (500, True)


async def test_tls_that_fails_is_a_failure_like_any_other() -> None:
    async with raw(b"this is no TLS\r\n\r\n") as port, Outbound() as client:
        outcome = await client.deliver(f"https://127.0.0.1:{port}/", b"{}", HEADERS, 2)
    assert isinstance(outcome, NotSent | LostReply)
