"""Following one order to its end by the feed of events.

Nothing is missed: the feed is read on from its head as it was before the order's own events were read. A daemon that
is started anew meanwhile is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final

from aggregator.cli.client import Answer, Client
from aggregator.cli.failures import Refused, Unreachable
from aggregator.cli.order_view import FINAL

WAIT_S: Final = 25
"""How long one request of the feed waits for something to happen."""
PATIENCE_S: Final = 60.0
"""How long a daemon may be away."""
SHORT_S: Final = 1.0
PAUSE_S: Final = 0.2
MOST_EVENTS: Final = 500

Event = Mapping[str, Any]


class Watch:
    """One order being followed. `tell` gets each of its events once, in their order; `note` says what is amiss."""

    def __init__(
        self, client: Client, reference: str, tell: Callable[[Event], None], note: Callable[[str], None]
    ) -> None:
        self._client = client
        self._path = f"/v1/orders/{reference}"
        self._tell = tell
        self._note = note
        self._told: set[str] = set()

    async def to_the_end(self) -> Mapping[str, Any]:
        """The order once it is final; Refused when there is none, Unreachable when the daemon stays away."""
        order = await self._order()
        after = await self._head(await self._tell_new())
        while order["state"] not in FINAL:
            await self._tell_new()
            order = await self._order()
            if order["state"] in FINAL:
                break
            after = await self._wait(after, order["id"])
        await self._tell_new()
        return order

    async def _order(self) -> Mapping[str, Any]:
        order: Mapping[str, Any] = (await self._patiently(lambda: self._client.get(self._path))).document
        return order

    async def _tell_new(self) -> int:
        """Tell what was not told yet; the last position of what has one."""
        answer = await self._patiently(lambda: self._client.get(f"{self._path}/events"))
        events = answer.document["events"]
        for event in events:
            if event["id"] not in self._told:
                self._told.add(event["id"])
                self._tell(event)
        return max((event["position"] or 0 for event in events), default=0)

    async def _head(self, known: int) -> int:
        """The end of the feed, by ever longer steps from a known position and then by halves: it may be far away.

        Never a position that was not given yet, or the event that gets it would be missed.
        """
        low = known
        empty, end = await self._nothing_after(low)
        if empty:
            return end
        step = 1
        while True:
            high = low + step
            empty, end = await self._nothing_after(high)
            if empty:
                break
            low, step = high, step * 4
        # Something comes after `low` and nothing after `high`; an `end` beyond what was asked for is the end itself.
        while end <= high and high - low > 1:
            middle = (low + high) // 2
            empty, end = await self._nothing_after(middle)
            if empty:
                high = middle
            else:
                low, end = middle, 0
        return max(high, end)

    async def _nothing_after(self, position: int) -> tuple[bool, int]:
        """Whether no event that is ours to see comes after a position, and where to go on."""
        try:
            page = await self._page(position, limit=1)
        except Refused as refused:
            if refused.kind != "invalid-field":
                raise
            return True, 0  # no event has this position yet
        return not page["events"], int(page["next_after"])

    async def _wait(self, after: int, order_id: str) -> int:
        """Until something of the order happened, or for one round; where the feed goes on."""
        while True:
            began = monotonic()
            page = await self._page(after, limit=MOST_EVENTS, wait=WAIT_S)
            after = int(page["next_after"])
            if any(_is_of(event, order_id) for event in page["events"]):
                return after
            if not page["events"]:
                if monotonic() - began < SHORT_S:  # a daemon that is about to end lets nobody wait
                    await asyncio.sleep(SHORT_S)
                return after
            await asyncio.sleep(PAUSE_S)  # other orders' events, of which there will be more

    async def _page(self, after: int, **query: int) -> dict[str, Any]:
        answer = await self._patiently(lambda: self._client.get("/v1/events", after=after, **query))
        page: dict[str, Any] = answer.document
        return page

    async def _patiently(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer, however often the daemon must be asked; but one that was never there is said at once."""
        until = monotonic() + PATIENCE_S
        noted = False
        while True:
            try:
                return await ask()
            except Unreachable as exc:
                if not self._told or monotonic() > until:
                    raise
                if not noted:
                    self._note(f"{exc}; waiting for it up to {PATIENCE_S:g} s")
                noted, wait_s = True, SHORT_S
            except Refused as refused:
                if not self._told or not refused.passes or monotonic() > until:
                    raise
                wait_s = max(SHORT_S, refused.wait_s)
            await asyncio.sleep(wait_s)


def _is_of(event: Event, order_id: str) -> bool:
    data: Mapping[str, Any] = event.get("data") or {}
    return bool((data.get("order") or {}).get("id") == order_id)
