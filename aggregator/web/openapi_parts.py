"""The parts of the API's own description that follow from no route: its prose, path parameters and headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aggregator.web.once import HEADER, MAX_KEY

Json = dict[str, Any]

ABOUT: Final = """\
One API in front of many providers' panels. It takes orders, buys each from the cheapest provider that has it in \
stock, follows it, asks for refills when it drops, and tells of every change by signed webhooks and by a feed.

**Keys.** `Authorization: Bearer KEY`. A key has scopes: `orders` places and sees its own orders, `read` sees all but \
deliveries, `admin` does everything. Each call names the scopes of which it needs one.

**Errors** are `application/problem+json` (RFC 9457) with a stable `type`, the `field` at fault and what to do. \
Beside what each call names, HTTP itself may answer 404 for a path that is none, 405 with `Allow`, and 400 for what is \
no HTTP. An unknown field or parameter is an error that names the close one.

**Once.** A POST with an `Idempotency-Key` is done once, however often it is sent: the same key and body give the same \
answer, with `Idempotent-Replayed: true`; refusals (400, 404, 422) are repeated too. What says to come back later \
(409, 429, 503) is not kept. A key lives as long as its order, at least 30 days.

**Values.** Money is `{"amount": "0.90", "currency": "USD"}`, an exact decimal in text. Times are UTC, RFC 3339, with \
milliseconds. Lists come by pages: give `next_cursor` as `cursor`. Wherever GET goes, HEAD does.

**Events** are told at least once, in order for each order: deduplicate by `webhook-id` (`id` in the feed), order by \
`data.sequence`.
"""
WEBHOOKS: Final = """\
Sent to the endpoints of `webhooks` in the config, as [Standard Webhooks 1.0](https://www.standardwebhooks.com) says. \
Answer 2xx quickly; anything else is tried again for at least 75 hours, then parked. Redirects are not followed, \
`Retry-After` and 410 are honoured.

Verify before you believe: `webhook-signature` holds, with `v1,` in front and perhaps several with spaces between, the \
base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, keyed with the base64-decoded secret behind \
`whsec_`. Refuse a `webhook-timestamp` more than five minutes away. Use the exact bytes of the body.
"""

PATH_PARAMETERS: Final[Mapping[str, tuple[str, Json, str]]] = {
    "order": (
        "The order's `id`, or its `number`.",
        {"type": "string", "pattern": "^([0-9]{1,18}|ord_[0-9a-f]{32})$"},
        "1001",
    ),
    "provider": (
        "The provider's name in the config.",
        {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
        "smmplus",
    ),
    "webhook": (
        "The endpoint's name.",
        {"type": "string", "minLength": 1, "maxLength": 140, "pattern": r"^[^/{}\u0000-\u001f\u007f]*$"},
        "shop",
    ),
    "service": (
        "The provider's id of the service, or its SMS project.",
        {"type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[^/{}\u0000-\u001f\u007f]*$"},
        "1",
    ),
}
"""What stands in the braces of paths."""

ANSWER_HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-Id": {
        "description": "The request's name, as in the log: the client's own, or a new one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    },
    "Location": {
        "description": "The path of what was made.",
        "required": True,
        "schema": {"type": "string", "pattern": "^/v1/"},
    },
    "Idempotent-Replayed": {
        "description": "`true`: the answer to an earlier request with this Idempotency-Key; left out of a fresh one.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "Seconds until it makes sense to try again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {"description": "How to authenticate (RFC 6750).", "schema": {"type": "string"}},
    "ETag": {"description": "Names this version.", "required": True, "schema": {"type": "string"}},
}

REQUEST_HEADERS: Final[Mapping[str, Json]] = {
    "IdempotencyKey": {
        "name": HEADER,
        "in": "header",
        "description": "A new one for each thing to be done, the same one for each repetition; bare or in quotes.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[!#-~]([ -~]*[!-~])?$"},
        "example": "shop-778-a",
    },
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "A name for this request, for the log and the answer; anything else is replaced by a new one.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The `ETag` of what you have.",
        "schema": {"type": "string", "pattern": '^"[0-9a-f]{1,64}"$'},
    },
    "WebhookId": {
        "name": "webhook-id",
        "in": "header",
        "required": True,
        "description": "The event's id, the same in every retry: deduplicate by it.",
        "schema": {"type": "string"},
        "example": "evt_0197a5f0c3da7e229b1d4e5f60718293",
    },
    "WebhookTimestamp": {
        "name": "webhook-timestamp",
        "in": "header",
        "required": True,
        "description": "When this try was sent, in seconds since 1970.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "1795284000",
    },
    "WebhookSignature": {
        "name": "webhook-signature",
        "in": "header",
        "required": True,
        "description": "`v1,` and the signature; several with spaces between while a secret is rotated.",
        "schema": {"type": "string"},
        "example": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    },
}
