"""What is counted of orders that ended, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from aggregator.domain.history import OfferHistory
from aggregator.domain.orders import FINAL, OrderState
from aggregator.storage import history
from aggregator.storage.database import Database
from tests.support.examples import NOW


async def note(
    database: Database, state: OrderState = OrderState.COMPLETED, *, service: str = "1", **fields: Any
) -> None:
    usual: dict[str, Any] = {"ordered": 100, "delivered": 100, "duration": timedelta(seconds=60), "at": NOW}
    await database.write(lambda c: history.note_end(c, "panel", service, state=state, **{**usual, **fields}))


async def known(database: Database, service: str = "1") -> OfferHistory | None:
    found = await database.read(lambda c: history.load(c, [("panel", service), ("other", service)]))
    return found.get(("panel", service))


async def test_an_offer_without_an_end_has_no_history(database: Database) -> None:
    assert await known(database) is None
    await note(database, service="2")
    assert await known(database) is None


async def test_each_end_is_counted_with_what_was_ordered_and_delivered(database: Database) -> None:
    await note(database)
    await note(database, OrderState.PARTIAL, delivered=40)
    await note(database, OrderState.CANCELED, delivered=0)
    await note(database, OrderState.FAILED, delivered=0, duration=None)
    await note(database, OrderState.COMPLETED, ordered=7, delivered=7, duration=None)
    assert await known(database) == OfferHistory(2, 1, 1, 1, ordered=407, delivered=147, duration_s=60)


async def test_the_first_eight_durations_count_alike_and_a_later_one_for_an_eighth(database: Database) -> None:
    for seconds in (100, 200, 300, 400, 500, 600, 700, 800):
        await note(database, duration=timedelta(seconds=seconds))
    eight = await known(database)
    assert eight is not None
    assert eight.duration_s == 450
    await note(database, duration=timedelta(seconds=1250))
    nine = await known(database)
    assert nine is not None
    assert nine.duration_s == 450 + (1250 - 450) // 8


async def test_only_completed_orders_tell_a_duration(database: Database) -> None:
    await note(database, OrderState.PARTIAL, duration=timedelta(seconds=5))
    await note(database, OrderState.CANCELED, duration=timedelta(seconds=5))
    found = await known(database)
    assert found is not None
    assert found.duration_s is None
    await note(database, duration=timedelta(seconds=90))
    found = await known(database)
    assert found is not None
    assert found.duration_s == 90


async def test_odd_figures_are_bounded(database: Database) -> None:
    await note(database, ordered=10, delivered=50, duration=timedelta(seconds=-3))
    assert await known(database) == OfferHistory(1, ordered=10, delivered=10, duration_s=0)
    await note(database, OrderState.PARTIAL, ordered=10**15, delivered=-4, service="2")
    assert await known(database, "2") == OfferHistory(0, 1, ordered=10**12, delivered=0)
    await note(database, duration=timedelta(days=40_000), service="3")
    assert await known(database, "3") == OfferHistory(1, ordered=100, delivered=100, duration_s=2**31 - 1)


@pytest.mark.parametrize("state", sorted(set(OrderState) - FINAL))
async def test_an_order_that_has_not_ended_is_refused(sqlite_database: Database, state: OrderState) -> None:
    with pytest.raises(ValueError, match="has not ended"):
        await note(sqlite_database, state)


async def test_a_corrected_end_counts_once_and_as_what_it_became(database: Database) -> None:
    await note(database)
    await note(database)
    await database.write(
        lambda c: history.correct_end(
            c,
            "panel",
            "1",
            before=OrderState.COMPLETED,
            after=OrderState.PARTIAL,
            delivered_before=100,
            delivered=30,
            at=NOW,
        )
    )
    assert await known(database) == OfferHistory(1, 1, ordered=200, delivered=130, duration_s=60)


async def test_two_ends_at_once_both_count(database: Database) -> None:
    await asyncio.gather(*(note(database) for _ in range(20)))
    found = await known(database)
    assert found is not None
    assert (found.completed, found.delivered) == (20, 2000)
