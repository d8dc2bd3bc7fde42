"""The present count at a completed order's link: from callers, and from the config's `count_source` within the window.

It asks politely and knows nothing better: an answer that is no whole number changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.events import Draft
from aggregator.domain.orders import Order, OrderState
from aggregator.domain.refills import surprising
from aggregator.domain.wire import HttpReply
from aggregator.flow.base import House, Workers, log
from aggregator.flow.drops import dropped, traits_of
from aggregator.flow.policies import refill_policy
from aggregator.outbound import Outbound
from aggregator.storage import orders as order_store
from aggregator.storage import refills
from aggregator.storage.catalogue import Traits
from aggregator.storage.database import Connection

AT_ONCE: Final = 2
TIMEOUT_S: Final = 10.0
RETRY: Final = timedelta(hours=1)
"""A count that could not be had is asked for again after so long."""
MAX_COUNT: Final = 2**62


class Counting:
    name = "counting"

    def __init__(self, house: House, outbound: Outbound) -> None:
        self._house = house
        self._outbound = outbound
        self._unconfirmed: set[int] = set()
        """Orders of which all seems to be gone by one reading; after a restart it takes two again."""
        self._workers = Workers(self.name, AT_ONCE, done=lambda: house.wakeups.wake(self.name))

    async def run_once(self) -> int:
        """Ask for the counts that are due."""
        if not self._workers.free:
            return 0
        now = self._house.clock.now()
        room = self._workers.free
        due = await self._house.database.read(lambda c: order_store.due_counts(c, now))
        if not due:
            return 0
        orders = await self._house.database.write(
            lambda c: order_store.take_due_counts(c, now, now + RETRY, limit=room)
        )
        for order in orders:
            self._workers.start(self._ask(order))
        return len(orders)

    async def idle(self) -> None:
        await self._workers.idle()

    async def stop(self, grace_s: float) -> None:
        await self._workers.stop(0)

    async def _ask(self, order: Order) -> None:
        service = self._house.settings.services.get(order.service)
        source = service.count_source if service is not None else None
        if source is None or order.link is None:
            await self._house.database.write(lambda c: order_store.set_count_due(c, order.number, None))
            return
        url = source.url.replace("{link}", quote(order.link, safe=""))
        answer = await self._outbound.fetch(url, TIMEOUT_S)
        count = (
            count_in(answer.body, source.pointer) if isinstance(answer, HttpReply) and answer.status == 200 else None
        )
        if count is None:
            said = f"HTTP {answer.status}" if isinstance(answer, HttpReply) else answer.reason
            log.warning("count_unknown", order_id=order.id, service=order.service, said=said)
            await self._missed(order)
            return
        now = self._house.clock.now()
        if surprising(replace(order, count=count)) and order.number not in self._unconfirmed:
            # A page that did not load reads 0: nothing is told, and nothing asked for, before it is read again.
            self._unconfirmed.add(order.number)
            log.warning("count_surprising", order_id=order.id, service=order.service, count=count)
            await self._missed(order)
            return
        self._unconfirmed.discard(order.number)
        await self._house.database.write(lambda c: _record(c, self._house, order.number, count, now, again=True))
        self._house.wakeups.wake("sequencing", "refilling")

    async def _missed(self, order: Order) -> None:
        """No count was had; after the window none is asked for any more, and nothing is waited for."""
        if not await self._house.database.write(lambda c: _asks_again(c, self._house, order, self._house.clock.now())):
            self._unconfirmed.discard(order.number)


def _asks_again(connection: Connection, house: House, order: Order, now: datetime) -> bool:
    """Whether a count is asked for again; where the window is over, it is not due any more."""
    if next_count(house, order, traits_of(connection, order), now, after=RETRY) is not None:
        return True
    order_store.set_count_due(connection, order.number, None)
    return False


def count_in(body: bytes, pointer: str) -> int | None:
    """The whole number at a JSON pointer (RFC 6901); None when there is none."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(key)
        elif isinstance(found, list) and key.isascii() and key.isdigit() and len(key) < 7 and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 19:
        found = int(found)
    whole = isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= MAX_COUNT
    return found if whole else None


async def take_count(house: House, order: Order, count: int, *, by: str) -> Order:
    """A caller's count; Problem CONFLICT where it can mean nothing."""
    now = house.clock.now()

    def write(connection: Connection) -> Order:
        saved = _record(connection, house, order.number, count, now, again=False)
        if saved is None:
            raise Problem(ProblemKind.CONFLICT, f"the order is {order.state}; only a completed panel order can drop")
        return saved

    saved = await house.database.write(write)
    log.info("count_taken", order_id=order.id, count=count, by=by)
    house.wakeups.wake("sequencing", "refilling")
    return saved


def _record(
    connection: Connection, house: House, number: int, count: int, now: datetime, *, again: bool
) -> Order | None:
    """Store a count and what it shows; None when the order is not, or no longer, a completed one. `again`: it was read
    by us, and is to be read again."""
    order = order_store.load_for_update(connection, number)
    if order.kind != "smm" or order.state is not OrderState.COMPLETED:
        if again:
            order_store.set_count_due(connection, number, None)
        return None
    drafts: list[Draft] = []
    counted = replace(order, count=count, count_at=now)
    traits = traits_of(connection, order)
    remained = refills.remained(connection, number)
    columns = dropped(house, order, counted, traits, drafts, now, remained=remained, confirmed=again)
    if again:
        columns["next_count_at"] = next_count(house, order, traits, now)
    return order_store.save(connection, order, counted, drafts, now, **columns)


def next_count(
    house: House, order: Order, traits: Traits, now: datetime, *, after: timedelta | None = None
) -> datetime | None:
    """When the count of a completed order is asked for next: as often as its refills want it, inside the window."""
    service = house.settings.services.get(order.service)
    policy = refill_policy(service, traits.name)
    if service is None or service.count_source is None or policy is None or order.finished_at is None:
        return None
    again = now + (policy.check_every if after is None else after)
    return again if again - order.finished_at <= policy.window else None
