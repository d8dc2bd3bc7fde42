"""All that leaves the machine, by one aiohttp client: questions, purchases, webhooks.

Decides whether a request left, and bounds every answer in time and size. It never decides what an answer means, never
follows a redirect, and never sends a purchase twice.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import math
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Final, Self

import aiohttp
from aiohttp import ClientTimeout, TraceConfig
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aggregator.domain.callbacks import Network, allowed_port, refusal
from aggregator.domain.wire import HttpReply, HttpRequest, LostReply, NotSent, Outcome

MAX_REPLY_BYTES: Final = 32 * 1024 * 1024
"""Catalogues of tens of thousands of services are several megabytes."""
MAX_PURCHASE_REPLY_BYTES: Final = 1024 * 1024
MAX_FETCHED_BYTES: Final = 64 * 1024
MAX_EXCERPT_BYTES: Final = 512
EXCERPT_TIMEOUT_S: Final = 1.0
"""How long a webhook's answer may take to say more than its status, which is all that counts."""
CONNECT_TIMEOUT_S: Final = 10.0
USER_AGENT: Final = "aggregator"
LONGEST_RETRY_AFTER_S: Final = 86_400


@dataclass(slots=True)
class _Journey:
    """How far a request got; filled by aiohttp's tracing. Only `connecting` proves that nothing has left."""

    connecting: bool = False
    left: bool = False

    @property
    def stayed(self) -> bool:
        """Proof, not absence of proof: the connection was being made, and never was."""
        return self.connecting and not self.left


@dataclass(frozen=True, slots=True)
class Delivered:
    """The answer of a webhook endpoint: its status, and the first bytes of what it said."""

    status: int
    retry_after_s: float | None = None
    excerpt: str = field(default="", repr=False)


def _tracing() -> TraceConfig:
    trace = TraceConfig()

    async def connecting(_session: object, context: SimpleNamespace, _params: object) -> None:
        journey: _Journey | None = context.trace_request_ctx
        if journey is not None:
            journey.connecting = True

    async def left(_session: object, context: SimpleNamespace, _params: object) -> None:
        journey: _Journey | None = context.trace_request_ctx
        if journey is not None:
            journey.left = True

    # A connection that exists may carry bytes at any moment from now on; before that none can have left.
    trace.on_connection_create_start.append(connecting)
    trace.on_connection_create_end.append(left)
    trace.on_connection_reuseconn.append(left)
    trace.on_request_headers_sent.append(left)
    return trace


class Outbound:
    """The one client. Open it inside the running loop, close it at the end."""

    def __init__(
        self, *, user_agent: str = USER_AGENT, allow: Sequence[Network] = (), look_up: LookUp | None = None
    ) -> None:
        """`allow`: networks that callers' URLs may reach although they are not public; `look_up` finds their
        addresses, by default as the system does."""
        self._allowed = list(allow)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=15),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent, "Accept": "application/json"},
            trace_configs=[_tracing()],
            auto_decompress=True,
            trust_env=False,
        )
        # Purchases go on fresh connections: an idle one that closes at the wrong moment makes an order unclear.
        self._purchases = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent, "Accept": "application/json"},
            trace_configs=[_tracing()],
            trust_env=False,
        )
        # What an endpoint answers is looked at for a few bytes, so nothing is unpacked. Idle connections end before
        # most servers end them (5 s), lest a delivery meets one that is just closing.
        self._hooks = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=4),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )
        # A fresh connection for each try: its address was looked up, and looked at, for this one.
        self._callbacks = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                force_close=True,
                use_dns_cache=False,
                resolver=_GuardedResolver(self._allowed, look_up or _system_look_up),
                socket_factory=_guarded_socket(self._allowed),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    def allow(self, networks: Sequence[Network]) -> None:
        """From now on callers' URLs may reach these networks although they are not public, and no others."""
        self._allowed[:] = networks

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for session in (self._session, self._purchases, self._hooks, self._callbacks):
            await session.close()

    async def read(self, request: HttpRequest, timeout_s: float) -> Outcome:
        """Ask a question; POST as both documents demand. Being lost costs nothing but the answer."""
        return await self._post(self._session, request, timeout_s, MAX_REPLY_BYTES)

    async def spend(self, request: HttpRequest, timeout_s: float) -> Outcome:
        """Send something that costs: once, by POST, on a fresh connection, without redirects.

        NotSent proves that no byte of it left; LostReply says that nobody knows. Cancelling it makes nobody know.
        """
        return await self._post(self._purchases, request, timeout_s, MAX_PURCHASE_REPLY_BYTES)

    async def _post(
        self, session: aiohttp.ClientSession, request: HttpRequest, timeout_s: float, max_bytes: int
    ) -> Outcome:
        try:
            url = URL(request.url)
            for field_ in request.form:
                "".join(field_).encode()
        except ValueError:
            return NotSent("the URL or the form cannot be encoded")
        journey = _Journey()
        try:
            # The whole call has one limit; the library's own would not tell connecting from waiting.
            async with asyncio.timeout(timeout_s):
                async with session.post(
                    url,
                    data=list(request.form),
                    headers=dict(request.headers),
                    allow_redirects=False,
                    timeout=ClientTimeout(total=None, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)),
                    trace_request_ctx=journey,
                ) as response:
                    body = await _bounded(response, max_bytes)
                    if body is None:
                        return LostReply("too_large")
                    return HttpReply(response.status, body, response.content_type or "", retry_after(response.headers))
        except TimeoutError:
            return NotSent("connect timeout") if journey.stayed else LostReply("timeout")
        except aiohttp.ClientConnectorDNSError:
            return NotSent("the host name does not resolve")
        except aiohttp.ClientConnectorCertificateError:
            return NotSent("the TLS certificate is not valid")
        except aiohttp.ClientConnectorError as exc:
            return _lost(exc) if journey.left else NotSent(_reason(exc))
        except aiohttp.InvalidURL:
            return NotSent("the URL is not valid")
        except Exception as exc:
            # Also what nobody foresaw: a call that may have left must never end as a crash.
            return NotSent(_reason(exc)) if journey.stayed else _lost(exc)

    async def fetch(self, url: str, timeout_s: float) -> Outcome:
        """GET an address of the config; asking twice costs nothing, and redirects are not followed."""
        try:
            async with asyncio.timeout(timeout_s):
                async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
                    body = await _bounded(response, MAX_FETCHED_BYTES)
                    if body is None:
                        return LostReply("too_large")
                    return HttpReply(response.status, body, response.content_type or "", retry_after(response.headers))
        except TimeoutError:
            return LostReply("timeout")
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError, EOFError) as exc:
            return _lost(exc)

    async def deliver(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, *, guarded: bool = False
    ) -> Delivered | LostReply | NotSent:
        """POST a webhook. Only the status matters; a redirect is an answer like any other.

        `guarded`: the URL is a caller's, and is sent to public addresses and those that are allowed alone.
        """
        answered: Delivered | None = None
        try:
            async with (self._callbacks if guarded else self._hooks).post(
                URL(url, encoded=True), data=body, headers=headers, allow_redirects=False, timeout=_limit(timeout_s)
            ) as response:
                wait_s = retry_after(response.headers) if response.status >= 300 else None
                answered = Delivered(response.status, wait_s)
                excerpt = await _excerpt(response.content)
                return replace(answered, excerpt=excerpt) if excerpt else answered
        except TimeoutError:
            return answered or LostReply("timeout")
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError, EOFError) as exc:
            if answered is not None:
                return answered  # it answered; that its body broke off changes nothing
            if (refused := _refused(exc)) is not None:
                return NotSent(refused)
            return NotSent(_reason(exc)) if isinstance(exc, _NEVER_THERE) else LostReply(_reason(exc))


@lru_cache(maxsize=64)
def _limit(timeout_s: float) -> ClientTimeout:
    """For a whole try, to the moment: the library would round what is longer than some seconds up."""
    return ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s), ceil_threshold=math.inf)


_NEVER_THERE: Final = (aiohttp.ClientConnectorError, aiohttp.InvalidURL)


async def _excerpt(content: aiohttp.StreamReader) -> str:
    """The first bytes of an answer, as far as they come at once."""
    if content.is_eof():
        said = content.read_nowait(MAX_EXCERPT_BYTES)
    else:
        async with asyncio.timeout(EXCERPT_TIMEOUT_S):
            said = await content.read(MAX_EXCERPT_BYTES)
    return said.decode("utf-8", "replace")


LookUp = Callable[[str, int], Sequence[tuple[int, str]]]
"""(host, port) to address families and addresses; runs in a thread, and raises OSError when there are none."""


class AddressRefused(OSError):
    """A caller's URL leads where it may not: to this machine, a private network, a port of something else."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EACCES, why)


class _GuardedResolver(AbstractResolver):
    """Finds addresses of callers' hosts, and gives out none unless all of them may be reached.

    Each look-up has a thread of its own: a name server that does not answer must hold up nobody else, as it would in
    the few threads that the event loop shares out.
    """

    def __init__(self, allow: Sequence[Network], look_up: LookUp) -> None:
        self._allow = allow
        self._look_up = look_up

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await _in_a_thread(lambda: self._look_up(host, port))
        for _, address in found:
            _check_address(address, port, self._allow)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=of_family,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for of_family, address in found
        ]

    async def close(self) -> None:
        """Nothing is kept."""


def _guarded_socket(allow: Sequence[Network]) -> Callable[..., socket.socket]:
    """Makes the sockets that go to callers' hosts: what is looked at here is what is connected to, literals too."""

    def make(info: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
        family, kind, proto, _, address = info
        _check_address(str(address[0]), int(str(address[1])), allow)
        return socket.socket(family=family, type=kind, proto=proto)

    return make


def _check_address(address: str, port: int, allow: Sequence[Network]) -> None:
    try:
        why = refusal(ipaddress.ip_address(address), allow)
    except ValueError:
        why = "no address"
    if why is None and not allowed_port(port):
        why = "of a port that is not 80, 443 or 8000 to 9999"
    if why is not None:
        raise AddressRefused(f"its address is {why}; `callbacks.allow` does not allow it")


def _system_look_up(host: str, port: int) -> Sequence[tuple[int, str]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [(int(family), str(address[0])) for family, _, _, _, address in found]


async def _in_a_thread(work: Callable[[], Sequence[tuple[int, str]]]) -> Sequence[tuple[int, str]]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Sequence[tuple[int, str]]] = loop.create_future()

    def tell(found: Sequence[tuple[int, str]] | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found or ())

    def run() -> None:
        try:
            outcome: tuple[Sequence[tuple[int, str]] | None, BaseException | None] = work(), None
        except OSError as exc:
            outcome = None, exc
        except Exception as exc:  # a host that no encoding takes
            outcome = None, OSError(errno.EINVAL, f"the host cannot be looked up: {type(exc).__name__}")
        try:
            loop.call_soon_threadsafe(tell, *outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=run, name="callback-look-up", daemon=True).start()
    return await future


def _refused(exc: BaseException) -> str | None:
    """Why the guard let nothing out, if it was that."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, AddressRefused):
            return str(seen.strerror)
        seen = seen.__cause__ or seen.__context__
    return None


async def _bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """The whole body, or None when it is larger than `max_bytes` after decompression."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(64 * 1024):
        size += len(chunk)
        if size > max_bytes:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds from now (RFC 9110 §10.2.3), a day at most; None when absent or odd.

    A date is measured by the answer's own `Date`: the server's clock may differ from ours.
    """
    raw = headers.get("Retry-After", "").strip()
    if raw.isascii() and raw.isdigit():
        return float(min(int(raw), LONGEST_RETRY_AFTER_S)) if len(raw) < 10 else None
    until = _http_date(raw)
    if until is None:
        return None
    now = _http_date(headers.get("Date", "")) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), float(LONGEST_RETRY_AFTER_S))


def _http_date(text: str) -> datetime | None:
    """A date of HTTP in any of its three forms (RFC 9110 §5.6.7); all of them are in GMT."""
    if not text[:3].isalpha():
        return None  # each begins with the day's name; the parser alone would take more than dates
    try:
        read = parsedate_to_datetime(text.strip())
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


_LOST: Final[tuple[tuple[type[Exception], str], ...]] = (
    (aiohttp.ServerDisconnectedError, "closed"),
    (aiohttp.ClientPayloadError, "truncated"),
    (aiohttp.ClientResponseError, "not_http"),
    (ConnectionResetError, "reset"),
    (aiohttp.ClientOSError, "connection_lost"),
)
"""Stable words for the ways in which an answer gets lost; the first that fits."""


def _lost(exc: Exception) -> LostReply:
    """How an answer got lost: a stable word, then the system's own."""
    for kind, word in _LOST:
        if isinstance(exc, kind) or isinstance(exc.__cause__, kind):
            return LostReply(f"{word}: {_reason(exc)}")
    return LostReply(_reason(exc))


def _reason(exc: BaseException) -> str:
    """A short reason that cannot carry a URL with secrets: the kind of the error, and the system's own words."""
    cause = exc.__cause__ if isinstance(exc.__cause__, OSError) else exc
    if isinstance(cause, OSError) and cause.strerror:
        return f"{type(exc).__name__}: {cause.strerror}"
    return type(exc).__name__
