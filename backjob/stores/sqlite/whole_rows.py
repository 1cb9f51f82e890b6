"""A connection to SQLite that takes all columns of a row in one step.

`sqlite3` releases the interpreter's lock for each column that it fetches, and a thread that waits for the lock takes it each
time. In a busy process, a row of 48 columns then costs up to 48 changes of threads. A function of SQL, in contrast,
gets all its arguments at once.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

__all__ = ["WHOLE_ROW", "WholeRows"]

WHOLE_ROW: Final = "backjob_row"
"""The function of SQL that takes the columns of a row, at most 100. Its value is the row's number, to be fetched in their place."""


class WholeRows(sqlite3.Connection):
    """A connection whose statements may fetch ``backjob_row(column, …)``. One thread at a time may use it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        taken: list[tuple[Any, ...]] = []

        def take(*columns: Any) -> int:
            taken.append(columns)
            return len(taken) - 1

        self._taken = taken
        self.create_function(WHOLE_ROW, -1, take)

    def whole_rows(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Execute a statement that fetches only `WHOLE_ROW` of some columns; return the rows of these columns."""
        taken = self._taken
        try:
            # SQLite may call the function for rows that it leaves out or sorts afterwards.
            return [taken[number] for (number,) in self.execute(sql, parameters).fetchall()]
        finally:
            taken.clear()
