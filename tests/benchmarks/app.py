"""The application that the benchmarks serve: one action, and routes that do the same work without backjob.

``/work`` is an action that does nothing. ``/bare`` does nothing either, outside the middleware; ``/bare/updates`` writes
the two updates of a job's life with the plain driver, into separate tables. Each writes to a named pipe when its first
line runs and when it has ended. With ``BENCHMARK_DRIVER``, each process also takes `Commands`, in a thread of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.benchmarks.commands import Commands, serve
from tests.benchmarks.kinds import open_raw
from tests.benchmarks.notes import END, FIRST_LINE, KEY, Notes, NotesWriter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["application"]

_AT_ONCE: Final = 4
"""As many jobs at once as the comparison has client threads."""


def _build() -> WSGIApplication:
    notes = NotesWriter(os.environ["BENCHMARK_NOTES"])
    raw = open_raw(os.environ["BENCHMARK_RAW"])
    url = os.environ["BENCHMARK_URL"]
    jobs = BackJob(
        open_store(os.environ["BENCHMARK_STORE"]), SocketTransport(url), MessageSigner(KEY), max_running=_AT_ONCE
    )
    fields = [("Content-Type", "text/html"), ("Content-Length", "0")]  # a body without markup would be output

    def work(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.note(FIRST_LINE)
        environ["benchmark.has_run"] = True
        start_response("200 OK", fields)
        return []

    middleware = BackJobMiddleware(work, jobs)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/bare":
            notes.note(FIRST_LINE)
        elif path == "/bare/updates":
            raw.update_twice(environ["QUERY_STRING"])
            notes.note(END)
        elif path != "/ready":
            body = middleware(environ, start_response)
            if "benchmark.has_run" in environ:  # and has not been refused, for example because the process is busy
                notes.note(END)
            return body
        start_response("200 OK", fields)
        return []

    if path := os.environ.get("BENCHMARK_DRIVER"):
        host, _, port = url.removeprefix("http://").partition(":")
        commands = Commands(
            jobs, raw, (host, int(port)), os.environ["BENCHMARK_STORE"], Notes(Path(os.environ["BENCHMARK_NOTES"]))
        )
        threading.Thread(target=serve, args=(path, commands), daemon=True).start()
    return app


application = _build()
