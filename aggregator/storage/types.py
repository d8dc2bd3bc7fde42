"""Column types that lose nothing on either database: instants, JSON text.

SQLite would drop a datetime's offset and pass Numeric through floats, so instants are microseconds there (and
`timestamptz` on PostgreSQL), and money is a BIGINT of 10^-8 units beside its currency.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, DateTime, Dialect, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

from aggregator.domain.clock import require_utc

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An aware instant with microseconds; a naive datetime raises ValueError before it reaches the database."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        kind: TypeEngine[Any] = DateTime(timezone=True) if dialect.name == "postgresql" else BigInteger()
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        instant = value if value.tzinfo is UTC else require_utc(value)
        return instant if dialect.name == "postgresql" else (instant - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if dialect.name == "postgresql":
            # asyncpg keeps the first and the last microsecond there is as -infinity and infinity, and gives them
            # back without a zone.
            instant: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else require_utc(value)
            return instant
        stored: int = value
        return _EPOCH + stored * _MICROSECOND


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class JsonText(TypeDecorator[Any]):
    """JSON as text, keys in the order given; ASCII only, so that NUL and lone surrogates survive both databases.

    NaN and the infinities are no JSON and raise ValueError: whoever read them back would refuse the whole document.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else _ENCODER.encode(value) if value != {} else "{}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)
