"""Drip-feeds of our own: runs are made one by one when they are due, and what they come to is told by their parent.

Exactly as many runs as were ordered, whatever crashes: a run is made in one transaction with its parent's next due
time, and the database gives each place of a parent once. It never buys; a run is an order that is routed like any
other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from aggregator.domain.children import (
    Member,
    each,
    interval_of,
    next_run_at,
    own_params,
    run_budget,
    runs_of,
    total,
)
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId, OrderNumber, new_id
from aggregator.domain.orders import FINAL, Order, OrderState, Role, apply
from aggregator.flow.base import House, log
from aggregator.flow.wishes import pass_on
from aggregator.storage import children
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection

_Work = Callable[[Connection, int, datetime], None]

BATCH: Final = 200
_NO_SERVICE_S: Final = 86400.0
"""How long a run waits whose service is no longer in the config."""


class Dripping:
    name = "dripping"

    def __init__(self, house: House) -> None:
        self._house = house

    async def run_once(self) -> int:
        now = self._house.clock.now()
        runs = await self._house.database.read(lambda c: children.due_runs(c, now, limit=BATCH))
        for number in runs:
            await self._guarded(number, now, self._make_run)
        sums = await self._house.database.read(lambda c: children.due_sums(c, now, limit=BATCH))
        for number in sums:
            await self._pass_on_cancel(number, now)
            await self._guarded(number, now, self._add_up)
        if runs or sums:
            self._house.wakeups.wake("routing", "sequencing", "canceling")
        return len(runs) + len(sums)

    async def idle(self) -> None:
        """Nothing goes on after `run_once` has returned."""

    async def stop(self, grace_s: float) -> None:
        """Nothing to be cut."""

    async def _guarded(self, number: int, now: datetime, work: _Work) -> None:
        """One parent that cannot be worked on must not hold up the others."""
        try:
            await self._house.database.write(lambda c: work(c, number, now))
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("drip_feed_failed", order_number=number)

    def _make_run(self, connection: Connection, number: int, now: datetime) -> None:
        parent = order_store.load_for_update(connection, number)
        due = children.next_run_at(connection, number)
        if due is None or due > now:
            return  # somebody canceled it just now
        family = children.family(connection, parent.id)
        made = sum(member.order.role is Role.RUN for member in family)
        run = self._run(parent, family, made + 1, now)
        child = order_store.add(connection, run, (Draft("order.accepted"),), give_up_at=self._give_up_at(parent, now))
        more = made + 1 < runs_of(parent.params)
        again = next_run_at(due, interval_of(parent.params), now) if more else None
        applied = apply(parent, total(parent, [*family, Member(child)], self._house.rates, more=more), now)
        order_store.save(connection, parent, applied.order, applied.events, now, next_run_at=again)
        log.info("run_made", order_id=parent.id, run=child.id, ordinal=made + 1, more=more)

    def _run(self, parent: Order, family: Sequence[Member], ordinal: int, now: datetime) -> Order:
        """A run carries nothing by which a caller would take it for the order that he placed, its callback included:
        that hears of the parent, which tells the sums."""
        return Order(
            id=OrderId(new_id("ord", now)),
            number=OrderNumber(0),
            owner=parent.owner,
            service=parent.service,
            kind=parent.kind,
            state=OrderState.ACCEPTED,
            quantity=each(parent),
            created_at=now,
            updated_at=now,
            link=parent.link,
            params=own_params(parent),
            max_cost=run_budget(parent, family, self._house.rates),
            pinned_provider=parent.pinned_provider,
            role=Role.RUN,
            parent=parent.id,
            ordinal=ordinal,
        )

    def _give_up_at(self, parent: Order, now: datetime) -> datetime:
        service = self._house.settings.services.get(parent.service)
        return now + timedelta(seconds=float(service.give_up_after_s) if service is not None else _NO_SERVICE_S)

    async def _pass_on_cancel(self, number: int, now: datetime) -> None:
        """The wish to cancel a parent reaches each of its family when it can: a run that is being bought, later."""

        def open_members(connection: Connection) -> list[int]:
            parent = order_store.load(connection, number)
            if parent is None or parent.cancel_state is None or parent.state in FINAL:
                return []
            return [member.order.number for member in children.family(connection, parent.id) if member.open]

        for child in await self._house.database.read(open_members):
            await self._guarded(child, now, lambda c, n, at: pass_on(self._house, c, n, at))

    def _add_up(self, connection: Connection, number: int, now: datetime) -> None:
        parent = order_store.load_for_update(connection, number)
        more = children.next_run_at(connection, number) is not None
        applied = apply(
            parent, total(parent, children.family(connection, parent.id), self._house.rates, more=more), now
        )
        if applied.order == parent:
            children.summed(connection, number)
            return
        order_store.save(connection, parent, applied.order, applied.events, now, next_sum_at=None)
