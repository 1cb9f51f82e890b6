"""The published suite fails for each broken store, by the test that is about the broken promise, which it names."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from backjob.protocols import Clock, Store
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import StoreContract
from backjob.testing._stores.children import Children
from tests.contracts.broken import every
from tests.contracts.broken.faults import Fault
from tests.contracts.broken.hangs import AcceptsEveryReport
from tests.contracts.broken_promises import broken_promise, broken_promise_of_processes
from tests.contracts.test_store_outages import TestSQLiteStore as OutagesOfAFile

PATIENCE: Final = 60.0
TAKING_LONG: Final = ("costs", "hangs")
RACES: Final = {"claims": 160, "creates": 160, "due": 60, "slot_takes": 320, "contested": 2}
"""The size of the races: a fault shows soon."""


class Suite(OutagesOfAFile, StoreContract):
    __test__ = False
    patience = PATIENCE
    examples = race_examples = 400  # a search ends at the first failure, and must not miss it by chance


def made(store: type[Any]) -> Callable[[Path, Clock], Store]:
    """Makes a broken store in the directory of a test."""

    def make(directory: Path, clock: Clock) -> Store:
        is_file = issubclass(store, SQLiteStore)
        opened: Store = store(directory / "jobs.db", clock=clock) if is_file else store(clock=clock)
        return opened

    return make


def check_named(fault: Fault, found: str) -> None:
    """Check that the first line of the failure names the promise."""
    assert f"promise broken: {fault.promise}" in found.partition("\n")[0], found


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=pytest.mark.slow if fault.module in TAKING_LONG else ()) for fault in every.OF_ONE],
    ids=str,
)
def test_a_fault_is_named(fault: Fault, tmp_path: Path) -> None:
    # A busy machine must not count as a fault: only the test of a fault that hangs ends in a second.
    hangs = fault.promise.startswith(("every call returns", "calls from many threads all return"))
    attributes = {"patience": 1.0 if hangs else PATIENCE, **fault.attributes}
    check_named(fault, broken_promise(Suite, fault.test, made(fault.store), tmp_path, **attributes))


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[float], Children]]:
    """The processes that wait so many seconds for each other."""
    each: dict[float, Children] = {}
    yield lambda patience: each.setdefault(patience, Children(tmp_path_factory.mktemp("processes"), patience))
    for some in each.values():
        some.end()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*every.IN_FILES, *every.RACED], ids=str)
def test_a_fault_between_processes_is_named(
    fault: Fault, children: Callable[[float], Children], tmp_path: Path
) -> None:
    attributes = {"patience": PATIENCE, **RACES, **fault.attributes}
    address = json.dumps([fault.store.__name__, f"{tmp_path}/jobs.db"])
    opener = f"{every.__name__}:{every.opened_badly.__name__}"
    some = children(attributes["patience"])
    check_named(fault, broken_promise_of_processes(fault.test, opener, address, tmp_path, some, **attributes))


def test_a_failure_of_generated_calls_shows_them_and_ends_the_search_in_time(tmp_path: Path) -> None:
    made_after_the_failure: list[Store] = []
    has_failed = threading.Event()

    class Counted(AcceptsEveryReport):
        def __init__(self, *, clock: Clock | None = None) -> None:
            super().__init__(clock=clock)
            if has_failed.is_set():
                made_after_the_failure.append(self)

        def report(self, job_id: str, token: str, report: Any) -> bool:
            has_failed.set()
            return super().report(job_id, token, report)

    test = "test_any_sequence_of_calls_matches_the_model"
    found = broken_promise(Suite, test, made(Counted), tmp_path, shrinking=0.0)
    first, *steps = found.splitlines()
    assert first == "promise broken: report returns what the model returns"
    assert steps[2] == "  the shortest example that was found:"
    assert steps[-1].partition(". ")[2].startswith("report(")
    assert made_after_the_failure == []
