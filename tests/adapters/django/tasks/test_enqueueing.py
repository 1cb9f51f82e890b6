"""Enqueueing: the result, refused arguments, when a task runs, and transactions."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone

from backjob import InvalidRequest, Status
from backjob.django import jobs
from backjob.django.task_api import InvalidTask, TaskResultDoesNotExist, task_backends, task_enqueued
from backjob.django.testing import immediate
from backjob.errors import AddressUnknown
from backjob.testing import recorded
from tests.adapters.django import work
from tests.adapters.django.tasks.framework import BACKEND, differs, ended, in_order, options, refusing, restates, sent

pytestmark = pytest.mark.usefixtures("database")
BOTH = pytest.mark.parametrize("task", [work.noop, work.noop_async], ids=["sync", "async"])


def is_new(result: Any, task: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether all fields of a result are those of a task that has not run."""
    assert (str(result.status), result.is_finished, result.attempts, result.worker_ids) == ("READY", False, 0, [])
    assert result.started_at is result.finished_at is result.last_attempted_at is None
    assert result.enqueued_at is not None
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value
    assert (result.task, result.backend, result.errors) == (task, task.backend, [])
    return bool((result.args, result.kwargs) == (list(args), kwargs))


@restates(
    "TaskTestCase.enqueue_task",
    "DummyBackendTestCase.enqueue_task",
    "DummyBackendTestCase.errors",
    "DummyBackendTestCase.takes_context",
    "DatabaseBackendTestCase.enqueue_task",
)
@pytest.mark.parametrize("task", [work.noop, work.noop_async, work.with_context], ids=["sync", "async", "context"])
def test_enqueue(task: Any) -> None:
    with recorded(jobs) as started, sent(task_enqueued) as enqueued:
        result = task.enqueue(1, two=3)
    assert is_new(result, task, 1, two=3)
    assert enqueued == [result]
    assert [one.job_id for one in started] == [result.id]


@restates(
    "TaskTestCase.enqueue_task_async",
    "DummyBackendTestCase.enqueue_task_async",
    "DatabaseBackendTestCase.enqueue_task_async",
)
@BOTH
def test_aenqueue(task: Any) -> None:
    with recorded(jobs) as started, sent(task_enqueued) as enqueued:
        result = async_to_sync(task.aenqueue)(1, two=3)
    assert is_new(result, task, 1, two=3)
    assert enqueued == [result]
    assert [one.job_id for one in started] == [result.id]


@differs(
    "`enqueue()` runs the task",
    "ImmediateBackendTestCase.enqueue_task",
    "ImmediateBackendTestCase.enqueue_task_async",
    "DatabaseBackendWorkerTestCase.run_enqueued_task",
)
@BOTH
@pytest.mark.parametrize("awaited", [False, True], ids=["enqueue", "aenqueue"])
def test_a_result_changes_only_by_refresh(task: Any, awaited: bool, at_once: None) -> None:
    result = async_to_sync(task.aenqueue)(1, two=3) if awaited else task.enqueue(1, two=3)
    assert is_new(result, task, 1, two=3)
    result.refresh()
    assert (str(result.status), result.is_finished, result.attempts) == ("SUCCESSFUL", True, 1)
    assert in_order(result)
    assert (result.return_value, result.errors) == (None, [])
    assert (result.task, result.args, result.kwargs, result.backend) == (task, [1], {"two": 3}, "default")


def test_enqueueing_creates_a_job() -> None:
    with recorded(jobs) as started:
        result = work.at_night.enqueue()
    assert jobs.status(result.id).status is Status.STARTED
    assert [(one.job_id, one.scope, one.owner, one.as_current_user) for one in started] == [
        (result.id, "task:nightly", None, False)
    ]
    job = jobs.store.get(result.id)
    assert job is not None
    assert job.error_timeout == 45
    assert result.enqueued_at == job.created_time


# --- arguments ------------------------------------------------------------------------------------------------------


@restates("TaskTestCase.enqueue_with_invalid_argument", "TaskTestCase.aenqueue_with_invalid_argument")
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), TypeError),
        ({1}, TypeError),
        (b"\xff", ValueError),
    ],
    ids=["datetime", "set", "bytes"],
)
def test_arguments_that_are_not_json_are_refused(bad: Any, error: type[Exception]) -> None:
    with recorded(jobs) as started:
        for enqueue in (work.noop.enqueue, async_to_sync(work.noop.aenqueue)):
            with pytest.raises(error, match="Unsupported"):
                enqueue(bad)
            with pytest.raises(error, match="Unsupported"):
                enqueue(deep=[{"in": bad}])
    assert not started


@differs("NaN and infinities are accepted")
def test_nan_and_infinity_are_refused(at_once: None) -> None:
    with pytest.raises(ValueError, match="json"):
        work.noop.enqueue(float("nan"))
    (error,) = ended(work.return_nan).errors
    assert error.exception_class is InvalidRequest


def test_arguments_arrive_as_json(at_once: None) -> None:
    text = "ü \0 \ud800 🐘"
    result = ended(work.echo, (1, b"two"), text, key={"a": (None, 1.5)})
    assert result.args == [[1, "two"], text]
    assert result.return_value == [[[1, "two"], text], {"key": {"a": [None, 1.5]}}]


def test_a_task_is_found_by_its_functions_own_path(at_once: None) -> None:
    assert ended(work.hidden).task == work.answer


@restates(
    "DummyBackendTestCase.validate_on_enqueue", "DummyBackendTestCase.validate_on_aenqueue",
    "ImmediateBackendTestCase.validate_on_enqueue", "ImmediateBackendTestCase.validate_on_aenqueue",
    "DatabaseBackendTestCase.validate_on_enqueue", "DatabaseBackendTestCase.validate_on_aenqueue",
)  # fmt: skip
def test_a_task_is_validated_again_when_enqueued() -> None:
    task = work.noop.using(queue_name="other", backend="any")
    with override_settings(TASKS={"any": {"BACKEND": BACKEND, "QUEUES": ["one"]}}):
        for enqueue in (task.enqueue, async_to_sync(task.aenqueue)):
            with pytest.raises(InvalidTask, match="Queue 'other' is not valid"):
                enqueue()


# --- ids and queues -------------------------------------------------------------------------------------------------


@differs(
    "a result's id: UUIDs, `id_function`",
    "DatabaseBackendTestCase.custom_id_function",
    "DatabaseBackendTestCase.unknown_id_function",
    "DatabaseBackendTestCase.postgres_db_id_function",
    "DatabaseBackendTestCase.postgres_id_function_expression",
)
def test_the_id_is_the_jobs_id() -> None:
    with override_settings(TASKS=options(OPTIONS={"id_function": "uuid.uuid1"})), recorded(jobs):
        result = work.noop.enqueue()
        assert [found.id for found in task_backends["default"].check()] == ["backjob.E052"]
    assert jobs.exists(result.id)
    assert len(result.id) >= 22


@differs(
    "a worker for each queue",
    "DatabaseBackendWorkerTestCase.doesnt_process_different_queue",
    "DatabaseBackendWorkerTestCase.process_all_queues",
)
def test_all_queues_run_here(at_once: None) -> None:
    other = work.answer.using(queue_name="nightly")
    assert [ended(task).return_value for task in (work.answer, other)] == [42, 42]
    assert {job.scope for job in jobs.find()} == {"task:default", "task:nightly"}


# --- when it runs ---------------------------------------------------------------------------------------------------


def test_run_after() -> None:
    later = timezone.now() + timedelta(hours=2)
    with recorded(jobs) as started:
        result = work.noop.using(run_after=later).enqueue()
        past = work.noop.using(run_after=timezone.now() - timedelta(days=1)).enqueue()
    assert started[0].start_time == later
    assert started[1].start_time == past.enqueued_at
    assert work.noop.get_result(result.id).task.run_after == result.task.run_after == later


@restates("DatabaseBackendTestCase.run_after_tz")
@pytest.mark.parametrize("use_tz", [True, False])
def test_no_run_after_stays_none(use_tz: bool) -> None:
    with override_settings(USE_TZ=use_tz), recorded(jobs):
        result = work.noop.enqueue()
        assert work.noop.get_result(result.id).task.run_after is None


def test_a_site_without_time_zones(at_once: None) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="America/New_York"):
        later = datetime(2031, 1, 1, 12)  # noqa: DTZ001 - as such a site has it
        with recorded(jobs) as started:
            result = work.noop.using(run_after=later).enqueue()
            aware = work.noop.using(run_after=later.replace(tzinfo=UTC)).enqueue()
        assert [one.start_time.hour for one in started] == [17, 12]
        for one in (result, aware):
            assert work.noop.get_result(one.id) == one
        result = ended(work.noop)
        assert in_order(result)
        assert result.enqueued_at.tzinfo is None
        assert abs(result.enqueued_at - timezone.now()) < timedelta(minutes=5)


@differs("any `run_after`")
def test_a_run_after_beyond_the_calendar_is_refused() -> None:
    with recorded(jobs) as started, pytest.raises(InvalidRequest, match="ten years"):
        work.noop.using(run_after=timezone.now() + timedelta(days=4000)).enqueue()
    assert not started


# --- transactions ---------------------------------------------------------------------------------------------------


@restates(
    "DummyBackendTransactionTestCase.doesnt_wait_until_transaction_commit_by_default",
    "DatabaseBackendTestCase.doesnt_wait_until_transaction_commit",
    "DatabaseTaskResultTestCase.cross_connection",
)
def test_only_the_transaction_sees_a_task_enqueued_in_it() -> None:
    def others_see() -> int:
        with closing(connections["default"].copy()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM backjob_job")
            return int(cursor.fetchone()[0])

    with recorded(jobs) as started:
        with transaction.atomic():
            result = work.noop.enqueue()
            assert is_new(result, work.noop)
            assert work.noop.get_result(result.id) == result
            assert others_see() == len(started) == 0
        assert others_see() == len(started) == 1


@differs(
    "a task enqueued within `atomic()` runs there",
    "ImmediateBackendTransactionTestCase.doesnt_wait_until_transaction_commit_by_default",
)
def test_a_task_enqueued_in_a_transaction_runs_after_the_commit(at_once: None) -> None:
    with transaction.atomic():
        result = work.answer.enqueue()
        result.refresh()
        assert is_new(result, work.answer)
    result.refresh()
    assert result.return_value == 42
    with transaction.atomic():
        result = work.answer.enqueue()
        transaction.set_rollback(True)
    with pytest.raises(TaskResultDoesNotExist):
        work.answer.get_result(result.id)


def test_tasks_in_a_store_outside_of_the_database(tmp_path: Path) -> None:
    given = {"STORE": f"sqlite:///{tmp_path / 'jobs.db'}", "BASE_URL": "http://testserver"}
    with override_settings(BACKJOB=given), immediate():
        with sent(task_enqueued) as enqueued:
            assert ended(work.answer).return_value == 42
        assert [str(one.status) for one in enqueued] == ["READY"]
        with transaction.atomic():  # which that store is no part of
            result = work.answer.enqueue()
            transaction.set_rollback(True)
        result.refresh()
        assert result.return_value == 42
        with refusing(task_enqueued) as refused, pytest.raises(LookupError):
            work.answer.enqueue()
        assert jobs.status(refused[0]).status is Status.CANCELLED


def test_a_failing_receiver_of_task_enqueued_cancels_only_the_new_job(tmp_path: Path) -> None:
    given = {"STORE": f"sqlite:///{tmp_path / 'jobs.db'}", "BASE_URL": "http://testserver"}
    ended_meanwhile: list[str] = []

    def start_and_cancel(**_options: Any) -> None:
        ended_meanwhile.append(jobs.start("/see", as_current_user=False, merge="pending", delay=60))
        jobs.cancel(other)

    told_of: list[str] = []
    with override_settings(BACKJOB={**given, "ON_END": lambda state: told_of.append(state.id)}), recorded(jobs):
        waiting = jobs.start("/see", as_current_user=False, merge="pending", delay=60)
        other = jobs.start("/see?other", as_current_user=False, delay=60)
        task_enqueued.connect(start_and_cancel)
        try:
            with refusing(task_enqueued) as refused, pytest.raises(LookupError):
                work.answer.enqueue()
        finally:
            task_enqueued.disconnect(start_and_cancel)
        assert ended_meanwhile == [waiting]
        assert jobs.status(waiting).status is Status.STARTED
        assert jobs.status(refused[0]).status is Status.CANCELLED
        assert set(told_of) == {other, refused[0]}


def test_enqueued_on_commit(at_once: None) -> None:
    results: list[Any] = []
    with transaction.atomic():
        transaction.on_commit(lambda: results.append(work.answer.enqueue()))
        assert results == []
    results[0].refresh()
    assert results[0].return_value == 42


def test_a_failing_receiver_of_task_enqueued_leaves_no_job(at_once: None) -> None:
    with refusing(task_enqueued) as refused, pytest.raises(LookupError):
        work.answer.enqueue()
    assert not jobs.exists(refused[0])


def test_a_task_enqueued_outside_of_the_server_names_the_setting_that_it_needs() -> None:
    jobs.reset()
    with pytest.raises(AddressUnknown, match=r"(?i)set the base URL"):
        work.answer.enqueue()
    assert jobs.find() == []
