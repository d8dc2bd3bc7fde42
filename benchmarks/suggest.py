"""Proposing offers that mean the same: five catalogues of thousands of names, read and compared in this process.

    .venv/bin/python benchmarks/suggest.py [--providers 5] [--rows 5000] [--services 300] [--seed 1]

Names are put together from words of panels. Prints CPU seconds for reading all names, for the proposals of so many
services, and for new services; and how they compare with folding the same names (NFKC), which is the least that reading
them takes.
"""

from __future__ import annotations

import argparse
import random
import time
import unicodedata
from collections.abc import Callable
from typing import TypeVar

from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.money import Money
from aggregator.suggestions import GOOD, Shelf, Shown, show

T = TypeVar("T")

PLATFORMS = "Instagram|IG|TikTok|YouTube|Facebook|Twitter|X|Telegram|Spotify|Threads|Twitch|Likee"
ACTIONS = (
    "Followers|Likes|Views|Comments|Story Views|Reels Views|Live Viewers|Saves|Shares|Subscribers|Members|Post Views"
    "|Reactions 👍|Plays|Page Likes|Impressions|Auto Likes|Random Comments|Подписчики"
)
PLACES = "||||USA|🇮🇳 India|Brazil|Turkey|[UK]|Arab|Russian|Worldwide"
QUALITIES = "|HQ|Real|Bots|Mixed|Premium Quality|Old Accounts|Female|Active"
GUARANTEES = "|R30|R60|AR30|No Refill|Lifetime Guaranteed|𝗥𝟯𝟲𝟱|30 Days Refill"
REST = (
    "Max 50K|Speed 5K/Day|0-1H Start|Instant|⚡|⭐⭐|Super Fast|Cheapest|Server 3|[10K/Hour]|Ruby|Non Drop|🔥|Day 20K"
)


def name(rng: random.Random) -> str:
    parts = [rng.choice(words.split("|")) for words in (PLATFORMS, ACTIONS, PLACES, QUALITIES, GUARANTEES)]
    parts += rng.sample(REST.split("|"), 3)
    if rng.random() < 0.3:
        rng.shuffle(parts)
    return rng.choice([" | ", " ~ ", " - ", " ", "] ["]).join(part for part in parts if part)


def row(rng: random.Random, service: int) -> CatalogueRow:
    price = Money(rng.randint(10**5, 10**8), "USD")
    return CatalogueRow(str(service), name(rng), "smm", "Default", "Services", price, 10, 100_000, True, True)


def shown(provider: str, one: CatalogueRow) -> Shown:
    found = show(provider, one, refills=True, rate_per={"smm": 1000}, currency="USD", exchange_rates={})
    assert found is not None
    return found


def took(work: Callable[[], T]) -> tuple[T, float]:
    began = time.process_time()
    done = work()
    return done, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--providers", type=int, default=5)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--services", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    rows = [
        (f"provider{place}", row(rng, service)) for place in range(asked.providers) for service in range(asked.rows)
    ]
    _, floor_s = took(lambda: [unicodedata.normalize("NFKC", one.name).casefold() for _, one in rows])
    offers, read_s = took(lambda: [shown(provider, one) for provider, one in rows])
    shelf, shelf_s = took(lambda: Shelf(offers))
    ours = offers[: asked.services]
    taken = {one.key for one in ours}
    proposed, propose_s = took(lambda: sum(len(shelf.like([one], taken=taken, least=GOOD)) for one in ours))
    groups, groups_s = took(lambda: shelf.groups(taken=taken, least=GOOD))
    print(f"{len(rows)} names, seed {asked.seed}")
    print(f"floor    {floor_s:7.3f} s  folding them")
    print(f"read     {read_s:7.3f} s  {read_s / floor_s:.0f} times the floor, {read_s / len(rows) * 1e6:.0f} µs a name")
    print(f"sort     {shelf_s:7.3f} s")
    print(f"propose  {propose_s:7.3f} s  {proposed} offers for {len(ours)} services")
    print(f"new      {groups_s:7.3f} s  {len(groups)} new services")


if __name__ == "__main__":
    main()
