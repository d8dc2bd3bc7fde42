"""Who is calling and what they may do: bearer keys, scopes, and the local admin of a unix socket.

Decides by contract.md §3: `orders` places and sees its own, `read` sees all but deliveries, `admin` does everything.
A key is compared in constant time against every key there is, so that an answer's time tells nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aiohttp import web

from aggregator.config import KeySettings, Scope
from aggregator.config.callers import Panel
from aggregator.domain.clock import Clock
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.log import get_logger
from aggregator.web.limits import RateLimiter, WrongKeys

log = get_logger()

LOCAL: Final = "local"
"""The caller's name where no key is configured and a unix socket is used."""

ANYBODY: Final[frozenset[Scope]] = frozenset({"orders", "read", "admin"})
BUYERS: Final[frozenset[Scope]] = frozenset({"orders", "admin"})
READERS: Final[frozenset[Scope]] = frozenset({"read", "admin"})
ADMINS: Final[frozenset[Scope]] = frozenset({"admin"})


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller who proved to be one. Orders belong to the name, whichever of its keys was used."""

    name: str
    scopes: frozenset[Scope]
    requests_per_second: float = 0
    max_open_orders: int = 0
    panel: Panel = "smm_plus"
    panel_get: bool = False

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    @property
    def sees(self) -> str | None:
        """Whose orders they see: their own alone, or (None) everybody's."""
        return None if self.scopes & READERS else self.name

    @property
    def handles(self) -> str | None:
        """Whose orders they may act on and whose deliveries they may read; None: everybody's."""
        return None if self.is_admin else self.name


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    until: datetime | None
    caller: Caller


class Gate:
    """Lets callers in. Keys are hashed once; what is presented is hashed and compared with all of them."""

    def __init__(self, keys: Sequence[KeySettings], clock: Clock) -> None:
        self._clock = clock
        self.adopt(keys)
        self._rates = RateLimiter()
        self._wrong = WrongKeys()

    def adopt(self, keys: Sequence[KeySettings]) -> None:
        """Let these in from now on, and nobody else; how much each has asked for still counts."""
        self._keys = [
            _Key(_digest(value.value.reveal()), value.until, _caller(key)) for key in keys for value in key.key
        ]
        self._local_admin = not keys

    def admit(self, request: web.Request, allowed: frozenset[Scope]) -> Caller:
        """The caller of a request; Problem 401, 403 or 429."""
        return self._admitted(self._identify(request), allowed)

    def admit_key(self, request: web.Request, presented: str, allowed: frozenset[Scope]) -> Caller:
        """The same for a key that stands among a request's parameters, as the panel protocol has it."""
        if not presented and not (self._local_admin and is_unix(request)):
            raise Problem(ProblemKind.UNAUTHENTICATED, "send your key as the parameter key")
        return self._admitted(self._known(request, presented), allowed)

    def _admitted(self, caller: Caller, allowed: frozenset[Scope]) -> Caller:
        self._rates.take(caller.name, caller.requests_per_second, self._clock.monotonic())
        if not caller.scopes & allowed:
            wanted = " or ".join(sorted(allowed))
            raise Problem(ProblemKind.FORBIDDEN, f"this needs a key with the scope {wanted}")
        return caller

    def still(self, request: web.Request, caller: Caller) -> bool:
        """Whether the key that let the caller in still does; for answers that go on for long."""
        if caller.name == LOCAL and self._local_admin:
            return True
        _, _, presented = request.headers.get("Authorization", "").partition(" ")
        return self._owner(presented.strip()) == caller

    def _identify(self, request: web.Request) -> Caller:
        header = request.headers.get("Authorization")
        if self._local_admin and is_unix(request):
            return _LOCAL_ADMIN
        if header is None:
            raise Problem(ProblemKind.UNAUTHENTICATED, "send your key as Authorization: Bearer KEY")
        scheme, _, presented = header.partition(" ")
        if scheme.lower() != "bearer" or not presented.strip():
            raise Problem(ProblemKind.UNAUTHENTICATED, "the Authorization header must read: Bearer KEY")
        return self._known(request, presented.strip())

    def _known(self, request: web.Request, presented: str) -> Caller:
        if self._local_admin and is_unix(request):
            return _LOCAL_ADMIN
        caller = self._owner(presented)
        if caller is None:
            peer = request.remote or "unix"
            self._wrong.count(peer, self._clock.monotonic())
            log.info("wrong_key", peer=peer)
            raise Problem(ProblemKind.UNAUTHENTICATED, "this key is not known, or it counts no more")
        return caller

    def _owner(self, presented: str) -> Caller | None:
        digest = _digest(presented)
        found: Caller | None = None
        for key in self._keys:
            same = hmac.compare_digest(digest, key.digest)
            if same and (key.until is None or self._clock.now() < key.until):
                found = key.caller
        return found


_LOCAL_ADMIN: Final = Caller(LOCAL, frozenset({"admin"}))
GATE: Final = web.AppKey("gate", Gate)


def is_unix(request: web.Request) -> bool:
    """Whether the request came through a unix socket of ours: only such a one is named by a path."""
    transport = request.transport
    return transport is not None and isinstance(transport.get_extra_info("sockname"), str | bytes)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _caller(key: KeySettings) -> Caller:
    return Caller(
        key.name, frozenset(key.scopes), key.requests_per_second, key.max_open_orders, key.panel, key.panel_get
    )
