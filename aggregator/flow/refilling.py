"""Completed orders that dropped are refilled: journaled, asked for once, followed to the refill's end.

Decides by domain.refills whether one may be asked for. A refill whose answer is lost is not asked for again inside its
cooldown.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    Denial,
    Denied,
    Refill,
    RefillPolicy,
    RefillState,
    cooled_down,
    denial,
    drop,
    dropped_enough,
    unfinished,
)
from aggregator.domain.wire import NotSent
from aggregator.flow.base import STORAGE_RETRY_S, Crews, House, log
from aggregator.flow.drops import traits_of
from aggregator.flow.policies import refill_policy
from aggregator.flow.words import note_unknown_word
from aggregator.providers.contract import (
    Failure,
    FailureKind,
    Meaning,
    RefillAccepted,
    RefillRefusal,
    RefillRefused,
    RefillReport,
    RefillResult,
    Unclear,
)
from aggregator.providers.gateway import Exchange, Gateway
from aggregator.providers.limits import Priority
from aggregator.providers.refusals import TurnedAway
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
NOT_YET_VISIBLE: Final = timedelta(days=1)
"""So long a provider may not know a refill that it has taken."""
MOST_SINGLES: Final = 32
"""Refills looked at one by one after a batch that was refused whole; the rest wait for the next round."""
MOST_REFUSED: Final = 4
"""Refills refused alone before a provider counts as one that answers nothing at all."""
_ABOUT_THE_BATCH: Final = frozenset(
    {FailureKind.NOT_FOUND, FailureKind.UNSUPPORTED, FailureKind.ERROR, FailureKind.UNREADABLE}
)
_ABOUT_ONE_REFILL: Final = frozenset({FailureKind.NOT_FOUND, FailureKind.ERROR})
_NOBODY_KNOWS: Final = "nobody knows whether it was given; its cooldown is over"
_ONE_RAN: Final = "the provider said that one was running already, and not which; no more is to be asked for by itself"


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at refills found out, by the provider's id; `left` were not asked for, for there were too many."""

    reports: Mapping[str, RefillReport | Failure]
    left: frozenset[str] = frozenset()


class Refilling:
    name = "refilling"

    def __init__(self, house: House) -> None:
        self._house = house
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._crews = Crews(house, self.name, lambda gateway: 2 if gateway.capabilities.refill else 0, done=wake)
        self._asked_singly: set[str] = set()
        """Providers that take no refills of many orders in one call; forgotten at the end of the process."""
        self._followed_singly: set[str] = set()
        """Likewise for the status of many refills."""

    async def run_once(self) -> int:
        now = self._house.clock.now()
        begun = await self._request_due(now)
        due = await self._house.database.read(lambda c: refills.due(c, now))
        for provider, step in sorted(due):
            crew = self._crews.at(provider)
            if crew is None or not crew[1].free:
                continue
            gateway, workers = crew
            if step == "requested":
                workers.start(self._ask(gateway))
            elif step == refills.FOLLOW:
                workers.start(self._follow(gateway))
            else:
                workers.start(self._review(gateway))
            begun += 1
        return begun

    async def idle(self) -> None:
        await self._crews.idle()

    async def stop(self, grace_s: float) -> None:
        await self._crews.stop(grace_s)

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
        if (reason := self._not_by_itself(connection, order, policy)) is not None:
            order_store.set_refill_due(connection, number, None)
            return reason
        denied = request(self._house, connection, order, now)
        due = _again(order, self._past(connection, order), policy, now) if denied else None
        order_store.set_refill_due(connection, number, due)
        return denied.text if denied else None

    @staticmethod
    def _not_by_itself(connection: Connection, order: Order, policy: RefillPolicy | None) -> str | None:
        """Why no refill may follow without a person's wish; None when it may."""
        lost = drop(order, refills.remained(connection, order.number)) or 0
        if policy is None or not policy.auto or not dropped_enough(order, lost, policy):
            return "nothing is missing any more, or nothing is refilled by itself"
        if order.start_count is None:
            return "without a start_count nobody can tell what the provider measures the loss by"
        if order_store.other_on_link(connection, order, order_store.placed_at(connection, order.number)):
            return "another order worked on the same link, so nobody can tell what dropped"
        return None

    def _cooldown(self, connection: Connection, order: Order) -> timedelta:
        policy = self._policy(connection, order)
        return policy.cooldown if policy else timedelta(days=1)

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
        batched = gateway.capabilities.batched_refill and gateway.name not in self._asked_singly
        limit = gateway.settings.batch_size if batched else 1
        async with gateway.turn(Priority.STATUS):
            now = self._house.clock.now()
            token = claims.new_token()
            lease_s = gateway.timeout_s + LEASE_MARGIN_S

            def start(connection: Connection) -> list[tuple[RowMapping, str]]:
                rows = refills.claim_due(
                    connection, gateway.name, "requested", now, limit=limit, lease_s=lease_s, token=token
                )
                refills.mark_sent(connection, [row["number"] for row in rows], now)
                loaded = [(row, order_store.load_for_update(connection, row["order_number"])) for row in rows]
                return [(row, order.provider_order or "") for row, order in loaded]

            asked = await self._house.database.write(start)
            if not asked:
                return
            ids = [provider_order for _, provider_order in asked]
            # Another key than that of a refill alone: where the batch is turned away, that one is sent by itself.
            key = asked[0][0]["id"] if len(ids) == 1 else f"{asked[0][0]['id']}.{len(ids)}"
            results, exchange = await gateway.refills(ids, key)
        if isinstance(results, Mapping) and any(map(_no_batches, results.values())):
            self._asked_singly.add(gateway.name)
            log.warning("provider_refill_singly", provider=gateway.name, refills=len(ids))
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
        cooldown = self._cooldown(connection, order)
        values: dict[str, object] = {"exchange": exchange.as_json()}
        drafts: list[Draft] = []
        match result:
            case RefillAccepted(provider_refill):
                values |= {"state": "pending", "provider_refill": provider_refill, "next_poll_at": now, "detail": None}
            case TurnedAway() if _no_batches(result):
                values |= {"sent_at": None, "next_poll_at": now}
            case TurnedAway(retry_after_s=wait, text=text) if now - row["requested_at"] < max(cooldown, LEAST_WAIT):
                values |= {"sent_at": None, "detail": text, "polls": row["polls"] + 1}
                values["next_poll_at"] = now + _pause(wait, row["polls"])
            case RefillRefused(refusal=RefillRefusal.RUNNING, provider_refill=str(running), text=text):
                values |= {"state": "pending", "provider_refill": running, "next_poll_at": now, "detail": text}
            case RefillRefused(refusal=RefillRefusal.RUNNING, text=text):
                # Which one it is nobody knows, so it cannot be followed: it is shown as running for a cooldown.
                values |= {"state": "in_progress", "outcome": str(RefillRefusal.RUNNING), "detail": text}
                values["next_poll_at"] = now + max(cooldown, LEAST_WAIT)
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
        batched = gateway.capabilities.batched_refill and gateway.name not in self._followed_singly
        limit = gateway.settings.batch_size if batched else 1
        calls = 1 + (MOST_SINGLES if limit > 1 else 0)
        async with gateway.turn(Priority.STATUS):
            now = self._house.clock.now()
            token = claims.new_token()
            lease_s = calls * gateway.timeout_s + LEASE_MARGIN_S
            rows = await self._house.database.write(
                lambda c: refills.claim_due(
                    c, gateway.name, refills.FOLLOW, now, limit=limit, lease_s=lease_s, token=token
                )
            )
            if not rows:
                return
            ids = [row["provider_refill"] for row in rows]
            answer = await gateway.refill_statuses(ids)
        looked = await self._look_singly(gateway, ids, answer) if isinstance(answer, Failure) else Looked(answer)
        await self._house.health.note(gateway.name, looked.reports if looked.reports else answer)
        await self._house.database.write(lambda c: self._record_followed(c, gateway, rows, token, looked))
        self._house.wakeups.wake("sequencing")

    async def _look_singly(self, gateway: Gateway, ids: Sequence[str], failure: Failure) -> Looked:
        """What can still be learned after a call that failed whole: one bad id spoils the batches of some providers,
        and others take none."""
        if len(ids) == 1:
            return Looked({ids[0]: failure})
        if failure.kind not in _ABOUT_THE_BATCH:
            return Looked({})
        found: dict[str, RefillReport | Failure] = {}
        told = 0
        for one in ids[:MOST_SINGLES]:
            async with gateway.turn(Priority.STATUS):
                answer = await gateway.refill_statuses([one])
            if isinstance(answer, Failure) and answer.kind not in _ABOUT_ONE_REFILL:
                return Looked(found)
            found |= {one: answer} if isinstance(answer, Failure) else answer
            told += not isinstance(answer, Failure)
            if not told and len(found) == MOST_REFUSED:
                return Looked(found)  # it is not about any of them
        if told == len(found) > 1:
            self._followed_singly.add(gateway.name)
            log.warning("provider_refill_status_singly", provider=gateway.name, said=failure.text)
        return Looked(found, frozenset(ids[MOST_SINGLES:]))

    def _record_followed(
        self, connection: Connection, gateway: Gateway, rows: Sequence[RowMapping], token: str, looked: Looked
    ) -> None:
        now = self._house.clock.now()
        bounds = gateway.settings.status_every_s
        for row in rows:
            if row["provider_refill"] in looked.left:
                refills.settle(connection, row["number"], token, next_poll_at=now)
                continue
            report = looked.reports.get(row["provider_refill"])
            state = report.state if isinstance(report, RefillReport) else None
            again = now + poll_interval(now - row["requested_at"], None, bounds.min, bounds.max)
            values: dict[str, object] = {"next_poll_at": again, "polls": row["polls"] + 1}
            draft: Draft | None = None
            if state is RefillState.COMPLETED:
                values |= {"state": "completed", "finished_at": now, "next_poll_at": None}
                values |= {"outcome": None, "detail": None}
                draft = Draft("refill.completed", {"refill": {"id": row["id"], "number": row["number"]}})
            elif state is RefillState.REJECTED and isinstance(report, RefillReport):
                values |= _rejected(now, "rejected", report.word)
                draft = _rejection(row, report.word)
            elif state is not None:
                values |= {"state": str(state), "outcome": None, "detail": None}
            elif isinstance(report, Failure) and report.kind is FailureKind.NOT_FOUND:
                draft = self._not_found(connection, row, report.text, values, now)
            elif isinstance(report, RefillReport) and report.word:
                order = order_store.load_for_update(connection, row["order_number"])
                note_unknown_word(connection, gateway.name, order, report.word, now)
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

    def _not_found(
        self, connection: Connection, row: RowMapping, text: str, values: dict[str, object], now: datetime
    ) -> Draft | None:
        """The provider does not know the refill: not yet, at first; later nobody knows what became of it, and where it
        still does not know it a cooldown later, it is over. Nothing tells that it was given."""
        if row["state"] == "unclear":
            said = f"{row['provider']} does not know the refill {row['provider_refill']}: {text}"
            values |= _rejected(now, "not_found", said)
            return _rejection(row, said)
        if now - row["requested_at"] >= NOT_YET_VISIBLE:
            order = order_store.load_for_update(connection, row["order_number"])
            wait = max(self._cooldown(connection, order), LEAST_WAIT)
            values |= {"state": "unclear", "outcome": "not_found", "detail": text, "next_poll_at": now + wait}
        return None

    async def _review(self, gateway: Gateway) -> None:
        """Refills that the provider has named no id for: what is unclear after its cooldown counts as not given, and
        one that was running already is asked for again where pieces are still missing."""
        now = self._house.clock.now()
        token = claims.new_token()

        def write(connection: Connection) -> None:
            rows = refills.claim_due(
                connection, gateway.name, refills.REVIEW, now, limit=100, lease_s=LEASE_MARGIN_S, token=token
            )
            for row in rows:
                order = order_store.load_for_update(connection, row["order_number"])
                running = row["state"] != "unclear"
                if running and self._wanted_still(connection, order, row["number"], now):
                    wish = {"state": "requested", "outcome": None, "requested_at": now, "sent_at": None}
                    refills.settle(connection, row["number"], token, **wish, next_poll_at=now)
                    continue
                outcome = str(RefillRefusal.RUNNING) if running else "unclear"
                refills.settle(connection, row["number"], token, **_rejected(now, outcome, row["detail"] or ""))
                self._look_again(connection, order, now)
                text = _ONE_RAN if running else _NOBODY_KNOWS
                order_store.save(connection, order, order, (_rejection(row, text),), now)

        await self._house.database.write(write)
        self._house.wakeups.wake("sequencing", self.name)

    def _wanted_still(self, connection: Connection, order: Order, refill: int, now: datetime) -> bool:
        """Whether the refill would be asked for by itself if it had not been asked for."""
        traits = traits_of(connection, order)
        policy = policy_of(self._house, order, traits)
        gateway = self._house.gateways.get(order.provider or "")
        if policy is None or gateway is None or self._not_by_itself(connection, order, policy) is not None:
            return False
        others = [one for one in self._past(connection, order) if one.number != refill]
        offered = gateway.capabilities.refill and traits.refill
        return denial(order, others, policy, now, offered=offered) is None


def request(house: House, connection: Connection, order: Order, now: datetime) -> Denied | None:
    """Journal a refill for an order, with its event; or the reason why it cannot have one now."""
    traits = traits_of(connection, order)
    policy = policy_of(house, order, traits)
    gateway = house.gateways.get(order.provider or "")
    if (not_over := unfinished(order)) is not None:
        return not_over
    if policy is None or gateway is None:
        return Denied(Denial.NOT_OFFERED, "only orders of panel services that are in the config are refilled")
    past = refills.of_orders(connection, {order.number: order.id}).get(order.id, ())
    denied = denial(order, past, policy, now, offered=gateway.capabilities.refill and traits.refill)
    if denied is not None:
        return denied
    due = order_store.refill_due(connection, order.number)
    if past and past[-1].outcome == LATER_AT and due is not None and due > now:
        return Denied(Denial.TOO_EARLY, f"the provider gives none before {rfc3339(due)}: {past[-1].detail}", due)
    lost = drop(order, refills.remained(connection, order.number))
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
        denied = request(house, connection, current, now)
        if denied is not None:
            raise _conflict(denied, now)
        return order_store.load_for_update(connection, order.number)

    asked = await house.database.write(write)
    house.wakeups.wake("sequencing", "refilling")
    return asked


def _conflict(denied: Denied, now: datetime) -> Problem:
    wait_s = math.ceil((denied.again_at - now).total_seconds()) if denied.again_at is not None else None
    facts = {"reason": str(denied.why)}
    return Problem(ProblemKind.CONFLICT, f"no refill now: {denied.text}", retry_after_s=wait_s, facts=facts)


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
    return cooldown if why is RefillRefusal.LATER else None


def _no_batches(result: RefillResult) -> bool:
    """Whether a call was turned away for being a batch: nothing was asked for, and one at a time may be."""
    return isinstance(result, TurnedAway) and result.meaning in (Meaning.PARAMETERS, Meaning.UNKNOWN_ORDER)


def _pause(wait_s: float | None, tries: int) -> timedelta:
    """How long after a call that was turned away the refill is sent again: as named, else twice as long each time."""
    return timedelta(seconds=max(wait_s, 1)) if wait_s is not None else min(SOON * 2 ** min(tries, 6), LEAST_WAIT)


def policy_of(house: House, order: Order, traits: Traits) -> RefillPolicy | None:
    return refill_policy(house.settings.services.get(order.service), traits.name)


def _rejected(now: datetime, outcome: str, text: str) -> dict[str, object]:
    return {"state": "rejected", "finished_at": now, "next_poll_at": None, "outcome": outcome[:32], "detail": text}


def _rejection(row: RowMapping, text: str) -> Draft:
    return Draft("refill.rejected", {"refill": {"id": row["id"], "number": row["number"]}, "reason": text})
