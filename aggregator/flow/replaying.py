"""Deliveries that shall come due again, many of them: a bounded step of each replay at a time.

Decides which of the events that were asked for an endpoint takes now. The bytes and ids stay what they were; sending is
delivery's.
"""

from __future__ import annotations

from functools import partial

from aggregator.domain.webhooks import takers
from aggregator.flow.base import House, log
from aggregator.storage import replays
from aggregator.storage.outbox import Fresh


def wanted(house: House, endpoint: str) -> replays.Wanted:
    """Whether an endpoint's filters take an event; of callers' callbacks, whether it is one of their orders'."""
    hook = house.endpoints.hooks.get(endpoint)

    def takes(fresh: Fresh) -> bool:
        if hook is None:
            return house.endpoints.callback(fresh.owner, fresh.callback_url) == endpoint
        if hook.services and fresh.service not in hook.services and fresh.type != "webhook.test":
            return False
        return bool(takers({endpoint: hook.events}, fresh.type, fresh.data))

    return takes


class Replaying:
    """Wakes `delivery`; to be woken when a replay was asked for. Between two steps others write."""

    name = "replaying"

    def __init__(self, house: House) -> None:
        self._house = house
        self._stopping = False

    async def run_once(self) -> int:
        """Go on until no replay is left; how many deliveries that was."""
        total = 0
        while not self._stopping and await self._house.database.read(replays.some_wait):
            now = self._house.clock.now()
            steps = await self._house.database.write(
                partial(replays.step, now=now, wanted=partial(wanted, self._house))
            )
            done = sum(step.count for step in steps)
            total += done
            if done:
                self._house.wakeups.wake("delivery")
        if total:
            log.info("deliveries_due_again", deliveries=total)
        return total

    async def idle(self) -> None:
        """Nothing goes on after `run_once` returned."""

    async def stop(self, grace_s: float) -> None:
        """The step being written ends by itself; no further one begins."""
        self._stopping = True
