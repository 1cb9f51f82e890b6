"""The names by which the Tasks framework is imported, which differ between Django and versions of django-tasks."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import django
import pytest

from backjob.django import task_api
from backjob.errors import MissingExtra

pytestmark = pytest.mark.skipif(django.VERSION >= (6,), reason="Django has the framework itself")


def imported_anew() -> Any:
    """The module `backjob.django.task_api`, run once more."""
    spec = spec_from_file_location("task_api_anew", task_api.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_next_version_of_django_tasks_has_the_name_that_django_has(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = sys.modules["django_tasks.exceptions"]
    before = exceptions.InvalidTaskError
    monkeypatch.delattr(exceptions, "InvalidTaskError")
    monkeypatch.setattr(exceptions, "InvalidTask", before, raising=False)
    assert imported_anew().InvalidTask is before


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django_tasks", None)
    with pytest.raises(MissingExtra, match=r"backjob\[django-tasks\]"):
        imported_anew()
