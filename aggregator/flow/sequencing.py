"""Committed events get their positions in the feed, and a delivery for each endpoint that wants them.

Decides who is told of what, in the same transaction as the position, so that a crash loses no delivery and doubles
none. It never sends anything.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from functools import partial
from typing import Final

from prometheus_client import Counter

from aggregator.domain.events import EVENT_TYPES
from aggregator.domain.webhooks import takers
from aggregator.flow.base import House
from aggregator.storage import outbox
from aggregator.storage.database import Connection

BATCH: Final = 500
"""Events per transaction: many share one commit, and SQLite's only writer is soon free for others."""

EVENTS: Final = Counter("aggregator_events_total", "Events that got a position in the feed, by type.", ["type"])


class Sequencing:
    """Wakes `delivery`; to be woken after every commit that holds events."""

    name = "sequencing"

    def __init__(self, house: House) -> None:
        self._house = house
        self._stopping = False
        for event_type in EVENT_TYPES:
            EVENTS.labels(event_type)

    async def run_once(self) -> int:
        """Take all events that wait for a position; how many that was."""
        total = 0
        while not self._stopping:
            told: Tally[str] = Tally()
            taken = await self._house.database.write(partial(self._sequence, told=told))
            for event_type, count in told.items():
                EVENTS.labels(event_type).inc(count)
            total += taken
            if taken:
                self._house.wakeups.wake("delivery", "feed")
            if taken < BATCH:
                break
        return total

    def _sequence(self, connection: Connection, told: Tally[str]) -> int:
        told.clear()  # a transaction that met a conflict runs again

        def targets(event: outbox.Fresh) -> Sequence[str]:
            told[event.type] += 1
            return self._targets(event)

        return outbox.sequence(connection, self._house.clock.now(), targets, limit=BATCH)

    def _targets(self, event: outbox.Fresh) -> Sequence[str]:
        """The operator's endpoints that want it, also those that are switched off; and the callback of its order."""
        endpoints = self._house.endpoints
        patterns = {
            name: hook.events
            for name, hook in endpoints.hooks.items()
            if not hook.services or event.service in hook.services or event.type == "webhook.test"
        }
        found = takers(patterns, event.type, event.data)
        callback = endpoints.callback(event.owner, event.callback_url)
        if callback is not None:
            found.append(callback)
        return found

    async def idle(self) -> None:
        """Nothing goes on after `run_once` returned."""

    async def stop(self, grace_s: float) -> None:
        """The batch being written ends by itself; no further one begins."""
        self._stopping = True
