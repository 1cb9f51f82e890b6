"""Every case is restated or does not apply to this backend, and the docs list exactly the differences."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.adapters.django.tasks.cases import CASES, ELSEWHERE
from tests.adapters.django.tasks.framework import DIFFERENCES, RESTATED
from tests.docs.pages import ROOT

HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def all_tests() -> None:
    """Import all tests, whose decorators register the cases: this file may run alone."""
    for path in sorted(HERE.glob("test_*.py")):
        import_module(f"tests.adapters.django.tasks.{path.stem}")


def test_every_case_is_restated_or_does_not_apply() -> None:
    assert set(RESTATED) - CASES == set(ELSEWHERE) - CASES == set()
    assert CASES - set(RESTATED) - set(ELSEWHERE) == set()
    assert set(RESTATED) & set(ELSEWHERE) == set()


def test_the_docs_list_exactly_the_differences() -> None:
    page = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")
    table = page.partition("\n| tests expect |")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| (?!---)(.+?) \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(DIFFERENCES)
