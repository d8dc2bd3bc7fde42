"""Completed orders that dropped are refilled: journaled, asked for once, followed to the refill's end.

Decides by domain.refills whether one may be asked for. A refill whose answer is lost is not asked for again inside its
cooldown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aggregator.domain.clock import rfc3339
from aggregator.domain.errors import Problem, ProblemKind, StorageUnavailable
from aggregator.domain.events import Draft
from aggregator.domain.ids import RefillId, new_id
from aggregator.domain.orders import Order
from aggregator.domain.polls import poll_interval
from aggregator.domain.refills import (
    LATER_AT,
    MUCH_LATER,
    NEVER_AGAIN,
    Refill,
    RefillPolicy,
    RefillState,
    cooled_down,
    drop,
    dropped_enough,
    refusal,
)
from aggregator.domain.wire import NotSent
from aggregator.flow.base import STORAGE_RETRY_S, House, Workers, log
from aggregator.flow.drops import traits_of
from aggregator.flow.policies import refill_policy
from aggregator.providers.contract import (
    Failure,
    RefillAccepted,
    RefillRefusal,
    RefillRefused,
    RefillReport,
    RefillResult,
    Unclear,
)
from aggregator.providers.gateway import Exchange, Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import claims, polls, refills
from aggregator.storage import orders as order_store
from aggregator.storage.catalogue import Traits
from aggregator.storage.database import Connection, RowMapping

LEASE_MARGIN_S: Final = 30.0
SOON: Final = timedelta(minutes=1)
"""A refill that was not sent is asked for again after so long."""
LEAST_WAIT: Final = timedelta(hours=1)
"""Between two looks at an order whose refill could not be asked for."""
SOONEST: Final = timedelta(minutes=5)
"""Between two of its refusals that name a time: each is an event of the order."""
_OPEN = ("pending", "in_progress")


class Refilling:
    name = "refilling"

    def __init__(self, house: House) -> None:
        self._house = house
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._workers = {
            name: Workers(f"refilling:{name}", 2, done=wake)
            for name, gateway in house.gateways.items()
            if gateway.capabilities.refill
        }

    async def run_once(self) -> int:
        now = self._house.clock.now()
        begun = await self._request_due(now)
        due = await self._house.database.read(lambda c: refills.due(c, now))
        for provider, state in sorted(due):
            workers = self._workers.get(provider)
            if workers is None or not workers.free:
                continue
            gateway = self._house.gateways[provider]
            if state == "requested":
                workers.start(self._ask(gateway))
            elif state in _OPEN:
                workers.start(self._follow(gateway))
            else:
                workers.start(self._close_unclear(gateway))
            begun += 1
        return begun

    async def idle(self) -> None:
        await asyncio.gather(*(workers.idle() for workers in self._workers.values()))

    async def stop(self, grace_s: float) -> None:
        await asyncio.gather(*(workers.stop(grace_s) for workers in self._workers.values()))

    async def _request_due(self, now: datetime) -> int:
        """Journal a refill for each dropped order that may have one now."""
        numbers = await self._house.database.read(lambda c: order_store.due_refills(c, now, limit=100))
        for number in numbers:
            reason = await self._house.database.write(lambda c, n=number: self._request(c, n, now))  # type: ignore[misc]
            log.info("refill_considered", order_number=number, refused=reason)
        if numbers:
            self._house.wakeups.wake("sequencing")
        return len(numbers)

    def _request(self, connection: Connection, number: int, now: datetime) -> str | None:
        order = order_store.load_for_update(connection, number)
        policy = self._policy(connection, order)
        lost = drop(order) or 0
        if policy is None or not policy.auto or not dropped_enough(order, lost, policy):
            order_store.set_refill_due(connection, number, None)
            return "nothing is missing any more, or nothing is refilled by itself"
        if order.start_count is None:
            order_store.set_refill_due(connection, number, None)
            return "without a start_count nobody can tell what the provider measures the loss by"
        if order_store.other_on_link(connection, order, order_store.placed_at(connection, number)):
            order_store.set_refill_due(connection, number, None)
            return "another order worked on the same link, so nobody can tell what dropped"
        reason = request(self._house, connection, order, now)
        due = _again(order, self._past(connection, order), policy, now) if reason else None
        order_store.set_refill_due(connection, number, due)
        return reason

    def _look_again(self, connection: Connection, order: Order, now: datetime) -> None:
        """After the cooldown, whether still enough is missing for another refill."""
        due = _again(order, self._past(connection, order), self._policy(connection, order), now)
        order_store.set_refill_due(connection, order.number, due)

    def _policy(self, connection: Connection, order: Order) -> RefillPolicy | None:
        return policy_of(self._house, order, traits_of(connection, order))

    @staticmethod
    def _past(connection: Connection, order: Order) -> Sequence[Refill]:
        return refills.of_orders(connection, {order.number: order.id}).get(order.id, ())

    async def _ask(self, gateway: Gateway) -> None:
        """Send journaled refills, by one call where the dialect has batches; the sending is durable before."""
        limit = gateway.settings.batch_size if gateway.capabilities.batched_refill else 1
        async with gateway.turn(Priority.STATUS):
            now = self._house.clock.now()
            token = claims.new_token()
            lease_s = gateway.timeout_s + LEASE_MARGIN_S

            def start(connection: Connection) -> list[tuple[RowMapping, str]]:
                rows = refills.claim_due(
                    connection, gateway.name, ("requested",), now, limit=limit, lease_s=lease_s, token=token
                )
                refills.mark_sent(connection, [row["number"] for row in rows], now)
                loaded = [(row, order_store.load_for_update(connection, row["order_number"])) for row in rows]
                return [(row, order.provider_order or "") for row, order in loaded]

            asked = await self._house.database.write(start)
            if not asked:
                return
            ids = [provider_order for _, provider_order in asked]
            results, exchange = await gateway.refills(ids, asked[0][0]["id"])
        while True:
            try:
                await self._house.database.write(lambda c: self._record_asked(c, asked, token, results, exchange))
                break
            except StorageUnavailable as exc:
                log.error("refill_not_recorded_yet", refills=[row["id"] for row, _ in asked], reason=str(exc))
                await asyncio.sleep(STORAGE_RETRY_S)
        self._house.wakeups.wake("sequencing")

    def _record_asked(
        self,
        connection: Connection,
        asked: list[tuple[RowMapping, str]],
        token: str,
        results: Mapping[str, RefillResult] | NotSent,
        exchange: Exchange,
    ) -> None:
        now = self._house.clock.now()
        for row, provider_order in asked:
            if isinstance(results, NotSent):
                again = now + SOON
                refills.settle(connection, row["number"], token, sent_at=None, next_poll_at=again)
                continue
            result = results.get(provider_order, Unclear("missing", "the answer does not speak of this order"))
            self._settle_asked(connection, row, token, result, exchange, now)

    def _settle_asked(
        self,
        connection: Connection,
        row: RowMapping,
        token: str,
        result: RefillResult,
        exchange: Exchange,
        now: datetime,
    ) -> None:
        order = order_store.load_for_update(connection, row["order_number"])
        policy = self._policy(connection, order)
        cooldown = policy.cooldown if policy else timedelta(days=1)
        values: dict[str, object] = {"exchange": exchange.as_json()}
        drafts: list[Draft] = []
        match result:
            case RefillAccepted(provider_refill):
                values |= {"state": "pending", "provider_refill": provider_refill, "next_poll_at": now}
            case RefillRefused(refusal=RefillRefusal.RUNNING, provider_refill=str(running), text=text):
                values |= {"state": "pending", "provider_refill": running, "next_poll_at": now, "detail": text}
            case RefillRefused(refusal=why, text=text):
                wait = result.retry_after_s
                named = why is RefillRefusal.LATER and wait is not None
                values |= _rejected(now, LATER_AT if named else str(why), text)
                drafts.append(_rejection(row, text))
                again = _come_back(why, wait, cooldown)
                order_store.set_refill_due(connection, order.number, now + again if again is not None else None)
            case Unclear(reason=reason, text=text):
                # It may be running. Nobody asks again before the cooldown is over; then it counts as not given.
                values |= {"state": "unclear", "outcome": reason, "detail": text, "next_poll_at": now + cooldown}
        refills.settle(connection, row["number"], token, **values)
        if drafts:
            order_store.save(connection, order, order, drafts, now)

    async def _follow(self, gateway: Gateway) -> None:
        limit = gateway.settings.batch_size if gateway.capabilities.batched_refill else 1
        async with gateway.turn(Priority.STATUS):
            now = self._house.clock.now()
            token = claims.new_token()
            lease_s = gateway.timeout_s + LEASE_MARGIN_S
            rows = await self._house.database.write(
                lambda c: refills.claim_due(c, gateway.name, _OPEN, now, limit=limit, lease_s=lease_s, token=token)
            )
            if not rows:
                return
            answer = await gateway.refill_statuses([row["provider_refill"] for row in rows])
        await self._house.health.note(gateway.name, answer)
        await self._house.database.write(lambda c: self._record_followed(c, gateway, rows, token, answer))
        self._house.wakeups.wake("sequencing")

    def _record_followed(
        self,
        connection: Connection,
        gateway: Gateway,
        rows: Sequence[RowMapping],
        token: str,
        answer: Mapping[str, RefillReport | Failure] | Failure,
    ) -> None:
        now = self._house.clock.now()
        bounds = gateway.settings.status_every_s
        for row in rows:
            report = answer.get(row["provider_refill"]) if not isinstance(answer, Failure) else None
            state = report.state if isinstance(report, RefillReport) else None
            again = now + poll_interval(now - row["requested_at"], None, bounds.min, bounds.max)
            values: dict[str, object] = {"next_poll_at": again, "polls": row["polls"] + 1}
            draft: Draft | None = None
            if state is RefillState.COMPLETED:
                values |= {"state": "completed", "finished_at": now, "next_poll_at": None}
                draft = Draft("refill.completed", {"refill": {"id": row["id"], "number": row["number"]}})
            elif state is RefillState.REJECTED and isinstance(report, RefillReport):
                values |= _rejected(now, "rejected", report.word)
                draft = _rejection(row, report.word)
            elif state is not None:
                values["state"] = str(state)
            refills.settle(connection, row["number"], token, **values)
            if draft is not None:
                order = order_store.load_for_update(connection, row["order_number"])
                # What somebody counted before the refill says nothing after it.
                counted = replace(order, count=None, count_at=None) if state is RefillState.COMPLETED else order
                self._look_again(connection, order, now)
                order_store.save(connection, order, counted, (draft,), now)
                if state is RefillState.COMPLETED:
                    # What it restored shows in the order's own status.
                    polls.soon(connection, order.number, now)

    async def _close_unclear(self, gateway: Gateway) -> None:
        now = self._house.clock.now()
        token = claims.new_token()

        def write(connection: Connection) -> None:
            rows = refills.claim_due(
                connection, gateway.name, ("unclear",), now, limit=100, lease_s=LEASE_MARGIN_S, token=token
            )
            for row in rows:
                order = order_store.load_for_update(connection, row["order_number"])
                refills.settle(connection, row["number"], token, **_rejected(now, "unclear", row["detail"] or ""))
                self._look_again(connection, order, now)
                text = "nobody knows whether it was given; its cooldown is over"
                order_store.save(connection, order, order, (_rejection(row, text),), now)

        await self._house.database.write(write)
        self._house.wakeups.wake("sequencing")


def request(house: House, connection: Connection, order: Order, now: datetime) -> str | None:
    """Journal a refill for an order, with its event; or the reason why it cannot have one now."""
    traits = traits_of(connection, order)
    policy = policy_of(house, order, traits)
    gateway = house.gateways.get(order.provider or "")
    if policy is None or gateway is None:
        return "only orders of panel services that are in the config are refilled"
    past = refills.of_orders(connection, {order.number: order.id}).get(order.id, ())
    reason = refusal(order, past, policy, now, offered=gateway.capabilities.refill and traits.refill)
    if reason is not None:
        return reason
    due = order_store.refill_due(connection, order.number)
    if past and past[-1].outcome == LATER_AT and due is not None and due > now:
        return f"the provider gives none before {rfc3339(due)}: {past[-1].detail}"
    lost = drop(order)
    refill_id = RefillId(new_id("rfl", now))
    number = refills.add(connection, refill_id, order.number, gateway.name, lost, now)
    draft = Draft("refill.requested", {"refill": {"id": refill_id, "number": number, "drop": lost}})
    order_store.save(connection, order, order, (draft,), now)
    return None


async def request_by_hand(house: House, order: Order) -> Order:
    """A caller's wish for a refill under the same rules; Problem CONFLICT with the reason when it cannot be."""
    now = house.clock.now()

    def write(connection: Connection) -> Order:
        current = order_store.load_for_update(connection, order.number)
        reason = request(house, connection, current, now)
        if reason is not None:
            raise Problem(ProblemKind.CONFLICT, f"no refill now: {reason}")
        return order_store.load_for_update(connection, order.number)

    asked = await house.database.write(write)
    house.wakeups.wake("sequencing", "refilling")
    return asked


def _again(order: Order, past: Sequence[Refill], policy: RefillPolicy | None, now: datetime) -> datetime | None:
    """When a refused wish is worth looking at again: after the cooldown, while the window is open and one is left."""
    if policy is None or order.finished_at is None:
        return None
    given = sum(refill.state is RefillState.COMPLETED for refill in past)
    if given >= policy.max_refills or any(refill.outcome in NEVER_AGAIN for refill in past):
        return None
    again = max(cooled_down(past, policy) or now, order.finished_at + policy.min_age, now + LEAST_WAIT)
    return again if again - order.finished_at <= policy.window else None


def _come_back(why: RefillRefusal, wait_s: float | None, cooldown: timedelta) -> timedelta | None:
    """When a refused refill is worth asking for again; None: never. A named time counts, sooner than the cooldown too;
    who sees no drop will not see one tomorrow."""
    if wait_s is not None:
        return max(timedelta(seconds=wait_s), SOONEST)
    if why is RefillRefusal.NO_DROP:
        return MUCH_LATER * cooldown
    return cooldown if why in (RefillRefusal.LATER, RefillRefusal.RUNNING) else None


def policy_of(house: House, order: Order, traits: Traits) -> RefillPolicy | None:
    return refill_policy(house.settings.services.get(order.service), traits.name)


def _rejected(now: datetime, outcome: str, text: str) -> dict[str, object]:
    return {"state": "rejected", "finished_at": now, "next_poll_at": None, "outcome": outcome[:32], "detail": text}


def _rejection(row: RowMapping, text: str) -> Draft:
    return Draft("refill.rejected", {"refill": {"id": row["id"], "number": row["number"]}, "reason": text})
