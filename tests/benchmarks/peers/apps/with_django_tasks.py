"""The tasks, and how a web application uses them: Django's Tasks with the database backend. They have no progress."""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import django
from django.apps import apps

from tests.benchmarks.notes import FIRST_LINE, NotesWriter

_notes: Final = NotesWriter(os.environ["PEER_NOTES"])
if not apps.ready:
    django.setup()
_tasks: Final[Any] = import_module("django.tasks" if find_spec("django.tasks") else "django_tasks")


@_tasks.task()
def nothing() -> None:
    _notes.note(FIRST_LINE)


def start() -> str:
    return str(nothing.enqueue().id)


def status(task_id: str) -> object:
    return nothing.get_result(task_id).status
