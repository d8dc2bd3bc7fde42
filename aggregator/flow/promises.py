"""What purchases decided a moment ago will cost, for decisions that are made from a world read before they were stored.

Orders are routed many at a time; each must leave to the next what the wallet still has. In memory: a new process reads
everything anew. Kept as sums, so that one decision costs the same however many were made beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from aggregator.domain.money import Money
from aggregator.domain.routing import Candidate, OfferView, ProviderView

_BEING_STORED: Final = 0
"""Where eras begin counting at 1."""


@dataclass(slots=True, eq=False)
class Promise:
    holds: bool = False
    """Whether it was stored in the end."""


class Promises:
    """Eras count the readings of the world: a promise stored before an era began is part of that era's world."""

    def __init__(self) -> None:
        self._era = 0
        self._under_way: set[int] = set()
        self._sums: dict[int, dict[tuple[str, str], int]] = {_BEING_STORED: {}}
        """Units by provider and currency: of what is being stored, and by the first era whose world knows of it."""

    @contextmanager
    def era(self) -> Iterator[int]:
        """Begin one before the world is read; it ends when the last decision from that world is made."""
        self._era += 1
        era = self._era
        self._under_way.add(era)
        try:
            yield era
        finally:
            self._under_way.discard(era)
            oldest = min(self._under_way, default=self._era + 1)
            for known in [known for known in self._sums if _BEING_STORED < known <= oldest]:
                del self._sums[known]

    @contextmanager
    def made(self, chosen: Candidate) -> Iterator[Promise]:
        """Hold the price of a choice while it is stored, and then from the eras that do not know of it."""
        assert chosen.expected is not None
        provider, cost = chosen.offer.provider.name, chosen.expected
        promise = Promise()
        self._add(_BEING_STORED, provider, cost.currency, cost.units)
        try:
            yield promise
        finally:
            self._add(_BEING_STORED, provider, cost.currency, -cost.units)
            if promise.holds:
                self._add(self._era + 1, provider, cost.currency, cost.units)

    def _add(self, known: int, provider: str, currency: str, units: int) -> None:
        sums = self._sums.setdefault(known, {})
        total = sums.get((provider, currency), 0) + units
        if total:
            sums[provider, currency] = total
        else:
            sums.pop((provider, currency), None)

    def kept_from(self, offers: Sequence[OfferView], era: int) -> list[OfferView]:
        """The offers with what is promised at their providers added to what is in flight there."""
        views = {offer.provider.name: offer.provider for offer in offers}
        for known, sums in self._sums.items():
            if known == _BEING_STORED or known > era:
                for (provider, currency), units in sums.items():
                    if provider in views:
                        views[provider] = _with(views[provider], Money(units, currency))
        return [replace(offer, provider=views[offer.provider.name]) for offer in offers]


def _with(provider: ProviderView, cost: Money) -> ProviderView:
    held = provider.in_flight
    if held is None or held.currency == cost.currency:
        return replace(provider, in_flight=cost if held is None else held + cost)
    return provider
