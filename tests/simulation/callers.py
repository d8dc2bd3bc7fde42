"""Everybody who uses the daemon: callers who ask until they are answered and cancel, and an operator who resolves."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aggregator.domain.errors import Problem, StorageUnavailable
from aggregator.domain.orders import FOLLOWED, Order, OrderState
from aggregator.flow import canceling, counting, reconcile, refilling
from aggregator.flow.base import House
from aggregator.flow.intake import Idempotency, NewOrder, Taken
from aggregator.storage import orders as order_store
from tests.simulation.focus import Focus
from tests.simulation.scenery import DRIPPING, PARAMS, SERVICES

if TYPE_CHECKING:
    from tests.simulation.life import Life

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wish:
    """An order that somebody will ask for until it is answered."""

    name: str
    order: NewOrder
    at_s: float
    drops_answer: bool
    cancels_after_s: float | None = None
    """How soon after the answer its caller thinks better of it."""


def wishes(seed: int, rng: random.Random, focus: Focus) -> list[Wish]:
    """What a run's callers will want, and when."""
    favourites = list(focus.services) or rng.sample(sorted(SERVICES), rng.randint(2, 6))
    links = [f"https://example.com/{n}" for n in range(rng.choice((2, 50, 50)))]
    drips = random.Random(f"drips:{seed}")
    wanted = []
    for n in range(focus.orders or rng.choice((1, 2, 2, 3, 3, 5))):
        service = rng.choice(favourites)
        kind, least, most = SERVICES[service]
        quantity = focus.quantity or rng.randint(least, most)
        link = rng.choice(links) if kind == "smm" else None
        params = dict(PARAMS.get(service, {}))
        if drips.random() < (DRIPPING.get(service, 0.0) if focus.drips is None else focus.drips):
            params |= {"runs": str(drips.choice((2, 2, 3))), "interval": str(drips.choice((1, 2, 5)))}
        order = NewOrder("shop", service, quantity, link, params, reference=f"w{seed}-{n}")
        at_s = rng.choice((0, rng.uniform(0, 20), rng.uniform(0, 400)))
        cancels_after_s = drips.choice((0.0, drips.uniform(0, 10), drips.uniform(0, 60)))
        changes_mind = drips.random() < (0.2 if focus.cancels is None else focus.cancels)
        wish = Wish(order.reference or "", order, at_s, rng.random() < 0.15, cancels_after_s if changes_mind else None)
        wanted.append(wish)
    return wanted


class Callers:
    """What they asked for, and what they were told."""

    def __init__(self, life: Life, rng: random.Random) -> None:
        self.answered: dict[str, list[str]] = {}
        """Wish: the ids of the orders that its answers named."""
        self.canceled: set[str] = set()
        """Ids of orders that a caller canceled before they were bought, and was told so."""
        self.refilled: set[str] = set()
        """Ids of orders for which a caller asked for a refill, whatever was missing."""
        self._life = life
        self._rng = rng

    async def ask_until_answered(self, wish: Wish) -> None:
        """Ask until there is an answer, each time under the same key, as callers are told to."""
        await asyncio.sleep(wish.at_s)
        dropped = False
        while True:
            ids = await self._ask(wish)
            if ids is not None:
                self.answered.setdefault(wish.name, []).extend(ids)
                if not wish.drops_answer or dropped:
                    break
                dropped = True  # the caller did not hear it, and asks once more
            await asyncio.sleep(self._rng.uniform(0.2, 4.0))
        if wish.cancels_after_s is not None:
            await asyncio.sleep(wish.cancels_after_s)
            found = await self._life.shelf.look(lambda c: order_store.find(c, self.answered[wish.name][0], None))
            if found is not None:
                await self._cancel(found)

    async def _ask(self, wish: Wish) -> list[str] | None:
        process = self._life.process
        if process is None or not process.started or not process.alive:
            return None

        def answer(results: Sequence[Order | Problem]) -> tuple[int, str]:
            return 201, json.dumps([result.id for result in results if isinstance(result, Order)])

        once = Idempotency("shop", wish.name, b"the same", answer)
        try:
            taken: Taken = await process.spawn(process.intake.take([wish.order], once))
        except asyncio.CancelledError:
            return None
        except (StorageUnavailable, Problem):
            return None
        self._life.step("answered")
        if taken.replayed is not None:
            found: list[str] = json.loads(taken.replayed.body)
            return found
        problems = [result for result in taken.results if isinstance(result, Problem)]
        assert not problems, problems
        return [result.id for result in taken.results if isinstance(result, Order)]

    async def _some_order(self, *states: OrderState) -> Order | None:
        found = await self._life.shelf.look(
            lambda c: order_store.page(c, order_store.Filters(), before=None, limit=100)
        )
        fitting = sorted((o for o in found if not states or o.state in states), key=lambda order: order.number)
        return self._rng.choice(fitting) if fitting else None

    async def _by_hand(self, work: Callable[[House], Coroutine[Any, Any, T]]) -> T | None:
        """What a person asks of the running daemon; None when it was refused or nobody knows."""
        process = self._life.process
        if process is None or not process.started or not process.alive:
            return None
        try:
            return await process.spawn(work(process.house))
        except (Problem, StorageUnavailable, asyncio.CancelledError):
            return None
        except Exception as exc:
            self._life.outcome.violations.append(f"unexpected error: {exc!r}")
            return None

    async def cancel(self) -> None:
        order = await self._some_order(*FOLLOWED) if self._rng.random() < 0.5 else None
        order = order or await self._some_order()
        if order is not None:
            await self._cancel(order)

    async def _cancel(self, order: Order) -> None:
        ended = await self._by_hand(lambda house: canceling.cancel(house, order.number, by="shop"))
        # A bought order is only wished to be canceled: its provider decides.
        if ended is not None and ended.provider_order is None and ended.state is OrderState.CANCELED:
            self._life.tell(f"  order {order.number} is canceled")
            self.canceled.add(ended.id)
        elif ended is not None:
            self._life.tell(f"  order {order.number} is wished to be canceled: {ended.state}")

    async def resolve(self) -> None:
        """A person who looked at the provider's own list says what happened there."""
        order = await self._some_order(OrderState.UNCLEAR)
        if order is None or order.attempt is None or order.attempt in self._life.wire.under_way:
            return
        sold = [entry for entry in self._life.sales() if entry.idempotency_key == order.attempt]
        theirs = sold[0].order if sold else None
        ended = await self._by_hand(
            lambda house: reconcile.resolve(house, order.id, provider_order=theirs, by="operator")
        )
        self._life.tell(f"  order {order.number} resolved as {theirs}: {ended.state if ended else 'no'}")

    async def refill(self) -> None:
        order = await self._some_order(OrderState.COMPLETED)
        if order is not None:
            self.refilled.add(order.id)
            await self._by_hand(lambda house: refilling.request_by_hand(house, order))

    async def count(self) -> None:
        """A caller looks at the link of a completed order, and tells what is there."""
        order = await self._some_order(OrderState.COMPLETED)
        if order is not None and order.link is not None:
            count = self._life.wire.count(order.link)
            await self._by_hand(lambda house: counting.take_count(house, order, count, by="shop"))
