"""Many rows of one table by one statement that is made once, filled without SQLAlchemy's per-row work.

PostgreSQL is given each column's values as an array, so that one statement does for any number of rows. SQLite has no
arrays, and gets one of a few statements for a few numbers of rows.

For the few places where thousands of rows a second are written or looked up. Values go through the columns' own types,
so that what is stored is the same as by any other way; which rows those are is never decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import Column, Connection, Dialect, Row, Table

_SIZES: Final = (64, 32, 16, 8, 7, 6, 5, 4, 3, 2, 1)
"""Rows in one statement of SQLite. Few sizes, so that a connection keeps all its prepared statements."""

Convert = Callable[[Any], Any]


class Rows:
    """INSERT of rows that are given as tuples, in the order of `names`."""

    def __init__(self, table: Table, *names: str) -> None:
        self._table = table
        self._columns = [table.c[name] for name in names]
        self._made: dict[tuple[str, int], str] = {}
        self._converters: dict[str, tuple[tuple[Convert, tuple[int, ...]], ...]] = {}

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]], *, unless_there: str = "") -> int:
        """Write them all; how many were written. Those whose key in the column `unless_there` is taken are left out."""
        if not rows:
            return 0
        dialect = connection.dialect
        filled = self._filled(dialect, rows)
        if _has_arrays(dialect):
            by_column = tuple(map(list, zip(*filled, strict=True)))
            return connection.exec_driver_sql(self._statement(dialect, 0, unless_there), by_column).rowcount
        written = 0
        for some in _parts(filled):
            statement = self._statement(dialect, len(some), unless_there)
            written += connection.exec_driver_sql(statement, tuple(chain.from_iterable(some))).rowcount
        return written

    def _filled(self, dialect: Dialect, rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
        converters = self._of(dialect)
        filled = list(map(list, rows))
        for row in filled:
            for convert, places in converters:
                given = made = None
                for place in places:
                    # A new row has one instant in several columns.
                    if row[place] is not given:
                        given = row[place]
                        made = convert(given)
                    row[place] = made
        return filled

    def _of(self, dialect: Dialect) -> tuple[tuple[Convert, tuple[int, ...]], ...]:
        """How values are converted, and in which places: once for all columns of a type."""
        found = self._converters.get(dialect.name)
        if found is None:
            by_type: dict[type, tuple[Convert, tuple[int, ...]]] = {}
            for place, column in enumerate(self._columns):
                convert = _converter(column, dialect)
                if convert is not None:
                    kind = type(column.type)
                    first, places = by_type.get(kind, (convert, ()))
                    by_type[kind] = first, (*places, place)
            found = self._converters[dialect.name] = tuple(by_type.values())
        return found

    def _statement(self, dialect: Dialect, rows: int, unless_there: str) -> str:
        made = self._made.get((dialect.name + unless_there, rows))
        if made is None:
            quote = dialect.identifier_preparer.quote
            width = len(self._columns)
            if _has_arrays(dialect):
                arrays = ", ".join(_array(column, dialect, place) for place, column in enumerate(self._columns, 1))
                values = f"SELECT * FROM unnest({arrays})"
            else:
                values = "VALUES " + ", ".join([f"({_marks(dialect, 0, width)})"] * rows)
            names = ", ".join(quote(column.name) for column in self._columns)
            made = f"INSERT INTO {quote(self._table.name)} ({names}) {values}"
            if unless_there:
                made += f" ON CONFLICT ({quote(unless_there)}) DO NOTHING"
            self._made[dialect.name + unless_there, rows] = made
        return made


class Marks:
    """UPDATE of one column in many rows, each with a value of its own; neither key nor value wants converting."""

    def __init__(self, table: Table, key: str, name: str) -> None:
        self._table = table
        self._key = table.c[key]
        self._column = table.c[name]
        self._made: dict[str, str] = {}

    def set(self, connection: Connection, rows: Sequence[tuple[Any, Any]]) -> None:
        """Set them, given as (value, key)."""
        dialect = connection.dialect
        made = self._made.get(dialect.name)
        if made is None:
            quote = dialect.identifier_preparer.quote
            made = f"UPDATE {quote(self._table.name)} SET {quote(self._column.name)} = {_marks(dialect, 0, 1)}"
            made += f" WHERE {quote(self._key.name)} = {_marks(dialect, 1, 1)}"
            self._made[dialect.name] = made
        connection.exec_driver_sql(made, list(rows))


class Lookup:
    """SELECT of the rows whose `key` is one of many."""

    def __init__(self, table: Table, key: str, *names: str) -> None:
        self._table = table
        self._key = table.c[key]
        self._columns = [table.c[name] for name in (key, *names)]
        self._made: dict[tuple[str, int], str] = {}

    def find(self, connection: Connection, keys: Sequence[Any]) -> Iterator[Row[Any]]:
        """The rows that are there, as (key, names…), in no order; values as the driver has them."""
        dialect = connection.dialect
        convert = _converter(self._key, dialect)
        given = [convert(one) for one in keys] if convert is not None else list(keys)
        if _has_arrays(dialect):
            yield from connection.exec_driver_sql(self._statement(dialect, 0), (given,))
            return
        for some in _parts(given):
            yield from connection.exec_driver_sql(self._statement(dialect, len(some)), tuple(some))

    def _statement(self, dialect: Dialect, keys: int) -> str:
        made = self._made.get((dialect.name, keys))
        if made is None:
            quote = dialect.identifier_preparer.quote
            names = ", ".join(quote(column.name) for column in self._columns)
            made = f"SELECT {names} FROM {quote(self._table.name)}"
            among = f"= ANY ({_array(self._key, dialect, 1)})"
            if not _has_arrays(dialect):
                among = f"IN ({_marks(dialect, 0, keys)})"
            made += f" WHERE {quote(self._key.name)} {among}"
            self._made[dialect.name, keys] = made
        return made


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    start = 0
    for size in _SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _has_arrays(dialect: Dialect) -> bool:
    return dialect.name == "postgresql"


def _array(column: Column[Any], dialect: Dialect, place: int) -> str:
    """The parameter that has a column's values. Without the column's length: a cast would cut what is too long, which
    the insert refuses."""
    kind = column.type.dialect_impl(dialect).compile(dialect).partition("(")[0]
    return f"${place}::{kind}[]"


def _marks(dialect: Dialect, start: int, count: int) -> str:
    if dialect.positional and dialect.paramstyle == "qmark":
        return ", ".join("?" * count)
    return ", ".join(f"${number}" for number in range(start + 1, start + count + 1))


def _converter(column: Column[Any], dialect: Dialect) -> Convert | None:
    convert: Convert | None = column.type.dialect_impl(dialect).bind_processor(dialect)
    return convert
