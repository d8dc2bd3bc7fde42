"""What the flow counts: purchases by their end, events by type, how full status calls are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from aggregator.domain.clock import ManualClock
from aggregator.domain.orders import OrderState
from aggregator.flow.ends import ATTEMPTS
from aggregator.sandbox.faults import FaultRule
from aggregator.storage.database import Database
from tests.support.flow import Street, a_street, on_sqlite, smm
from tests.support.metrics import counted

SERVICES = {"one": smm("smmplus/1"), "followers": smm("smmcheap/1", "smmplus/1"), "slow": smm("smmplus/23")}


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    async with a_street(database, clock, tmp_path, SERVICES) as one:
        yield one


def attempts() -> dict[tuple[str, str], float]:
    return {
        (one.labels["provider"], one.labels["outcome"]): one.value
        for metric in ATTEMPTS.collect()
        for one in metric.samples
        if one.name == "aggregator_attempts_total"
    }


@on_sqlite
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("none", "placed"), ("close_after", "unclear"), ("error", "refused")],
)
async def test_an_attempt_is_counted_once_by_how_it_ended(street: Street, fault: str, outcome: str) -> None:
    before, timed = attempts(), counted("aggregator_order_placed_seconds_count")
    if fault == "error":
        street.account("smmplus").set_balance(Decimal(0), street.world.now())
    elif fault != "none":
        street.break_with(FaultRule(fault, account="smmplus", action="add", count=1))
    await street.take("one")
    await street.settle()
    moved = {key: value - before.get(key, 0.0) for key, value in attempts().items() if value != before.get(key)}
    assert moved == {("smmplus", outcome): 1.0}
    assert counted("aggregator_order_placed_seconds_count") - timed == (outcome == "placed")


@on_sqlite
async def test_the_ends_of_a_provider_are_there_before_the_first_of_them(street: Street) -> None:
    """Prometheus sees no increase in a series that begins with 1."""
    provider = street.house.gateways["hstock"].name
    told = {outcome for name, outcome in attempts() if name == provider}
    assert told == {"placed", "refused", "not_sent", "unclear"}


async def test_the_time_from_acceptance_to_purchase_is_what_the_order_waited(street: Street) -> None:
    before = counted("aggregator_order_placed_seconds_sum")
    await street.take("one")
    street.clock.advance(40)
    await street.settle()
    assert counted("aggregator_order_placed_seconds_sum") - before == pytest.approx(40)


async def test_events_are_counted_by_type_when_they_get_their_position(street: Street) -> None:
    types = ("order.accepted", "order.placed", "order.completed", "order.failed")
    before = {name: counted("aggregator_events_total", type=name) for name in types}
    orders = [await street.bought("one", link=f"https://example.com/{place}") for place in range(3)]
    for order in orders:
        assert (await street.until(order.number)).state is OrderState.COMPLETED
    moved = {name: counted("aggregator_events_total", type=name) - before[name] for name in types}
    assert moved == {"order.accepted": 3, "order.placed": 3, "order.completed": 3, "order.failed": 0}
    assert REGISTRY.get_sample_value("aggregator_events_total", {"type": "webhook.disabled"}) is not None


@on_sqlite
async def test_status_calls_say_how_full_they_were(street: Street) -> None:
    name, labels = "aggregator_status_batch_fill_ratio", {"provider": "smmplus"}
    calls, filled = counted(f"{name}_count", **labels), counted(f"{name}_sum", **labels)
    for place in range(25):
        await street.take("slow", 1000, link=f"https://example.com/{place}")
    await street.settle()
    await street.advance(16)
    calls, filled = counted(f"{name}_count", **labels) - calls, counted(f"{name}_sum", **labels) - filled
    assert calls > 0
    # Each call takes 100, and all 25 of them go together.
    assert filled == pytest.approx(0.25 * calls)
