"""A batched status call that was refused whole: one bad id, or a provider without batches?

Found out by a bounded number of harmless calls. Never applies one order's answer to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aggregator.flow.base import log
from aggregator.providers.contract import Failure, FailureKind, Meaning, StatusBatch, StatusReport
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority

_ABOUT_THE_BATCH = frozenset(
    {FailureKind.NOT_FOUND, FailureKind.UNSUPPORTED, FailureKind.ERROR, FailureKind.UNREADABLE}
)
_ABOUT_ONE_ORDER = frozenset({FailureKind.NOT_FOUND, FailureKind.ERROR})
MAX_CALLS: Final = 32
"""Two bad ids in a hundred are found by 28; a provider that refuses everything is not asked for ever."""


async def ask_statuses(gateway: Gateway, orders: Sequence[str], failure: Failure) -> StatusBatch | Failure:
    """What can still be learned after a batch failed: the failure itself when it was not about the batch."""
    if not gateway.batches or len(orders) < 2 or failure.kind not in _ABOUT_THE_BATCH:
        return failure
    search = _Search(gateway, failure)
    await search.halves(orders)
    return search.learned()


class _Search:
    """Asks halves until the bad id is alone; a single order goes by the single form."""

    def __init__(self, gateway: Gateway, failure: Failure) -> None:
        self._gateway = gateway
        self._failure = failure
        self._reports: dict[str, StatusReport] = {}
        self._errors: dict[str, tuple[Meaning, str]] = {}
        self._left = MAX_CALLS
        self._over = False

    def learned(self) -> StatusBatch | Failure:
        found = self._reports or self._errors
        return StatusBatch(self._reports, self._errors) if found else self._failure

    async def halves(self, orders: Sequence[str]) -> None:
        """`orders` were refused together: learn what each half says."""
        middle = len(orders) // 2
        for part in (orders[:middle], orders[middle:]):
            if self._over or not await self._ask(part):
                return
        if len(orders) == 2 and all(order in self._reports for order in orders):
            await self._no_batches(orders)

    async def _ask(self, part: Sequence[str]) -> bool:
        """Whether it makes sense to ask on."""
        answer = await self._call(part)
        if isinstance(answer, StatusBatch):
            self._reports.update(answer.reports)
            self._errors.update(answer.errors)
        elif answer is None:
            return False
        elif len(part) > 1 and answer.kind in _ABOUT_THE_BATCH:
            await self.halves(part)
        elif len(part) > 1 or answer.kind not in _ABOUT_ONE_ORDER:
            # A provider that answers not even a single order properly will not do so for the next ones.
            self._failure, self._over = answer, True
        elif answer.kind is FailureKind.NOT_FOUND:
            self._errors[part[0]] = (Meaning.UNKNOWN_ORDER, answer.text)
        else:
            self._failure = answer
        return not self._over

    async def _no_batches(self, pair: Sequence[str]) -> None:
        """Both answer alone, not together. Asked once more: the refusal may have been a passing one."""
        again = await self._call(pair)
        if isinstance(again, Failure) and again.kind in _ABOUT_THE_BATCH:
            self._over = True
            self._gateway.refused_batches()
            log.warning("provider_has_no_batched_status", provider=self._gateway.name, said=again.text)

    async def _call(self, orders: Sequence[str]) -> StatusBatch | Failure | None:
        if self._left == 0:
            self._over = True
            return None
        self._left -= 1
        async with self._gateway.turn(Priority.STATUS):
            return await self._gateway.statuses(orders)
