"""For tests of Django sites: jobs without a server, also in a `TestCase`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections

from backjob import testing
from backjob.django.site import jobs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from backjob.testing.inline import Started

__all__ = ["application", "immediate", "recorded"]

_HOST = "testserver"  # the host that Django's tests allow


def immediate() -> AbstractContextManager[None]:
    """In the block, ``start()`` runs the view in this thread before it returns: no server, no socket, no waiting.

    Within a transaction the view runs after the commit. In a `TestCase`, whose transaction never commits, use
    ``with self.captureOnCommitCallbacks(execute=True)``. See `backjob.testing.immediate`.
    """
    return testing.immediate(jobs, application())


def recorded() -> AbstractContextManager[list[Started]]:
    """In the block, ``start()`` writes the job and sends nothing; the list contains the started jobs, in order.

    Within a transaction, a job joins the list after the commit.
    """
    return testing.recorded(jobs)


def application() -> WSGIApplication:
    """Return the site as the second value of the fixture ``backjob_app``, which the pytest plugin needs."""
    return _Application()


class _Application:
    """The site as a WSGI application that, like Django's test client, leaves the thread's connections open."""

    def __init__(self) -> None:
        self._handler = WSGIHandler()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["HTTP_HOST"] = environ["SERVER_NAME"] = _HOST  # for a job that no request started
        with _open_connections():
            answer = self._handler(environ, start_response)
            try:
                return [b"".join(answer)]
            finally:
                answer.close()


@contextmanager
def _open_connections() -> Iterator[None]:
    signals = [signal for signal in (request_started, request_finished) if signal.disconnect(close_old_connections)]
    try:
        yield
    finally:
        for signal in signals:
            signal.connect(close_old_connections)
