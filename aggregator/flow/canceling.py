"""Wishes to cancel are passed on to providers: journaled, sent once, and followed until the order's status tells.

"Asked" is not "canceled": only the provider's own status ends an order, and its money comes back with that. A wish
whose answer is lost is never sent again by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.events import Draft
from aggregator.domain.orders import FINAL, Order
from aggregator.domain.polls import NOT_YET_VISIBLE
from aggregator.domain.wire import NotSent
from aggregator.flow.base import STORAGE_RETRY_S, Crews, House, log
from aggregator.flow.wishes import wish, wished
from aggregator.providers.contract import CancelAsked, CancelRefused, CancelResult, Meaning, Unclear
from aggregator.providers.gateway import Exchange, Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import cancels, claims, polls
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, RowMapping

LEASE_MARGIN_S: Final = 30.0
SOON: Final = timedelta(minutes=1)
"""When a wish is sent again that the provider did not hear."""
FOLLOWED_FOR: Final = timedelta(days=1)
"""So long an order is polled more often because a cancel was asked for."""
_AGAIN: Final[Mapping[Meaning | None, timedelta]] = {
    Meaning.RATE_LIMIT: SOON,
    Meaning.AUTH: timedelta(minutes=10),
}
"""Refusals that speak of the caller of the API and not of the order."""


async def cancel(house: House, number: int, *, by: str) -> Order:
    """End an order that was not bought, or journal that its provider is to be asked; Problem CONFLICT with the reason
    when neither can be."""
    now = house.clock.now()

    def write(connection: Connection) -> Order:
        return wish(house, connection, order_store.load_for_update(connection, number), now)

    order = await house.database.write(write)
    log.info("cancel_wished", order_id=order.id, by=by, state=str(order.state), cancel=order.cancel_state)
    house.wakeups.wake("sequencing", "canceling", "dripping")
    return order


class Canceling:
    name = "canceling"

    def __init__(self, house: House) -> None:
        self._house = house
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._crews = Crews(house, self.name, lambda gateway: int(gateway.capabilities.cancel), done=wake)

    async def run_once(self) -> int:
        now = self._house.clock.now()
        waiting, interrupted = await self._house.database.read(
            lambda c: (cancels.waiting(c, now), cancels.any_interrupted(c, now))
        )
        begun = await self._house.database.write(self._find_interrupted) if interrupted else 0
        if any(state != "requested" for _, state in waiting):
            begun += await self._house.database.write(self._follow)
        for provider in sorted({provider for provider, state in waiting if state == "requested"}):
            crew = self._crews.at(provider)
            if crew is not None and crew[1].free:
                crew[1].start(self._ask(crew[0]))
                begun += 1
        return begun

    async def idle(self) -> None:
        await self._crews.idle()

    async def stop(self, grace_s: float) -> None:
        await self._crews.stop(grace_s)

    def _find_interrupted(self, connection: Connection) -> int:
        """Wishes whose sender is gone: the provider may have heard them, and nobody sends them again by himself."""
        now = self._house.clock.now()
        found = cancels.interrupted(connection, now)
        for row in found:
            text = "the daemon stopped while the provider was being asked"
            _note_unclear(connection, row, "interrupted", text, now)
            log.warning("cancel_interrupted", order_number=row["order_number"], provider=row["provider"])
        if found:
            self._house.wakeups.wake("sequencing")
        return len(found)

    def _follow(self, connection: Connection) -> int:
        """Poll orders soon of which a provider heard the wish, at first often, then as their age has it."""
        now = self._house.clock.now()
        rows = cancels.due_looks(connection, now, limit=500)
        for row in rows:
            gateway = self._house.gateways.get(row["provider"])
            elapsed = now - (row["sent_at"] or row["requested_at"])
            if row["order_state"] in FINAL:
                cancels.change(connection, row["number"], next_at=None, finished_at=row["finished_at"] or now)
            elif gateway is None or elapsed > FOLLOWED_FOR:
                cancels.change(connection, row["number"], next_at=None)
            else:
                polls.soon(connection, row["order_number"], now)
                bounds = gateway.settings.status_every_s
                wait_s = min(max(elapsed.total_seconds(), float(bounds.min)), float(bounds.max))
                cancels.change(connection, row["number"], next_at=now + timedelta(seconds=wait_s))
        if rows:
            self._house.wakeups.wake("polling")
        return len(rows)

    # --- one call ---

    async def _ask(self, gateway: Gateway) -> None:
        """Send journaled wishes by one call; the sending is durable before."""
        async with gateway.turn(Priority.STATUS):
            token = claims.new_token()
            asked = await self._house.database.write(lambda c: self._start(c, gateway, token))
            if not asked:
                return
            ids = [provider_order for _, provider_order in asked]
            results, exchange = await gateway.cancels(ids, asked[0][0]["id"])
        while True:
            try:
                await self._house.database.write(lambda c: self._record(c, gateway, asked, token, results, exchange))
                break
            except StorageUnavailable as exc:
                log.error("cancel_not_recorded_yet", cancels=[row["id"] for row, _ in asked], reason=str(exc))
                await asyncio.sleep(STORAGE_RETRY_S)
        log.info("cancels_asked", provider=gateway.name, orders=len(asked), ms=exchange.ms)
        self._house.wakeups.wake("sequencing", "canceling")

    def _start(self, connection: Connection, gateway: Gateway, token: str) -> list[tuple[RowMapping, str]]:
        """Claim what is due and commit that it is being sent; what ended meanwhile needs no sending."""
        now = self._house.clock.now()
        rows = cancels.claim_due(
            connection,
            gateway.name,
            ("requested",),
            now,
            limit=gateway.settings.batch_size,
            lease_s=gateway.timeout_s + LEASE_MARGIN_S,
            token=token,
        )
        asked = []
        for row in rows:
            order = order_store.load_for_update(connection, row["order_number"])
            if order.state in FINAL:
                text = f"the order was {order.state} before the provider was asked"
                _note_refused(connection, row, token, order, "ended", text, None, now)
            else:
                asked.append((row, order.provider_order or ""))
        cancels.mark_sent(connection, [row["number"] for row, _ in asked], now)
        return asked

    def _record(
        self,
        connection: Connection,
        gateway: Gateway,
        asked: Sequence[tuple[RowMapping, str]],
        token: str,
        results: Mapping[str, CancelResult] | NotSent,
        exchange: Exchange,
    ) -> None:
        now = self._house.clock.now()
        for row, provider_order in asked:
            if isinstance(results, NotSent):
                cancels.settle(connection, row["number"], token, sent_at=None, next_at=now + SOON)
                continue
            result = results.get(provider_order, Unclear("missing", "the answer does not speak of this order"))
            self._settle(connection, row, token, result, exchange.as_json(), now)

    def _settle(
        self,
        connection: Connection,
        row: RowMapping,
        token: str,
        result: CancelResult,
        exchange: dict[str, object],
        now: datetime,
    ) -> None:
        order = order_store.load_for_update(connection, row["order_number"])
        match result:
            case CancelAsked():
                cancels.settle(
                    connection,
                    row["number"],
                    token,
                    state="asked",
                    outcome="asked",
                    finished_at=now,
                    next_at=now,
                    exchange=exchange,
                )
                order_store.save(connection, order, wished(order, "asked", now), (_asked(row),), now)
            case CancelRefused(text=text, meaning=meaning):
                again = _AGAIN.get(meaning)
                placed = order_store.placed_at(connection, order.number)
                if meaning is Meaning.UNKNOWN_ORDER and now - placed < NOT_YET_VISIBLE:
                    again = SOON
                if again is None:
                    _note_refused(connection, row, token, order, "refused", text, exchange, now)
                    return
                cancels.settle(
                    connection,
                    row["number"],
                    token,
                    sent_at=None,
                    next_at=now + again,
                    outcome=str(meaning)[:32],
                    detail=text,
                    exchange=exchange,
                )
            case Unclear(reason=reason, text=text):
                _note_unclear(connection, row, reason, text or reason, now, exchange=exchange, order=order)


def _asked(row: RowMapping) -> Draft:
    return Draft("order.cancel_asked", {"cancel": {"id": row["id"], "number": row["number"]}})


def _note_refused(
    connection: Connection,
    row: RowMapping,
    token: str,
    order: Order,
    outcome: str,
    text: str,
    exchange: dict[str, object] | None,
    now: datetime,
) -> None:
    """A wish that came to nothing, with the provider's words."""
    cancels.settle(
        connection,
        row["number"],
        token,
        state="refused",
        outcome=outcome,
        detail=text,
        finished_at=now,
        next_at=None,
        exchange=exchange,
    )
    draft = Draft("order.cancel_refused", {"cancel": {"id": row["id"], "number": row["number"]}, "reason": text})
    order_store.save(connection, order, wished(order, "refused", now), (draft,), now)


def _note_unclear(
    connection: Connection,
    row: RowMapping,
    reason: str,
    text: str,
    now: datetime,
    *,
    exchange: dict[str, object] | None = None,
    order: Order | None = None,
) -> None:
    """The provider may have heard the wish: its status will show it. Told as asked; the order says that it is unclear.

    Only a person may wish it anew, after the status was looked at.
    """
    order = order or order_store.load_for_update(connection, row["order_number"])
    cancels.change(
        connection,
        row["number"],
        state="unclear",
        outcome=reason[:32],
        detail=text,
        next_at=now,
        exchange=exchange,
        polls=order_store.polls_of(connection, order.number),
    )
    order_store.save(connection, order, wished(order, "unclear", now), (_asked(row),), now)
