"""One routing decision over a hundred offers: p50 and p99, next to a floor measured in the same run.

    .venv/bin/python benchmarks/routing.py [--offers 100] [--decisions 5000] [--limit-ms 1.0]

The floor is what no ranking can do without: the cost of every offer in one currency, by exact arithmetic, and a sort by
it. Both are measured in turns, as time of this thread (what other processes take is not counted) and by the wall clock.
Ends with 1 when the p99 of a decision is above the limit.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.history import OfferHistory
from aggregator.domain.money import Money
from aggregator.domain.routing import OfferView, ProviderView, Strategy, Wanted, choose

SEED = 1
RATES = {"EUR": Decimal("1.08")}
NOW = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
WANTED = Wanted("smm", 1000, "https://example.com/a", max_cost=Money.parse("5", "USD"))
STRATEGIES: tuple[Strategy, ...] = ("cheapest", "best_value")


def world(count: int) -> list[OfferView]:
    """Offers as a busy service has them: two currencies, wallets, stock, histories; a few cannot take the order."""
    chance = random.Random(SEED)
    offers = []
    for place in range(count):
        currency = chance.choice(("USD", "USD", "EUR"))
        provider = ProviderView(
            f"panel-{place:03}",
            paused=chance.random() < 0.05,
            balance=Money.parse(chance.randint(1, 500), currency),
            in_flight=Money.parse(Decimal(chance.randint(0, 99)) / 100, currency),
            rate_per={"smm": 1000, "product": 1},
        )
        row = CatalogueRow(
            service=str(place),
            name="Instagram Followers [R30]",
            kind="smm",
            type="Default",
            category="Instagram",
            rate=Money(chance.randint(50_000_000, 250_000_000), currency),
            minimum=chance.choice((10, 50, 100, 2000)),
            maximum=100_000,
            refill=True,
            cancel=False,
            has_stock=place % 2 == 0,
            stock=chance.choice((None, 500, 50_000)),
            known_since=NOW - timedelta(days=chance.randint(1, 300)),
        )
        ordered = chance.randint(0, 100_000)
        history = OfferHistory(
            completed=chance.randint(0, 100),
            partial=chance.randint(0, 9),
            canceled=chance.randint(0, 9),
            ordered=ordered,
            delivered=ordered * chance.randint(60, 100) // 100,
            duration_s=chance.randint(600, 90_000),
        )
        offers.append(OfferView(provider, str(place), row=row, stock_at=NOW, order=place, history=history))
    return offers


def floor(offers: Sequence[OfferView]) -> list[tuple[Decimal, int]]:
    costs = []
    for offer in offers:
        assert offer.row is not None
        assert offer.row.rate is not None
        cost = Decimal(offer.row.rate.units) * WANTED.quantity / 1000
        costs.append((cost * RATES.get(offer.row.rate.currency, 1), offer.order))
    return sorted(costs)


def decide(offers: Sequence[OfferView], strategy: Strategy) -> Callable[[], object]:
    wanted = replace(WANTED, strategy=strategy)
    return lambda: choose(wanted, offers, currency="USD", exchange_rates=RATES)


def measure(works: Sequence[tuple[str, Callable[[], object]]], turns: int) -> dict[str, list[tuple[int, int]]]:
    """Nanoseconds of this thread and of the wall for each turn of each work."""
    taken: dict[str, list[tuple[int, int]]] = {name: [] for name, _ in works}
    for _ in range(turns):
        for name, work in works:
            wall, own = time.perf_counter_ns(), time.thread_time_ns()
            work()
            own = time.thread_time_ns() - own
            taken[name].append((own, time.perf_counter_ns() - wall))
    return taken


def at(values: Sequence[int], share: float) -> float:
    """The value below which this share of all lies, in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e6


def main(count: int, turns: int, limit_ms: float) -> int:
    offers = world(count)
    ranking = choose(WANTED, offers, currency="USD", exchange_rates=RATES)
    eligible = sum(candidate.eligible for candidate in ranking.candidates)
    works: list[tuple[str, Callable[[], object]]] = [("floor", lambda: floor(offers))]
    works += [(strategy, decide(offers, strategy)) for strategy in STRATEGIES]
    measure(works, 100)
    gc.collect()
    taken = measure(works, turns)
    print(f"{count} offers, {eligible} of them eligible; {turns} decisions for each strategy; milliseconds")
    print(f"{'':<12}{'p50':>8}{'p99':>8}{'wall p50':>10}{'wall p99':>10}{'/ floor':>9}")
    base = at([own for own, _ in taken["floor"]], 0.5)
    worst = 0.0
    for name, _ in works:
        own, wall = [one for one, _ in taken[name]], [one for _, one in taken[name]]
        middle, high = at(own, 0.5), at(own, 0.99)
        worst = max(worst, high)
        print(f"{name:<12}{middle:>8.3f}{high:>8.3f}{at(wall, 0.5):>10.3f}{at(wall, 0.99):>10.3f}{middle / base:>9.1f}")
    print(
        f"p99 of one decision: {worst:.3f} ms, {'within' if worst <= limit_ms else 'above'} the limit of {limit_ms} ms"
    )
    return 0 if worst <= limit_ms else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--offers", type=int, default=100)
    parser.add_argument("--decisions", type=int, default=5000)
    parser.add_argument("--limit-ms", type=float, default=1.0)
    given = parser.parse_args()
    sys.exit(main(given.offers, given.decisions, given.limit_ms))
