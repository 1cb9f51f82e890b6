"""A running task: context, progress, output, tasks that it enqueues, signals, logs, and what watchers see."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from backjob import Status
from backjob.django import jobs
from backjob.django.task_api import task_enqueued, task_finished, task_started
from tests.adapters.django import work
from tests.adapters.django.tasks.framework import LOGGER, differs, ended, refusing, restates, sent

pytestmark = pytest.mark.usefixtures("database")


# --- within a task --------------------------------------------------------------------------------------------------


@restates(
    "ImmediateBackendTestCase.takes_context",
    "ImmediateBackendTestCase.context",
    "DatabaseBackendWorkerTestCase.takes_context",
    "DatabaseBackendWorkerTestCase.context",
)
def test_context(at_once: None) -> None:
    result = ended(work.with_context, 2)
    assert result.return_value == [result.id, 1, "RUNNING", [2], 2]


def test_a_running_task_is_the_current_job(at_once: None) -> None:
    result = ended(work.who)
    assert result.return_value == {"job": result.id, "pid": os.getpid(), "background": True}


def test_progress_and_output(at_once: None) -> None:
    result = ended(work.report, 3)
    assert result.return_value == 3
    state = jobs.status(result.id)
    assert (state.status, state.progress, state.status_text, state.result) == (Status.COMPLETED, 100, "3 rows", 3)
    assert jobs.output(result.id).text == "row 0\nrow 1\nrow 2\n"


def test_a_coroutine_reports_too(at_once: None) -> None:
    result = ended(work.answer_async)
    assert jobs.status(result.id).status_text == "thinking"
    assert jobs.output(result.id).text == "from a coroutine\n"


def test_a_task_enqueues_another(at_once: None) -> None:
    for task in (work.enqueue_another, work.enqueue_another_async):
        result = ended(task)
        assert str(work.noop.get_result(result.return_value).status) == "SUCCESSFUL"


@restates("DatabaseBackendWorkerTestCase.batch_processes_all_tasks")
def test_a_failing_task_does_not_affect_others(at_once: None) -> None:
    tasks = (work.noop, work.fail_by_value, work.noop_async, work.fail_by_exit, work.answer)
    assert [str(ended(task).status) for task in tasks] == [
        "SUCCESSFUL", "FAILED", "SUCCESSFUL", "FAILED", "SUCCESSFUL",
    ]  # fmt: skip


# --- signals and logs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "status", "value"), [(work.answer, "SUCCESSFUL", 42), (work.fail_by_value, "FAILED", None)]
)
def test_signals(task: Any, status: str, value: Any, at_once: None) -> None:
    with sent(task_enqueued) as enqueued, sent(task_started) as started, sent(task_finished) as finished:
        result = ended(task)
    assert [(one.id, str(one.status), one.attempts) for one in enqueued] == [(result.id, "READY", 0)]
    assert [(one.id, str(one.status), one.attempts) for one in started] == [(result.id, "RUNNING", 1)]
    assert started[0].started_at == started[0].last_attempted_at == result.started_at
    assert started[0].worker_ids == result.worker_ids
    (one,) = finished
    assert (one.id, str(one.status), one._return_value, one.errors) == (result.id, status, value, result.errors)
    assert one.started_at <= one.finished_at <= result.finished_at


def test_signals_are_sent_in_order_around_the_function(at_once: None) -> None:
    happened: list[str] = []

    def note(signal: Any, **_: Any) -> None:
        state = jobs.status(jobs.job_id) if jobs.job_id else None
        happened.append(f"{names[signal]} {state and state.status_text}")

    names = {task_enqueued: "enqueued", task_started: "started", task_finished: "finished"}
    for signal in names:
        signal.connect(note)
    try:
        ended(work.answer_async)
    finally:
        for signal in names:
            signal.disconnect(note)
    assert happened == ["enqueued None", "started ", "finished thinking"]


@differs("the result is written when `task_finished` is sent")
def test_a_receiver_of_task_finished_still_reads_a_running_task(at_once: None) -> None:
    def look(task_result: Any, **_: Any) -> None:
        seen.append(str(task_result.status))
        task_result.refresh()
        seen.append(str(task_result.status))

    seen: list[str] = []
    task_finished.connect(look)
    try:
        assert ended(work.answer).return_value == 42
    finally:
        task_finished.disconnect(look)
    assert seen == ["SUCCESSFUL", "RUNNING"]


@restates(
    "DummyBackendTestCase.enqueue_logs", "ImmediateBackendTestCase.enqueue_logs",
    "ImmediateBackendTestCase.failed_logs", "ImmediateBackendTestCase.successful_task_no_none_in_logs",
    "DatabaseBackendTestCase.enqueue_logs",
)  # fmt: skip
@pytest.mark.parametrize(("task", "end"), [(work.noop, "SUCCESSFUL"), (work.fail_by_value, "FAILED")])
def test_logs(task: Any, end: str, at_once: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER):
        result = ended(task)
    lines = [caplog.handler.format(record) for record in caplog.records if record.name == LOGGER]
    assert all(result.id in line for line in lines)
    assert [word in line for word, line in zip(("enqueued", "=RUNNING", f"={end}"), lines, strict=True)] == [True] * 3
    assert end == "FAILED" or not any("None" in line for line in lines)


def test_a_failing_receiver_of_task_finished_changes_nothing(at_once: None) -> None:
    with refusing(task_finished) as refused:
        result = ended(work.answer)
    assert (result.return_value, refused) == (42, [result.id])


def test_a_failing_receiver_of_task_started_fails_the_task(at_once: None) -> None:
    with refusing(task_started):
        (error,) = ended(work.answer).errors
    assert error.exception_class is LookupError


# --- visibility --------------------------------------------------------------------------------------------------


def test_the_user_may_watch_but_sees_no_arguments_and_no_traceback(at_once: None) -> None:
    owner, other, stranger = Client(), Client(), Client()
    owner.force_login(User.objects.create(username="ann"))
    other.force_login(User.objects.create(username="bob"))
    body = json.dumps({"args": ["a secret argument"]})
    given = owner.post("/enqueue/fail_by_value", body, content_type="application/json").json()
    address = f"/backjob/{given['id']}"
    assert [client.get(address).status_code for client in (owner, other, stranger)] == [200, 404, 404]
    for shown in (owner.get(address), stranger.get(given["url"])):
        assert shown.json()["status_name"] == "FAILED"
        assert shown.json()["result"] is None
        assert "Traceback" not in shown.content.decode()
        assert "work.py" not in shown.content.decode()
    assert [error.exception_class for error in work.fail_by_value.get_result(given["id"]).errors] == [ValueError]
    given = owner.post("/enqueue/answer", "{}", content_type="application/json").json()
    assert owner.get(f"/backjob/{given['id']}").json()["result"] == 42


def test_an_unsigned_request_runs_no_task() -> None:
    record = json.dumps({"backjob.django task": {"path": "os.system", "args": ["true"]}})
    for client in (Client(), Client(enforce_csrf_checks=True)):
        assert client.post("/backjob/run", record, content_type="application/json").status_code == 403
    assert Client().get("/backjob/run").status_code == 403
