"""Two ways to learn the id of an unclear purchase: repeat it under its key, or look between our neighbouring ids.

Both are off unless the operator says that the provider allows them. Neither decides anything on a doubtful answer.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Final

from aggregator.domain.catalogue import service_type
from aggregator.domain.clock import rfc3339
from aggregator.domain.wire import NotSent
from aggregator.flow.base import House, log
from aggregator.flow.purchases import send, write_result
from aggregator.providers.contract import Consequence, Failure, Meaning, Placed, PurchaseResult, Refused
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import attempts, books, catalogue
from aggregator.storage import orders as order_store
from aggregator.storage.attempts import Attempt
from aggregator.storage.database import Connection, RowMapping

MOST_IDS: Final = 20
"""More ids than this between two neighbours are not "the few" that may be looked at."""
FIRST_RESEND_S: Final = 5.0
LATEST_RESEND_S: Final = 300.0
_BEFORE_THE_KEY: Final = frozenset({Meaning.AUTH, Meaning.RATE_LIMIT, Meaning.FUNDS, Meaning.ACTIVE_ORDER})
"""Refusals that a provider may give before it looks at the key: they say nothing of the first sending."""


async def repeat_under_keys(house: House, gateway: Gateway) -> None:
    """Send each unclear purchase again under the same key, until it answers; the provider buys only once.

    The only second sending there is, and only where `idempotent_add` says that the provider honours the key.
    """
    now = house.clock.now()
    rows = await house.database.read(partial(books.unclear, provider=gateway.name))
    for row in rows:
        if row["next_resend_at"] is None or row["next_resend_at"] <= now:
            await _repeat(house, gateway, attempts.attempt_from(row), row["resends"])


async def _repeat(house: House, gateway: Gateway, attempt: Attempt, resends: int) -> None:
    wait_s = min(LATEST_RESEND_S, FIRST_RESEND_S * 2.0 ** min(resends, 10))
    again = house.clock.now() + timedelta(seconds=wait_s)
    order = await house.database.read(partial(order_store.load, number=attempt.order_number))
    raw_type = await house.database.read(partial(catalogue.type_of, provider=gateway.name, service=attempt.service))
    kind_type = service_type(order.kind, raw_type) if order is not None else None
    if order is None or kind_type is None:
        return
    async with gateway.turn(Priority.PURCHASE):
        # Durable before it leaves, like the first sending.
        await house.database.write(
            partial(attempts.note_resend, attempt_id=attempt.id, resends=resends + 1, next_resend_at=again)
        )
        result, exchange = await send(gateway, order, attempt, kind_type)
    if not _decides(result):
        return
    evidence: dict[str, object] = {
        "kind": "repeated",
        "at": rfc3339(house.clock.now()),
        "result": type(result).__name__.lower(),
    }

    def write(connection: Connection) -> None:
        books.add_evidence(connection, attempt.id, evidence)
        write_result(connection, house, gateway, attempt, result, exchange)

    await house.database.write(write)
    log.info("purchase_repeated", attempt_id=attempt.id, provider=gateway.name, result=type(result).__name__.lower())
    house.wakeups.wake("sequencing", "routing", "polling", "sms_watch")


def _decides(result: PurchaseResult | NotSent) -> bool:
    if isinstance(result, Refused):
        final = result.consequence in (Consequence.NEXT_OFFER, Consequence.CALLERS_FAULT)
        return final and result.meaning not in _BEFORE_THE_KEY
    return isinstance(result, Placed)


async def recover_ids(house: House, gateway: Gateway) -> None:
    """Ask for the few ids between our neighbouring known ones; exactly one stranger with our price is ours."""
    rows = await house.database.read(partial(books.unclear, provider=gateway.name))
    for row in rows:
        if row["expected_units"] is None or not gateway.batches:
            continue
        unknown = await house.database.read(partial(books.ids_between_neighbours, attempt=row, most=MOST_IDS))
        alike = [other for other in rows if _explains_too(row, other)]
        if not unknown or len(alike) != 1:
            continue
        async with gateway.turn(Priority.STATUS):
            answer = await gateway.statuses(unknown)
        if isinstance(answer, Failure) or len(answer.reports) != 1:
            continue  # nobody answers, or a panel that answers for foreign ids: that decides nothing
        found, report = next(iter(answer.reports.items()))
        if report.charge is None or (report.charge.units, report.charge.currency) != (
            row["expected_units"],
            row["expected_currency"],
        ):
            continue
        await house.database.write(partial(_adopt, house=house, gateway=gateway, row=row, found=found))
        log.info("purchase_recovered", attempt_id=row["id"], provider=gateway.name, provider_order=found)
        house.wakeups.wake("sequencing", "polling")


def _explains_too(row: RowMapping, other: RowMapping) -> bool:
    """Whether an order with this price at this provider could as well be the other purchase's."""
    return bool(row["expected_units"] == other["expected_units"])


def _adopt(connection: Connection, house: House, gateway: Gateway, row: RowMapping, found: str) -> None:
    now = rfc3339(house.clock.now())
    books.add_evidence(connection, row["id"], {"kind": "recovered", "at": now, "provider_order": found})
    write_result(connection, house, gateway, attempts.attempt_from(row), Placed(found))
