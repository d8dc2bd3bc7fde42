"""New orders come in: checked field by field, durable with their event before they are answered.

Decides whether an order may be taken at all. Never buys; a bad order of a batch does not hurt its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from aggregator.config import ServiceSettings
from aggregator.domain.catalogue import SMS_NUMBERS, CatalogueRow, QuantityFrom, ServiceType, service_type
from aggregator.domain.children import DRIP, runs_of
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.ids import OrderId, OrderNumber, new_id
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, Role, as_accepted, newborn
from aggregator.domain.parameters import MAX_QUANTITY, check_params, ignored_params, missing_params, quantity_of
from aggregator.flow.base import House
from aggregator.storage import catalogue, idempotency
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.storage.idempotency import Entry, Stored

MAX_NUMBERS: Final = 10
"""hstockplus.txt, add_sms: "Number of numbers (1-10)"."""
MAX_LINK: Final = 2048
MAX_REFERENCE: Final = 255
MAX_PARAM: Final = 100_000
MAX_METADATA: Final = 4096
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


# What a request is made of on its way are tuples: there are thousands a second, and a frozen dataclass takes several
# times as long to be made.


class NewOrder(NamedTuple):
    """An order as a caller asks for it; `owner` is the name of the caller's key."""

    owner: str
    service: str
    quantity: int | None = None
    link: str | None = None
    params: Mapping[str, str] = _NOTHING
    reference: str | None = None
    metadata: Mapping[str, object] = _NOTHING
    max_cost: Money | None = None
    provider: str | None = None
    callback_url: str | None = None
    at_panel: bool = False
    """Asked for at the panel door, by its customs: what the service's type has no use for is left out instead of
    refused (but never runs: without them another thing would be bought), and what nobody has in stock is refused."""


class Idempotency(NamedTuple):
    """The caller's key, what the request was, and how its answer is written: (status, body) of the results.

    `answer` of one accepted order must need nothing but that order: it is asked again when the request comes again.
    """

    owner: str
    key: str
    fingerprint: bytes
    answer: Callable[[Sequence[Order | Problem]], tuple[int, str]]


class Taken(NamedTuple):
    """What became of the orders, one result each; `replayed` is set when the answer is an earlier one."""

    results: tuple[Order | Problem, ...] = ()
    replayed: Stored | None = None


class _Request(NamedTuple):
    """What is stored by one commit: the orders with the times when they give up, and the key."""

    checked: Sequence[tuple[Order, datetime] | Problem]
    once: Idempotency | None
    at: datetime


@dataclass(frozen=True, slots=True)
class _Known:
    """What catalogues say of a service: the types that its offers have, and for each the ranges of quantities."""

    types: tuple[ServiceType, ...]
    ranges: Mapping[str, Sequence[tuple[int, int]]]
    whole: bool
    """Whether the catalogue of each of them is known."""


class Intake:
    """Takes orders. Catalogue rows of configured offers are remembered, so that a check costs no query."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._rows: dict[tuple[str, str], list[CatalogueRow]] = {}
        self._views: dict[tuple[str, str | None], _Known] = {}

    async def refresh(self) -> None:
        """Read again what the catalogues say of the configured offers; called when a sync has ended."""
        self._views.clear()  # with another config they may say what is no longer offered
        wanted = {(o.provider, o.target) for s in self._house.settings.services.values() for o in s.offers}
        rows = await self._house.database.read(lambda c: catalogue.offer_rows(c, sorted(wanted)))
        self._rows = {key: [row for row, _ in entries] for key, entries in rows.items()}
        self._views.clear()

    async def take(self, wishes: Sequence[NewOrder | Problem], once: Idempotency | None = None) -> Taken:
        """Check and store orders in one transaction; with an idempotency key the answer is stored beside them.

        Raises StorageUnavailable when nothing could be written, and Problem IDEMPOTENCY_MISMATCH for a key that was
        used for another request.
        """
        house = self._house
        now = house.clock.now()
        checked = [self._checked(wish, now) for wish in wishes]
        with house.callers.wait(len(checked)):
            taken = await house.database.write_together(_store, _Request(checked, once, now))
        if isinstance(taken, Problem):
            raise taken
        for result in taken.results:
            if isinstance(result, Order):
                house.wakeups.wake("routing", "sequencing")
                break
        return taken

    def check(self, wish: NewOrder) -> Order:
        """The order that this wish would become now; Problem naming the field at fault."""
        return self._order(wish, self._house.clock.now())

    def _order(self, wish: NewOrder, now: datetime) -> Order:
        service = self._house.settings.services.get(wish.service)
        if service is None:
            raise Problem(ProblemKind.UNKNOWN_SERVICE, f"there is no service {wish.service!r}", "service")
        if wish.params:
            check_params(wish.params)
        known = self._known(service, wish.service)
        kind_type = self._type(service, wish, known)
        derived = kind_type.quantity is not QuantityFrom.CALLER
        quantity = quantity_of(kind_type, None if derived and wish.at_panel else wish.quantity, wish.params)
        asked_of = known if wish.provider is None else self._known(service, wish.service, wish.provider)
        self._check_quantity(service, asked_of.ranges.get(kind_type.name), kind_type, quantity)
        if wish.at_panel and self._sold_out(service, wish, quantity):
            facts = {"reason": "out_of_stock"}
            raise Problem(ProblemKind.INVALID_FIELD, "is more than anybody has in stock", "quantity", facts=facts)
        runs = self._runs(service, wish, kind_type, quantity) if wish.params else 1
        lacking = missing_params(kind_type, wish.link, wish.params)
        if lacking:
            name = lacking[0] if lacking[0] == "link" else f"params.{lacking[0]}"
            raise Problem(ProblemKind.INVALID_FIELD, f"is required for services of type {kind_type.name}", name)
        self._check_rest(service, wish)
        # A drip-feed is judged by routing: whether it needs the type's help is not decided here.
        unused: list[str] = []
        if wish.params and known.whole:
            unused = [name for name in ignored_params(kind_type, wish.params) if name not in DRIP]
        if unused and not wish.at_panel:
            detail = f"is not taken by services of type {kind_type.name}; leave it out"
            raise Problem(ProblemKind.INVALID_FIELD, detail, f"params.{unused[0]}")
        return newborn(
            id=OrderId(new_id("ord", now)),
            number=OrderNumber(0),
            owner=wish.owner,
            service=wish.service,
            kind=service.kind,
            quantity=quantity * runs,
            at=now,
            link=wish.link,
            params={
                name: value
                for name, value in wish.params.items()
                if (runs > 1 or name not in DRIP) and name not in unused
            },
            role=Role.PARENT if runs > 1 and not self._dripped_there(service, wish, quantity) else Role.ORDER,
            reference=wish.reference,
            metadata=dict(wish.metadata),
            max_cost=wish.max_cost,
            pinned_provider=wish.provider,
            callback_url=wish.callback_url,
        )

    def _checked(self, wish: NewOrder | Problem, now: datetime) -> tuple[Order, datetime] | Problem:
        if isinstance(wish, Problem):
            return wish
        try:
            order = self._order(wish, now)
        except Problem as problem:
            return problem
        return order, now + timedelta(seconds=self._house.settings.services[order.service].give_up_after_s)

    def _known(self, service: ServiceSettings, name: str, provider: str | None = None) -> _Known:
        """What the catalogues say of a service's offers; nothing while some offer's catalogue is not known yet."""
        known = self._views.get((name, provider))
        if known is None:
            known = self._views[name, provider] = self._look(service, provider)
        return known

    def _look(self, service: ServiceSettings, provider: str | None) -> _Known:
        types: list[ServiceType] = []
        ranges: dict[str, list[tuple[int, int]]] = {}
        for offer in service.offers:
            if provider is not None and offer.provider != provider:
                continue
            rows = self._rows.get((offer.provider, offer.target))
            if not rows:
                return _Known((), {}, whole=False)
            for row in rows:
                known = service_type(service.kind, row.type)
                if known is not None:
                    ranges.setdefault(known.name, []).append((row.minimum, row.maximum))
                    if known not in types:
                        types.append(known)
        return _Known(tuple(types), ranges, whole=True)

    def _type(self, service: ServiceSettings, wish: NewOrder, known: _Known) -> ServiceType:
        """The type that the order fits; among offers of several types the first one that misses and ignores nothing."""
        if service.kind == "sms":
            return SMS_NUMBERS
        types = known.types
        if len(types) == 1:
            return types[0]
        fitting = [one for one in types if not missing_params(one, wish.link, wish.params)]
        taking = [one for one in fitting if not ignored_params(one, wish.params)]
        if types:
            return (taking or fitting or types)[0]
        return self._guessed(service, wish)

    def _guessed(self, service: ServiceSettings, wish: NewOrder) -> ServiceType:
        """Before the first sync: what the parameters look like; routing checks it against the real type."""
        default = service_type(service.kind, None)
        assert default is not None
        if service.kind == "product" or wish.quantity is not None:
            return default
        for name in ("Comment Replies", "Custom Comments", "Mentions Custom List", "Subscriptions"):
            guess = service_type("smm", name)
            if guess is not None and guess.required and not missing_params(guess, wish.link or "-", wish.params):
                return guess
        return default

    def _check_quantity(
        self,
        service: ServiceSettings,
        ranges: Sequence[tuple[int, int]] | None,
        kind_type: ServiceType,
        quantity: int,
    ) -> None:
        if not 1 <= quantity <= MAX_QUANTITY:
            raise Problem(ProblemKind.INVALID_FIELD, f"must be from 1 to {MAX_QUANTITY}, got {quantity}", "quantity")
        if service.kind == "sms" and quantity > MAX_NUMBERS:
            detail, facts = f"must be from 1 to {MAX_NUMBERS} numbers", _bounds(quantity, 1, MAX_NUMBERS)
            raise Problem(ProblemKind.INVALID_FIELD, detail, "quantity", facts=facts)
        if not ranges:
            return
        for least, most in ranges:
            if least <= quantity <= most:
                return
        if kind_type.quantity in (QuantityFrom.ONE, QuantityFrom.SUBSCRIPTION):
            return
        said = " or ".join(sorted({f"{least} to {most}" for least, most in ranges}))
        facts = _bounds(quantity, min(least for least, _ in ranges), max(most for _, most in ranges))
        raise Problem(ProblemKind.INVALID_FIELD, f"must be {said}, got {quantity}", "quantity", facts=facts)

    def _sold_out(self, service: ServiceSettings, wish: NewOrder, quantity: int) -> bool:
        """Whether every offer was last heard to have less than is wanted: who asks can still buy elsewhere."""
        rows: list[CatalogueRow] = []
        for offer in service.offers:
            country = (offer.country or wish.params.get("country") or "").casefold()
            found = self._rows.get((offer.provider, offer.target))
            if not found:
                return False
            rows.extend(row for row in found if not country or row.country.casefold() == country)
        return bool(rows) and all(row.has_stock and row.stock is not None and row.stock < quantity for row in rows)

    def _runs(self, service: ServiceSettings, wish: NewOrder, kind_type: ServiceType, quantity: int) -> int:
        """How many runs the order has, each of `quantity`; one run is an order like any other."""
        runs = runs_of(wish.params)
        if runs == 1:
            return 1
        if service.kind != "smm" or kind_type.quantity is not QuantityFrom.CALLER:
            detail = "goes only with panel services that are ordered by quantity; leave it out"
            raise Problem(ProblemKind.INVALID_FIELD, detail, "params.runs")
        if quantity * runs > MAX_QUANTITY:
            raise Problem(ProblemKind.INVALID_FIELD, f"of all runs must be at most {MAX_QUANTITY}", "quantity")
        return runs

    def _dripped_there(self, service: ServiceSettings, wish: NewOrder, quantity: int) -> bool:
        """Whether some offer is known to take the runs itself; else we make them one by one, which every offer takes.

        Decided once, here, and stored as the order's role.
        """
        for offer in service.offers:
            gateway = self._house.gateways.get(offer.provider)
            if gateway is None or not (gateway.capabilities.drip_feed and gateway.settings.enabled):
                continue
            if wish.provider not in (None, offer.provider):
                continue
            for row in self._rows.get((offer.provider, offer.target), ()):
                kind_type = service_type(row.kind, row.type)
                fits = row.problem is None and row.kind == service.kind and row.minimum <= quantity <= row.maximum
                takes = kind_type is not None and not ignored_params(kind_type, wish.params)
                if fits and takes and kind_type is not None and not missing_params(kind_type, wish.link, wish.params):
                    return True
        return False

    def _check_rest(self, service: ServiceSettings, wish: NewOrder) -> None:
        _check_text(wish.link, MAX_LINK, "link")
        _check_text(wish.reference, MAX_REFERENCE, "reference")
        for name, value in wish.params.items():
            _check_text(value, MAX_PARAM, f"params.{name}")
        if wish.metadata and len(json.dumps(wish.metadata)) > MAX_METADATA:
            raise Problem(ProblemKind.INVALID_FIELD, f"must be at most {MAX_METADATA} bytes as JSON", "metadata")
        if wish.provider is not None and wish.provider not in {offer.provider for offer in service.offers}:
            offered = ", ".join(sorted({offer.provider for offer in service.offers}))
            raise Problem(ProblemKind.INVALID_FIELD, f"no offer of this service is there; it has {offered}", "provider")
        if wish.max_cost is not None:
            self._check_max_cost(wish.max_cost)
        if wish.callback_url is not None:
            self._house.endpoints.check_callback(wish.owner, wish.callback_url)

    def _check_max_cost(self, limit: Money) -> None:
        settings = self._house.settings
        if limit.units <= 0:
            raise Problem(ProblemKind.INVALID_FIELD, "must be more than 0", "max_cost")
        if limit.currency != settings.currency and limit.currency not in settings.exchange_rates:
            raise Problem(
                ProblemKind.INVALID_FIELD,
                f"there is no exchange rate for {limit.currency}; give it in {settings.currency}",
                "max_cost",
            )


def _bounds(quantity: int, least: int, most: int) -> dict[str, str | int]:
    """Where a quantity lies that nobody takes, for programs; between the ranges of several offers it has no word."""
    if quantity < least:
        return {"reason": "below_minimum", "minimum": least}
    return {"reason": "above_maximum", "maximum": most} if quantity > most else {"reason": "between_offers"}


def _check_text(value: str | None, longest: int, field_name: str) -> None:
    """Refuse what some database would not take: it would fail the whole batch."""
    if value is None:
        return
    if len(value) > longest:
        raise Problem(ProblemKind.INVALID_FIELD, f"must have at most {longest} characters", field_name)
    if (found := _UNSTORABLE.search(value)) is not None:
        raise Problem(ProblemKind.INVALID_FIELD, f"holds U+{ord(found[0]):04X}, which is no text", field_name)


def _store(connection: Connection, requests: Sequence[_Request]) -> list[Taken | Problem]:
    """Store what requests that came together ask for, by few statements; what became of each."""
    keyed = [(request.once.owner, request.once.key) for request in requests if request.once is not None]
    if len(set(keyed)) < len(keyed):
        # The second one is answered as the first was: they go one after the other.
        return [_store(connection, [request])[0] for request in requests]
    known = idempotency.find_all(connection, keyed) if keyed else {}
    outcomes: list[Taken | Problem | None] = []
    born: list[tuple[Order, datetime]] = []
    for request in requests:
        once = request.once
        entry = known.get((once.owner, once.key)) if once is not None else None
        if once is not None and entry is not None:
            outcomes.append(_again(connection, entry, once))
        else:
            outcomes.append(None)
            born.extend(one for one in request.checked if not isinstance(one, Problem))
    stored = iter(order_store.add_all(connection, born) if born else ())
    entries: list[tuple[idempotency.Name, Entry]] = []
    for place, request in enumerate(requests):
        if outcomes[place] is None:
            results = tuple(one if isinstance(one, Problem) else next(stored) for one in request.checked)
            outcomes[place] = Taken(results)
            if request.once is not None:
                entries.append(((request.once.owner, request.once.key), _entry(request.once, results)))
    if entries and not idempotency.keep_all(connection, entries, requests[0].at):
        # Only on PostgreSQL: another request with one of the keys committed in between. Nothing of these stays.
        raise Problem(ProblemKind.IDEMPOTENCY_RUNNING, "a request with this Idempotency-Key is running")
    return [outcome for outcome in outcomes if outcome is not None]


def _entry(once: Idempotency, results: Sequence[Order | Problem]) -> Entry:
    """What a key keeps: of one order its number, of everything else the answer."""
    first = next((result.number for result in results if isinstance(result, Order)), None)
    if first is not None and len(results) == 1:
        return Entry(once.fingerprint, None, first)
    return Entry(once.fingerprint, Stored(*once.answer(results)), first)


def _again(connection: Connection, entry: Entry, once: Idempotency) -> Taken | Problem:
    """The answer that was given under a key that is known; Problem when it was given to another request."""
    if entry.fingerprint != once.fingerprint:
        return idempotency.mismatch()
    if entry.answer is not None:
        return Taken(replayed=entry.answer)
    assert entry.order_number is not None, "a key without an answer has an order"
    order = order_store.load(connection, entry.order_number)
    if order is None:
        return Problem(ProblemKind.CONFLICT, "the order of this Idempotency-Key is no longer kept; use a new key")
    return Taken(replayed=Stored(*once.answer([as_accepted(order)])))
