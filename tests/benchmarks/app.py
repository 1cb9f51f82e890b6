"""The application that the benchmarks serve: one action, and routes that do the same work without backjob.

``/work`` is an action that does nothing. ``/bare`` does nothing either, outside the middleware; ``/bare/updates`` writes
the two updates of a job's life with the plain driver, into separate tables. Each writes to a named pipe when its first
line runs and when it has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.benchmarks.kinds import open_raw
from tests.benchmarks.notes import END, FIRST_LINE, KEY, NotesWriter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["application"]


def _build() -> WSGIApplication:
    notes = NotesWriter(os.environ["BENCHMARK_NOTES"])
    raw = open_raw(os.environ["BENCHMARK_RAW"])
    jobs = BackJob(
        open_store(os.environ["BENCHMARK_STORE"]),
        SocketTransport(os.environ["BENCHMARK_URL"]),
        MessageSigner(KEY),
        on_end=lambda _: notes.note(END),
    )
    fields = [("Content-Type", "text/html"), ("Content-Length", "2")]

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
            raw.update_twice(environ["QUERY_STRING"])
            notes.note(END)
        elif path != "/ready":
            return middleware(environ, start_response)
        start_response("200 OK", fields)
        return [b"ok"]

    return app


application = _build()
