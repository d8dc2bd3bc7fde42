"""Who uses the daemon in a simulated day: the same orders in every hour, readers, and those who do it wrong."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.simulation.day.scenery import AN_HOUR, CANCELED, IN_TURN, KEY, SLOW

if TYPE_CHECKING:
    from tests.simulation.day.day import Day

HOUR_S = 3600.0


class Callers:
    """`answers` counts statuses by what was asked; `placed` are the ids that callers were told."""

    def __init__(self, day: Day, rng: random.Random) -> None:
        self._day = day
        self._rng = rng
        self._made = 0
        self._heard = 0
        self.answers: Counter[str] = Counter()
        self.placed: list[str] = []

    async def come(self, hours: int) -> None:
        """Everybody of the day, in the order of their coming."""
        plan: list[tuple[float, int, Any, tuple[Any, ...]]] = [(60.0, -1, self._order, (SLOW[0], SLOW[1], {}))]
        for hour in range(hours):
            mix = [IN_TURN[n % len(IN_TURN)] for n in range(hour * AN_HOUR, (hour + 1) * AN_HOUR)]
            asked: list[tuple[Any, tuple[Any, ...]]] = [(self._order, wish) for wish in mix]
            asked += [(self._look, ()), (self._wait, (None,)), (self._wait, (2.0,)), (self._err, (hour,))]
            asked.append((self._panel, ()))
            self._rng.shuffle(asked)
            pace_s = HOUR_S / len(asked)
            for n, (what, arguments) in enumerate(asked):
                at_s = hour * HOUR_S + (n + self._rng.random()) * pace_s
                plan.append((at_s, len(plan), what, arguments))
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as everybody:
            for at_s, _, what, arguments in sorted(plan):
                await asyncio.sleep(max(0.0, at_s - loop.time()))
                everybody.create_task(what(*arguments))

    async def _call(self, what: str, method: str, path: str, body: object = None, **options: Any) -> tuple[int, Any]:
        status, said = await self._day.door.call(method, path, body, **options)
        self.answers[f"{what} {status}"] += 1
        return status, said

    async def _order(self, service: str, quantity: int, params: dict[str, str]) -> None:
        self._made += 1
        name = f"wish-{self._made}"
        link = {"link": f"https://example.com/{self._made}"} if service not in _WITHOUT_LINK else {}
        wish = {"service": service, "quantity": quantity, "params": params, "reference": name, **link}
        status, order = await self._call("order", "POST", "/v1/orders", wish, once=name)
        if status != 201:
            return
        self.placed.append(order["id"])
        if self._rng.random() < 0.2:
            _, again = await self._call("repeat", "POST", "/v1/orders", wish, once=name)
            assert again["id"] == order["id"], "an idempotent repetition made another order"
        if service in CANCELED:
            await asyncio.sleep(self._rng.uniform(0, 20))
            await self._call("cancel", "POST", f"/v1/orders/{order['id']}/cancel", {})

    async def _look(self) -> None:
        order = self._rng.choice(self.placed) if self.placed else "1"
        for path in (f"/{order}", f"/{order}/attempts", f"/{order}/events", f"/{order}/delivery", "?limit=20"):
            await self._call("look", "GET", f"/v1/orders{path}")
        for path in ("/v1/services", "/v1/providers", "/v1/providers/smmplus/ledger", "/livez", "/readyz", "/metrics"):
            await self._call("look", "GET", path)
        await self._call("refill", "POST", f"/v1/orders/{order}/refill", {})
        await self._call("quote", "POST", "/v1/quote", {"service": "followers", "quantity": 100})

    async def _wait(self, gone_after_s: float | None) -> None:
        """A long poll; some hang up in the middle."""
        path = f"/v1/events?after={self._heard}&wait=5&limit=500"
        _, found = await self._call("events", "GET", path, gone_after_s=gone_after_s)
        self._heard = max(self._heard, found["next_after"])

    async def _err(self, hour: int) -> None:
        """Wrong keys from everywhere, and what is no order."""
        for n in range(3):
            peer = f"198.51.{hour}.{n}"
            await self._call("wrong key", "GET", "/v1/orders", key=f"wrong-{self._rng.getrandbits(64):x}", peer=peer)
        odd = f"x{self._rng.getrandbits(32):x}"
        wrong: tuple[Any, ...] = ({"service": odd, "quantity": 1}, {odd: 1}, {"service": "plus", "quantity": -1}, [])
        for body in wrong:
            await self._call("malformed", "POST", "/v1/orders", body, once=f"{odd}-{len(str(body))}")
        await self._call("malformed", "GET", f"/v1/{odd}")

    async def _panel(self) -> None:
        for action in ("services", "balance", "status&order=1"):
            await self._call("panel", "POST", "/api/v2", form=f"key={KEY}&action={action}")


_WITHOUT_LINK = frozenset({"gmail", "half", "code", "two-codes", "expires"})
