"""Two ways to learn the id of an unclear purchase: repeat it under its key, or look between our neighbouring ids.

Both are off unless the operator says that the provider allows them. Neither decides anything on a doubtful answer.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Final

from aggregator.domain.catalogue import service_type
from aggregator.domain.clock import rfc3339
from aggregator.domain.errors import ClaimLost, StorageUnavailable
from aggregator.domain.evidence import settle_time
from aggregator.domain.orders import OrderState
from aggregator.domain.wire import NotSent
from aggregator.flow import ends
from aggregator.flow.base import STORAGE_RETRY_S, House, log
from aggregator.flow.purchases import detail, send, write_result
from aggregator.providers.contract import (
    Consequence,
    Failure,
    Meaning,
    Placed,
    PurchaseResult,
    Refused,
    StatusBatch,
    Unclear,
)
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import attempts, books, catalogue
from aggregator.storage import orders as order_store
from aggregator.storage.attempts import Attempt
from aggregator.storage.books import Between
from aggregator.storage.database import Connection, RowMapping

MOST_IDS: Final = 20
"""More ids than this between two neighbours are not "the few" that may be looked at."""
FIRST_RESEND_S: Final = 5.0
LATEST_RESEND_S: Final = 300.0
CONTROLS: Final = 5
"""So many ids beyond each neighbour, that should be nobody's, tell whether the panel answers for foreign ones."""
_BEFORE_THE_KEY: Final = frozenset({Meaning.AUTH, Meaning.RATE_LIMIT, Meaning.FUNDS, Meaning.ACTIVE_ORDER})
"""Refusals that a provider may give before it looks at the key: they say nothing of the first sending."""


async def repeat_under_keys(house: House, gateway: Gateway) -> None:
    """Send each unclear purchase again under the same key, until it answers; the provider buys only once.

    The only second sending there is, and only where `idempotent_add` says that the provider honours the key. A
    provider that is paused or down is left in peace: a repetition may be the one that buys.
    """
    rows = await house.database.read(partial(books.unclear, provider=gateway.name))
    for row in rows:
        now = house.clock.now()
        if row["next_resend_at"] is not None and row["next_resend_at"] > now:
            continue
        known = (await house.database.read(catalogue.health)).get(gateway.name)
        if (known is not None and known["paused"]) or house.health.down_reason(gateway.name) is not None:
            return
        await _repeat(house, gateway, row)


async def _repeat(house: House, gateway: Gateway, row: RowMapping) -> None:
    attempt, resends = attempts.attempt_from(row), row["resends"] + 1
    wait_s = min(LATEST_RESEND_S, FIRST_RESEND_S * 2.0 ** min(row["resends"], 10))
    order = await house.database.read(partial(order_store.load, number=attempt.order_number))
    raw_type = await house.database.read(partial(catalogue.type_of, provider=gateway.name, service=attempt.service))
    kind_type = service_type(order.kind, raw_type) if order is not None else None
    if order is None or kind_type is None:
        log.warning("purchase_not_repeatable", attempt_id=attempt.id, provider=gateway.name, service=attempt.service)
        later = house.clock.now() + timedelta(seconds=LATEST_RESEND_S)
        await house.database.write(
            partial(attempts.note_resend, attempt_id=attempt.id, resends=row["resends"], next_resend_at=later)
        )
        return
    async with gateway.turn(Priority.PURCHASE):
        again = house.clock.now() + timedelta(seconds=wait_s)
        # Durable before it leaves, like the first sending; and a person may have ended it while this waited.
        if not await house.database.write(
            partial(attempts.note_resend, attempt_id=attempt.id, resends=resends, next_resend_at=again)
        ):
            return
        result, exchange = await send(gateway, order, attempt, kind_type)
    evidence: dict[str, object] = {
        "kind": "repeated",
        "at": rfc3339(house.clock.now()),
        "result": type(result).__name__.lower(),
        "detail": detail(result),
    }
    decides = _decides(result, house, gateway, attempt)

    def write(connection: Connection) -> bool:
        """Whether that ended it."""
        order_store.load_for_update(connection, attempt.order_number)
        if books.still_unclear(connection, attempt.id) is None:
            raise ClaimLost(f"attempt {attempt.id}")
        if decides or not isinstance(result, Unclear | NotSent):
            books.add_evidence(connection, attempt.id, evidence)
        if not decides:
            return False
        return write_result(connection, house, gateway, attempt, result, exchange).state is not OrderState.UNCLEAR

    while True:
        try:
            if await house.database.write(write):
                ends.resolved(gateway.name, "repetition", placed=isinstance(result, Placed))
            break
        except StorageUnavailable as exc:
            # Unlike a first sending it may be repeated, but what it answered is worth a few tries.
            log.error("purchase_not_recorded_yet", attempt_id=attempt.id, reason=str(exc))
            await asyncio.sleep(STORAGE_RETRY_S)
        except ClaimLost:
            log.error("purchase_result_came_too_late", attempt_id=attempt.id, detail=detail(result))
            return
    log.info("purchase_repeated", attempt_id=attempt.id, provider=gateway.name, result=type(result).__name__.lower())
    if decides:
        house.wakeups.wake("sequencing", "routing", "polling", "sms_watch")
    await _note_health(house, gateway, result)


def _decides(result: PurchaseResult | NotSent, house: House, gateway: Gateway, attempt: Attempt) -> bool:
    """A refusal says that the first sending was not taken either, but not as long as that may still be on its way."""
    if not isinstance(result, Refused):
        return isinstance(result, Placed)
    final = result.consequence in (Consequence.NEXT_OFFER, Consequence.CALLERS_FAULT)
    settle = settle_time(gateway.settings.settle_s, gateway.timeout_s)
    settled = attempt.sent_at is not None and house.clock.now() >= attempt.sent_at + settle
    return final and settled and result.meaning not in _BEFORE_THE_KEY


async def _note_health(house: House, gateway: Gateway, result: PurchaseResult | NotSent) -> None:
    match result:
        case NotSent(reason):
            await house.health.failed(gateway.name, reason)
        case Unclear(reason=reason):
            await house.health.failed(gateway.name, reason, purchase=True)
        case _:
            await house.health.answered(gateway.name, purchase=True)


async def recover_ids(house: House, gateway: Gateway) -> None:
    """Ask for the few ids between our neighbouring known ones; exactly one stranger with our price is ours."""
    rows = await house.database.read(partial(books.unclear, provider=gateway.name))
    for row in rows:
        most = min(MOST_IDS, gateway.status_batch - 2 * CONTROLS)
        if row["expected_units"] is None or most < 1:
            continue
        between = await house.database.read(
            partial(books.ids_between_neighbours, attempt=row, most=most, controls=CONTROLS)
        )
        if between is None or not between.unknown or between.rivals:
            continue
        async with gateway.turn(Priority.STATUS):
            answer = await gateway.statuses([*between.unknown, *between.beyond])
        found = _stranger(answer, between, row)
        if found is None:
            continue
        if await house.database.write(partial(_adopt, house=house, gateway=gateway, row=row, found=found)):
            ends.resolved(gateway.name, "id", placed=True)
        log.info("purchase_recovered", attempt_id=row["id"], provider=gateway.name, provider_order=found)
        house.wakeups.wake("sequencing", "polling")


def _stranger(answer: StatusBatch | Failure, between: Between, row: RowMapping) -> str | None:
    """The one id that can only be ours. A panel that answers for foreign ids, or leaves one out, decides nothing."""
    if isinstance(answer, Failure) or len(answer.reports) != 1:
        return None
    found, report = next(iter(answer.reports.items()))
    unknown = all(meaning is Meaning.UNKNOWN_ORDER for meaning, _ in answer.errors.values())
    complete = len(answer.errors) == len(between.unknown) + len(between.beyond) - 1
    charge = report.charge
    ours = charge is not None and (charge.units, charge.currency) == (row["expected_units"], row["expected_currency"])
    return found if unknown and complete and ours and found in between.unknown else None


def _adopt(connection: Connection, house: House, gateway: Gateway, row: RowMapping, found: str) -> bool:
    """Whether that ended it: a person may have been there first."""
    order = order_store.load_for_update(connection, row["order_number"])
    if order.kind == "sms" or books.still_unclear(connection, row["id"]) is None:
        return False
    now = rfc3339(house.clock.now())
    books.add_evidence(connection, row["id"], {"kind": "recovered", "at": now, "provider_order": found})
    ended = write_result(connection, house, gateway, attempts.attempt_from(row), Placed(found))
    return ended.state is not OrderState.UNCLEAR
