"""Runs a task as the action of its job, and sends the signals of the Tasks framework."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from traceback import format_exception
from typing import Any, Final

from attrs import evolve
from django.dispatch import receiver

from backjob.django import task_api
from backjob.django.backend import BackJobBackend, class_path, local_time, task_error
from backjob.django.signals import job_ended
from backjob.django.site import engine, jobs
from backjob.django.task_record import TaskRecord
from backjob.errors import InvalidRequest, JobContinued, JobFailed, JobRetried, StoreUnavailable
from backjob.lifecycle import failed, is_next_slice
from backjob.model import Changes, Expect, Job, Status
from backjob.worker.exits import is_from_signal
from backjob.worker.outcomes import describe, exit_of
from backjob.worker.running import Running, current

_MOST_ERRORS: Final = 10
_LONGEST_TRACEBACK: Final = 1 << 16  # characters: a longer one is cut at its front, because its end names the exception

_log = logging.getLogger("backjob")


def run_task(body: bytes) -> None:
    """Call the task of the current job, and record the outcome. Raises `JobFailed` if the task failed.

    Sends the signals in this process; ``task_finished`` when the function has ended, just before the job ends, and not if
    another attempt follows.
    """
    running = current.get()
    record = TaskRecord.of(json.loads(body))
    if running is None or record is None:
        raise InvalidRequest("json", "this is not a task")
    backend = _backend(record)
    record = _begun(running.job, record)
    _write(running, record)
    result = backend.result(running.job, record)
    try:
        value = _call(backend, result, is_new=not is_next_slice(running.job))
        _complete(running, value)
    except BaseException as error:
        left = exit_of(error)
        if isinstance(left, JobContinued):
            raise
        is_retried = isinstance(left, JobRetried | None) and running.attempt <= running.job.retries
        errors = [*record.errors, _described(running.job.run, left or error)][-_MOST_ERRORS:]
        record = evolve(record, errors=errors, over=not is_retried)
        if (job := _write(running, record)) is not None and not is_retried:
            _send_finished(backend, _ended(result, task_api.TaskResultStatus.FAILED, record, job))
        if left is not None or is_from_signal(error):
            raise
        if is_retried:
            running.error = failed(describe(error), may_retry=True, unexpected=True)
            return
        raise JobFailed(describe(error), unexpected=True) from error
    record = evolve(record, return_value=value, over=True)
    if (job := _write(running, record)) is not None:
        _keep(running, record)
        _send_finished(backend, _ended(result, task_api.TaskResultStatus.SUCCESSFUL, record, job))
    else:
        _keep(running, evolve(record, over=False))


@receiver(job_ended, sender=TaskRecord)
def finish_task(job: Job, **_options: Any) -> None:
    """Send ``task_finished`` for a task whose job has ended, unless `run_task` has sent it.

    Such a task was cancelled, timed out or could not be delivered; the process that wrote the end sends the signal.
    """
    record = TaskRecord.of(job.result)
    if record is None or record.over:
        return
    try:
        backend = _backend(record)
        _send_finished(backend, backend.result(job, record))
    except Exception:
        _log.exception("job %s: could not send task_finished for this task", job.id)


def _backend(record: TaskRecord) -> BackJobBackend:
    backend: object = task_api.task_backends[record.backend]
    if not isinstance(backend, BackJobBackend):
        raise InvalidRequest("TASKS", f"{record.backend!r}, the backend of this task, is no longer a BackJobBackend")
    return backend


def _begun(job: Job, record: TaskRecord) -> TaskRecord:
    """Return the record at the beginning of a run, which has what earlier runs have recorded."""
    earlier = TaskRecord.of(job.result) or record
    workers, worker = earlier.worker_ids, engine().monitor.lessee
    return evolve(
        record,
        started_at=earlier.started_at or (job.claimed_time or job.updated_time).isoformat(),
        worker_ids=[*workers[:-1], worker] if is_next_slice(job) else [*workers, worker],
        errors=earlier.errors,
    )


def _call(backend: BackJobBackend, result: Any, *, is_new: bool) -> Any:
    if is_new:
        task_api.task_started.send(type(backend), task_result=result)
    context: list[Any] = [task_api.TaskContext(task_result=result)] if result.task.takes_context else []
    return task_api.normalize_json(result.task.call(*context, *result.args, **result.kwargs))


def _complete(running: Running, value: Any) -> None:
    """Make the job complete with this value. The text of an earlier ``jobs.finish()`` stays."""
    if running.error is not None:  # the task called jobs.fail() and caught the exception
        raise JobFailed(running.error.text or "")
    text = None if running.finish is None else running.finish.text
    running.finish = None
    jobs.finish(text, value)


def _keep(running: Running, record: TaskRecord) -> None:
    """Make the job end with this record."""
    if running.finish is not None:
        running.finish = evolve(running.finish, result=record.as_json())


def _write(running: Running, record: TaskRecord) -> Job | None:
    """Write the record now. Returns None if the job has ended meanwhile, or the store is unavailable.

    In that case `finish_task` sends the signal, in the process that writes the job's end.
    """
    expect = Expect(status=Status.IN_PROGRESS, token=running.token)
    try:
        return jobs.store.change(running.job.id, expect, Changes(result=record.as_json()))
    except StoreUnavailable as error:
        _log.info("job %s: the outcome of its task is not recorded yet: %s", running.job.id, error)
        return None


def _described(run: int, error: BaseException) -> dict[str, Any]:
    traceback = "".join(format_exception(error))
    if len(traceback) > _LONGEST_TRACEBACK:
        traceback = "… " + traceback[-_LONGEST_TRACEBACK:]
    return {"run": run, "exception_class_path": class_path(type(error)), "traceback": traceback}


def _ended(result: Any, status: task_api.TaskResultStatus, record: TaskRecord, job: Job) -> Any:
    own = [task_error(error) for error in record.errors if error.get("run") == job.run]
    result = replace(result, status=status, finished_at=local_time(job.read_time), errors=[*result.errors, *own])
    object.__setattr__(result, "_return_value", record.return_value)
    return result


def _send_finished(backend: BackJobBackend, result: Any) -> None:
    # send_robust(): a failing receiver must not change the task's outcome.
    task_api.task_finished.send_robust(type(backend), task_result=result)
