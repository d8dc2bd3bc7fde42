"""Small types of values: spans of time, amounts, names, codes, event patterns, checked secrets.

Decides what each may hold. Never rounds: an amount that cannot be kept exactly is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)
from pydantic import BaseModel as _BaseModel

from aggregator.config.places import http_url
from aggregator.config.problems import did_you_mean, refuse
from aggregator.config.secret import Secret
from aggregator.domain.clock import parse_rfc3339
from aggregator.domain.events import EVENT_TYPES
from aggregator.domain.money import SCALE, MoneyError, parse_decimal, units_of
from aggregator.domain.sizes import MAX_CURRENCY

TEN_YEARS_S: Final = 315_360_000
MIN_CALLER_KEY: Final = 16
MAX_ID: Final = 2**31 - 1


class Model(_BaseModel):
    """What all settings share: strict types, no unknown names, no change after loading."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _all_commented_out(cls, data: Any) -> Any:
        """A section whose every line is a comment reads as nothing; where all has defaults, it means them."""
        required = any(info.is_required() for info in cls.model_fields.values())
        return {} if data is None and not required else data


Seconds = Annotated[float, Field(gt=0, le=TEN_YEARS_S)]
RequestSeconds = Annotated[float, Field(gt=0, le=3600)]
Hours = Annotated[float, Field(gt=0, le=TEN_YEARS_S / 3600)]
HoursOrNone = Annotated[float, Field(ge=0, le=TEN_YEARS_S / 3600)]
Days = Annotated[float, Field(gt=0, le=TEN_YEARS_S / 86400)]
DaysOrForEver = Annotated[float, Field(ge=0, le=TEN_YEARS_S / 86400)]
RatePerSecond = Annotated[float, Field(ge=0, le=1_000_000)]


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise refuse(f"must be 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first, got {value!r}")
    return value


def _currency(value: str) -> str:
    if not re.fullmatch(rf"[A-Z0-9]{{3,{MAX_CURRENCY}}}", value):
        raise refuse(f"must be a currency code of 3 to {MAX_CURRENCY} capital letters or digits, got {value!r}")
    return value


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise refuse("must be one line of text, not empty")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""Names stand in URLs, metrics and logs."""
CurrencyCode = Annotated[str, AfterValidator(_currency)]
Text = Annotated[str, Field(max_length=1000), AfterValidator(_text)]
Url = Annotated[str, AfterValidator(http_url)]


def _identifier(value: object) -> object:
    # A provider's ids are opaque text, but a bare number in YAML is what people write.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Identifier = Annotated[Text, BeforeValidator(_identifier)]


def _amount(value: object) -> Decimal:
    if isinstance(value, float):
        raise refuse(f'must be quoted, because a bare number with a point is not exact: "{value}"')
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise refuse("must be an amount: quoted text or a whole number")
    try:
        return parse_decimal(value)
    except MoneyError as exc:
        message = str(exc).replace("expected", "must be")
    raise refuse(message)


def _money(value: Decimal) -> Decimal:
    try:
        exact = Decimal(units_of(value)).scaleb(-SCALE) == value
    except MoneyError:
        raise refuse("is larger than can be stored") from None
    if not exact:
        raise refuse(f"may have at most {SCALE} digits after the point, got {value}")
    if value < 0:
        raise refuse(f"must be at least 0, got {value}")
    return value


def _rate(value: Decimal) -> Decimal:
    if value <= 0:
        raise refuse(f"must be greater than 0, got {value}")
    return value


Amount = Annotated[Decimal, BeforeValidator(_amount), AfterValidator(_money)]
ExchangeRate = Annotated[Decimal, BeforeValidator(_amount), AfterValidator(_rate)]


def _until(value: object) -> datetime:
    if isinstance(value, datetime):
        value = value.isoformat()
    if not isinstance(value, str):
        raise refuse('must be text: "2027-01-31" or "2027-01-31T18:00:00Z"')
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            # A bare date is good through its last moment in UTC, as people say "until the 31st".
            return datetime.combine(datetime.fromisoformat(value), time(), UTC) + timedelta(days=1)
        return parse_rfc3339(value)
    except (ValueError, OverflowError):
        raise refuse(f"must be a date or an RFC 3339 time with its zone (…Z or …+02:00), got {value!r}") from None


Until = Annotated[datetime, PlainValidator(_until)]


def _caller_key(value: Secret) -> Secret:
    text = value.reveal()
    if len(text) < MIN_CALLER_KEY:
        raise refuse(
            f"must have at least {MIN_CALLER_KEY} characters, this one has {len(text)}; "
            "make one with `aggregator keys generate`"
        )
    if not re.fullmatch(r"[!-~]+", text):
        raise refuse("must consist of printable ASCII characters without spaces, to fit into a header")
    return value


def signing_bytes(value: str) -> bytes | None:
    """The bytes within a Standard Webhooks secret, or None when it is none (whsec_, base64 of 24 to 64 bytes)."""
    if not value.startswith("whsec_"):
        return None
    try:
        decoded = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if 24 <= len(decoded) <= 64 else None


def _signing_secret(value: Secret) -> Secret:
    if signing_bytes(value.reveal()) is None:
        raise refuse(
            "must be whsec_ followed by the base64 of 24 to 64 random bytes; "
            "make one with `aggregator keys generate --webhook`"
        )
    return value


CallerKey = Annotated[Secret, AfterValidator(_caller_key)]
WebhookSecret = Annotated[Secret, AfterValidator(_signing_secret)]

_FAMILIES: Final = frozenset(event.partition(".")[0] + ".*" for event in EVENT_TYPES)


def _event_pattern(value: str) -> str:
    if value != "*" and value not in _FAMILIES and value not in EVENT_TYPES:
        raise refuse(f"no event is called {value!r}{did_you_mean(value, {'*', *_FAMILIES, *EVENT_TYPES})}")
    return value


def _pointer(value: str) -> str:
    if not re.fullmatch(r"(?:/(?:[^~/]|~[01])*)*", value):
        raise refuse(f'must be a JSON pointer such as "/data/0/count" (RFC 6901), got {value!r}')
    return value


EventPattern = Annotated[str, AfterValidator(_event_pattern)]
JsonPointer = Annotated[str, AfterValidator(_pointer)]

K = TypeVar("K", bound=str)
T = TypeVar("T")


class _ReadOnly(Mapping[str, T]):
    """Unlike MappingProxyType it can be copied, which pydantic does with defaults."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, T]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> T:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


Table = Annotated[Mapping[K, T], AfterValidator(_ReadOnly), PlainSerializer(dict)]
"""A mapping that nobody can change."""


def _sequence(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, item in enumerate(value):
        if item in value[:index]:
            raise refuse(f"names {item} twice")
    return value


Several = Annotated[tuple[T, ...], BeforeValidator(_sequence)]
"""A list in the file, a tuple here."""
Distinct = Annotated[tuple[T, ...], BeforeValidator(_sequence), AfterValidator(_distinct)]
