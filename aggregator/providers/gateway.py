"""What the flow holds for each provider account: build by the dialect, send, read by the dialect.

Decides how a call goes (its turn, its timeout, batch or singles) and never what becomes of an order. Every answer is a
typed result; no provider's bytes and no exception of the network get past here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from prometheus_client import Counter, Histogram

from aggregator.config import ProviderSettings
from aggregator.domain.clock import Clock
from aggregator.domain.money import Money
from aggregator.domain.orders import OrderState
from aggregator.domain.wire import HttpReply, HttpRequest, LostReply, NotSent, Outcome
from aggregator.log import Redactor
from aggregator.outbound import Outbound
from aggregator.providers.contract import (
    Account,
    AddRequest,
    AddSmsRequest,
    CancelResult,
    CataloguePage,
    Consequence,
    Country,
    Dialect,
    Failure,
    FailureKind,
    Inventory,
    NumberStatus,
    PurchaseResult,
    RefillReport,
    RefillResult,
    StatusBatch,
    Unclear,
)
from aggregator.providers.dialects import DIALECTS
from aggregator.providers.limits import Limiter, Priority

T = TypeVar("T")

EXCERPT_BYTES: Final = 4096
RATE_LIMIT_PAUSE_S: Final = 5.0
"""How long to be quiet after a rate limit that names no time."""

CALLS = Counter(
    "aggregator_provider_calls_total", "Calls to providers by action and result.", ["provider", "action", "result"]
)
SECONDS = Histogram(
    "aggregator_provider_call_seconds",
    "How long calls to providers took.",
    ["provider", "action"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
UNKNOWN_WORDS = Counter(
    "aggregator_unknown_words_total", "Status words that no table knows; nothing is concluded from them.", ["provider"]
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was sent and what came back, redacted, for the journal: no key, no delivered account."""

    request: tuple[tuple[str, str], ...]
    outcome: str
    status: int | None = None
    body: str | None = None
    ms: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "request": dict(self.request),
            "outcome": self.outcome,
            "status": self.status,
            "body": self.body,
            "ms": self.ms,
        }


class Gateway:
    """One provider account."""

    def __init__(
        self, name: str, settings: ProviderSettings, outbound: Outbound, redactor: Redactor, clock: Clock
    ) -> None:
        self.name = name
        self.settings = settings
        self._outbound = outbound
        self._redactor = redactor
        self._clock = clock
        self._limiter = Limiter(settings.max_concurrency, float(settings.requests_per_second))
        account = Account(
            name=name,
            url=settings.url,
            api_key=settings.api_key.reveal(),
            currency=settings.currency,
            default_link=settings.default_link,
            error_words={text: Consequence(meaning) for text, meaning in settings.words.errors.items()},
            status_words={word: OrderState(state) for word, state in settings.words.status.items()},
        )
        self._dialect: Dialect = DIALECTS[settings.dialect](account)
        self.capabilities = self._dialect.capabilities
        self.batches = self.capabilities.batched_status
        """Whether batched status is believed to work; a provider that proves it does not is asked one by one."""

    @property
    def timeout_s(self) -> float:
        return float(self.settings.timeout_s)

    @property
    def status_batch(self) -> int:
        """How many orders one status call takes."""
        return self.settings.batch_size if self.batches else 1

    @property
    def waiting(self) -> int:
        return self._limiter.waiting

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Wait until a call of this priority may begin. Calls are made inside, one a turn."""
        async with self._limiter.turn(priority):
            yield

    # --- purchases: one send, journaled by the caller before ---

    async def add(self, request: AddRequest) -> tuple[PurchaseResult | NotSent, Exchange]:
        return await self._spend(self._dialect.build_add(request), self._dialect.read_add, _unclear)

    async def add_sms(self, request: AddSmsRequest) -> tuple[PurchaseResult | NotSent, Exchange]:
        return await self._spend(self._dialect.build_add_sms(request), self._dialect.read_add_sms, _unclear)

    async def refills(
        self, orders: Sequence[str], key: str | None = None
    ) -> tuple[Mapping[str, RefillResult] | NotSent, Exchange]:
        return await self._spend(
            self._dialect.build_refills(orders, key),
            lambda reply: self._dialect.read_refills(reply, orders),
            lambda lost: {order: _unclear(lost) for order in orders},
        )

    async def cancels(
        self, orders: Sequence[str], key: str | None = None
    ) -> tuple[Mapping[str, CancelResult] | NotSent, Exchange]:
        return await self._spend(
            self._dialect.build_cancels(orders, key),
            lambda reply: self._dialect.read_cancels(reply, orders),
            lambda lost: {order: _unclear(lost) for order in orders},
        )

    # --- questions ---

    async def statuses(self, orders: Sequence[str]) -> StatusBatch | Failure:
        """The status of up to `status_batch` orders by one call."""
        if self.batches:
            return await self._ask(
                self._dialect.build_statuses(orders), lambda reply: self._dialect.read_statuses(reply, orders)
            )
        report = await self._ask(
            self._dialect.build_status(orders[0]), lambda reply: self._dialect.read_status(reply, orders[0])
        )
        return report if isinstance(report, Failure) else StatusBatch(reports={orders[0]: report})

    async def status(self, order: str) -> StatusBatch | Failure:
        """One order by the single form, for a batch that was refused whole."""
        report = await self._ask(
            self._dialect.build_status(order), lambda reply: self._dialect.read_status(reply, order)
        )
        return report if isinstance(report, Failure) else StatusBatch(reports={order: report})

    async def services(self, page: int = 1, limit: int = 0) -> CataloguePage | Failure:
        return await self._ask(self._dialect.build_services(page, limit), self._dialect.read_services)

    async def sms_projects(self, country: str | None = None) -> CataloguePage | Failure:
        return await self._ask(self._dialect.build_sms_projects(country), self._dialect.read_sms_projects)

    async def sms_countries(self) -> tuple[Country, ...] | Failure:
        return await self._ask(self._dialect.build_sms_countries(), self._dialect.read_sms_countries)

    async def inventory(self, service: str) -> Inventory | Failure:
        return await self._ask(
            self._dialect.build_inventory(service), lambda reply: self._dialect.read_inventory(reply, service)
        )

    async def balance(self) -> Money | Failure:
        return await self._ask(self._dialect.build_balance(), self._dialect.read_balance)

    async def refill_statuses(self, refills: Sequence[str]) -> Mapping[str, RefillReport | Failure] | Failure:
        return await self._ask(
            self._dialect.build_refill_statuses(refills),
            lambda reply: self._dialect.read_refill_statuses(reply, refills),
        )

    async def sms_code(self, order: str) -> NumberStatus | Failure:
        return await self._ask(self._dialect.build_sms_code(order), self._dialect.read_sms_code)

    async def sms_status(self, order: str) -> NumberStatus | Failure:
        return await self._ask(self._dialect.build_sms_status(order), self._dialect.read_sms_status)

    # --- how ---

    async def _ask(self, request: HttpRequest, read: Callable[[HttpReply], T | Failure]) -> T | Failure:
        began = self._clock.monotonic()
        outcome = await self._outbound.read(request, self.timeout_s)
        result: T | Failure
        match outcome:
            case NotSent(reason):
                result = Failure(FailureKind.NOT_SENT, reason)
            case LostReply(reason):
                result = Failure(FailureKind.LOST, reason)
            case HttpReply():
                result = read(outcome)
        word = str(result.kind) if isinstance(result, Failure) else "ok"
        self._count(request, word, began)
        if isinstance(result, Failure) and result.kind is FailureKind.RATE_LIMIT:
            self._limiter.pause(result.retry_after_s or RATE_LIMIT_PAUSE_S)
        return result

    async def _spend(
        self, request: HttpRequest, read: Callable[[HttpReply], T], lost: Callable[[LostReply], T]
    ) -> tuple[T | NotSent, Exchange]:
        began = self._clock.monotonic()
        outcome = await self._outbound.spend(request, self.timeout_s)
        result: T | NotSent
        match outcome:
            case NotSent():
                result = outcome
            case LostReply():
                result = lost(outcome)
            case HttpReply():
                result = read(outcome)
        if isinstance(outcome, HttpReply) and outcome.status == 429:
            self._limiter.pause(outcome.retry_after_s or RATE_LIMIT_PAUSE_S)
        self._count(request, _word(outcome), began)
        return result, self._exchange(request, outcome, began)

    def _count(self, request: HttpRequest, result: str, began: float) -> None:
        CALLS.labels(self.name, request.action, result).inc()
        SECONDS.labels(self.name, request.action).observe(self._clock.monotonic() - began)

    def _exchange(self, request: HttpRequest, outcome: Outcome, began: float) -> Exchange:
        form = tuple((name, self._redactor.text(value)) for name, value in request.form if name != "key")
        ms = round((self._clock.monotonic() - began) * 1000)
        if not isinstance(outcome, HttpReply):
            return Exchange(form, f"{_word(outcome)}: {outcome.reason}", ms=ms)
        text = outcome.body[:EXCERPT_BYTES].decode("utf-8", "replace").replace("\x00", "\ufffd")
        return Exchange(form, "reply", outcome.status, self._redactor.text(text), ms)


def _unclear(lost: LostReply) -> Unclear:
    return Unclear(lost.reason.split(":")[0].strip().replace(" ", "_").lower()[:32], lost.reason)


def _word(outcome: Outcome) -> str:
    match outcome:
        case NotSent():
            return "not_sent"
        case LostReply():
            return "lost"
        case HttpReply():
            return "ok" if outcome.status == 200 else f"http_{outcome.status}"


def build_gateways(
    providers: Iterable[tuple[str, ProviderSettings]], outbound: Outbound, redactor: Redactor, clock: Clock
) -> dict[str, Gateway]:
    return {name: Gateway(name, settings, outbound, redactor, clock) for name, settings in providers}
