"""The client against servers that break, redirect or talk nonsense: what is asked again, and what is said."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aggregator.cli.client import Client
from aggregator.cli.failures import CannotDo, Refused, Unreachable
from aggregator.cli.target import Target

SECRET = "key-that-nobody-may-see"
Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Scripted:
    """A server that behaves, connection by connection, as it was told; the last behaviour stays."""

    behaviours: list[Behaviour]
    heard: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = [line for line in head.split("\r\n") if line.lower().startswith("content-length:")]
            body = await reader.readexactly(int(length[0].split(":")[1])) if length else b""
            self.heard.append(head + body.decode())
            await self.behaviours[min(len(self.heard), len(self.behaviours)) - 1](writer)
        finally:
            writer.close()

    def keys(self) -> list[str]:
        lines = [line for said in self.heard for line in said.split("\r\n")]
        return [line.partition(": ")[2] for line in lines if line.startswith("Idempotency-Key:")]


def answers(status: int, document: object, **headers: str) -> Behaviour:
    async def answer(writer: asyncio.StreamWriter) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return answer


async def breaks(writer: asyncio.StreamWriter) -> None:
    """The connection ends without an answer."""


async def stops_short(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()


async def mumbles(writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await writer.drain()


async def hangs(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def asking(*behaviours: Behaviour) -> AsyncIterator[tuple[Client, Scripted]]:
    scripted = Scripted(list(behaviours))
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with Client(Target(base, base, key=SECRET, key_from="--key")) as client:
        yield client, scripted
    server.close()


RUNNING = answers(409, {"type": "x:idempotency-key-in-use", "title": "running"}, Retry_After="0")


async def test_what_changes_something_has_a_fresh_key_each_time() -> None:
    async with asking(answers(200, {"a": 1})) as (client, scripted):
        assert (await client.post("/v1/x", {"b": "ü"})).document == {"a": 1}
        await client.post("/v1/x")
        await client.post("/v1/x", key="mine")
        await client.get("/v1/x", state="unclear", limit=None, since="2026-11-21T18:00:00+02:00")
    first, second, third = scripted.keys()
    assert first != second
    assert third == "mine"
    assert f"Authorization: Bearer {SECRET}" in scripted.heard[0]
    assert scripted.heard[0].endswith(json.dumps({"b": "ü"}))
    assert scripted.heard[3].startswith("GET /v1/x?state=unclear&since=2026-11-21T18:00:00%2B02:00 HTTP/1.1")


@pytest.mark.parametrize("broken", [breaks, stops_short])
async def test_a_broken_connection_is_tried_once_more_under_the_same_key(broken: Behaviour) -> None:
    async with asking(broken, answers(201, {"n": 1}, Idempotent_Replayed="true")) as (client, scripted):
        answer = await client.post("/v1/orders", {})
        assert (answer.document, answer.replayed) == ({"n": 1}, True)
    assert len(scripted.keys()) == 2
    assert len(set(scripted.keys())) == 1


async def test_reading_is_tried_again_as_well() -> None:
    async with asking(stops_short, answers(200, [])) as (client, _):
        assert (await client.get("/v1/orders")).document == []


async def test_while_the_first_sending_is_worked_on_its_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def no_sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("aggregator.cli.client.asyncio.sleep", no_sleep)
    async with asking(breaks, RUNNING, RUNNING, answers(200, {"done": True})) as (client, scripted):
        assert (await client.post("/v1/orders", {})).document == {"done": True}
    assert waited == [1, 1]
    assert len(set(scripted.keys())) == 1


async def test_a_key_that_somebody_else_uses_is_not_waited_for() -> None:
    async with asking(RUNNING) as (client, _):
        with pytest.raises(Refused):
            await client.post("/v1/orders", {}, key="mine")


async def test_what_broke_twice_may_have_been_done_and_says_its_key() -> None:
    async with asking(breaks) as (client, scripted):
        with pytest.raises(Unreachable) as lost:
            await client.post("/v1/orders", {})
        assert "the connection broke, twice" in str(lost.value)
        assert f"Its Idempotency-Key was {scripted.keys()[0]}" in str(lost.value)
        with pytest.raises(Unreachable) as lost:
            await client.get("/v1/orders")
        assert "Idempotency-Key" not in str(lost.value)
    assert len(scripted.keys()) == 2


async def test_an_answer_is_not_waited_for_without_end() -> None:
    async with asking(hangs) as (client, scripted):
        with pytest.raises(Unreachable, match=r"did not answer within 0\.2 s"):
            await client.post("/v1/orders", {}, timeout_s=0.2)
    assert len(scripted.heard) == 1


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (answers(302, b"", Location="http://127.0.0.1:1/"), "it answers HTTP 302, a redirect; is this the daemon's"),
        (answers(200, b"<html>"), "it answers HTTP 200 without JSON"),
        (answers(502, b"<html>Bad Gateway"), "it answers HTTP 502 without JSON"),
        (mumbles, "its answer is no HTTP"),
    ],
)
async def test_a_stranger_is_recognised(behaviour: Behaviour, words: str) -> None:
    async with asking(behaviour) as (client, scripted):
        with pytest.raises(CannotDo) as strange:
            await client.get("/v1/orders")
    assert words in str(strange.value)
    assert SECRET not in str(strange.value)
    assert len(scripted.heard) == 1


async def test_a_problem_comes_with_its_document() -> None:
    problem = {"type": "urn:aggregator:problem:too-many-requests", "title": "Too many requests", "status": 429}
    async with asking(answers(429, problem, Retry_After="7")) as (client, _):
        with pytest.raises(Refused) as refused:
            await client.get("/v1/orders")
    said = refused.value
    assert (said.status, said.kind, said.wait_s, said.passes) == (429, "too-many-requests", 7, True)
    assert said.document == json.loads(said.body) == problem
    assert str(said) == "Too many requests\n  what to do: try again in 7 s"


@pytest.mark.parametrize("document", [[], "x", None, {"title": 5, "detail": [], "errors": "x", "field": {}}])
async def test_an_odd_problem_is_one_all_the_same(document: Any) -> None:
    async with asking(answers(500, document)) as (client, _):
        with pytest.raises(Refused) as refused:
            await client.get("/v1/orders")
    assert str(refused.value)


def target_of(socket: Path, config: Path | None) -> Target:
    return Target("http://localhost", f"unix:{socket}", socket=socket, config=config)


async def test_nobody_there_is_said_with_the_address_and_how_to_start(tmp_path: Path) -> None:
    socket, config = tmp_path / "a.sock", tmp_path / "config.yaml"
    async with Client(target_of(socket, config)) as client:
        with pytest.raises(Unreachable) as nobody:
            await client.post("/v1/orders", {})
    why = "No such file or directory"
    assert (
        str(nobody.value) == f"no daemon answers at unix:{socket} ({why}); start it: aggregator run --config {config}"
    )
    async with Client(Target("http://127.0.0.1:1", "http://127.0.0.1:1")) as client:
        with pytest.raises(Unreachable) as nobody:
            await client.get("/v1/orders")
    how = "start it (aggregator run), or mend the address"
    assert str(nobody.value) == f"no daemon answers at http://127.0.0.1:1 (Connection refused); {how}"


async def test_a_socket_serves_as_well(tmp_path: Path) -> None:
    scripted = Scripted([answers(200, {"a": 1})])
    server = await asyncio.start_unix_server(scripted.serve, tmp_path / "a.sock")
    async with Client(target_of(tmp_path / "a.sock", None)) as client:
        assert (await client.get("/v1/orders")).document == {"a": 1}
    server.close()
    assert "Authorization" not in scripted.heard[0]


async def test_a_socket_of_others_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Root, as which tests may run, is refused by no socket.
    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", refuse)
    async with Client(target_of(tmp_path / "a.sock", None)) as client:
        with pytest.raises(Unreachable, match=r"is not for this user \(Permission denied\); join the group"):
            await client.get("/v1/orders")
