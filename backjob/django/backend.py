"""A backend of Django's Tasks framework without workers: each task is a job, which the site's web server runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.module_loading import import_string

from backjob.django import task_api
from backjob.django.site import engine, jobs
from backjob.django.task_record import TaskRecord
from backjob.errors import InvalidRequest, JobEnded, JobFailed, JobNotFound
from backjob.lifecycle import handed_over, history_of
from backjob.model import Changes, Expect, Job, Status
from backjob.overriding import override
from backjob.worker.running import current

__all__ = ["BackJobBackend", "class_path", "local_time", "task_at", "task_error"]

_LONGEST_TITLE: Final = 255  # characters
_ROUTE: Final = "backjob:run"
_OPTIONS: Final = frozenset({"error_timeout", "retries", "retry_delay"})

_STATUSES: Final = {
    Status.STARTED: task_api.TaskResultStatus.READY,
    Status.IN_PROGRESS: task_api.TaskResultStatus.RUNNING,
    Status.COMPLETED: task_api.TaskResultStatus.SUCCESSFUL,
    Status.FAILED: task_api.TaskResultStatus.FAILED,
    Status.CANCELLED: task_api.TaskResultStatus.FAILED,
}


class BackJobBackend(task_api.BaseTaskBackend):
    """For ``TASKS``: ``{"default": {"BACKEND": "backjob.django.backend.BackJobBackend"}}``.

    The id of a result is that of a job of `backjob.django.jobs`, with progress, output and a status page; in the task,
    ``jobs.update()``, ``jobs.track()`` and ``print()`` work. The job's scope is ``task:`` and the queue's name. Its owner
    is the user whose request enqueues the task, or the owner of the job that enqueues it. A task's ``queue_name`` is the
    job's queue, which ``BACKJOB["QUEUES"]`` may limit. ``OPTIONS`` may contain ``error_timeout`` (how many seconds a task
    may be silent), ``retries`` and ``retry_delay`` (s): a task that raises, or whose process dies, is called again. In
    between its result is READY; ``attempts`` and ``errors`` count the calls that failed. `task_started` is sent for each
    attempt, `task_finished` once.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = False

    @override
    def enqueue(self, task: task_api.Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Start a job that calls the task. Within ``atomic()`` the job exists once the transaction commits.

        Raises `InvalidTask`, the exceptions of `jobs.start`, and TypeError or ValueError for arguments that are not JSON.
        """
        self.validate_task(task)
        _refuse_unreachable(task)
        passed: Any = task_api.normalize_json([args, kwargs])
        record = TaskRecord(
            path=task.module_path,
            backend=self.alias,
            priority=task.priority,
            queue_name=task.queue_name,
            run_after=None if task.run_after is None else task.run_after.isoformat(),
            args=passed[0],
            kwargs=passed[1],
        )
        running = current.get()
        with engine().delivered_after():  # after its record is written and the signal is sent
            job_id = jobs.start(
                _ROUTE,
                method="POST",
                json=record.as_json(),
                as_current_user=False,
                owner=engine().current_owner() if running is None else running.job.owner,
                delay=0 if task.run_after is None else _aware(task.run_after),
                scope=f"task:{task.queue_name}",
                queue=task.queue_name,
                title=task.module_path[-_LONGEST_TITLE:],
                **{name: self.options[name] for name in _OPTIONS & self.options.keys()},
            )
            # Another process may have claimed the job already; then `run_task` writes the record.
            changes = Changes(result=record.as_json())
            job = jobs.store.change(job_id, Expect(status=Status.STARTED), changes) or jobs.store.get(job_id)
            if job is None:
                raise task_api.TaskResultDoesNotExist(job_id)
            result = self.result(job, TaskRecord.of(job.result) or record)
            task_api.task_enqueued.send(type(self), task_result=result)
        return result

    @override
    def get_result(self, result_id: str) -> Any:
        """Return the current result; a job past its timeout fails now. Raises `TaskResultDoesNotExist`."""
        if not isinstance(result_id, str):
            raise task_api.TaskResultDoesNotExist(result_id)
        try:
            job = engine().job(result_id)
        except JobNotFound:
            raise task_api.TaskResultDoesNotExist(result_id) from None
        record = TaskRecord.of(job.result)
        if record is None or record.backend != self.alias:
            raise task_api.TaskResultDoesNotExist(result_id)
        try:
            return self.result(job, record)
        except (ImportError, task_api.InvalidTask) as error:
            raise task_api.TaskResultDoesNotExist(f"{result_id}: its task no longer exists: {error}") from error

    def result(self, job: Job, record: TaskRecord) -> Any:
        """Return the `TaskResult` of a job. Raises ImportError and `InvalidTask` if the task no longer exists."""
        started_at = None if record.started_at is None else local_time(datetime.fromisoformat(record.started_at))
        result: Any = task_api.TaskResult(
            task=task_at(record),
            id=job.id,
            status=_STATUSES[job.status],
            enqueued_at=local_time(job.created_time),
            started_at=started_at,
            finished_at=None if job.end_time is None else local_time(job.end_time),
            last_attempted_at=started_at if job.claimed_time is None else local_time(job.claimed_time),
            args=record.args,
            kwargs=record.kwargs,
            backend=self.alias,
            errors=_errors(job, record),
            worker_ids=list(record.worker_ids),
        )
        if job.status is Status.COMPLETED:
            object.__setattr__(result, "_return_value", record.return_value)
        return result

    @override
    def check(self, **_options: Any) -> list[CheckMessage]:
        """Return an error for each thing that tasks need to run and that is missing."""
        found: list[CheckMessage] = []
        if not apps.is_installed("backjob.django"):
            found.append(
                Error(
                    f"TASKS[{self.alias!r}] runs tasks as jobs of backjob.django, which is not installed.",
                    hint="Add 'backjob.django' to INSTALLED_APPS.",
                    id="backjob.E050",
                )
            )
        try:
            reverse(_ROUTE)
        except (NoReverseMatch, ImproperlyConfigured):
            found.append(
                Error(
                    f"TASKS[{self.alias!r}] needs a route to run tasks, which no URLconf contains.",
                    hint='Put path("backjob/", include("backjob.django.urls")) in the URLconf.',
                    id="backjob.E051",
                )
            )
        found.extend(
            Error(
                f"TASKS[{self.alias!r}] has an unknown option {name!r}.",
                hint=f"Known options: {', '.join(sorted(_OPTIONS))}.",
                id="backjob.E052",
            )
            for name in sorted(set(self.options) - _OPTIONS)
        )
        return found


def task_at(record: TaskRecord) -> Any:
    """Return the task of a record, as it was enqueued. Raises ImportError and `InvalidTask`.

    It must be a task, so that write access to the store does not allow calling other functions.
    """
    found = import_string(record.path)
    if not isinstance(found, task_api.Task):
        raise ImportError(f"{record.path!r} is not a task")  # noqa: TRY004 - like a missing one
    return replace(
        found,
        backend=record.backend,
        priority=record.priority,
        queue_name=record.queue_name,
        run_after=None if record.run_after is None else datetime.fromisoformat(record.run_after),
    )


def class_path(error: type[BaseException]) -> str:
    """Return the dotted path of an exception class, as in `TaskError`."""
    return f"{error.__module__}.{error.__qualname__}"


def _refuse_unreachable(task: task_api.Task[..., Any]) -> None:
    try:
        found = import_string(task.module_path)
    except ImportError:
        found = None
    if not isinstance(found, task_api.Task) or found.func is not task.func:
        raise task_api.InvalidTask(f"There is no task at {task.module_path!r}: another process could not import it.")


def task_error(error: Mapping[str, Any]) -> task_api.TaskError:
    """Return an error of a record as the framework has it."""
    return task_api.TaskError(exception_class_path=error["exception_class_path"], traceback=error["traceback"])


def _errors(job: Job, record: TaskRecord) -> list[task_api.TaskError]:
    """Return the errors of all failed attempts. Attempts whose process died have recorded no exception."""
    recorded = {error.get("run", job.run): error for error in record.errors}
    errors = [
        task_error(recorded[run])
        if (run := entry["run"]) in recorded
        else _without_exception(JobFailed, entry["reason"])
        for entry in history_of(job)
        if not handed_over(entry)
    ]
    if job.status not in (Status.FAILED, Status.CANCELLED):
        return errors
    if job.run in recorded:
        return [*errors, task_error(recorded[job.run])]
    # There is no recorded exception: the job timed out, was cancelled, or could not be delivered.
    kind = JobEnded if job.status is Status.CANCELLED else JobFailed
    return [*errors, _without_exception(kind, job.status_text or job.status.name.lower())]


def _without_exception(kind: type[BaseException], reason: object) -> task_api.TaskError:
    return task_api.TaskError(exception_class_path=class_path(kind), traceback=str(reason))


def _aware(moment: datetime) -> datetime:
    try:
        return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    except (ValueError, OverflowError) as error:
        raise InvalidRequest("run_after", str(error)) from error


def local_time(moment: datetime) -> datetime:
    """Return a moment as USE_TZ requires: aware in UTC, or naive in the default time zone."""
    return moment.astimezone(UTC) if settings.USE_TZ else timezone.make_naive(moment, timezone.get_default_timezone())
