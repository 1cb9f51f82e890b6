"""The worker: a process that runs jobs by calling the application itself, until a signal drains it."""

from __future__ import annotations

import logging
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Final

from backjob.cli.opening import imported_from_here
from backjob.delivery.attempts import Attempt
from backjob.errors import InvalidRequest, TransportError
from backjob.http.marks import MARK_LABEL, PROBE_ATTEMPT, PROBE_PATH, PROBE_RUN, marked_port
from backjob.jobs import BackJob, Engine, application_of, engine_of
from backjob.lifecycle import status_line
from backjob.model import Request
from backjob.transports.inprocess import InProcessTransport

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_LOOK: Final = 0.1  # s
_POLL_INTERVAL: Final = 0.5
"""Seconds: other processes start the jobs, and the store notifies nobody."""
_PROBE_TIMEOUT: Final = 30.0  # s

_log = logging.getLogger("backjob")


def transport_of(jobs: BackJob, wsgi: str | None, asgi: str | None, threads: int) -> InProcessTransport:
    """Return the transport to the application that one of the options names; without them, to the framework's application.

    Raises `InvalidRequest`.
    """
    made = partial(InProcessTransport, threads=threads, base_url=engine_of(jobs).url_of_worker())
    if wsgi is not None:
        return made(imported_from_here(wsgi, "wsgi"), interface="wsgi")
    if asgi is not None:
        return made(imported_from_here(asgi, "asgi"), interface="asgi")
    app = application_of(jobs)
    if app is None:
        raise InvalidRequest(
            "wsgi", "pass --wsgi module:app or --asgi module:app: the application that your server serves"
        )
    return made(app)


def run_worker(
    jobs: BackJob, transport: InProcessTransport, queues: frozenset[str] | None, *, stop: threading.Event | None = None
) -> bool:
    """Run the jobs of these queues (None: all that no engine carries) until SIGTERM, Ctrl-C or ``stop``; then close ``jobs``.

    It drains first: it takes no more jobs, slices hand over, and other running jobs have DRAIN_TIME. Returns whether all of
    them have ended; otherwise their threads still run. A second signal ends the process at once. Raises `NotSent` if the application does not start up, and `StoreError` if the store can't be read.
    """
    engine = engine_of(jobs)
    engine.run_in_process(transport, queues)
    stop = threading.Event() if stop is None else stop
    try:
        with _signals() as received:
            jobs.find(limit=1)
            transport.start()
            _check(engine, transport)
            monitor = engine.begin_serving()
            names = "all queues" if queues is None else f"the queues {', '.join(sorted(queues))}"
            _say(f"runs jobs of {names}, {transport.capacity} at once; Ctrl-C or SIGTERM stops it")
            polled = time.monotonic()
            while not (received or stop.wait(_LOOK)):
                if time.monotonic() - polled >= _POLL_INTERVAL:
                    polled = time.monotonic()
                    monitor.note_request()  # so that it does not rest as an idle site does
                    monitor.poll_now()
            _drain(engine)
    finally:
        jobs.close()
    return not engine.worker.is_busy


def _drain(engine: Engine) -> None:
    engine.draining.is_on = True
    limit, worker = engine.draining.limit, engine.worker
    count = worker.count
    _say(f"stops, and waits at most {limit:g} s for {count} running {'job' if count == 1 else 'jobs'}")
    until = time.monotonic() + limit
    while worker.is_busy and time.monotonic() < until:
        time.sleep(_LOOK)
    if worker.is_busy:
        _say(f"ends although {worker.count} of its jobs still run: they count as lost when their leases are over")


def _check(engine: Engine, transport: InProcessTransport) -> None:
    """Log a warning unless the application answers a probe: without the middleware every job would fail."""
    nonce, clock = secrets.token_urlsafe(18), engine.clock
    probe = Request("GET", engine.status_prefix + PROBE_PATH)
    deadline = clock.now() + timedelta(seconds=_PROBE_TIMEOUT)
    delivery = Attempt(nonce, PROBE_RUN, PROBE_ATTEMPT, deadline, probe, engine.signer, clock)
    try:
        response = transport.send(delivery).result(_PROBE_TIMEOUT)
    except (TransportError, TimeoutError) as error:
        _log.warning("the worker's application does not answer a probe, so its jobs may fail: %s", error)
        return
    if marked_port(response, engine.signer.derive(MARK_LABEL), nonce, PROBE_RUN, PROBE_ATTEMPT) is None:
        line = status_line(response.status, response.reason)
        _log.warning(
            "the worker's application does not answer a probe (%s), so its jobs may fail: has it the middleware of the "
            "same BackJob as its outermost part?",
            line,
        )


def _say(text: str) -> None:
    sys.stderr.write(f"backjob worker: {text}\n")
    sys.stderr.flush()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yield the list to which a first SIGTERM or SIGINT is added. A second one ends the process at once.

    A handler that set an event could deadlock with the waiting thread.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set signal handlers
        return

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
