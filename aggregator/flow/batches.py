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

_ABOUT_THE_BATCH = frozenset({FailureKind.NOT_FOUND, FailureKind.UNSUPPORTED, FailureKind.ERROR})
_SEARCHED = _ABOUT_THE_BATCH | {FailureKind.UNREADABLE}
"""What can be learned from by asking otherwise. An unreadable answer is about the batch only where a single order is
answered and the batch, asked again, is not."""
_ABOUT_ONE_ORDER = frozenset({FailureKind.NOT_FOUND, FailureKind.ERROR})
MAX_CALLS: Final = 32
"""Two bad ids in a hundred are found by 28; a provider that refuses everything is not asked for ever."""
_MOST_SINGLES: Final = 4
"""Orders asked for alone before a provider counts as one that answers nothing at all."""
_LIMIT_NAMED: Final = re.compile(r"(?:up to|max(?:imum)?|at most|more than|limit)\D{0,24}?(\d{1,3})\b", re.IGNORECASE)
LEFT_OUT: Final = "the answer leaves it out"
_NOBODY_NAMED: Final = Failure(FailureKind.UNSUPPORTED, "the answer names none of the orders")


async def learn(gateway: Gateway, orders: Sequence[str], answer: StatusBatch | Failure) -> Answered:
    """What can still be learned after a batch: the failure itself when it was not about the batch."""
    if not gateway.batches or len(orders) < 2:
        return Answered(answer)
    answer = _naming(answer)
    if isinstance(answer, StatusBatch):
        for kind in _SEARCHED:
            gateway.tries.forget(f"search:{kind}")
        return Answered(await _left_out(gateway, orders, answer))
    if answer.kind not in _SEARCHED or answer.retry_after_s:
        return Answered(answer)
    named = _limit_named(answer.text)
    if named is not None and 1 < named < len(orders):
        _use(gateway, Batch(_form(gateway), named), answer.text)
        return Answered(answer)
    what = f"search:{answer.kind}"
    if not gateway.tries.due(what):
        return Answered(answer)
    search = _Search(gateway, answer)
    await search.run(orders)
    learned = search.learned()
    if isinstance(learned.answer, StatusBatch) and learned.answer.reports:
        gateway.tries.forget(what)
    else:
        gateway.tries.note(what, in_vain=True)
    return learned


def _naming(answer: StatusBatch | Failure) -> StatusBatch | Failure:
    """An answer that says nothing of any order is no answer to a batch, and proves nothing of the orders."""
    nobody = isinstance(answer, StatusBatch) and not answer.reports and not answer.errors
    return _NOBODY_NAMED if nobody else answer


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
    """An id that a batch does not speak of is asked for alone, now and then, before it counts as unknown there: the
    provider may have stopped after so many."""
    missing = [order for order in orders if order not in answer.reports and order not in answer.errors]
    if not missing and gateway.batch.form is None:
        gateway.use_batch(Batch(_form(gateway)))  # as documented: no news
    if not missing or any(meaning is Meaning.RATE_LIMIT for meaning, _ in answer.errors.values()):
        return answer
    reports, errors = dict(answer.reports), dict(answer.errors)
    fresh = [order for order in missing if gateway.tries.due(_alone(order))]
    first = len(orders) - len(missing)
    stopped = list(orders[first:]) == missing
    if fresh and stopped and len(missing) > 1:
        rest = await _ask(gateway, missing)
        if isinstance(rest, StatusBatch) and rest.reports:
            _use(gateway, _first_ones(gateway, first), f"it answered {first} of {len(orders)}")
            reports |= rest.reports
            errors |= rest.errors
            return StatusBatch(reports, errors)
        if isinstance(rest, Failure) and (rest.kind not in _ABOUT_THE_BATCH or rest.retry_after_s):
            return answer  # nobody knows
    for order in fresh[:_MOST_SINGLES]:
        alone = await _ask(gateway, [order])
        if isinstance(alone, StatusBatch):
            reports |= alone.reports
            errors |= alone.errors
        elif alone.kind is FailureKind.NOT_FOUND:
            errors[order] = (Meaning.UNKNOWN_ORDER, alone.text)
        elif alone.kind not in _ABOUT_ONE_ORDER or alone.retry_after_s:
            break
        gateway.tries.note(_alone(order), in_vain=order in errors)
    if stopped and len(missing) == 1 and missing[0] in fresh and missing[0] in reports:
        await _place_counts(gateway, orders, missing[0])
    for order in missing:
        if order not in reports and order not in errors and gateway.tries.in_vain(_alone(order)):
            errors[order] = (Meaning.UNKNOWN_ORDER, LEFT_OUT)
    return StatusBatch(reports, errors)


async def _place_counts(gateway: Gateway, orders: Sequence[str], last: str) -> None:
    """The last id was left out and answers alone. Where it is the first and another is left out for it, the provider
    stops after so many; else it became visible a moment ago, or no batch shows it."""
    turned = [last, *orders[:-1]]
    again = await _ask(gateway, turned)
    if isinstance(again, StatusBatch) and last in again.reports:
        named = [order in again.reports or order in again.errors for order in turned]
        if not all(named):
            first = len(orders) - 1
            _use(gateway, _first_ones(gateway, first), f"it answered {first} of {len(orders)}")


def _first_ones(gateway: Gateway, first: int) -> Batch:
    return Batch(_form(gateway), first) if first > 1 else Batch(BatchForm.SINGLE)


def _alone(order: str) -> str:
    return f"alone:{order}"


async def _ask(gateway: Gateway, orders: Sequence[str], form: BatchForm | None = None) -> StatusBatch | Failure:
    async with gateway.turn(Priority.STATUS):
        return _naming(await gateway.statuses(orders, form))


class _Search:
    """Asks halves until the bad id is alone; a single order goes by the single form."""

    def __init__(self, gateway: Gateway, failure: Failure) -> None:
        self._gateway = gateway
        self._failure = failure
        self._about = _ABOUT_THE_BATCH | {failure.kind}
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
        if self._failure.kind is FailureKind.UNREADABLE and not await self._readable_alone(orders):
            return
        if self._gateway.batch.form is None and await self._speaks(orders, _other(_form(self._gateway))):
            return
        await self._halves(orders)

    async def _readable_alone(self, orders: Sequence[str]) -> bool:
        """Whether the provider answers a single order and still not all of them: else it is broken, or was."""
        await self._ask(orders[:1])
        again = None if self._over else await self._call(orders)
        if isinstance(again, StatusBatch):
            self._take(again)
        return isinstance(again, Failure) and again.kind is FailureKind.UNREADABLE

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
        if answer.retry_after_s:
            self._failure, self._over = answer, True
        elif len(part) > 1:
            self._over = answer.kind not in self._about
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
        if not isinstance(again, Failure) or again.kind not in self._about:
            return
        self._over = True
        form = _other(_form(self._gateway))
        if self._gateway.batch.form is None or not await self._speaks(pair, form):
            _use(self._gateway, Batch(BatchForm.SINGLE), again.text)

    async def _too_many(self, orders: Sequence[str]) -> None:
        """Both halves answer and the whole did not: too many at once, unless that was a passing fault."""
        again = await self._call(orders)
        if isinstance(again, Failure) and again.kind in self._about:
            _use(self._gateway, Batch(_form(self._gateway), len(orders) // 2), again.text)
        self._over = True

    async def _call(self, orders: Sequence[str], form: BatchForm | None = None) -> StatusBatch | Failure | None:
        if self._left == 0:
            self._over = True
            return None
        self._left -= 1
        return await _ask(self._gateway, orders, form)
