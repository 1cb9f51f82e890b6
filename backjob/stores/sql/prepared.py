"""Statements that are compiled once, and whose SQL then goes to the driver itself.

SQLAlchemy's own execution takes 150 to 300 µs of processor time more for each statement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, TypeAlias

from attrs import frozen
from sqlalchemy import Connection, Dialect

__all__ = ["Block", "Prepared"]

_Process: TypeAlias = Callable[[Any], Any]

_TAKES_BLOCKS: Final = frozenset({"pymysql", "mysqldb"})
"""The drivers that read the rows of a block, and all that the server sends after them."""


@frozen(eq=False)
class _Compiled:
    """The text of a statement, the names of its parameters in their order, and the conversion of some of them."""

    sql: str
    names: Sequence[str]
    is_positional: bool
    converted: Mapping[str, _Process]

    def bound(self, values: Mapping[str, Any]) -> Any:
        """The parameters as the driver takes them, which may be more than the statement has."""
        if self.converted:
            values = {**values, **{name: process(values[name]) for name, process in self.converted.items()}}
        return [values[name] for name in self.names] if self.is_positional else values


class Prepared:
    """A statement without lists of any length as parameters, for connections of one dialect. Its methods raise the driver's errors."""

    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self._compiled: _Compiled | None = None
        self._results: Sequence[tuple[int, _Process]] | None = None

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Any]:
        """The rows that the statement returns."""
        with closing(connection.connection.cursor()) as cursor:
            self._execute(cursor, connection.dialect, values)
            return self.fetched(cursor, connection.dialect)

    def count(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Execute the statement, and return the number of rows that it has written."""
        with closing(connection.connection.cursor()) as cursor:
            self._execute(cursor, connection.dialect, values)
            return int(cursor.rowcount)

    def compiled(self, dialect: Dialect) -> _Compiled:
        if self._compiled is None:
            self._compiled = _compile(self.statement, dialect)
        return self._compiled

    def _execute(self, cursor: Any, dialect: Dialect, values: Mapping[str, Any]) -> None:
        compiled = self.compiled(dialect)
        cursor.execute(compiled.sql, compiled.bound(values))

    def fetched(self, cursor: Any, dialect: Dialect) -> Sequence[Any]:
        """The rows that a cursor has of this statement."""
        rows: Sequence[Any] = cursor.fetchall()
        if self._results is None:  # only then, because psycopg makes the description at each access, which takes 80 µs
            types = [column.type.dialect_impl(dialect) for column in self.statement.exported_columns]
            codes = [column[1] for column in cursor.description]
            found = [kind.result_processor(dialect, code) for kind, code in zip(types, codes, strict=True)]
            self._results = [(position, process) for position, process in enumerate(found) if process is not None]
        if not self._results:
            return rows
        converted = [list(row) for row in rows]
        for row in converted:
            for position, process in self._results:
                row[position] = process(row[position])
        return converted


class Block:
    """A write, and what to do if it changed a row, as one transaction that MariaDB takes in one message.

    The rows are those of ``result``, the last statement.
    """

    def __init__(self, write: Prepared, *after: Prepared, result: Prepared) -> None:
        self._parts = (write, *after, result)
        self._result = result
        self._compiled: _Compiled | None = None

    @staticmethod
    def is_taken_by(dialect: Any) -> bool:
        """Whether server and driver take blocks: MySQL has none outside of stored programs."""
        return bool(getattr(dialect, "is_mariadb", False)) and dialect.driver in _TAKES_BLOCKS

    def rows(self, connection: Connection, values: Mapping[str, Any], begin: Sequence[str]) -> Sequence[Any]:
        """The rows of the result, or none if the write changed no row. ``begin`` are the statements that begin a transaction.

        After an error the transaction is still open: call this within `Database.rolled_back`.
        """
        if self._compiled is None:
            self._compiled = self._compile(connection.dialect, begin)
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(self._compiled.sql, self._compiled.bound(values))
            found: Sequence[Any] = ()
            if cursor.description is not None:
                found = self._result.fetched(cursor, connection.dialect)
            while cursor.nextset():  # raises the error of a statement that follows the rows, such as COMMIT
                pass
            return found

    def _compile(self, dialect: Dialect, begin: Sequence[str]) -> _Compiled:
        write, *after = [part.compiled(dialect) for part in self._parts]
        names = [name for part in (write, *after) for name in part.names]
        converted = {name: process for part in (write, *after) for name, process in part.converted.items()}
        then = "; ".join([part.sql for part in after])
        steps = [*begin, write.sql, f"IF ROW_COUNT() > 0 THEN {then}; END IF", "COMMIT"]
        return _Compiled(f"BEGIN NOT ATOMIC {'; '.join(steps)}; END", names, write.is_positional, converted)


def _compile(statement: Any, dialect: Dialect) -> _Compiled:
    compiled = statement.compile(dialect=dialect)
    names = compiled.positiontup if compiled.positional else list(compiled.binds)
    kinds = {name: compiled.binds[name].type.dialect_impl(dialect) for name in names}
    found = {name: kind.bind_processor(dialect) for name, kind in kinds.items()}
    converted = {name: process for name, process in found.items() if process is not None}
    return _Compiled(compiled.string, names, compiled.positional, converted)
