"""Who may call a provider next: concurrency and rate of one account, purchases before everything else.

Decides only the order and the moment; it knows nothing of what is called. What has waited long gets a small share of
the turns, so that statuses which are always due do not keep the catalogue and the balance waiting for ever.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Final

LONG_WAIT_S: Final = 2.0
"""Who has waited so long behind what is more urgent gets a turn out of the share below."""
SHARE: Final = 10
"""One of so many turns, purchases not counted, goes to who has waited long."""


class Priority(IntEnum):
    """contract.md §1: purchases go first, then codes, statuses, catalogue."""

    PURCHASE = 0
    CODE = 1
    STATUS = 2
    CATALOGUE = 3


class Limiter:
    """At most `concurrency` calls at once and `per_second` begun in any second (0: unlimited), the most urgent first.

    With room for two or more, one place is kept for purchases: slow status calls must not hold up a new order. Nothing
    goes before a purchase, however long it has waited.
    """

    def __init__(self, concurrency: int, per_second: float) -> None:
        self._begun: deque[float] = deque()
        self._set(concurrency, per_second)
        self._paused_until = -math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = 0
        self._ordinary = 0
        self._waiting: dict[Priority, deque[tuple[float, asyncio.Future[None]]]] = {one: deque() for one in Priority}
        self._since_share = 0
        self._timer: asyncio.TimerHandle | None = None

    def _set(self, concurrency: int, per_second: float) -> None:
        self._concurrency = concurrency
        # One second's worth may go at once, so that an idle account answers without delay; each start frees its token
        # a window later. A fraction makes the window longer: 2.5 a second are 3 in 1.2 seconds.
        tokens = max(1, math.ceil(per_second))
        self._window_s = tokens / per_second if per_second > 0 else 0.0
        self._begun = deque(self._begun, maxlen=tokens)

    def change(self, concurrency: int, per_second: float) -> None:
        """Go by these limits from now on; what has begun counts, and a pause that was asked for goes on."""
        self._set(concurrency, per_second)
        self._admit()

    @property
    def waiting(self) -> int:
        return sum(not future.done() for queue in self._waiting.values() for _, future in queue)

    @property
    def quiet_s(self) -> float:
        """Seconds for which the provider still wants no call. May be asked from any thread."""
        return max(0.0, self._paused_until - self._loop.time()) if self._loop is not None else 0.0

    def pause(self, seconds: float) -> None:
        """Begin no call for so long: the provider asked for it (`Retry-After`, a rate limit's text)."""
        self._loop = asyncio.get_running_loop()
        self._paused_until = max(self._paused_until, self._loop.time() + seconds)

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a place and a moment, and hold the place until the block ends."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting[priority].append((loop.time(), future))
        self._admit()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._leave(priority)
            raise
        try:
            yield
        finally:
            self._leave(priority)

    def _leave(self, priority: Priority) -> None:
        self._running -= 1
        self._ordinary -= priority is not Priority.PURCHASE
        self._admit()

    def _admit(self) -> None:
        loop = asyncio.get_running_loop()
        while self._running < self._concurrency:
            now = loop.time()
            priority = self._next(now)
            if priority is None:
                return
            ordinary = priority is not Priority.PURCHASE
            if ordinary and self._concurrency > 1 and self._ordinary >= self._concurrency - 1:
                return
            wait = self._wait(now)
            if wait > 0:
                self._wake_in(wait)
                return
            if ordinary:
                usual = all(not queue for one, queue in self._waiting.items() if one < priority)
                self._since_share = self._since_share + 1 if usual else 0
            _, future = self._waiting[priority].popleft()
            if self._window_s:
                self._begun.append(now)
            self._running += 1
            self._ordinary += ordinary
            future.set_result(None)

    def _next(self, now: float) -> Priority | None:
        """Whose head of the queue goes next; None when nobody waits."""
        for queue in self._waiting.values():
            while queue and queue[0][1].done():
                queue.popleft()
        came = {one: queue[0][0] for one, queue in self._waiting.items() if queue}
        if not came or Priority.PURCHASE in came:
            return min(came, default=None)
        behind = sorted(came)[1:]
        oldest = min(behind, key=came.__getitem__, default=None)
        if oldest is not None and self._since_share >= SHARE - 1 and now - came[oldest] >= LONG_WAIT_S:
            return oldest
        return min(came)

    def _wait(self, now: float) -> float:
        wait = self._paused_until - now
        if self._window_s and len(self._begun) == self._begun.maxlen:
            wait = max(wait, self._begun[0] + self._window_s - now)
        return wait

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            return  # the moment only ever moves away; a timer that comes early looks again

        def wake() -> None:
            self._timer = None
            self._admit()

        self._timer = asyncio.get_running_loop().call_later(seconds, wake)
