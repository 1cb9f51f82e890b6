"""A store's work with plain psycopg and pymysql, on tables in `SQLStore`'s layout."""

from __future__ import annotations

import secrets
import threading
import time
from abc import abstractmethod
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
import pymysql

from backjob.stores.columns import JOB_COLUMNS

__all__ = ["RawMariaDB", "RawPostgreSQL", "RawSQL"]

_CHUNK: Final = 100_000
_TOKEN: Final = "t" * 22
_LEASE: Final = 18_000_000  # µs
_ERASED: Final = tuple([column.name for column in JOB_COLUMNS if column.erased])


class RawSQL:
    """The tables of a store's URL, with one connection per thread, in autocommit mode."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._table = dict(parse_qsl(self._url.query))["table_name"]
        self._own = threading.local()
        self._connections: list[Any] = []
        self._columns: list[str] = []
        self._template: list[Any] = []
        self._insert = ""
        self._reported: dict[str, int] = {}
        erased = "".join(f", {self._quoted(name)} = NULL" for name in _ERASED)
        self._claim = (
            f"UPDATE {self._table} SET version = version + 1, status = 1, token = %s, lease_until = %s, "
            "waiting_for = NULL, expires = NULL, claimed_time = %s, updated_time = %s "
            "WHERE id = %s AND run = 1 AND token IS NULL AND status < 2"
        )
        self._end = (
            f"UPDATE {self._table} SET version = version + 1, status = 2, progress = 100, updated_time = %s, "
            f"end_time = %s{erased} WHERE id = %s AND token = %s AND status = 1"
        )

    @abstractmethod
    def _connect(self, host: str, port: int | None, user: str, password: str, database: str) -> Any:
        """Open a connection in autocommit mode."""

    @abstractmethod
    def _numbers(self, first: int, last: int) -> str:
        """Return SQL for a table ``numbers`` whose column ``n`` counts from first to last."""

    def _quoted(self, name: str) -> str:
        return f'"{name}"'

    @property
    def _random_id(self) -> str:
        return "substr(md5(concat(n, random())), 1, 24)"

    @property
    @abstractmethod
    def _settling(self) -> tuple[str, ...]:
        """Statements that make a server gather statistics and write all pages to disk, as it otherwise does in time."""

    @property
    @abstractmethod
    def version(self) -> str: ...

    def _cursor(self) -> Any:
        try:
            return self._own.cursor
        except AttributeError:
            parts = self._url
            connection = self._connect(
                parts.hostname or "127.0.0.1",
                parts.port,
                unquote(parts.username or ""),
                unquote(parts.password or ""),
                parts.path[1:],
            )
            self._connections.append(connection)
            self._own.cursor = connection.cursor()
            return self._own.cursor

    def take_template(self, store: str, job_id: str) -> None:
        cursor = self._cursor()
        table = dict(parse_qsl(urlsplit(store).query))["table_name"]
        cursor.execute(f"SELECT * FROM {table} WHERE id = %s", (job_id,))
        row = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
        del row["seq"]
        self._columns, self._template = list(row), list(row.values())
        marks = ", ".join(["%s"] * len(row))
        self._insert = f"INSERT INTO {self._table} ({', '.join(map(self._quoted, row))}) VALUES ({marks})"

    def row(self) -> list[Any]:
        row = [*self._template]
        row[self._columns.index("id")] = secrets.token_urlsafe(18)
        return row

    def insert(self, row: list[Any]) -> str:
        self._cursor().execute(self._insert, row)
        job_id: str = row[self._columns.index("id")]
        return job_id

    def update_twice(self, job_id: str) -> None:
        now = time.time_ns() // 1000
        cursor = self._cursor()
        cursor.execute(self._claim, (_TOKEN, now + _LEASE, now, now, job_id))
        cursor.execute(self._end, (now, now, job_id, _TOKEN))

    def report(self, job_id: str, progress: int, text: str, output: bytes, start: int) -> None:
        cursor = self._cursor()
        seq = self._seq(job_id) if output else None
        if output:
            cursor.execute("BEGIN")
        cursor.execute(
            f"UPDATE {self._table} SET version = version + 1, updated_time = %s, progress = %s, status_text = %s, "
            "output_size = output_size + %s WHERE id = %s AND status = 0",
            (time.time_ns() // 1000, progress, text, len(output), job_id),
        )
        if output:
            statement = f"INSERT INTO {self._table}_output (job, start, piece) VALUES (%s, %s, %s)"
            cursor.execute(statement, (seq, start, output))
            cursor.execute("COMMIT")

    def _seq(self, job_id: str) -> int:
        if job_id not in self._reported:
            cursor = self._cursor()
            cursor.execute(f"SELECT seq FROM {self._table} WHERE id = %s", (job_id,))
            self._reported[job_id] = cursor.fetchone()[0]
        return self._reported[job_id]

    def select(self, job_id: str) -> object:
        cursor = self._cursor()
        cursor.execute(f"SELECT * FROM {self._table} WHERE id = %s", (job_id,))
        return cursor.fetchone()

    def fill(self, ended: int) -> None:
        cursor = self._cursor()
        cursor.execute(f"SELECT max(seq) FROM {self._table} WHERE status = 2")
        (template,) = cursor.fetchone()
        cursor.execute(f"SELECT * FROM {self._table} WHERE seq = %s", (template,))
        names: list[str] = [column[0] for column in cursor.description if column[0] != "seq"]
        cursor.fetchall()
        own = {name: f"{name} - n * 1000000" for name in names if name.endswith("_time") or name == "deliver_by"}
        own |= {"id": self._random_id, "status": "CASE mod(n, 10) WHEN 0 THEN 3 WHEN 1 THEN 4 ELSE 2 END"}
        values = ", ".join([own.get(name, self._quoted(name)) for name in names])
        for first in range(0, ended, _CHUNK):
            numbers = self._numbers(first, min(first + _CHUNK, ended) - 1)
            cursor.execute(
                f"INSERT INTO {self._table} ({', '.join(map(self._quoted, names))}) "
                f"SELECT {values} FROM {self._table} AS job CROSS JOIN {numbers} WHERE job.seq = %s",
                (template,),
            )
        for statement in self._settling:
            cursor.execute(statement)

    def drop(self) -> None:
        """Drop every table whose name begins with the store's."""
        cursor = self._cursor()
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE left(table_name, %s) = %s ORDER BY table_name DESC",
            (len(self._table), self._table),
        )
        tables = [row[0] for row in cursor.fetchall()]
        if tables:
            cursor.execute(f"DROP TABLE {', '.join(tables)}")

    def close(self) -> None:
        while self._connections:
            self._connections.pop().close()


class RawPostgreSQL(RawSQL):
    """PostgreSQL with psycopg."""

    def _connect(self, host: str, port: int | None, user: str, password: str, database: str) -> Any:
        return psycopg.connect(
            host=host, port=port or 5432, user=user, password=password, dbname=database, autocommit=True
        )

    def _numbers(self, first: int, last: int) -> str:
        return f"generate_series({first}::bigint, {last}) AS numbers (n)"

    @property
    def _settling(self) -> tuple[str, ...]:
        return (f"VACUUM (ANALYZE) {self._table}", "CHECKPOINT")

    @property
    def version(self) -> str:
        cursor = self._cursor()
        cursor.execute("SHOW server_version")
        return f"PostgreSQL {cursor.fetchone()[0].split()[0]}"


class RawMariaDB(RawSQL):
    """MariaDB with pymysql."""

    def _connect(self, host: str, port: int | None, user: str, password: str, database: str) -> Any:
        return pymysql.connect(
            host=host,
            port=port or 3306,
            user=user,
            password=password,
            database=database,
            autocommit=True,
            charset="utf8mb4",
        )

    def _numbers(self, first: int, last: int) -> str:
        return f"(SELECT seq AS n FROM seq_{first}_to_{last}) AS numbers"

    def _quoted(self, name: str) -> str:
        return f"`{name}`"

    @property
    def _random_id(self) -> str:
        return "substr(md5(concat(n, rand())), 1, 24)"

    @property
    def _settling(self) -> tuple[str, ...]:
        return (f"ANALYZE TABLE {self._table}", f"FLUSH TABLES {self._table} FOR EXPORT", "UNLOCK TABLES")

    @property
    def version(self) -> str:
        cursor = self._cursor()
        cursor.execute("SELECT version()")
        return f"MariaDB {cursor.fetchone()[0].partition('-')[0]}"
