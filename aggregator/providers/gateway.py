"""What the flow holds for each provider account: build by the dialect, send, read by the dialect.

Decides how a call goes (its turn, its timeout, batch or singles) and never what becomes of an order. Every answer is a
typed result; no provider's bytes and no exception of the network get past here.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar

from prometheus_client import Counter, Histogram

from aggregator.config import ProviderSettings
from aggregator.domain.clock import Clock
from aggregator.domain.money import Money
from aggregator.domain.orders import OrderState
from aggregator.domain.wire import HttpReply, HttpRequest, LostReply, NotSent, Outcome
from aggregator.log import Redactor
from aggregator.outbound import Outbound
from aggregator.providers import meanings, refusals
from aggregator.providers.advice import advised
from aggregator.providers.contract import (
    MAX_BATCH,
    Account,
    AddRequest,
    AddSmsRequest,
    BatchForm,
    CancelRefused,
    CancelResult,
    CataloguePage,
    Consequence,
    Country,
    Dialect,
    Failure,
    FailureKind,
    Inventory,
    Meaning,
    NumberStatus,
    PurchaseResult,
    RefillRefused,
    RefillReport,
    RefillResult,
    Refused,
    StatusBatch,
    Unclear,
)
from aggregator.providers.dialects import DIALECTS
from aggregator.providers.limits import Limiter, Priority
from aggregator.providers.words import wait_named

T = TypeVar("T")

EXCERPT_CHARS: Final = 4096
_SEARCHED_BYTES: Final = 64 * 1024
_DELIVERED: Final = re.compile(r'"(?:accounts|sms_content)"\s*:', re.IGNORECASE)
"""What some answer carries that was bought: it is sealed elsewhere and never stands in the journal."""
BATCHES_AGAIN_S: Final = 3600.0
"""How long a provider without batches is asked one by one, or by smaller ones, before it is tried again."""
RATE_LIMIT_PAUSE_S: Final = 5.0
"""How long to be quiet after a rate limit that names no time."""
LONGEST_PAUSE_S: Final = 3600.0
"""One call an hour disturbs nobody, and finds out whether a provider still means what it said."""
TRY_AGAIN_S: Final = 60.0
"""How long what was tried in vain is not tried again, the first time; then twice as long, up to an hour."""
LONGEST_TRY_AGAIN_S: Final = 3600.0
_MOST_TRIES: Final = 10_000
_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
"""Others are a provider's invention, and get no series of their own."""

CALLS = Counter(
    "aggregator_provider_calls_total", "Calls to providers by action and result.", ["provider", "action", "result"]
)
SECONDS = Histogram(
    "aggregator_provider_call_seconds",
    "How long calls to providers took.",
    ["provider", "action"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """How a provider takes many ids in one status call. `form` None: not found out yet, the documented one is tried."""

    form: BatchForm | None = None
    limit: int = MAX_BATCH


@dataclass(slots=True)
class _Try:
    again_at: float
    wait_s: float
    in_vain: bool


class Tries:
    """What was tried at a provider beside the plain calls, so that it is not tried at every one of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tries: dict[str, _Try] = {}

    def due(self, what: str) -> bool:
        known = self._tries.get(what)
        return known is None or self._clock.monotonic() >= known.again_at

    def in_vain(self, what: str) -> bool:
        """Whether it was tried, and nothing came of it."""
        known = self._tries.get(what)
        return known is not None and known.in_vain

    def note(self, what: str, *, in_vain: bool) -> None:
        """It was tried just now."""
        now = self._clock.monotonic()
        known = self._tries.pop(what, None)
        wait_s = TRY_AGAIN_S if known is None else min(2 * known.wait_s, LONGEST_TRY_AGAIN_S)
        self._tries[what] = _Try(now + wait_s, wait_s, in_vain)
        if len(self._tries) > _MOST_TRIES:
            del self._tries[next(iter(self._tries))]

    def forget(self, what: str) -> None:
        self._tries.pop(what, None)


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
        self.tries = Tries(clock)
        self._questions_again_at = -math.inf
        self._batch = Batch()
        self._batches_again_at = -math.inf
        if settings.status_batch != "auto":
            self._batch = Batch(BatchForm(settings.status_batch))

    def succeed(self, before: Gateway) -> None:
        """Go on as another gateway to the same account: its limits, pauses and findings are this one's from now on."""
        ours, theirs = self.settings, before.settings
        if (ours.dialect, ours.url, ours.api_key) != (theirs.dialect, theirs.url, theirs.api_key):
            return
        self._limiter = before._limiter
        self._limiter.change(ours.max_concurrency, float(ours.requests_per_second))
        self._questions_again_at = before._questions_again_at
        self.tries = before.tries
        if ours.status_batch == theirs.status_batch:
            self._batch, self._batches_again_at = before._batch, before._batches_again_at

    @property
    def batch(self) -> Batch:
        """How statuses are asked for in batches, as far as is known. Where a provider proved to have none, or to take
        few at once, that is forgotten after a while: it may have learned, or it was a passing fault."""
        if not self.capabilities.batched_status:
            return Batch(BatchForm.SINGLE)
        if self._clock.monotonic() < self._batches_again_at:
            return self._batch
        if self._batch.form is BatchForm.SINGLE:
            return Batch() if self.settings.status_batch == "auto" else self._batch
        return Batch(self._batch.form)

    @property
    def batches(self) -> bool:
        """Whether batched status is believed to work."""
        return self.batch.form is not BatchForm.SINGLE

    def use_batch(self, batch: Batch) -> bool:
        """Ask in this way from now on; whether that is news. What the config says goes before all that is found."""
        if self.settings.status_batch != "auto" and batch.form is not self._batch.form:
            return False
        news = batch != self._batch
        self._batch = batch
        self._batches_again_at = self._clock.monotonic() + BATCHES_AGAIN_S
        return news

    @property
    def timeout_s(self) -> float:
        return float(self.settings.timeout_s)

    @property
    def status_batch(self) -> int:
        """How many orders one status call takes."""
        return min(self.settings.batch_size, self.batch.limit) if self.batches else 1

    @property
    def waiting(self) -> int:
        return self._limiter.waiting

    @property
    def quiet_s(self) -> float:
        """Seconds for which the provider asked not to be called at all (a rate limit)."""
        return self._limiter.quiet_s

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Wait until a call of this priority may begin. Calls are made inside, one a turn."""
        while True:
            if priority is not Priority.PURCHASE and (wait_s := self._questions_quiet_s) > 0:
                await asyncio.sleep(wait_s)
            async with self._limiter.turn(priority):
                # The answer that asked for a pause may have come while this call waited for its place.
                if priority is Priority.PURCHASE or self._questions_quiet_s <= 0:
                    yield
                    return

    @property
    def _questions_quiet_s(self) -> float:
        return self._questions_again_at - asyncio.get_running_loop().time()

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

    async def statuses(self, orders: Sequence[str], form: BatchForm | None = None) -> StatusBatch | Failure:
        """The status of up to `status_batch` orders by one call; one alone goes by the form that everybody knows."""
        if len(orders) == 1:
            return await self.status(orders[0])
        form = form or self.batch.form or BatchForm.ORDERS
        return await self._ask(
            self._dialect.build_statuses(orders, form), lambda reply: self._dialect.read_statuses(reply, orders)
        )

    async def status(self, order: str) -> StatusBatch | Failure:
        """One order by the single form."""
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
        self._heed(outcome, result)
        return advised(self.name, result) if isinstance(result, Failure) else result

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
        self._heed(outcome, result)
        self._count(request, _word(outcome, result), began)
        return result, self._exchange(request, outcome, began)

    def _heed(self, outcome: Outcome, result: object) -> None:
        """Be quiet for as long as the provider asks: by a rate limit, which may be only a text (quirks.md "Envelope"),
        or by `Retry-After` beside anything that is no success."""
        if not isinstance(outcome, HttpReply):
            return
        limits = list(_rate_limits(result))
        if limits or outcome.status == 429:
            named_s = max((wait_s or 0.0 for wait_s in limits), default=0.0)
            self._limiter.pause(min(named_s or outcome.retry_after_s or RATE_LIMIT_PAUSE_S, LONGEST_PAUSE_S))
            return
        failed = not 200 <= outcome.status < 300 or isinstance(result, Failure | Refused | Unclear)
        if not outcome.retry_after_s or not failed:
            return
        wait_s = min(outcome.retry_after_s, LONGEST_PAUSE_S)
        if outcome.status == 503:
            self._limiter.pause(wait_s)
        else:  # of this question or order, perhaps: the others are not sold less for it
            again_at = asyncio.get_running_loop().time() + wait_s
            self._questions_again_at = max(self._questions_again_at, again_at)

    def _count(self, request: HttpRequest, result: str, began: float) -> None:
        CALLS.labels(self.name, request.action, result).inc()
        SECONDS.labels(self.name, request.action).observe(self._clock.monotonic() - began)

    def _exchange(self, request: HttpRequest, outcome: Outcome, began: float) -> Exchange:
        form = tuple((name, self._redactor.text(value)) for name, value in request.form if name != "key")
        ms = round((self._clock.monotonic() - began) * 1000)
        if not isinstance(outcome, HttpReply):
            return Exchange(form, f"{_word(outcome)}: {outcome.reason}", ms=ms)
        return Exchange(form, "reply", outcome.status, self._excerpt(outcome.body), ms)

    def _excerpt(self, body: bytes) -> str:
        """The beginning of a reply as it may be kept; redacted before it is cut, or half a key would survive."""
        text = body[:_SEARCHED_BYTES].decode("utf-8", "replace").replace("\x00", "\ufffd")
        if (held := _DELIVERED.search(text)) is not None:
            try:
                text = json.dumps(self._redactor.value(json.loads(text)), ensure_ascii=False)
            except (ValueError, RecursionError):
                text = text[: held.end()]
        text = self._redactor.text(text)
        if len(body) > _SEARCHED_BYTES:
            text = text[:-EXCERPT_CHARS]
        return text[:EXCERPT_CHARS]


def _rate_limits(result: object) -> Iterator[float | None]:
    """The rate limits that a result tells of, each with the seconds that it names.

    A text about one order of several counts only where it is unmistakable: "wait 30 minutes" may be about its refill.
    """
    match result:
        case Failure(kind=FailureKind.RATE_LIMIT) | Refused(meaning=Meaning.RATE_LIMIT):
            yield result.retry_after_s
        case StatusBatch():
            yield from (wait_named(text) for meaning, text in result.errors.values() if meaning is Meaning.RATE_LIMIT)
        case Mapping():
            for one in result.values():
                match one:
                    case CancelRefused(meaning=Meaning.RATE_LIMIT):
                        yield wait_named(one.text)
                    case RefillRefused() if refusals.refill_refusal(one.text) is None and _limits_calls(one.text):
                        yield one.retry_after_s
                    case Failure(kind=FailureKind.RATE_LIMIT) if _limits_calls(one.text):
                        yield one.retry_after_s


def _limits_calls(text: str) -> bool:
    return meanings.meaning_of(text) is Meaning.RATE_LIMIT


def _unclear(lost: LostReply) -> Unclear:
    return Unclear(lost.reason.split(":")[0].strip().replace(" ", "_").lower()[:32], lost.reason)


def _word(outcome: Outcome, result: object = None) -> str:
    """How a call ended, in one word for the metrics."""
    match outcome:
        case NotSent():
            return "not_sent"
        case LostReply():
            return "lost"
        case HttpReply(status=status) if status != 200:
            return f"http_{status}" if status in _STATUSES else "http_other"
    match result:
        case Refused(meaning=meaning):
            return str(meaning)
        case Unclear():
            return "unclear"
    return "ok"


def build_gateways(
    providers: Iterable[tuple[str, ProviderSettings]], outbound: Outbound, redactor: Redactor, clock: Clock
) -> dict[str, Gateway]:
    return {name: Gateway(name, settings, outbound, redactor, clock) for name, settings in providers}
