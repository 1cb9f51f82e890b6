"""Tests of the connections that take all columns of a row in one step."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from backjob.stores.sqlite.whole_rows import WHOLE_ROW, WholeRows


@pytest.fixture
def connection() -> Iterator[WholeRows]:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=WholeRows)) as opened:
        opened.execute("CREATE TABLE row (n INTEGER, text TEXT, bytes BLOB, real REAL)")
        yield opened


def insert(connection: WholeRows, *rows: tuple[Any, ...]) -> None:
    connection.executemany("INSERT INTO row VALUES (?, ?, ?, ?)", rows)


def selected(connection: WholeRows, rest: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return connection.whole_rows(f"SELECT {WHOLE_ROW}(n, text, bytes, real) FROM row {rest}", parameters)


@pytest.mark.parametrize(
    "row",
    [
        (-(2**63), "", b"", 0.1),
        (2**63 - 1, "ends\0here: no", b"\0\xff", -1e300),
        (None, None, None, None),
        (0, "😀 line\nline", bytes(range(256)), 1.0),
    ],
)
def test_a_row_has_the_values_that_fetching_its_columns_gives(connection: WholeRows, row: tuple[Any, ...]) -> None:
    insert(connection, row)
    assert selected(connection, "") == [row] == connection.execute("SELECT * FROM row").fetchall()


def test_rows_come_in_the_order_of_the_statement_without_those_past_its_limit(connection: WholeRows) -> None:
    insert(connection, *[(n, f"{n}", b"", 0.0) for n in (3, 1, 4, 5, 2)])
    assert [row[0] for row in selected(connection, "ORDER BY n DESC LIMIT ?", 3)] == [5, 4, 3]
    assert [row[0] for row in selected(connection, "ORDER BY text LIMIT 2 OFFSET 1")] == [2, 3]
    assert selected(connection, "WHERE n > 9") == []


def test_a_write_returns_the_rows_as_it_left_them(connection: WholeRows) -> None:
    insert(connection, (1, "a", b"", 0.0), (2, "b", b"", 0.0))
    written = connection.whole_rows(f"UPDATE row SET text = text || '!' RETURNING {WHOLE_ROW}(n, text)")
    assert sorted(written) == [(1, "a!"), (2, "b!")]


def test_a_statement_that_failed_leaves_no_rows_to_the_next_one(connection: WholeRows) -> None:
    insert(connection, (1, "a", b"", 0.0), (2, "b", b"", 0.0))
    with pytest.raises(sqlite3.OperationalError):
        connection.whole_rows(f"SELECT {WHOLE_ROW}(n, text, abs(CASE n WHEN 2 THEN -9223372036854775808 END)) FROM row")
    assert [row[0] for row in selected(connection, "ORDER BY n")] == [1, 2]
