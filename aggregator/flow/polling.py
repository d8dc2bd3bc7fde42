"""Bought orders are followed: full batches of status calls, provider words to facts, facts to states and events.

Decides when an order is asked again. An unknown word, a missing id or a failed call changes no order's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from prometheus_client import Histogram

from aggregator.domain.children import interval_of
from aggregator.domain.errors import ClaimLost, StorageUnavailable
from aggregator.domain.events import Draft
from aggregator.domain.history import OfferHistory
from aggregator.domain.orders import FINAL, Order, OrderState, Reported, apply
from aggregator.domain.polls import NOT_YET_VISIBLE, SOONEST_REREAD, poll_interval, reread_interval, stuck_after
from aggregator.flow.base import Crews, House, log
from aggregator.flow.batches import MAX_CALLS, Answered, learn
from aggregator.flow.counting import next_count
from aggregator.flow.drops import dropped
from aggregator.flow.learning import REFUNDED, learn_from_charge
from aggregator.flow.policies import guarantee, refill_policy
from aggregator.flow.rests import rest_due
from aggregator.flow.words import note_unknown_word
from aggregator.providers.contract import BatchForm, Failure, FailureKind, Meaning, StatusBatch, StatusReport
from aggregator.providers.gateway import Batch, Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import catalogue, deliverables, history, ledger, polls, refills
from aggregator.storage import orders as order_store
from aggregator.storage.catalogue import NO_TRAITS, Traits
from aggregator.storage.claims import new_token
from aggregator.storage.database import Connection
from aggregator.storage.polls import Claimed, Next, Polled

LEASE_MARGIN_S: Final = 30.0
AHEAD: Final = 2
"""Batches under way for each call that may be: while one is claimed or recorded, another is at the provider."""
WAIT_FOR_ACCOUNTS: Final = timedelta(days=1)
"""How long a finished product order is still asked for accounts that are missing."""
NOT_FOUND: Final = "not-found"
"""The `error` of an order that its provider does not know, or no more."""

FILL: Final = Histogram(
    "aggregator_status_batch_fill_ratio",
    "How full status calls were: orders asked for, of those that one call takes.",
    ["provider"],
    buckets=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1),
)


@dataclass(slots=True)
class Progress:
    """What one batch changed."""

    changed: int = 0
    finished: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class Poll:
    """One answer, and what its orders are measured by."""

    gateway: Gateway
    answered: Answered
    histories: Mapping[tuple[str, str], OfferHistory]
    traits: Mapping[str, Traits]
    now: datetime

    def report(self, order: Order) -> StatusReport | None:
        answer = self.answered.answer
        return answer.reports.get(order.provider_order or "") if isinstance(answer, StatusBatch) else None

    def not_found(self, order: Order) -> str | None:
        """What the provider said where it does not know the order."""
        answer = self.answered.answer
        if not isinstance(answer, StatusBatch):
            return None
        meaning, text = answer.errors.get(order.provider_order or "", (None, ""))
        return text if meaning is Meaning.UNKNOWN_ORDER else None

    def of(self, order: Order) -> Traits:
        return self.traits.get(order.provider_service or "", NO_TRAITS)

    def typical(self, order: Order) -> timedelta | None:
        """How long such orders take."""
        known = self.histories.get((order.provider or "", order.provider_service or ""))
        return timedelta(seconds=known.duration_s) if known is not None and known.duration_s is not None else None


def _pollers(gateway: Gateway) -> int:
    """One place of the provider's is kept for purchases."""
    return AHEAD * max(1, gateway.settings.max_concurrency - 1)


class Polling:
    name = "polling"

    def __init__(self, house: House) -> None:
        self._house = house
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._crews = Crews(house, self.name, _pollers, done=wake)
        self._batches: dict[str, Batch] | None = None

    async def run_once(self) -> int:
        await self._remember_batches()
        now = self._house.clock.now()
        begun = 0
        for gateway, workers in self._crews:
            if not (room := workers.free * gateway.status_batch):
                continue
            due = await self._house.database.read(partial(polls.due, provider=gateway.name, now=now, limit=room))
            for _ in range(-(-due // gateway.status_batch)):
                workers.start(self._poll(gateway))
                begun += 1
        return begun

    async def idle(self) -> None:
        await self._crews.idle()

    async def stop(self, grace_s: float) -> None:
        """Status calls cost nothing and are cut at once."""
        await self._crews.stop(0)

    # --- what a provider can do ---

    async def _remember_batches(self) -> None:
        """What an earlier run found out of each provider's batches, the first time."""
        if self._batches is not None:
            return
        self._batches = {}
        for name, row in (await self._house.database.read(catalogue.health)).items():
            gateway = self._house.gateways.get(name)
            if gateway is not None and row["batch_mode"] is not None:
                gateway.use_batch(Batch(BatchForm(row["batch_mode"]), row["batch_limit"]))
                self._batches[name] = gateway.batch

    async def _keep_batches(self, gateway: Gateway) -> None:
        """Store what was found out just now."""
        batch = gateway.batch
        if self._batches is None or batch.form is None or self._batches.get(gateway.name) == batch:
            return
        self._batches[gateway.name] = batch
        form, limit, now = str(batch.form), batch.limit, self._house.clock.now()
        await self._house.database.write(
            lambda c: catalogue.set_health(c, gateway.name, now, batch_mode=form, batch_limit=limit, batch_at=now)
        )

    # --- one call ---

    async def _poll(self, gateway: Gateway) -> None:
        now = self._house.clock.now()
        token = new_token()
        lease_s = gateway.timeout_s + LEASE_MARGIN_S
        claimed = await self._house.database.write(
            lambda c: polls.claim(c, gateway.name, now, limit=gateway.status_batch, lease_s=lease_s, token=token)
        )
        if not claimed:
            return
        # A row without an id, which nothing should make due, is put aside by `_due` and must not stop the others.
        ids = [one.provider_order for one in claimed if one.provider_order]
        numbers = [one.number for one in claimed]
        if not ids:
            nothing = Answered(StatusBatch())
            await self._house.database.write(lambda c: self._record(c, gateway, claimed, token, nothing))
            return
        async with gateway.turn(Priority.STATUS):
            waited = self._house.clock.now() - now
            stale = waited.total_seconds() > LEASE_MARGIN_S / 2
            if not stale:
                FILL.labels(gateway.name).observe(len(ids) / max(len(ids), gateway.status_batch))
            answer = None if stale else await gateway.statuses(ids)
        if answer is None:
            # Purchases went first for so long that the claim might not outlive the call.
            await self._house.database.write(lambda c: polls.give_back(c, numbers, token))
            return
        if len(ids) > 1 and (isinstance(answer, Failure) or len(answer.reports) + len(answer.errors) < len(ids)):
            # Finding out takes more calls than the lease was meant for.
            until = self._house.clock.now() + timedelta(seconds=MAX_CALLS * gateway.timeout_s + LEASE_MARGIN_S)
            await self._house.database.write(lambda c: polls.extend(c, numbers, token, until))
        if isinstance(answer, Failure) and answer.kind is FailureKind.NOT_FOUND and len(ids) == 1:
            answer = StatusBatch(errors={ids[0]: (Meaning.UNKNOWN_ORDER, answer.text)})
        answered = await learn(gateway, ids, answer)
        await self._house.health.note(gateway.name, answered.answer)
        await self._keep_batches(gateway)
        try:
            progress = await self._house.database.write(lambda c: self._record(c, gateway, claimed, token, answered))
        except (ClaimLost, StorageUnavailable):
            raise
        except Exception:
            log.exception("poll_not_recorded", provider=gateway.name, orders=len(ids))
            # One report that cannot be stored must not take the others with it, poll after poll.
            progress = await self._house.database.write(
                lambda c: self._record(c, gateway, claimed, token, answered, apart=True)
            )
        said = answered.answer
        if isinstance(said, Failure):
            log.info("poll_failed", provider=gateway.name, orders=len(ids), kind=str(said.kind), text=said.text)
        else:
            log.info("polled", provider=gateway.name, orders=len(ids), changed=progress.changed)
        if progress.events:
            self._house.wakeups.wake("sequencing", "refilling", "dripping", "remainders")

    def _record(
        self,
        connection: Connection,
        gateway: Gateway,
        claimed: Sequence[Claimed],
        token: str,
        answered: Answered,
        *,
        apart: bool = False,
    ) -> Progress:
        """Take every report and give every order its next poll; `apart`: reports that cannot be stored are left out."""
        progress = Progress()
        as_claimed = {one.number: one for one in claimed}
        found = polls.claimed(connection, list(as_claimed), token)
        services = sorted({(gateway.name, one.order.provider_service or "") for one in found})
        traits = catalogue.traits(connection, gateway.name, [service for _, service in services])
        poll = Poll(gateway, answered, history.load(connection, services), traits, self._house.clock.now())
        left = []
        for one in found:
            take = self._take_apart if apart else self._take
            order = take(connection, one, poll, progress)
            left.append(self._next(connection, poll, one, order, as_claimed[one.order.number]))
        polls.release(connection, token, left)
        return progress

    def _take_apart(self, connection: Connection, one: Polled, poll: Poll, progress: Progress) -> Order | None:
        """The same; None when it cannot be stored."""
        try:
            with connection.begin_nested():
                return self._take(connection, one, poll, progress)
        except Exception:
            log.exception("report_not_stored", order_id=one.order.id)
            return None

    def _take(self, connection: Connection, one: Polled, poll: Poll, progress: Progress) -> Order:
        """What the answer makes of one order."""
        order, now, report = one.order, poll.now, poll.report(one.order)
        if report is None:
            return self._unknown_there(connection, one, poll, progress)
        if report.state is None and report.word:
            note_unknown_word(connection, poll.gateway.name, order, report.word, now)
        known = replace(order, error_type=None, error_detail=None) if order.error_type == NOT_FOUND else order
        said = Reported(report.state, report.charge, report.start_count, report.remains, report.children)
        applied = apply(known, said, now)
        drafts = list(applied.events)
        if report.accounts:
            fresh, total = deliverables.add_new(connection, self._house.sealer, order.number, report.accounts, now)
            if fresh:
                # The delivery is told before the end that it leads to.
                drafts.insert(0, Draft("order.delivery", {"delivered": fresh, "total": total}))
        traits = poll.of(order)
        after = applied.order
        told = after.state is OrderState.COMPLETED and after.remains
        remained = refills.remained(connection, order.number) if told else 0
        due = dropped(self._house, order, after, traits, drafts, now, remained=remained)
        due |= rest_due(self._house, order, applied.order, now)
        if applied.order.state is OrderState.COMPLETED and order.state is not OrderState.COMPLETED:
            due["next_count_at"] = next_count(self._house, applied.order, traits, now)
        if applied.order == order and not drafts and not due:
            return self._stuck(connection, one, poll, progress)
        saved = order_store.save(connection, order, applied.order, drafts, now, **due)
        if saved.charge is not None and saved.charge != order.charge and saved.provider is not None:
            note = None if saved.state in REFUNDED else ledger.PRICE_TOLD
            ledger.book_charge(connection, saved.provider, saved.number, saved.charge, now, note=note)
            learn_from_charge(connection, self._house, saved, saved.charge, now)
        progress.changed += 1
        progress.events += len(drafts)
        if saved.state in FINAL and saved.state is not order.state:
            progress.finished += order.state not in FINAL
            _note_end(connection, one, order, saved, now)
        return saved

    @staticmethod
    def _unknown_there(connection: Connection, one: Polled, poll: Poll, progress: Progress) -> Order:
        """No report: right after the purchase that means "not yet visible"; later it is shown as such, and no more."""
        order, text = one.order, poll.not_found(one.order)
        if text is None or order.state in FINAL or poll.now - one.placed_at < NOT_YET_VISIBLE:
            return Polling._stuck(connection, one, poll, progress)
        if order.error_type is None:
            detail = f"{poll.gateway.name} does not know {order.provider_order}: {text}"
            unknown = replace(order, error_type=NOT_FOUND, error_detail=detail)
            log.warning("order_not_found", order_id=order.id, provider=poll.gateway.name, text=text)
            order = order_store.save(connection, order, unknown, (), poll.now)
        return Polling._stuck(connection, replace(one, order=order), poll, progress)

    @staticmethod
    def _stuck(connection: Connection, one: Polled, poll: Poll, progress: Progress) -> Order:
        """Nothing new: an order that stands still for too long is told once, until something changes again."""
        order = one.order
        if not _stands_still(one, order, poll) or one.stuck_at is not None:
            return order
        progress.events += 1
        still_s = int((poll.now - order.updated_at).total_seconds())
        log.warning("order_stuck", order_id=order.id, provider=poll.gateway.name, unchanged_s=still_s)
        return order_store.save(connection, order, order, (Draft("order.stuck", {"unchanged_s": still_s}),), poll.now)

    # --- when again ---

    def _next(self, connection: Connection, poll: Poll, one: Polled, taken: Order | None, claimed: Claimed) -> Next:
        order = taken or one.order
        unchanged = order.updated_at == one.order.updated_at
        alone = one.alone_since
        if order.provider_order in poll.answered.spoilers and poll.gateway.batches:
            alone = alone or poll.now
        elif poll.report(order) is not None:
            alone = None
        stuck = one.stuck_at or (poll.now if _stands_still(one, order, poll) else None)
        return Next(
            number=order.number,
            was_due_at=claimed.due_at,
            # That it does not know the order (any more) says nothing of a refund; nor does what could not be stored.
            answered_to=claimed.asked_at if taken is not None and poll.report(order) is not None else None,
            due_at=self._due(connection, poll, one, order, alone=alone is not None),
            alone_since=alone,
            stuck_at=stuck if unchanged and order.state not in FINAL else None,
        )

    def _due(self, connection: Connection, poll: Poll, one: Polled, order: Order, *, alone: bool) -> datetime | None:
        bounds, now = poll.gateway.settings.status_every_s, poll.now
        if not order.provider_order:
            log.error("order_without_id_was_due", order_id=order.id, provider=poll.gateway.name)
            return None
        if order.state not in FINAL:
            soon = now + poll_interval(now - one.placed_at, poll.typical(order), bounds.min, bounds.max)
            return now + timedelta(seconds=bounds.max) if alone else soon
        if order.finished_at is None:
            return None
        over = now - order.finished_at
        if order.kind == "product" and order.state in (OrderState.COMPLETED, OrderState.PARTIAL):
            missing = deliverables.count(connection, order.number) < order.quantity
            if missing and over < WAIT_FOR_ACCOUNTS:
                return now + poll_interval(over, None, bounds.min, bounds.max)
        policy = refill_policy(self._house.settings.services.get(order.service), poll.of(order).name)
        refilled = policy is not None and policy.auto and poll.gateway.capabilities.refill
        check_every = policy.check_every if policy and refilled and order.state is OrderState.COMPLETED else None
        wait = reread_interval(over, check_every)
        if poll.report(order) is None and poll.not_found(order) is None:  # that look did not count
            wait = min(wait, poll_interval(over, None, bounds.min, bounds.max))
        again, last = now + wait, order.finished_at + guarantee(policy)
        if again > last and now < last - SOONEST_REREAD:
            return last
        return again if again <= last else None


def _stands_still(one: Polled, order: Order, poll: Poll) -> bool:
    if order.state in FINAL or order.updated_at != one.order.updated_at:
        return False
    by_hand = poll.of(order).by_hand
    # Between two runs nothing changes.
    patience = stuck_after(poll.typical(order), by_hand=by_hand) + interval_of(order.params)
    return poll.now - order.updated_at >= patience


def _note_end(connection: Connection, one: Polled, before: Order, after: Order, now: datetime) -> None:
    """Count an end in the offer's history, or what a provider's correction makes of it."""
    assert after.provider is not None
    assert after.provider_service is not None
    if before.state in FINAL:
        history.correct_end(
            connection,
            after.provider,
            after.provider_service,
            before=before.state,
            after=after.state,
            delivered_before=_delivered(before),
            delivered=_delivered(after),
            at=now,
        )
        return
    history.note_end(
        connection,
        after.provider,
        after.provider_service,
        state=after.state,
        ordered=after.quantity,
        delivered=_delivered(after),
        duration=now - one.placed_at,
        at=now,
    )


def _delivered(order: Order) -> int:
    """Pieces that an end stands for. `remains` of a completed order are drops, not pieces that never came."""
    if order.state is OrderState.COMPLETED:
        return order.quantity
    if order.state is OrderState.PARTIAL and order.remains is not None:
        return max(0, order.quantity - order.remains)
    return 0
