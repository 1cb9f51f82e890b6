"""For tests of one's own application: run actions at once in the test's thread, or only note what was started."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from attrs import evolve, frozen
from typing_extensions import override

from backjob.delivery.monitor import Monitor
from backjob.errors import NotSent
from backjob.jobs import BackJob
from backjob.model import Credentials, Job, Request, Response
from backjob.process import PerProcess
from backjob.protocols import Delivery, Transport

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

__all__ = ["Started", "immediate", "recorded"]

_log = logging.getLogger("backjob")


@frozen(kw_only=True)
class Started:
    """A job that was started while `recorded` was on. ``as_current_user`` tells whether credentials went along."""

    job_id: str
    request: Request
    owner: str | None
    scope: str
    start_time: datetime
    as_current_user: bool


@contextmanager
def immediate(jobs: BackJob, app: WSGIApplication) -> Iterator[None]:
    """Within it ``start()`` runs the action in this thread before it returns: no server, no socket, no waiting.

    ``app`` is the WSGI application with the middleware around it; a Flask application with the extension is one. The
    worker request is signed, verified and claimed as ever. Delays are not waited for; a job that starts jobs runs them
    at once.
    """
    jobs = jobs.of(app)
    with _instead(jobs, jobs.make_monitor(_ImmediateMonitor), _InlineTransport(app)):
        yield


@contextmanager
def recorded(jobs: BackJob) -> Iterator[list[Started]]:
    """Within it ``start()`` writes the job to the store and sends nothing; the list has what was started, in order."""
    jobs = jobs.of()
    monitor = jobs.make_monitor(_RecordingMonitor)
    monitor.started = []
    with _instead(jobs, monitor, _NoTransport()):
        yield monitor.started


@contextmanager
def _instead(jobs: BackJob, monitor: Monitor, transport: Transport) -> Iterator[None]:
    before = jobs.monitors, jobs.transport
    jobs.monitors, jobs.transport = PerProcess(lambda: monitor), transport
    try:
        yield
    finally:
        jobs.monitors, jobs.transport = before


class _ThreadlessMonitor(Monitor):
    @override
    def ensure_running(self) -> None:
        """Its passes run in the test's thread."""


class _ImmediateMonitor(_ThreadlessMonitor):
    @override
    def accept(self, job: Job, credentials: Credentials | None, written: float) -> None:
        # Due now, and leased to this process: the delay is not waited for.
        super().accept(evolve(job, start_time=job.read_time, lessee=self.lessee), credentials, written)
        self.step()  # sends it
        self.step()  # concludes from the answer


class _RecordingMonitor(_ThreadlessMonitor):
    started: list[Started]

    @override
    def accept(self, job: Job, credentials: Credentials | None, written: float) -> None:
        if job.request is not None:
            self.started.append(
                Started(
                    job_id=job.id,
                    request=job.request,
                    owner=job.owner,
                    scope=job.scope,
                    start_time=job.start_time,
                    as_current_user=credentials is not None,
                )
            )


class _NoTransport:
    capacity: int | None = 0

    def send(self, delivery: Delivery) -> Future[Response]:  # noqa: ARG002 - the protocol's
        future: Future[Response] = Future()
        future.set_exception(NotSent("nothing is sent while starts are only recorded"))
        return future

    def close(self) -> None:
        """There is nothing to close."""


class _InlineTransport:
    """Calls the application instead of connecting to it."""

    capacity: int | None = None

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def send(self, delivery: Delivery) -> Future[Response]:
        future: Future[Response] = Future()
        try:
            # A copy of the context: what the action sets is not seen by the test, as it would not be from a server.
            future.set_result(copy_context().run(_call, self._app, delivery.sign()))
        except NotSent as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """There is nothing to close."""


def _call(app: WSGIApplication, request: Request) -> Response:
    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], _exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        answers.append((status, headers))
        return lambda _: None

    try:
        body = app(_environ(request), start_response)
        try:
            content = b"".join(body)
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return Response(500, "Internal Server Error")
    status, headers = answers[-1]
    code, _, reason = status.partition(" ")
    return Response(int(code), reason, tuple(headers), content)


def _environ(request: Request) -> WSGIEnvironment:
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": request.query,
        "REQUEST_URI": request.target,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers:
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return environ
