"""A batched status call that was refused whole, or answered in part: one bad id, another form, or no batches at all?

Found out by a bounded number of harmless calls, and remembered by the gateway. Never applies one order's answer to
another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from aggregator.flow.base import log
from aggregator.providers.contract import BatchForm, Failure, FailureKind, Meaning, StatusBatch, StatusReport
from aggregator.providers.gateway import Batch, Gateway
from aggregator.providers.limits import Priority

_ABOUT_THE_BATCH = frozenset(
    {FailureKind.NOT_FOUND, FailureKind.UNSUPPORTED, FailureKind.ERROR, FailureKind.UNREADABLE}
)
_ABOUT_ONE_ORDER = frozenset({FailureKind.NOT_FOUND, FailureKind.ERROR})
MAX_CALLS: Final = 32
"""Two bad ids in a hundred are found by 28; a provider that refuses everything is not asked for ever."""
_MOST_SINGLES: Final = 4
"""Orders asked for alone before a provider counts as one that answers nothing at all."""
_LIMIT_NAMED: Final = re.compile(r"(?:up to|max(?:imum)?|at most|more than|limit)\D{0,24}?(\d{1,3})\b", re.IGNORECASE)
LEFT_OUT: Final = "the answer leaves it out"


async def learn(gateway: Gateway, orders: Sequence[str], answer: StatusBatch | Failure) -> Answered:
    """What can still be learned after a batch: the failure itself when it was not about the batch."""
    if not gateway.batches or len(orders) < 2:
        return Answered(answer)
    if isinstance(answer, StatusBatch):
        return Answered(await _left_out(gateway, orders, answer))
    if answer.kind not in _ABOUT_THE_BATCH:
        return Answered(answer)
    named = _limit_named(answer.text)
    if named is not None and 1 < named < len(orders):
        _use(gateway, Batch(_form(gateway), named), answer.text)
        return Answered(answer)
    search = _Search(gateway, answer)
    await search.run(orders)
    return search.learned()


class Answered:
    """What a poll found out: the answer, and the ids that spoil a batch for all others in it."""

    def __init__(self, answer: StatusBatch | Failure, spoilers: frozenset[str] = frozenset()) -> None:
        self.answer = answer
        self.spoilers = spoilers


def _form(gateway: Gateway) -> BatchForm:
    return gateway.batch.form or BatchForm.ORDERS


def _other(form: BatchForm) -> BatchForm:
    return BatchForm.ORDER if form is BatchForm.ORDERS else BatchForm.ORDERS


def _use(gateway: Gateway, batch: Batch, why: str) -> None:
    if gateway.use_batch(batch):
        log.warning("provider_batches_learned", provider=gateway.name, form=batch.form, limit=batch.limit, said=why)


def _limit_named(text: str) -> int | None:
    found = _LIMIT_NAMED.search(text)
    return int(found[1]) if found is not None else None


async def _left_out(gateway: Gateway, orders: Sequence[str], answer: StatusBatch) -> StatusBatch:
    """An id that a batch does not speak of is unknown there, unless the provider stopped after so many."""
    answered = [order in answer.reports or order in answer.errors for order in orders]
    if all(answered):
        if gateway.batch.form is None:
            gateway.use_batch(Batch(_form(gateway)))  # as documented: no news
        return answer
    reports, errors = dict(answer.reports), dict(answer.errors)
    first = answered.index(False)
    if first and not any(answered[first:]) and len(orders) - first > 1:
        async with gateway.turn(Priority.STATUS):
            rest = await gateway.statuses(orders[first:])
        if isinstance(rest, StatusBatch) and rest.reports:
            limit = Batch(_form(gateway), first) if first > 1 else Batch(BatchForm.SINGLE)
            _use(gateway, limit, f"it answered {first} of {len(orders)}")
            reports |= rest.reports
            errors |= rest.errors
            return StatusBatch(reports, errors)
        if not isinstance(rest, StatusBatch):
            return answer  # nobody knows
    for order in orders:
        if order not in reports:
            errors.setdefault(order, (Meaning.UNKNOWN_ORDER, LEFT_OUT))
    return StatusBatch(reports, errors)


class _Search:
    """Asks halves until the bad id is alone; a single order goes by the single form."""

    def __init__(self, gateway: Gateway, failure: Failure) -> None:
        self._gateway = gateway
        self._failure = failure
        self._reports: dict[str, StatusReport] = {}
        self._errors: dict[str, tuple[Meaning, str]] = {}
        self._spoilers: set[str] = set()
        self._left = MAX_CALLS
        self._over = False

    def learned(self) -> Answered:
        found = self._reports or self._errors
        answer = StatusBatch(self._reports, self._errors) if found else self._failure
        # Where nobody was answered, the provider is the one who spoils.
        return Answered(answer, frozenset(self._spoilers) if self._reports else frozenset())

    async def run(self, orders: Sequence[str]) -> None:
        """`orders` were refused together."""
        if self._gateway.batch.form is None and await self._speaks(orders, _other(_form(self._gateway))):
            return
        await self._halves(orders)

    async def _speaks(self, orders: Sequence[str], form: BatchForm) -> bool:
        """Whether the provider takes this form; what it answers is taken, and the form kept."""
        answer = await self._call(orders, form)
        if not isinstance(answer, StatusBatch) or len(answer.reports) + len(answer.errors) < 2:
            return False
        self._take(answer)
        _use(self._gateway, Batch(form), self._failure.text)
        return True

    async def _halves(self, orders: Sequence[str]) -> None:
        middle = len(orders) // 2
        parts = [orders[:middle], orders[middle:]]
        answers: list[Failure | None] = []
        for part in parts:
            answers.append(await self._ask(part))
            if self._over:
                return
        refused = [part for part, failure in zip(parts, answers, strict=True) if failure is not None and len(part) > 1]
        if len(orders) == 2 and all(order in self._reports for order in orders):
            await self._no_batches(orders)
        elif len(refused) == 2 and len(orders) > _MOST_SINGLES and not await self._batches_at_all(orders):
            return
        elif not any(answers) and len(orders) > 2:
            await self._too_many(orders)
        for part in refused:
            if not self._over:
                await self._halves(part)

    async def _ask(self, part: Sequence[str]) -> Failure | None:
        """Take what a part answers; the failure when it did not. Over when it makes no sense to ask on."""
        answer = await self._call(part)
        if isinstance(answer, StatusBatch):
            self._take(answer)
            return None
        if answer is None:
            return self._failure
        if len(part) > 1:
            self._over = answer.kind not in _ABOUT_THE_BATCH
            self._failure = answer if self._over else self._failure
        elif answer.kind not in _ABOUT_ONE_ORDER:
            # A provider that answers not even a single order properly will not do so for the next ones.
            self._failure, self._over = answer, True
        else:
            self._spoilers.add(part[0])
            if answer.kind is FailureKind.NOT_FOUND:
                self._errors[part[0]] = (Meaning.UNKNOWN_ORDER, answer.text)
            else:
                self._failure = answer
        return answer

    def _take(self, answer: StatusBatch) -> None:
        self._reports.update(answer.reports)
        self._errors.update(answer.errors)

    async def _batches_at_all(self, orders: Sequence[str]) -> bool:
        """Both halves were refused: two bad ids, no batches, or a provider that answers nothing? Two orders that answer
        alone and not together tell."""
        good: list[str] = []
        for order in orders[:_MOST_SINGLES]:
            if await self._ask([order]) is None and order in self._reports:
                good.append(order)
            if self._over:
                return False
            if len(good) == 2:
                await self._no_batches(good)
                return not self._over
        if not good:
            self._over = True  # not one of so many: it is not about any of them
        return not self._over

    async def _no_batches(self, pair: Sequence[str]) -> None:
        """Both answer alone, not together. Asked once more: the refusal may have been a passing one."""
        again = await self._call(pair)
        if not isinstance(again, Failure) or again.kind not in _ABOUT_THE_BATCH:
            return
        self._over = True
        form = _other(_form(self._gateway))
        if self._gateway.batch.form is None or not await self._speaks(pair, form):
            _use(self._gateway, Batch(BatchForm.SINGLE), again.text)

    async def _too_many(self, orders: Sequence[str]) -> None:
        """Both halves answer and the whole did not: too many at once, unless that was a passing fault."""
        again = await self._call(orders)
        if isinstance(again, Failure) and again.kind in _ABOUT_THE_BATCH:
            _use(self._gateway, Batch(_form(self._gateway), len(orders) // 2), again.text)
        self._over = True

    async def _call(self, orders: Sequence[str], form: BatchForm | None = None) -> StatusBatch | Failure | None:
        if self._left == 0:
            self._over = True
            return None
        self._left -= 1
        async with self._gateway.turn(Priority.STATUS):
            return await self._gateway.statuses(orders, form)
