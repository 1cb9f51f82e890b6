"""SQLite files that earlier versions made: their tables get the missing columns, and their jobs stay."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest

from backjob.errors import StoreUnusable
from backjob.lifecycle import claimed
from backjob.model import Changes, Draft, Expect, Query, Report, Request, Status
from backjob.stores.rows import moment
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock

CONTRACTS: Final = Path(__file__).parents[2] / "contracts"
EARLIER: Final = {
    name: (CONTRACTS / f"{name}_version" / "sqlite.sql").read_text(encoding="utf-8")
    for name in ("first", "second", "third")
}
DAY: Final = 86400.0
MINE: Final = frozenset(("mine",))
ROW: Final = (
    "INSERT INTO backjob (id, status, progress, output_size, output_truncated, created_time, start_time, deliver_by, "
    "updated_time, end_time, error_timeout, attempt, version, held, depth, scope, request, has_body) "
    "VALUES (?, ?, 0, 5, 0, 1, 1, 2, 1, ?, 60000000, 1, 3, 0, 0, 's', ?, ?)"
)
REQUEST: Final = '["POST","/export",true,[],null]'


@pytest.fixture(params=EARLIER)
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file with a waiting, an ended and a running job of an earlier version."""
    file = tmp_path / "jobs.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(EARLIER[request.param])
        connection.execute(ROW, ("waiting", 0, None, REQUEST, 1))
        connection.execute("INSERT INTO backjob_body VALUES (1, ?)", (b"a body",))
        connection.execute(ROW, ("ended", 2, 3, None, 0))
        connection.execute("INSERT INTO backjob_output VALUES (2, 0, ?)", (b"lines",))
        connection.execute(ROW, ("running", 1, None, REQUEST, 0))
        connection.execute("UPDATE backjob SET token = 'old' WHERE id = 'running'")
        if request.param in ("second", "third"):
            connection.execute("UPDATE backjob SET label = 'mine', root = 'first', waiting_for = 'proof'")
        if request.param == "third":
            connection.execute(
                "UPDATE backjob SET run = 2, delivery = 3, queue = 'exports', slot = 'exports/' || seq, retries = 4, "
                "cursor = '7', history = '[]', claimed_time = 5, expires = 9, deliver_by = 8 WHERE id <> 'running'"
            )
        connection.commit()
    return file


def shape(path: Path) -> tuple[set[tuple[str, ...]], set[str]]:
    """The columns of the table of jobs, in any order, and the definitions of its indices."""
    with closing(sqlite3.connect(path)) as connection:
        columns = connection.execute("SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('backjob')")
        indices = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        return {*columns}, {sql for (sql,) in indices}


@pytest.fixture
def opened(path: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(path, clock=FakeClock())) as store:
        yield store


def test_the_tables_become_those_of_this_version(path: Path, tmp_path: Path) -> None:
    SQLiteStore(path).close()
    SQLiteStore(tmp_path / "new.db").close()
    assert shape(path) == shape(tmp_path / "new.db")


def test_old_jobs_keep_their_values(opened: SQLiteStore) -> None:
    job = opened.get("waiting", body=True)
    assert job is not None
    assert job.request == Request("POST", "/export", body=b"a body")
    assert (job.status, job.version, job.scope) == (Status.STARTED, 3, "s")
    assert (job.title, job.method, job.path, job.keep_request, job.file) == (None, "POST", "/export", False, None)
    assert opened.output("ended").text == "lines"
    ended = opened.get("ended")
    assert ended is not None
    assert (ended.title, ended.method, ended.path, ended.file) == (None, "", None, None)


@pytest.mark.parametrize("path", ["first", "second"], indirect=True)
def test_jobs_from_before_runs_are_in_their_first(opened: SQLiteStore) -> None:
    job = opened.get("waiting")
    assert job is not None
    assert (job.run, job.delivery, job.attempt, job.retries, job.retry_delay) == (1, 1, 1, 0, 10.0)
    assert (job.queue, job.slot, job.as_owner) == ("default", None, False)
    assert (job.history, job.cursor, job.claimed_time, job.expires) == (None, None, None, None)


@pytest.mark.parametrize("path", ["third"], indirect=True)
def test_jobs_of_the_third_version_keep_their_run_and_limits(opened: SQLiteStore) -> None:
    job = opened.get("waiting")
    assert job is not None
    assert (job.run, job.delivery, job.retries, job.queue, job.slot) == (2, 3, 4, "exports", "exports/1")
    assert (job.cursor, job.history) == (7, [])
    assert (job.claimed_time, job.deliver_by, job.expires) == (moment(5), moment(8), moment(9))
    assert [job.id for job in opened.find(Query(overdue=True, status=Status.STARTED))] == ["waiting"]


@pytest.mark.parametrize("path", ["second", "third"], indirect=True)
def test_jobs_of_later_versions_keep_their_label(opened: SQLiteStore) -> None:
    job = opened.get("waiting")
    assert job is not None
    assert (job.label, job.root, job.waiting_for) == ("mine", "first", "proof")


@pytest.mark.parametrize("path", ["first", "second"], indirect=True)
def test_a_waiting_job_begins_anew_to_count_the_time_of_its_delivery(opened: SQLiteStore) -> None:
    assert opened.find(Query(overdue=True, status=Status.STARTED)) == []
    assert opened.change("waiting", Expect(), Changes(deliver_by=None)) is not None
    (job,) = opened.take_due("me", 60, 1)
    assert (job.id, job.deliver_by) == ("waiting", None)


def test_a_job_that_an_earlier_version_runs_has_no_run_lease_but_its_timeout(opened: SQLiteStore) -> None:
    job = opened.get("running")
    assert job is not None
    assert job.lease_until is None
    assert opened.change("running", Expect(lease_over=True), Changes(progress=9)) is None
    running = Query(overdue=True, status=Status.IN_PROGRESS)
    assert [job.id for job in opened.find(running)] == ["running"]
    assert opened.report("running", "old", Report(progress=5))
    assert opened.find(running) == []
    assert opened.beat({"running": "old"}, 18, frozenset()) == frozenset()


@pytest.mark.parametrize("path", ["first"], indirect=True)
def test_jobs_of_the_first_version_belong_to_no_application(opened: SQLiteStore) -> None:
    job = opened.get("waiting")
    assert job is not None
    assert (job.label, job.proof, job.root, job.waiting_for) == ("", None, None, None)
    assert opened.find(Query(labels=MINE)) == []
    assert opened.take_due("me", 60, 10, MINE) == []
    assert opened.purge(DAY, DAY, MINE) == 0
    assert opened.purge(DAY, DAY, MINE | {""}) == 1
    assert [job.id for job in opened.find(Query())] == ["running", "waiting"]


def test_new_jobs_work_beside_old_ones(opened: SQLiteStore) -> None:
    opened.create(Draft(id="new", request=Request("GET", "/work"), label="other", root="first"), "key")
    assert [job.id for job in opened.take_due("me", 60, 10, frozenset(("other",)))] == ["new"]
    assert opened.change("new", *claimed("token", 1, 18)) is not None
    waiting = opened.get("waiting")
    assert waiting is not None
    assert opened.change("waiting", *claimed("token", waiting.run, 18)) is not None


def test_two_processes_that_start_at_once_upgrade_it_once(path: Path) -> None:
    barrier = Barrier(4)

    def open_it(_: int) -> int:
        barrier.wait(30)
        with closing(SQLiteStore(path)) as store:
            return store.count(Query())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_it, range(4))) == [3] * 4


def test_a_store_that_creates_no_tables_prints_the_statements_that_are_missing(path: Path) -> None:
    before = shape(path)
    with closing(SQLiteStore(path, create_table=False)) as store:
        with pytest.raises(StoreUnusable, match=r"earlier version of backjob.*create_table=True") as caught:
            store.get("waiting")
        assert shape(path) == before
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(str(caught.value).partition("run this SQL once:\n")[2])
        assert store.count(Query()) == 3


def test_a_table_with_a_part_of_the_new_columns_is_refused_and_not_changed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE backjob ADD COLUMN title TEXT")
    before = shape(path)
    with pytest.raises(StoreUnusable, match="another layout"):
        SQLiteStore(path)
    assert shape(path) == before


def test_an_upgrade_that_fails_changes_nothing(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE backjob RENAME TO hidden")
        connection.execute("CREATE VIEW backjob AS SELECT * FROM hidden")  # a view takes no column
    before = shape(path)
    with pytest.raises(StoreUnusable):
        SQLiteStore(path)
    assert shape(path) == before
