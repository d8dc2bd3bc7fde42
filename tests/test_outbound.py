"""What leaves, what comes back, and above all what proves that nothing left; against raw sockets on loopback."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import ssl
import struct
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aioresponses import aioresponses
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aggregator.domain.wire import HttpReply, HttpRequest, LostReply, NotSent, Outcome
from aggregator.outbound import MAX_PURCHASE_REPLY_BYTES, Delivered, Outbound, _excerpt, retry_after

KEY = "k-very-secret-0001"
TIMEOUT_S = 30.0
JSON_REPLY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"order":23501}'


@dataclass
class Talk:
    """One request as it arrived, and the way to answer it."""

    request: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)

    def reset(self) -> None:
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def silence(self) -> None:
        """Nothing more, until the other side hangs up."""
        await self.reader.read()


Script = Callable[[Talk], Awaitable[None]]


@dataclass
class Peer:
    """A raw server: it reads whole requests, counts them, and its script answers."""

    script: Script
    port: int = 0
    scheme: str = "http"
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    received: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/api/v2"

    def request(self) -> HttpRequest:
        return HttpRequest(self.url, (("key", KEY), ("action", "add"), ("link", "https://example.com/ü?a=b&c=d e")))

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self.tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                self.received.set()
                await self.script(Talk(head + body, reader, writer, len(self.requests)))
                if reader.at_eof():
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.hung_up.set()
            writer.close()


@asynccontextmanager
async def peer(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    one = Peer(script, scheme="https" if tls else "http")
    server = await asyncio.start_server(one.accept, "127.0.0.1", 0, ssl=tls)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        for task in one.tasks:
            task.cancel()
        await asyncio.gather(*one.tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def outbound() -> AsyncIterator[Outbound]:
    async with Outbound() as client:
        yield client


@pytest_asyncio.fixture
async def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Make the loop's clock leap, so that timeouts come due without anybody waiting for them."""
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: real() + ahead[0])

    def leap(seconds: float) -> None:
        ahead[0] += seconds

    return leap


async def answers(talk: Talk) -> None:
    talk.say(JSON_REPLY)


async def closes(talk: Talk) -> None:
    talk.writer.close()


async def resets(talk: Talk) -> None:
    talk.reset()


async def redirects(talk: Talk) -> None:
    talk.say(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")


async def breaks_off(talk: Talk) -> None:
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b'{"order":23501}')
    talk.writer.close()


async def breaks_off_chunked(talk: Talk) -> None:
    talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b'f\r\n{"order":23501}\r\n')
    talk.writer.close()


async def never_answers(talk: Talk) -> None:
    await talk.silence()


async def answers_half_and_stays(talk: Talk) -> None:
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await talk.writer.drain()
    await talk.silence()


def too_much(size: int) -> Script:
    async def script(talk: Talk) -> None:
        talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b" " * size)

    return script


# --- a purchase is sent once -----------------------------------------------------------------------------------------


async def test_a_purchase_is_a_form_sent_by_post_whose_answer_comes_back_whole(outbound: Outbound) -> None:
    async with peer(answers) as server:
        outcome = await outbound.spend(server.request(), TIMEOUT_S)
    assert outcome == HttpReply(200, b'{"order":23501}', "application/json", None)
    [request] = server.requests
    assert request.startswith(b"POST /api/v2 HTTP/1.1\r\n")
    assert b"application/x-www-form-urlencoded" in request
    form = b"key=k-very-secret-0001&action=add&link=https%3A%2F%2Fexample.com%2F%C3%BC%3Fa%3Db%26c%3Dd+e"
    assert request.endswith(b"\r\n\r\n" + form)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (closes, "closed"),
        (resets, "reset"),
        (breaks_off, "truncated"),
        (breaks_off_chunked, "truncated"),
        (too_much(MAX_PURCHASE_REPLY_BYTES + 1), "too_large"),
    ],
)
async def test_an_answer_that_got_lost_is_lost_and_the_purchase_is_not_sent_again(
    outbound: Outbound, script: Script, reason: str
) -> None:
    async with peer(script) as server:
        outcome = await outbound.spend(server.request(), TIMEOUT_S)
    assert isinstance(outcome, LostReply)
    assert outcome.reason.split(":")[0] == reason
    assert len(server.requests) == 1


async def test_the_largest_answer_that_is_allowed_is_read(outbound: Outbound) -> None:
    async with peer(too_much(MAX_PURCHASE_REPLY_BYTES)) as server:
        outcome = await outbound.spend(server.request(), TIMEOUT_S)
    assert isinstance(outcome, HttpReply)
    assert len(outcome.body) == MAX_PURCHASE_REPLY_BYTES


@pytest.mark.parametrize("script", [never_answers, answers_half_and_stays])
async def test_silence_after_the_purchase_left_is_lost_and_never_not_sent(
    outbound: Outbound, jump: Callable[[float], None], script: Script
) -> None:
    async with peer(script) as server:
        spending = asyncio.create_task(outbound.spend(server.request(), TIMEOUT_S))
        await server.received.wait()
        assert not spending.done()
        jump(TIMEOUT_S + 1)
        assert await spending == LostReply("timeout")
        assert len(server.requests) == 1


async def test_a_redirect_is_an_answer_and_is_not_followed(outbound: Outbound) -> None:
    async with peer(redirects) as server:
        outcome = await outbound.spend(server.request(), TIMEOUT_S)
        assert isinstance(outcome, HttpReply)
        assert outcome.status == 302
        assert isinstance(await outbound.read(server.request(), TIMEOUT_S), HttpReply)
    assert len(server.requests) == 2
    assert not any(request.split()[1] == b"/elsewhere" for request in server.requests)


async def test_a_kept_connection_that_drops_makes_nobody_send_a_purchase_again(outbound: Outbound) -> None:
    async def drops_the_second(talk: Talk) -> None:
        await (answers(talk) if talk.number == 1 else closes(talk))

    async with peer(drops_the_second) as server:
        assert isinstance(await outbound.spend(server.request(), TIMEOUT_S), HttpReply)
        assert isinstance(await outbound.spend(server.request(), TIMEOUT_S), LostReply)
        assert len(server.requests) == 2


async def test_a_question_on_a_kept_connection_that_drops_is_asked_once(outbound: Outbound) -> None:
    """The library resends GET by itself when a kept connection drops; questions go by POST, so they are safe, too."""

    async def drops_the_second(talk: Talk) -> None:
        await (answers(talk) if talk.number == 1 else closes(talk))

    async with peer(drops_the_second) as server:
        assert isinstance(await outbound.read(server.request(), TIMEOUT_S), HttpReply)
        assert isinstance(await outbound.read(server.request(), TIMEOUT_S), LostReply)
        assert server.connections == 1, "the question went on the kept connection"
        assert len(server.requests) == 2


async def test_every_purchase_has_a_connection_of_its_own(outbound: Outbound) -> None:
    async with peer(answers) as server:
        await outbound.read(server.request(), TIMEOUT_S)
        for _ in range(3):
            await outbound.spend(server.request(), TIMEOUT_S)
        assert server.connections == 4


async def test_a_cancelled_purchase_was_sent_once_and_its_connection_is_gone(outbound: Outbound) -> None:
    async with peer(never_answers) as server:
        spending = asyncio.create_task(outbound.spend(server.request(), TIMEOUT_S))
        await server.received.wait()
        spending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spending
        await server.hung_up.wait()
        assert len(server.requests) == 1


# --- what proves that nothing left -----------------------------------------------------------------------------------


def unused_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
    return port


async def test_a_refused_connection_was_not_sent(outbound: Outbound) -> None:
    request = HttpRequest(f"http://127.0.0.1:{unused_port()}/api/v2", (("key", KEY),))
    outcome = await outbound.spend(request, TIMEOUT_S)
    assert isinstance(outcome, NotSent)


async def test_a_name_that_does_not_resolve_was_not_sent(outbound: Outbound, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nobody)
    outcome = await outbound.spend(HttpRequest("https://nohost.invalid/api/v2", (("key", KEY),)), TIMEOUT_S)
    assert outcome == NotSent("the host name does not resolve")


async def test_a_resolver_that_never_answers_means_not_sent(
    outbound: Outbound, monkeypatch: pytest.MonkeyPatch, jump: Callable[[float], None]
) -> None:
    asked = asyncio.Event()

    async def thinks_for_ever(*_: object, **__: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", thinks_for_ever)
    request = HttpRequest("https://nohost.invalid/api/v2", (("key", KEY),))
    spending = asyncio.create_task(outbound.spend(request, TIMEOUT_S))
    await asked.wait()
    jump(TIMEOUT_S + 1)
    assert await spending == NotSent("connect timeout")


@asynccontextmanager
async def eavesdropper(react: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that takes the first bytes of whatever comes and reacts to them."""
    heard: list[bytes] = []
    ended: set[asyncio.Task[None]] = set()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.add(task)
        try:
            while data := await reader.read(65536):
                heard.append(data)
                react(writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)


async def test_a_tls_handshake_that_never_ends_was_not_sent(outbound: Outbound, jump: Callable[[float], None]) -> None:
    greeted = asyncio.Event()
    async with eavesdropper(lambda _: greeted.set()) as (port, heard):
        request = HttpRequest(f"https://127.0.0.1:{port}/api/v2", (("key", KEY),))
        spending = asyncio.create_task(outbound.spend(request, TIMEOUT_S))
        await greeted.wait()
        jump(TIMEOUT_S + 1)
        assert await spending == NotSent("connect timeout")
    assert b"".join(heard)[:2] == b"\x16\x03", "a TLS handshake, and nothing of the purchase"
    assert KEY.encode() not in b"".join(heard)


@pytest.mark.parametrize(
    "react",
    [
        lambda writer: writer.close(),
        lambda writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda writer: writer.write(b"\x15\x03\x03\x00\x02\x02\x28"),  # the alert handshake_failure
    ],
)
async def test_a_tls_handshake_that_fails_was_not_sent(
    outbound: Outbound, react: Callable[[asyncio.StreamWriter], None]
) -> None:
    async with eavesdropper(react) as (port, heard):
        request = HttpRequest(f"https://127.0.0.1:{port}/api/v2", (("key", KEY),))
        assert isinstance(await outbound.spend(request, TIMEOUT_S), NotSent)
    assert KEY.encode() not in b"".join(heard)


@pytest.fixture(scope="session")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server whose certificate nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_a_certificate_that_nobody_vouches_for_means_not_sent(
    outbound: Outbound, self_signed: ssl.SSLContext
) -> None:
    async with peer(answers, self_signed) as server:
        outcome = await outbound.spend(server.request(), TIMEOUT_S)
        assert outcome == NotSent("the TLS certificate is not valid")
        assert server.requests == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://[::1/", "ftp://127.0.0.1/", "http:///nowhere"])
async def test_an_impossible_address_was_never_sent_anywhere(outbound: Outbound, url: str) -> None:
    outcome = await outbound.spend(HttpRequest(url, (("key", KEY),)), TIMEOUT_S)
    assert not isinstance(outcome, HttpReply)
    assert KEY not in repr(outcome)


async def test_a_form_that_cannot_be_encoded_was_not_sent(outbound: Outbound) -> None:
    async with peer(answers) as server:
        request = HttpRequest(server.url, (("key", KEY), ("link", "half a pair: \ud800")))
        assert isinstance(await outbound.spend(request, TIMEOUT_S), NotSent)
        assert server.connections == 0


@pytest.mark.parametrize(
    "raised",
    [
        TimeoutError(),
        aiohttp.ServerTimeoutError(),
        aiohttp.ConnectionTimeoutError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientOSError(104, "Connection reset by peer"),
        aiohttp.ClientPayloadError("cut"),
        aiohttp.ClientConnectionError("gone"),
        ConnectionResetError(104, "Connection reset by peer"),
        ssl.SSLError(1, "decryption failed"),
        RuntimeError("a defect of the library"),
    ],
)
async def test_without_proof_that_it_stayed_an_error_means_lost(outbound: Outbound, raised: Exception) -> None:
    """A mock makes no connection, so no trace says that it was still being made: what is not proven is not claimed."""
    with aioresponses() as mock:
        mock.post("https://panel.test/api/v2", exception=raised)
        outcome = await outbound.spend(HttpRequest("https://panel.test/api/v2", (("key", KEY),)), TIMEOUT_S)
        assert isinstance(outcome, LostReply)
        assert sum(len(calls) for calls in mock.requests.values()) == 1


# --- answers are bounded ---------------------------------------------------------------------------------------------


async def test_a_small_answer_that_unpacks_to_an_enormous_one_is_cut_off_early(outbound: Outbound) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([*(packer.compress(bytes(1024 * 1024)) for _ in range(100)), packer.flush()])

    async def explodes(talk: Talk) -> None:
        talk.say(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb), bomb)

    async with peer(explodes) as server:
        tracemalloc.start()
        try:
            outcome = await outbound.spend(server.request(), TIMEOUT_S)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert outcome == LostReply("too_large")
    assert peak < 16 * MAX_PURCHASE_REPLY_BYTES


async def test_an_answer_in_gzip_is_unpacked(outbound: Outbound) -> None:
    packed = gzip.compress(b'{"order":7}')

    async def packs(talk: Talk) -> None:
        talk.say(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed), packed)

    async with peer(packs) as server:
        outcome = await outbound.spend(server.request(), TIMEOUT_S)
    assert isinstance(outcome, HttpReply)
    assert outcome.body == b'{"order":7}'


GARBAGE = (
    b"",
    b"\r\n\r\n",
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x00\x05",
    b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nContent-Type: ;;;=\xff\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=nonsense\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nNo colon here\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff=\x00\r\nContent-Length: 2\r\n\r\n{}",
)


def mangled(seed: random.Random) -> bytes:
    """A sound answer with a few bytes changed, dropped or doubled."""
    data = bytearray(JSON_REPLY)
    for _ in range(seed.randint(1, 6)):
        place = seed.randrange(len(data))
        match seed.randrange(3):
            case 0:
                data[place] = seed.randrange(256)
            case 1:
                del data[place]
            case _:
                data.insert(place, seed.randrange(256))
    return bytes(data)


async def test_whatever_bytes_come_back_are_a_reply_or_a_loss_and_never_a_crash(outbound: Outbound) -> None:
    replies = [*GARBAGE, *(mangled(random.Random(random.random())) for _ in range(200))]
    left = iter(replies)

    async def garbage(talk: Talk) -> None:
        talk.say(next(left))
        await talk.writer.drain()
        talk.writer.close()

    async with peer(garbage) as server:
        for reply in replies:
            outcome = await outbound.spend(server.request(), TIMEOUT_S)
            assert isinstance(outcome, HttpReply | LostReply), reply
        assert len(server.requests) == len(replies)


# --- what is told of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [closes, resets, breaks_off, redirects, too_much(MAX_PURCHASE_REPLY_BYTES + 1)])
async def test_no_outcome_names_the_key_or_the_address(outbound: Outbound, script: Script) -> None:
    async with peer(script) as server:
        told = repr(await outbound.spend(server.request(), TIMEOUT_S))
        assert KEY not in told
        assert server.url not in told
        assert "api/v2" not in told


async def test_a_request_does_not_show_its_form() -> None:
    request = HttpRequest("https://panel.test/api/v2", (("key", KEY), ("action", "add")))
    assert KEY not in repr(request)
    assert request.action == "add"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("999999999", 86_400.0),
        ("9" * 40, None),
        ("1.5", None),
        ("-1", None),
        ("soon", None),
        ("²", None),
        ("", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 60.0),
        ("Wednesday, 21-Oct-26 07:28:00 GMT", 60.0),
        ("Wed Oct 21 07:28:00 2026", 60.0),
        ("Wed, 21 Oct 2026 07:00:00 GMT", 0.0),
        ("Sun, 21 Oct 2046 07:28:00 GMT", 86_400.0),
        ("Wed, 99 Oct 2026 07:28:00 GMT", None),
        ("Wed, 21 Oct 2026", None),
        ("Wed", None),
    ],
)
def test_retry_after_is_read_as_seconds_and_bounded(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value, "Date": "Wed, 21 Oct 2026 07:27:00 GMT"}) == seconds


def test_a_retry_after_date_beside_no_date_is_measured_by_our_clock() -> None:
    wait_s = retry_after({"Retry-After": formatdate(time.time() + 60, usegmt=True)})
    assert wait_s is not None
    assert 50 < wait_s <= 60


def test_no_retry_after_is_none() -> None:
    assert retry_after({}) is None


async def test_a_rate_limit_comes_back_with_its_time(outbound: Outbound) -> None:
    async def slow_down(talk: Talk) -> None:
        talk.say(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n")

    async with peer(slow_down) as server:
        outcome: Outcome = await outbound.spend(server.request(), TIMEOUT_S)
    assert outcome == HttpReply(429, b"", "application/octet-stream", 17.0)


# --- the environment -------------------------------------------------------------------------------------------------


async def test_a_proxy_of_the_environment_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(answers) as proxy, peer(answers) as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with Outbound() as outbound:
            await outbound.spend(server.request(), TIMEOUT_S)
            await outbound.read(server.request(), TIMEOUT_S)
        assert (proxy.connections, len(server.requests)) == (0, 2)


async def test_cookies_are_not_kept(outbound: Outbound) -> None:
    async def gives_cookie(talk: Talk) -> None:
        talk.say(b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1\r\nContent-Length: 2\r\n\r\n{}")

    async with peer(gives_cookie) as server:
        for _ in range(2):
            await outbound.read(server.request(), TIMEOUT_S)
        assert not any(b"cookie" in request.lower() for request in server.requests)


# --- webhooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [breaks_off, breaks_off_chunked])
async def test_an_endpoint_that_answered_200_has_it_though_its_body_broke_off(
    outbound: Outbound, script: Script
) -> None:
    async with peer(script) as server:
        outcome = await outbound.deliver(server.url, b"{}", {}, TIMEOUT_S)
    assert isinstance(outcome, Delivered)
    assert outcome.status == 200


async def test_an_endpoint_that_answered_200_has_it_though_its_body_never_comes(
    outbound: Outbound, jump: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    head_read = asyncio.Event()

    async def noticed(content: aiohttp.StreamReader) -> str:
        head_read.set()
        return await _excerpt(content)

    monkeypatch.setattr("aggregator.outbound._excerpt", noticed)

    async def says_only_its_status(talk: Talk) -> None:
        talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await talk.writer.drain()
        await talk.silence()

    async with peer(says_only_its_status) as server:
        delivering = asyncio.create_task(outbound.deliver(server.url, b"{}", {}, TIMEOUT_S))
        await head_read.wait()
        jump(TIMEOUT_S + 1)
        assert await delivering == Delivered(200)


async def test_an_endpoint_that_never_answers_has_not_got_it(outbound: Outbound, jump: Callable[[float], None]) -> None:
    async with peer(never_answers) as server:
        delivering = asyncio.create_task(outbound.deliver(server.url, b"{}", {}, TIMEOUT_S))
        await server.received.wait()
        jump(TIMEOUT_S + 1)
        assert await delivering == LostReply("timeout")


async def test_a_webhook_is_sent_byte_for_byte_and_its_redirect_is_not_followed(outbound: Outbound) -> None:
    body = b'{"type":"order.completed","n":1.10}'
    async with peer(redirects) as server:
        outcome = await outbound.deliver(server.url, body, {"webhook-id": "evt_1"}, TIMEOUT_S)
    assert isinstance(outcome, Delivered)
    assert outcome.status == 302
    [request] = server.requests
    assert request.endswith(b"\r\n\r\n" + body)
    assert b"webhook-id: evt_1\r\n" in request.lower()
