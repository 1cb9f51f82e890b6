"""The work done by hand: plain sqlite3 on a file of the store's layout, and one request by h11 on a blocking socket."""

from __future__ import annotations

import secrets
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

import h11

from backjob.stores.sqlite import SQLiteStore

__all__ = ["RawStore", "bare_request", "connect_and_send", "fill", "request_bytes"]

_TIMEOUT: Final = 30.0
_CHUNK: Final = 50_000


class RawStore:
    """A file with the store's tables and pragmas, written by one connection and no code of ours.

    It is another file than the store's: each side keeps its page cache, as it would alone.
    """

    def __init__(self, path: Path) -> None:
        SQLiteStore(path).close()
        self.path = path
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._columns: list[str] = []
        self._template: list[Any] = []
        self._insert = ""

    def take_template(self, store: Path, job_id: str) -> None:
        """Insert rows like this one from now on."""
        with sqlite3.connect(store) as connection:
            names = [row[1] for row in connection.execute("PRAGMA table_info(backjob)")]
            row = connection.execute("SELECT * FROM backjob WHERE id = ?", (job_id,)).fetchone()
        connection.close()
        self._columns, self._template = names[1:], [*row[1:]]
        marks = ", ".join("?" * len(self._columns))
        self._insert = f"INSERT INTO backjob ({', '.join(self._columns)}) VALUES ({marks})"

    def row(self) -> list[Any]:
        """A new row, with an id of its own."""
        row = [*self._template]
        row[self._columns.index("id")] = secrets.token_urlsafe(18)
        return row

    def insert(self, row: list[Any]) -> str:
        """Insert and commit; the row's id."""
        self._connection.execute(self._insert, row)
        job_id: str = row[self._columns.index("id")]
        return job_id

    def report(self, job_id: str, progress: int, text: str, output: bytes, start: int) -> None:
        """What an update that writes must write: the row, and the output, committed together."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        execute(
            "UPDATE backjob SET version = version + 1, updated_time = ?, progress = ?, status_text = ?, "
            "output_size = output_size + ? WHERE id = ? AND status = 0",
            (time.time_ns() // 1000, progress, text, len(output), job_id),
        )
        execute("INSERT INTO backjob_output (job, start, piece) VALUES (1, ?, ?)", (start, output))
        execute("COMMIT")

    def select(self, job_id: str) -> object:
        """The row as it stands."""
        return self._connection.execute("SELECT * FROM backjob WHERE id = ?", (job_id,)).fetchone()

    def close(self) -> None:
        self._connection.close()


def fill(path: Path, ended: int) -> None:
    """Add so many jobs that have ended, all different, to the file of a store that has one job that has."""
    connection = sqlite3.connect(path, isolation_level=None)
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


def request_bytes(address: tuple[str, int], target: str) -> bytes:
    """A GET as h11 writes it."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", f"{address[0]}:{address[1]}"), ("Connection", "close"), ("User-Agent", "bare")]
    head = connection.send(h11.Request(method="GET", target=target, headers=headers))
    end = connection.send(h11.EndOfMessage())
    return (head or b"") + (end or b"")


def connect_and_send(address: tuple[str, int], request: bytes) -> socket.socket:
    """A connection on which this request has been sent."""
    connected = socket.create_connection(address, _TIMEOUT)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.sendall(request)
    return connected


def bare_request(address: tuple[str, int], target: str) -> None:
    """One request by h11, from the connect to the complete answer."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", f"{address[0]}:{address[1]}"), ("Connection", "close"), ("User-Agent", "bare")]
    with socket.create_connection(address, _TIMEOUT) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = connection.send(h11.Request(method="GET", target=target, headers=headers))
        end = connection.send(h11.EndOfMessage())
        connected.sendall((head or b"") + (end or b""))
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(connected.recv(65536))
            elif isinstance(event, h11.Response):
                assert event.status_code == 200, event
            elif isinstance(event, h11.EndOfMessage):
                return
