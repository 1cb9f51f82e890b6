"""For the tests of your application: run actions in the test's thread, or only record what was started."""

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

from backjob.delivery.addresses import Addresses
from backjob.delivery.monitor import Monitor
from backjob.delivery.parts import DeliveryParts
from backjob.errors import NotSent
from backjob.jobs import BackJob, Engine, engine_of
from backjob.model import Credentials, Job, Request, Response
from backjob.process import PerProcess
from backjob.protocols import Delivery, Transport
from backjob.worker.leases import Leases

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

__all__ = ["Started", "immediate", "recorded"]

_log = logging.getLogger("backjob")


@frozen(kw_only=True)
class Started:
    """A job that was started within `recorded`. ``as_current_user``: the job has credentials."""

    job_id: str
    request: Request
    owner: str | None
    scope: str
    start_time: datetime
    as_current_user: bool


@contextmanager
def immediate(jobs: BackJob, app: WSGIApplication) -> Iterator[None]:
    """Have ``start()`` run the action in this thread before it returns: no server, no socket, no waiting.

    ``app`` is the WSGI application wrapped in the middleware, or a Flask application with the extension. The worker
    request is signed, verified and claimed as usual. Delays are skipped, slices and retries follow at once, and so do jobs
    started by a job.
    """
    engine = jobs._engine_for(app)  # noqa: SLF001 - Flask's may have several
    with _replaced(engine, _ImmediateMonitor(engine.delivery_parts), _InlineTransport(app)):
        yield


@contextmanager
def recorded(jobs: BackJob) -> Iterator[list[Started]]:
    """Have ``start()`` store the job and send nothing. Yields the list of the jobs started, in order."""
    engine = engine_of(jobs)
    monitor = _RecordingMonitor(engine.delivery_parts)
    with _replaced(engine, monitor, _NoTransport()):
        yield monitor.started


@contextmanager
def _replaced(engine: Engine, monitor: Monitor, transport: Transport) -> Iterator[None]:
    before = engine.monitors, engine.addresses, engine.lease_keepers, engine.calls_back_inline
    options = engine.options
    leases = _ThreadlessLeases(options.store, options.clock, options.run_lease, engine.release)
    engine.monitors, engine.addresses, engine.lease_keepers, engine.calls_back_inline = (
        PerProcess(lambda: monitor),
        Addresses(transport),
        PerProcess(lambda: leases),
        True,
    )
    try:
        yield
    finally:
        engine.monitors, engine.addresses, engine.lease_keepers, engine.calls_back_inline = before


class _ThreadlessLeases(Leases):
    @override
    def ensure_running(self) -> bool:
        """Renew nothing: another thread would not see a job that the test's transaction has not committed."""
        return True


class _ThreadlessMonitor(Monitor):
    @override
    def ensure_running(self) -> None:
        """Its passes run in the test's thread."""


class _ImmediateMonitor(_ThreadlessMonitor):
    @override
    def accept(self, job: Job, credentials: Credentials | None, written: float) -> None:
        waiting: Job | None = job
        while waiting is not None and waiting.is_waiting:
            run = waiting.run
            # Due now, and leased to this process: no delay is waited for, nor that of a retry.
            super().accept(evolve(waiting, start_time=job.read_time, lessee=self.lessee), credentials, written)
            self.step()  # sends it
            self.step()  # concludes from the answer
            waiting = self._parts.store.get(job.id, body=True)
            if waiting is None or waiting.run == run:
                return


class _RecordingMonitor(_ThreadlessMonitor):
    def __init__(self, parts: DeliveryParts) -> None:
        super().__init__(parts)
        self.started: list[Started] = []

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
    in_process = True

    def send(self, delivery: Delivery) -> Future[Response]:  # noqa: ARG002 - the protocol's signature
        future: Future[Response] = Future()
        future.set_exception(NotSent("recorded() sends nothing"))
        return future

    def close(self) -> None:
        """Do nothing."""


class _InlineTransport:
    """Calls the application instead of a server."""

    capacity: int | None = None
    in_process = True

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def send(self, delivery: Delivery) -> Future[Response]:
        future: Future[Response] = Future()
        try:
            # In a copy of the context: as with a server, the test does not see context variables that the action sets.
            future.set_result(copy_context().run(_call, self._app, delivery.sign()))
        except NotSent as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Do nothing."""


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
