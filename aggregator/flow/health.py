"""Which providers are up: what calls tell of them, kept in the database and mirrored in memory.

Every stage reports its calls here; a breaker opens and closes with `provider.down` and `provider.up`, and what it
knows survives a restart. It never decides about an order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from aggregator.domain import breaker
from aggregator.domain.breaker import CLOSED, Breaker
from aggregator.domain.clock import Clock
from aggregator.domain.events import Draft
from aggregator.log import get_logger
from aggregator.providers.contract import Failure, FailureKind
from aggregator.storage import attempts, catalogue, outbox
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, Database, RowMapping

log = get_logger()

_COUNTED = frozenset({FailureKind.AUTH, FailureKind.LOST, FailureKind.NOT_SENT, FailureKind.UNREADABLE})
"""Failures that speak of the provider; an error text about one order does not."""


class Condition(StrEnum):
    """How a provider stands, as a person would say it."""

    UP = "up"
    FAILING = "failing"
    """Its newest calls failed; a few more of them, and it is down."""
    DOWN = "down"
    """Nothing is bought there until a call succeeds."""
    NEVER_ANSWERED = "never_answered"
    """No call has ever succeeded: most likely its place in the config is wrong."""
    PAUSED = "paused"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Standing:
    """A provider's condition. `up`: it answers, paused or not; `reason` and the stable `cause` are None when nothing is
    wrong."""

    condition: Condition
    up: bool
    reason: str | None = None
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class _Trouble:
    """The newest call that failed, until one succeeds."""

    cause: str
    reason: str


class Health:
    """The breakers of all providers, and what is wrong with each."""

    def __init__(self, database: Database, clock: Clock, providers: Iterable[str]) -> None:
        self._database = database
        self._clock = clock
        self._breakers: dict[str, Breaker] = dict.fromkeys(providers, CLOSED)
        self._doors: dict[str, asyncio.Lock] = {}
        self._bad_purchases: set[str] = set()
        """Providers whose purchases fail. That they answer questions does not make them fit to buy from."""
        self._answered: set[str] = set()
        self._doubtful: set[str] = set()
        """Providers whose last change may have been written or not: only the row knows."""
        self._troubles: dict[str, _Trouble] = {}

    async def load(self) -> None:
        """Take over what an earlier run knew."""
        await self._load(list(self._breakers))

    async def add(self, providers: Iterable[str]) -> None:
        """Providers have come; what was known of them before they were gone counts again."""
        await self._load([name for name in providers if name not in self._breakers])

    async def _load(self, names: Sequence[str]) -> None:
        rows = await self._database.read(catalogue.health)
        failing = [name for name in names if name in rows and rows[name]["failures"]]
        self._bad_purchases |= await self._database.read(lambda c: attempts.last_purchase_failed(c, failing))
        for name in names:
            if (row := rows.get(name)) is not None:
                self._breakers[name] = _stored(row)

    def down_reason(self, provider: str) -> str | None:
        """Why nothing is bought there now, or None."""
        known = self._breakers.get(provider, CLOSED)
        return known.reason or "too many failures" if known.is_open(self._clock.now()) else None

    def on_trial(self, provider: str) -> bool:
        """Whether the provider was down and its pause is over: one call decides."""
        known = self._breakers.get(provider, CLOSED)
        return known.on_trial(self._clock.now())

    def standing(self, provider: str, row: RowMapping | None, *, enabled: bool) -> Standing:
        """How a provider stands; `row` is what the database knows of it."""
        if not enabled:
            return Standing(Condition.DISABLED, False, "it is not enabled in the config")
        known = self._breakers.get(provider, CLOSED)
        trouble = self._troubles.get(provider)
        answered = row is not None and (row["catalogue_at"] is not None or row["balance_at"] is not None)
        if known.down_since is not None or known.is_open(self._clock.now()):
            condition = Condition.DOWN
        elif not answered and provider not in self._answered:
            condition = Condition.NEVER_ANSWERED
        else:
            condition = Condition.FAILING if known.failures else Condition.UP
        up = condition is Condition.UP
        refused = row["catalogue_error"] if row is not None else None
        reason, cause = known.reason, None
        if trouble is not None:
            reason, cause = trouble.reason, trouble.cause
        elif refused is not None:
            reason, cause = reason or refused, "catalogue_refused"
        elif reason is None and not up:
            reason = "no call has succeeded yet" if condition is Condition.NEVER_ANSWERED else "its newest call failed"
        if row is not None and row["paused"]:
            condition, reason = Condition.PAUSED, "paused by an operator" + (f"; {reason}" if reason else "")
        return Standing(condition, up, reason, cause)

    async def answered(self, provider: str, *, purchase: bool = False) -> None:
        """The provider answered sensibly: a question, or a purchase."""
        self._answered.add(provider)
        if purchase:
            self._bad_purchases.discard(provider)
        if provider in self._bad_purchases:
            return
        self._troubles.pop(provider, None)
        if provider in self._doubtful or self._breakers.get(provider, CLOSED) != CLOSED:
            await self._change(provider, lambda _: CLOSED)

    async def failed(
        self, provider: str, reason: str, *, fatal: bool = False, purchase: bool = False, cause: str = "purchase"
    ) -> None:
        """The provider did not answer, or not as one that works."""
        if purchase:
            self._bad_purchases.add(provider)
        self._troubles[provider] = _Trouble(cause, reason)
        now = self._clock.now()
        await self._change(provider, lambda before: breaker.failed(before, reason, now, fatal=fatal))

    async def _change(self, provider: str, change: Callable[[Breaker], Breaker]) -> None:
        """One change after another, so that the events are told in their order, and remembered once it is durable.

        After one of which nobody heard whether it was written the next begins with what the row says.
        """
        async with self._doors.setdefault(provider, asyncio.Lock()):
            if provider in self._doubtful:
                row = (await self._database.read(catalogue.health)).get(provider)
                if row is not None:
                    self._breakers[provider] = _stored(row)
                self._doubtful.discard(provider)
            before = self._breakers.get(provider, CLOSED)
            after = change(before)
            if after != before:
                self._doubtful.add(provider)
                await self._save(provider, before, after)
                self._doubtful.discard(provider)
                self._breakers[provider] = after

    async def note(self, provider: str, result: object) -> None:
        """Take the result of a question: a Failure that speaks of the provider, or an answer."""
        if not isinstance(result, Failure):
            await self.answered(provider)
        elif result.kind in _COUNTED:
            cause = result.cause or str(result.kind)
            fatal = result.kind is FailureKind.AUTH
            await self.failed(provider, result.text or str(result.kind), fatal=fatal, cause=cause)

    async def _save(self, provider: str, before: Breaker, after: Breaker) -> None:
        now = self._clock.now()
        went_down = after.down_since is not None and before.down_since is None
        came_up = before.down_since is not None and after.down_since is None

        def write(connection: Connection) -> None:
            # A COMMIT whose answer was lost may have told it: the row knows.
            known = catalogue.health(connection).get(provider)
            told = known is not None and (known["down_since"] is None) == (after.down_since is None)
            catalogue.set_health(
                connection,
                provider,
                now,
                failures=after.failures,
                down_since=after.down_since,
                down_reason=after.reason,
                open_until=after.open_until,
            )
            if went_down and not told:
                data = {"provider": provider, "reason": after.reason}
                outbox.append_general(connection, Draft("provider.down", data), now)
            if came_up and not told:
                outbox.append_general(connection, Draft("provider.up", {"provider": provider}), now)
            if came_up:
                order_store.look_again(connection, now)

        await self._database.write(write)
        if went_down:
            log.warning("provider_down", provider=provider, reason=after.reason)
        if came_up:
            log.info("provider_up", provider=provider)


def _stored(row: RowMapping) -> Breaker:
    return Breaker(row["failures"], row["down_since"], row["down_reason"], row["open_until"])
