"""Outbox to endpoint: a signed POST of the stored bytes, and what came of it.

Decides how much goes where at once: an endpoint has places of its own, a caller's dead hosts take none from others, and
one that fails is asked with one delivery at a time. It never makes an event's bytes anew and never follows a redirect.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import Counter, Histogram

from aggregator.domain import webhooks
from aggregator.domain.errors import StorageUnavailable
from aggregator.flow.base import STORAGE_RETRY_S, House, log
from aggregator.flow.endpoints import Target
from aggregator.flow.outcomes import Recorded, Result, record
from aggregator.outbound import Delivered, Outbound
from aggregator.storage import claims, deliveries, endpoints, outbox
from aggregator.storage.database import Connection, RowMapping, quick

CALLERS_PLACES: Final = {"good": 16, "new": 8, "failing": 8}
"""Callbacks in flight per caller, by how their hosts are doing: the dead take nothing from those that answer."""
ALL_CALLBACKS: Final = 96
UNPROVEN_CALLBACKS: Final = 48
"""Callbacks in flight altogether, and those of them to hosts that did not answer last time, or never yet."""
LEASE_MARGIN_S: Final = 30.0
AHEAD: Final = 8
QUICK_S: Final = 0.1
"""An endpoint that answers so soon is claimed for ahead, so many times what it has places."""
MAX_ERROR_CHARS: Final = 200
MAX_EXCERPT_CHARS: Final = 200
CALLBACKS: Final = "callbacks"
"""The one label under which callers' hosts are counted: there may be thousands."""
_UNPRINTABLE: Final = re.compile(r"[^\x21-\x7e\xa0-\ud7ff\ue000-\ufffd]+")

DELIVERIES = Counter("aggregator_deliveries_total", "Webhook tries by endpoint and result.", ["endpoint", "result"])
RESULTS: Final = (("delivered",), ("failed",), ("parked",))
RETRIES = Counter("aggregator_delivery_retries_total", "Webhook tries after the first of their event.", ["endpoint"])
SECONDS = Histogram(
    "aggregator_delivery_seconds",
    "How long webhook endpoints took to answer.",
    ["endpoint"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30),
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a claimed delivery counts: its endpoint, and for callbacks the caller and how the host was doing."""

    endpoint: str
    row_id: int
    owner: str
    standing: str


@dataclass(frozen=True, slots=True)
class _Room:
    """An endpoint at which something is due, how many places it has for that, and whether some of it may be urgent."""

    row: RowMapping
    target: Target
    places: int
    urgent: bool = True


@dataclass(slots=True)
class _Lane:
    """What is claimed for one endpoint and not sent yet, and how many senders are at it. `took_s` is how long it takes
    to answer of late; an endpoint that is quick is claimed for ahead, so that fewer writes serve more deliveries."""

    waiting: deque[deliveries.Delivery] = field(default_factory=deque)
    senders: int = 0
    took_s: float | None = None


_Claimed = tuple[_Place, Target, deliveries.Delivery]


class Delivery:
    """Deliveries of endpoints that are not (or no longer) configured or enabled stay pending, unclaimed.

    Wakes `sequencing` when it wrote an event of its own, and itself when tries have ended.
    """

    name = "delivery"

    def __init__(
        self,
        house: House,
        outbound: Outbound,
        *,
        jitter: Callable[[], float] = random.random,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._house = house
        self._outbound = outbound
        self._jitter = jitter
        self._redact = redact
        self._claimed: dict[int, _Place] = {}
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._results: list[Result] = []
        self._unsent: list[deliveries.Delivery] = []
        self._turn = asyncio.Lock()
        self._prepared = False
        self._left_out = False
        """Whether the last round saw something due that it had not locked."""
        self._stopping = False

    async def prepare(self) -> None:
        """Take over what an earlier run has left; the first `run_once` does it if nobody did before."""
        configured = {hook.name: hook.enabled for hook in self._house.endpoints.configured.values()}
        now = self._house.clock.now()
        callers = list(self._house.endpoints.callers)
        await self._house.database.write(partial(endpoints.prepare, configured=configured, callers=callers, now=now))
        self._prepared = True

    def renew(self) -> None:
        """The config has other endpoints, or other callers who have callbacks."""
        self._prepared = False
        self._house.wakeups.wake(self.name)

    async def run_once(self) -> int:
        async with self._turn:
            if not self._prepared:
                await self.prepare()
            if self._stopping:
                return 0
            claimed = await self._cycle()
            if self._stopping:  # what was just claimed is the next run's, which voids all claims
                return 0
            for place, target, delivery in claimed:
                self._claimed[delivery.id] = place
                self._begin(target, delivery)
            return len(claimed)

    def _begin(self, target: Target, delivery: deliveries.Delivery) -> None:
        lane = self._lanes.setdefault(target.name, _Lane())
        urgent = delivery.type in outbox.URGENT
        if urgent:
            lane.waiting.appendleft(delivery)
        else:
            lane.waiting.append(delivery)
        if lane.senders < target.places + (target.urgent_places if urgent else 0):
            lane.senders += 1
            task = asyncio.create_task(self._send_waiting(target.name, lane), name=f"delivery:{target.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_waiting(self, name: str, lane: _Lane) -> None:
        """Send what is claimed for an endpoint, one after the other; so many at once as it has places.

        Each goes by what the endpoint is at that moment: its URL, its secrets, or that it is gone or switched off.
        """
        guarded = True
        try:
            while lane.waiting and not self._stopping:
                target = self._house.endpoints.target(name)
                if target is None:
                    self._leave(lane)
                    return
                guarded = target.guarded
                await self._deliver(target, lane.waiting.popleft())
                if lane.senders > target.places:
                    return  # an urgent one's place; there are others for the rest
        finally:
            lane.senders -= 1
            if not lane.senders and not lane.waiting and (guarded or lane.took_s is None):
                self._lanes.pop(name, None)

    def _leave(self, lane: _Lane) -> None:
        """What is claimed for an endpoint and better not sent now is given back."""
        self._unsent += lane.waiting
        lane.waiting.clear()
        if not self._stopping:
            self._house.wakeups.wake(self.name)

    async def _cycle(self) -> list[_Claimed]:
        """What has ended is recorded, and what is due is claimed, by one write; nothing to do writes nothing."""
        results, unsent, now = list(self._results), list(self._unsent), self._house.clock.now()
        if not (results or unsent) and not await self._house.database.read(
            lambda c: bool(self._rooms(c, self._claimed, now))
        ):
            return []
        over = {result.delivery.id for result in results} | {delivery.id for delivery in unsent}
        held = {number: place for number, place in self._claimed.items() if number not in over}

        def write(connection: Connection) -> tuple[Recorded, list[_Claimed]]:
            # All of them at once and in one order, as who gives events their positions does: or both would wait.
            locked: Mapping[str, RowMapping] | None = None
            if self._house.database.kind != "sqlite":
                names = {result.delivery.endpoint for result in results} | {delivery.endpoint for delivery in unsent}
                names |= {room.row["name"] for room in self._rooms(connection, held, now)}
                locked = endpoints.lock(connection, names)
            recorded = self._record(connection, results, unsent, now, locked)
            return recorded, self._claim(connection, held, now, locked)

        self._left_out = False
        recorded, claimed = await self._house.database.write(quick(write))
        self._recorded(results, unsent, recorded)
        if self._left_out:
            self._house.wakeups.wake(self.name)
        return claimed

    @staticmethod
    def _record(
        connection: Connection,
        results: list[Result],
        unsent: list[deliveries.Delivery],
        now: datetime,
        locked: Mapping[str, RowMapping] | None = None,
    ) -> Recorded:
        recorded = record(connection, results, now, locked)
        if unsent:
            deliveries.give_back(connection, unsent, now)
        return recorded

    async def idle(self) -> None:
        """Wait until everything claimed has ended, and is recorded however long the database takes."""
        while self._tasks or self._results or self._unsent:
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._record_all()

    async def stop(self, grace_s: float) -> None:
        """Calls in flight have `grace_s` to end; one that is cut is sent again by the next run, under the same id."""
        self._stopping = True
        if self._tasks and grace_s > 0:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(grace_s, STORAGE_RETRY_S)):
                await self._record_all()

    async def _record_all(self) -> None:
        async with self._turn:
            while self._results or self._unsent:
                results, unsent, now = list(self._results), list(self._unsent), self._house.clock.now()
                work = partial(self._record, results=results, unsent=unsent, now=now)
                try:
                    recorded = await self._house.database.write(work)
                except StorageUnavailable as exc:
                    log.warning("storage_unavailable", stage=self.name, reason=str(exc))
                    await asyncio.sleep(STORAGE_RETRY_S)
                else:
                    self._recorded(results, unsent, recorded)

    def _recorded(self, results: list[Result], unsent: list[deliveries.Delivery], recorded: Recorded) -> None:
        del self._results[: len(results)]
        del self._unsent[: len(unsent)]
        for result in results:
            self._claimed.pop(result.delivery.id, None)
        for delivery in unsent:
            self._claimed.pop(delivery.id, None)
        for name in recorded.left_alone:
            lane = self._lanes.get(name)
            if lane is not None and lane.waiting:  # claimed ahead
                self._leave(lane)
        _note(recorded)
        if recorded.told:
            self._house.wakeups.wake("sequencing")

    # --- who is next; in the database's thread

    def _claim(
        self, connection: Connection, held: dict[int, _Place], now: datetime, locked: Container[str] | None
    ) -> list[_Claimed]:
        """Where others write as well, at the endpoints alone whose rows are locked; the next round looks at those that
        came due meanwhile."""
        rooms = self._rooms(connection, held, now)
        if locked is not None:
            self._left_out = any(room.row["name"] not in locked for room in rooms)
            rooms = [room for room in rooms if room.row["name"] in locked]
        if not rooms:
            return []
        token, claimed = claims.new_token(), list[_Claimed]()
        busy = Tally(place.endpoint for place in held.values())
        for room in rooms:
            row, target = room.row, room.target
            name = row["name"]
            if not row["enabled"]:
                continue
            # What is claimed ahead waits for the tries before its own.
            lease_s = (AHEAD + 1) * target.timeout_s + LEASE_MARGIN_S
            found = deliveries.claim_deliveries(
                connection,
                name,
                now,
                limit=max(room.places, 0),
                urgent=target.urgent_places + min(room.places, 0) if room.urgent else None,
                lease_s=lease_s,
                token=token,
            )
            place = _Place(name, row["id"], row["owner"], row["standing"])
            claimed += [(place, target, delivery) for delivery in found]
            deliveries.look_again(
                connection,
                name,
                now,
                in_flight=busy[name] + len(found) > 0,
                more=len(found) >= room.places,
                lease_s=lease_s,
            )
        return claimed

    def _rooms(self, connection: Connection, held: dict[int, _Place], now: datetime) -> list[_Room]:
        busy = Tally(place.endpoint for place in held.values())
        rooms = []
        for row in endpoints.due(connection, now):
            target = self._house.endpoints.target(row["name"])
            if target is None:
                continue
            probed = row["failures"] >= target.patience.failures
            places = (1 if probed else self._ahead(target)) - busy[row["name"]]
            # One whose places are taken is looked at when one of them is free again.
            if places > 0 or (row["urgent"] and places > -target.urgent_places):
                rooms.append(_Room(row, target, places, row["urgent"]))
        rooms.extend(self._callback_rooms(connection, list(held.values()), busy, now))
        return rooms

    def _ahead(self, target: Target) -> int:
        lane = self._lanes.get(target.name)
        soon = lane is not None and lane.took_s is not None and lane.took_s < QUICK_S
        return target.places * AHEAD if soon else target.places

    def _callback_rooms(
        self, connection: Connection, held: list[_Place], busy: Tally[str], now: datetime
    ) -> Iterator[_Room]:
        """Hosts of callbacks, so that no caller, and no kind of host, takes all there is."""
        callbacks = [place for place in held if place.owner]
        left = ALL_CALLBACKS - len(callbacks)
        unproven = UNPROVEN_CALLBACKS - sum(place.standing != "good" for place in callbacks)
        for owner in self._house.endpoints.callers:
            mine = [place for place in callbacks if place.owner == owner]
            for standing, places in CALLERS_PLACES.items():
                free = min(places - sum(place.standing == standing for place in mine), left)
                if standing != "good":
                    free = min(free, unproven)
                if free <= 0:
                    continue
                # A host that may have no more at once is not even looked at: there may be many of them.
                full = [
                    place.row_id for place in mine if busy[place.endpoint] >= self._at_host(place.endpoint, standing)
                ]
                for row in endpoints.due_callbacks(connection, now, owner, standing, busy=full, limit=free):
                    target = self._house.endpoints.target(row["name"])
                    room = min(free, self._at_host(row["name"], standing) - busy[row["name"]])
                    if target is None or room <= 0:
                        continue
                    yield _Room(row, target, room)
                    # What it will really take is known when it is claimed; one place is certain.
                    free, left, unproven = free - 1, left - 1, unproven - (standing != "good")

    def _at_host(self, name: str, standing: str) -> int:
        target = self._house.endpoints.target(name)
        return target.places if target is not None and standing == "good" else 1

    # --- one try

    async def _deliver(self, target: Target, delivery: deliveries.Delivery) -> None:
        try:
            result = await self._send(target, delivery)
        except Exception as exc:
            # Whatever it is, the place must come free again, and the delivery be tried again.
            log.exception("delivery_failed", endpoint=target.name, event_id=delivery.event_id)
            result = self._result(target, delivery, self._house.clock.now(), None, type(exc).__name__)
        self._results.append(result)
        if not self._stopping:
            self._house.wakeups.wake(self.name)

    async def _send(self, target: Target, delivery: deliveries.Delivery) -> Result:
        clock = self._house.clock
        url, at = target.url(delivery.callback_url), clock.now()
        keys = target.secrets_at(at)
        if url is None or not keys:
            return self._result(target, delivery, at, None, "there is no secret, or no URL, to send it with")
        body = delivery.body.encode()
        headers = webhooks.headers(delivery.event_id, at, body, keys)
        began = clock.monotonic()
        outcome = await self._outbound.deliver(url, body, headers, target.timeout_s, guarded=target.guarded)
        took_s = clock.monotonic() - began
        self._learn(target, took_s)
        # The clock does not jump in between; to read it costs more than to add.
        at += timedelta(seconds=took_s)
        if isinstance(outcome, Delivered):
            excerpt = _excerpt(self._redact(outcome.excerpt), url) if outcome.excerpt else None
            error = f"HTTP {outcome.status}"
            return self._result(target, delivery, at, outcome.status, error, took_s, outcome.retry_after_s, excerpt)
        return self._result(target, delivery, at, None, outcome.reason[:MAX_ERROR_CHARS], took_s)

    def _result(
        self,
        target: Target,
        delivery: deliveries.Delivery,
        at: datetime,
        status: int | None,
        error: str,
        took_s: float | None = None,
        retry_after_s: float | None = None,
        excerpt: str | None = None,
    ) -> Result:
        return Result(target, delivery, at, status, error, retry_after_s, took_s, excerpt, self._jitter())

    def _learn(self, target: Target, took_s: float) -> None:
        lane = self._lanes.get(target.name)
        if lane is not None and not target.guarded:
            lane.took_s = took_s if lane.took_s is None else 0.8 * lane.took_s + 0.2 * took_s


@cache
def _seconds(label: str) -> Any:
    """A metric's child; to find it anew each time costs as much as a database row."""
    return SECONDS.labels(label)


@cache
def _tries(label: str, how: str) -> Any:
    return DELIVERIES.labels(label, how)


def expect(endpoint: str) -> None:
    """Begin to count: Prometheus sees no increase in a series that begins with its first failure."""
    _seconds(endpoint)
    RETRIES.labels(endpoint)
    for (how,) in RESULTS:
        _tries(endpoint, how)


def forget(endpoint: str) -> None:
    """An endpoint is gone: so are its series, or each name that ever was would keep some."""
    for metric, results in ((DELIVERIES, RESULTS), (RETRIES, ((),)), (SECONDS, ((),))):
        for result in results:
            with suppress(KeyError):
                metric.remove(endpoint, *result)
    _seconds.cache_clear()
    _tries.cache_clear()


def _excerpt(said: str, url: str) -> str | None:
    """The first words of an answer, as they may be kept: one line, without what only the URL's query knows."""
    for word in re.split(r"[=&;]", urlsplit(url).query):
        if len(word) >= 6:
            said = said.replace(word, "[secret]")
    return _UNPRINTABLE.sub(" ", said).strip()[:MAX_EXCERPT_CHARS] or None


def _note(recorded: Recorded) -> None:
    """Metrics and log lines of what was just written."""
    counted: Tally[tuple[str, str]] = Tally()
    for result, how in recorded.ended:
        label = CALLBACKS if result.target.guarded else result.target.name
        counted[label, how] += 1
        if result.took_s is not None:
            _seconds(label).observe(result.took_s)
        if result.delivery.tries:
            RETRIES.labels(label).inc()
        if how == "parked":
            log.warning("delivery_parked", **_who(result))
    for (label, how), count in counted.items():
        _tries(label, how).inc(count)
    for result in recorded.lost:
        log.info("claim_lost", stage="delivery", row=f"deliveries {result.delivery.id}")
    for result, turned in recorded.turned:
        if turned == "good":
            log.info("webhook_answers_again", endpoint=result.target.name)
        else:
            # A caller's dead host is the caller's to mend.
            say = log.info if result.target.guarded else log.warning
            say("webhook_disabled" if turned == "disabled" else "webhook_failing", **_who(result))


def _who(result: Result) -> dict[str, Any]:
    return {"endpoint": result.target.name, "event_id": result.delivery.event_id, "error": result.error}
