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

    connect = sqlite3.connect

    def counting(*arguments: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **options: Any) -> Any:
        return connect(*arguments, factory=_counted(factory, counts), **options)

    patch.setattr(sqlite3, "connect", counting)
    return counts


def _counted(kind: type[sqlite3.Connection], counts: Counter) -> type[sqlite3.Connection]:
    class Counted(kind):  # type: ignore[valid-type, misc]
        def execute(self, sql: str, *arguments: Any) -> Any:
            counts.sent.append(sql)
            return super().execute(sql, *arguments)

        def executemany(self, sql: str, *arguments: Any) -> Any:
            counts.sent.append(sql)
            return super().executemany(sql, *arguments)

    return Counted


def _note(patch: pytest.MonkeyPatch, owner: type, name: str, counts: Counter) -> None:
    method = getattr(owner, name)

    def noting(self: Any, *arguments: Any, **options: Any) -> Any:
        counts.sent.append(" ".join(map(str, arguments))[:200])
        return method(self, *arguments, **options)

    patch.setattr(owner, name, noting)
