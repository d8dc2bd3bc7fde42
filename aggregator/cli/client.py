"""The daemon's HTTP API, asked by a command: one connection, bounded waits, one safe repetition.

Decides what may be asked again: everything that reads, and what changes something under its Idempotency-Key. It never
follows a redirect, because the key would go along.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from aggregator.cli.failures import CannotDo, Refused, Unreachable
from aggregator.cli.problems import problem_words
from aggregator.cli.target import Target

TIMEOUT_S: Final = 60.0
RUNNING_S: Final = 30.0
"""How long a repeated request waits for its first sending to be answered."""
_REPLAYED: Final = "Idempotent-Replayed"


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer, read whole. `replayed`: its Idempotency-Key was answered before, and nothing was done now."""

    body: bytes
    document: Any
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float


class Client:
    """Asks one daemon. Every method raises Refused for a problem document and Unreachable when nobody answers."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        socket, key = self._target.socket, self._target.key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket)) if socket is not None else aiohttp.TCPConnector(),
            headers={"Authorization": f"Bearer {key}"} if key is not None else {},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, *, timeout_s: float = TIMEOUT_S, **query: object) -> Answer:
        """GET with those parameters of the query that are not None."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        return await self._ask(_Request("GET", path, given, {}, None, timeout_s))

    async def post(
        self, path: str, body: object = None, *, key: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> Answer:
        """POST under `key`, or under a fresh Idempotency-Key."""
        key = key if key is not None else f"cli-{secrets.token_hex(16)}"
        headers = {"Idempotency-Key": key}
        if body is not None:
            headers["Content-Type"] = "application/json"
        raw = json.dumps(body).encode() if body is not None else None
        return await self._ask(_Request("POST", path, {}, headers, raw, timeout_s))

    async def delete(self, path: str, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """DELETE under a fresh Idempotency-Key."""
        headers = {"Idempotency-Key": f"cli-{secrets.token_hex(16)}"}
        return await self._ask(_Request("DELETE", path, {}, headers, None, timeout_s))

    async def _ask(self, request: _Request) -> Answer:
        try:
            return await self._send(request)
        except aiohttp.ClientConnectorError as exc:
            raise Unreachable(self._nobody(exc)) from None
        except TimeoutError:
            raise Unreachable(self._unknown(request, f"it did not answer within {request.timeout_s:g} s")) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError):
            pass  # it broke, and nobody knows whether the daemon had read the request: the key makes it safe to repeat
        except aiohttp.ClientError:
            raise self._stranger("its answer is no HTTP") from None
        return await self._repeat(request)

    async def _repeat(self, request: _Request) -> Answer:
        """Once more after a broken connection; while the first sending is still worked on, its answer is waited for."""
        until = monotonic() + RUNNING_S
        while True:
            try:
                return await self._send(request)
            except Refused as refused:
                if refused.kind != "idempotency-key-in-use" or monotonic() > until:
                    raise
                await asyncio.sleep(refused.wait_s or 1)
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                raise Unreachable(self._unknown(request, "the connection broke, twice")) from None

    async def _send(self, request: _Request) -> Answer:
        assert self._session is not None
        async with self._session.request(
            request.method,
            self._target.base + request.path,
            params=request.query,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=request.timeout_s),
        ) as reply:
            body = await reply.read()
        if 300 <= reply.status < 400:
            raise self._stranger(f"it answers HTTP {reply.status}, a redirect")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise self._stranger(f"it answers HTTP {reply.status} without JSON") from None
        if reply.status < 400:
            return Answer(body, document, reply.headers.get(_REPLAYED) == "true")
        problem: dict[str, Any] = document if isinstance(document, dict) else {}
        after = reply.headers.get("Retry-After", "")
        wait_s = float(after) if after.isascii() and after.isdigit() else 0.0
        words = problem_words(problem, reply.status, wait_s, self._target)
        raise Refused(words, status=reply.status, document=problem, body=body, wait_s=wait_s)

    def _nobody(self, error: aiohttp.ClientConnectorError) -> str:
        cause = error.os_error
        # asyncio's own texts differ; a failed look-up has no errno of the system.
        number = cause.errno or 0
        reason = os.strerror(number) if number > 0 else cause.strerror or str(cause)
        if isinstance(cause, PermissionError):
            return f"{self._target.name} is not for this user ({reason}); join the group of the socket's file"
        start = f"start it: {self._target.how_to_start}"
        if self._target.config is None:
            start = "start it (aggregator run), or mend the address"
        return f"no daemon answers at {self._target.name} ({reason}); {start}"

    def _unknown(self, request: _Request, what: str) -> str:
        words = f"{self._target.name}: {what}; is the daemon well? See its log"
        if request.method == "GET":
            return words
        key = request.headers["Idempotency-Key"]
        return f"{words}.\nWhat was asked for may have been done all the same. Its Idempotency-Key was {key}"

    def _stranger(self, what: str) -> CannotDo:
        return CannotDo(f"{self._target.name}: {what}; is this the daemon's address?")
