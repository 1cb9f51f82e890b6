"""A task before it is enqueued: which functions can be one, ``using()``, direct calls, pickling, custom task classes."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.core.checks import run_checks
from django.test import override_settings
from django.utils import timezone
from django.utils.module_loading import import_string

from backjob.django import jobs
from backjob.django.backend import BackJobBackend
from backjob.django.task_api import InvalidTask, Task, task_backends, task_started
from backjob.testing import recorded
from tests.adapters.django import work
from tests.adapters.django.tasks.framework import (
    BACKEND,
    differs,
    ended,
    exceptions,
    framework,
    options,
    restates,
    sent,
)

if TYPE_CHECKING:  # what is generic there, Django's own class is not
    _Task = Task[..., Any]
else:
    _Task = Task

pytestmark = pytest.mark.usefixtures("database")


@restates(
    "TaskTestCase.using_correct_backend",
    "DummyBackendTestCase.using_correct_backend",
    "ImmediateBackendTestCase.using_correct_backend",
    "CustomBackendTestCase.using_correct_backend",
    "DatabaseBackendTestCase.using_correct_backend",
)
def test_the_setting_names_the_backend() -> None:
    backend = task_backends["default"]
    assert framework.default_task_backend == backend
    assert isinstance(backend, BackJobBackend)
    assert (backend.alias, backend.options) == ("default", {"error_timeout": 45})
    assert task_backends["any"].options == {}


@restates("TaskTestCase.task_decorator", "TaskTestCase.name", "TaskTestCase.module_path", "TaskTestCase.get_backend")
@pytest.mark.parametrize("name", ["noop", "noop_async", "noop_bare"])
def test_a_decorated_function_is_a_task(name: str) -> None:
    task = getattr(work, name)
    assert isinstance(task, Task)
    assert (task.name, task.module_path) == (name, f"tests.adapters.django.work.{name}")
    assert import_string(task.module_path) is task
    assert (task.backend, task.get_backend()) == ("default", task_backends["default"])
    other = task.using(backend="any")
    assert (other.backend, other.get_backend()) == ("any", task_backends["any"])


@restates("TaskTestCase.invalid_function")
def test_only_a_module_level_function_can_be_a_task() -> None:
    def local() -> None:
        """Not at module level."""

    for function in (local, any, Backend().method):
        with pytest.raises(InvalidTask, match="module level"):
            framework.task()(function)


@restates("TaskTestCase.takes_context_without_taking_context")
def test_a_task_that_takes_the_context_needs_an_argument_for_it() -> None:
    with pytest.raises(InvalidTask, match="first argument of 'context'"):
        framework.task(takes_context=True)(work.answer.func)


@restates("TaskTestCase.run_after_in_decorator")
def test_the_decorator_accepts_no_run_after() -> None:
    with pytest.raises(TypeError, match="run_after"):
        framework.task(run_after=timezone.now())(work.answer.func)


@restates(
    "TaskTestCase.call_task", "TaskTestCase.call_task_async", "TaskTestCase.call_async_task",
    "TaskTestCase.call_async_task_sync",
)  # fmt: skip
def test_calling_a_task_calls_the_function() -> None:
    assert work.answer.call() == async_to_sync(work.answer.acall)() == 42
    assert work.noop_async.call() is None
    assert async_to_sync(work.noop_async.acall)() is None


# --- using() --------------------------------------------------------------------------------------------------------


@restates(
    "TaskTestCase.using_queue_name", "TaskTestCase.using_run_after", "TaskTestCase.using_creates_new_instance",
    "TaskTestCase.chained_using",
)  # fmt: skip
def test_using_returns_another_task() -> None:
    now = timezone.now()
    assert work.noop.using() == work.noop
    assert work.noop.using() is not work.noop
    later = work.noop.using(run_after=now)
    other = later.using(queue_name="nightly")
    assert (later.run_after, later.queue_name) == (now, "default")
    assert (other.run_after, other.queue_name) == (now, "nightly")
    assert (work.noop.run_after, work.noop.queue_name) == (None, framework.DEFAULT_TASK_QUEUE_NAME)


@restates("TaskTestCase.using_unknown_backend", "TaskTestCase.using_missing_backend", "TaskTestCase.no_backends")
def test_an_unknown_backend_is_refused() -> None:
    invalid = getattr(exceptions, "InvalidTaskBackend", None) or exceptions.InvalidTaskBackendError
    with pytest.raises(invalid, match="'unknown' doesn't exist"):
        work.noop.using(backend="unknown")
    with override_settings(TASKS={"missing": {"BACKEND": "does.not.exist"}}):
        with pytest.raises(invalid, match=r"find backend 'does\.not\.exist': No module named 'does'"):
            work.noop.using(backend="missing")
        with pytest.raises(invalid):
            work.noop.enqueue()


@restates("TaskTestCase.unknown_queue_name")
def test_a_queue_outside_of_the_setting_is_refused() -> None:
    with pytest.raises(InvalidTask, match="Queue 'unknown' is not valid"):
        work.noop.using(queue_name="unknown")
    assert work.noop.using(queue_name="unknown", backend="any").queue_name == "unknown"


@restates("TaskTestCase.naive_datetime")
def test_a_naive_run_after_is_refused() -> None:
    with pytest.raises(InvalidTask, match="aware"):
        work.noop.using(run_after=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


@differs(
    "priority",
    "TaskTestCase.using_priority",
    "TaskTestCase.chained_using",
    "TaskTestCase.invalid_priority",
    "CustomBackendTestCase.backend_does_not_support_priority",
    "DatabaseBackendTestCase.priority_range_check",
    "DatabaseBackendWorkerTestCase.run_after_priority",
)
def test_only_the_default_priority_is_accepted() -> None:
    assert (work.noop.priority, work.noop.using(priority=0)) == (0, work.noop)
    assert BackJobBackend.supports_priority is False
    for priority in (1, 10, 100, -100, 101, -101, 3.1):
        with pytest.raises(InvalidTask, match="does not support setting priority"):
            work.noop.using(priority=priority)


# --- what a backend says of itself ----------------------------------------------------------------------------------


@restates(
    "DummyBackendTestCase.validate_disallowed_async_task",
    "CustomBackendTestCase.enqueue_async_task_on_non_async_backend",
)
def test_the_supported_features_are_those_that_validation_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = task_backends["default"]
    assert (backend.supports_defer, backend.supports_async_task, backend.supports_get_result) == (True, True, True)
    backend.validate_task(work.noop_async)
    backend.validate_task(work.noop.using(run_after=timezone.now() + timedelta(days=1)))
    monkeypatch.setattr(BackJobBackend, "supports_async_task", False)
    with pytest.raises(InvalidTask, match=r"does not support async [Tt]asks"):
        backend.validate_task(work.noop_async)


@restates(
    "DummyBackendTestCase.check",
    "DatabaseBackendTestCase.check",
    "DatabaseBackendTestCase.database_backend_app_missing",
)
def test_checks_report_what_is_missing() -> None:
    backend = task_backends["default"]
    assert backend.check() == []
    with override_settings(ROOT_URLCONF="tests.adapters.django.work", INSTALLED_APPS=[]):
        assert [found.id for found in backend.check()] == ["backjob.E050", "backjob.E051"]
    with override_settings(TASKS=options(OPTIONS={"eror_timeout": 5})):
        found = [found for found in run_checks() if (found.id or "").startswith("backjob.E05")]
    assert [(one.id, "eror_timeout" in one.msg, one.hint) for one in found] == [
        ("backjob.E052", True, "Known options: error_timeout, retries, retry_delay.")
    ]


# --- pickling -------------------------------------------------------------------------------------------------------


@restates(
    "TaskTestCase.pickle_task", "TaskTestCase.pickle_task_result", "TaskTestCase.unpickle_arbitrary_string",
    "TaskTestCase.unpickle_non_task_object",
)  # fmt: skip
@pytest.mark.skipif(django.VERSION < (6, 1), reason="tasks can be pickled from Django 6.1 on")
def test_pickled(at_once: None) -> None:
    for task in (work.answer, work.fail_oddly):
        result = ended(task)
        assert pickle.loads(pickle.dumps(result)) == result
        assert pickle.loads(pickle.dumps(task)) == task
    task_class: Any = Task
    for path in ("does.not.exist", "builtins.any"):
        with pytest.raises(ValueError, match=f"Expected '{path}' to point to a Task"):
            task_class._reconstruct({"func": path})


# --- a custom task class ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Labelled(_Task):
    label: str = "none"
    weight: int = 3


class Backend(BackJobBackend):
    task_class = Labelled

    def __init__(self, alias: str = "default", params: Any = None) -> None:
        super().__init__(alias, params or {})

    def method(self) -> None:
        """Not at module level."""


OWN = {"default": {"BACKEND": f"{__name__}.Backend", "QUEUES": ["default", "nightly"]}, "any": {"BACKEND": BACKEND}}


def decorator(*, queue_name: str, **own: Any) -> Any:
    """``@task``; Django 6.0's accepts only the fields of its own tasks."""
    if django.VERSION[:2] == (6, 0):
        return lambda function: dataclasses.replace(framework.task(queue_name=queue_name)(function), **own)
    return framework.task(queue_name=queue_name, **own)


@restates(
    "CustomTaskTestCase.custom_task_default_values", "CustomTaskTestCase.custom_task_with_custom_values",
    "CustomTaskTestCase.custom_task_with_standard_and_custom_values", "CustomTaskTestCase.custom_task_invalid_kwarg",
    "CustomBackendTestCase.options",
)  # fmt: skip
def test_a_custom_backend_with_a_custom_task_class(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(TASKS=OWN):
        plain = framework.task()(work.noop.func)
        assert (type(plain), plain.label, plain.weight) == (Labelled, "none", 3)
        made = decorator(queue_name="nightly", label="a", weight=6)(work.answer.func)
        assert (made.label, made.weight, made.queue_name, made.takes_context, made.run_after) == (
            "a", 6, "nightly", False, None,
        )  # fmt: skip
        with pytest.raises(TypeError):
            framework.task(unknown=1)(work.noop.func)
        monkeypatch.setattr(work, "answer", made)
        with sent(task_started, Backend) as started:
            result = ended(made)
        assert (result.return_value, result.task) == (42, made)
        assert [one.task for one in started] == [made]


def test_a_task_that_another_process_cannot_import_is_refused() -> None:
    with recorded(jobs) as started:
        for task in (work.undecorated, dataclasses.replace(work.answer, func=work.plain)):
            with pytest.raises(InvalidTask, match=r"no task at 'tests\.adapters\.django\.work\.plain'"):
                task.enqueue()
    assert not started
