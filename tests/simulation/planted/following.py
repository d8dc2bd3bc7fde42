"""Bugs after a purchase: reports, goods, codes, charges and refills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, update

from aggregator.domain import numbers as number_rules
from aggregator.domain.events import Draft
from aggregator.domain.orders import FINAL, Applied, Order, Reported, apply
from aggregator.domain.wire import HttpReply, NotSent
from aggregator.flow import polling, refilling
from aggregator.providers.contract import Failure, StatusBatch, StatusReport, Unclear
from aggregator.providers.dialects.panel_v2 import PanelV2
from aggregator.providers.gateway import Gateway
from aggregator.storage import claims, deliverables, ledger, refills
from aggregator.storage.tables import accounts as accounts_table
from aggregator.storage.tables import refills as refills_table
from tests.simulation.focus import Focus
from tests.simulation.planted.bug import LOST, SOON_S, Bug, swap


def same_report_told_twice(stack: ExitStack) -> None:
    def twice(order: Order, fact: Any, at: datetime) -> Applied:
        applied = apply(order, fact, at)
        if isinstance(fact, Reported) and fact.state is order.state and order.state in FINAL:
            events = {"completed": "order.completed", "partial": "order.partial"}
            name: Any = events.get(str(order.state))
            return Applied(applied.order, (*applied.events, Draft(name))) if name else applied
        return applied

    swap(stack, polling, "apply", twice)


def answers_of_a_batch_mixed_up(stack: ExitStack) -> None:
    real = Gateway.statuses

    async def statuses(self: Gateway, orders: Sequence[str]) -> Any:
        answer = await real(self, orders)
        if isinstance(answer, StatusBatch) and len(answer.reports) > 1:
            names, reports = list(answer.reports), list(answer.reports.values())
            return replace(answer, reports=dict(zip(names, [*reports[1:], reports[0]], strict=True)))
        return answer

    swap(stack, Gateway, "statuses", statuses)


def flat_status_taken_for_all(stack: ExitStack) -> None:
    """One status without an id, in answer to a batch, is taken for each order of it."""
    real = PanelV2.read_statuses

    def read_statuses(self: PanelV2, reply: HttpReply, orders: Sequence[str]) -> StatusBatch | Failure:
        found = real(self, reply, orders)
        if isinstance(found, Failure):
            one = self.read_status(reply, orders[0])
            if isinstance(one, StatusReport):
                return StatusBatch(dict.fromkeys(orders, one), {})
        return found

    swap(stack, PanelV2, "read_statuses", read_statuses)


def charge_not_booked(stack: ExitStack) -> None:
    swap(stack, ledger, "book_charge", lambda *_, **__: None)


def charge_booked_twice(stack: ExitStack) -> None:
    swap(stack, ledger, "charged", lambda *_, **__: 0)


def accounts_stored_again(stack: ExitStack) -> None:
    real_read = deliverables.read

    def add_new(connection: Connection, sealer: Any, order_number: int, delivered: Any, at: datetime) -> Any:
        known = len(real_read(connection, sealer, order_number))
        for ordinal, account in enumerate(delivered, start=known):
            row = {"order_number": order_number, "ordinal": ordinal, "sealed": sealer.seal(account), "delivered_at": at}
            connection.execute(accounts_table.insert().values(**row))
        return len(delivered), known + len(delivered)

    swap(stack, deliverables, "add_new", add_new)


def code_told_again(stack: ExitStack) -> None:
    swap(stack, number_rules, "_same_code", lambda known, report: False)


def refill_asked_again(stack: ExitStack) -> None:
    """One whose answer was lost counts as not asked."""
    real = Gateway.refills

    async def ask(self: Gateway, orders: Sequence[str], key: str | None = None) -> Any:
        results, exchange = await real(self, orders, key)
        if isinstance(results, Mapping) and any(isinstance(result, Unclear) for result in results.values()):
            return NotSent("no answer"), exchange
        return results, exchange

    swap(stack, Gateway, "refills", ask)


def interrupted_refill_asked_again(stack: ExitStack) -> None:
    def interrupted(connection: Connection, now: datetime, retry_at: datetime) -> int:
        asked = (refills_table.c.state == "requested") & refills_table.c.sent_at.is_not(None)
        again = update(refills_table).where(asked, claims.unclaimed(refills_table, now))
        return connection.execute(again.values(sent_at=None, claim_token=None, claimed_until=None)).rowcount

    swap(stack, refills, "interrupted", interrupted)


def cooldown_ignored(stack: ExitStack) -> None:
    """A refill is asked for whatever was asked for before."""
    real: Any = vars(refilling)["denial"]

    def denial(order: Any, past: Any, policy: Any, now: Any, **more: Any) -> Any:
        return real(order, (), policy, now, **more)

    swap(stack, refilling, "denial", denial)


_REFILLS: Final = Focus(services=("drops",), chaos=("arm_crash", "refill"), orders=4, settle_s=SOON_S)

BUGS: Final = (
    Bug(
        "the same report told twice",
        same_report_told_twice,
        "same end is not told twice",
        Focus(services=("drops", "mixed"), chaos=("refill",), settle_s=SOON_S),
    ),
    Bug(
        "answers of a batch mixed up",
        answers_of_a_batch_mixed_up,
        "there it is|there$",
        Focus(services=("plus", "mixed", "partial"), settle_s=SOON_S),
        first=1,
    ),
    Bug(
        "a flat status taken for all of a batch",
        flat_status_taken_for_all,
        "there it is|there$",
        Focus(
            services=("plus", "partial"),
            orders=5,
            chaos=("resolve",),
            flat=True,
            providers={"batch_size": 100},
            settle_s=SOON_S,
        ),
    ),
    Bug(
        "charge not booked",
        charge_not_booked,
        "nothing is booked",
        Focus(services=("plus", "code"), chaos=("resolve",), settle_s=SOON_S),
    ),
    Bug("charge booked twice", charge_booked_twice, "what is booked"),
    Bug("accounts stored again", accounts_stored_again, "accounts", Focus(services=("gmail", "half"), settle_s=SOON_S)),
    Bug("code told again", code_told_again, "has the codes", Focus(services=("code", "odd-code"), settle_s=SOON_S)),
    Bug(
        "refill asked again", refill_asked_again, "refill", replace(_REFILLS, faults=LOST, actions=("refill",)), first=1
    ),
    Bug(
        "interrupted refill asked again",
        interrupted_refill_asked_again,
        "refill",
        replace(_REFILLS, chaos=("arm_crash",), crash_at=("sent refill", "smmcheap refill", "heard refill")),
        first=9,
    ),
    Bug(
        "cooldown ignored",
        cooldown_ignored,
        "within their cooldown",
        replace(_REFILLS, chaos=("refill",), refusals=("No drop detected",), refusal_chance=1.0, actions=("refill",)),
        first=7,
    ),
)
