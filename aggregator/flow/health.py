"""Which providers are up: what calls tell of them, kept in the database and mirrored in memory.

Every stage reports its calls here; a breaker opens and closes with `provider.down` and `provider.up`, and what it
knows survives a restart. It never decides about an order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aggregator.domain import breaker
from aggregator.domain.breaker import CLOSED, Breaker
from aggregator.domain.clock import Clock
from aggregator.domain.events import Draft
from aggregator.log import get_logger
from aggregator.providers.contract import Failure, FailureKind
from aggregator.storage import attempts, catalogue, outbox
from aggregator.storage.database import Connection, Database

log = get_logger()

_COUNTED = frozenset({FailureKind.AUTH, FailureKind.LOST, FailureKind.NOT_SENT, FailureKind.UNREADABLE})
"""Failures that speak of the provider; an error text about one order does not."""


class Health:
    """The breakers of all providers."""

    def __init__(self, database: Database, clock: Clock, providers: Iterable[str]) -> None:
        self._database = database
        self._clock = clock
        self._breakers: dict[str, Breaker] = dict.fromkeys(providers, CLOSED)
        self._doors: dict[str, asyncio.Lock] = {}
        self._bad_purchases: set[str] = set()
        """Providers whose purchases fail. That they answer questions does not make them fit to buy from."""

    async def load(self) -> None:
        """Take over what an earlier run knew."""
        rows = await self._database.read(catalogue.health)
        failing = [name for name, row in rows.items() if row["failures"]]
        self._bad_purchases |= await self._database.read(lambda c: attempts.last_purchase_failed(c, failing))
        for name in self._breakers:
            if (row := rows.get(name)) is not None:
                self._breakers[name] = Breaker(
                    row["failures"], row["down_since"], row["down_reason"], row["open_until"]
                )

    def down_reason(self, provider: str) -> str | None:
        """Why nothing is bought there now, or None."""
        known = self._breakers.get(provider, CLOSED)
        return known.reason or "too many failures" if known.is_open(self._clock.now()) else None

    def on_trial(self, provider: str) -> bool:
        """Whether the provider was down and its pause is over: one call decides."""
        known = self._breakers.get(provider, CLOSED)
        return known.on_trial(self._clock.now())

    async def answered(self, provider: str, *, purchase: bool = False) -> None:
        """The provider answered sensibly: a question, or a purchase."""
        if purchase:
            self._bad_purchases.discard(provider)
        if provider not in self._bad_purchases and self._breakers.get(provider, CLOSED) != CLOSED:
            await self._change(provider, lambda _: CLOSED)

    async def failed(self, provider: str, reason: str, *, fatal: bool = False, purchase: bool = False) -> None:
        """The provider did not answer, or not as one that works."""
        if purchase:
            self._bad_purchases.add(provider)
        now = self._clock.now()
        await self._change(provider, lambda before: breaker.failed(before, reason, now, fatal=fatal))

    async def _change(self, provider: str, change: Callable[[Breaker], Breaker]) -> None:
        """One change after another, so that the events are told in their order, and remembered once it is durable: a
        change that was not written is made, and told, by the next call."""
        async with self._doors.setdefault(provider, asyncio.Lock()):
            before = self._breakers.get(provider, CLOSED)
            after = change(before)
            if after != before:
                await self._save(provider, before, after)
                self._breakers[provider] = after

    async def note(self, provider: str, result: object) -> None:
        """Take the result of a question: a Failure that speaks of the provider, or an answer."""
        if not isinstance(result, Failure):
            await self.answered(provider)
        elif result.kind in _COUNTED:
            await self.failed(provider, result.text or str(result.kind), fatal=result.kind is FailureKind.AUTH)

    async def _save(self, provider: str, before: Breaker, after: Breaker) -> None:
        now = self._clock.now()
        went_down = after.down_since is not None and before.down_since is None
        came_up = before.down_since is not None and after.down_since is None

        def write(connection: Connection) -> None:
            catalogue.set_health(
                connection,
                provider,
                now,
                failures=after.failures,
                down_since=after.down_since,
                down_reason=after.reason,
                open_until=after.open_until,
            )
            if went_down:
                data = {"provider": provider, "reason": after.reason}
                outbox.append_general(connection, Draft("provider.down", data), now)
            if came_up:
                outbox.append_general(connection, Draft("provider.up", {"provider": provider}), now)

        await self._database.write(write)
        if went_down:
            log.warning("provider_down", provider=provider, reason=after.reason)
        if came_up:
            log.info("provider_up", provider=provider)
