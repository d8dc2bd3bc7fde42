"""Every error that leaves by HTTP: one table from what is wrong to a status, and the RFC 9457 document that says so.

A document's `type` is `urn:aggregator:problem:` and the value of its ProblemKind (`…:invalid-field`), which never
changes its meaning; a status of the framework that has no kind of its own goes by its phrase (`…:request-timeout`).
`field` is the path of the field at fault, `errors` all of them where there are several, `instance` the request;
`reason`, `minimum` and `maximum` say for programs what `detail` says for people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import web

from aggregator.domain.errors import Problem, ProblemKind

TYPE_PREFIX: Final = "urn:aggregator:problem:"
REQUEST_PREFIX: Final = "urn:aggregator:request:"

_K = ProblemKind
TABLE: Final[Mapping[ProblemKind, tuple[int, str]]] = {
    _K.BAD_JSON: (400, "The body cannot be read as JSON"),
    _K.UNAUTHENTICATED: (401, "A valid API key is needed"),
    _K.FORBIDDEN: (403, "This API key may not do that"),
    _K.UNKNOWN_ORDER: (404, "There is no such order"),
    _K.NOT_FOUND: (404, "There is nothing here"),
    _K.METHOD_NOT_ALLOWED: (405, "This method is not allowed here"),
    _K.CONFLICT: (409, "That cannot be done in the present state"),
    _K.IDEMPOTENCY_RUNNING: (409, "A request with this Idempotency-Key is still running"),
    _K.TOO_LARGE: (413, "The body is too large"),
    _K.INVALID_FIELD: (422, "A field is not valid"),
    _K.UNKNOWN_SERVICE: (422, "There is no such service"),
    _K.IDEMPOTENCY_MISMATCH: (422, "This Idempotency-Key belongs to another request"),
    _K.TOO_MANY_REQUESTS: (429, "Too many requests"),
    _K.INTERNAL: (500, "Something went wrong here"),
    _K.UNAVAILABLE: (503, "Not available at the moment"),
}

STORED: Final = frozenset({_K.BAD_JSON, _K.UNKNOWN_ORDER, _K.NOT_FOUND, _K.INVALID_FIELD, _K.UNKNOWN_SERVICE})
"""Refusals decided after reading the body, which an Idempotency-Key repeats (contract.md §3)."""

_RETRY_AFTER_S: Final = {_K.IDEMPOTENCY_RUNNING: 1, _K.TOO_MANY_REQUESTS: 1, _K.UNAVAILABLE: 2}

_FRAMEWORK: Final = {404: _K.NOT_FOUND, 405: _K.METHOD_NOT_ALLOWED, 413: _K.TOO_LARGE, 500: _K.INTERNAL}

_ADVICE: Final = {
    404: "no path of this API looks like this one; /v1/orders, /v1/services and /v1/events are there",
    413: "send less at once; `http.max_body_bytes` in the config is the limit",
}


class FieldProblems(Problem):
    """Several fields are at fault; the problem itself speaks of the first one."""

    def __init__(self, errors: Sequence[tuple[str, str]], kind: ProblemKind = ProblemKind.INVALID_FIELD) -> None:
        field, detail = errors[0]
        super().__init__(kind, detail, field or None)
        self.errors = tuple(errors)


def retries(kind: ProblemKind) -> bool:
    """Whether it makes sense to try again later, which `Retry-After` then says."""
    return kind in _RETRY_AFTER_S


def invalid(detail: str, field: str | None = None) -> Problem:
    return Problem(ProblemKind.INVALID_FIELD, detail, field)


def status_of(problem: Problem) -> int:
    return TABLE[problem.kind][0]


def problem_document(problem: Problem, request_id: str | None = None) -> dict[str, object]:
    """The RFC 9457 object; `detail` is a sentence that stands alone."""
    status, title = TABLE[problem.kind]
    document: dict[str, object] = {
        "type": TYPE_PREFIX + problem.kind,
        "title": title,
        "status": status,
        "detail": str(problem),
        **problem.facts,
    }
    if problem.field is not None:
        document["field"] = problem.field
    if isinstance(problem, FieldProblems) and len(problem.errors) > 1:
        document["errors"] = [{"field": field, "detail": detail} for field, detail in problem.errors]
    if request_id is not None:
        document["instance"] = REQUEST_PREFIX + request_id
    return document


def problem_headers(problem: Problem) -> dict[str, str]:
    """What a problem says outside of its body: when to come back, and how to authenticate (RFC 6750 §3)."""
    headers: dict[str, str] = {}
    wait_s = problem.retry_after_s if problem.retry_after_s is not None else _RETRY_AFTER_S.get(problem.kind)
    if wait_s is not None:
        headers["Retry-After"] = str(wait_s)
    if problem.kind is ProblemKind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="aggregator"'
    elif problem.kind is ProblemKind.FORBIDDEN:
        headers["WWW-Authenticate"] = 'Bearer realm="aggregator", error="insufficient_scope"'
    return headers


def framework_problem(error: web.HTTPException) -> Problem | None:
    """The problem that one of aiohttp's own errors is; None for a status without a kind of its own."""
    kind = _FRAMEWORK.get(error.status)
    if kind is None:
        return None
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(kind, f"{error.method} is not allowed here; allowed: {allowed}")
    return Problem(kind, _ADVICE.get(error.status, "the request cannot be served"))


def phrase_type(status: int) -> str:
    """The type of a problem that no kind stands for, made of its status' own phrase."""
    return TYPE_PREFIX + re.sub(r"[^a-z]+", "-", HTTPStatus(status).phrase.lower()).strip("-")


def plain_document(status: int, detail: str, request_id: str | None = None) -> dict[str, object]:
    """A problem for a status that no kind stands for."""
    document: dict[str, object] = {
        "type": phrase_type(status),
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if request_id is not None:
        document["instance"] = REQUEST_PREFIX + request_id
    return document
