"""For the tests of your application: run actions before `start` returns, or only record what was started."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from attrs import evolve, frozen
from typing_extensions import override

from backjob.delivery.addresses import Addresses
from backjob.delivery.dispatching import Dispatcher
from backjob.delivery.monitor import Monitor
from backjob.delivery.parts import DeliveryParts
from backjob.delivery.reaping import reap
from backjob.errors import NotSent
from backjob.jobs import BackJob, Engine, engine_of
from backjob.model import Credentials, Job, Request, Response
from backjob.process import PerProcess
from backjob.protocols import Delivery, Transport
from backjob.testing._inline_transport import InlineTransport
from backjob.testing.dying import is_killed
from backjob.worker.leases import Leases

__all__ = ["Started", "immediate", "recorded"]

_turn: Final[ContextVar[threading.Lock | None]] = ContextVar("backjob_turn", default=None)
"""The lock of the jobs that the action in this context starts."""


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
def immediate(jobs: BackJob, app: Any) -> Iterator[None]:
    """Have ``start()`` run the action before it returns: no server, no socket, no waiting.

    ``app`` is the WSGI or ASGI application with the middleware; a Flask application with the extension. The worker
    request is signed, verified and claimed as usual. Delays are skipped, slices and retries follow at once, and so do jobs
    started by a job, whatever ``max_running`` says.

    A WSGI application runs in the thread that calls ``start()``. An ASGI application runs on the event loop that awaits
    ``astart()``, or on that of the request whose handler calls ``start()`` in another thread. Without any loop it runs on
    one of this block. If a coroutine calls ``start()``, it blocks its own loop, so the action runs on another loop in another
    thread. The block runs no lifespan: that is up to your test client.
    """
    engine = jobs._engine_for(app)  # noqa: SLF001 - Flask's may have several
    monitor = _ImmediateMonitor(evolve(engine.delivery_parts, queues={}))
    with (
        closing(InlineTransport(app)) as transport,
        _replaced(engine, monitor, transport),
        _without_limits(engine, transport),
    ):
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


@contextmanager
def _without_limits(engine: Engine, transport: Transport) -> Iterator[None]:
    """Run a job at once although the place or the slot that it would wait for is that of the job which starts it."""
    worker = engine.worker
    before = engine._in_process, worker.queues  # noqa: SLF001
    engine._in_process, worker.queues = transport, {}  # noqa: SLF001
    try:
        yield
    finally:
        engine._in_process, worker.queues = before  # noqa: SLF001


class _ThreadlessLeases(Leases):
    @override
    def ensure_running(self) -> bool:
        """Renew nothing: another thread would not see a job that the test's transaction has not committed."""
        return True


class _ThreadlessMonitor(Monitor):
    def __init__(self, parts: DeliveryParts) -> None:
        super().__init__(evolve(parts, dispatcher=Dispatcher()))  # which hands nothing to the engines
        self._carried = frozenset(parts.dispatcher.queues)

    @override
    def delivers(self, queue: str) -> bool:
        return queue not in self._carried and super().delivers(queue)

    @override
    def ensure_running(self) -> None:
        """Its passes run in the test's thread."""


class _ImmediateMonitor(_ThreadlessMonitor):
    def __init__(self, parts: DeliveryParts) -> None:
        super().__init__(parts)
        self._outermost = threading.Lock()

    @override
    def accept(self, job: Job, credentials: Credentials | None, written: float) -> None:
        # A monitor has one thread. Jobs that are started at once take turns; those that an action starts run within its turn.
        with _turn.get() or self._outermost:
            token = _turn.set(threading.Lock())
            try:
                self._run(job, credentials, written)
            finally:
                _turn.reset(token)

    def _run(self, job: Job, credentials: Credentials | None, written: float) -> None:
        waiting: Job | None = job
        while waiting is not None and waiting.is_waiting:
            run = waiting.run
            # Due now, and leased to this process: no delay is waited for, nor that of a retry.
            self._post_due(evolve(waiting, start_time=job.read_time, lessee=self.lessee), credentials, written)
            self.step()  # sends it
            self.step()  # concludes from the answer
            waiting = self._parts.store.get(job.id, body=True)
            if waiting is not None and is_killed(waiting):
                self._reap_killed(waiting)
                waiting = self._parts.store.get(job.id, body=True)
            if waiting is None or waiting.run == run:
                return

    def _post_due(self, job: Job, credentials: Credentials | None, written: float) -> None:
        super().accept(job, credentials, written)

    def _reap_killed(self, job: Job) -> None:
        """End or requeue a job whose process has died, as another process does once its lease is over."""
        store = self._parts.store
        store.beat({job.id: job.token or ""}, 0.0, frozenset())
        late = store.get(job.id)
        changed = None if late is None else reap(self._parts, late, "", math.inf)
        if changed is not None:
            self.reaped(changed)


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
