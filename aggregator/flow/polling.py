"""Bought orders are followed: full batches of status calls, provider words to facts, facts to states and events.

Decides when an order is asked again. An unknown word, a missing id or a failed call changes no order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from aggregator.domain.errors import ClaimLost, StorageUnavailable
from aggregator.domain.events import Draft
from aggregator.domain.orders import FINAL, Order, OrderState, Reported, apply
from aggregator.domain.pauses import poll_interval
from aggregator.domain.refills import drop, dropped_enough
from aggregator.flow.base import House, Workers, log
from aggregator.flow.batches import MAX_CALLS, ask_statuses
from aggregator.flow.learning import learn_from_charge
from aggregator.flow.policies import refill_policy
from aggregator.providers.contract import Failure, StatusBatch, StatusReport
from aggregator.providers.gateway import UNKNOWN_WORDS, Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import claims, deliverables, ledger
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.storage.tables import orders as orders_table

LEASE_MARGIN_S: Final = 30.0
WAIT_FOR_ACCOUNTS: Final = timedelta(days=1)
"""How long a finished product order is still asked for accounts that are missing."""


@dataclass(slots=True)
class Progress:
    """What one batch changed."""

    changed: int = 0
    finished: int = 0
    events: int = 0


def _due(connection: Connection, *, provider: str, now: datetime, limit: int) -> int:
    return order_store.due_polls(connection, provider, now, limit=limit)


class Polling:
    name = "polling"

    def __init__(self, house: House) -> None:
        self._house = house
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._workers = {
            name: Workers(f"polling:{name}", max(1, gateway.settings.max_concurrency - 1), done=wake)
            for name, gateway in house.gateways.items()
        }

    async def run_once(self) -> int:
        now = self._house.clock.now()
        begun = 0
        for provider, workers in self._workers.items():
            gateway = self._house.gateways[provider]
            if not (room := workers.free * gateway.status_batch):
                continue
            due = await self._house.database.read(partial(_due, provider=provider, now=now, limit=room))
            for _ in range(-(-due // gateway.status_batch)):
                workers.start(self._poll(gateway))
                begun += 1
        return begun

    async def idle(self) -> None:
        await asyncio.gather(*(workers.idle() for workers in self._workers.values()))

    async def stop(self, grace_s: float) -> None:
        """Status calls cost nothing and are cut at once."""
        await asyncio.gather(*(workers.stop(0) for workers in self._workers.values()))

    async def _poll(self, gateway: Gateway) -> None:
        async with gateway.turn(Priority.STATUS):
            # Claimed only now: what came due while waiting for the turn fills the batch.
            now = self._house.clock.now()
            token = claims.new_token()
            lease_s = gateway.timeout_s + LEASE_MARGIN_S
            claimed = await self._house.database.write(
                lambda c: order_store.claim_polls(
                    c, gateway.name, now, limit=gateway.status_batch, lease_s=lease_s, token=token
                )
            )
            if not claimed:
                return
            ids = [order.provider_order or "" for order, _ in claimed]
            answer = await gateway.statuses(ids)
        if isinstance(answer, Failure):
            if len(ids) > 1:
                # Finding out takes more calls than the lease was meant for.
                until = self._house.clock.now() + timedelta(seconds=MAX_CALLS * gateway.timeout_s + LEASE_MARGIN_S)
                numbers = [order.number for order, _ in claimed]
                await self._house.database.write(lambda c: order_store.extend_polls(c, numbers, token, until))
            answer = await ask_statuses(gateway, ids, answer)
        await self._house.health.note(gateway.name, answer)
        try:
            progress = await self._house.database.write(lambda c: self._record(c, gateway, claimed, token, answer))
        except (ClaimLost, StorageUnavailable):
            raise
        except Exception:
            log.exception("poll_not_recorded", provider=gateway.name, orders=len(ids))
            # One report that cannot be stored must not take the others with it, poll after poll.
            progress = await self._house.database.write(
                lambda c: self._record(c, gateway, claimed, token, answer, apart=True)
            )
        if isinstance(answer, Failure):
            log.info("poll_failed", provider=gateway.name, orders=len(ids), kind=str(answer.kind), text=answer.text)
        else:
            log.info("polled", provider=gateway.name, orders=len(ids), changed=progress.changed)
        if progress.events:
            self._house.wakeups.wake("sequencing", "refilling")

    def _record(
        self,
        connection: Connection,
        gateway: Gateway,
        claimed: Sequence[tuple[Order, int]],
        token: str,
        answer: StatusBatch | Failure,
        *,
        apart: bool = False,
    ) -> Progress:
        """Take every report and give every order its next poll; `apart`: reports that cannot be stored are left out."""
        now = self._house.clock.now()
        progress = Progress()
        for order, polls in claimed:
            report = answer.reports.get(order.provider_order or "") if isinstance(answer, StatusBatch) else None
            if report is not None and report.state is None and report.word:
                UNKNOWN_WORDS.labels(gateway.name).inc()
                log.warning("unknown_status_word", provider=gateway.name, order_id=order.id, word=report.word[:100])
            current = order_store.load_for_update(connection, order.number)
            if report is not None and apart:
                current = self._take_apart(connection, current, report, now, progress)
            elif report is not None:
                current = self._take(connection, current, report, now, progress)
            due = self._next_poll(connection, gateway, current, now, answered=report is not None)
            claims.release(
                connection,
                orders_table,
                orders_table.c.number,
                order.number,
                token,
                next_poll_at=due,
                polls=polls + 1,
            )
        return progress

    def _take_apart(
        self, connection: Connection, order: Order, report: StatusReport, now: datetime, progress: Progress
    ) -> Order:
        try:
            with connection.begin_nested():
                return self._take(connection, order, report, now, progress)
        except Exception:
            log.exception("report_not_stored", order_id=order.id)
            return order

    def _take(
        self, connection: Connection, order: Order, report: StatusReport, now: datetime, progress: Progress
    ) -> Order:
        fact = Reported(report.state, report.charge, report.start_count, report.remains)
        applied = apply(order, fact, now)
        drafts = list(applied.events)
        if report.accounts:
            fresh, total = deliverables.add_new(connection, self._house.sealer, order.number, report.accounts, now)
            if fresh:
                # The delivery is told before the end that it leads to.
                drafts.insert(0, Draft("order.delivery", {"delivered": fresh, "total": total}))
        due = self._dropped(order, applied.order, drafts, now)
        if applied.order == order and not drafts and not due:
            return order
        saved = order_store.save(connection, order, applied.order, drafts, now, **due)
        if saved.charge is not None and saved.charge != order.charge and saved.provider is not None:
            ledger.book_charge(connection, saved.provider, saved.number, saved.charge, now)
            learn_from_charge(connection, self._house, saved, saved.charge, now)
        progress.changed += 1
        progress.events += len(drafts)
        progress.finished += saved.state in FINAL and order.state not in FINAL
        return saved

    def _dropped(self, before: Order, after: Order, drafts: list[Draft], now: datetime) -> dict[str, object]:
        """A completed order that has lost enough since it finished is due for a refill."""
        policy = refill_policy(self._house.settings.services.get(after.service))
        lost = drop(after)
        if policy is None or lost is None or before.state is not OrderState.COMPLETED or after.finished_at is None:
            return {}
        known = drop(before) or 0
        if not dropped_enough(after, lost, policy) or lost <= known:
            # Nothing new: a loss that was told already, or one that a refill is making good.
            return {}
        drafts.append(Draft("order.dropped", {"drop": lost}))
        # Without a start_count nobody can tell what the provider measures the loss by (contract.md §2).
        refilled = policy.auto and after.start_count is not None
        return {"next_refill_at": max(now, after.finished_at + policy.min_age)} if refilled else {}

    def _next_poll(
        self, connection: Connection, gateway: Gateway, order: Order, now: datetime, *, answered: bool
    ) -> datetime | None:
        bounds = gateway.settings.status_every_s
        soon = now + poll_interval(now, order.updated_at, bounds.min, bounds.max)
        if order.state not in FINAL:
            return soon
        if order.finished_at is None:
            return None
        if order.kind == "product" and order.state in (OrderState.COMPLETED, OrderState.PARTIAL):
            missing = deliverables.count(connection, order.number) < order.quantity
            return soon if missing and now - order.finished_at < WAIT_FOR_ACCOUNTS else None
        policy = refill_policy(self._house.settings.services.get(order.service))
        if order.state is OrderState.COMPLETED and policy is not None and policy.auto and gateway.capabilities.refill:
            again = now + policy.check_every if answered else min(soon, now + policy.check_every)
            return again if again - order.finished_at <= policy.window else None
        return None
