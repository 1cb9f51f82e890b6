"""Tests of the connections that take all columns of a row in one step."""

from __future__ import annotations

import _thread
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeAlias

import pytest

from backjob.stores.sqlite.whole_rows import WHOLE_ROW, WholeRows

Fetch: TypeAlias = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def connection() -> Iterator[WholeRows]:
    opened = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=WholeRows)
    with closing(opened):
        opened.execute("CREATE TABLE row (n INTEGER, text TEXT, bytes BLOB, real REAL)")
        yield opened


@pytest.fixture(params=["in the main thread", "in another thread"])
def fetch(request: pytest.FixtureRequest, connection: WholeRows) -> Iterator[Fetch]:
    """Return `WholeRows.whole_rows`, called in this thread."""
    if request.param == "in the main thread":
        yield connection.whole_rows
        return
    with ThreadPoolExecutor(1) as threads:
        yield lambda sql, parameters=(): threads.submit(connection.whole_rows, sql, parameters).result()


def insert(connection: WholeRows, *rows: tuple[Any, ...]) -> None:
    connection.executemany("INSERT INTO row VALUES (?, ?, ?, ?)", rows)


def selected(fetch: Fetch, rest: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return fetch(f"SELECT {WHOLE_ROW}(n, text, bytes, real) FROM row {rest}", parameters)


@pytest.mark.parametrize(
    "row",
    [
        (-(2**63), "", b"", 0.1),
        (2**63 - 1, "ends\0here: no", b"\0\xff", -1e300),
        (None, None, None, None),
        (0, "😀 line\nline", bytes(range(256)), 1.0),
    ],
)
def test_a_row_has_the_values_that_fetching_its_columns_gives(
    connection: WholeRows, fetch: Fetch, row: tuple[Any, ...]
) -> None:
    insert(connection, row)
    assert selected(fetch, "") == [row] == connection.execute("SELECT * FROM row").fetchall()


def test_rows_come_in_the_order_of_the_statement_without_those_past_its_limit(
    connection: WholeRows, fetch: Fetch
) -> None:
    insert(connection, *[(n, f"{n}", b"", 0.0) for n in (3, 1, 4, 5, 2)])
    assert [row[0] for row in selected(fetch, "ORDER BY n DESC LIMIT ?", 3)] == [5, 4, 3]
    assert [row[0] for row in selected(fetch, "ORDER BY text LIMIT 2 OFFSET 1")] == [2, 3]
    assert selected(fetch, "WHERE n > 9") == []


def test_a_write_returns_the_rows_as_it_left_them(connection: WholeRows, fetch: Fetch) -> None:
    insert(connection, (1, "a", b"", 0.0), (2, "b", b"", 0.0))
    written = fetch(f"UPDATE row SET text = text || '!' RETURNING {WHOLE_ROW}(n, text)")
    assert sorted(written) == [(1, "a!"), (2, "b!")]


def test_a_statement_that_failed_leaves_no_rows_to_the_next_one(connection: WholeRows, fetch: Fetch) -> None:
    insert(connection, (1, "a", b"", 0.0), (2, "b", b"", 0.0))
    with pytest.raises(sqlite3.OperationalError):
        fetch(f"SELECT {WHOLE_ROW}(n, text, abs(CASE n WHEN 2 THEN -9223372036854775808 END)) FROM row")
    assert [row[0] for row in selected(fetch, "ORDER BY n")] == [1, 2]


def test_the_exception_of_a_signal_handler_is_not_lost(connection: WholeRows) -> None:
    """As in a thread that waits in SQLite for another writer when the signal comes."""

    def stop(*_: object) -> None:
        raise InterruptedError("stop")

    insert(connection, (1, "a", b"", 0.0))
    connection.create_function("interrupt", 0, _thread.interrupt_main)
    before = signal.signal(signal.SIGINT, stop)
    try:
        with pytest.raises(InterruptedError, match="stop"):
            connection.whole_rows(f"UPDATE row SET n = 2 RETURNING {WHOLE_ROW}(interrupt(), n)")
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_columns_may_contain_parentheses(connection: WholeRows, fetch: Fetch) -> None:
    insert(connection, (1, "a", b"x", 0.0), (2, "b", b"", 0.0))
    body = "CASE WHEN (n > 1) THEN (SELECT max(text) FROM row) ELSE x'' END"
    assert fetch(f"SELECT {WHOLE_ROW}(n, {body}) FROM row WHERE n IN (1, 2) ORDER BY (n)") == [(1, b""), (2, "b")]
