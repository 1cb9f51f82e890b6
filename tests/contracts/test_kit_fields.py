"""The store suite notices a store that ignores any field or argument, or that loses any column in any call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import NOTHING, evolve, fields

from backjob.model import Changes, Draft, Expect, Job, Query, Report, Status
from backjob.protocols import Clock, Store
from backjob.stores.columns import COLUMNS
from backjob.stores.memory import MemoryStore
from backjob.testing import StoreContract
from backjob.testing._stores.model import Model
from backjob.testing._stores.watched import METHODS
from tests.contracts.broken_promises import broken_promise

LONG_AGO: Final = datetime(2001, 1, 1, tzinfo=UTC)
DEFAULTS: Final[dict[str, Any]] = {
    each.name: LONG_AGO if each.default is NOTHING else each.default for each in fields(Job) if each.name != "id"
}
KEEPS_ALL: Final = "test_no_call_loses_a_field"


# --- columns -----------------------------------------------------------------------------------------------------------


class LosesAColumn(MemoryStore):
    """Resets one column of each job that one kind of call writes."""

    def __init__(self, clock: Clock, call: str, column: str) -> None:
        super().__init__(clock=clock)
        self._losing = False
        self._call, self._lost = call, {column: DEFAULTS[column]}

    def _in(self, call: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self._losing = call == self._call
        try:
            return method(*arguments, **named)
        finally:
            self._losing = False

    def _write(self, job: Job) -> Job:
        return super()._write(evolve(job, **self._lost) if self._losing else job)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        changed: Job | None = self._in("change", super().change, job_id, expect, changes)
        return changed

    def report(self, job_id: str, token: str, report: Report) -> bool:
        written: bool = self._in("report", super().report, job_id, token, report)
        return written

    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        taken: list[Job] = self._in("take_due", super().take_due, *given, **options)
        return taken

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = super().beat(tokens, lease, alive)
        if self._call == "beat":
            for job_id in tokens.keys() - stale:
                self._jobs[job_id] = evolve(self._jobs[job_id], **self._lost)
        return stale


def losing(call: str, column: str) -> Callable[[Path, Clock], Store]:
    return lambda _, clock: LosesAColumn(clock, call, column)


UNSET_THEN: Final = {
    "report": {"end_time"},
    "beat": {"end_time"},
    "take_due": {"end_time", "token", "slot", "deliver_by", "waiting_for", "status", "delivery"},
    "change": set[str](),
}
"""The columns that can have no other value than their default when such a call is made."""


@pytest.mark.parametrize("call", UNSET_THEN)
def test_a_call_that_loses_a_column_is_noticed(call: str, tmp_path: Path) -> None:
    columns = [name for name in COLUMNS if name != "id" and name not in UNSET_THEN[call]]
    assert len(columns) > 35
    unnoticed = [
        column
        for column in columns
        if not broken_promise(StoreContract, KEEPS_ALL, losing(call, column), tmp_path / column)
    ]
    assert unnoticed == []


def test_the_job_of_that_test_has_a_value_in_every_column(tmp_path: Path) -> None:
    class Suite(StoreContract):
        def make_store(self, clock: Clock) -> Store:
            return MemoryStore(clock=clock)

    case = Suite()
    with case.opened(tmp_path):
        case._model = Model(case.clock)
        case._fill()
        found = case.read("full")
    assert [name for name in COLUMNS if getattr(found, name) == DEFAULTS.get(name)] == ["end_time"]


# --- arguments ----------------------------------------------------------------------------------------------------------


def altering(alter: Callable[[str, dict[str, Any]], None]) -> Callable[[Path, Clock], Store]:
    """Makes stores that alter the arguments of each call, by name, before they heed them."""

    def method(name: str) -> Callable[..., Any]:
        usual = getattr(MemoryStore, name)

        def call(*given: Any, **named: Any) -> Any:
            bound = signature(usual).bind(*given, **named)
            alter(name, bound.arguments)
            return usual(*bound.args, **bound.kwargs)

        return call

    kind = type("Alters", (MemoryStore,), {name: method(name) for name in METHODS})
    return lambda _, clock: kind(clock=clock)


def ignoring(kind: type, field: str) -> Callable[[Path, Clock], Store]:
    """Makes stores that take the default for one field of the objects of one kind."""

    def ignore(_: str, arguments: dict[str, Any]) -> None:
        for name, value in arguments.items():
            if isinstance(value, kind):
                heard: Any = value
                arguments[name] = evolve(heard, **{field: getattr(fields(kind), field).default})

    return altering(ignore)


def expecting(**condition: Any) -> tuple[str, dict[str, Any]]:
    return "test_a_change_with_an_unsatisfied_expectation_changes_nothing", {"expect": Expect(**condition)}


OF_FIELDS: Final[dict[type, dict[str, str | tuple[str, dict[str, Any]]]]] = {
    Draft: {
        each.name: "test_a_created_job_has_the_fields_of_its_draft"
        for each in fields(Draft)
        if each.name not in ("id", "request")
    },
    Changes: {
        **{each.name: KEEPS_ALL for each in fields(Changes)},
        "free_merge_key": ("test_a_freed_merge_key_can_be_taken_by_another", {"changes": Changes(free_merge_key=True)}),
    },
    Report: {
        **{each.name: KEEPS_ALL for each in fields(Report)},
        "truncated": "test_a_report_writes_all_of_its_fields_at_once",
        "tail": "test_a_report_replaces_the_tail",
    },
    Expect: {
        "status": expecting(status=Status.COMPLETED),
        "run": expecting(run=2),
        "token": expecting(token="other"),
        "version": expecting(version=1),
        "unclaimed": expecting(unclaimed=True),
        "lease_over": expecting(lease_over=True),
    },
    Query: {
        **dict.fromkeys(("scope", "status", "owner"), "test_each_filter_and_all_together"),
        "overdue": "test_a_silent_job_is_overdue_exactly_at_its_limit",
        "limit": "test_the_newest_come_first",
        "before": "test_pages_follow_one_another",
        "labels": "test_jobs_with_another_label_are_invisible",
        "root": "test_the_jobs_of_a_chain_are_found_and_counted",
        "statuses": "test_several_statuses_are_found_together",
        "queue": "test_the_jobs_of_a_queue_are_found",
        "text": "test_a_part_of_the_title_or_path_finds_a_job",
        "before_time": "test_a_page_begins_after_a_moment_if_the_job_before_is_gone",
        "expired": ("test_expired_finds_the_jobs_that_are_too_old", {"ages": (10, 0), "names": ["completed"]}),
        "has_file": "test_jobs_with_a_file_are_found",
    },
}
"""The test that must notice a store which ignores a field, with its arguments if it is parametrized."""


@pytest.mark.parametrize("kind", OF_FIELDS, ids=lambda kind: kind.__name__)
def test_a_field_that_is_ignored_is_noticed(kind: type, tmp_path: Path) -> None:
    tests = OF_FIELDS[kind]
    assert {*tests, *(("id", "request") if kind is Draft else ())} == {each.name for each in fields(kind)}
    unnoticed = []
    for field, named in tests.items():
        test, arguments = (named, {}) if isinstance(named, str) else named
        if not broken_promise(StoreContract, test, ignoring(kind, field), tmp_path / field, **arguments):
            unnoticed.append(field)
    assert unnoticed == []


OF_ARGUMENTS: Final[dict[str, dict[str, tuple[Any, str]]]] = {
    "create": {"merge_key": (None, "test_create_with_a_held_merge_key_returns_its_holder")},
    "output": {
        "offset": (0, "test_the_tail_comes_with_the_chunk_that_reaches_the_end"),
        "limit": (65536, "test_the_tail_comes_with_the_chunk_that_reaches_the_end"),
    },
    "take_due": {
        "lessee": ("somebody", "test_a_taken_job_is_leased"),
        "lease": (1.0, "test_a_taken_job_is_leased"),
        "limit": (1000, "test_the_longest_due_come_first_up_to_the_limit"),
        "labels": (None, "test_only_jobs_with_these_labels_are_taken"),
        "full": (frozenset(), "test_full_queues_are_skipped_and_hold_up_no_others"),
        "queues": (None, "test_only_the_jobs_of_the_given_queues_are_taken"),
    },
    "beat": {
        "lease": (1.0, "test_a_beat_renews_the_leases_of_many_jobs"),
        "alive": (frozenset(), "test_a_beat_renews_the_leases_of_many_jobs"),
    },
    "purge": {
        "completed_age": (0, "test_an_age_of_zero_keeps_jobs_forever"),
        "ended_age": (0, "test_an_age_of_zero_keeps_jobs_forever"),
        "labels": (None, "test_purge_removes_only_jobs_with_these_labels"),
    },
}
"""A value that a store may use instead of an argument, and the test that must notice it."""


@pytest.mark.parametrize("method", OF_ARGUMENTS)
def test_an_argument_that_is_ignored_is_noticed(method: str, tmp_path: Path) -> None:
    unnoticed = []
    for name, (value, test) in OF_ARGUMENTS[method].items():

        def ignore(called: str, arguments: dict[str, Any], name: str = name, value: Any = value) -> None:
            if called == method and name in arguments:
                arguments[name] = value

        if not broken_promise(StoreContract, test, altering(ignore), tmp_path / name):
            unnoticed.append(name)
    assert unnoticed == []
