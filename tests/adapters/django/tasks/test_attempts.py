"""Tasks that are called again after a failure: what the framework's results and signals say of each attempt."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings

from backjob import JobEnded, JobFailed, Status
from backjob.django import jobs
from backjob.django.task_api import task_finished, task_started
from backjob.errors import JobRetried
from backjob.jobs import engine_of
from backjob.lifecycle import Late, claimed, concluded, past_end, reaped
from backjob.lifecycle import after_run as after
from backjob.testing import recorded
from tests.adapters.django import work
from tests.adapters.django.tasks.framework import ended, options, sent

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def twice_more() -> Iterator[None]:
    """The backend retries a task twice."""
    work.calls.clear()
    with override_settings(TASKS=options(QUEUES=[], OPTIONS={"retries": 2, "retry_delay": 5})):
        yield


def attempts_of(results: list[Any]) -> list[tuple[str, int, int]]:
    return [(str(result.status), result.attempts, len(result.errors)) for result in results]


def test_the_task_is_called_again_and_its_errors_stay(twice_more: None, at_once: None) -> None:
    with sent(task_started) as started, sent(task_finished) as finished:
        result = ended(work.fail_times, 2)
    assert (str(result.status), result.return_value, result.attempts) == ("SUCCESSFUL", 3, 3)
    assert [error.exception_class for error in result.errors] == [ValueError, ValueError]
    assert [error.traceback.splitlines()[-1] for error in result.errors] == ["ValueError: call 1", "ValueError: call 2"]
    assert attempts_of(started) == [("RUNNING", 1, 0), ("RUNNING", 2, 1), ("RUNNING", 3, 2)]
    assert attempts_of(finished) == [("SUCCESSFUL", 3, 2)]
    assert result.started_at <= result.last_attempted_at <= result.finished_at
    assert result.worker_ids == [engine_of(jobs).monitor.lessee] * 3


def test_the_last_failure_ends_it(twice_more: None, at_once: None) -> None:
    with sent(task_finished) as finished:
        result = ended(work.fail_times, 9)
    assert (str(result.status), result.attempts, len(work.calls)) == ("FAILED", 3, 3)
    assert [error.traceback.splitlines()[-1] for error in result.errors] == [f"ValueError: call {n}" for n in (1, 2, 3)]
    assert attempts_of(finished) == [("FAILED", 3, 3)]
    assert jobs.status(result.id).status_text == "ValueError: call 3"


def test_jobs_fail_is_final(twice_more: None, at_once: None) -> None:
    result = ended(work.fail_by_job)
    assert (str(result.status), result.attempts) == ("FAILED", 1)
    assert [error.exception_class for error in result.errors] == [JobFailed]


def test_jobs_retry_calls_it_again(twice_more: None, at_once: None) -> None:
    result = ended(work.retry_once)
    assert (str(result.status), result.return_value, result.attempts) == ("SUCCESSFUL", 2, 2)
    assert [error.exception_class for error in result.errors] == [JobRetried]


def test_slices_are_one_attempt(twice_more: None, at_once: None) -> None:
    with sent(task_started) as started, sent(task_finished) as finished:
        result = ended(work.in_slices, 3)
    assert (str(result.status), result.return_value, result.attempts, result.errors) == ("SUCCESSFUL", 3, 1, [])
    assert (len(started), len(finished), len(work.calls)) == (1, 1, 3)


def killed(result: Any) -> None:
    """Claim the task's job, and write what follows the death of the process that runs it."""
    store = engine_of(jobs).store
    job = store.change(result.id, *claimed("token", jobs.store.get(result.id).run, 0))  # type: ignore[union-attr]
    assert job is not None
    conclusion = after(job, past_end(job, Late.DEAD), 0)
    changed = store.change(job.id, reaped(job, Late.DEAD), concluded(job, conclusion, job.read_time))
    assert changed is not None
    if changed.status.is_final:
        engine_of(jobs).conclude(changed)


def test_between_two_attempts_it_is_ready_and_a_death_is_an_error(twice_more: None) -> None:
    with recorded(jobs), sent(task_finished) as finished:
        result = work.fail_times.enqueue(0)
        killed(result)
        result.refresh()
        assert (str(result.status), result.is_finished, result.finished_at) == ("READY", False, None)
        expected = [(JobFailed, "the process that ran it ended")]
        assert [(error.exception_class, error.traceback) for error in result.errors] == expected
        assert jobs.status(result.id).start_time - result.enqueued_at >= timedelta(seconds=4)
        killed(result)
        assert finished == []
        killed(result)
    result.refresh()
    assert attempts_of(finished) == [("FAILED", 0, 3)]
    assert (str(result.status), [error.exception_class for error in result.errors]) == ("FAILED", [JobFailed] * 3)


def test_cancelled_between_two_attempts(twice_more: None) -> None:
    with recorded(jobs), sent(task_finished) as finished:
        result = work.fail_times.enqueue(0)
        killed(result)
        jobs.cancel(result.id)
    result.refresh()
    assert [error.exception_class for error in result.errors] == [JobFailed, JobEnded]
    assert attempts_of(finished) == [("FAILED", 0, 2)]


def test_the_queue_of_a_task_is_that_of_its_job() -> None:
    with recorded(jobs):
        names = [work.noop.enqueue(), work.noop.using(queue_name="nightly").enqueue()]
    found = [jobs.store.get(result.id) for result in names]
    assert [job.queue for job in found if job is not None] == ["default", "nightly"]
    assert [jobs.status(result.id).status for result in names] == [Status.STARTED] * 2
