"""What all stages share: callers who crowd at the doors go before what can wait."""

from __future__ import annotations

import asyncio

import pytest

from aggregator.flow.base import CROWD, CROWD_LASTS_S, TURN_S, Callers


def waits(callers: Callers) -> bool:
    """Whether whoever makes room has to wait."""
    room = callers.make_room()
    try:
        room.send(None)
    except StopIteration:
        return False
    room.close()
    return True


async def test_nobody_makes_room_for_a_few(callers: Callers) -> None:
    assert not waits(callers)
    with callers.wait(CROWD - 1):
        assert not waits(callers)


async def test_room_is_made_for_a_crowd_and_a_moment_longer(callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    with callers.wait(CROWD // 2), callers.wait(CROWD - CROWD // 2):
        assert waits(callers)
    assert waits(callers)
    monkeypatch.setattr(loop, "time", lambda: now + CROWD_LASTS_S + 1)
    assert not waits(callers)


async def test_while_it_is_a_crowd_turns_come_one_after_the_other(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    at_once = asyncio.Event()

    async def turn(seconds: float) -> None:
        turns.append(seconds)
        await at_once.wait()

    monkeypatch.setattr("aggregator.flow.base.asyncio.sleep", turn)
    with callers.wait(CROWD):
        asked = [asyncio.ensure_future(callers.make_room()) for _ in range(5)]
        for _ in range(20):
            await asyncio.wait(asked, timeout=0)
        assert turns == [TURN_S]
        at_once.set()
        await asyncio.gather(*asked)
    assert turns == [TURN_S] * 5


@pytest.fixture
def callers() -> Callers:
    return Callers()
