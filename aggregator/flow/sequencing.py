"""Committed events get their positions in the feed, and a delivery for each endpoint that wants them.

Decides who is told of what, in the same transaction as the position, so that a crash loses no delivery and doubles
none. It never sends anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from aggregator.domain.webhooks import takers
from aggregator.flow.base import House
from aggregator.storage import outbox

BATCH: Final = 500
"""Events per transaction: many share one commit, and SQLite's only writer is soon free for others."""


class Sequencing:
    """Wakes `delivery`; to be woken after every commit that holds events."""

    name = "sequencing"

    def __init__(self, house: House) -> None:
        self._house = house
        self._stopping = False

    async def run_once(self) -> int:
        """Take all events that wait for a position; how many that was."""
        total = 0
        while not self._stopping:
            now = self._house.clock.now()
            taken = await self._house.database.write(
                partial(outbox.sequence, now=now, targets=self._targets, limit=BATCH)
            )
            total += taken
            if taken:
                self._house.wakeups.wake("delivery", "feed")
            if taken < BATCH:
                break
        return total

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
