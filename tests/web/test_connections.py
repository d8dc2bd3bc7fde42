"""Clients that mean ill or are slow: each is cut or refused in words, and the others are answered meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from aggregator.config import HttpSettings, TcpAddress
from aggregator.domain.errors import Problem
from aggregator.web import bodies, connections
from aggregator.web.connections import MAX_FIELD, MAX_LINE, Limits
from aggregator.web.problems import status_of
from aggregator.web.rendering import problem_answer, response
from aggregator.web.sites import start_sites

LIMITS = Limits(connections=8, requests=3, body_bytes=40_000, head_s=60, idle_s=60, answer_s=60)
HASTY = replace(LIMITS, head_s=0.3, answer_s=0.3)
"""For tests of whoever is too slow; the others must bear a machine that stands still for a second."""
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ONE_MEGABYTE = 1024 * 1024


def post(size: int, body: bytes = b"", path: bytes = b"/body") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path, size, body)


CHUNKED = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


class Place:
    """A server with four doors: a quick one, one that waits until `go`, one that reads a body, one that says much."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.began = asyncio.Semaphore(0)
        self.read = asyncio.Semaphore(0)
        """Bodies that are whole and in memory."""
        self.port = 0
        self.limits = LIMITS

    async def beginning(self) -> None:
        """Wait until one more request is being worked on."""
        async with asyncio.timeout(30):
            await self.began.acquire()

    async def reading(self) -> None:
        """Wait until one more body is whole."""
        async with asyncio.timeout(30):
            await self.read.acquire()

    async def quick(self, _request: web.Request) -> web.Response:
        return web.Response(text="quick")

    async def slow(self, _request: web.Request) -> web.Response:
        self.began.release()
        await self.go.wait()
        return web.Response(text="slow")

    async def body(self, request: web.Request) -> web.Response:
        self.began.release()
        try:
            read = await bodies.read_body(request)
            self.read.release()
            await self.go.wait()
        except Problem as problem:
            return response(problem_answer(problem, "r"))
        return web.Response(text=str(len(read)))

    async def large(self, _request: web.Request) -> web.Response:
        self.began.release()
        return web.Response(body=bytes(16 * ONE_MEGABYTE))

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def said(self, *pieces: bytes) -> bytes:
        """Everything that comes back until the connection ends; a reset ends it too."""
        reader, writer = await self.open()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await everything(reader)
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def everything(reader: asyncio.StreamReader) -> bytes:
    found = b""
    async with asyncio.timeout(10):
        try:
            while piece := await reader.read(65536):
                found += piece
        except ConnectionError:
            pass
    return found


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next answer: its status and body."""
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split()[1]) for line in head.splitlines() if line.lower().startswith(b"content-length"))
        return int(head.split()[1]), await reader.readexactly(length)


def problem(said: bytes) -> dict[str, Any]:
    """The problem document of an answer, after its status was checked against it."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower(), said[:500]
    document: dict[str, Any] = json.loads(body)
    assert int(head.split()[1]) == document["status"]
    return document


@asynccontextmanager
async def opened(limits: Limits) -> AsyncIterator[Place]:
    place = Place()

    @web.middleware
    async def around(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            answer: web.StreamResponse = await handler(request)
            return answer
        except web.HTTPException as exc:
            return web.Response(status=exc.status, text=exc.text)
        except Problem as problem:
            return web.Response(status=status_of(problem))

    app = web.Application(client_max_size=30_000, middlewares=[around])
    app.router.add_get("/", place.quick)
    app.router.add_get("/livez", place.quick)
    app.router.add_get("/slow", place.slow)
    app.router.add_get("/large", place.large)
    app.router.add_post("/body", place.body)
    runner = await start_sites(app, [TcpAddress("127.0.0.1", 0)], limits)
    place.port = runner.addresses[0][1]
    try:
        yield place
    finally:
        place.go.set()
        await runner.cleanup()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK_EVERY_S", 0.05)


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    async with opened(LIMITS) as place:
        yield place


@pytest_asyncio.fixture
async def hasty() -> AsyncIterator[Place]:
    async with opened(HASTY) as place:
        yield place


@pytest.mark.parametrize("sent", [b"", b"GE", GET[:-2], b"\r\n"], ids=["nothing", "a word", "no end", "an empty line"])
async def test_whoever_does_not_say_what_he_wants_is_cut(hasty: Place, sent: bytes) -> None:
    before = connections.CUT.labels("slow_head")._value.get()
    assert await hasty.said(sent) == b""
    assert connections.CUT.labels("slow_head")._value.get() == before + 1


async def test_a_head_that_drips_is_cut_also_behind_an_earlier_request(hasty: Place) -> None:
    reader, writer = await hasty.open()
    writer.write(GET)
    assert (await answer(reader))[0] == 200
    ended = asyncio.create_task(everything(reader))
    writer.write(GET[:-2] + b"X-Slow: ")
    for _ in range(100):
        writer.write(b"a")
        await asyncio.wait([ended], timeout=0.05)  # the client's own slowness is what is tried
        if ended.done():
            break
    assert await ended == b""
    writer.close()


async def test_a_client_that_is_quiet_between_requests_is_left_alone(hasty: Place) -> None:
    reader, writer = await hasty.open()
    for _ in range(3):
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        await asyncio.sleep(HASTY.head_s * 1.5)
    writer.close()


async def test_a_body_that_drips_is_a_408(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_TIMEOUT_S", 0.2)
    reader, writer = await place.open()
    writer.write(post(1000, b"{"))
    assert (await answer(reader))[0] == 408
    writer.close()


async def test_an_answer_that_nobody_takes_is_given_up(hasty: Place) -> None:
    before = connections.CUT.labels("slow_answer")._value.get()
    reader, writer = await hasty.open()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in range(200):
        if connections.CUT.labels("slow_answer")._value.get() > before:
            break
        await asyncio.sleep(0.05)
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len(await everything(reader)) < 16 * ONE_MEGABYTE
    writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * MAX_LINE), 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n" % (b"a" * (MAX_FIELD + 1)), 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"A: b\r\n" * 200), 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n%s" % (b"A: %s\r\n" % (b"b" * 4000) * 9), 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\n\r\n", 417),
        (b"POST /body HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\nContent-Length: 2\r\n\r\n{}", 417),
    ],
    ids=["address", "header", "headers", "head", "nul", "lengths", "smuggled", "tls", "ssh", "expect", "expect body"],
)
async def test_what_is_no_request_is_refused_as_a_problem_and_without_a_trace(
    place: Place, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
) -> None:
    reader, writer = await place.open()
    writer.write(sent)
    found = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split()[1]) for line in found.splitlines() if line.lower().startswith(b"content-length"))
    found += await reader.readexactly(length)
    assert problem(found)["status"] == status
    writer.close()
    assert not [record for record in caplog.records if record.exc_info], caplog.text


@pytest.mark.parametrize(
    ("method", "status"),
    [(b"HEAD", 200), (b"DELETE", 405), (b"BREW", 400), (b"PRI", 400), (b"G@T", 400), (b"get", 400)],
)
async def test_methods_that_are_not_for_here_have_their_status(place: Place, method: bytes, status: int) -> None:
    said = await place.said(b"%s / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % method)
    assert int(said.split()[1]) == status
    if method == b"HEAD":
        assert said.endswith(b"\r\n\r\n")


async def test_an_unread_body_that_is_no_body_leaves_no_trace(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    said = await place.said(b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"zz\r\nnonsense")
    assert said.split()[1] in (b"200", b"400")
    assert not [record for record in caplog.records if record.exc_info], caplog.text


async def test_who_expects_100_continue_is_told_to_go_on(place: Place) -> None:
    place.go.set()
    reader, writer = await place.open()
    writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert await answer(reader) == (200, b"2")
    writer.close()


async def test_chunks_without_end_are_413(place: Place) -> None:
    reader, writer = await place.open()
    writer.write(CHUNKED + chunk(b" " * 10_000) * 5)
    assert (await answer(reader))[0] == 413
    writer.close()


async def test_a_packed_body_is_measured_as_it_unfolds(place: Place) -> None:
    place.go.set()
    for size, status in ((20 * ONE_MEGABYTE, 413), (20_000, 200)):
        packed = gzip.compress(bytes(size))
        reader, writer = await place.open()
        head = post(len(packed))[:-2] + b"Content-Encoding: gzip\r\n\r\n"
        writer.write(head + packed)
        assert (await answer(reader))[0] == status
        writer.close()


async def test_a_new_connection_finds_room_where_another_is_idle(place: Place) -> None:
    guest_reader, guest = await place.open()
    guest.write(GET)
    assert (await answer(guest_reader))[0] == 200
    silent = [await place.open() for _ in range(LIMITS.connections * 3)]
    for _ in range(3):
        reader, writer = await place.open()
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        silent.append((reader, writer))
    ended = [(reader.at_eof() or await everything(reader) == b"") for reader, _ in silent[: LIMITS.connections * 2]]
    assert all(ended)
    # Who was answered before is the last to go.
    guest.write(GET)
    assert (await answer(guest_reader))[0] == 200
    for _, writer in [*silent, (guest_reader, guest)]:
        writer.close()


async def test_a_connection_too_many_is_503_when_all_are_at_work() -> None:
    async with opened(replace(LIMITS, requests=100)) as place:
        busy = [await place.open() for _ in range(LIMITS.connections)]
        for _, writer in busy:
            writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            await place.beginning()
        reader, writer = await place.open()
        refused = await everything(reader)
        assert problem(refused)["type"] == "urn:aggregator:problem:unavailable"
        assert b"Retry-After: 1\r\n" in refused
        writer.close()
        place.go.set()
        for reader, writer in busy:
            assert (await answer(reader)) == (200, b"slow")
            writer.close()


async def test_requests_beyond_what_can_be_worked_on_are_shed_but_not_the_probes(place: Place) -> None:
    busy = [await place.open() for _ in range(LIMITS.requests)]
    for _, writer in busy:
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await place.beginning()
    shed = await place.said(GET)
    assert problem(shed)["status"] == 503
    assert b"Retry-After: 1\r\n" in shed
    probe = await place.said(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert probe.startswith(b"HTTP/1.1 200")
    place.go.set()
    for reader, writer in busy:
        assert (await answer(reader))[0] == 200
        writer.close()
    assert (await place.said(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("measured", [True, False], ids=["with a length", "in chunks"])
async def test_bodies_together_are_bounded_and_their_room_comes_back(place: Place, measured: bool) -> None:
    body = b" " * 25_000
    whole = post(len(body), body) if measured else CHUNKED + chunk(body) + b"0\r\n\r\n"
    first_reader, first = await place.open()
    first.write(whole)
    await place.reading()
    reader, second = await place.open()
    second.write(whole)
    status, document = await answer(reader)
    assert status == 503, document
    assert "room" in json.loads(document)["detail"]
    place.go.set()
    assert await answer(first_reader) == (200, b"25000")
    first.write(whole)
    assert await answer(first_reader) == (200, b"25000")
    for writer in (first, second):
        writer.close()


async def test_who_takes_no_answers_takes_no_room_from_others() -> None:
    async with opened(LIMITS) as place:
        stuck = [await place.open() for _ in range(LIMITS.requests)]
        for _, writer in stuck:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            await place.beginning()
        said = b""
        for _ in range(100):
            said = await place.said(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            if said.startswith(b"HTTP/1.1 200"):
                break
            await asyncio.sleep(0.02)  # until it was looked
        assert said.startswith(b"HTTP/1.1 200"), said
        for _, writer in stuck:
            writer.transport.abort()


async def test_a_client_that_went_away_leaves_no_work_behind(place: Place) -> None:
    for _ in range(LIMITS.requests):
        _, writer = await place.open()
        writer.write(post(20_000, b" "))
        await place.beginning()
        writer.transport.abort()
    place.go.set()
    async with asyncio.timeout(10):
        while True:
            reader, writer = await place.open()
            writer.write(post(2, b"{}"))
            status, _ = await answer(reader)
            writer.close()
            if status == 200:
                break
            await asyncio.sleep(0.05)


async def test_pipelined_requests_are_answered_in_order(place: Place) -> None:
    reader, writer = await place.open()
    writer.write(GET * 400)
    for _ in range(400):
        assert await answer(reader) == (200, b"quick")
    writer.close()


async def test_what_is_sent_ahead_of_an_answer_is_bounded(place: Place) -> None:
    reader, writer = await place.open()
    writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await place.beginning()
    before = connections.CUT.labels("sent_ahead")._value.get()
    padded = b"GET / HTTP/1.1\r\nHost: x\r\nX-Pad: %s\r\n\r\n" % (b"a" * 8000)
    with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012
        async with asyncio.timeout(5):
            while True:
                writer.write(padded)
                await writer.drain()
                await asyncio.sleep(0)
    assert connections.CUT.labels("sent_ahead")._value.get() == before + 1
    assert await everything(reader) == b""
    writer.close()


@pytest.mark.parametrize(
    ("soft", "hard", "most", "now"), [(100, 5000, 1000, 2000), (100, 300, 150, 300), (9000, 9000, 1000, 9000)]
)
def test_connections_leave_half_of_the_descriptors_to_others(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, now: int
) -> None:
    limit = [soft, hard]

    def change(_which: int, wanted: tuple[int, int]) -> None:
        limit[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _which: tuple(limit))
    monkeypatch.setattr(resource, "setrlimit", change)
    found = connections.limits_of(HttpSettings(max_body_bytes=64 * ONE_MEGABYTE))
    assert (found.connections, limit, found.body_bytes) == (most, [now, hard], 64 * ONE_MEGABYTE)
