"""New orders come in: checked field by field, durable with their event before they are answered.

Decides whether an order may be taken at all. Never buys; a bad order of a batch does not hurt its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from aggregator.config import ServiceSettings
from aggregator.domain.catalogue import SMS_NUMBERS, CatalogueRow, QuantityFrom, ServiceType, service_type
from aggregator.domain.children import DRIP, runs_of
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.events import Draft
from aggregator.domain.ids import OrderId, OrderNumber, new_id
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState, Role
from aggregator.domain.parameters import MAX_QUANTITY, check_params, ignored_params, missing_params, quantity_of
from aggregator.flow.base import House
from aggregator.flow.views import offer_service
from aggregator.storage import catalogue, idempotency
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.storage.idempotency import Stored

MAX_NUMBERS: Final = 10
"""hstockplus.txt, add_sms: "Number of numbers (1-10)"."""
MAX_LINK: Final = 2048
MAX_REFERENCE: Final = 255
MAX_PARAM: Final = 100_000
MAX_METADATA: Final = 4096
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order as a caller asks for it; `owner` is the name of the caller's key."""

    owner: str
    service: str
    quantity: int | None = None
    link: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    max_cost: Money | None = None
    provider: str | None = None
    callback_url: str | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The caller's key, what the request was, and how its answer is written: (status, body) of the result."""

    owner: str
    key: str
    fingerprint: str
    answer: Callable[[Sequence[Order | Problem]], tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the orders, one result each; `replayed` is set when the answer is an earlier one."""

    results: tuple[Order | Problem, ...] = ()
    replayed: Stored | None = None


class Intake:
    """Takes orders. Catalogue rows of configured offers are remembered, so that a check costs no query."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._rows: dict[tuple[str, str], list[CatalogueRow]] = {}

    async def refresh(self) -> None:
        """Read again what the catalogues say of the configured offers; called when a sync has ended."""
        wanted = {(o.provider, offer_service(o)) for s in self._house.settings.services.values() for o in s.offers}
        rows = await self._house.database.read(lambda c: catalogue.offer_rows(c, sorted(wanted)))
        self._rows = {key: [row for row, _ in entries] for key, entries in rows.items()}

    async def take(self, wishes: Sequence[NewOrder | Problem], once: Idempotency | None = None) -> Taken:
        """Check and store orders in one transaction; with an idempotency key the answer is stored beside them.

        Raises StorageUnavailable when nothing could be written, and Problem IDEMPOTENCY_MISMATCH for a key that was
        used for another request.
        """
        checked = [self._checked(wish) for wish in wishes]

        def write(connection: Connection) -> Taken:
            if once is not None and (stored := idempotency.find(connection, once.owner, once.key)) is not None:
                return Taken(replayed=_same(stored, once))
            results: list[Order | Problem] = []
            for one in checked:
                if isinstance(one, Problem):
                    results.append(one)
                else:
                    order, give_up_after = one
                    give_up_at = order.created_at + give_up_after
                    results.append(
                        order_store.add(connection, order, (Draft("order.accepted"),), give_up_at=give_up_at)
                    )
            if once is not None:
                status, body = once.answer(results)
                first = next((result.number for result in results if isinstance(result, Order)), None)
                answer = Stored(once.fingerprint, status, body)
                now = self._house.clock.now()
                if not idempotency.keep(connection, once.owner, once.key, answer, now, first):
                    # Only on PostgreSQL: another request with the key committed in between.
                    raise Problem(ProblemKind.IDEMPOTENCY_RUNNING, "a request with this Idempotency-Key is running")
            return Taken(tuple(results))

        taken = await self._house.database.write(write)
        if any(isinstance(result, Order) for result in taken.results):
            self._house.wakeups.wake("routing", "sequencing")
        return taken

    def check(self, wish: NewOrder) -> Order:
        """The order that this wish would become; Problem naming the field at fault."""
        service = self._house.settings.services.get(wish.service)
        if service is None:
            raise Problem(ProblemKind.UNKNOWN_SERVICE, f"there is no service {wish.service!r}", "service")
        check_params(wish.params)
        kind_type = self._type(service, wish)
        quantity = quantity_of(kind_type, wish.quantity, wish.params)
        self._check_quantity(service, wish, kind_type, quantity)
        runs = self._runs(service, wish, kind_type, quantity)
        lacking = missing_params(kind_type, wish.link, wish.params)
        if lacking:
            name = lacking[0] if lacking[0] == "link" else f"params.{lacking[0]}"
            raise Problem(ProblemKind.INVALID_FIELD, f"is required for services of type {kind_type.name}", name)
        self._check_rest(service, wish)
        # A drip-feed is judged by routing: whether it needs the type's help is not decided here.
        ignored = [name for name in ignored_params(kind_type, wish.params) if name not in DRIP]
        if ignored and self._known(service):
            detail = f"is not taken by services of type {kind_type.name}; leave it out"
            raise Problem(ProblemKind.INVALID_FIELD, detail, f"params.{ignored[0]}")
        now = self._house.clock.now()
        return Order(
            id=OrderId(new_id("ord", now)),
            number=OrderNumber(0),
            owner=wish.owner,
            service=wish.service,
            kind=service.kind,
            state=OrderState.ACCEPTED,
            quantity=quantity * runs,
            created_at=now,
            updated_at=now,
            link=wish.link,
            params={name: value for name, value in wish.params.items() if runs > 1 or name not in DRIP},
            role=Role.PARENT if runs > 1 and not self._dripped_there(service, wish, quantity) else Role.ORDER,
            reference=wish.reference,
            metadata=dict(wish.metadata),
            max_cost=wish.max_cost,
            pinned_provider=wish.provider,
            callback_url=wish.callback_url,
        )

    def _checked(self, wish: NewOrder | Problem) -> tuple[Order, timedelta] | Problem:
        if isinstance(wish, Problem):
            return wish
        try:
            order = self.check(wish)
        except Problem as problem:
            return problem
        return order, timedelta(seconds=self._house.settings.services[order.service].give_up_after_s)

    def _known(self, service: ServiceSettings, provider: str | None = None) -> list[CatalogueRow]:
        """The catalogue rows of a service's offers; empty when some offer's catalogue is not known yet."""
        rows: list[CatalogueRow] = []
        for offer in service.offers:
            if provider is not None and offer.provider != provider:
                continue
            found = self._rows.get((offer.provider, offer_service(offer)))
            if not found:
                return []
            rows.extend(found)
        return rows

    def _type(self, service: ServiceSettings, wish: NewOrder) -> ServiceType:
        """The type that the order fits; among offers of several types the first one that misses and ignores nothing."""
        types: list[ServiceType] = []
        for row in self._known(service):
            known = service_type(service.kind, row.type)
            if known is not None and known not in types:
                types.append(known)
        if service.kind == "sms":
            return SMS_NUMBERS
        fitting = [known for known in types if not missing_params(known, wish.link, wish.params)]
        taking = [known for known in fitting if not ignored_params(known, wish.params)]
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

    def _check_quantity(self, service: ServiceSettings, wish: NewOrder, kind_type: ServiceType, quantity: int) -> None:
        if not 1 <= quantity <= MAX_QUANTITY:
            raise Problem(ProblemKind.INVALID_FIELD, f"must be from 1 to {MAX_QUANTITY}, got {quantity}", "quantity")
        if service.kind == "sms" and quantity > MAX_NUMBERS:
            raise Problem(ProblemKind.INVALID_FIELD, f"must be from 1 to {MAX_NUMBERS} numbers", "quantity")
        rows = [row for row in self._known(service, wish.provider) if service_type(service.kind, row.type) == kind_type]
        if not rows or kind_type.quantity in (QuantityFrom.ONE, QuantityFrom.SUBSCRIPTION):
            return
        if not any(row.minimum <= quantity <= row.maximum for row in rows):
            ranges = " or ".join(sorted({f"{row.minimum} to {row.maximum}" for row in rows}))
            raise Problem(ProblemKind.INVALID_FIELD, f"must be {ranges}, got {quantity}", "quantity")

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
            for row in self._rows.get((offer.provider, offer_service(offer)), ()):
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
        if len(json.dumps(wish.metadata)) > MAX_METADATA:
            raise Problem(ProblemKind.INVALID_FIELD, f"must be at most {MAX_METADATA} bytes as JSON", "metadata")
        offered = sorted({offer.provider for offer in service.offers})
        if wish.provider is not None and wish.provider not in offered:
            raise Problem(
                ProblemKind.INVALID_FIELD, f"no offer of this service is there; it has {', '.join(offered)}", "provider"
            )
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


def _check_text(value: str | None, longest: int, field_name: str) -> None:
    """Refuse what some database would not take: it would fail the whole batch."""
    if value is None:
        return
    if len(value) > longest:
        raise Problem(ProblemKind.INVALID_FIELD, f"must have at most {longest} characters", field_name)
    if (found := _UNSTORABLE.search(value)) is not None:
        raise Problem(ProblemKind.INVALID_FIELD, f"holds U+{ord(found[0]):04X}, which is no text", field_name)


def _same(stored: Stored, once: Idempotency) -> Stored:
    if stored.fingerprint != once.fingerprint:
        raise Problem(
            ProblemKind.IDEMPOTENCY_MISMATCH,
            "this Idempotency-Key was used for another request; use a new key for a new request",
            "Idempotency-Key",
        )
    return stored
