"""What purchases decided a moment ago will cost, for decisions that are made from a world read before they were stored.

Orders are routed many at a time; each must leave to the next what the wallet still has. In memory: a new process reads
everything anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from aggregator.domain.money import Money
from aggregator.domain.routing import Candidate, OfferView, ProviderView


@dataclass(slots=True, eq=False)
class Promise:
    provider: str
    cost: Money
    holds: bool = False
    """Whether it was stored in the end."""
    stored: int | None = None
    """The first era whose world knows of it; None while it is being stored."""


class Promises:
    """Eras count the readings of the world: a promise stored before an era began is part of that era's world."""

    def __init__(self) -> None:
        self._era = 0
        self._under_way: set[int] = set()
        self._promises: list[Promise] = []

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
            self._promises = [one for one in self._promises if one.stored is None or one.stored > oldest]

    @contextmanager
    def made(self, chosen: Candidate) -> Iterator[Promise]:
        """Hold the price of a choice while it is stored, and then from the eras that do not know of it."""
        assert chosen.expected is not None
        promise = Promise(chosen.offer.provider.name, chosen.expected)
        self._promises.append(promise)
        try:
            yield promise
        finally:
            if promise.holds:
                promise.stored = self._era + 1
            else:
                self._promises.remove(promise)

    def kept_from(self, offers: Sequence[OfferView], era: int) -> list[OfferView]:
        """The offers with what is promised at their providers added to what is in flight there."""
        views: dict[str, ProviderView] = {}
        for one in self._promises:
            if one.stored is None or one.stored > era:
                known = next((offer.provider for offer in offers if offer.provider.name == one.provider), None)
                if known is not None:
                    views[one.provider] = _with(views.get(one.provider, known), one.cost)
        if not views:
            return list(offers)
        return [replace(offer, provider=views.get(offer.provider.name, offer.provider)) for offer in offers]


def _with(provider: ProviderView, cost: Money) -> ProviderView:
    held = provider.in_flight
    if held is None or held.currency == cost.currency:
        return replace(provider, in_flight=cost if held is None else held + cost)
    return provider
