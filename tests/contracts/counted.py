"""Count the statements that a store sends, at its driver; one statement is one round trip to a server.

Transactions count with their BEGIN and COMMIT. What happens while a connection is made does not count.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pymysql.cursors
import pytest
import redis.connection

__all__ = ["Counter", "counter"]


class Counter:
    """How many statements were sent so far, by any thread."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    @contextmanager
    def counted(self) -> Iterator[list[str]]:
        """The statements that the block sends, as a list that is complete at its end."""
        begin, found = len(self.sent), list[str]()
        yield found
        found += self.sent[begin:]


def counter(patch: pytest.MonkeyPatch) -> Counter:
    """Count the statements of every driver from now on."""
    counts = Counter()
    for cursor in (psycopg.Cursor, pymysql.cursors.Cursor):
        _note(patch, cursor, "execute", counts)
        _note(patch, cursor, "executemany", counts)
    _note(patch, redis.connection.AbstractConnection, "send_command", counts)

    class Counted(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            counts.sent.append(sql)
            return super().execute(sql, *arguments)

        def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            counts.sent.append(sql)
            return super().executemany(sql, *arguments)

    connect = sqlite3.connect

    def counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=Counted, **options)

    patch.setattr(sqlite3, "connect", counting)
    return counts


def _note(patch: pytest.MonkeyPatch, owner: type, name: str, counts: Counter) -> None:
    method = getattr(owner, name)

    def noting(self: Any, *arguments: Any, **options: Any) -> Any:
        counts.sent.append(" ".join(map(str, arguments))[:200])
        return method(self, *arguments, **options)

    patch.setattr(owner, name, noting)
