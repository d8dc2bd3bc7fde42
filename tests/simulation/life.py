"""One seed, one life of a daemon: orders, faults, crashes, people and time, all of them chosen by the seed.

The real stages, rules, dialects and storage run; only the clock, the network and the moments at which transactions
commit belong to the simulation. When everything has settled, what the providers sold is held against what the daemon
believes (`tests/simulation/truth.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, update

from aggregator.domain.orders import OrderState
from aggregator.sandbox.ledger import Entry
from aggregator.storage import catalogue
from aggregator.storage import orders as order_store
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer
from aggregator.storage.tables import providers
from tests.simulation import truth
from tests.simulation.callers import Callers, wishes
from tests.simulation.focus import Focus
from tests.simulation.outcome import Outcome, hash_step
from tests.simulation.process import SEALING_KEY, Process, remembering
from tests.simulation.scenery import REFILL_COOLDOWN_H, config_text, purses, small_world
from tests.simulation.store import Weather
from tests.simulation.trouble import Trouble
from tests.simulation.virtual import VirtualClock, VirtualLoop
from tests.simulation.wire import Endpoint, Wire
from tests.support.due import unfinished
from tests.support.house import load_settings

T = TypeVar("T")

START: Final = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
TRUSTED_DEBITS: Final = 25
"""Purchases after which a provider counts as one that debits at once, and a few more."""


class Shelf(Protocol):
    """Where a run's database stands, and how it is seen from outside of the run."""

    kind: str
    database: Database

    def fresh(self) -> None: ...

    async def look(self, work: Callable[[Connection], T]) -> T: ...

    async def change(self, work: Callable[[Connection], T]) -> T: ...

    def writer(self, pause: Callable[[], float], step: Callable[[str], None]) -> Any: ...

    async def done(self) -> None: ...

    def close(self) -> None: ...


class Life:
    """Everything of one seed."""

    def __init__(self, seed: int, shelf: Shelf, loop: VirtualLoop, folder: Path, focus: Focus) -> None:
        def dice(of: str) -> random.Random:
            return random.Random(f"{of}:{seed}")

        self.outcome = Outcome(seed)
        self.shelf = shelf
        self.loop = loop
        self.clock = VirtualClock(loop, START)
        self.dice = dice("latencies")
        self.weather = Weather()
        self.world = small_world(seed, dice("world"), lambda: START.timestamp() + self.clock.elapsed(), focus)
        text, self.providers = config_text(dice("config"), focus)
        self._let_accounts_honour_keys(dice("keys"))
        self.settings = load_settings(folder, text)
        self.purses = purses(self.world, self.providers, dice("money"), focus)
        self.endpoint = Endpoint(dice("endpoint"))
        self.wire = Wire(self.world, self.endpoint, self.dice, self.step, self.purses.look)
        self._let_panels_answer_flat(dice("flat"), focus)
        self.process: Process | None = None
        self.crash_in: int | None = None
        """Steps until the process dies, counting those that begin with `crash_at`."""
        self.crash_at = ""
        self.callers = Callers(self, dice("callers"))
        self.trouble = Trouble(self, self.callers, dice("trouble"), focus)
        self.wishes = wishes(seed, dice("wishes"), focus)
        self._rests = dice("rests")
        self._focus = focus
        self._over = False

    def _let_accounts_honour_keys(self, rng: random.Random) -> None:
        for name, wanted in self.providers.items():
            account = self.world.accounts[name]
            honours = wanted["idempotent_add"] or rng.random() < 0.1
            account.settings = replace(account.settings, honours_idempotency_key=honours)

    def _let_panels_answer_flat(self, rng: random.Random, focus: Focus) -> None:
        for name in sorted(self.providers):
            unlikely = rng.random() < 0.1
            if unlikely if focus.flat is None else focus.flat:
                self.wire.flat.add(name)

    # --- what the parts tell ---

    def step(self, what: str) -> None:
        """Something happened between two parties; a crash may be due right here."""
        outcome = self.outcome
        outcome.steps += 1
        outcome.trace = hash_step(outcome.trace, what, self.loop.time())
        if outcome.steps > self._focus.most_steps:
            self.loop.give_up(f"more than {self._focus.most_steps} steps")
        if self.crash_in is not None and what.startswith(self.crash_at) and self.process and self.process.started:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.crash_in = None
                self._crash(f"at step {outcome.steps}, {what}")

    def tell(self, text: str) -> None:
        self.outcome.story.append(f"{self.loop.time():10.3f}  {text}")

    def _crash(self, why: str) -> None:
        if self.process is not None and self.process.alive:
            self.tell(f"crash of process {self.process.number}: {why}")
            self.outcome.crashes += 1
            self.process.kill()

    def sales(self) -> list[Entry]:
        return [entry for entry in self.world.ledger.entries() if entry.action in ("add", "add_sms")]

    # --- from the first start to the verdict ---

    async def main(self) -> None:
        self.loop.set_task_factory(remembering)
        await self.shelf.change(self._as_after_some_weeks)
        async with asyncio.TaskGroup() as everybody:
            everybody.create_task(self._supervise())
            asking = [everybody.create_task(self.callers.ask_until_answered(wish)) for wish in self.wishes]
            await self.trouble.go_on()
            self.trouble.heal()
            await asyncio.wait(asking)
            await self._settle()
            self._over = True
            if self.process is not None and self.process.alive:
                await self.process.stop()
                await self.process.gone()
        self.outcome.virtual_s = self.loop.time()
        await self._judge()
        await self.shelf.done()

    def _as_after_some_weeks(self, connection: Connection) -> None:
        """Providers of exclusive accounts were seen to debit at once, if they do."""
        names = [
            name
            for name, wanted in self.providers.items()
            if (self._focus.trusted is None and wanted["exclusive_account"] and not self.purses.late(name))
            or self._focus.trusted
        ]
        if names:
            catalogue.ensure_providers(connection, list(self.providers), self.clock.now())
            connection.execute(update(providers).where(providers.c.name.in_(names)).values(debits_seen=TRUSTED_DEBITS))

    async def _supervise(self) -> None:
        """Start the daemon, and start it again whenever it died."""
        number = 0
        while not self._over:
            number += 1
            process = Process(self, number)
            self.process = process
            if await process.start():
                self.tell(f"process {number} is at work")
            await process.ended.wait()
            if self._over:
                return
            await process.gone()
            await asyncio.sleep(self._rests.choice((0.1, 0.1, 1.0, 1.0, 5.0, 5.0, 150.0)))

    async def _settle(self) -> None:
        """Time passes until everything has come to rest; a violation when it does not."""
        end = self.loop.time() + self._focus.settle_s
        while (left := await self.shelf.look(unfinished)) and self.loop.time() < end:
            # A person resolves what nobody can prove, or leaves it on the desk.
            if self._rests.random() < 0.2:
                await self.callers.resolve()
            await asyncio.sleep(self._rests.uniform(20, 120))
        if left:
            self.outcome.violations.append(f"never came to rest: {', '.join(left)}")

    async def _judge(self) -> None:
        witness = truth.Witness(
            world=self.world,
            answered=self.callers.answered,
            canceled=frozenset(self.callers.canceled),
            refilled=frozenset(self.callers.refilled),
            heard=self.endpoint.heard,
            changed=self.endpoint.changed,
            accounts=lambda sealed: Sealer(SEALING_KEY).open(sealed),
            pauses=self.trouble.pauses,
            cooldown_s=REFILL_COOLDOWN_H * 3600,
        )
        outcome = self.outcome
        outcome.violations += await self.shelf.look(lambda c: truth.violations(c, witness))
        found = await self.shelf.look(lambda c: order_store.page(c, order_store.Filters(), before=None, limit=100))
        outcome.orders = len(found)
        outcome.unclear = sum(order.state is OrderState.UNCLEAR for order in found)
        outcome.once_unclear = sum('"type":"order.unclear"' in body for body in self.endpoint.heard.values())
        outcome.purchases = len(self.sales())
        outcome.refills = sum(entry.action == "refill" for entry in self.world.ledger.entries())
