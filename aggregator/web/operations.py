"""One route with all that is to be said of it: who may call it, what it takes, what it may answer.

The route table is made of these. The server reads queries by them and the API's own description is made from them, so
what is documented is what is done. Nothing here answers anybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from aggregator.config import Scope
from aggregator.domain.errors import ProblemKind
from aggregator.web.auth import ANYBODY, Caller
from aggregator.web.models import RequestModel
from aggregator.web.problems import TABLE
from aggregator.web.query import NO_PARAMETERS, Parameters

Endpoint = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
ProblemName = ProblemKind | HTTPStatus

_K: Final = ProblemKind
_BODY_PROBLEMS: Final = (_K.BAD_JSON, _K.TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is no JSON document of ours: its media types, and what stands in it."""

    media_types: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Link:
    """How to go on from an answer: the operation, and where its path's parameters are found in this one."""

    operation: str
    parameters: Mapping[str, str]
    description: str


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `scopes` are those of which a caller needs one, None where anybody may call.

    With `admits` False the handler lets callers in by itself, and is given no Caller.
    """

    method: str
    path: str
    scopes: frozenset[Scope] | None
    endpoint: Endpoint | Handler
    id: str
    """The operation's stable name, for generated clients."""
    tag: str
    summary: str
    answer: type[BaseModel] | Text
    """What is answered when all goes well, with `status`."""
    description: str = ""
    status: int = 200
    query: Parameters = NO_PARAMETERS
    body: type[RequestModel] | None = None
    body_required: bool = True
    form: type[BaseModel] | None = None
    """What the body holds where the handler reads it by itself, from a form or JSON."""
    idempotent: bool = False
    """Whether an Idempotency-Key is honoured."""
    conflict: str = ""
    """When the call is answered 409 because of the present state."""
    problems: tuple[ProblemKind, ...] = ()
    """What may go wrong beside what may go wrong with every such call."""
    answer_headers: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    admits: bool = True
    unchanged: bool = False
    """Whether `If-None-Match` may be answered 304."""
    aliases: tuple[str, ...] = ()
    """Other spellings of the path, which are served and not shown."""
    heads: bool = True
    """Whether a HEAD may come in a GET's place."""

    @property
    def possible_problems(self) -> tuple[ProblemName, ...]:
        """Every problem that this call may be answered with, by status."""
        found: set[ProblemName] = {_K.INTERNAL, _K.UNAVAILABLE, *self.problems}
        if self.scopes is not None:
            found |= {_K.UNAUTHENTICATED, _K.TOO_MANY_REQUESTS}
            if self.scopes != ANYBODY:
                found.add(_K.FORBIDDEN)
            if self.admits:
                found.add(_K.INVALID_FIELD)
        if self.body is not None:
            found |= {*_BODY_PROBLEMS, _K.INVALID_FIELD}
        if self.idempotent and self.admits:  # the panel door says everything in its own words
            found |= {_K.IDEMPOTENCY_RUNNING, _K.IDEMPOTENCY_MISMATCH}
        if self.conflict:
            found.add(_K.CONFLICT)
        if "{" in self.path:
            # A name with characters that no path takes is no path of ours.
            found.add(_K.NOT_FOUND)
        if "{order}" in self.path:
            found.add(_K.UNKNOWN_ORDER)
        return tuple(sorted(found, key=lambda name: (status_of(name), str(name))))


def status_of(name: ProblemName) -> int:
    return int(name) if isinstance(name, HTTPStatus) else TABLE[name][0]
