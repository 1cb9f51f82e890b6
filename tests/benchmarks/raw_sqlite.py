"""A store's work with plain sqlite3, on a file in `SQLiteStore`'s layout."""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from typing import Any, Final
from urllib.parse import unquote

from backjob.stores.columns import JOB_COLUMNS

__all__ = ["RawSQLite"]

_CHUNK: Final = 50_000
_TOKEN: Final = "t" * 22
_LEASE: Final = 18_000_000  # µs
_ERASED: Final = tuple([column.name for column in JOB_COLUMNS if column.erased])


def _path(url: str) -> str:
    return unquote(url.removeprefix("sqlite:///"))


class RawSQLite:
    """The file of a ``sqlite:///`` URL, with one connection guarded by a lock."""

    def __init__(self, url: str) -> None:
        self._path = _path(url)
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._columns: list[str] = []
        self._template: list[Any] = []
        self._insert = ""
        erased = "".join(f", {name} = NULL" for name in _ERASED)
        self._claim = (
            "UPDATE backjob SET version = version + 1, status = 1, token = ?, lease_until = ?, waiting_for = NULL, "
            "expires = NULL, claimed_time = ?, updated_time = ? WHERE id = ? AND run = 1 AND token IS NULL AND status < 2"
        )
        self._end = (
            "UPDATE backjob SET version = version + 1, status = 2, progress = 100, updated_time = ?, "
            f"end_time = ?{erased} WHERE id = ? AND token = ? AND status = 1"
        )
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def take_template(self, store: str, job_id: str) -> None:
        connection = sqlite3.connect(_path(store))
        names = [row[1] for row in connection.execute("PRAGMA table_info(backjob)")]
        row = connection.execute("SELECT * FROM backjob WHERE id = ?", (job_id,)).fetchone()
        connection.close()
        self._columns, self._template = names[1:], [*row[1:]]
        marks = ", ".join("?" * len(self._columns))
        self._insert = f"INSERT INTO backjob ({', '.join(self._columns)}) VALUES ({marks})"

    def row(self) -> list[Any]:
        row = [*self._template]
        row[self._columns.index("id")] = secrets.token_urlsafe(18)
        return row

    def insert(self, row: list[Any]) -> str:
        self._connection.execute(self._insert, row)
        job_id: str = row[self._columns.index("id")]
        return job_id

    def update_twice(self, job_id: str) -> None:
        now = time.time_ns() // 1000
        with self._lock:
            self._connection.execute(self._claim, (_TOKEN, now + _LEASE, now, now, job_id))
        with self._lock:
            self._connection.execute(self._end, (now, now, job_id, _TOKEN))

    def report(self, job_id: str, progress: int, text: str, output: bytes, start: int) -> None:
        execute = self._connection.execute
        if output:
            execute("BEGIN IMMEDIATE")
        execute(
            "UPDATE backjob SET version = version + 1, updated_time = ?, progress = ?, status_text = ?, "
            "output_size = output_size + ? WHERE id = ? AND status = 0",
            (time.time_ns() // 1000, progress, text, len(output), job_id),
        )
        if output:
            execute("INSERT INTO backjob_output (job, start, piece) VALUES (1, ?, ?)", (start, output))
            execute("COMMIT")

    def select(self, job_id: str) -> object:
        return self._connection.execute("SELECT * FROM backjob WHERE id = ?", (job_id,)).fetchone()

    def fill(self, ended: int) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        names: list[str] = [row[1] for row in connection.execute("PRAGMA table_info(backjob)")][1:]
        own = {
            "id": "lower(hex(randomblob(12)))",
            "status": "CASE n % 10 WHEN 0 THEN 3 WHEN 1 THEN 4 ELSE 2 END",
            "created_time": "created_time - n * 1000000",
            "start_time": "start_time - n * 1000000",
            "deliver_by": "deliver_by - n * 1000000",
            "updated_time": "updated_time - n * 1000000",
            "end_time": "end_time - n * 1000000",
            "claimed_time": "claimed_time - n * 1000000",
        }
        values = ", ".join([own.get(name, name) for name in names])
        (template,) = connection.execute("SELECT max(seq) FROM backjob WHERE status = 2").fetchone()
        for first in range(0, ended, _CHUNK):
            connection.execute(
                f"INSERT INTO backjob ({', '.join(names)}) WITH RECURSIVE numbers (n) AS "
                f"(SELECT ? UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
                f"SELECT {values} FROM numbers CROSS JOIN backjob WHERE seq = ?",
                (first, min(first + _CHUNK, ended) - 1, template),
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def close(self) -> None:
        self._connection.close()
