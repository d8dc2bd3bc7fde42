"""Purchases that nobody knows the end of: found after a crash, and ended by proof or by a person.

Looks at the evidence while the window is open: the balance, a repetition where the provider honours the key, the ids
between our own. Never a blind second send, however long it takes.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from aggregator.domain.clock import rfc3339
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.evidence import Trust, Verdict, settle_time, verdict
from aggregator.domain.ids import AttemptId
from aggregator.domain.orders import NotPurchased, Order, OrderState, Purchased, PurchaseUnclear, apply
from aggregator.flow.base import House, Workers, log
from aggregator.flow.readings import take_reading
from aggregator.flow.recovery import recover_ids, repeat_under_keys
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.providers.reading import identifier
from aggregator.storage import attempts, books, numbers, refills
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, RowMapping

FIRST_CODE_CHECK_S: Final = 1.0
UNCLEAR_REFILL_WAIT: Final = timedelta(days=1)
"""How long a refill whose asking was interrupted counts as perhaps running."""
LOOKS_PER_WINDOW: Final = 10
SOONEST_LOOK_S: Final = 5.0
LATEST_LOOK_S: Final = 60.0


class Reconcile:
    name = "reconcile"

    def __init__(self, house: House) -> None:
        self._house = house
        self._first = True
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._workers = {name: Workers(f"reconcile:{name}", 1, done=wake) for name in house.gateways}

    async def run_once(self) -> int:
        """Purchases whose sender is gone are unclear: they may have been sent, and are never sent again.

        The first time, plans of an earlier run are taken back: after a start an order waits for the first sync.
        """
        found = await self._house.database.write(self._find_interrupted)
        self._first = False
        for order in found:
            log.warning("purchase_interrupted", order_id=order.id, attempt_id=order.attempt, provider=order.provider)
        if found:
            self._house.wakeups.wake("sequencing")
        now = self._house.clock.now()
        due = await self._house.database.read(partial(books.due_windows, now=now))
        begun = 0
        for provider in due:
            workers = self._workers.get(provider)
            if workers is not None and workers.free:
                workers.start(self._look(self._house.gateways[provider]))
                begun += 1
        return len(found) + begun

    def _find_interrupted(self, connection: Connection) -> list[Order]:
        now = self._house.clock.now()
        if self._first:
            attempts.take_back(connection, None, now)
        found = []
        for attempt in attempts.interrupted(connection, now):
            order = order_store.load_for_update(connection, attempt.order_number)
            detail = "the daemon stopped while the purchase was being sent"
            attempts.finish(connection, attempt.id, None, "unclear", now, outcome="interrupted", detail=detail)
            applied = apply(order, PurchaseUnclear(attempt.id, "interrupted", detail), now)
            books.open_window(connection, attempt.provider, now)
            found.append(order_store.save(connection, order, applied.order, applied.events, now))
        refills.interrupted(connection, now, now + UNCLEAR_REFILL_WAIT)
        return found

    async def idle(self) -> None:
        await asyncio.gather(*(workers.idle() for workers in self._workers.values()))

    async def stop(self, grace_s: float) -> None:
        """A repetition under a key is a purchase too, and gets its time."""
        await asyncio.gather(*(workers.stop(grace_s) for workers in self._workers.values()))

    # --- evidence ---

    async def _look(self, gateway: Gateway) -> None:
        """One look at everything that could tell how the unclear purchases of a provider ended."""
        if gateway.settings.idempotent_add:
            await repeat_under_keys(self._house, gateway)
        await take_reading(self._house, gateway, Priority.STATUS)
        if gateway.settings.recover_ids:
            await recover_ids(self._house, gateway)
        freed = await self._house.database.write(lambda c: self._conclude(c, gateway))
        if freed:
            self._house.wakeups.wake("routing", "sequencing")

    def _conclude(self, connection: Connection, gateway: Gateway) -> int:
        """Act on what is proved; how many orders were freed to be bought elsewhere."""
        now = self._house.clock.now()
        settle = settle_time(gateway.settings.settle_s, gateway.timeout_s)
        debits = books.load(connection, gateway.name).debits_seen
        trust = Trust(gateway.settings.exclusive_account, debits, settle)
        freed = 0
        open_rows = []
        for row in books.unclear(connection, gateway.name):
            # The balance of a child that is an aggregator itself is moved by its own refunds: never evidence.
            child = gateway.settings.idempotent_add
            proved = Verdict.UNDECIDED if child else verdict(row["evidence"] or [], row["sent_at"], trust)
            if proved is Verdict.NOT_BOUGHT:
                _free(connection, row, now)
                freed += 1
            elif proved is Verdict.BOUGHT:
                _note_bought(connection, row, now)
            if proved is not Verdict.NOT_BOUGHT:
                open_rows.append(row)
        books.set_next_evidence(connection, gateway.name, self._next_look(gateway, open_rows, settle, now))
        return freed

    def _next_look(
        self, gateway: Gateway, open_rows: list[RowMapping], settle: timedelta, now: datetime
    ) -> datetime | None:
        """While the window of some purchase is open, and as long as one may still be repeated under its key."""
        every_s = min(LATEST_LOOK_S, max(SOONEST_LOOK_S, settle.total_seconds() / LOOKS_PER_WINDOW))
        # Two readings after the settling time are what "not bought" needs.
        in_window = [row for row in open_rows if now < row["sent_at"] + settle + timedelta(seconds=3 * every_s)]
        if in_window:
            return now + timedelta(seconds=every_s)
        if gateway.settings.idempotent_add and open_rows:
            return min(row["next_resend_at"] or now for row in open_rows)
        return None


def _free(connection: Connection, row: RowMapping, now: datetime) -> None:
    """Proved not to have bought: the order is bought elsewhere."""
    attempt = AttemptId(row["id"])
    order = order_store.load_for_update(connection, row["order_number"])
    books.add_evidence(connection, attempt, {"kind": "verdict", "at": rfc3339(now), "verdict": "not_bought"})
    detail = "not bought: the balance of this account of our own did not move, and it is debited at once"
    attempts.finish(connection, attempt, None, "not_placed", now, detail=detail)
    freed = apply(order, NotPurchased(attempt), now)
    order_store.save(connection, order, freed.order, freed.events, now, next_route_at=now)
    log.info("purchase_proved_not_bought", order_id=order.id, attempt_id=attempt)


def _note_bought(connection: Connection, row: RowMapping, now: datetime) -> None:
    """Proved bought, under an id that nobody told us: it stays on the desk, and says so once."""
    if any(one.get("kind") == "verdict" for one in row["evidence"] or []):
        return
    books.add_evidence(connection, row["id"], {"kind": "verdict", "at": rfc3339(now), "verdict": "bought"})
    order = order_store.load_for_update(connection, row["order_number"])
    detail = "bought, as the balance shows, but the provider's id is unknown; resolve it with that id"
    told = replace(order, error_detail=detail)
    order_store.save(connection, order, told, (), now)
    log.info("purchase_proved_bought", order_id=order.id, attempt_id=row["id"])


async def resolve(house: House, reference: str, *, provider_order: str | None, by: str) -> Order:
    """A person says how an unclear purchase ended: placed under `provider_order`, or (None) not placed.

    Problem CONFLICT when the order is not unclear, or when another order already has that id.
    """
    if provider_order is not None and identifier(provider_order) != provider_order:
        raise Problem(ProblemKind.INVALID_FIELD, "is no provider's order id", "provider_order")
    now = house.clock.now()

    def write(connection: Connection) -> Order:
        found = order_store.find(connection, reference, None)
        if found is None:
            raise Problem(ProblemKind.UNKNOWN_ORDER, "no such order")
        order = order_store.load_for_update(connection, found.number)
        if order.state is not OrderState.UNCLEAR or order.attempt is None or order.provider is None:
            raise Problem(ProblemKind.CONFLICT, f"the order is {order.state}; only an unclear order can be resolved")
        attempt = AttemptId(order.attempt)
        said = {"kind": "person", "at": rfc3339(now), "by": by, "outcome": "placed" if provider_order else "not_placed"}
        books.add_evidence(connection, attempt, said)
        if provider_order is None:
            attempts.finish(connection, attempt, None, "not_placed", now, detail=f"not placed, says {by}")
            applied = apply(order, NotPurchased(attempt), now)
            return order_store.save(connection, order, applied.order, applied.events, now, next_route_at=now)
        if order_store.known_elsewhere(connection, order.provider, provider_order, order.number):
            raise Problem(ProblemKind.CONFLICT, "another order has this provider order already", "provider_order")
        attempts.finish(connection, attempt, None, "placed", now, provider_order=provider_order)
        rented = 1 if order.kind == "sms" else 0
        applied = apply(order, Purchased(attempt, order.provider, provider_order, rented), now)
        due: dict[str, object] = {"next_poll_at": now}
        if rented:
            soon = now + timedelta(seconds=FIRST_CODE_CHECK_S)
            numbers.add(connection, order.number, order.provider, [(provider_order, "", "")], now, soon)
            due = {}
        return order_store.save(connection, order, applied.order, applied.events, now, **due)

    order = await house.database.write(write)
    log.info("order_resolved", order_id=order.id, state=str(order.state), by=by)
    house.wakeups.wake("sequencing", "routing", "polling", "sms_watch")
    return order
