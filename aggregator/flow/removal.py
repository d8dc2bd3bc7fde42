"""Finished orders that are old enough go, with all that belongs to them and a family as a whole, a step in a
transaction.

Decides how long an order is still somebody's business: its guarantee, drops on its link that it may explain, purchases
nearby of which nobody knows the end. It never touches the books.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from aggregator.domain.orders import OrderState
from aggregator.flow.base import House, log
from aggregator.flow.policies import NO_GUARANTEE, guarantee, refill_policy
from aggregator.flow.readings import LOOK_BACK
from aggregator.storage import catalogue, removal, replays
from aggregator.storage.database import Connection
from aggregator.storage.removal import Due, Families, Member, Place

STEP: Final = 25
"""Orders that one transaction removes: so long somebody waits who wants to write meanwhile."""
REST: Final = 2.0
"""Between two steps, in times of what the last one took: others who write have most of the time."""
LOOK: Final = 200
STEPS_AT_ONCE: Final = 400
AT_ONCE_S: Final = 30.0
"""Steps of one run, and how long it goes on at most; the next tick goes on. The watchdog waits for longer."""
AGAIN: Final = timedelta(hours=1)
"""How long after all was looked through it is looked whether more is old by now."""
ANEW: Final = timedelta(days=1)
"""How often those are looked at again that could not go."""
LEAST: Final = timedelta(days=30)
"""Younger orders stay whatever the config says: so long an idempotency key lives (contract.md §3)."""


@dataclass(slots=True)
class _Round:
    """What a run has done, and when it is to end (monotonic)."""

    until: float = float("inf")
    removed: int = 0
    general: int = 0
    keys: int = 0
    steps: int = 0
    kept: Counter[str] = field(default_factory=Counter)


class OldOrders:
    """Walks through the orders at rest, from the longest finished on, and remembers how far it came."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._after: Place | None = None
        self._after_event = 0
        self._rest_until = self._anew_at = house.clock.now()

    async def run_once(self, stopping: Callable[[], bool]) -> int:
        """How many orders were removed."""
        days, now = float(self._house.settings.retention.orders_days), self._house.clock.now()
        if not days or now < self._rest_until:
            return 0
        if now >= self._anew_at:
            await self._begin_anew(now)
        before = now - max(timedelta(days=days), LEAST)
        done = _Round(self._house.clock.monotonic() + AT_ONCE_S)
        whole = await self._orders(before, done, stopping) and await self._others(before, done, stopping)
        if whole:
            self._rest_until = now + AGAIN
        if done.removed or done.general or done.keys:
            log.info("orders_removed", orders=done.removed, events_of_no_order=done.general, keys=done.keys)
        if kept := {reason: count for reason, count in done.kept.items() if count}:
            log.info("orders_kept", **kept)
        return done.removed

    async def _begin_anew(self, now: datetime) -> None:
        self._after, self._after_event, self._anew_at = None, 0, now + ANEW
        database, there = self._house.database, self._house.gateways
        for provider in await database.read(partial(removal.gone_providers, there=there)):
            await self._forget(provider, now)

    async def _forget(self, provider: str, now: datetime) -> None:
        """A provider that the config has no more is asked nothing: what its orders wait for is over with the
        guarantee."""
        database, after = self._house.database, None
        while True:
            look: Callable[[Connection], tuple[list[Member], Due | None]] = partial(
                removal.unasked, provider=provider, before=now - NO_GUARANTEE, after=after, limit=LOOK
            )
            members, after = await database.read(look)
            kept = await database.read(partial(self._guaranteed, members=members, now=now))
            over = [one.number for one in members if one.number not in kept]
            if over:
                await database.write(partial(removal.look_no_more, these=over))
            if after is None:
                break
        while await database.write(
            partial(removal.check_no_more, provider=provider, before=now - NO_GUARANTEE, limit=LOOK)
        ):
            pass

    # --- orders ---

    async def _orders(self, before: datetime, done: _Round, stopping: Callable[[], bool]) -> bool:
        """Whether all that is old was looked at."""
        database = self._house.database
        begun = await database.read(removal.being_removed)
        if begun and not await self._remove(begun, before, done, stopping):
            return False
        while True:
            places = await database.read(partial(removal.look, before=before, after=self._after, limit=LOOK))
            if not places:
                return True
            roots = await database.read(partial(self._choose, places=places, before=before, done=done))
            if not await self._remove(roots, before, done, stopping):
                return False
            self._after = places[-1]

    def _choose(self, connection: Connection, places: Sequence[Place], before: datetime, done: _Round) -> list[int]:
        """Those of these orders that may go by all that is known now, with their families."""
        found = removal.families(connection, [place.number for place in places])
        ready = removal.over(found, before)
        done.kept["family"] += len(found) - len(ready)
        numbers = [one.number for members in ready.values() for one in members]
        kept = _kept(connection, numbers)
        kept["guarantee"] = self._guaranteed(connection, [one for ms in ready.values() for one in ms], self._now())
        kept["link"] = _explains_drops(connection, [one for members in ready.values() for one in members])
        return _free(ready, kept, done)

    def _enough(self, done: _Round) -> bool:
        return done.steps >= STEPS_AT_ONCE or self._house.clock.monotonic() >= done.until

    def _now(self) -> datetime:
        return self._house.clock.now()

    def _guaranteed(self, connection: Connection, members: Sequence[Member], now: datetime) -> set[int]:
        """Those that may still be refilled, or be corrected by their provider."""
        bought: dict[str, set[str]] = {}
        for one in members:
            if one.provider is not None:
                bought.setdefault(one.provider, set()).add(one.provider_service or "")
        traits = {name: catalogue.traits(connection, name, sorted(services)) for name, services in bought.items()}
        kept = set()
        for one in members:
            if one.provider is None or one.finished_at is None or one.state != OrderState.COMPLETED:
                continue
            named = traits[one.provider].get(one.provider_service or "", catalogue.NO_TRAITS).name
            policy = refill_policy(self._house.settings.services.get(one.service), named)
            if now - one.finished_at <= guarantee(policy):
                kept.add(one.number)
        return kept

    async def _remove(self, roots: Sequence[int], before: datetime, done: _Round, stopping: Callable[[], bool]) -> bool:
        """Remove these orders and their families, step by step; False when that is to go on another time."""
        waiting = list(roots)
        while waiting:
            if stopping() or self._enough(done):
                return False
            done.steps += 1
            # Whoever wants to order goes first.
            await self._house.callers.make_room()
            write = partial(_step, roots=waiting[:STEP], before=before)
            clock = self._house.clock
            began = clock.monotonic()
            result = await self._house.database.write(write)
            await asyncio.sleep(REST * (clock.monotonic() - began))
            if result is None:
                return False
            done.removed += result[0]
            waiting[:STEP] = result[1]
        return True

    # --- what belongs to no order ---

    async def _others(self, before: datetime, done: _Round, stopping: Callable[[], bool]) -> bool:
        database = self._house.database
        while not (stopping() or self._enough(done)):
            done.steps += 1
            step = partial(removal.remove_general, after=self._after_event, before=before, limit=LOOK)
            count, last = await database.write(step)
            done.general += count
            if last is None:
                break
            self._after_event = last
        while not (stopping() or self._enough(done)):
            done.steps += 1
            count = await database.write(partial(removal.remove_keys, before=before, limit=LOOK))
            done.keys += count
            if count < LOOK:
                return True
        return False


def _step(connection: Connection, roots: Sequence[int], before: datetime) -> tuple[int, list[int]] | None:
    """One transaction: how many orders went, and which of `roots` are still to be looked at; None: not now.

    A family that is larger than a step goes from its youngest on, so that at each moment what is left is a family.
    """
    if replays.some_wait(connection):
        return None  # what an operator wants to be sent again is made first
    removal.lock(connection, roots)
    found = removal.families(connection, roots)
    ready = removal.over(found, before)
    numbers = [one.number for members in ready.values() for one in members]
    removal.lock(connection, numbers)
    free = _free(ready, _kept(connection, numbers), _Round())
    begun = set(removal.being_removed(connection))
    going: list[int] = []
    left: list[int] = []
    for place, root in enumerate(free):
        members = [one.number for one in ready[root]]
        if going and len(going) + len(members) > STEP:
            left = free[place:]
            break
        if len(members) > STEP:
            removal.note_removing(connection, root, parts_left=True)
            going, left = members[-STEP:], free[place:]
            break
        if root in begun:
            removal.note_removing(connection, root, parts_left=False)
        going += members
    # Children come after their parents, and go before them.
    removal.remove(connection, going[::-1])
    return len(going), left


def _kept(connection: Connection, numbers: Sequence[int]) -> dict[str, set[int]]:
    """Why which of these orders stay."""
    return {
        "open": removal.with_open_ends(connection, numbers),
        "unclear": removal.near_unclear(connection, numbers, LOOK_BACK),
    }


def _free(ready: Families, kept: dict[str, set[int]], done: _Round) -> list[int]:
    """The families of which nobody stays."""
    free = []
    for root, members in ready.items():
        reason = next((why for why, these in kept.items() if any(one.number in these for one in members)), None)
        if reason is None:
            free.append(root)
        else:
            done.kept[reason] += 1
    return free


def _explains_drops(connection: Connection, members: Iterable[Member]) -> set[int]:
    """Those that worked on a link on which an earlier order is still watched: because of them it is not refilled by
    itself (contract.md §2)."""
    on_links = [one for one in members if one.kind == "smm" and one.link is not None and one.provider is not None]
    since = removal.watched_since(connection, (one.link for one in on_links if one.link is not None))
    return {
        one.number
        for one in on_links
        if one.link in since and one.finished_at is not None and one.finished_at > since[one.link]
    }
