"""Limits as an attacker tries them: many addresses, many at once, much at once."""

from __future__ import annotations

import asyncio

import pytest

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.web import limits
from aggregator.web.limits import RateLimiter, WrongKeys, neighbourhood
from tests.web.support import Doors, an_order

SMALL = "small-key-0123456789"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unix", "unix", True),
        ("unix", "::", False),
    ],
)
def test_peers_are_told_apart_by_what_one_host_can_choose(one: str, other: str, same: bool) -> None:
    assert (neighbourhood(one) == neighbourhood(other)) is same


def test_a_host_with_a_whole_network_is_throttled_as_one() -> None:
    wrong = WrongKeys()
    for host in range(limits.WRONG_KEYS):
        wrong.count(f"2001:db8::{host:x}", 0.0)
    with pytest.raises(Problem) as refused:
        wrong.count("2001:db8::ffff", 59.0)
    assert (refused.value.kind, refused.value.retry_after_s) == (ProblemKind.TOO_MANY_REQUESTS, 1)
    wrong.count("2001:db8:0:1::1", 59.0)
    wrong.count("2001:db8::ffff", 60.0)


def test_any_number_of_peers_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_PEERS", 100)
    wrong = WrongKeys()
    for number in range(1000):
        wrong.count(f"192.0.{number // 256}.{number % 256}", 0.0)
    assert len(wrong._peers) == 100


def test_a_burst_is_a_second_long_and_a_clock_that_stands_gives_nothing() -> None:
    rates = RateLimiter()
    for _ in range(3):
        rates.take("shop", 3, 0.0)
    for _ in range(5):
        with pytest.raises(Problem):
            rates.take("shop", 3, 0.0)
    rates.take("shop", 3, 1 / 3)
    with pytest.raises(Problem):
        rates.take("shop", 3, 1 / 3)
    rates.take("other", 3, 0.0)


async def test_open_orders_are_bounded_however_they_are_sent_at_once(doors: Doors) -> None:
    def batch() -> object:
        return doors.post("/v1/orders:batch", {"orders": [an_order() for _ in range(2)]}, key=SMALL)

    def single() -> object:
        return doors.post("/v1/orders", an_order(), key=SMALL)

    replies = await asyncio.gather(*(one() for one in (batch, single) * 6))  # type: ignore[call-overload]
    taken = refused = 0
    for reply in replies:
        results = reply.json["results"] if reply.status == 200 else [{"status": reply.status}]
        taken += sum(result["status"] == 201 for result in results)
        refused += sum(result["status"] == 429 for result in results)
    assert (taken, refused, await doors.stored()) == (3, 15, 3)


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer " + "x" * 7_000,
        "Bearer shop-key-0123456789\u00a0extra",
        "Bearer \u017fhop-key-0123456789",
        "Bearer SHOP-KEY-0123456789",
        "Bearer shop-key-0123456789,",
        "Basic shop-key-0123456789",
        "Bearer",
        "shop-key-0123456789",
    ],
)
async def test_what_only_looks_like_a_key_is_none(sqlite_doors: Doors, authorization: str) -> None:
    reply = await sqlite_doors.get("/v1/orders", key=None, headers={"Authorization": authorization})
    assert reply.status == 401


async def test_nobody_is_somebody_else_by_a_header(sqlite_doors: Doors, clock: ManualClock) -> None:
    """The peer is who connected, whatever it says of itself: neither throttled as another, nor let off."""
    for number in range(limits.WRONG_KEYS):
        reply = await sqlite_doors.get(
            "/v1/orders", key="wrong-key-0123456789", headers={"X-Forwarded-For": f"192.0.2.{number}"}
        )
        assert reply.status == 401
    assert (await sqlite_doors.get("/v1/orders", key="wrong-key-0123456789")).status == 429
