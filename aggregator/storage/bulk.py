"""Many rows of one table by one statement that is made once, filled without SQLAlchemy's per-row work.

PostgreSQL is given each column's values as an array, so that one statement does for any number of rows. SQLite has no
arrays, and gets one of a few statements for a few numbers of rows.

For the few places where thousands of rows a second are written or looked up. Values go through the columns' own types,
so that what is stored is the same as by any other way; which rows those are is never decided here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import Column, Connection, Dialect, LargeBinary, Select, Table, func, select

_SIZES: Final = (64, 32, 16, 8, 7, 6, 5, 4, 3, 2, 1)
"""Rows in one statement of SQLite. Few sizes, so that a connection keeps all its prepared statements."""

Convert = Callable[[Any], Any]


class Rows:
    """INSERT of rows that are given as tuples, in the order of `names`."""

    def __init__(self, table: Table, *names: str) -> None:
        self._table = table
        self._columns = [table.c[name] for name in names]
        self._made: dict[tuple[str, int], str] = {}
        self._values = _Values(self._columns)

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]], *, unless_there: str = "") -> int:
        """Write them all; how many were written. Those whose key in the column `unless_there` is taken are left out."""
        if not rows:
            return 0
        dialect = connection.dialect
        filled = self._values.converted(dialect, rows)
        if _has_arrays(dialect):
            by_column = tuple(map(list, zip(*filled, strict=True)))
            return connection.exec_driver_sql(self._statement(dialect, 0, unless_there), by_column).rowcount
        written = 0
        for some in _parts(filled):
            statement = self._statement(dialect, len(some), unless_there)
            written += connection.exec_driver_sql(statement, tuple(chain.from_iterable(some))).rowcount
        return written

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


class Changes:
    """UPDATE of many rows, each found by its `key` and given values of its own in the columns `names`; those in
    `emptied` become NULL."""

    def __init__(self, table: Table, key: str, *names: str, emptied: Sequence[str] = ()) -> None:
        self._table = table
        self._columns = [table.c[name] for name in (key, *names)]
        self._emptied = [table.c[name] for name in emptied]
        self._made: dict[tuple[str, int], str] = {}
        self._values = _Values(self._columns)

    def make(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Change these, each given as (key, value of each name…); no key twice."""
        if not rows:
            return
        dialect = connection.dialect
        filled = self._values.converted(dialect, rows)
        if _has_arrays(dialect):
            by_column = tuple(map(list, zip(*filled, strict=True)))
            connection.exec_driver_sql(self._statement(dialect, 0), by_column)
            return
        for some in _parts(filled):
            connection.exec_driver_sql(self._statement(dialect, len(some)), tuple(chain.from_iterable(some)))

    def _statement(self, dialect: Dialect, rows: int) -> str:
        made = self._made.get((dialect.name, rows))
        if made is None:
            quote = dialect.identifier_preparer.quote
            table, width = quote(self._table.name), len(self._columns)
            # Named as SQLite names the columns of VALUES.
            given = [f"column{place}" for place in range(1, width + 1)]
            if _has_arrays(dialect):
                arrays = ", ".join(_array(column, dialect, place) for place, column in enumerate(self._columns, 1))
                values = f"unnest({arrays}) AS given ({', '.join(given)})"
            else:
                values = f"(VALUES {', '.join([f'({_marks(dialect, 0, width)})'] * rows)}) AS given"
            wanted = [
                f"{quote(column.name)} = given.{name}"
                for column, name in zip(self._columns[1:], given[1:], strict=True)
            ]
            wanted += [f"{quote(column.name)} = NULL" for column in self._emptied]
            which = f"{table}.{quote(self._columns[0].name)} = given.{given[0]}"
            made = f"UPDATE {table} SET {', '.join(wanted)} FROM {values} WHERE {which}"
            self._made[dialect.name, rows] = made
        return made


class _Values:
    """How values of some columns are converted, by the columns' own types: once for all columns of a type."""

    def __init__(self, columns: Sequence[Column[Any]]) -> None:
        self._columns = columns
        self._converters: dict[str, tuple[tuple[Convert, tuple[int, ...]], ...]] = {}

    def converted(self, dialect: Dialect, rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
        converters = self._of(dialect)
        filled = list(map(list, rows))
        for row in filled:
            for convert, places in converters:
                given = made = None
                for place in places:
                    # A row often has one instant in several columns.
                    if row[place] is not given:
                        given = row[place]
                        made = convert(given)
                    row[place] = made
        return filled

    def _of(self, dialect: Dialect) -> tuple[tuple[Convert, tuple[int, ...]], ...]:
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


class Lookup:
    """SELECT of the rows whose `key` is one of many; `lock`: nobody else changes them before we commit."""

    def __init__(self, table: Table, key: str, *names: str, lock: bool = False) -> None:
        self._table = table
        self._lock = lock
        self._key = table.c[key]
        self._columns = [table.c[name] for name in (key, *names)]
        self._in_one = not any(isinstance(column.type, LargeBinary) for column in self._columns)  # JSON has no bytes
        self._made: dict[tuple[str, int], str] = {}

    def find(self, connection: Connection, keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """The rows that are there, as (key, names…), in no order; values as the driver has them."""
        dialect = connection.dialect
        convert = _converter(self._key, dialect)
        given = [convert(one) for one in keys] if convert is not None else list(keys)
        if _has_arrays(dialect):
            yield from connection.exec_driver_sql(self._statement(dialect, 0), (given,))
            return
        for some in _parts(given):
            found = connection.exec_driver_sql(self._statement(dialect, len(some)), tuple(some))
            if self._in_one:
                yield from json.loads(found.scalar_one())
            else:
                yield from found

    def _statement(self, dialect: Dialect, keys: int) -> str:
        made = self._made.get((dialect.name, keys))
        if made is None:
            quote = dialect.identifier_preparer.quote
            names = ", ".join(quote(column.name) for column in self._columns)
            arrays = _has_arrays(dialect)
            if self._in_one and not arrays:
                names = f"json_group_array(json_array({names}))"
            made = f"SELECT {names} FROM {quote(self._table.name)}"
            among = f"= ANY ({_array(self._key, dialect, 1)})" if arrays else f"IN ({_marks(dialect, 0, keys)})"
            made += f" WHERE {quote(self._key.name)} {among}"
            if self._lock and arrays:  # SQLite has one writer
                made += " FOR UPDATE"
            self._made[dialect.name, keys] = made
        return made


class Fetch:
    """A SELECT of many rows, without bytes among their values, that SQLite hands over in one piece.

    Python's driver lets the interpreter go at every row, and waits for it again: while the event loop is busy that
    takes a millisecond a row, a thousand times what the row itself does.
    """

    def __init__(self, query: Select[Any]) -> None:
        self._query = query
        # Rows are put together in the order in which the subquery gives them.
        within = query.subquery()
        self._whole = select(func.json_group_array(func.json_array(*within.c)))
        self._types = [column.type for column in within.c]
        self._converters: list[tuple[int, Convert]] | None = None

    def all(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Sequence[Any]]:
        """All rows, in the query's order."""
        if connection.dialect.name != "sqlite":
            return list(connection.execute(self._query, parameters))
        rows: list[list[Any]] = json.loads(connection.execute(self._whole, parameters).scalar_one())
        if self._converters is None:
            made = (
                kind.dialect_impl(connection.dialect).result_processor(connection.dialect, None) for kind in self._types
            )
            self._converters = [(place, convert) for place, convert in enumerate(made) if convert is not None]
        for place, convert in self._converters:
            for row in rows:
                row[place] = convert(row[place])
        return list(rows)


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
