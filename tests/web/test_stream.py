"""Server-sent events: every event once over any number of connections, and no reader costs others anything."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from aiohttp import ClientResponse

from aggregator.config import TcpAddress
from aggregator.domain.clock import ManualClock
from aggregator.domain.events import Draft
from aggregator.storage import outbox
from aggregator.storage.database import Database
from aggregator.web import api_events, feed, limits
from aggregator.web.connections import CUT
from aggregator.web.server import create_app
from aggregator.web.sites import start_sites
from tests.support import rows
from tests.web.support import OTHER, READER, SHOP, Doors, open_house

Block = dict[str, str]


class Reader:
    """Reads a stream block by block, as its standard says."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response

    async def block(self) -> Block:
        """The next block's fields; a comment stands under ""; EOFError at the end."""
        fields: Block = {}
        async with asyncio.timeout(10):
            while (line := (await self.response.content.readline()).decode()) not in ("\n", ""):
                name, _, value = line.rstrip("\n").partition(":")
                fields[name] = value.removeprefix(" ")
        if not fields:
            raise EOFError
        return fields

    async def event(self) -> Block:
        while "data" not in (block := await self.block()):
            pass
        return block

    async def rest(self) -> list[Block]:
        found = []
        while True:
            try:
                found.append(await self.block())
            except EOFError:
                return found


@asynccontextmanager
async def stream(
    doors: Doors, query: str = "", *, key: str = READER, last: str | None = None
) -> AsyncIterator[tuple[Reader, Block]]:
    """A stream and its first block, which holds no event."""
    headers = {"Authorization": f"Bearer {key}", **({"Last-Event-ID": last} if last is not None else {})}
    async with doors.client.get(f"/v1/events/stream{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        reader = Reader(response)
        yield reader, await reader.block()


async def happen(doors: Doors, count: int = 1, **fields: Any) -> None:
    """New orders, whose events are in the feed at once."""
    for _ in range(count):
        await doors.order(**fields)
    await doors.write(rows.sequence)
    doors.house.wakeups.wake("feed")


async def test_an_event_is_what_the_feed_tells_with_its_position_and_type(doors: Doors) -> None:
    await happen(doors, 2)
    told = (await doors.get("/v1/events", key=READER)).json["events"]
    async with stream(doors, "?after=0") as (reader, first):
        assert first == {"retry": "2000", "id": "0"}
        for event in told:
            block = await reader.event()
            assert (block["id"], block["event"]) == (str(event["position"]), "order.accepted")
            assert json.loads(block["data"]) == event
            assert block["data"] in (await doors.get("/v1/events", key=READER)).text
        assert reader.response.headers["Cache-Control"] == "no-store"


async def test_a_stream_without_a_place_begins_with_what_comes_from_now_on(doors: Doors) -> None:
    await happen(doors, 3)
    async with stream(doors) as (reader, first):
        assert first["id"] == "3"
        await happen(doors)
        assert (await reader.event())["id"] == "4"


async def test_the_last_event_wins_over_the_address(doors: Doors) -> None:
    await happen(doors, 3)
    async with stream(doors, "?after=0", last="2") as (reader, first):
        assert first["id"] == "2"
        assert (await reader.event())["id"] == "3"


async def test_callers_hear_of_their_own_orders_and_pass_over_the_others(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_events, "HEARTBEAT_S", 0.05)
    await happen(doors, 2, key=OTHER)
    await doors.write(outbox.append_general, Draft("provider.up", {"provider": "x"}), doors.house.clock.now())
    await happen(doors)
    await happen(doors, 2, key=OTHER)
    async with stream(doors, "?after=0", key=SHOP) as (reader, _):
        assert (await reader.event())["id"] == "4"
        for _ in range(200):
            if "id" in (beat := await reader.block()):
                break
        # Whoever reconnects from here need not look through what belongs to others again.
        assert beat == {"": "", "id": "6"}
        await happen(doors)
        assert (await reader.event())["id"] == "7"


async def test_each_event_comes_once_over_any_number_of_connections(doors: Doors) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    total, seen, last = 60, list[int](), "0"
    for _ in range(20):
        await doors.order()

    async def write() -> None:
        for _ in range(total - 20):
            await doors.order()
            if choice.random() < 0.4:
                await doors.write(rows.sequence)
                doors.house.wakeups.wake(*choice.choice([("feed",), ()]))
        await happen(doors, 0)

    writing = asyncio.create_task(write())
    while len(seen) < total:
        async with stream(doors, last=last) as (reader, _):
            for _ in range(choice.randint(0, 9)):
                if len(seen) < total:
                    block = await reader.event()
                    seen.append(int(block["id"]))
                    last = block["id"]
    await writing
    assert seen == list(range(1, total + 1))


async def test_who_is_far_behind_catches_up_past_what_is_in_memory(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "KEPT", 4)
    monkeypatch.setattr(feed, "WINDOW", 3)
    monkeypatch.setattr(api_events, "PAGE", 2)
    async with stream(doors, "?after=0") as (reader, _):
        await happen(doors, 5, key=OTHER)
        await happen(doors, 8)
        assert [int((await reader.event())["id"]) for _ in range(13)] == list(range(1, 14))
    async with stream(doors, "?after=0", key=SHOP) as (reader, _):
        assert [int((await reader.event())["id"]) for _ in range(8)] == list(range(6, 14))
    reply = await doors.get("/v1/events?limit=3", key=SHOP)
    assert ([e["position"] for e in reply.json["events"]], reply.json["next_after"]) == ([6, 7, 8], 8)


async def test_many_streams_share_one_look_at_the_database(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LOOK_EVERY_S", 3600.0)
    async with stream(doors) as (one, _), stream(doors) as (two, _), stream(doors, key=SHOP) as (three, _):
        readers = [one, two, three]
        await happen(doors)
        for reader in readers:
            await reader.event()
        looks = 0
        read = doors.house.database.read

        async def counted(work: Callable[[Any], Any]) -> Any:
            nonlocal looks
            looks += 1
            return await read(work)

        await doors.order()
        await doors.write(rows.sequence)
        monkeypatch.setattr(doors.house.database, "read", counted)
        doors.house.wakeups.wake("feed")
        for reader in readers:
            assert (await reader.event())["id"] == "2"
        assert looks == 1


async def test_a_key_that_ends_takes_its_stream_with_it(sqlite_doors: Doors, clock: ManualClock) -> None:
    async with stream(sqlite_doors, key="old-key-0123456789") as (reader, _):
        waiting = asyncio.create_task(sqlite_doors.get("/v1/events?after=0&wait=30", key="old-key-0123456789"))
        await sqlite_doors.get("/v1/events", key="old-key-0123456789")
        clock.advance(3600)
        await happen(sqlite_doors, key="new-key-0123456789")
        assert await reader.rest() == [{"": "this key counts no more"}]
        assert (await waiting).json["events"] == []
    assert (await sqlite_doors.get("/v1/events/stream", key="old-key-0123456789")).status == 401


async def test_a_daemon_that_drains_ends_its_streams(sqlite_doors: Doors) -> None:
    async with stream(sqlite_doors) as (reader, _):
        sqlite_doors.draining = True
        sqlite_doors.house.wakeups.wake("feed")
        assert await reader.rest() == []


async def test_closing_doors_end_every_stream(sqlite_doors: Doors) -> None:
    async with stream(sqlite_doors) as (reader, _):
        app: Any = sqlite_doors.client.server.app  # type: ignore[attr-defined]
        await app.shutdown()
        assert await reader.rest() == []


@pytest.mark.parametrize("last", ["x", "-1", "1.0", "²", "99999999999999999999", "7"])
async def test_a_last_event_that_never_was_is_refused(sqlite_doors: Doors, last: str) -> None:
    reply = await sqlite_doors.get("/v1/events/stream", headers={"Last-Event-ID": last})
    assert (reply.status, reply.field) == (422, "Last-Event-ID")


@pytest.mark.parametrize("path", ["/v1/events?after=7", "/v1/events/stream?after=7", "/v1/events?after=7&wait=30"])
async def test_a_position_that_was_never_given_is_refused(sqlite_doors: Doors, path: str) -> None:
    reply = await sqlite_doors.get(path)
    assert (reply.status, reply.field) == (422, "after")
    assert "the newest is 0" in reply.json["detail"]


async def test_head_tells_that_it_is_a_stream_and_ends(sqlite_doors: Doors) -> None:
    headers = {"Authorization": f"Bearer {SHOP}"}
    async with asyncio.timeout(10), sqlite_doors.client.head("/v1/events/stream", headers=headers) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")


async def test_readers_that_wait_are_counted_for_one_caller_and_for_all(
    sqlite_doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READERS_OF_ONE", 2)
    monkeypatch.setattr(limits, "READERS_OF_ALL", 3)
    async with stream(sqlite_doors, key=SHOP), stream(sqlite_doors, key=SHOP):
        for path in ("/v1/events/stream", "/v1/events?wait=30"):
            reply = await sqlite_doors.get(path, key=SHOP)
            assert (reply.status, reply.headers["Retry-After"]) == (429, "5")
        assert (await sqlite_doors.get("/v1/events", key=SHOP)).status == 200
        async with stream(sqlite_doors, key=OTHER):
            reply = await sqlite_doors.get("/v1/events/stream", key=READER)
            assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    sqlite_doors.house.wakeups.wake("feed")  # who has gone is noticed
    async with asyncio.timeout(10):
        while (await sqlite_doors.call("HEAD", "/v1/events/stream", key=SHOP)).status != 200:
            sqlite_doors.house.wakeups.wake("feed")


@pytest.mark.parametrize("closing", [False, True], ids=["in time", "with the doors"])
async def test_a_reader_that_does_not_read_is_cut(
    sqlite_database: Database, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closing: bool
) -> None:
    monkeypatch.setattr(api_events, "SEND_S", 3600 if closing else 0.2)
    doors = Doors(await open_house(sqlite_database, clock, tmp_path))
    for _ in range(150):
        await doors.write(
            outbox.append_general, Draft("provider.down", {"provider": "x", "reason": "x" * 100_000}), clock.now()
        )
    await doors.write(rows.sequence)
    runner = await start_sites(create_app(doors.services), [TcpAddress("127.0.0.1", 0)])
    try:
        slow = socket.create_connection(runner.addresses[0])
        with slow:
            before = CUT.labels("slow_stream")._value.get()
            slow.sendall(
                b"GET /v1/events/stream?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"
                % READER.encode()
            )
            server: Any = runner.server
            for _ in range(200):
                if any(one.writing_paused for one in server.connections):
                    break
                await asyncio.sleep(0.02)
            (stuck,) = server.connections
            assert stuck.transport.get_write_buffer_size() < 2_000_000, "what is not read is not piled up"
            if closing:
                began = monotonic()
                await runner.cleanup()
                assert monotonic() - began < 2
                return
            for _ in range(200):
                if not server.connections:
                    break
                await asyncio.sleep(0.02)
            assert CUT.labels("slow_stream")._value.get() == before + 1
            assert not server.connections
    finally:
        await runner.cleanup()
