"""Rented numbers are watched for codes: quick at first, until each received, ran out or was canceled.

Decides when a number is asked again and when our own clock ends it. A code is told even after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId
from aggregator.domain.money import Money
from aggregator.domain.numbers import Number, NumberReport, NumberState, apply_report, order_state
from aggregator.domain.orders import OrderState, Reported, apply
from aggregator.flow.base import Crews, House, Workers, log
from aggregator.flow.learning import learn_from_charge
from aggregator.flow.words import note_number_word
from aggregator.providers.contract import Failure, FailureKind, NumberStatus
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import claims, ledger, numbers
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, RowMapping

LEASE_MARGIN_S: Final = 30.0
STATUS_EACH: Final = 5
"""One check in so many also asks for the number's status: its end, its charge and its expiry."""
DEFAULT_LIFE: Final = timedelta(minutes=30)
"""How long a number is watched whose provider names no expiry."""
GRACE: Final = timedelta(minutes=1)
"""Clocks differ: our own ends a number only this long after the provider's expiry."""
_ENDS: Final = frozenset({NumberState.EXPIRED, NumberState.CANCELED})
LATEST_CHECK_S: Final = 3600.0
LONGEST_LIFE: Final = timedelta(days=366)
"""An expiry that lies further away is no expiry."""
AFTER_THE_END: Final = timedelta(minutes=10)
"""A number that ran out is still asked for so long, ever more seldom: late codes come."""
SELDOM: Final = 4
"""The pause after the end is a part of the time since then: one in so many."""


def _askers(gateway: Gateway) -> int:
    """One place of the provider's is kept for purchases."""
    return max(1, gateway.settings.max_concurrency - 1) if gateway.capabilities.sms else 0


class SmsWatch:
    name = "sms_watch"

    def __init__(self, house: House) -> None:
        self._house = house
        wake = lambda: house.wakeups.wake(self.name)  # noqa: E731
        self._crews = Crews(house, self.name, _askers, done=wake)

    async def run_once(self) -> int:
        now = self._house.clock.now()
        due = await self._house.database.read(lambda c: numbers.due(c, now))
        begun = 0
        for provider in sorted(due):
            crew = self._crews.at(provider)
            if crew is not None and crew[1].free:
                begun += await self._begin(*crew, now)
        return begun

    async def _begin(self, gateway: Gateway, workers: Workers, now: datetime) -> int:
        token = claims.new_token()
        lease_s = 2 * gateway.timeout_s + LEASE_MARGIN_S
        rows = await self._house.database.write(
            lambda c: numbers.claim_due(c, gateway.name, now, limit=workers.free, lease_s=lease_s, token=token)
        )
        for row in rows:
            workers.start(self._check(gateway, row, token))
        return len(rows)

    async def idle(self) -> None:
        await self._crews.idle()

    async def stop(self, grace_s: float) -> None:
        """Asking for a code costs nothing and is cut at once."""
        await self._crews.stop(0)

    async def _check(self, gateway: Gateway, row: RowMapping, token: str) -> None:
        said: dict[str, NumberStatus] = {}
        async with gateway.turn(Priority.CODE):
            code = await gateway.sms_code(row["provider_order"])
        await self._house.health.note(gateway.name, code)
        answered = _answered(code)
        if not isinstance(code, Failure):
            said["code"] = code
        if self._wants_status(row, code):
            async with gateway.turn(Priority.CODE):
                status = await gateway.sms_status(row["provider_order"])
            answered = answered or _answered(status)
            if not isinstance(status, Failure):
                said["status"] = status
        events = await self._house.database.write(lambda c: self._record(c, gateway, row, token, said, answered))
        if events:
            self._house.wakeups.wake("sequencing")

    def _wants_status(self, row: RowMapping, code: NumberStatus | Failure) -> bool:
        if isinstance(code, Failure):
            return True
        expires_at: datetime | None = row["expires_at"]
        over = expires_at is not None and self._house.clock.now() >= expires_at
        # A code or an end has its price, which only the status tells; so may a received code that is not shown.
        report = code.report
        news = bool(report.code) or report.state in _ENDS or report.state is NumberState.RECEIVED
        return row["checks"] % STATUS_EACH == 0 or over or news

    def _record(
        self,
        connection: Connection,
        gateway: Gateway,
        row: RowMapping,
        token: str,
        said: Mapping[str, NumberStatus],
        answered: bool,
    ) -> int:
        now = self._house.clock.now()
        order = order_store.load_for_update(connection, row["order_number"])
        number = before = numbers.number_from(row, OrderId(order.id))
        drafts: list[Draft] = []
        reports = [status.report for status in said.values()]
        came = any(report.state is NumberState.RECEIVED for report in reports)
        for source, status in said.items():
            if status.report.state is None and status.word:
                note_number_word(connection, gateway.name, order, status.word, now)
            number, told = apply_report(number, _believed(status.report, came, now), now, source=source)
            drafts.extend(told)
        end = _end(number, now) + GRACE
        if answered and not came and number.state is NumberState.WAITING and now > end:
            number, told = apply_report(number, NumberReport(NumberState.EXPIRED), now)
            drafts.extend(told)
        priced = any(report.charge is not None for report in reports)
        due = self._next_check(gateway, number, now, end, priced=priced, answered=answered)
        heard = row["asked_at"] if answered else None
        numbers.save(connection, number, token=token, next_check_at=due, checks=row["checks"] + 1, answered_to=heard)
        if number == before:
            return 0
        if drafts:
            log.info(
                "number_changed", order_id=order.id, provider=gateway.name, state=str(number.state), events=len(drafts)
            )
        if number.charge is not None and number.charge != before.charge:
            ended = number.state in _ENDS
            note = None if ended else ledger.PRICE_TOLD
            ledger.book_charge(
                connection, gateway.name, order.number, number.charge, now, number_id=number.id, note=note
            )
            if not ended:
                learn_from_charge(connection, self._house, order, number.charge, now, number=number.id)
        group = numbers.of_orders(connection, {order.number: order.id}).get(order.id, ())
        charges = [one.charge for one in group if one.charge is not None]
        currencies = {one.currency for one in charges}
        # A sum over two currencies is no amount of either.
        charge = Money(sum(one.units for one in charges), charges[0].currency) if len(currencies) == 1 else None
        received = sum(one.state is NumberState.RECEIVED for one in group)
        state = order_state(group)
        if state is OrderState.COMPLETED and received < order.quantity:
            state = OrderState.PARTIAL  # fewer numbers came than were asked for
        applied = apply(order, Reported(state, charge, None, max(0, order.quantity - received)), now)
        order_store.save(connection, order, applied.order, (*drafts, *applied.events), now)
        return len(drafts) + len(applied.events)

    def _next_check(
        self, gateway: Gateway, number: Number, now: datetime, end: datetime, *, priced: bool, answered: bool
    ) -> datetime | None:
        bounds = gateway.settings.code_every_s
        if number.state is NumberState.WAITING:
            # However late it is: a number whose end nobody has told is still asked for.
            age_s = (now - _born(number, now)).total_seconds()
            # A code that is said to have come and is not shown may never be: nobody ends that number, so it is asked
            # ever more seldom.
            hidden = answered and now > end + AFTER_THE_END
            most_s = max(bounds.max, LATEST_CHECK_S) if hidden else bounds.max
            return now + timedelta(seconds=min(most_s, max(bounds.min, age_s / 20)))
        if number.state is NumberState.CANCELED and priced:
            return None
        # A second code may come while the number lives, and a late one shortly after.
        if now > end + AFTER_THE_END:
            return None
        return now + max(timedelta(seconds=bounds.max), (now - end) / SELDOM)


def _answered(status: NumberStatus | Failure) -> bool:
    """Whether the provider spoke of the number; that it does not know it (any more) counts, being out of reach not."""
    return not isinstance(status, Failure) or status.kind is FailureKind.NOT_FOUND


def _believed(report: NumberReport, came: bool, now: datetime) -> NumberReport:
    """The report without what nobody can go by: an expiry in another age, and an end by time of a number whose code
    came, as the other answer of the same check says."""
    if report.expires_at is not None and abs(report.expires_at - now) > LONGEST_LIFE:
        report = replace(report, expires_at=None)
    return replace(report, state=None) if came and report.state is NumberState.EXPIRED else report


def _end(number: Number, now: datetime) -> datetime:
    """When our own clock ends a number; an expiry before its birth is a wrong clock or zone, and is not believed."""
    born = _born(number, now)
    if number.expires_at is not None and number.expires_at > born:
        return number.expires_at
    return born + DEFAULT_LIFE


def _born(number: Number, now: datetime) -> datetime:
    return number.created_at or now
