"""What an operator reads when a provider does not answer: cause, setting and remedy; neither its URL nor the key."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from aggregator.domain.clock import ManualClock
from aggregator.log import Redactor
from aggregator.outbound import Outbound
from aggregator.providers.advice import advised
from aggregator.providers.contract import Failure, FailureKind
from aggregator.providers.gateway import Gateway
from tests.support.house import load_settings

KEY = "key-of-the-provider-0001"
ADDRESS = "is `providers.panel.url` the API's address? It usually ends in /api/v2"
Answer = Callable[[], web.Response]


def _page(status: int, body: str = "<html>Hello</html>", kind: str = "text/html", **headers: str) -> Answer:
    return lambda: web.Response(status=status, text=body, content_type=kind, headers=headers)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    async def handle(_request: web.Request) -> web.Response:
        return answer()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/a-secret-path/api/v2"
    finally:
        await runner.cleanup()


async def asked(url: str, folder: Path, clock: ManualClock, timeout_s: float = 5) -> Failure:
    """What the gateway says of a provider at this URL."""
    account = {"dialect": "panel_v2", "url": url, "api_key": KEY, "timeout_s": timeout_s}
    settings = load_settings(folder, json.dumps({"providers": {"panel": account}}))
    async with Outbound() as outbound:
        gateway = Gateway("panel", settings.providers["panel"], outbound, Redactor([KEY]), clock)
        services, balance = await gateway.services(), await gateway.balance()
    assert isinstance(services, Failure)
    assert isinstance(balance, Failure)
    assert services.cause == balance.cause
    for failure in (services, balance):
        assert "secret" not in failure.text
        assert KEY not in failure.text
        assert "`providers.panel." in failure.text or "ask the provider" in failure.text
    return services


@pytest.mark.parametrize(
    ("answer", "cause", "words"),
    [
        (_page(200), "html", f"answers HTML instead of JSON (HTTP 200, html): {ADDRESS}"),
        (_page(200, ""), "empty", f"answers nothing at all (HTTP 200, empty): {ADDRESS}"),
        (_page(200, '[{"service":1,"na'), "not_json", "only the beginning of it (HTTP 200, not_json): "),
        (_page(200, "hello"), "not_json", "answers what is no JSON"),
        (_page(200, "null"), "unknown_shape", "without what was asked for (no list of services in the answer): "),
        (_page(200, '{"hello": 1}'), "unknown_shape", "is `providers.panel.dialect` right?"),
        (_page(302, Location="https://www.example.com/api/v2"), "redirect", "set `providers.panel.url` to the address"),
        (_page(404), "no_such_page", f"has no API at this address (HTTP 404, html): {ADDRESS}"),
        (_page(405), "no_such_page", ADDRESS),
        (_page(403), "forbidden", "Ask the provider to let this machine in"),
        (_page(401), "auth", "is `providers.panel.api_key` the key of this account"),
        (_page(418), "http_4xx", ADDRESS),
        (_page(502), "http_5xx", "has a fault of its own (HTTP 502, http_502): if it lasts, ask the provider"),
        (_page(429), "rate_limit", "lower `providers.panel.requests_per_second`"),
        (
            _page(200, json.dumps({"error": f"Incorrect api key {KEY}"})),
            "auth",
            "refuses the key (Incorrect api key [redacted]): is `providers.panel.api_key` the key of this account",
        ),
    ],
)
async def test_an_answer_that_is_none_names_cause_and_remedy(
    answer: Answer, cause: str, words: str, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.providers.limits.Limiter.pause", lambda *_: None)
    async with serving(answer) as url:
        failure = await asked(url, tmp_path, clock)
    assert failure.cause == cause
    assert words in failure.text


@pytest.mark.parametrize(
    ("url", "cause", "words"),
    [
        ("http://no.such.host.invalid/api/v2", "no_such_host", "is the host in `providers.panel.url` spelled right"),
        ("http://127.0.0.1:{closed}/api/v2", "no_connection", "may this machine connect to it"),
        ("https://127.0.0.1:{plain}/api/v2", "tls", "does `providers.panel.url` say https:// where"),
    ],
)
async def test_a_provider_that_cannot_be_reached_says_what_to_look_at(
    url: str, cause: str, words: str, tmp_path: Path, clock: ManualClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = probe.getsockname()[1]
    async with serving(_page(200)) as plain:
        failure = await asked(url.format(closed=closed, plain=plain.split(":")[2].split("/")[0]), tmp_path, clock)
    assert failure.cause == cause
    assert words in failure.text


async def test_a_provider_that_is_silent_or_hangs_up_says_so(tmp_path: Path, clock: ManualClock) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reader.read(1)
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api/v2"
        failure = await asked(url, tmp_path, clock, timeout_s=0.2)
    assert (failure.cause, "raise `providers.panel.timeout_s`" in failure.text) == ("timeout", True)
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        failure = await asked(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v2", tmp_path, clock)
    assert (failure.cause, "breaks the connection off" in failure.text) == ("connection_lost", True)


def test_what_no_advice_helps_with_stays_as_it_was() -> None:
    for kind in (FailureKind.ERROR, FailureKind.NOT_FOUND, FailureKind.UNSUPPORTED):
        told = advised("panel", Failure(kind, "Maintenance", 7.0))
        assert (told.text, told.retry_after_s, told.cause) == ("Maintenance", 7.0, str(kind))


def test_no_kind_of_certificate_trouble_is_without_advice() -> None:
    told = advised("panel", Failure(FailureKind.NOT_SENT, "the TLS certificate is not valid"))
    assert (told.cause, "this machine's clock" in told.text) == ("tls", True)
    text = f"ClientConnectorSSLError: {ssl.SSLError(1, '[SSL] wrong version number').strerror}"
    assert advised("panel", Failure(FailureKind.NOT_SENT, text)).cause == "tls"
