"""Bugs around cancels, drip-feeds, remainders and counts: what goes on after a purchase by a caller's wish."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, update

from aggregator.domain.money import Money
from aggregator.flow import canceling, counting, refilling
from aggregator.flow.base import House
from aggregator.flow.dripping import Dripping
from aggregator.flow.remainders import Remainders
from aggregator.storage import cancels, children, claims
from aggregator.storage import orders as order_store
from aggregator.storage.tables import cancels as cancels_table
from aggregator.storage.tables import orders as orders_table
from tests.simulation.focus import Focus
from tests.simulation.planted.bug import LOST, SOON_S, Bug, swap


def interrupted_cancel_sent_again(stack: ExitStack) -> None:
    """A wish whose sender died counts as not sent."""

    def interrupted(connection: Connection, now: datetime) -> list[Any]:
        sent = (cancels_table.c.state == "requested") & cancels_table.c.sent_at.is_not(None)
        again = update(cancels_table).where(sent, claims.unclaimed(cancels_table, now))
        connection.execute(again.values(sent_at=None, claim_token=None, claimed_until=None))
        return []

    swap(stack, cancels, "interrupted", interrupted)


def unclear_cancel_sent_again(stack: ExitStack) -> None:
    """A wish whose answer was lost is sent until somebody answers."""

    def note(connection: Connection, row: Any, *_: Any, **__: Any) -> None:
        cancels.change(connection, row["number"], sent_at=None, next_at=row["next_at"])

    swap(stack, canceling, "_note_unclear", note)


def run_made_apart_from_its_due_time(stack: ExitStack) -> None:
    """The run is one commit, and when the next one is due another."""
    real_save = order_store.save
    left: list[tuple[int, object]] = []

    def save(connection: Connection, before: Any, after: Any, drafts: Any, at: datetime, **columns: Any) -> Any:
        if "next_run_at" in columns and before.role == "parent" and before.cancel_state is None:
            left.append((before.number, columns.pop("next_run_at")))
        return real_save(connection, before, after, drafts, at, **columns)

    async def guarded(self: Dripping, number: int, now: datetime, work: Any) -> None:
        left.clear()
        await self._house.database.write(lambda c: work(c, number, now))
        for parent, due in list(left):
            set_due = update(orders_table).where(orders_table.c.number == parent).values(next_run_at=due)
            await self._house.database.write(lambda c, s=set_due: c.execute(s))  # type: ignore[misc]

    swap(stack, order_store, "save", save)
    swap(stack, Dripping, "_guarded", guarded)


def rest_bought_before_its_refund(stack: ExitStack) -> None:
    def refunded(self: Remainders, connection: Connection, order: Any) -> Any:
        return order.charge or Money(1, "USD")

    swap(stack, Remainders, "_refunded", refunded)


def rest_forgets_that_it_was_made(stack: ExitStack) -> None:
    """A remainder is made again in the next place, whatever was made before."""
    real_made, real_save = Remainders._made, order_store.save

    def made(self: Remainders, connection: Connection, order: Any, *more: Any) -> Any:
        child = real_made(self, connection, order, *more)
        if isinstance(child, str):
            return child
        known = [one for one in children.family(connection, order.id) if one.order.parent == order.id]
        return replace(child, ordinal=len(known) + 1)

    def save(connection: Connection, before: Any, after: Any, drafts: Any, at: datetime, **columns: Any) -> Any:
        if (
            "next_remainder_at" in columns
            and any("remainder" in draft.data for draft in drafts)
            and not after.error_type
        ):
            family = children.family(connection, before.id)
            if len(family) < 2:
                columns["next_remainder_at"] = at
        return real_save(connection, before, after, drafts, at, **columns)

    swap(stack, Remainders, "_made", made)
    swap(stack, children, "has_remainder", lambda *_: False)
    swap(stack, order_store, "save", save)


def count_refills_each_time(stack: ExitStack) -> None:
    """Whoever tells a count gets a refill at once, whatever was asked for before."""
    real_record, real_denial = counting._record, vars(refilling)["denial"]

    def record(connection: Connection, house: House, number: int, count: int, now: datetime, *, again: bool) -> Any:
        saved = real_record(connection, house, number, count, now, again=again)
        if saved is not None:
            with ExitStack() as inner:
                forget: Any = lambda order, past, *rest, **more: real_denial(order, (), *rest, **more)  # noqa: E731
                swap(inner, refilling, "denial", forget)
                refilling.request(house, connection, saved, now)
        return order_store.load_for_update(connection, number) if saved is not None else None

    swap(stack, counting, "_record", record)


_CANCELS: Final = Focus(
    services=("plus", "followers"), orders=5, chaos=("arm_crash",), cancels=1.0, drips=0.0, settle_s=SOON_S
)
_DRIPS: Final = Focus(services=("own-runs",), orders=3, drips=1.0, cancels=0.0, chaos=("arm_crash",), settle_s=SOON_S)
_RESTS: Final = Focus(services=("rest",), orders=4, cancels=0.0, chaos=("resolve",), settle_s=SOON_S)

BUGS: Final = (
    Bug(
        "interrupted cancel sent again",
        interrupted_cancel_sent_again,
        "^double: .* to be canceled",
        replace(_CANCELS, crash_at=("smmplus cancel", "heard cancel")),
    ),
    Bug(
        "unclear cancel sent again",
        unclear_cancel_sent_again,
        "^double: .* to be canceled",
        replace(_CANCELS, chaos=("resolve",), faults=LOST, actions=("cancel",)),
    ),
    Bug(
        "a run made apart from its due time",
        run_made_apart_from_its_due_time,
        "^double: .* runs of",
        replace(_DRIPS, crash_at=("committed", "written")),
        first=13,
    ),
    Bug(
        "a rest bought before its refund",
        rest_bought_before_its_refund,
        "of which no refund was booked",
        replace(_RESTS, accounts={"gross_charge": True}),
    ),
    Bug("a rest bought twice", rest_forgets_that_it_was_made, "^double: .* remainders", _RESTS),
    Bug(
        "a count that refills each time",
        count_refills_each_time,
        "within their cooldown",
        Focus(
            services=("drops",),
            orders=4,
            cancels=0.0,
            chaos=("count",),
            refusals=("No drop detected",),
            refusal_chance=1.0,
            actions=("refill",),
            settle_s=SOON_S,
        ),
    ),
)
