"""The feed by long poll: nothing is missed, nothing is told twice, and nobody waits for a closing door."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aggregator.domain.events import Draft
from aggregator.storage import outbox
from tests.support import rows
from tests.web.support import OTHER, READER, SHOP, Doors


async def test_events_come_by_position_with_their_ids(doors: Doors) -> None:
    order = await doors.order()
    await doors.write(rows.sequence)
    reply = await doors.get("/v1/events?after=0")
    (event,) = reply.json["events"]
    assert (event["position"], event["type"], event["data"]["sequence"]) == (1, "order.accepted", 1)
    assert event["data"]["order"]["id"] == order["id"]
    assert event["id"].startswith("evt_")
    assert reply.json["next_after"] == 1
    assert (await doors.get("/v1/events?after=1")).json == {"events": [], "next_after": 1}


async def test_a_reader_in_small_steps_sees_each_event_once(doors: Doors) -> None:
    for _ in range(7):
        await doors.order()
    await doors.write(rows.sequence)
    seen: list[int] = []
    after = 0
    while True:
        reply = await doors.get(f"/v1/events?limit=2&after={after}", key=READER)
        if not reply.json["events"]:
            break
        seen += [event["position"] for event in reply.json["events"]]
        after = reply.json["next_after"]
    assert seen == list(range(1, 8))


async def test_callers_hear_of_their_own_orders_alone(doors: Doors) -> None:
    mine = await doors.order()
    await doors.order(key=OTHER)
    await doors.write(outbox.append_general, Draft("provider.up", {"provider": "x"}), doors.house.clock.now())
    await doors.write(rows.sequence)
    reply = await doors.get("/v1/events", key=SHOP)
    assert [event["data"]["order"]["id"] for event in reply.json["events"]] == [mine["id"]]
    # What belongs to others is passed over, so that nobody reads it again and again.
    assert reply.json["next_after"] == 3
    assert len((await doors.get("/v1/events", key=READER)).json["events"]) == 3


async def test_a_waiting_reader_is_woken_by_a_new_position(doors: Doors) -> None:
    waiting = asyncio.create_task(doors.get("/v1/events?after=0&wait=30"))
    order = await doors.order()
    await doors.write(rows.sequence)
    doors.house.wakeups.wake("feed")
    reply = await waiting
    assert [event["data"]["order"]["id"] for event in reply.json["events"]] == [order["id"]]


async def test_a_waiting_reader_is_not_woken_by_foreign_events(doors: Doors) -> None:
    waiting = asyncio.create_task(doors.get("/v1/events?after=0&wait=30"))
    await doors.order(key=OTHER)
    await doors.write(rows.sequence)
    doors.house.wakeups.wake("feed")
    mine = await doors.order()
    await doors.write(rows.sequence)
    doors.house.wakeups.wake("feed")
    assert [event["data"]["order"]["id"] for event in (await waiting).json["events"]] == [mine["id"]]


async def test_a_reader_does_not_wait_for_a_daemon_that_stops(doors: Doors) -> None:
    doors.draining = True
    async with asyncio.timeout(10):
        assert (await doors.get("/v1/events?wait=30")).json == {"events": [], "next_after": 0}


async def test_closing_doors_end_every_wait(sqlite_doors: Doors) -> None:
    waiting = asyncio.create_task(sqlite_doors.get("/v1/events?wait=30"))
    await sqlite_doors.get("/v1/events")
    app: Any = sqlite_doors.client.server.app  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        await app.shutdown()
        assert (await waiting).json["events"] == []


@pytest.mark.parametrize(
    "query", ["wait=31", "wait=-1", "after=-1", "after=x", "limit=501", "after=99999999999999999999"]
)
async def test_a_feed_query_that_makes_no_sense_is_named(sqlite_doors: Doors, query: str) -> None:
    reply = await sqlite_doors.get(f"/v1/events?{query}")
    assert (reply.status, reply.field) == (422, query.partition("=")[0])
