"""Planned attempts are bought: the intent is committed first, then one send, then what came of it is committed.

Decides what each of the four ends of a purchase makes of its order. Never sends an attempt twice: an attempt leaves
`planned` exactly once, and whatever nobody knows is left to reconciliation. A plan at a provider that went down, was
paused or asked for quiet since is taken back: routing finds another offer.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Final

from aggregator.domain.catalogue import ServiceType, service_type
from aggregator.domain.errors import ClaimLost, StorageUnavailable
from aggregator.domain.evidence import settle_time
from aggregator.domain.orders import (
    Order,
    PurchaseStarted,
    apply,
)
from aggregator.domain.wire import NotSent
from aggregator.flow import ends
from aggregator.flow.base import STORAGE_RETRY_S, Crews, House, Workers, log
from aggregator.flow.purchases import detail, send, write_result
from aggregator.flow.readings import take_reading
from aggregator.flow.views import LONG_QUIET_S, is_offered
from aggregator.providers.contract import (
    Consequence,
    Meaning,
    PurchaseResult,
    Refused,
    Unclear,
)
from aggregator.providers.gateway import Exchange, Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import attempts, books, catalogue, claims
from aggregator.storage import orders as order_store
from aggregator.storage.attempts import Attempt
from aggregator.storage.database import Connection

LEASE_MARGIN_S: Final = 60.0
FIRST_CODE_CHECK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Started:
    """A purchase whose intent is durable."""

    attempt: Attempt
    order: Order
    type: ServiceType


class Placement:
    name = "placement"

    def __init__(self, house: House) -> None:
        self._house = house
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._crews = Crews(house, self.name, lambda gateway: gateway.settings.max_concurrency, done=wake)
        ends.expect(house.gateways)
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run_once(self) -> int:
        begun = 0
        waiting = await self._house.database.read(attempts.planned)
        for provider, count in sorted(waiting.items()):
            crew = self._crews.at(provider)
            if crew is None or self._unusable(crew[0]):
                begun += await self._take_back(provider)
                continue
            gateway, workers = crew
            for _ in range(min(count, workers.free)):
                workers.start(self._buy(gateway, workers))
                begun += 1
        return begun

    async def idle(self) -> None:
        await self._crews.idle()

    async def stop(self, grace_s: float) -> None:
        """Purchases in flight get their timeout: cutting one would make nobody know."""
        await self._crews.stop(grace_s)

    async def _buy(self, gateway: Gateway, workers: Workers) -> None:
        """Buy planned attempts one after another until none is left."""
        more = True
        while more and self._goes_on(gateway, workers):
            if not await self._careful(gateway):
                more = await self._buy_one(gateway, workers, careful=False)
                continue
            async with self._one_at_a_time[gateway.name]:
                if gateway.name not in await self._house.database.read(attempts.planned):
                    return  # others bought what there was while this one waited
                # A reading between two purchases keeps apart what each of them debited.
                if await self._window_open(gateway):
                    await take_reading(self._house, gateway, Priority.PURCHASE)
                more = await self._buy_one(gateway, workers, careful=True)

    def _goes_on(self, gateway: Gateway, workers: Workers) -> bool:
        """False at a stop, and when another config has another account under this name, or none."""
        return not workers.stopping and self._house.gateways.get(gateway.name) is gateway

    async def _buy_one(self, gateway: Gateway, workers: Workers, *, careful: bool) -> bool:
        """Buy the oldest planned attempt; whether there is more to do."""
        async with gateway.turn(Priority.PURCHASE):
            if not self._goes_on(gateway, workers):
                self._house.wakeups.wake(self.name)
                return False
            if not careful and await self._careful(gateway):
                return True  # something became unclear while this one waited for its turn
            started = await self._start(gateway)
            if started is None:
                self._house.wakeups.wake("routing")
                return False
            result, exchange = await send(gateway, started.order, started.attempt, started.type)
        await self._record(gateway, started, result, exchange)
        # A turn costs a place and a part of the rate, so none is taken for nothing.
        return gateway.name in await self._house.database.read(attempts.planned)

    async def _careful(self, gateway: Gateway) -> bool:
        """Whether purchases go one at a time: to keep evidence sharp, or to try a provider that was down."""
        return self._house.health.on_trial(gateway.name) or await self._window_open(gateway)

    async def _window_open(self, gateway: Gateway) -> bool:
        settle = settle_time(gateway.settings.settle_s, gateway.timeout_s)
        since = self._house.clock.now() - settle
        return await self._house.database.read(lambda c: books.window_open(c, gateway.name, since))

    def _unusable(self, gateway: Gateway) -> bool:
        """Whether plans at a provider cannot be carried out soon."""
        return self._house.health.down_reason(gateway.name) is not None or gateway.quiet_s > LONG_QUIET_S

    async def _take_back(self, provider: str) -> int:
        """Plans at a provider that cannot be bought from now: their orders look for another offer."""
        now = self._house.clock.now()
        taken = await self._house.database.write(lambda c: attempts.take_back(c, provider, now))
        if taken:
            log.info("plans_taken_back", provider=provider, orders=taken)
            self._house.wakeups.wake("routing")
        return taken

    async def _start(self, gateway: Gateway) -> Started | None:
        """Claim the oldest plan and commit the intent, in one transaction."""
        now = self._house.clock.now()
        token = claims.new_token()
        lease_s = gateway.timeout_s + LEASE_MARGIN_S
        unusable = self._unusable(gateway)

        def write(connection: Connection) -> Started | None:
            known = catalogue.health(connection).get(gateway.name)
            if unusable or (known is not None and known["paused"]):
                attempts.take_back(connection, gateway.name, now)
                return None
            attempt = attempts.claim_planned(connection, gateway.name, now, lease_s=lease_s, token=token)
            if attempt is None:
                return None
            order = order_store.load_for_update(connection, attempt.order_number)
            kind_type = service_type(order.kind, catalogue.type_of(connection, gateway.name, attempt.service))
            offered = is_offered(self._house.settings, order, gateway.name, attempt.service)
            if kind_type is None or not offered or order_store.plan_is_stale(connection, order.number, now):
                # The catalogue or the config changed under the plan, or nobody carried it out while it was good.
                attempts.drop_plan(connection, order.number, now)
                order_store.reroute(connection, [order.number], now)
                return None
            attempts.start(connection, attempt.id, token, now)
            fact = PurchaseStarted(attempt.id, gateway.name, attempt.service, attempt.expected)
            applied = apply(order, fact, now)
            saved = order_store.save(
                connection, order, applied.order, applied.events, now, next_route_at=None, claim_token=None
            )
            return Started(attempt, saved, kind_type)

        return await self._house.database.write(write)

    async def _record(
        self, gateway: Gateway, started: Started, result: PurchaseResult | NotSent, exchange: Exchange
    ) -> None:
        """Commit what came of it, however long the database takes to be there again."""
        while True:
            try:
                end = await self._house.database.write(
                    partial(
                        write_result,
                        house=self._house,
                        gateway=gateway,
                        attempt=started.attempt,
                        result=result,
                        exchange=exchange,
                    )
                )
                break
            except StorageUnavailable as exc:
                log.error("purchase_not_recorded_yet", attempt_id=started.attempt.id, reason=str(exc))
                await asyncio.sleep(STORAGE_RETRY_S)
            except ClaimLost:
                log.error("purchase_result_came_too_late", attempt_id=started.attempt.id, detail=detail(result))
                return
            except Exception:
                if isinstance(result, Unclear):
                    raise
                # What it said must not be lost with it: the person who looks at the order will want the id.
                log.exception("purchase_result_not_stored", attempt_id=started.attempt.id, detail=detail(result))
                result = Unclear("not_stored", f"the answer could not be stored: {detail(result)}")
        log.info(
            "purchase_ended",
            order_id=started.order.id,
            attempt_id=started.attempt.id,
            provider=gateway.name,
            result=type(result).__name__.lower(),
            state=str(end.state),
            detail=detail(result),
            ms=exchange.ms,
        )
        ends.ended(gateway.name, result, end)
        self._house.wakeups.wake("sequencing", "routing", "sms_watch")
        await self._note_health(gateway.name, result)

    async def _note_health(self, provider: str, result: PurchaseResult | NotSent) -> None:
        match result:
            case NotSent(reason):
                # It could not be reached, with whatever: a question that it answers says that it can.
                await self._house.health.failed(provider, reason)
            case Refused(meaning=Meaning.AUTH):
                await self._house.health.failed(provider, result.text, fatal=True)
            case Refused(consequence=Consequence.PROVIDER_DOWN):
                # By the operator's own words; that it answers questions says nothing against them.
                await self._house.health.failed(provider, result.text, fatal=True, purchase=True)
            case Unclear(reason=reason):
                await self._house.health.failed(provider, reason, purchase=True)
            case _:
                await self._house.health.answered(provider, purchase=True)
