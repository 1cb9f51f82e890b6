"""A connection to SQLite that takes all columns of a row in one step.

`sqlite3` releases the interpreter's lock for each column that it fetches, and a thread that waits for the lock takes it each
time. In a busy process, a row of 48 columns then costs up to 48 changes of threads. A function of SQL, in contrast,
gets all its arguments at once.

But `sqlite3` replaces an exception in such a function by an error of its own. In the main thread that may be one of a signal
handler, such as `KeyboardInterrupt` or a server's timeout, which must not be lost. So there the columns are fetched.
"""

from __future__ import annotations

import sqlite3
import threading
from functools import lru_cache
from typing import Any, Final

__all__ = ["WHOLE_ROW", "WholeRows"]

WHOLE_ROW: Final = "backjob_row"
"""The function of SQL that takes the columns of a row, at most 100. Its value is the row's number, to be fetched in their place."""

_MOST_STATEMENTS: Final = 256


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
        if threading.get_ident() == threading.main_thread().ident:
            return self.execute(_with_columns(sql), parameters).fetchall()
        taken = self._taken
        try:
            # SQLite may call the function for rows that it leaves out or sorts afterwards.
            return [taken[number] for (number,) in self.execute(sql, parameters).fetchall()]
        finally:
            taken.clear()


@lru_cache(_MOST_STATEMENTS)
def _with_columns(sql: str) -> str:
    """Return the statement that fetches the columns themselves. They contain no parenthesis within quotes."""
    before, _, rest = sql.partition(f"{WHOLE_ROW}(")
    depth = 1
    for place, character in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return before + rest[:place] + rest[place + 1 :]
    return sql
