"""The shape of every error: RFC 9457, with the stable types listed.

The types are those of the table in web.problems, and one for each status of HTTP itself that a body can run into.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from aggregator.domain.errors import ProblemKind
from aggregator.web.problems import TABLE, TYPE_PREFIX, phrase_type
from aggregator.web.schemas.common import Shape

HTTP_STATUSES: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
"""Statuses without a kind of problem: their type goes by their phrase."""

TYPES: Final[tuple[str, ...]] = (
    *(f"{TYPE_PREFIX}{kind}" for kind in ProblemKind),
    *(phrase_type(status) for status in HTTP_STATUSES),
)

WHEN: Final[dict[ProblemKind | HTTPStatus, str]] = {
    ProblemKind.BAD_JSON: "The body is empty, no UTF-8, no JSON, nested too deeply, or did not arrive whole.",
    ProblemKind.UNAUTHENTICATED: "There is no key, or one that is not known or counts no more.",
    ProblemKind.FORBIDDEN: "The key has none of the scopes that the call needs, or the order is somebody else's.",
    ProblemKind.UNKNOWN_ORDER: "No order of the caller's has this id or number.",
    ProblemKind.NOT_FOUND: "There is nothing of this name.",
    ProblemKind.METHOD_NOT_ALLOWED: "The path has no such method; `Allow` names those that it has.",
    ProblemKind.CONFLICT: "The present state does not allow it; the sentence says why.",
    ProblemKind.IDEMPOTENCY_RUNNING: "A request with this Idempotency-Key is still running; try again in a moment.",
    ProblemKind.TOO_LARGE: "The body is larger than `http.max_body_bytes` in the config.",
    ProblemKind.INVALID_FIELD: "A field, parameter or header is not valid: `field` names it, `errors` all of them.",
    ProblemKind.UNKNOWN_SERVICE: "The config has no service of this name.",
    ProblemKind.IDEMPOTENCY_MISMATCH: "This Idempotency-Key was used for a request with another path or body.",
    ProblemKind.TOO_MANY_REQUESTS: "The key's requests per second or open orders, or the peer's wrong keys, are used "
    "up; `Retry-After` says when to come back.",
    ProblemKind.INTERNAL: "A mistake of ours; the log has it under the request's id.",
    ProblemKind.UNAVAILABLE: "The database cannot be used now, or the daemon is stopping; nothing was done. "
    "`Retry-After` says when to come back.",
    HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is declared as something else than JSON in UTF-8.",
}
"""When each problem comes up, for the table of errors."""

_EXAMPLE: Final = ProblemKind.INVALID_FIELD


class FieldError(Shape):
    """One field at fault."""

    field: str = Field(description="Path of the field, parameter or header.", examples=["quantity"])
    detail: str = Field(description="What is wrong with it and what it takes.", examples=["must be at least 1"])


class Problem(Shape):
    """An error, RFC 9457. Programs branch on `type`, which never changes its meaning; people read `detail`."""

    type: str = Field(
        description="Stable type of the problem.",
        json_schema_extra={"enum": list(TYPES)},
        examples=[TYPE_PREFIX + _EXAMPLE],
    )
    title: str = Field(description="The type in words.", examples=[TABLE[_EXAMPLE][1]])
    status: int = Field(description="The answer's HTTP status.", ge=400, le=599, examples=[TABLE[_EXAMPLE][0]])
    detail: str = Field(
        description="A sentence that stands alone: what is wrong and what to do.",
        examples=["quantity: must be at least 1"],
    )
    # These are left out where they say nothing; the default is for the model alone.
    field: str | SkipJsonSchema[None] = Field(None, description="Path of the field at fault; left out where none is.")
    errors: Annotated[list[FieldError], Field(min_length=2)] | SkipJsonSchema[None] = Field(
        None, description="All fields at fault; left out where there is only one."
    )
    reason: str | SkipJsonSchema[None] = Field(None, description="Why, as a stable word; left out where none is.")
    minimum: int | SkipJsonSchema[None] = Field(None, description="The least that is taken, where less was given.")
    maximum: int | SkipJsonSchema[None] = Field(None, description="The most that is taken, where more was given.")
    instance: str | SkipJsonSchema[None] = Field(
        None,
        description="`urn:aggregator:request:` and the request's id, as in `X-Request-Id` and the log; left out in a "
        "batch's results.",
    )
