"""Whole answers: what a client of each kind sees of one, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from aggregator.web.rendering import Answer, response

BODY = '{"said": "ä"}'


@pytest_asyncio.fixture
async def server() -> AsyncIterator[BaseTestServer]:
    async def answer(request: web.Request) -> web.Response:
        return response(Answer(201, BODY, {"Location": "/v1/orders/ord_1"}))

    async def spoilt(request: web.Request) -> web.Response:
        return response(Answer(200, BODY, {"Location": "/\r\nSet-Cookie: a=b"}))

    async def prepared(request: web.Request) -> web.Response:
        whole = response(Answer(200, BODY))
        await whole.prepare(request)
        return whole

    app = web.Application()
    app.router.add_get("/", answer)
    app.router.add_get("/spoilt", spoilt)
    app.router.add_get("/prepared", prepared)
    async with TestServer(app) as served:
        yield served


async def said(server: BaseTestServer, request: str) -> list[tuple[list[str], bytes]]:
    """Everything the server says to these requests until it closes: heads and what follows each."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(request.encode())
    everything = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    answers = []
    for part in everything.split(b"HTTP/1.")[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        answers.append((f"HTTP/1.{head.decode()}".split("\r\n"), body))
    return answers


async def test_an_answer_has_its_length_in_bytes_and_a_date(server: BaseTestServer) -> None:
    ((head, body),) = await said(server, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert head[0] == "HTTP/1.1 201 Created"
    assert body == BODY.encode()
    fields = dict(line.split(": ", 1) for line in head[1:])
    assert parsedate_to_datetime(fields.pop("Date")).tzinfo is not None
    assert fields == {
        "Content-Type": "application/json",
        "Location": "/v1/orders/ord_1",
        "Content-Length": str(len(BODY.encode())),
        "Connection": "close",
    }


async def test_head_is_answered_without_the_body_and_the_connection_goes_on(server: BaseTestServer) -> None:
    requests = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    (head, nothing), (_, body) = await said(server, requests)
    assert nothing == b""
    assert body == BODY.encode()
    assert f"Content-Length: {len(BODY.encode())}" in head
    assert not [line for line in head if line.startswith("Connection")]


async def test_an_old_client_is_told_whether_the_connection_stays(server: BaseTestServer) -> None:
    requests = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n"
    (first, _), (second, _) = await said(server, requests)
    assert first[0] == "HTTP/1.0 201 Created"
    assert "Connection: keep-alive" in first
    assert not [line for line in second if line.startswith("Connection")]


async def test_a_header_that_would_end_the_head_is_not_written(server: BaseTestServer) -> None:
    assert await said(server, "GET /spoilt HTTP/1.1\r\nHost: a\r\n\r\n") == []  # its connection is closed instead


async def test_an_answer_is_written_once(server: BaseTestServer) -> None:
    ((_, body),) = await said(server, "GET /prepared HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert body == BODY.encode()
