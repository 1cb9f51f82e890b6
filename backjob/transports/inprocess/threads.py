"""The calls of a WSGI application: each has a thread."""

from __future__ import annotations

from concurrent.futures import Future, wait
from contextvars import Context
from typing import TYPE_CHECKING

from backjob.errors import NotSent, TransportError
from backjob.http.addresses import BaseURL
from backjob.model import Response
from backjob.process import DaemonThreads
from backjob.protocols import Delivery
from backjob.transports.inprocess.calls import CLOSED, InFlight, lose, signed
from backjob.transports.inprocess.responses import failed
from backjob.transports.inprocess.wsgi import call_wsgi
from backjob.transports.settling import settle

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class ThreadedCalls:
    """The calls of a WSGI application in one process, each in a thread and a fresh context; at most ``threads`` at once.

    They are daemon threads, so that the process can end during a job.
    """

    def __init__(self, app: WSGIApplication, base: BaseURL, threads: int) -> None:
        self._app = app
        self._base = base
        self._threads = DaemonThreads("backjob-action", threads)
        self._in_flight = InFlight()
        self._is_closed = False

    def start(self) -> None:
        """Do nothing: a WSGI application has started up once it is imported."""

    def send(self, delivery: Delivery, future: Future[Response]) -> None:
        self._in_flight.add(future)
        try:
            self._threads.run(lambda: Context().run(self._call, delivery, future))
        except RuntimeError as error:
            settle(future, NotSent(f"no thread can be started: {error}"))

    def _call(self, delivery: Delivery, future: Future[Response]) -> None:
        if future.cancelled():
            return
        try:
            if self._is_closed:
                raise NotSent(CLOSED)
            request = signed(delivery)
        except TransportError as error:
            settle(future, error)
            return
        del delivery  # the job may take hours: free the memory now
        try:
            response = call_wsgi(self._app, request, self._base)
        except BaseException:  # sys.exit() must not end this thread
            response = failed(request)
        settle(future, response)

    def close(self, timeout: float) -> None:
        self._is_closed = True
        lose(wait(self._in_flight.all(), timeout).not_done, "the transport was closed while the application ran")
