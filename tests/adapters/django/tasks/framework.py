"""The Tasks framework for its tests, from Django or the package, and the record of which of its cases a test restates."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, TypeVar

import django

from backjob.django.backend import BackJobBackend

__all__ = [
    "BACKEND",
    "DIFFERENCES",
    "LOGGER",
    "RESTATED",
    "differs",
    "ended",
    "exceptions",
    "framework",
    "in_order",
    "options",
    "refusing",
    "restates",
    "sent",
]

_Test = TypeVar("_Test", bound=Callable[..., Any])

LOGGER: Final = "django.tasks" if django.VERSION >= (6,) else "django_tasks"
"""The name of the framework's package, and of its logger."""
BACKEND: Final = "backjob.django.backend.BackJobBackend"
framework: Final[Any] = import_module(LOGGER)
exceptions: Final[Any] = import_module(f"{LOGGER}.exceptions")

RESTATED: Final[dict[str, list[str]]] = defaultdict(list)
"""A case → the tests that restate it."""
DIFFERENCES: Final[dict[str, list[str]]] = defaultdict(list)
"""A difference in the docs → the tests that show it."""


def restates(*cases: str) -> Callable[[_Test], _Test]:
    """The test shows that the backend passes these cases."""

    def note(test: _Test) -> _Test:
        for case in cases:
            RESTATED[case].append(test.__name__)
        return test

    return note


def differs(row: str, *cases: str) -> Callable[[_Test], _Test]:
    """The test shows that the backend differs in these cases, as this row of the docs says."""

    def note(test: _Test) -> _Test:
        DIFFERENCES[row].append(test.__name__)
        return restates(*cases)(test)

    return note


def ended(task: Any, *args: Any, **kwargs: Any) -> Any:
    """Enqueue a task with `at_once`. Returns its final result."""
    result = task.enqueue(*args, **kwargs)
    assert str(result.status) == "READY"
    result.refresh()
    return result


def in_order(result: Any) -> bool:
    """Whether a result has all its times, in order."""
    moments = [result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at]
    return None not in moments and moments == sorted(moments)


@contextmanager
def sent(signal: Any, sender: type[BackJobBackend] = BackJobBackend) -> Iterator[list[Any]]:
    """Copies of the results that a signal was sent with."""
    seen: list[Any] = []

    def note(**given: Any) -> None:
        assert given["sender"] is sender
        result = given["task_result"]
        copy = dataclasses.replace(result, errors=list(result.errors), worker_ids=list(result.worker_ids))
        object.__setattr__(copy, "_return_value", result._return_value)
        seen.append(copy)

    signal.connect(note)
    try:
        yield seen
    finally:
        signal.disconnect(note)


@contextmanager
def refusing(signal: Any) -> Iterator[list[str]]:
    """Connect a receiver that raises LookupError. Yields the ids of the results that it got."""
    seen: list[str] = []

    def refuse(task_result: Any, **_: Any) -> None:
        seen.append(task_result.id)
        raise LookupError("refused")

    signal.connect(refuse)
    try:
        yield seen
    finally:
        signal.disconnect(refuse)


def options(**others: Any) -> Mapping[str, Any]:
    """The setting ``TASKS`` with only backjob's backend and these options."""
    return {"default": {"BACKEND": BACKEND, **others}}
