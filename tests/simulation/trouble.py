"""What goes wrong, and when: providers, the network, the database, the clock, the endpoint, and the process itself."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from aggregator.domain.errors import StorageUnavailable
from aggregator.sandbox.faults import FAULTS, FaultRule
from aggregator.storage import catalogue
from tests.simulation.callers import Callers
from tests.simulation.focus import Focus

if TYPE_CHECKING:
    from tests.simulation.life import Life

ODD_ANSWERS: Final = (
    "null",
    "[]",
    '{"order": null}',
    '{"order": ""}',
    '{"status": "success"}',
    '{"order": 0}',
    '{"orders": []}',
    '{"error": null}',
    '"ok"',
)


LOST_AFTER: Final = tuple(sorted(name for name, fault in FAULTS.items() if fault.stage == "after"))
"""Faults that take the purchase and lose its answer."""
CRASH_AT: Final = (
    "before a commit",
    "committed",
    "written",
    "answered",
    "sent add",
    "smmplus add",
    "smmcheap add",
    "hstock add",
    "heard add",
    "sent refill",
    "heard refill",
    "sent cancel",
    "smmplus cancel",
    "heard cancel",
    "sent sms_code",
    "heard sms_code",
    "sent webhook",
    "heard webhook",
    "heard balance",
)
"""How the steps begin between claim, call and record."""


class Trouble:
    """A few kinds of it in each run: what always happens together hides what happens alone."""

    def __init__(self, life: Life, callers: Callers, rng: random.Random, focus: Focus) -> None:
        self._life = life
        self._callers = callers
        self._rng = rng
        self._focus = focus
        self.pauses: list[tuple[str, datetime, datetime]] = []
        """When which provider was paused by its operator."""
        self._climate = self._make_climate()
        life.world.faults.replace(self._climate)

    async def go_on(self) -> None:
        rng = self._rng
        actions: list[tuple[int, Callable[[], Coroutine[Any, Any, None]]]] = [
            (9, self._arm_crash),
            (6, self._break_providers),
            (2, self._heal_some),
            (2, self._unreachable),
            (2, self._outage),
            (2, self._slow_disk),
            (1, self._forgetful),
            (2, self._deaf_endpoint),
            (3, self._callers.cancel),
            (4, self._callers.resolve),
            (2, self._callers.refill),
            (2, self._callers.count),
            (1, self._stop),
            (1, self._jump),
            (1, self._pause_provider),
            (1, self._top_up),
        ]
        chosen = [*actions[:2], *rng.sample(actions[2:], rng.randint(1, len(actions) - 2))]
        if self._focus.chaos:
            chosen = [one for one in actions if one[1].__name__.strip("_") in self._focus.chaos]
        weights, works = zip(*chosen, strict=True)
        for _ in range(rng.randint(3, 11)):
            work = rng.choices(works, weights)[0]
            self._life.tell(work.__name__.strip("_"))
            await work()
            await asyncio.sleep(rng.choice((0.1, rng.uniform(0, 3), rng.uniform(0, 30), rng.uniform(0, 200))))

    def _make_climate(self) -> list[FaultRule]:
        """What goes wrong now and then all the time, until everything is healed."""
        rng, focus = self._rng, self._focus
        if focus.script or focus.faults or focus.refusals:
            actions = focus.actions or ("add", "add_sms")
            scripted = [(nth, fault) for nth, fault in enumerate(focus.script, start=1) if fault]
            words = [json.dumps({"error": text}) for text in focus.refusals]
            return [
                *(FaultRule(fault, action="add", nth=nth) for nth, fault in scripted),
                *(self._rule(fault, action, focus.fault_chance) for fault, action in product(focus.faults, actions)),
                *(
                    FaultRule("wrong_json_before", action=action, probability=focus.refusal_chance, body=word)
                    for word, action in product(words, actions)
                ),
            ]
        chance = rng.choice((0.0, 0.05, 0.05, 0.12))
        faults = rng.sample(LOST_AFTER, 3) + rng.sample(sorted(FAULTS), 2)
        return [self._rule(fault, action, chance) for fault in faults for action in ("add", "add_sms")]

    def _rule(self, fault: str, action: str | None, probability: float, **more: Any) -> FaultRule:
        rng = self._rng
        odd = fault.startswith("wrong_json") and rng.random() < 0.7
        return FaultRule(
            fault,
            action=action,
            probability=probability,
            delay_s=rng.choice((2.0, 8.0, 25.0)) if FAULTS[fault].wire == "delay" else None,
            body=rng.choice(ODD_ANSWERS) if odd else None,
            headers={"Retry-After": "20"} if fault == "http_429" and rng.random() < 0.5 else {},
            **more,
        )

    def heal(self) -> None:
        """From here on nothing new goes wrong."""
        self._life.tell("nothing is broken any more")
        now = self._life.world.now()
        for account in self._life.world.accounts.values():
            if (left := account.balance_at(now)) < 100:
                account.set_balance(left + 500, now)
        self._life.crash_in = None
        self._life.world.faults.replace([])
        self._life.wire.unreachable.clear()
        self._life.endpoint.failing = 0.0
        self._life.weather.out, self._life.weather.slow_s, self._life.weather.forgetful = False, 0.0, 0.0

    async def _arm_crash(self) -> None:
        rng = self._rng
        if self._focus.crash_at or rng.random() < 0.4:
            self._life.crash_at = rng.choice(self._focus.crash_at or CRASH_AT)
            self._life.crash_in = rng.choice((1, 1, 2, rng.randint(3, 30)))
        else:
            self._life.crash_at = ""
            self._life.crash_in = rng.choice((1, rng.randint(1, 12), rng.randint(1, 80)))

    async def _break_providers(self) -> None:
        rng = self._rng
        wanted = ("add", "add", "add_sms", "refill", "cancel", "status", "balance", "sms_code", None)
        rules = [
            self._rule(
                rng.choice(sorted(FAULTS)),
                rng.choice(wanted),
                rng.choice((0.5, 0.8, 1.0)),
                account=rng.choice((None, *self._life.providers)),
                count=rng.choice((1, 2, 5, None)),
            )
            for _ in range(rng.randint(1, 3))
        ]
        for rule in rules:
            self._life.tell(
                f"  {rule.fault} {rule.account or '*'} {rule.action or '*'} {rule.probability} {rule.count}"
            )
        self._life.world.faults.replace([*rules, *self._climate])

    async def _heal_some(self) -> None:
        self._life.world.faults.replace(self._climate)
        self._life.wire.unreachable.clear()

    async def _unreachable(self) -> None:
        self._life.wire.unreachable[self._rng.choice(sorted(self._life.providers))] = self._rng.choice((0.5, 1.0))

    async def _outage(self) -> None:
        self._life.weather.out = True
        await asyncio.sleep(self._rng.choice((0.5, 5.0, 100.0)))
        self._life.weather.out = False

    async def _slow_disk(self) -> None:
        self._life.weather.slow_s = self._rng.choice((0.5, 10.0, 60.0))
        await asyncio.sleep(self._rng.choice((1.0, 30.0, 120.0)))
        self._life.weather.slow_s = 0.0

    async def _forgetful(self) -> None:
        self._life.weather.forgetful = 0.3
        await asyncio.sleep(self._rng.choice((1.0, 10.0, 60.0)))
        self._life.weather.forgetful = 0.0

    async def _deaf_endpoint(self) -> None:
        self._life.endpoint.failing = self._rng.choice((0.0, 0.3, 1.0))

    async def _stop(self) -> None:
        process = self._life.process
        if process is not None and process.started and process.alive:
            with suppress(asyncio.CancelledError):
                await process.stop()

    async def _jump(self) -> None:
        self._life.clock.jump(self._rng.choice((1.0, 30.0, 400.0)))

    async def _pause_provider(self) -> None:
        name = self._rng.choice(sorted(self._life.providers))

        def paused(yes: bool) -> Callable[[Connection], None]:
            def write(connection: Connection) -> None:
                now = self._life.clock.now()
                catalogue.ensure_providers(connection, list(self._life.providers), now)
                catalogue.set_health(connection, name, now, paused=yes)

            return write

        with suppress(StorageUnavailable):
            await self._life.shelf.change(paused(True))
            began = self._life.clock.now()
            await asyncio.sleep(self._rng.uniform(1, 60))
            self.pauses.append((name, began, self._life.clock.now()))
            await self._life.shelf.change(paused(False))

    async def _top_up(self) -> None:
        account = self._life.world.accounts[self._rng.choice(sorted(self._life.providers))]
        now = self._life.world.now()
        account.set_balance(account.balance_at(now) + 50, now)
