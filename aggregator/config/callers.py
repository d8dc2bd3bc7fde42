"""Who talks with the daemon: callers and their keys, where they are heard, and who is told of events.

Decides what one such setting may be. Never checks a caller's key: it only says which values count at an instant.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator

from aggregator.config.places import Address, TcpAddress, network, parse_address
from aggregator.config.problems import refuse
from aggregator.config.secret import Secret
from aggregator.config.values import (
    MAX_ID,
    CallerKey,
    DaysOrForEver,
    Distinct,
    EventPattern,
    Model,
    Name,
    RatePerSecond,
    RequestSeconds,
    Seconds,
    Several,
    Text,
    Until,
    Url,
    WebhookSecret,
    signing_bytes,
)

Scope = Literal["orders", "read", "admin"]
Panel = Literal["smm_plus", "hstockplus"]
Listen = Annotated[Address, PlainValidator(parse_address), PlainSerializer(str)]
Network = Annotated[IPv4Network | IPv6Network, PlainValidator(network), PlainSerializer(str)]

T = TypeVar("T")


def _dated(value: object) -> object:
    """One bare value stands for a list of one."""
    if isinstance(value, str | Secret):
        return ({"value": value},)
    return tuple(value) if isinstance(value, list) else value


Dated = Annotated[tuple[T, ...], BeforeValidator(_dated), Field(min_length=1)]


class HttpSettings(Model):
    """`http`: where callers are heard, and how much they may say at once."""

    listen: Distinct[Listen] = (TcpAddress("127.0.0.1", 8080),)
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024, le=1024**3)
    max_connections: int = Field(default=1000, ge=16, le=100_000)


class KeyValue(Model):
    """One value of a caller's key. `until` is the instant from which it counts no more; None: for ever."""

    value: CallerKey
    until: Until | None = None


class SigningSecret(Model):
    """One Standard Webhooks secret. `until` is the instant from which nothing is signed with it; None: for ever."""

    value: WebhookSecret
    until: Until | None = None

    @property
    def signing_bytes(self) -> bytes:
        """The key of the HMAC."""
        return signing_bytes(self.value.reveal()) or b""


def _one_stays(value: tuple[SigningSecret, ...]) -> tuple[SigningSecret, ...]:
    if all(secret.until for secret in value):
        raise refuse("needs one value without `until`; else nothing could be signed after the last one")
    return value


SigningSecrets = Annotated[Dated[SigningSecret], AfterValidator(_one_stays)]


def _current(values: tuple[KeyValue, ...] | tuple[SigningSecret, ...], now: datetime) -> Iterator[Any]:
    return (value for value in values if value.until is None or now < value.until)


class KeySettings(Model):
    """One of `keys`: a caller. Orders belong to `name`. 0 stands for unlimited."""

    name: Name
    key: Dated[KeyValue]
    scopes: Annotated[Distinct[Scope], Field(min_length=1)] = ("orders",)
    panel: Panel = "smm_plus"
    panel_get: bool = False
    callback_secret: SigningSecrets | None = None
    requests_per_second: RatePerSecond = 0
    max_open_orders: int = Field(default=0, ge=0, le=MAX_ID)

    def keys_at(self, now: datetime) -> tuple[Secret, ...]:
        """The values that let this caller in at `now`."""
        return tuple(key.value for key in _current(self.key, now))


class WebhookSettings(Model):
    """One of `webhooks`, or an endpoint made by API: an endpoint of the operator's, and which events it gets.

    Without `services` it gets the events of all; with them only those of these services' orders.
    """

    name: Name
    url: Url
    secret: SigningSecrets
    events: Annotated[Distinct[EventPattern], Field(min_length=1)] = ("*",)
    services: Distinct[Name] = ()
    description: Text | None = None
    timeout_s: RequestSeconds = 15
    retry_s: Annotated[Several[Seconds], Field(min_length=1, max_length=100)] = (
        5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400,
    )  # fmt: skip
    order_hold_s: Seconds = 3600
    disable_after_days: DaysOrForEver = 5
    """After so long a time of failures without one success nothing more is sent; 0: it is tried for ever."""
    enabled: bool = True

    def secrets_at(self, now: datetime) -> tuple[SigningSecret, ...]:
        """What deliveries are signed with at `now`, in the file's order; never empty."""
        return tuple(_current(self.secret, now))


class CallbackSettings(Model):
    """`callbacks`: which networks a caller's callback_url may reach although they are not public."""

    allow: Distinct[Network] = ()
