"""Purchases that nobody knows the end of: found after a crash, and ended by proof or by a person.

Looks at the evidence while the window is open: the balance, a repetition where the provider honours the key, the ids
between our own. Never a blind second send, however long it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from aggregator.domain.books import Candidate, may_hide
from aggregator.domain.clock import parse_rfc3339, rfc3339
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.events import Draft
from aggregator.domain.evidence import (
    Trust,
    Verdict,
    moved_late,
    settle_time,
    settled_at,
    spoiled,
    verdict,
)
from aggregator.domain.ids import AttemptId
from aggregator.domain.money import format_units
from aggregator.domain.orders import (
    RESTORED,
    NotPurchased,
    Order,
    OrderState,
    Purchased,
    PurchaseUnclear,
    Role,
    apply,
)
from aggregator.flow import ends
from aggregator.flow.base import Crews, House, log
from aggregator.flow.purchases import book_expected
from aggregator.flow.readings import LOOK_BACK, take_reading
from aggregator.flow.recovery import recover_ids, repeat_under_keys
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.providers.reading import identifier
from aggregator.storage import attempts, books, holding, ledger, numbers, refills
from aggregator.storage import orders as order_store
from aggregator.storage.books import Books
from aggregator.storage.database import Connection, RowMapping

FIRST_CODE_CHECK_S: Final = 1.0
MOST_NAMED: Final = 5
"""Orders named that may hide a debit."""
UNCLEAR_REFILL_WAIT: Final = timedelta(days=1)
"""How long a refill whose asking was interrupted counts as perhaps running."""
LOOKS_PER_WINDOW: Final = 10
SOONEST_LOOK_S: Final = 5.0
LATEST_LOOK_S: Final = 60.0
LOOKS_TO_END: Final = 3
"""Looks after the settling time while nothing can be proved any more, for what comes late."""
LOOKS_TO_PROVE: Final = 20
"""The same while "not bought" may still be proved: at a busy provider few readings are quiet."""
JUMP_S: Final = 2.0
"""A clock that gained, or lost, more than this on the steady one between two rounds was put forward, or back."""


class Reconcile:
    name = "reconcile"

    def __init__(self, house: House) -> None:
        self._house = house
        self._first = True
        self._ahead_s = self._clock_ahead()
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._crews = Crews(house, self.name, lambda _: 1, done=wake)

    async def run_once(self) -> int:
        """Purchases whose sender is gone are unclear: they may have been sent, and are never sent again.

        The first time, plans of an earlier run are taken back: after a start an order waits for the first sync.
        """
        await self._mind_the_clock()
        found = await self._house.database.write(self._find_interrupted)
        self._first = False
        for order in found:
            ends.interrupted(order.provider or "")
            log.warning("purchase_interrupted", order_id=order.id, attempt_id=order.attempt, provider=order.provider)
        if found:
            self._house.wakeups.wake("sequencing")
        now = self._house.clock.now()
        due = await self._house.database.read(partial(books.due_windows, now=now))
        begun = 0
        for provider in due:
            crew = self._crews.at(provider)
            if crew is not None and crew[1].free:
                crew[1].start(self._look(crew[0]))
                begun += 1
        return len(found) + begun

    def _clock_ahead(self) -> float:
        return self._house.clock.now().timestamp() - self._house.clock.monotonic()

    async def _mind_the_clock(self) -> None:
        """A clock that was put forward makes a purchase look old that is not: its evidence says by how much. When it is
        put back again, that says so, too."""
        ahead = self._clock_ahead()
        forward = ahead - self._ahead_s
        if abs(forward) > JUMP_S:
            now = self._house.clock.now()
            await self._house.database.write(lambda c: books.note_clock(c, now, forward))
            log.warning("clock_put_forward" if forward > 0 else "clock_put_back", seconds=round(abs(forward), 3))
        self._ahead_s = ahead

    def _find_interrupted(self, connection: Connection) -> list[Order]:
        now = self._house.clock.now()
        if self._first:
            attempts.take_back(connection, None, now)
        found = []
        for attempt in attempts.interrupted(connection, now):
            order = order_store.load_for_update(connection, attempt.order_number)
            detail = "the daemon stopped while the purchase was being sent"
            attempts.finish(connection, attempt.id, None, "unclear", now, outcome="interrupted", detail=detail)
            applied = apply(order, PurchaseUnclear(attempt.id, "interrupted", detail), now)
            books.open_window(connection, attempt.provider, now)
            found.append(order_store.save(connection, order, applied.order, applied.events, now))
        refills.interrupted(connection, now, now + UNCLEAR_REFILL_WAIT)
        return found

    async def idle(self) -> None:
        await self._crews.idle()

    async def stop(self, grace_s: float) -> None:
        """A repetition under a key is a purchase too, and gets its time."""
        await self._crews.stop(grace_s)

    # --- evidence ---

    async def _look(self, gateway: Gateway) -> None:
        """One look at everything that could tell how the unclear purchases of a provider ended."""
        if gateway.settings.idempotent_add:
            await repeat_under_keys(self._house, gateway)
        await take_reading(self._house, gateway, Priority.STATUS)
        if gateway.settings.recover_ids:
            await recover_ids(self._house, gateway)
        freed = await self._house.database.write(lambda c: self._conclude(c, gateway))
        if freed:
            ends.resolved(gateway.name, "balance", placed=False, count=freed)
        self._house.wakeups.wake("polling", "sms_watch", *(("routing", "sequencing") if freed else ()))

    def _conclude(self, connection: Connection, gateway: Gateway) -> int:
        """Act on what is proved; how many orders were freed to be bought elsewhere."""
        now = self._house.clock.now()
        known = books.load(connection, gateway.name)
        settle = settle_time(gateway.settings.settle_s, gateway.timeout_s)
        trust = Trust(gateway.settings.exclusive_account, known.debits_seen, settle)
        # The balance of a child that is an aggregator itself is moved by its own refunds: never evidence.
        child = gateway.settings.idempotent_add
        looked_at: set[str] = set()
        looks: list[datetime] = []
        freed = 0
        for found in books.unclear(connection, gateway.name):
            looked_at.add(found["id"])
            order = order_store.load_for_update(connection, found["order_number"])
            row = books.still_unclear(connection, found["id"])
            if row is None:
                continue  # a person has ended it just now
            proved = Verdict.UNDECIDED if child else verdict(row["evidence"] or [], row["sent_at"], trust)
            if proved is Verdict.NOT_BOUGHT:
                hidden = _hidden_by(connection, row, known, now)
                if hidden is None:
                    _free(connection, order, row, now)
                    freed += 1
                    continue
                if hidden:
                    books.note_kept(connection, row["id"], hidden, now)
            if proved is Verdict.BOUGHT:
                _note_bought(connection, order, row, now)
            if (again := _next_look(row, trust, now, child=child)) is not None:
                looks.append(again)
        # Whoever became unclear since would wait for ever for a look that was planned without it.
        ledger.lock(connection, gateway.name)
        if any(row["id"] not in looked_at for row in books.unclear(connection, gateway.name)):
            looks.append(now)
        books.set_next_evidence(connection, gateway.name, min(looks, default=None))
        return freed


def _next_look(row: RowMapping, trust: Trust, now: datetime, *, child: bool) -> datetime | None:
    """While the window of a purchase is open and a little longer, and as long as one may be repeated under its key."""
    every_s = min(LATEST_LOOK_S, max(SOONEST_LOOK_S, trust.settle.total_seconds() / LOOKS_PER_WINDOW))
    evidence = row["evidence"] or []
    provable = trust.enough and not child and not spoiled(evidence)
    rest_s = every_s * (LOOKS_TO_PROVE if provable else LOOKS_TO_END)
    looks = []
    if now < settled_at(evidence, row["sent_at"], trust.settle) + timedelta(seconds=rest_s):
        looks.append(now + timedelta(seconds=every_s))
    if child:
        again = row["next_resend_at"]
        # One that was passed over, for its provider is paused or down, waits for the next look.
        looks.append(again if again is not None and again > now else now + timedelta(seconds=LATEST_LOOK_S))
    return min(looks, default=None)


def _hidden_by(connection: Connection, row: RowMapping, known: Books, now: datetime) -> Mapping[str, object] | None:
    """What can have hidden the debit, for a person to read: refunds of other orders. All that could have one are asked
    and answered for first, and the balance is read once more; an unclear one cannot be asked. Empty: only the next
    reading tells. None: nothing can have.
    """
    evidence = row["evidence"] or []
    newest = [one for one in evidence if one["kind"] == "balance"][-1]
    if known.certain is None or newest["certain"] != format_units(known.certain):
        return {}  # something was booked since; the next reading shows what that makes of it
    debit, provider, since = row["expected_units"], row["provider"], row["sent_at"] - LOOK_BACK
    owed = books.refunds_due(connection, provider, since)
    if owed is None:
        return {"by": "refunds"}
    unseen = books.may_be_refunded_unseen(connection, provider, row["id"])
    amounts, hidden = [one.units or 0 for one in owed], _together(one.units for one in unseen)
    if hidden is None or may_hide(debit, amounts, hidden):
        by = "refunds" if may_hide(debit, amounts) else "unclear"
        return _named(by, owed if by == "refunds" else unseen)
    asked = [parse_rfc3339(one["at"]) for one in evidence if one["kind"] == "asked"]
    if asked:
        silent = books.unanswered(connection, provider, since)
        if silent is None or may_hide(debit, amounts, hidden + silent):
            books.press(connection, provider, now)
            return {"by": "unanswered"}
        return None if parse_rfc3339(newest["at"]) > asked[-1] else {}
    if not books.ask_again(connection, provider, now, since):
        return None
    books.add_evidence(connection, row["id"], {"kind": "asked", "at": rfc3339(now)})
    return {}


def _together(units: Iterable[int | None]) -> int | None:
    """The sum; None when one of them may be anything."""
    found = list(units)
    return None if None in found else sum(one or 0 for one in found)


def _named(by: str, those: Sequence[Candidate]) -> Mapping[str, object]:
    orders = list(dict.fromkeys(one.order for one in those))
    return {"by": by, "orders": orders[:MOST_NAMED], "more": max(0, len(orders) - MOST_NAMED)}


def _free(connection: Connection, order: Order, row: RowMapping, now: datetime) -> None:
    """Proved not to have bought: the order is bought elsewhere."""
    attempt = AttemptId(row["id"])
    books.add_evidence(connection, attempt, {"kind": "verdict", "at": rfc3339(now), "verdict": "not_bought"})
    detail = "not bought: the balance of this account of our own did not move, and it is debited at once"
    attempts.finish(connection, attempt, None, "not_placed", now, detail=detail)
    freed = apply(order, NotPurchased(attempt), now)
    order_store.save(connection, order, freed.order, freed.events, now, next_route_at=now)
    log.info("purchase_proved_not_bought", order_id=order.id, attempt_id=attempt)


def _note_bought(connection: Connection, order: Order, row: RowMapping, now: datetime) -> None:
    """Proved bought, under an id that nobody told us: it stays on the desk, and says so once."""
    evidence = row["evidence"] or []
    if any(one.get("kind") == "verdict" for one in evidence):
        return
    if moved_late(evidence):
        books.distrust_debits(connection, row["provider"])
    books.add_evidence(connection, row["id"], {"kind": "verdict", "at": rfc3339(now), "verdict": "bought"})
    detail = "bought, as the balance shows, but the provider's id is unknown; resolve it with that id"
    # What was said at first stays: it may name the id.
    said = f"{detail} (at first: {order.error_detail})" if order.error_detail else detail
    order_store.save(connection, order, replace(order, error_detail=said), (), now)
    log.info("purchase_proved_bought", order_id=order.id, attempt_id=row["id"])


async def resolve(
    house: House, reference: str, *, provider_order: str | None, by: str, provider: str | None = None
) -> Order:
    """A person says how an unclear purchase ended: placed under `provider_order`, or (None) not placed.

    Of rented numbers, each has an id: with commas between them. `provider` says where, of an order that is held since
    a restore: only a guess of that is stored. A parent that is held goes on with its runs when it is not placed.
    Problem CONFLICT when the order is not unclear, or when another order already has one of the ids.
    """
    ids = _ids(provider_order) if provider_order is not None else ()
    now = house.clock.now()
    provider_of: dict[str, str] = {}

    def write(connection: Connection) -> Order:
        found = order_store.find(connection, reference, None)
        if found is None:
            raise Problem(ProblemKind.UNKNOWN_ORDER, "no such order")
        order = order_store.load_for_update(connection, found.number)
        if order.role is Role.PARENT and order.error_type == RESTORED:
            if ids:
                detail = "does not go with the parent of a drip-feed: its runs have ids, and are resolved one by one"
                raise Problem(ProblemKind.INVALID_FIELD, detail, "provider_order")
            going_on = replace(order, error_type=None, error_detail=None)
            return order_store.save(connection, order, going_on, (), now)
        if order.state is not OrderState.UNCLEAR or order.attempt is None or order.provider is None:
            raise Problem(ProblemKind.CONFLICT, f"the order is {order.state}; only an unclear order can be resolved")
        attempt = AttemptId(order.attempt)
        if order.kind != "sms" and len(ids) > 1:
            raise Problem(ProblemKind.INVALID_FIELD, "takes several ids for rented numbers only", "provider_order")
        said = {"kind": "person", "at": rfc3339(now), "by": by, "outcome": "placed" if ids else "not_placed"}
        books.add_evidence(connection, attempt, said)
        if not ids:
            attempts.finish(connection, attempt, None, "not_placed", now, detail=f"not placed, says {by}")
            applied = apply(order, NotPurchased(attempt), now)
            provider_of[order.id] = order.provider
            return order_store.save(connection, order, applied.order, applied.events, now, next_route_at=now)
        if provider is not None and provider != order.provider:
            order = _moved(connection, house, order, provider)
        where = order.provider or ""
        if any(order_store.known_elsewhere(connection, where, one, order.number) for one in ids):
            raise Problem(ProblemKind.CONFLICT, "another order has this provider order already", "provider_order")
        attempts.finish(connection, attempt, None, "placed", now, provider_order=ids[0])
        rented = ids if order.kind == "sms" else ()
        applied = apply(order, Purchased(attempt, where, ids[0], len(rented)), now)
        due: dict[str, object] = {"next_poll_at": now, "placed_at": now}
        expected = order.expected_cost
        if rented:
            soon = now + timedelta(seconds=FIRST_CODE_CHECK_S)
            numbers.add(connection, order.number, where, [(one, "", "") for one in rented], now, soon)
            due = {"placed_at": now}
        # Their phones come with the first check.
        told = [Draft("sms.number", {"number": {"phone": "", "provider_order": one}}) for one in rented]
        saved = order_store.save(connection, order, applied.order, (*applied.events, *told), now, **due)
        if expected is not None:
            book_expected(connection, where, saved, expected, now, fresh=False)
        provider_of[order.id] = where
        return saved

    order = await house.database.write(write)
    if order.id in provider_of:
        ends.resolved(provider_of[order.id], "person", placed=bool(ids))
    log.info("order_resolved", order_id=order.id, state=str(order.state), by=by)
    house.wakeups.wake("sequencing", "routing", "polling", "sms_watch", "dripping")
    return order


def _moved(connection: Connection, house: House, order: Order, provider: str) -> Order:
    """The order as one that was bought at another provider than was thought; Problem where that cannot be."""
    if order.error_type != RESTORED:
        detail = f"is known: the purchase was sent to {order.provider}; leave it out"
        raise Problem(ProblemKind.INVALID_FIELD, detail, "provider")
    service = house.settings.services.get(order.service)
    offers = [offer for offer in service.offers if offer.provider == provider] if service is not None else []
    if not offers and provider not in house.settings.providers:
        raise Problem(ProblemKind.INVALID_FIELD, "is none of the config's `providers`", "provider")
    target = offers[0].target if offers else ""
    holding.move(connection, str(order.attempt), provider, target)
    return replace(order, provider=provider, provider_service=target)


def _ids(text: str) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(one.strip() for one in text.split(",")))
    if any(identifier(one) != one for one in ids):
        raise Problem(ProblemKind.INVALID_FIELD, "is no provider's order id", "provider_order")
    return ids
