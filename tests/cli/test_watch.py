"""Following an order: nothing missed, nothing told twice, wherever the feed ends and whoever is away meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.cli.client import Answer, Client
from aggregator.cli.failures import Refused, Unreachable
from aggregator.cli.watch import Watch

MINE = "ord_1"


class FakeDaemon:
    """A feed, and one order in it. `script` makes the next thing happen whenever somebody waits for one."""

    def __init__(self, head: int = 0, visible: set[int] | None = None, script: list[Callable[[], None]] | None = None):
        self.head = head
        self.visible = visible if visible is not None else set(range(1, head + 1))
        self.state = "accepted"
        self.own: list[dict[str, Any]] = []
        self.script = script or []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.failures: list[Exception] = []

    def happens(self, kind: str, state: str, *, positioned: bool = True) -> None:
        self.state = state
        if positioned:
            self.head += 1
            self.visible.add(self.head)
        data = {"order": {"id": MINE, "state": state}, "sequence": len(self.own) + 1}
        position = self.head if positioned else None
        self.own.append({"id": f"evt_{len(self.own)}", "position": position, "type": kind, "data": data})

    async def get(self, path: str, **query: Any) -> Answer:
        self.asked.append((path, query))
        if self.failures:
            raise self.failures.pop(0)
        return Answer(b"", self._document(path, query))

    def _document(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/orders/1":
            return {"id": MINE, "number": 1, "state": self.state}
        if path == "/v1/orders/1/events":
            return {"events": list(self.own)}
        assert path == "/v1/events"
        if query.get("wait") and not self._after(query) and self.script:
            self.script.pop(0)()
        found = self._after(query)[: query["limit"]]
        head = 0 if len(found) == query["limit"] else self.head
        return {"events": found, "next_after": max(query["after"], head, found[-1]["position"] if found else 0)}

    def _after(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        own = {event["position"]: event for event in self.own}
        positions = sorted(position for position in self.visible if position > query["after"])
        return [own.get(position, {"position": position, "data": {}}) for position in positions[:500]]


def watching(daemon: FakeDaemon) -> tuple[Watch, list[str], list[str]]:
    told: list[str] = []
    noted: list[str] = []
    return Watch(cast(Client, daemon), "1", lambda event: told.append(event["type"]), noted.append), told, noted


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting costs no time here; how long was waited."""
    found: list[float] = []

    async def nap(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr("aggregator.cli.watch.asyncio.sleep", nap)
    return found


@given(st.integers(0, 3000), st.integers(0, 3000), st.sets(st.integers(1, 3000), max_size=20))
async def test_the_head_is_found_exactly_and_soon(head: int, known: int, visible: set[int]) -> None:
    daemon = FakeDaemon(head, {position for position in visible if position <= head})
    watch, _, _ = watching(daemon)
    found = await watch._head(min(known, head))
    # Never beyond what was given out, and nothing that is ours to see lies between.
    assert found <= head
    assert not any(position > found for position in daemon.visible)
    assert len(daemon.asked) <= 30


async def test_a_far_head_takes_few_questions() -> None:
    daemon = FakeDaemon(1_000_000, {1, 500_000, 1_000_000})
    watch, _, _ = watching(daemon)
    assert await watch._head(0) == 1_000_000
    assert len(daemon.asked) < 40


async def test_an_order_that_is_final_is_told_and_left() -> None:
    daemon = FakeDaemon(10)
    daemon.happens("order.accepted", "accepted")
    daemon.happens("order.canceled", "canceled")
    watch, told, _ = watching(daemon)
    assert (await watch.to_the_end())["state"] == "canceled"
    assert told == ["order.accepted", "order.canceled"]
    assert not any("wait" in query for _, query in daemon.asked)


async def test_each_event_is_told_once_and_in_order() -> None:
    daemon = FakeDaemon(10)
    daemon.happens("order.accepted", "accepted", positioned=False)

    def stranger() -> None:
        daemon.head += 1
        daemon.visible.add(daemon.head)

    def two_at_once() -> None:
        daemon.happens("sms.code", "completed")
        daemon.happens("order.completed", "completed")

    daemon.script = [stranger, lambda: daemon.happens("order.placed", "pending"), lambda: None, two_at_once]
    watch, told, noted = watching(daemon)
    assert (await watch.to_the_end())["state"] == "completed"
    assert told == ["order.accepted", "order.placed", "sms.code", "order.completed"]
    assert noted == []


async def test_an_end_that_no_event_told_is_seen_all_the_same() -> None:
    daemon = FakeDaemon()
    daemon.happens("order.accepted", "accepted")
    daemon.script = [lambda: setattr(daemon, "state", "failed")]
    watch, _, _ = watching(daemon)
    assert (await watch.to_the_end())["state"] == "failed"


def refused(status: int) -> Refused:
    return Refused("no", status=status, document={}, body=b"", wait_s=3)


async def test_a_daemon_that_goes_away_for_a_while_is_waited_for(naps: list[float]) -> None:
    daemon = FakeDaemon()
    daemon.happens("order.accepted", "accepted")

    def restart() -> None:
        daemon.failures = [Unreachable("nobody"), Unreachable("nobody"), refused(503)]
        daemon.happens("order.completed", "completed")

    daemon.script = [restart]
    watch, told, noted = watching(daemon)
    await watch.to_the_end()
    assert told == ["order.accepted", "order.completed"]
    assert noted == ["nobody; waiting for it up to 60 s"]
    assert naps.count(3) == 1


async def test_a_daemon_that_stays_away_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = FakeDaemon()
    daemon.happens("order.accepted", "accepted")
    daemon.script = [lambda: setattr(daemon, "failures", [Unreachable("nobody") for _ in range(9)])]
    times = iter(range(0, 1000, 20))
    monkeypatch.setattr("aggregator.cli.watch.monotonic", lambda: float(next(times)))
    watch, _, noted = watching(daemon)
    with pytest.raises(Unreachable):
        await watch.to_the_end()
    assert len(noted) == 1


@pytest.mark.parametrize("failure", [Unreachable("nobody"), refused(404), refused(503)])
async def test_what_cannot_be_followed_is_said_at_once(failure: Exception, naps: list[float]) -> None:
    daemon = FakeDaemon()
    daemon.failures = [failure]
    watch, told, _ = watching(daemon)
    with pytest.raises(type(failure)):
        await watch.to_the_end()
    assert (told, naps) == ([], [])


async def test_a_refusal_on_the_way_ends_it() -> None:
    daemon = FakeDaemon()
    daemon.happens("order.accepted", "accepted")
    daemon.script = [lambda: setattr(daemon, "failures", [refused(401)])]
    watch, _, _ = watching(daemon)
    with pytest.raises(Refused):
        await watch.to_the_end()
