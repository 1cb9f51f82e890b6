"""The store of docs/own-store.md is as short as it says, uses its indices, and survives the death of its process at any moment."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

import pytest

from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Query, Report, Request, Status
from backjob.protocols import Store
from backjob.testing import FakeClock
from tests.docs.code_lines import code_lines
from tests.docs.pages import ROOT, blocks

PAGE: Final = ROOT / "docs" / "own-store.md"
DIED: Final = 9
DEADLINE: Final = 100  # s
MOST_LINES: Final = 1000
"""More lines than a single call of the store runs."""


def code() -> str:
    [example] = [block.code for block in blocks(PAGE) if block.title == "indexed_store.py"]
    return example


def test_the_page_says_how_many_lines_of_code_the_store_has() -> None:
    lines = code_lines(code())
    assert lines < 150
    assert f"This store has {lines} lines of code" in PAGE.read_text(encoding="utf-8")


SEARCHES: Final[dict[str, Callable[[Store], object]]] = {
    "due": lambda store: store.take_due("me", 0, 2),
    "due, with a label and a queue": lambda store: store.take_due(
        "me", 0, 2, frozenset(("a",)), frozenset(("full",)), queues=frozenset(("default",))
    ),
    "overdue": lambda store: store.find(Query(overdue=True)),
    "status": lambda store: store.find(Query(status=Status.STARTED, limit=2)),
    "statuses": lambda store: store.find(Query(statuses=frozenset((Status.STARTED, Status.FAILED)), limit=2)),
    "owner": lambda store: store.find(Query(owner="me", limit=2)),
    "owner and label": lambda store: store.find(Query(owner="me", labels=frozenset(("a",)))),
    "scope": lambda store: store.find(Query(scope="mine")),
    "root": lambda store: store.count(Query(root="mine")),
    "old": lambda store: store.find(Query(expired=(100, 100), has_file=True)),
    "purge": lambda store: store.purge(100, 100, frozenset(("a",))),
}


def test_no_search_reads_the_jobs_that_its_index_passes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Store = loaded(tmp_path).IndexedStore(tmp_path / "jobs.db", clock=FakeClock())
    for number in range(3):
        store.create(draft(f"{number}", owner="me", scope="mine", root="mine", label="a", expires=0))

    def run_many(begin: int, end: int) -> None:
        for number in range(begin, end):
            job_id = f"other {number}"
            store.create(draft(job_id, owner="you", scope="yours", root="yours", label="a"))
            store.change(job_id, *claimed("token", 1, 60))
            store.change(job_id, Expect(token="token"), ended(completed()))

    run_many(0, 5)
    few = {name: instructions(partial(search, store), monkeypatch) for name, search in SEARCHES.items()}
    run_many(5, 60)
    many = {name: instructions(partial(search, store), monkeypatch) for name, search in SEARCHES.items()}
    assert {name: many[name] for name in many if many[name] > few[name] + 100} == {}


def instructions(search: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many instructions SQLite executes; a scan takes at least three for each job."""
    executed = 0
    connect = sqlite3.connect

    def count() -> int:
        nonlocal executed
        executed += 1
        return 0

    def counting(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_progress_handler(count, 1)
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", counting)
        search()
    return executed


def loaded(directory: Path) -> ModuleType:
    """The module of the page."""
    file = directory / "indexed_store.py"
    file.write_text(code(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("indexed_store", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draft(job_id: str, **fields: Any) -> Draft:
    return Draft(id=job_id, request=Request("POST", "/work", body=b"body"), **fields)


def prepared(module: ModuleType, directory: Path) -> Store:
    """A store with a running job that has output, and an ended job."""
    clock = FakeClock()
    directory.mkdir()
    store: Store = module.IndexedStore(directory / "jobs.db", clock=clock)
    for job_id in ("runs", "ended"):
        store.create(draft(job_id), f"key of {job_id}")
        store.change(job_id, *claimed("token", 1, 60))
        store.report(job_id, "token", Report(progress=10, output="first\n"))
    store.change("ended", Expect(token="token"), ended(completed("done")))
    clock.advance(2)
    return store


WRITES: Final[dict[str, Callable[[Store, str], object]]] = {
    "create": lambda store, text: store.create(draft("new"), text),
    "change": lambda store, text: store.change("runs", Expect(token="token"), ended(completed(text))),
    "beat": lambda store, text: store.beat({"runs": "token"}, 30 + len(text), frozenset(("runs",))),
    "report": lambda store, text: store.report("runs", "token", Report(progress=20, output=text)),
    "delete": lambda store, text: store.delete("ended"),
    "purge": lambda store, text: store.purge(1, 1),
}
CUT_SHORT: Final = "cut short\n"
TRIED_AGAIN: Final = "again\n"


def seen(store: Store) -> list[object]:
    """Everything that a reader can see: all jobs, newest first, with their output."""
    return [(job, store.get(job.id) == job, store.output(job.id)) for job in store.find(Query(limit=10))]


def orphans(directory: Path) -> list[object]:
    """Bodies and output of jobs that are no more."""
    with closing(sqlite3.connect(directory / "jobs.db")) as db:
        return db.execute(
            "SELECT number FROM (SELECT number FROM bodies UNION SELECT number FROM chunks) "
            "WHERE number NOT IN (SELECT number FROM jobs)"
        ).fetchall()


def dies_before_line(number: int, module: ModuleType, write: Callable[[], object]) -> bool:
    """Run ``write`` in a child that dies before that line of the module. False if it had finished by then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests, which the child does not need
        child = os.fork()
    if child == 0:
        _run_as_child(number, module, write)
    outcome = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert outcome in (0, DIED)
    return outcome == DIED


def _run_as_child(number: int, module: ModuleType, write: Callable[[], object]) -> None:
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> object:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        left -= event == "line"
        if left <= 0:
            os._exit(DIED)  # only the system flushes, closes and unlocks
        return trace

    try:
        sys.settrace(trace)  # type: ignore[arg-type]
        write()
        os._exit(0)
    finally:
        os._exit(1)  # a child must never return to the tests


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITES)
def test_a_write_whose_process_dies_is_complete_or_has_no_effect(name: str, tmp_path: Path) -> None:
    # It forks once for each line that the store runs, which takes long in the large process of all tests.
    process = get_context("spawn").Process(target=dies_anywhere, args=(name, tmp_path))
    process.start()
    process.join(DEADLINE)
    process.kill()
    process.join()
    assert process.exitcode == 0, "the traceback is in the captured stderr"


def dies_anywhere(name: str, tmp_path: Path) -> None:
    """Have processes die before each line of the store that a write runs, one after another."""
    module = loaded(tmp_path)
    write = WRITES[name]
    before = seen(prepared(module, tmp_path / "before"))
    done = {text: prepared(module, tmp_path / text.strip()) for text in (CUT_SHORT, TRIED_AGAIN)}
    for text, store in done.items():
        write(store, text)
        assert seen(store) != before

    outcomes, died = [], True
    for number in range(1, MOST_LINES):
        directory = tmp_path / str(number)
        store = prepared(module, directory)
        died = dies_before_line(number, module, partial(write, store, CUT_SHORT))
        outcomes.append(seen(store))
        assert outcomes[-1] in (before, seen(done[CUT_SHORT])), f"died before line {number} of those that it ran"
        if not died:
            break
        # The lock is free: an interrupted write can be repeated.
        if outcomes[-1] == before or name in ("purge", "delete"):
            write(store, TRIED_AGAIN)
        assert seen(store) in (seen(done[CUT_SHORT]), seen(done[TRIED_AGAIN]))
        assert not orphans(directory)
    assert not died
    assert outcomes[0] == before
