"""`CeleryDispatch`: Celery's workers deliver the jobs of a queue, by the task ``backjob.deliver``."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - drivers of brokers need it, and a process that is ending can't import it
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_revoked

from backjob.errors import DeliveryRefused, InvalidRequest, JobNotFound, StoreUnavailable
from backjob.model import JobState
from backjob.process import PerProcess
from backjob.protocols import Transport
from backjob.settings import attach_left, named

__all__ = ["CeleryDispatch"]

_log = logging.getLogger("backjob")


class _Jobs(Protocol):
    """The methods of a `BackJob` that its dispatch needs."""

    def deliver(self, job_id: str, transport: Transport | None = None) -> JobState: ...
    def cancel(self, job_id: str) -> bool: ...
    def fail(self, status_text: str, *, job_id: str) -> bool: ...


class CeleryDispatch:
    """Hands jobs to the workers of a Celery application: ``QUEUES = {"heavy": {"dispatch": CeleryDispatch(app)}}``.

    A message contains the id of a job, and nothing else of it. ``options`` are those of Celery's ``apply_async()``: ``queue``,
    ``priority``, ``soft_time_limit``, … The workers need the module that makes this object: it registers the task.

    Without a ``transport`` a worker sends the worker request to the web server, at the ``BASE_URL``. With one, the job runs
    in the worker: ``"module:app"`` names the WSGI or ASGI application for an `InProcessTransport`; a function that returns a
    transport, or a transport itself, is for other arguments. ``name`` is that of the task. Queues with different transports
    need different names.
    """

    def __init__(
        self,
        app: Celery,
        *,
        transport: Transport | Callable[[], Transport] | str | None = None,
        name: str = "backjob.deliver",
        **options: Any,
    ) -> None:
        self.transport: Final = transport
        self.transports: Final = PerProcess(lambda: _made(transport))
        self._task = _task_of(app, name)
        self._options = options

    def __call__(self, job_id: str) -> None:
        """Send the id to a worker. Raises what Celery raises if its broker is unavailable."""
        self._task.task.apply_async((job_id,), **self._options)

    def attach(self, jobs: _Jobs) -> None:
        """Have the task deliver jobs of this `BackJob`. Raises `InvalidRequest` if it does already, by another transport."""
        if self._task.attached.setdefault(jobs, self).transport != self.transport:
            raise InvalidRequest(
                "queues", "two CeleryDispatch have different transports: give one of them another name="
            )


def _task_of(app: Any, name: str) -> _DeliverTask:
    """Return the task of a Celery application with this name; a new one for its first dispatch."""
    tasks: dict[str, _DeliverTask] | None = getattr(app, "backjob_tasks", None)
    if tasks is None:
        tasks = app.backjob_tasks = {}
    if name not in tasks:
        tasks[name] = _DeliverTask(app, name)
    return tasks[name]


class _DeliverTask:
    """The task of a Celery application, and whose jobs it delivers: those of each `BackJob` by the transport of a dispatch."""

    def __init__(self, app: Any, name: str) -> None:
        self.attached: dict[_Jobs, CeleryDispatch] = {}

        def deliver(job_id: str) -> str:
            """Deliver a job of backjob. Returns the name of its status, or why it was not delivered."""
            return self._deliver(job_id)

        # Acknowledged when it begins, whatever the application's default: backjob itself finds a job whose worker died,
        # and a broker repeats or cancels messages that stay without an acknowledgement for as long as some jobs run.
        self.task = app.task(
            deliver,
            name=name,
            acks_late=False,
            shared=False,
            autoretry_for=(StoreUnavailable,),
            retry_backoff=True,
            max_retries=10,
        )

    def _deliver(self, job_id: str) -> str:
        attach_left()
        if not self.attached:
            raise InvalidRequest(
                "dispatch", "no BackJob of this worker uses CeleryDispatch: import the module that makes it"
            )
        for jobs, dispatch in reversed(self.attached.items()):
            try:
                return jobs.deliver(job_id, dispatch.transports.get()).status.name
            except JobNotFound:
                continue
            except DeliveryRefused as refusal:
                _log.info("job %s: this message delivers nothing: %s", job_id, refusal)
                return refusal.reason
            except SoftTimeLimitExceeded:
                jobs.fail("Celery's soft time limit is over", job_id=job_id)
                raise
        _log.info("job %s: this message delivers nothing: there is no such job", job_id)
        return "unknown"

    def cancel(self, job_id: str) -> None:
        """Cancel a job whose task was revoked."""
        for jobs in reversed(self.attached):
            try:
                jobs.cancel(job_id)
            except JobNotFound:
                continue
            return


def _revoked(sender: Any, request: Any, *, expired: bool, **_options: Any) -> None:
    """Cancel the job of a revoked task; in the worker's main process. Another message follows one that has expired."""
    task = getattr(sender.app, "backjob_tasks", {}).get(sender.name)
    if task is not None and not expired:
        task.cancel(request.args[0])


task_revoked.connect(_revoked)


def _made(given: Transport | Callable[[], Transport] | str | None) -> Transport | None:
    """Return the transport of this process."""
    if isinstance(given, str):
        from backjob.transports.inprocess import InProcessTransport  # noqa: PLC0415 - only for this argument

        return InProcessTransport(named(given, "transport"))
    return given() if callable(given) else given
