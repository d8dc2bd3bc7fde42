"""What a link's public counter shows. Decides start counts and the answer of `/count`; never looks at who ordered what.

A counter starts at a seeded value and follows what orders of all accounts deliver to it and lose again.
"""

from __future__ import annotations

import random
from collections import deque

from .orders import Order

REMEMBERED = 100
"""Orders followed per link. Older ones are counted as they were when they left, so that a count stays cheap."""


class LinkCounts:
    """Followers, likes or views by link, as the network that hosts the link would show them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._base: dict[str, int] = {}
        self._orders: dict[str, deque[Order]] = {}

    def follow(self, order: Order, now: float) -> None:
        """Let this order's deliveries and drops move its link's counter."""
        orders = self._orders.setdefault(order.link, deque())
        orders.append(order)
        if len(orders) > REMEMBERED:
            self._base[order.link] = self._start(order.link) + _moved(orders.popleft(), now)

    def count(self, link: str, now: float) -> int:
        """The counter of a link; an unknown link has a count too, like any page on the network."""
        return self._start(link) + sum(_moved(order, now) for order in self._orders.get(link, ()))

    def _start(self, link: str) -> int:
        if link not in self._base:
            return random.Random(f"{self._seed}:link:{link}").randrange(100, 50_000)
        return self._base[link]


def _moved(order: Order, now: float) -> int:
    return order.view(now).delivered - order.dropped(now)
