"""The backend of the Tasks framework: Django's own, or the package django-tasks. What they ask of any backend, and more."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.db import transaction
from django.test import Client, override_settings
from django.utils import timezone

from backjob import InvalidRequest, Status
from backjob.django import jobs
from backjob.django.backend import BackJobBackend
from backjob.django.task_api import (
    InvalidTask,
    TaskResultDoesNotExist,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from backjob.model import Changes, Expect
from backjob.testing import recorded
from tests.adapters.django import work
from tests.scenarios.client import WAIT
from tests.scenarios.servers import KINDS, running

HAS_DJANGO_TASKS = django.VERSION >= (6,)
LOGGER = "django.tasks" if HAS_DJANGO_TASKS else "django_tasks"

pytestmark = pytest.mark.usefixtures("database")


def ended(task: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of a task that `at_once` has run."""
    result = task.enqueue(*args, **kwargs)
    result.refresh()
    return result


def mismatch() -> type[Exception]:
    module = __import__(f"{LOGGER}.exceptions", fromlist=["TaskResultMismatch"])
    found: type[Exception] = module.TaskResultMismatch
    return found


@contextmanager
def told(signal: Any) -> Iterator[list[Any]]:
    """The results with which a signal is sent, as they were then."""
    seen: list[Any] = []

    def note(sender: Any, task_result: Any, **_: Any) -> None:
        assert sender is BackJobBackend
        seen.append(dataclasses.replace(task_result))
        object.__setattr__(seen[-1], "_return_value", task_result._return_value)

    signal.connect(note)
    try:
        yield seen
    finally:
        signal.disconnect(note)


# --- enqueueing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [work.noop, work.noop_async], ids=["sync", "async"])
def test_enqueue(task: Any, at_once: None) -> None:
    result: Any = task.enqueue(1, two=3)
    assert (str(result.status), result.is_finished, result.attempts) == ("READY", False, 0)
    assert result.started_at is result.finished_at is result.last_attempted_at is None
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    result = task.get_result(result.id)
    assert (str(result.status), result.is_finished, result.attempts) == ("SUCCESSFUL", True, 1)
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at
    assert result.return_value is None
    assert (result.task, result.args, result.kwargs, result.errors) == (task, [1], {"two": 3}, [])
    assert result.backend == "default"


@pytest.mark.parametrize("task", [work.noop, work.noop_async], ids=["sync", "async"])
def test_aenqueue(task: Any, at_once: None) -> None:
    async def run() -> Any:
        result = await task.aenqueue(1, two=3)
        assert str(result.status) == "READY"
        await result.arefresh()
        assert await task.aget_result(result.id) == result
        with pytest.raises(TaskResultDoesNotExist):
            await task.aget_result("123")
        with pytest.raises(mismatch(), match="Task does not match"):
            await work.answer.aget_result(result.id)
        with pytest.raises(TypeError, match="Unsupported type"):
            await task.aenqueue(datetime.now(UTC))
        return result

    result = async_to_sync(run)()
    assert (str(result.status), result.args, result.kwargs) == ("SUCCESSFUL", [1], {"two": 3})


def test_the_job_is_there() -> None:
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


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), TypeError),
        ({1}, TypeError),
        (b"\xff", ValueError),
        (float("nan"), ValueError),
    ],
    ids=["datetime", "set", "bytes", "nan"],
)
def test_arguments_that_json_cannot_say(bad: Any, error: type[Exception]) -> None:
    with recorded(jobs) as started:
        with pytest.raises(error):
            work.noop.enqueue(bad)
        with pytest.raises(error):
            work.noop.enqueue(deep=[{"in": bad}])
    assert not started


def test_arguments_arrive_as_json_says_them(at_once: None) -> None:
    text = "ü \0 \ud800 🐘"
    result = ended(work.echo, (1, b"two"), text, key={"a": (None, 1.5)})
    assert result.args == [[1, "two"], text]
    assert result.return_value == [[[1, "two"], text], {"key": {"a": [None, 1.5]}}]


def test_a_task_that_no_other_process_would_find() -> None:
    with recorded(jobs) as started:
        for task in (work.undecorated, dataclasses.replace(work.answer, func=work.plain)):
            with pytest.raises(InvalidTask, match=r"no task at 'tests\.adapters\.django\.work\.plain'"):
                task.enqueue()
    assert not started


def test_another_name_for_a_task(at_once: None) -> None:
    assert ended(work.hidden).task == work.answer


def test_validation_when_enqueued() -> None:
    task = work.noop.using(queue_name="other", backend="any")
    with override_settings(TASKS={"any": {"BACKEND": "backjob.django.backend.BackJobBackend", "QUEUES": ["one"]}}):
        with pytest.raises(InvalidTask, match="Queue 'other' is not valid"):
            task.enqueue()
        with pytest.raises(InvalidTask, match="Queue 'other' is not valid"):
            async_to_sync(task.aenqueue)()


def test_what_a_task_may_be() -> None:
    backend = task_backends["default"]

    def local() -> None:
        """Of no module."""

    for function in (local, any):
        with pytest.raises(InvalidTask, match="module level"):
            work.task()(function)
    with pytest.raises(InvalidTask, match="first argument of 'context'"):
        work.task(takes_context=True)(work.answer.func)
    with pytest.raises(InvalidTask, match="priority"):
        work.noop.using(priority=10)
    with pytest.raises(InvalidTask, match="Queue 'unknown'"):
        work.noop.using(queue_name="unknown")
    assert work.noop.using(queue_name="unknown", backend="any").queue_name == "unknown"
    with pytest.raises(InvalidTask, match="aware"):
        work.noop.using(run_after=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    backend.validate_task(work.noop_async)
    assert (backend.supports_defer, backend.supports_async_task, backend.supports_get_result) == (True, True, True)
    assert backend.supports_priority is False
    assert isinstance(work.noop, backend.task_class)


def test_run_after() -> None:
    later = timezone.now() + timedelta(hours=2)
    with recorded(jobs) as started:
        result = work.noop.using(run_after=later).enqueue()
        past = work.noop.using(run_after=timezone.now() - timedelta(days=1)).enqueue()
    assert started[0].start_time == later
    assert started[1].start_time == past.enqueued_at
    assert work.noop.get_result(result.id).task.run_after == result.task.run_after == later


def test_a_site_without_time_zones() -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="America/New_York"):
        later = datetime(2031, 1, 1, 12)  # noqa: DTZ001 - as such a site has it
        with recorded(jobs) as started:
            result = work.noop.using(run_after=later).enqueue()
        assert started[0].start_time == datetime(2031, 1, 1, 17, tzinfo=UTC)
        assert result.enqueued_at.tzinfo is None
        assert abs(result.enqueued_at - timezone.now()) < timedelta(minutes=5)
        assert work.noop.get_result(result.id) == result


def test_a_day_too_far_ahead() -> None:
    with recorded(jobs) as started, pytest.raises(InvalidRequest, match="ten years"):
        work.noop.using(run_after=timezone.now() + timedelta(days=4000)).enqueue()
    assert not started


# --- transactions ---------------------------------------------------------------------------------------------------


def test_within_a_transaction_it_is_run_when_that_commits(at_once: None) -> None:
    with transaction.atomic():
        result = work.answer.enqueue()
        result.refresh()
        assert str(result.status) == "READY"
        assert result.enqueued_at is not None
    result.refresh()
    assert result.return_value == 42


def test_undone_with_its_transaction(at_once: None) -> None:
    with transaction.atomic():
        result = work.answer.enqueue()
        transaction.set_rollback(True)
    with pytest.raises(TaskResultDoesNotExist):
        work.answer.get_result(result.id)


def test_a_receiver_that_refuses_leaves_nothing(at_once: None) -> None:
    def refuse(task_result: Any, **_: Any) -> None:
        seen.append(task_result.id)
        raise LookupError("refused")

    seen: list[str] = []
    task_enqueued.connect(refuse)
    try:
        with pytest.raises(LookupError):
            work.answer.enqueue()
    finally:
        task_enqueued.disconnect(refuse)
    assert not jobs.exists(seen[0])


# --- results --------------------------------------------------------------------------------------------------------


def test_get_result() -> None:
    with recorded(jobs):
        result = work.noop.using(queue_name="nightly").enqueue(1, two=[3])
    again = work.noop.get_result(result.id)
    assert again == result
    assert again.task == result.task != work.noop
    before = dataclasses.asdict(result)
    result.refresh()
    async_to_sync(result.arefresh)()
    assert dataclasses.asdict(result) == before


def test_there_is_no_such_result() -> None:
    with recorded(jobs):
        result = work.noop.enqueue()
        no_task = jobs.start("/see", as_current_user=False)
    jobs.finish(result={"a": 1}, job_id=no_task)
    backend = task_backends["default"]
    unknown: Any
    for unknown in ("123", "", "a\0b", "\ud800", "x" * 500, no_task, 123):
        with pytest.raises(TaskResultDoesNotExist):
            backend.get_result(unknown)
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["any"].get_result(result.id)
    with pytest.raises(mismatch(), match="Task does not match"):
        work.noop_async.get_result(result.id)


@pytest.mark.parametrize("path", ["tests.adapters.django.gone.task", "os.system", "tests.adapters.django.work.plain"])
def test_a_task_that_is_gone_or_none(path: str) -> None:
    with recorded(jobs):
        result = work.noop.enqueue()
    kept: Any = jobs.store.get(result.id)
    mark, record = next(iter(kept.result.items()))
    jobs.store.change(result.id, Expect(), Changes(result={mark: {**record, "path": path}}))
    with pytest.raises(TaskResultDoesNotExist, match="not there any more"):
        work.noop.get_result(result.id)


def test_what_it_returns(at_once: None) -> None:
    assert ended(work.answer).return_value == 42
    assert ended(work.answer_async).return_value == [42, True]


def test_pickled(at_once: None) -> None:
    if not HAS_DJANGO_TASKS:
        pytest.skip("django-tasks pickles no tasks")
    for task in (work.answer, work.fail_oddly):
        result = ended(task)
        assert pickle.loads(pickle.dumps(result)) == result
    assert pickle.loads(pickle.dumps(work.noop)) == work.noop


@pytest.mark.parametrize(
    ("task", "raised", "text"),
    [
        (work.fail_by_value, ValueError, "ValueError: This failed by its value"),
        (work.fail_by_exit, SystemExit, "SystemExit: This failed by an exit"),
        (work.fail_oddly, ValueError, "ValueError: This failed"),
        (work.return_oddly, TypeError, "TypeError: Unsupported type"),
        (work.return_nan, InvalidRequest, "InvalidRequest: result: "),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_it_raises(
    task: Any, raised: type[BaseException], text: str, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        result = ended(task)
    assert (str(result.status), result.is_finished, result.attempts) == ("FAILED", True, 1)
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    assert result._return_value is None
    (error,) = result.errors
    assert error.exception_class is raised
    assert error.traceback.startswith("Traceback")
    assert text in error.traceback.strip().splitlines()[-1] or "ValueError(ValueError(" in error.traceback
    assert result.enqueued_at <= result.started_at <= result.finished_at
    state = jobs.status(result.id)
    assert (state.status, state.status_text.startswith(text)) == (Status.FAILED, True)
    last = [record for record in caplog.records if record.name == LOGGER][-1]
    assert last.levelno == logging.ERROR
    assert last.exc_info is not None
    assert last.exc_info[0] is raised


def test_a_long_traceback_is_cut(at_once: None) -> None:
    (error,) = ended(work.fail_by_value, "x" * 200_000).errors
    assert len(error.traceback) < 70_000


def test_an_interrupt_is_let_pass(at_once: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        work.fail_by_interrupt.enqueue()


@pytest.mark.parametrize(("task", "class_name"), [(work.fail_by_job, "JobFailed"), (work.fail_and_go_on, "JobFailed")])
def test_jobs_fail(task: Any, class_name: str, at_once: None) -> None:
    result = ended(task)
    (error,) = result.errors
    assert error.exception_class_path == f"backjob.errors.{class_name}"
    assert error.exception_class.__name__ == class_name
    assert "no such customer" in error.traceback
    assert jobs.status(result.id).status_text == "no such customer"


def test_cancelled_before_it_ran() -> None:
    with recorded(jobs):
        result = work.noop.enqueue()
    with told(task_finished) as finished:
        jobs.cancel(result.id)
        jobs.cancel(result.id)
    result.refresh()
    assert (str(result.status), result.attempts, result.started_at) == ("FAILED", 0, None)
    assert [error.exception_class.__name__ for error in result.errors] == ["JobEnded"]
    assert result.errors[0].traceback == "cancelled"
    assert [(one.id, str(one.status), one.errors) for one in finished] == [(result.id, "FAILED", result.errors)]


def test_cancelled_while_it_runs(at_once: None) -> None:
    with told(task_finished) as finished:
        result = ended(work.cancel_itself)
    assert [error.exception_class.__name__ for error in result.errors] == ["JobEnded"]
    assert (str(result.status), result.attempts) == ("FAILED", 1)
    assert [one.id for one in finished] == [result.id]


def test_never_delivered() -> None:
    tasks = {"default": {"BACKEND": "backjob.django.backend.BackJobBackend"}}
    with override_settings(TASKS=tasks), recorded(jobs):
        result = work.noop.enqueue()
    jobs.fail("job timeout: not delivered within 600 s", job_id=result.id)
    result.refresh()
    (error,) = result.errors
    assert error.exception_class.__name__ == "JobFailed"
    assert error.traceback == "job timeout: not delivered within 600 s"


# --- within a task --------------------------------------------------------------------------------------------------


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


def test_context(at_once: None) -> None:
    result = ended(work.with_context, 2)
    assert result.return_value == [result.id, 1, "RUNNING", [2], 2]
    assert ended(work.who).return_value == {"job": jobs.find(limit=1)[0].id, "pid": os.getpid(), "background": True}


def test_a_task_enqueues_another(at_once: None) -> None:
    result = ended(work.enqueue_another)
    assert str(work.noop.get_result(result.return_value).status) == "SUCCESSFUL"


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "status", "value"), [(work.answer, "SUCCESSFUL", 42), (work.fail_by_value, "FAILED", None)]
)
def test_signals(task: Any, status: str, value: Any, at_once: None) -> None:
    with told(task_enqueued) as enqueued, told(task_started) as started, told(task_finished) as finished:
        result = ended(task)
    assert [(one.id, str(one.status), one.attempts) for one in enqueued] == [(result.id, "READY", 0)]
    assert [(one.id, str(one.status), one.attempts) for one in started] == [(result.id, "RUNNING", 1)]
    assert started[0].started_at == result.started_at
    (one,) = finished
    assert (one.id, str(one.status), one._return_value, one.errors) == (result.id, status, value, result.errors)
    assert one.started_at <= one.finished_at <= result.finished_at


def test_logs(at_once: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER):
        result = ended(work.noop)
    said = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert all(result.id in line for line in said)
    assert [word in line for word, line in zip(("enqueued", "RUNNING", "SUCCESSFUL"), said, strict=True)] == [True] * 3


def test_a_receiver_of_the_end_changes_nothing(at_once: None) -> None:
    def refuse(**_: Any) -> None:
        raise LookupError("refused")

    task_finished.connect(refuse)
    try:
        assert ended(work.answer).return_value == 42
    finally:
        task_finished.disconnect(refuse)


def test_a_receiver_of_the_start_may_refuse(at_once: None) -> None:
    def refuse(**_: Any) -> None:
        raise LookupError("refused")

    task_started.connect(refuse)
    try:
        (error,) = ended(work.answer).errors
    finally:
        task_started.disconnect(refuse)
    assert error.exception_class is LookupError


# --- who sees what --------------------------------------------------------------------------------------------------


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


def test_a_stranger_runs_nothing() -> None:
    record = json.dumps({"backjob.django task": {"path": "os.system", "args": ["true"]}})
    for client in (Client(), Client(enforce_csrf_checks=True)):
        assert client.post("/backjob/run", record, content_type="application/json").status_code == 403
    assert Client().get("/backjob/run").status_code == 403


# --- checks ---------------------------------------------------------------------------------------------------------


def test_checks() -> None:
    backend = task_backends["default"]
    assert backend.check() == []
    with override_settings(ROOT_URLCONF="tests.adapters.django.work", INSTALLED_APPS=[]):
        assert [found.id for found in backend.check()] == ["backjob.E050", "backjob.E051"]
    tasks = {"default": {"BACKEND": "backjob.django.backend.BackJobBackend", "OPTIONS": {"eror_timeout": 5}}}
    with override_settings(TASKS=tasks):
        found = [found for found in run_checks() if (found.id or "").startswith("backjob.E05")]
        assert [(one.id, "eror_timeout" in one.msg, one.hint) for one in found] == [
            ("backjob.E052", True, "There is error_timeout.")
        ]


# --- over a real server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "app"), [("gunicorn-threads", "app"), ("uvicorn-h11", "asgi")], ids=["gunicorn-threads", "uvicorn-h11"]
)
def test_on_a_server(kind: str, app: str, tmp_path: Path) -> None:
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.adapters.django.settings",
        "SITE_DATABASE": str(tmp_path / "site.db"),
    }
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--verbosity=0"],
        env={**os.environ, **environment},
        check=True,
        timeout=WAIT,
    )
    with running(KINDS[kind], f"tests.adapters.django.served:{app}", tmp_path, environment) as server:
        client = server.client

        def enqueued(name: str, *args: Any) -> Callable[[], Any]:
            page = client.request("POST", f"/enqueue/{name}", body=json.dumps({"args": args}).encode())
            assert page.status == 200, page.text
            result_id = page.json()["id"]

            def end() -> Any:
                looks, deadline = threading.Event(), time.monotonic() + WAIT
                while not (found := client.get(f"/result/{result_id}").json())["finished"]:
                    assert time.monotonic() < deadline, (found, server.tail())
                    looks.wait(0.02)
                return found

            return end

        ends = [
            enqueued("answer"),
            enqueued("answer_async"),
            enqueued("report", 5),
            enqueued("echo", "ü"),
            enqueued("who"),
            enqueued("enqueue_another"),
            enqueued("fail_by_value", "gone wrong"),
            enqueued("fail_by_exit"),
        ]
        *good, failed, left = [end() for end in ends]
        assert [one["status"] for one in good] == ["SUCCESSFUL"] * 6, good
        assert [one["value"] for one in good[:4]] == [42, [42, True], 5, [["ü"], {}]]
        assert good[4]["value"]["background"] is True
        assert client.get(f"/result/{good[5]['value']}").status == 200
        assert (failed["status"], failed["errors"][0][0]) == ("FAILED", "builtins.ValueError")
        assert failed["errors"][0][1].endswith("ValueError: gone wrong\n")
        assert (left["status"], left["errors"][0][0]) == ("FAILED", "builtins.SystemExit")
