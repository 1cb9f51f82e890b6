"""Values in the messages of the store suite."""

from __future__ import annotations

from attrs import evolve

from backjob.model import Draft, Report, Request
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.testing._stores.differences import difference, shown


def test_of_two_jobs_only_the_fields_that_differ_are_shown() -> None:
    job = MemoryStore(clock=FakeClock()).create(Draft(id="job", request=Request("GET", "/work")))
    lines = difference(evolve(job, progress=5, scope="s"), job).splitlines()
    assert lines == [
        "",
        "  expected progress: 0",
        "  found progress:    5",
        "  expected scope: ''",
        "  found scope:    's'",
    ]


def test_of_two_long_texts_the_place_is_shown_where_they_differ() -> None:
    expected = "x" * 5000 + "y" + "x" * 5000
    _, wanted, found = difference(expected.replace("y", ""), expected).splitlines()
    assert wanted == f"  expected: '{'x' * 30}y{'x' * 29}'"
    assert found.endswith("(lengths 10001 and 10000; they differ from 5000 on)")
    _, wanted, found = difference("x" * 500, "x" * 600).splitlines()
    assert found.endswith("(lengths 600 and 500; they differ from 500 on)")


def test_of_an_argument_only_the_fields_that_are_not_the_default_are_shown() -> None:
    assert shown(Report(progress=5, tail="", truncated=True)) == "Report(progress=5, truncated=True, tail='')"
    assert shown({"a": 1}) == "{'a': 1}"
    assert len(shown("x" * 10_000)) < 500
