"""Many rows of one table by one statement: made once for each number of rows, filled without SQLAlchemy's per-row work.

For the few places where thousands of rows a second are written or looked up. Values go through the columns' own types,
so that what is stored is the same as by any other way; which rows those are is never decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Column, Connection, Dialect, Row, Table

_SIZES: Final = (64, 32, 16, 8, 7, 6, 5, 4, 3, 2, 1)
"""Rows in one statement. Few sizes, so that a connection keeps all its prepared statements."""

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
        dialect = connection.dialect
        converters = self._of(dialect)
        written = 0
        for some in _parts(rows):
            values: list[Any] = []
            for row in some:
                filled = list(row)
                for convert, places in converters:
                    given = made = None
                    for place in places:
                        # A new row has one instant in several columns.
                        if filled[place] is not given:
                            given = filled[place]
                            made = convert(given)
                        filled[place] = made
                values += filled
            statement = self._statement(dialect, len(some), unless_there)
            written += connection.exec_driver_sql(statement, tuple(values)).rowcount
        return written

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
            values = ", ".join(f"({_marks(dialect, row * width, width)})" for row in range(rows))
            names = ", ".join(quote(column.name) for column in self._columns)
            made = f"INSERT INTO {quote(self._table.name)} ({names}) VALUES {values}"
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
        for some in _parts(keys):
            given = tuple(convert(one) for one in some) if convert is not None else tuple(some)
            yield from connection.exec_driver_sql(self._statement(dialect, len(given)), given)

    def _statement(self, dialect: Dialect, keys: int) -> str:
        made = self._made.get((dialect.name, keys))
        if made is None:
            quote = dialect.identifier_preparer.quote
            names = ", ".join(quote(column.name) for column in self._columns)
            made = f"SELECT {names} FROM {quote(self._table.name)}"
            made += f" WHERE {quote(self._key.name)} IN ({_marks(dialect, 0, keys)})"
            self._made[dialect.name, keys] = made
        return made


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    start = 0
    for size in _SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _marks(dialect: Dialect, start: int, count: int) -> str:
    if dialect.positional and dialect.paramstyle == "qmark":
        return ", ".join("?" * count)
    return ", ".join(f"${number}" for number in range(start + 1, start + count + 1))


def _converter(column: Column[Any], dialect: Dialect) -> Convert | None:
    convert: Convert | None = column.type.dialect_impl(dialect).bind_processor(dialect)
    return convert
