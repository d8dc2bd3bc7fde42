"""How much one caller may ask for: requests per second, orders open at once, wrong keys per peer.

Everything is counted in this process and forgotten with it, except orders, which are counted in the database.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Final

from aggregator.domain.errors import Problem, ProblemKind
from aggregator.flow.base import House
from aggregator.flow.intake import NewOrder
from aggregator.storage import reports

OPEN_ORDERS_RETRY_S: Final = 30
WRONG_KEYS: Final = 20
"""Wrong keys that a peer may send in WRONG_KEYS_WINDOW_S before it hears 429 instead of 401."""
WRONG_KEYS_WINDOW_S: Final = 60.0
_PEERS: Final = 10_000
READERS_OF_ONE: Final = 32
READERS_OF_ALL: Final = 256
"""Readers that wait for events: those of one caller, and of all together."""
READERS_RETRY_S: Final = 5


class RateLimiter:
    """A token bucket per caller: a second's worth may come at once, then an even stream."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, per_second: float, now: float) -> None:
        """Count one request; Problem with the time to wait when it is one too many. 0 per second: unlimited."""
        if per_second <= 0:
            return
        size = max(1.0, per_second)
        tokens, at = self._buckets.get(name, (size, now))
        tokens = min(size, tokens + (now - at) * per_second)
        if tokens < 1:
            self._buckets[name] = (tokens, now)
            wait_s = max(1, math.ceil((1 - tokens) / per_second))
            detail = f"this key may send {per_second:g} requests per second"
            raise Problem(ProblemKind.TOO_MANY_REQUESTS, detail, retry_after_s=wait_s)
        self._buckets[name] = (tokens - 1, now)


def neighbourhood(peer: str) -> str:
    """Who counts as the same peer: an IPv6 host has a whole /64 to call from."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


class WrongKeys:
    """Counts wrong keys by peer. A right key always gets in: many callers may share one proxy's address."""

    def __init__(self) -> None:
        self._peers: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def count(self, peer: str, now: float) -> None:
        """Note one more wrong key; Problem 429 when the peer had too many of late."""
        peer = neighbourhood(peer)
        count, since = self._peers.pop(peer, (0, now))
        if now - since >= WRONG_KEYS_WINDOW_S:
            count, since = 0, now
        self._peers[peer] = (count + 1, since)
        self._forget(now)
        if len(self._peers) > _PEERS:
            self._peers.popitem(last=False)
        if count >= WRONG_KEYS:
            wait_s = max(1, math.ceil(since + WRONG_KEYS_WINDOW_S - now))
            raise Problem(ProblemKind.TOO_MANY_REQUESTS, "too many wrong keys from here", retry_after_s=wait_s)

    def _forget(self, now: float) -> None:
        """Peers whose time is over count as new ones anyway; those that were silent the longest come first."""
        while (oldest := next(iter(self._peers))) and now - self._peers[oldest][1] >= WRONG_KEYS_WINDOW_S:
            del self._peers[oldest]


class Waiting:
    """Counts readers that wait for events, by long poll or stream: each keeps a connection for long."""

    def __init__(self) -> None:
        self._readers: Counter[str] = Counter()

    @contextmanager
    def place(self, name: str) -> Iterator[None]:
        """A place for one more reader of a caller; Problem 429 when the caller has too many, 503 when all have."""
        if self._readers[name] >= READERS_OF_ONE:
            detail = f"this key may have {READERS_OF_ONE} readers that wait for events; end some"
            raise Problem(ProblemKind.TOO_MANY_REQUESTS, detail, retry_after_s=READERS_RETRY_S)
        if self._readers.total() >= READERS_OF_ALL:
            detail = "too many readers wait for events"
            raise Problem(ProblemKind.UNAVAILABLE, detail, retry_after_s=READERS_RETRY_S)
        self._readers[name] += 1
        try:
            yield
        finally:
            self._readers[name] -= 1


class OpenOrders:
    """Keeps callers within `max_open_orders`. One intake at a time for a caller with a limit: counting and storing
    are two transactions, and nobody may slip in between."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    def admit(
        self, house: House, owner: str, most: int, wishes: Sequence[NewOrder | Problem]
    ) -> AbstractAsyncContextManager[Sequence[NewOrder | Problem]]:
        """The wishes, those beyond the limit turned into problems; store them inside. 0: unlimited."""
        return self._counted(house, owner, most, wishes) if most > 0 else nullcontext(wishes)

    @asynccontextmanager
    async def _counted(
        self, house: House, owner: str, most: int, wishes: Sequence[NewOrder | Problem]
    ) -> AsyncIterator[Sequence[NewOrder | Problem]]:
        async with self._locks.setdefault(owner, asyncio.Lock()):
            open_now = await house.database.read(lambda c: reports.open_orders(c, owner, most))
            room = most - open_now
            admitted: list[NewOrder | Problem] = []
            for wish in wishes:
                if isinstance(wish, NewOrder):
                    if room <= 0:
                        wish = _full(most)
                    room -= 1
                admitted.append(wish)
            yield admitted


def _full(most: int) -> Problem:
    detail = f"this key may have {most} unfinished orders; wait until some are finished"
    return Problem(ProblemKind.TOO_MANY_REQUESTS, detail, retry_after_s=OPEN_ORDERS_RETRY_S)
