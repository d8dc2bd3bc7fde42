"""Accepted orders find their offer: the cheapest that has it in stock, with the reason of every candidate stored.

Output: a planned attempt. Never sends a purchase; asks for stock at most, where the dialect can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

from aggregator.config import ServiceSettings
from aggregator.domain.ids import AttemptId, new_id
from aggregator.domain.orders import Ended, Order, OrderState, apply
from aggregator.domain.pauses import pause_after
from aggregator.domain.routing import Candidate, OfferView, Ranking, choose
from aggregator.flow.base import House, Workers, log
from aggregator.flow.promises import Promises
from aggregator.flow.views import World, load_world, offer_views, wanted
from aggregator.providers.contract import Failure
from aggregator.providers.limits import Priority
from aggregator.storage import attempts, catalogue, children, claims
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.storage.orders import Unrouted

BATCH: Final = 200
FEW: Final = 20
"""Orders claimed at once while callers crowd at the doors: a second's turns. The next ones when these are done."""
AT_ONCE: Final = 4
WRITES: Final = 16
"""Decisions written at once: enough to share a commit, and few enough that a caller's order need not wait for many."""
LEASE_S: Final = 30.0
"""Short, because orders whose routing failed with the database wait for its end."""
PLAN_GOOD_FOR_S: Final = 600.0
"""A plan that was not carried out by then is made anew: prices and stock have moved on."""
FRESH_STOCK: Final = timedelta(seconds=2)
SYNC_WAIT_S: Final = 0.25
_NOT_AGAIN: Final = "it did not finish the order whose rest this is"
T = TypeVar("T")
Tried = Mapping[tuple[str, str, str], str]


class Routing:
    name = "routing"

    def __init__(self, house: House) -> None:
        self._house = house
        self._workers = Workers(self.name, AT_ONCE, done=lambda: house.wakeups.wake(self.name))
        self._stock_locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._promises = Promises()
        self._began = house.clock.monotonic()
        self._new_at: dict[str, float] = {}
        """Since when a provider is there that came after the start."""
        self._synced: set[str] = set()
        self._writing = asyncio.Semaphore(WRITES)

    def expect(self, providers: Iterable[str]) -> None:
        """These have come just now: orders wait for their first sync, as after a start."""
        for provider in providers:
            self._synced.discard(provider)
            self._new_at[provider] = self._house.clock.monotonic()

    def sync_ended(self, provider: str) -> None:
        """The provider's first catalogue sync since it is there is over, whatever came of it."""
        if provider not in self._synced:
            self._synced.add(provider)
            self._house.wakeups.wake(self.name)

    async def run_once(self) -> int:
        if not self._workers.free:
            return 0
        limit = BATCH
        if self._house.callers.crowded:
            limit = FEW
            if self._workers.free < AT_ONCE:
                return 0
        now = self._house.clock.now()
        token = claims.new_token()
        claimed = await self._house.database.write(
            lambda c: order_store.claim_unrouted(c, now, limit=limit, lease_s=LEASE_S, token=token)
        )
        if claimed:
            self._workers.start(self._route(claimed, token))
        return len(claimed)

    async def idle(self) -> None:
        await self._workers.idle()

    async def stop(self, grace_s: float) -> None:
        await self._workers.stop(0)

    async def _route(self, claimed: list[Unrouted], token: str) -> None:
        services = self._house.settings.services
        known = [services[entry.order.service] for entry in claimed if entry.order.service in services]

        def load(connection: Connection) -> tuple[World, dict[int, Tried]]:
            tried: dict[int, Tried] = {
                entry.order.number: {
                    **attempts.tried_in_round(connection, entry.order.number, entry.round),
                    **dict.fromkeys(children.bought_before(connection, entry.order), _NOT_AGAIN),
                }
                for entry in claimed
            }
            return load_world(connection, known), tried

        with self._promises.era() as era:
            world, tried = await self._house.database.read(load)
            results = await asyncio.gather(
                *(self._route_one(entry, world, era, tried[entry.order.number], token) for entry in claimed),
                return_exceptions=True,
            )
        for entry, result in zip(claimed, results, strict=True):
            if isinstance(result, BaseException):
                log.warning("routing_failed", order_id=entry.order.id, reason=repr(result))

    async def _route_one(self, entry: Unrouted, world: World, era: int, tried: Tried, token: str) -> None:
        service = self._house.settings.services.get(entry.order.service)
        if service is None:
            await self._nobody(entry, Ranking(()), token, "the service is no longer in the config")
            return
        if self._must_wait({offer.provider for offer in service.offers}):
            await self._later(entry, token)
            return
        offers = offer_views(self._house, service, world, tried, entry.order.params)
        checked: set[int] = set()
        while True:
            ranking = self._rank(entry.order, service, self._promises.kept_from(offers, era))
            best = ranking.best
            # With nobody left, those that are only said to be sold out: what is known of them may be old.
            asked = [
                place
                for place, offer in enumerate(offers)
                if place not in checked
                and (offer.order == best.offer.order if best else _sold_out(offer, entry.order.quantity))
            ]
            if not asked:
                break
            for place in asked:
                offers[place] = await self._checked_stock(offers[place])
            checked.update(asked)
        # Nothing was awaited since the ranking: whoever decides next knows of this one.
        if best is None:
            await self._nobody(entry, ranking, token, ranking.why())
            return
        with self._promises.made(best) as promise:
            promise.holds = await self._plan(entry, ranking, best, token)
        if not promise.holds:
            self._house.wakeups.wake(self.name)

    def _rank(self, order: Order, service: ServiceSettings, offers: list[OfferView]) -> Ranking:
        settings = self._house.settings
        return choose(
            wanted(order, service), offers, currency=settings.currency, exchange_rates=settings.exchange_rates
        )

    def _must_wait(self, providers: set[str]) -> bool:
        """contract.md §1: the first catalogue sync of every offer's provider, at most its `timeout_s`."""
        now, gateways = self._house.clock.monotonic(), self._house.gateways
        return any(
            name not in self._synced and now - self._new_at.get(name, self._began) < gateways[name].timeout_s
            for name in providers
            if name in gateways and gateways[name].settings.enabled
        )

    async def _checked_stock(self, offer: OfferView) -> OfferView:
        """The offer with its stock asked just now, where the dialect can tell; a failure keeps what was known."""
        gateway = self._house.gateways.get(offer.provider.name)
        if gateway is None or offer.row is None or not offer.row.has_stock or not gateway.capabilities.inventory:
            return offer
        key = (offer.provider.name, offer.service)
        async with self._stock_locks.setdefault(key, asyncio.Lock()):
            stock, at = await self._house.database.read(lambda c: catalogue.stock_of(c, *key))
            if at is None or self._house.clock.now() - at > FRESH_STOCK:
                async with gateway.turn(Priority.PURCHASE):
                    answer = await gateway.inventory(offer.service)
                await self._house.health.note(offer.provider.name, answer)
                if isinstance(answer, Failure):
                    return offer
                stock = 0 if answer.available is False else answer.stock
                now = self._house.clock.now()
                await self._house.database.write(lambda c: catalogue.set_stock(c, *key, stock, now))
        return replace(offer, row=replace(offer.row, stock=stock)) if stock != offer.row.stock else offer

    async def _later(self, entry: Unrouted, token: str) -> None:
        again = self._house.clock.now() + timedelta(seconds=SYNC_WAIT_S)
        await self._house.database.write(
            lambda c: order_store.release_unrouted(c, entry.order.number, token, next_route_at=again)
        )

    async def _plan(self, entry: Unrouted, ranking: Ranking, best: Candidate, token: str) -> bool:
        """False when others took what was in stock meanwhile; the order looks for an offer again."""
        now = self._house.clock.now()
        attempt = AttemptId(new_id("att", now))
        expected, cost = best.expected, best.cost
        assert expected is not None, "an eligible candidate has a price"
        assert cost is not None, "an eligible candidate has a price"

        def write(connection: Connection) -> bool:
            row, provider = best.offer.row, best.offer.provider.name
            if row is not None and row.stock is not None:
                # What is planned is spoken for, until the provider is asked again.
                left = catalogue.reserve_stock(connection, provider, best.offer.service, entry.order.quantity)
                if not left:
                    order_store.release_unrouted(connection, entry.order.number, token, next_route_at=now)
                    return False
            order_store.release_unrouted(
                connection, entry.order.number, token, next_route_at=now + timedelta(seconds=PLAN_GOOD_FOR_S)
            )
            attempts.drop_plan(connection, entry.order.number, now)
            attempts.plan(
                connection,
                attempt,
                entry.order.number,
                round_=entry.round,
                provider=provider,
                service=best.offer.service,
                country=best.offer.country,
                expected=expected,
                cost=cost,
                rate=row.rate if row is not None else None,
                candidates=ranking.as_json(),
                at=now,
            )
            return True

        planned = await self._write(write)
        if planned:
            self._house.wakeups.wake("placement")
        return planned

    async def _write(self, work: Callable[[Connection], T]) -> T:
        async with self._writing:
            await self._house.callers.make_room()
            return await self._house.database.write(work)

    async def _nobody(self, entry: Unrouted, ranking: Ranking, token: str, why: str) -> None:
        """Nobody can take the order now: another round later, or the end when its time is over."""
        now = self._house.clock.now()
        over = now >= entry.give_up_at
        note = AttemptId(new_id("att", now))

        def write(connection: Connection) -> None:
            order = order_store.load_for_update(connection, entry.order.number)
            order_store.release_unrouted(
                connection,
                order.number,
                token,
                next_route_at=_next_round(now, entry),
                round=entry.round + 1,
            )
            attempts.drop_plan(connection, order.number, now)
            attempts.note_no_offer(
                connection, note, order.number, round_=entry.round, candidates=ranking.as_json(), at=now
            )
            if over:
                applied = apply(order, Ended(OrderState.FAILED, "no-offer", f"nobody took it in time: {why}"), now)
            else:
                waiting = replace(order, error_type="waiting", error_detail=why[:2000])
                if waiting == order:
                    return
                order_store.save(connection, order, waiting, (), now)
                return
            order_store.save(connection, order, applied.order, applied.events, now, next_route_at=None)

        await self._write(write)
        # Told once for each reason, not for each round of each waiting order.
        say = log.info if over or entry.order.error_detail != why[:2000] else log.debug
        say("order_has_no_offer", order_id=entry.order.id, round=entry.round, failed=over, why=why)
        if over:
            self._house.wakeups.wake("sequencing")


def _sold_out(offer: OfferView, quantity: int) -> bool:
    """Whether nothing but its stock may stand in the way of an offer."""
    provider, row = offer.provider, offer.row
    ready = provider.enabled and not provider.paused and provider.down_reason is None and offer.tried is None
    return ready and row is not None and row.has_stock and row.stock is not None and row.stock < quantity


def _next_round(now: datetime, entry: Unrouted) -> datetime:
    """After the pause, or at the deadline, so that giving up is not late."""
    again = now + pause_after(entry.round)
    return min(again, entry.give_up_at) if now < entry.give_up_at else again
