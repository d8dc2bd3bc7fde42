"""What can be wrong with a request, as values: a stable type, the field at fault and what to do.

The web maps each `kind` to an HTTP status in one table; nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class ProblemKind(StrEnum):
    """Stable types of problem; the last part of the problem's `type` URI (RFC 9457 §3.1.1)."""

    BAD_JSON = "bad-json"
    INVALID_FIELD = "invalid-field"
    UNKNOWN_SERVICE = "unknown-service"
    UNKNOWN_ORDER = "unknown-order"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    CONFLICT = "conflict"
    IDEMPOTENCY_MISMATCH = "idempotency-key-reused"
    IDEMPOTENCY_RUNNING = "idempotency-key-in-use"
    TOO_LARGE = "too-large"
    TOO_MANY_REQUESTS = "too-many-requests"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class Problem(Exception):
    """Why a request cannot be done, in words for the person who sent it.

    `field` is the path of the field at fault (`params.comments`), `retry_after_s` seconds until it makes sense to
    try again. `facts` say the same for programs: a stable `reason` word, a limit (`minimum`, `maximum`).
    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        field: str | None = None,
        retry_after_s: int | None = None,
        facts: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__(kind, detail, field, retry_after_s)
        self.kind = kind
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.facts: Mapping[str, str | int] = facts or {}

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}" if self.field else self.detail


class StorageUnavailable(Exception):
    """The database cannot take a write now: full disk, locked, or gone. Nothing of the transaction remains."""


class ClaimLost(Exception):
    """Somebody else holds the row by now; what was to be written is out of date and was not written."""
