"""Every connection, and how much all of them may hold at once: who is too slow is cut, what is too much is shed.

Decides by counts, bytes and time alone, for every door alike, before anybody asks who it is; what a request says is
none of its business. A new connection finds room as long as there is an idle one to close for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong
from prometheus_client import Counter, Gauge

from aggregator.config import HttpSettings
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.log import get_logger
from aggregator.web.problems import plain_document, problem_document, problem_headers
from aggregator.web.rendering import PROBLEM_JSON, Answer, dumps, response

log = get_logger()

MAX_LINE: Final = 8 * 1024
"""Bytes of a request's address; longer: 414."""
MAX_FIELD: Final = 16 * 1024
"""Bytes of one header; longer: 431, as for more than MAX_FIELDS of them."""
MAX_FIELDS: Final = 100
LOOK_EVERY_S: Final = 1.0
RETRY_S: Final = 1
READ_BUFFER: Final = 64 * 1024
"""Bytes of a body that nobody reads, beyond which the connection is not read either."""
PROBES: Final = frozenset({"/livez", "/readyz"})
"""Answered however busy it is: else a supervisor would restart what is only busy."""
SERVER_LOG: Final = logging.getLogger("aggregator.http")
_CANDIDATES: Final = 64
"""How many connections are looked at to find an idle one, so that a flood costs little each."""

OPEN: Final = Gauge("aggregator_http_connections", "Connections that are open, as last looked at.")
CUT: Final = Counter(
    "aggregator_http_cut_total", "Connections closed and requests refused to bound time and memory.", ["cause"]
)
# Each is there from the start: Prometheus sees no increase in a series that begins with its first.
for _cause in ("bodies", "idle_for_another", "large_head", "no_room", "requests", "sent_ahead"):
    CUT.labels(_cause)
for _cause in ("slow_answer", "slow_head", "slow_stream", "stuck_for_another"):
    CUT.labels(_cause)
_NO_ROOM: Final = b"HTTP/1.1 503 Service Unavailable\r\n"
_LARGE_HEAD: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


@dataclass(frozen=True)
class Limits:
    """How much at once, and how long. What is left out of the config is the same for everybody."""

    connections: int = 1000
    requests: int = 512
    """Requests that are worked on or whose answers are being taken; readers that wait for events are counted apart."""
    body_bytes: int = 32 * 1024 * 1024
    """The bodies of all requests together; one that is larger still finds room when it is alone."""
    head_bytes: int = 32 * 1024
    """Address and headers of one request together, and what may be sent ahead of an answer."""
    head_s: float = 20.0
    """From the connection, or the first byte of a further request, to the end of its headers."""
    idle_s: float = 75.0
    """Between two requests."""
    answer_s: float = 60.0
    """How long an answer may take to be taken."""


def limits_of(settings: HttpSettings) -> Limits:
    """What the config allows. Connections take half of the descriptors that the system lets this process have: the
    database, providers and endpoints want some too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * settings.max_connections
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = settings.max_connections if soft == resource.RLIM_INFINITY else min(settings.max_connections, soft // 2)
    if most < settings.max_connections:
        log.warning("few_connections", possible=most, reason="the limit of open files is low; raise it (LimitNOFILE=)")
    return Limits(connections=most, body_bytes=max(Limits.body_bytes, settings.max_body_bytes))


class Connections:
    """All connections of the doors. Give `accept` to a server as its factory, and `admit` to aiohttp as its handler."""

    def __init__(self, server: web.Server, limits: Limits) -> None:
        self.limits = limits
        self._server = server
        self._inner = server.request_handler
        server.request_handler = self.admit
        self._loop = asyncio.get_running_loop()
        # Strangers have had no answer yet; they go before guests, and both in the order of their last one.
        self._strangers: OrderedDict[Connection, None] = OrderedDict()
        self._guests: OrderedDict[Connection, None] = OrderedDict()
        self._working = 0
        self._bodies = 0
        self._looking: asyncio.TimerHandle | None = None
        self._stuck: deque[Connection] = deque()
        """Whose answers were not being taken at the last look, the longest first."""

    def accept(self) -> Connection:
        return Connection(self, self._server, self._loop)

    def __len__(self) -> int:
        return len(self._strangers) + len(self._guests)

    # --- connections ---

    def opened(self, connection: Connection) -> bool:
        """Count it; False when there is no room for it."""
        if len(self) >= self.limits.connections and not self._make_room():
            CUT.labels("no_room").inc()
            return False
        self._strangers[connection] = None
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_EVERY_S, self._look)
        return True

    def _make_room(self) -> bool:
        for group in (self._strangers, self._guests):
            idle = next((one for one in islice(group, _CANDIDATES) if one.idle), None)
            if idle is not None:
                CUT.labels("idle_for_another").inc()
                self.closed(idle)
                idle.force_close()
                return True
        return self._give_up_stuck()

    def _give_up_stuck(self) -> bool:
        """Cut somebody who does not take an answer, for the sake of somebody who has none yet."""
        while self._stuck:
            stuck = self._stuck.popleft()
            if stuck.working and stuck.writing_paused and not stuck.aside:
                CUT.labels("stuck_for_another").inc()
                self.closed(stuck)
                self.done(stuck)
                stuck.abort()
                return True
        return False

    def closed(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        self._guests.pop(connection, None)

    def _look(self) -> None:
        """Cut who is too slow. One look at all costs less than a timer for each."""
        now = self._loop.time()
        for connection in (*self._strangers, *self._guests):
            cause = connection.overdue(now)
            if cause is not None:
                CUT.labels(cause).inc()
                self.closed(connection)
                connection.abort()
        stuck = (one for one in (*self._strangers, *self._guests) if one.unsent_since is not None)
        self._stuck = deque(sorted(stuck, key=lambda one: one.unsent_since or now))
        OPEN.set(len(self))
        self._looking = self._loop.call_later(LOOK_EVERY_S, self._look) if len(self) else None

    # --- requests ---

    async def admit(self, request: web.BaseRequest) -> web.StreamResponse:
        """Have the request worked on, unless there is too much work already."""
        full = self._working >= self.limits.requests and not self._give_up_stuck()
        if full and request.path not in PROBES:
            CUT.labels("requests").inc()
            shed = response(_busy("more requests are being worked on than there is room for"), _HEADERS)
            shed.force_close()
            return shed
        connection = cast(Connection, request.protocol)
        connection.working = True
        self._working += 1
        try:
            return await self._inner(request)
        except web.HTTPException as exc:
            # What aiohttp refuses before any handler is asked, such as an unknown Expect.
            return response(Answer(exc.status, dumps(plain_document(exc.status, exc.text or exc.reason))), _HEADERS)
        except BaseException:
            self.done(connection)
            raise

    def done(self, connection: Connection) -> None:
        """The request that the connection had is no work any more, and its body is forgotten."""
        if connection.working:
            connection.working = False
            self._working -= 1
            self._bodies -= connection.held
            connection.held = 0

    def answered(self, connection: Connection) -> None:
        self.done(connection)
        if connection in self._strangers:
            del self._strangers[connection]
            self._guests[connection] = None
        elif connection in self._guests:
            self._guests.move_to_end(connection)

    def hold(self, connection: Connection, size: int) -> None:
        """Count bytes of a body that will be in memory; Problem 503 when all bodies together would be too many."""
        if connection.working and self._bodies and self._bodies + size > self.limits.body_bytes:
            CUT.labels("bodies").inc()
            detail = "more is being sent at once than there is room for; send it again in a moment"
            raise Problem(ProblemKind.UNAVAILABLE, detail, retry_after_s=RETRY_S)
        if connection.working:
            self._bodies += size
            connection.held += size


def _busy(detail: str) -> Answer:
    problem = Problem(ProblemKind.UNAVAILABLE, f"{detail}; try again in a moment", retry_after_s=RETRY_S)
    return Answer(503, dumps(problem_document(problem)), problem_headers(problem))


_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "aggregator"}


class Connection(web.RequestHandler):
    """aiohttp's side of one connection, which knows how long it keeps us waiting."""

    __slots__ = ("_all", "_answered", "_since", "_unhandled", "aside", "held", "unsent_since", "working")

    def __init__(self, connections: Connections, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=cast(logging.Logger, None),
            logger=SERVER_LOG,
            keepalive_timeout=connections.limits.idle_s,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
            read_bufsize=READ_BUFFER,
        )
        self._all = connections
        self._since: float | None = loop.time()
        """When it began to say what it wants; None between two requests."""
        self._unhandled = 0
        """Bytes of a head that is not whole, or of requests behind the one that is worked on."""
        self._answered = 0
        self.unsent_since: float | None = None
        self.working = False
        self.held = 0
        self.aside = False
        """A stream: it watches its reader itself."""

    @property
    def idle(self) -> bool:
        """Whether every request that came whole has been answered."""
        return self._request_count == self._answered

    def _awaits_head(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio would make room for 256 KiB at every read, however little comes.
        transport.max_size = READ_BUFFER  # type: ignore[attr-defined]
        super().connection_made(transport)
        if not self._all.opened(self):
            self._say(_NO_ROOM, _busy("there are as many connections as there is room for"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._awaits_head():
            if self._since is None:
                self._since = self._loop.time()
            self._count(len(data), "large_head")
        elif self._request_count > self._answered + 1:
            self._count(len(data), "sent_ahead")
        else:
            self._unhandled = 0

    def _count(self, size: int, cause: str) -> None:
        self._unhandled += size
        if self._unhandled <= self._all.limits.head_bytes:
            return
        CUT.labels(cause).inc()
        if cause == "large_head":
            detail = f"address and headers may have {self._all.limits.head_bytes} bytes together"
            self._say(_LARGE_HEAD, Answer(431, dumps(plain_document(431, detail))))
        else:
            self.abort()

    def _say(self, status_line: bytes, answer: Answer) -> None:
        """Answer by hand and close: no request is there that could be answered."""
        body = answer.body.encode()
        headers = {
            "Content-Type": PROBLEM_JSON,
            "Content-Length": str(len(body)),
            "Connection": "close",
            **_HEADERS,
            **answer.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if self.transport is not None:
            self.transport.write(status_line + head.encode() + b"\r\n" + body)
        self.force_close()

    def overdue(self, now: float) -> str | None:
        """What it has kept us waiting with for too long."""
        limits = self._all.limits
        if self._since is not None and now - self._since > limits.head_s and self._awaits_head():
            return "slow_head"
        if self.transport is None or self.aside or self.transport.get_write_buffer_size() == 0:
            self.unsent_since = None
        elif self.unsent_since is None:
            self.unsent_since = now
        elif now - self.unsent_since > limits.answer_s:
            return "slow_answer"
        return None

    def abort(self) -> None:
        """Close without waiting for what is unsent to be taken."""
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def step_aside(self, *, stream: bool) -> None:
        """Its request waits for events from now on, which is no work. Whoever writes a stream watches its reader."""
        self.aside = stream
        self._all.done(self)

    def hold(self, size: int) -> None:
        self._all.hold(self, size)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._answered += 1
            self.aside = False
            self._since = None
            self._unhandled = 0
            self._all.answered(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is told in one line and not quoted: aiohttp would log its address, query and all."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        status, detail = _malformed(exc)
        log.info("malformed_http_request", status=status)
        answer = response(Answer(status, dumps(plain_document(status, detail))), _HEADERS)
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        exc = kw.get("exc_info")
        if isinstance(exc, HttpProcessingError | web.RequestPayloadError):
            log.info("malformed_http_body")
        elif not (isinstance(exc, RuntimeError) and not self.connected):
            # The exception: aiohttp was passing over the rest of a body when its connection was closed.
            super().log_exception(*args, **kw)


def _malformed(exc: HttpProcessingError) -> tuple[int, str]:
    if isinstance(exc, LineTooLong):
        if exc.args[1] == MAX_LINE:
            return 414, f"the address may have {MAX_LINE} bytes"
        return 431, f"a header may have {MAX_FIELD} bytes"
    if "Too many headers" in exc.message:
        return 431, f"a request may have {MAX_FIELDS} headers"
    if isinstance(exc, BadHttpMethod):
        return 400, "this is no HTTP request; is it TLS, or another protocol?"
    return 400, "this is no well-formed HTTP request"


def connection_of(request: web.BaseRequest) -> Connection | None:
    """The connection of a request that came through our doors; None within somebody else's server."""
    protocol = request.protocol
    return protocol if isinstance(protocol, Connection) else None


def has_gone(request: web.BaseRequest) -> bool:
    """Whether nobody is there any more to hear the answer."""
    return request.transport is None or request.transport.is_closing()
