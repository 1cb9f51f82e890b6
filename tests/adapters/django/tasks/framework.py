"""The Tasks framework as its tests see it, be it Django's own or the package, and which of its cases a test restates."""

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
    "told",
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
"""What the docs say to be other → the tests that show it."""


def restates(*cases: str) -> Callable[[_Test], _Test]:
    """What these cases demand of a backend holds: the test shows it."""

    def note(test: _Test) -> _Test:
        for case in cases:
            RESTATED[case].append(test.__name__)
        return test

    return note


def differs(row: str, *cases: str) -> Callable[[_Test], _Test]:
    """What these cases demand is other here, as this row of the docs says: the test shows that it is so."""

    def note(test: _Test) -> _Test:
        DIFFERENCES[row].append(test.__name__)
        return restates(*cases)(test)

    return note


def ended(task: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of a task that `at_once` has run."""
    result = task.enqueue(*args, **kwargs)
    assert str(result.status) == "READY"
    result.refresh()
    return result


def in_order(result: Any) -> bool:
    """Whether the moments that a result tells are all there, one after the other."""
    moments = [result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at]
    return None not in moments and moments == sorted(moments)


@contextmanager
def told(signal: Any, sender: type[BackJobBackend] = BackJobBackend) -> Iterator[list[Any]]:
    """The results with which a signal is sent, as they were then."""
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
    """A receiver of the signal that raises LookupError; the ids of the results with which it was sent."""
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
    """The setting ``TASKS`` with our backend alone, set up like this."""
    return {"default": {"BACKEND": BACKEND, **others}}
