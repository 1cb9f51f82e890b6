"""The routes, and how a web application uses them: backjob, whose jobs run in the process that starts them.

Waitress serves them in a thread, with as many threads as the other contenders have workers.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from waitress import serve

from backjob import BackJob
from backjob.jobs import engine_of
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from backjob.worker.running import current
from backjob.wsgi import BackJobMiddleware
from tests.benchmarks.notes import END, FIRST_LINE, KEY, NotesWriter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_THREADS: Final = 4
_notes: Final = NotesWriter(os.environ["PEER_NOTES"])
_listening: Final = socket.create_server(("127.0.0.1", 0), backlog=1024)
_url: Final = "http://{}:{}".format(*_listening.getsockname())
_jobs: Final = BackJob(
    open_store(os.environ["PEER_STORE"]), SocketTransport(_url), MessageSigner(KEY), max_running=_THREADS
)


def _reports(write: Callable[[], object], count: int) -> None:
    for number in range(count):
        _jobs.update(number % 100)
        write()
    _notes.note(END)


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path, count = environ["PATH_INFO"], int(parse_qs(environ["QUERY_STRING"]).get("count", "0")[0])
    _notes.note(FIRST_LINE)
    if path == "/reports":
        _reports(lambda: None, count)
    elif path == "/written":
        running = current.get()
        assert running is not None
        _reports(running.write_now, count)
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "0")])
    return []


_middleware: Final = BackJobMiddleware(_app, _jobs)
threading.Thread(
    target=serve, args=(_middleware,), kwargs={"sockets": [_listening], "threads": _THREADS}, daemon=True
).start()


def start() -> str:
    return _jobs.start("/nothing", as_current_user=False)


def start_reports(count: int) -> None:
    _jobs.start("/reports", {"count": count}, as_current_user=False)


def start_written_reports(count: int) -> None:
    """Reports of which each is written, instead of one in 0.1 s."""
    _jobs.start("/written", {"count": count}, as_current_user=False)


def status(job_id: str) -> object:
    return _jobs.status(job_id)


def drain() -> None:
    """Wait until nothing is left to deliver: what a worker of its own does after a task belongs to the task too."""
    until, pause = time.monotonic() + 60, threading.Event()
    while engine_of(_jobs).monitor._deliveries._by_id:
        pause.wait(0.0005)
        assert time.monotonic() < until, "a delivery did not finish"
