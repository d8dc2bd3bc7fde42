"""What requests about endpoints may say: the same rules as for the config's `webhooks`, field by field.

Decides shapes and ranges alone; whether a name is free or an endpoint may be changed is for `api_webhooks`.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from aggregator.config.problems import refuse
from aggregator.config.values import (
    DaysOrForEver,
    Distinct,
    EventPattern,
    Name,
    RequestSeconds,
    Seconds,
    Several,
    Text,
    Url,
    signing_bytes,
)
from aggregator.domain.clock import parse_rfc3339
from aggregator.web.models import RequestModel

MAX_URL: Final = 2048


def _number(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def _numbers(value: object) -> object:
    return [_number(item) for item in value] if isinstance(value, list) else value


def _secret(value: str) -> str:
    if signing_bytes(value) is None:
        raise refuse("must be whsec_ followed by the base64 of 24 to 64 random bytes; leave it out, and one is made")
    return value


def _instant(value: object) -> object:
    if not isinstance(value, str):
        raise refuse("must be text: an RFC 3339 time with its zone, such as 2027-01-31T18:00:00Z")
    try:
        return parse_rfc3339(value)
    except ValueError:
        raise refuse("must be an RFC 3339 time with its zone, such as 2027-01-31T18:00:00Z") from None


_Url = Annotated[Url, StringConstraints(min_length=1, max_length=MAX_URL)]
_Events = Annotated[
    Annotated[Distinct[EventPattern], Field(min_length=1, max_length=100)] | None,
    Field(description="Patterns of event types; left out: all.", examples=[["order.*"]]),
]
_Services = Annotated[
    Annotated[Distinct[Name], Field(max_length=1000)] | None,
    Field(description="Services whose orders it hears of; left out: all."),
]
_Description = Annotated[Text | None, Field(description="What it is for.")]
_Timeout = Annotated[
    Annotated[RequestSeconds, BeforeValidator(_number)] | None,
    Field(description="Seconds that it has to answer; left out: 15."),
]
_Retries = Annotated[
    Annotated[Several[Seconds], BeforeValidator(_numbers), Field(min_length=1, max_length=100)] | None,
    Field(description="Seconds between tries; left out: over 75 hours in all."),
]
_Hold = Annotated[
    Annotated[Seconds, BeforeValidator(_number)] | None,
    Field(description="Seconds that a failing event holds back its order's later ones."),
]
_Days = Annotated[
    Annotated[DaysOrForEver, BeforeValidator(_number)] | None,
    Field(description="Days of failures alone after which it is disabled; 0: never."),
]
_WebhookSecret = Annotated[str, StringConstraints(max_length=200), AfterValidator(_secret)]
_Instant = Annotated[datetime, BeforeValidator(_instant)]


class EndpointRequest(RequestModel):
    """`POST /v1/webhooks`; what is left out has the config's default."""

    what: ClassVar[str] = "an endpoint"

    name: Name = Field(description="Its name: letters, digits, `.`, `_` and `-`, at most 64.", examples=["shop-events"])
    url: _Url = Field(description="Where events are sent.", examples=["https://shop.example/hook"])
    secret: _WebhookSecret | None = Field(None, description="What signs, `whsec_…`; left out: one is made.")
    events: _Events = None
    services: _Services = None
    description: _Description = None
    timeout_s: _Timeout = None
    retry_s: _Retries = None
    order_hold_s: _Hold = None
    disable_after_days: _Days = None
    enabled: bool = Field(True, description="False: what comes waits.")


class EndpointChange(RequestModel):
    """`PATCH /v1/webhooks/{name}`: only what is named is changed; null means the default."""

    what: ClassVar[str] = "a change of an endpoint"

    url: _Url | None = Field(None, description="Where events are sent.", examples=["https://shop.example/hook"])
    events: _Events = None
    services: _Services = None
    description: _Description = None
    timeout_s: _Timeout = None
    retry_s: _Retries = None
    order_hold_s: _Hold = None
    disable_after_days: _Days = None
    enabled: bool | None = Field(None, description="Whether it is sent anything.")


class SecretRequest(RequestModel):
    """`POST …/secret`: the new one (made when left out), and until when the old ones still sign (a day by default)."""

    what: ClassVar[str] = "a change of secrets"

    secret: _WebhookSecret | None = Field(None, description="The new one, `whsec_…`; left out: one is made.")
    until: _Instant | None = Field(None, description="Until when the old ones sign as well; left out: a day.")


class ReplayRequest(RequestModel):
    """`POST …/replay`: one event, a range of positions, all that is parked, or all since a time."""

    what: ClassVar[str] = "a replay"

    event: Annotated[str, StringConstraints(pattern=r"^evt_[0-9a-f]{32}$")] | None = Field(
        None, description="One event."
    )
    from_: Annotated[int, Field(ge=1, le=2**62)] | None = Field(
        default=None, alias="from", description="The first position of a range; with `to`."
    )
    to: Annotated[int, Field(ge=1, le=2**62)] | None = Field(None, description="The last position of a range.")
    parked: bool | None = Field(None, description="True: all that is parked.")
    since: _Instant | None = Field(None, description="All events made at this instant or later.")


def given(request: RequestModel, *without: str) -> dict[str, Any]:
    """The fields that were named, with their values."""
    return {name: getattr(request, name) for name in request.model_fields_set if name not in without}
