"""Idempotency keys at the door: a request with a known key is answered again, not done again.

The answer is stored in the same transaction as what the request did. One that is still running, and one whose answer
says to come back later, is not stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar, cast

from aiohttp import web

from aggregator.domain.errors import Problem, ProblemKind
from aggregator.flow.base import House
from aggregator.storage import idempotency
from aggregator.storage.database import Connection, Database
from aggregator.storage.deliverables import Sealer
from aggregator.storage.idempotency import SEALED, Entry, Stored
from aggregator.web.problems import STORED, invalid
from aggregator.web.rendering import REQUEST_ID, Answer, problem_answer, response

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotent-Replayed": "true"}
MAX_KEY: Final = 255
# draft-ietf-httpapi-idempotency-key-header: a structured-field string; bare keys are what most clients send.
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')

T = TypeVar("T")


class Key(NamedTuple):
    """One caller's key for one request."""

    owner: str
    key: str
    fingerprint: bytes


def key_of(request: web.Request, owner: str, body: bytes) -> Key | None:
    """The request's Idempotency-Key, or None; Problem naming the header when it is malformed."""
    values = request.headers.getall(HEADER, None)
    if values is None:
        return None
    text = values[0].strip()
    if text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        text = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else ""
    elif not (text.isascii() and text.isprintable()):
        text = ""
    if len(values) > 1 or not 1 <= len(text) <= MAX_KEY:
        raise invalid(f'must be one key of 1 to {MAX_KEY} printable ASCII characters, bare or in "quotes"', HEADER)
    # At the panel door a purchase may come by GET, and a path may end in a slash: the same request all the same.
    method = "POST" if request.method == "GET" else request.method
    return Key(owner, text, idempotency.fingerprint(method, request.path.rstrip("/"), body))


class Running:
    """The keys whose requests are being worked on in this process."""

    def __init__(self) -> None:
        self._names: set[tuple[str, str]] = set()

    def only(self, key: Key | None) -> _Held:
        """Hold the key while its request runs; Problem 409 when another one holds it."""
        return _Held(self._names, None if key is None else (key.owner, key.key))


class _Held:
    __slots__ = ("_name", "_names")

    def __init__(self, names: set[tuple[str, str]], name: tuple[str, str] | None) -> None:
        self._names = names
        self._name = name

    def __enter__(self) -> None:
        if self._name is None:
            return
        if self._name in self._names:
            raise Problem(ProblemKind.IDEMPOTENCY_RUNNING, f"try again in a moment, with the same {HEADER}")
        self._names.add(self._name)

    def __exit__(self, *_: object) -> None:
        if self._name is not None:
            self._names.discard(self._name)


RUNNING: Final = web.AppKey("running", Running)


async def find(house: House, key: Key) -> Entry | None:
    """What the key stands for already; Problem 422 when it belongs to another request."""
    entry = await house.database.read(lambda c: idempotency.find(c, key.owner, key.key))
    if entry is not None and entry.fingerprint != key.fingerprint:
        raise idempotency.mismatch()
    return entry


def replayed(stored: Stored, sealer: Sealer | None = None) -> web.Response:
    headers = dict(REPLAYED)
    body = stored.body
    if body.startswith(SEALED) and sealer is not None:
        body = sealer.open(body.removeprefix(SEALED).encode())
    if stored.status == 201:
        made = json.loads(body)
        headers["Location"] = f"/v1/orders/{made['id']}" if "id" in made else f"/v1/webhooks/{made['name']}"
    return response(Answer(stored.status, body, headers))


class _Recording:
    """A database whose writes keep the request's answer in their own transaction."""

    def __init__(
        self,
        inner: Database,
        render: Callable[[Connection, Any], Answer],
        house: House,
        key: Key | None,
        *,
        sealed: bool,
    ):
        self.kind = inner.kind
        self._sealed = sealed
        self._inner = inner
        self._render = render
        self._house = house
        self._key = key
        self.answer: Answer | None = None

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._inner.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        def both(connection: Connection) -> tuple[T, Answer]:
            result = work(connection)
            answer = self._render(connection, result)
            if self._key is not None:
                _keep(connection, self._house, self._key, answer, sealed=self._sealed)
            return result, answer

        result, self.answer = await self._inner.write(both)
        return result

    async def write_together(self, work: Callable[[Connection, Sequence[Any]], Sequence[T]], item: Any) -> T:
        return (await self.write(lambda c: work(c, [item])))[0]

    async def close(self) -> None:
        await self._inner.close()


def _keep(connection: Connection, house: House, key: Key, answer: Answer, *, sealed: bool = False) -> None:
    body = SEALED + house.sealer.seal(answer.body).decode() if sealed else answer.body
    entry = Entry(key.fingerprint, Stored(answer.status, body))
    if not idempotency.keep(connection, key.owner, key.key, entry, house.clock.now()):
        # Another process took the key in between.
        raise Problem(ProblemKind.IDEMPOTENCY_RUNNING, f"try again in a moment, with the same {HEADER}")


async def once(
    request: web.Request,
    house: House,
    owner: str,
    body: bytes,
    work: Callable[[House], Awaitable[object]],
    render: Callable[[Connection, Any], Answer],
    *,
    sealed: bool = False,
) -> web.Response:
    """Answer a request that changes something by one write of the house it is given, once per Idempotency-Key.

    `render` makes the answer of what the write returned, inside the write's transaction. `sealed`: the answer holds a
    secret, and is kept like one.
    """
    key = key_of(request, owner, body)
    with request.app[RUNNING].only(key):
        if key is not None and (entry := await find(house, key)) is not None:
            assert entry.answer is not None, "only a new order's answer is made again, and its path is another one"
            return replayed(entry.answer, house.sealer)
        recording = _Recording(house.database, render, house, key, sealed=sealed)
        try:
            await work(replace(house, database=cast(Database, recording)))
        except Problem as problem:
            if key is None or problem.kind not in STORED:
                raise
            refusal = problem_answer(problem, request[REQUEST_ID])
            await house.database.write(lambda c: _keep(c, house, key, refusal))
            return response(refusal)
        assert recording.answer is not None, "the work wrote nothing"
        return response(recording.answer)
