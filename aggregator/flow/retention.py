"""What is kept no longer: finished orders after `retention.orders_days`, finished deliveries after `deliveries_days`,
the words that were exchanged with providers after `exchanges_days`, and what deleted endpoints have left.

Goes in small steps, so that it never keeps the database from anybody for long. It never removes a delivery that is
still to be sent, nor the words of a purchase of which nobody knows how it ended. Which orders may go, removal says.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, Final

from aggregator.flow.base import House, log
from aggregator.flow.removal import OldOrders
from aggregator.storage import deliveries, endpoints, exchanges

STEP: Final = 500
STEPS_AT_ONCE: Final = 200
"""Steps of one run; the next tick goes on."""
AGAIN: Final = timedelta(hours=1)
"""How long after all was looked through it is looked through again."""
EXCHANGES_AGAIN: Final = timedelta(days=1)
"""The same for what was exchanged with providers, which is looked for through all attempts."""
HOSTS_KEPT: Final = timedelta(days=7)
"""How long it is remembered how a caller's host did, of which no delivery is left."""


class Retention:
    """Walks through the deliveries from the oldest on, a step in a transaction, and begins anew an hour later."""

    name = "retention"

    def __init__(self, house: House) -> None:
        self._house = house
        self._after = 0
        self._rest_until = house.clock.now()
        self._tables = list(exchanges.TABLES)
        """Whose exchanges are still to be looked through in this round, the first from `_behind` on."""
        self._behind: Any = None
        self._tables_rest_until = house.clock.now()
        self._orders = OldOrders(house)
        self._stopping = False

    async def run_once(self) -> int:
        """How many rows were removed."""
        removed = await self._of_deleted_endpoints()
        days = float(self._house.settings.retention.deliveries_days)
        now = self._house.clock.now()
        if days:
            for _ in range(STEPS_AT_ONCE):
                if self._stopping or now < self._rest_until:
                    break
                removed += await self._step(timedelta(days=days))
        if removed:
            log.info("deliveries_removed", rows=removed)
        removed += await self._exchanges()
        return removed + await self._orders.run_once(lambda: self._stopping)

    async def _exchanges(self) -> int:
        """How many exchanges were forgotten, a step of each table in turn."""
        days, forgotten = float(self._house.settings.retention.exchanges_days), 0
        if not days:
            return 0
        for _ in range(STEPS_AT_ONCE):
            if self._stopping or self._house.clock.now() < self._tables_rest_until:
                break
            forgotten += await self._forget_some(timedelta(days=days))
        if forgotten:
            log.info("exchanges_forgotten", rows=forgotten)
        return forgotten

    async def _forget_some(self, kept: timedelta) -> int:
        database, before = self._house.database, self._house.clock.now() - kept
        table = self._tables[0]
        look = partial(exchanges.look_for_old, table=table, after=self._behind, before=before, limit=STEP)
        old, self._behind = await database.read(look)
        if self._behind is None:
            self._tables = self._tables[1:] or list(exchanges.TABLES)
            if len(self._tables) == len(exchanges.TABLES):
                self._tables_rest_until = self._house.clock.now() + EXCHANGES_AGAIN
        if not old:
            return 0
        return await database.write(partial(exchanges.forget_old, table=table, keys=old, before=before))

    async def _of_deleted_endpoints(self) -> int:
        database, removed = self._house.database, 0
        for _ in range(STEPS_AT_ONCE):
            name = await database.read(endpoints.some_deleted)
            if name is None or self._stopping:
                break
            removed += await database.write(partial(endpoints.remove_some, name=name))
        return removed

    async def _step(self, kept: timedelta) -> int:
        database, before = self._house.database, self._house.clock.now() - kept
        old, last = await database.read(partial(deliveries.look_for_old, after=self._after, before=before, limit=STEP))
        removed = await database.write(partial(deliveries.remove_old, ids=old, before=before)) if old else 0
        if last is not None:
            self._after = last
            return removed
        self._after, self._rest_until = 0, self._house.clock.now() + AGAIN
        idle = self._house.clock.now() - max(kept, HOSTS_KEPT)
        forgotten = await database.write(partial(endpoints.forget_hosts, before=idle, limit=STEP))
        return removed + forgotten

    async def idle(self) -> None:
        """Nothing goes on after `run_once` returned."""

    async def stop(self, grace_s: float) -> None:
        """The step being written ends by itself; no further one begins."""
        self._stopping = True
