"""Results: reading them again, how long they last, return values, exceptions, and other ends."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from backjob import InvalidRequest, JobEnded, JobFailed, Status
from backjob.delivery.monitor import Monitor
from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.task_api import TaskResultDoesNotExist, task_backends, task_finished
from backjob.django.task_record import TaskRecord
from backjob.jobs import engine_of
from backjob.testing import recorded
from tests.adapters.django import work
from tests.adapters.django.tasks.framework import (
    LOGGER,
    differs,
    ended,
    exceptions,
    in_order,
    restates,
    sent,
)

pytestmark = pytest.mark.usefixtures("database")
DAY = 86_400_000_000


# --- looking again --------------------------------------------------------------------------------------------------


@restates(
    "TaskTestCase.get_result", "TaskTestCase.get_result_async", "DummyBackendTestCase.get_result",
    "DummyBackendTestCase.get_result_async", "DatabaseBackendTestCase.get_result",
    "DatabaseBackendTestCase.get_result_async",
)  # fmt: skip
def test_get_result() -> None:
    backend: Any = task_backends["default"]
    with recorded(jobs):
        results: list[Any] = [backend.enqueue(work.noop, (), {}), async_to_sync(backend.aenqueue)(work.noop, (), {})]
        results.append(work.noop.using(queue_name="nightly").enqueue(1, two=[3]))
    for result in results:
        with CaptureQueriesContext(connection) as queries:
            assert work.noop.get_result(result.id) == result
        assert len(queries) == 1
        assert async_to_sync(work.noop.aget_result)(result.id) == result
        assert async_to_sync(backend.aget_result)(result.id) == backend.get_result(result.id) == result
    assert results[-1].task != work.noop


@restates("TaskTestCase.refresh_result", "DummyBackendTestCase.refresh_result_async")
def test_refresh_does_not_change_the_result_of_a_waiting_task() -> None:
    with recorded(jobs):
        result = work.noop.enqueue()
    before = dataclasses.asdict(result)
    result.refresh()
    async_to_sync(result.arefresh)()
    assert dataclasses.asdict(result) == before


@restates(
    "DummyBackendTestCase.refresh_result", "DummyBackendTestCase.refresh_result_async",
    "DatabaseBackendTestCase.refresh_result", "DatabaseBackendTestCase.refresh_result_async",
    "ImmediateBackendTestCase.result", "ImmediateBackendTestCase.result_async",
)  # fmt: skip
@pytest.mark.parametrize("refresh", ["refresh", "arefresh"])
def test_refresh_updates_the_result_of_a_finished_task(refresh: str, at_once: None) -> None:
    result: Any = work.answer.enqueue()
    assert (str(result.status), result.is_finished, result.attempts) == ("READY", False, 0)
    with CaptureQueriesContext(connection) as queries:
        result.refresh() if refresh == "refresh" else async_to_sync(result.arefresh)()
    assert len(queries) == 1
    assert (str(result.status), result.is_finished, result.attempts) == ("SUCCESSFUL", True, 1)
    assert in_order(result)
    assert result.return_value == 42
    assert result.worker_ids == [engine_of(jobs).monitor.lessee]


@differs(
    "plain calls in a coroutine",
    "TaskTestCase.refresh_result",
    "TaskTestCase.get_missing_result",
    "DummyBackendTestCase.get_missing_result",
)
def test_a_coroutine_awaits() -> None:
    with recorded(jobs):
        result = work.noop.enqueue()

    async def plainly() -> None:
        for call in (work.noop.enqueue, result.refresh, lambda: work.noop.get_result(result.id)):
            with pytest.raises(SynchronousOnlyOperation):
                call()

    async_to_sync(plainly)()


@restates(
    "TaskTestCase.get_missing_result", "TaskTestCase.get_incorrect_result", "TaskTestCase.get_incorrect_result_async",
    "DummyBackendTestCase.get_missing_result", "DatabaseBackendTestCase.get_missing_result",
    "DatabaseBackendTestCase.async_get_missing_result", "DatabaseBackendTestCase.invalid_uuid",
    "DatabaseBackendTestCase.async_invalid_uuid",
)  # fmt: skip
def test_an_unknown_result_raises() -> None:
    with recorded(jobs):
        result = work.noop.enqueue()
        no_task = jobs.start("/see", as_current_user=False)
    jobs.finish(result={"a": 1}, job_id=no_task)
    backend = task_backends["default"]
    unknown: Any
    for unknown in ("123", "", "a\0b", "\ud800", "x" * 500, no_task, 123):
        for look in (backend.get_result, async_to_sync(backend.aget_result), async_to_sync(work.noop.aget_result)):
            with pytest.raises(TaskResultDoesNotExist):
                look(unknown)
    for look in (work.noop_async.get_result, async_to_sync(work.noop_async.aget_result)):
        with pytest.raises(exceptions.TaskResultMismatch, match="Task does not match"):
            look(result.id)


@restates("DatabaseBackendWorkerTestCase.doesnt_process_different_backend")
def test_a_result_belongs_to_one_backend(at_once: None) -> None:
    result = work.answer.using(backend="any").enqueue()
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result(result.id)
    result.refresh()
    assert (result.return_value, result.backend) == (42, "any")


@restates(
    "DummyBackendTestCase.clear", "DatabaseBackendPruneTaskResultsTestCase.prunes_tasks",
    "DatabaseBackendPruneTaskResultsTestCase.doesnt_prune_new_tasks",
    "DatabaseBackendPruneTaskResultsTestCase.doesnt_prune_running_tasks",
    "DatabaseBackendPruneTaskResultsTestCase.min_age", "DatabaseBackendPruneTaskResultsTestCase.failed_min_age",
    "DatabaseBackendPruneTaskResultsTestCase.prune_all_queues",
)  # fmt: skip
def test_results_are_purged_with_their_jobs(at_once: None) -> None:
    with override_settings(BACKJOB={"COMPLETED_RETENTION_DAYS": 3, "RETENTION_DAYS": 5}), recorded(jobs):
        waiting = work.noop.enqueue()
        ends = {name: work.noop.using(queue_name="nightly").enqueue() for name in ("2", "4", "failed 4", "failed 6")}
        for name, result in ends.items():
            if "failed" in name:
                jobs.fail(job_id=result.id)
            else:
                jobs.finish(job_id=result.id)
            end = int(name.split()[-1]) * DAY
            Job.objects.filter(id=result.id).update(end_time=Job.objects.get(id=result.id).end_time - end)
        call_command("backjob", "cleanup")
        for result in (waiting, ends["2"], ends["failed 4"]):
            result.refresh()
        for gone in (ends["4"], ends["failed 6"]):
            with pytest.raises(TaskResultDoesNotExist, match=gone.id):
                gone.refresh()


# --- tasks that are gone --------------------------------------------------------------------------------------------


@differs(
    "the result of a task that is no longer in the code",
    "DatabaseBackendTestCase.invalid_task_path",
    "DatabaseBackendTestCase.missing_task_path",
    "DatabaseBackendWorkerTestCase.invalid_task_path",
    "DatabaseBackendWorkerTestCase.missing_task_path",
    "DatabaseBackendWorkerTestCase.task_import_string",
)
@pytest.mark.parametrize("path", ["tests.adapters.django.gone.task", "os.system", "tests.adapters.django.work.plain"])
def test_a_result_whose_task_is_gone_or_not_a_task_raises(path: str, at_once: None) -> None:
    record = TaskRecord(
        path=path, backend="default", priority=0, queue_name="default", run_after=None, args=["false"], kwargs={}
    )
    job_id = jobs.start("backjob:run", method="POST", json=record.as_json(), as_current_user=False)
    state = jobs.status(job_id)
    assert state.status is Status.FAILED
    assert state.status_text.startswith(("ImportError: ", "ModuleNotFoundError: "))
    with pytest.raises(TaskResultDoesNotExist, match="no longer exists"):
        task_backends["default"].get_result(job_id)


# --- what it returned, and what it raised ---------------------------------------------------------------------------


def test_return_values(at_once: None) -> None:
    assert ended(work.answer).return_value == 42
    assert ended(work.answer_async).return_value == [42, True]


@restates(
    "ImmediateBackendTestCase.catches_exception", "ImmediateBackendTestCase.complex_exception",
    "ImmediateBackendTestCase.complex_return_value", "DatabaseBackendWorkerTestCase.failing_task",
    "DatabaseBackendWorkerTestCase.complex_exception", "DatabaseBackendWorkerTestCase.complex_return_value",
    "DatabaseBackendWorkerTestCase.worker_doesnt_exit", "DatabaseWorkerProcessTestCase.system_exit_task",
)  # fmt: skip
@pytest.mark.parametrize(
    ("task", "raised", "last"),
    [
        (work.fail_by_value, ValueError, "ValueError: This failed by its value"),
        (work.fail_by_exit, SystemExit, "SystemExit: This failed by an exit"),
        (work.fail_oddly, ValueError, "ValueError: This failed"),
        (work.fail_cancelled, asyncio.CancelledError, "asyncio.exceptions.CancelledError: the loop ends"),
        (work.return_oddly, TypeError, "TypeError: Unsupported type: <class 'function'>"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_exceptions(
    task: Any, raised: type[BaseException], last: str, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, LOGGER):
        result = ended(task)
    assert (str(result.status), result.is_finished, result.attempts) == ("FAILED", True, 1)
    assert in_order(result)
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    assert result._return_value is None
    assert (result.task, result.args, result.kwargs) == (task, [], {})
    (error,) = result.errors
    assert error.exception_class is raised
    assert error.traceback.startswith("Traceback")
    assert error.traceback.endswith(f"{last}\n")
    assert ("ValueError(ValueError(" in error.traceback) == (task is work.fail_oddly)
    state = jobs.status(result.id)
    assert (state.status, state.status_text) == (Status.FAILED, last.removeprefix("asyncio.exceptions."))
    (logged,) = [record for record in caplog.records if record.name == LOGGER]
    assert logged.exc_info is not None
    assert logged.exc_info[0] is raised


@restates("TaskTestCase.task_error_invalid_exception", "TaskTestCase.task_error_unknown_module")
def test_the_class_of_an_error_is_imported_on_access(at_once: None) -> None:
    (error,) = ended(work.fail_by_value).errors
    with pytest.raises(ValueError, match=r"'subprocess\.run' does not reference a valid exception"):
        _ = dataclasses.replace(error, exception_class_path="subprocess.run").exception_class
    with pytest.raises(ImportError):
        _ = dataclasses.replace(error, exception_class_path="does.not.exist").exception_class


@differs(
    "a KeyboardInterrupt that the task itself raises propagates",
    "ImmediateBackendTestCase.throws_keyboard_interrupt",
)
def test_a_keyboard_interrupt_of_a_task_fails_the_task(at_once: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, LOGGER):
        work.fail_by_interrupt.enqueue()
    (job,) = jobs.find()
    result = work.fail_by_interrupt.get_result(job.id)
    assert (str(result.status), [error.exception_class for error in result.errors]) == ("FAILED", [KeyboardInterrupt])
    assert [record.levelname for record in caplog.records if record.name == LOGGER] == ["ERROR"]


@differs("tracebacks of any length")
def test_a_long_traceback_is_cut(at_once: None) -> None:
    (error,) = ended(work.fail_by_value, "x" * 200_000).errors
    assert len(error.traceback) == 65_536 + len("… ")


@differs("arguments and return values of any size")
def test_arguments_and_return_values_beyond_the_limit_are_refused(at_once: None) -> None:
    with pytest.raises(InvalidRequest, match="max_body"):
        work.noop.enqueue("x" * (1 << 20))
    (error,) = ended(work.return_much, 1 << 20).errors
    assert error.exception_class is InvalidRequest
    assert ended(work.return_much, 1 << 19).return_value == "x" * (1 << 19)


# --- how else a task ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [work.fail_by_job, work.fail_and_go_on, work.fail_in_a_group], ids=lambda task: task.name
)
def test_jobs_fail(task: Any, at_once: None) -> None:
    (error,) = ended(task).errors
    assert error.exception_class is JobFailed
    assert "no such customer" in error.traceback
    assert [state.status_text for state in jobs.find()] == ["no such customer"]


@differs("only the task's own error fails it")
def test_cancelled_before_it_ran() -> None:
    with recorded(jobs):
        result = work.noop.enqueue()
    with sent(task_finished) as finished:
        jobs.cancel(result.id)
        jobs.cancel(result.id)
        assert engine_of(jobs).callbacks.get().flush(20)
    result.refresh()
    assert (str(result.status), result.attempts, result.started_at) == ("FAILED", 0, None)
    assert [(error.exception_class, error.traceback) for error in result.errors] == [(JobEnded, "cancelled")]
    assert [(one.id, str(one.status), one.errors) for one in finished] == [(result.id, "FAILED", result.errors)]


@differs("only the task's own error fails it")
def test_cancelled_while_it_runs(at_once: None) -> None:
    with sent(task_finished) as finished:
        result = ended(work.cancel_itself)
    assert [error.exception_class for error in result.errors] == [JobEnded]
    assert (str(result.status), result.attempts) == ("FAILED", 1)
    assert [one.id for one in finished] == [result.id]


@differs("only the task's own error fails it")
def test_never_delivered() -> None:
    with recorded(jobs):
        result = work.noop.enqueue()
    jobs.fail("job timeout: not delivered within 600 s", job_id=result.id)
    result.refresh()
    assert [(error.exception_class, error.traceback) for error in result.errors] == [
        (JobFailed, "job timeout: not delivered within 600 s")
    ]


def test_finished_from_outside(at_once: None) -> None:
    with recorded(jobs):
        waiting = work.noop.enqueue()
    with sent(task_finished) as finished:
        jobs.finish("by hand", result=[1], job_id=waiting.id)
        result = ended(work.finish_itself_from_outside)
    waiting.refresh()
    assert (str(waiting.status), waiting.return_value, waiting.attempts) == ("SUCCESSFUL", [1], 0)
    assert (str(result.status), result.return_value, result.attempts) == ("SUCCESSFUL", "by hand", 1)
    assert [(one.id, one.return_value) for one in finished] == [(waiting.id, [1]), (result.id, "by hand")]
    assert [state.result for state in jobs.find()] == ["by hand", [1]]


@differs("a task may be silent for any time")
def test_silent_for_too_long(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Monitor, "may_reap", lambda _: True)  # as after a lease in which this process was on time
    result = ended(work.fall_silent)
    assert [error.exception_class for error in result.errors] == [JobFailed]
    assert result.errors[0].traceback.startswith("job timeout")
