"""The application that the benchmarks serve: one action, and beside it the same work done by hand.

``/work`` does nothing as a job. ``/bare`` does nothing as a route, outside of the middleware; ``/bare/updates`` writes
the two updates of a job's life with plain sqlite3. Each tells the benchmark, through a named pipe, when its first
line runs and when it is over.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.benchmarks.notes import END, FIRST_LINE, KEY, NotesWriter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["application"]

_TOKEN: Final = "t" * 22
_ERASED: Final = ("request", "method", "target", "headers", "caller", "sealed", "merge_key")


class _ByHand:
    """What a claim and an end write, in a file of their own, by one connection whose users take turns."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        columns = {row[1] for row in self._connection.execute("PRAGMA table_info(backjob)")}
        erased = "".join(f", {name} = NULL" for name in _ERASED if name in columns)
        self._claim = (
            "UPDATE backjob SET version = version + 1, status = 1, token = ?, lessee = NULL, lease_until = NULL, "
            "updated_time = ? WHERE id = ? AND status = 0"
        )
        self._end = (
            "UPDATE backjob SET version = version + 1, status = 2, progress = 100, updated_time = ?, "
            f"end_time = ?{erased} WHERE id = ? AND token = ? AND status = 1"
        )
        self._turn = threading.Lock()

    def update_twice(self, job_id: str) -> None:
        now = time.time_ns() // 1000
        with self._turn:
            self._connection.execute(self._claim, (_TOKEN, now, job_id))
        with self._turn:
            self._connection.execute(self._end, (now, now, job_id, _TOKEN))


def _build() -> WSGIApplication:
    notes = NotesWriter(os.environ["BENCHMARK_NOTES"])
    by_hand = _ByHand(os.environ["BENCHMARK_RAW"])
    jobs = BackJob(
        SQLiteStore(os.environ["BENCHMARK_STORE"]),
        SocketTransport(os.environ["BENCHMARK_URL"]),
        MessageSigner(KEY),
        on_end=lambda _: notes.note(END),
    )
    fields = [("Content-Type", "text/plain"), ("Content-Length", "2")]

    def work(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.note(FIRST_LINE)
        start_response("200 OK", fields)
        return [b"ok"]

    middleware = BackJobMiddleware(work, jobs)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/bare":
            notes.note(FIRST_LINE)
        elif path == "/bare/updates":
            by_hand.update_twice(environ["QUERY_STRING"])
            notes.note(END)
        elif path != "/ready":
            return middleware(environ, start_response)
        start_response("200 OK", fields)
        return [b"ok"]

    return app


application = _build()
