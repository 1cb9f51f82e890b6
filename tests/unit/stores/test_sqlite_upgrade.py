"""SQLite files that the first version made: their tables get the missing columns, and their jobs stay."""

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
from backjob.model import Draft, Query, Request, Status
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock

FIRST: Final = (Path(__file__).parents[2] / "contracts" / "first_version" / "sqlite.sql").read_text(encoding="utf-8")
DAY: Final = 86400.0
MINE: Final = frozenset(("mine",))
ROW: Final = (
    "INSERT INTO backjob (id, status, progress, output_size, output_truncated, created_time, start_time, deliver_by, "
    "updated_time, end_time, error_timeout, attempt, version, held, depth, scope, request, has_body) "
    "VALUES (?, ?, 0, 5, 0, 1, 1, 2, 1, ?, 60000000, 1, 3, 0, 0, 's', ?, ?)"
)
REQUEST: Final = '["POST","/export",true,[],null]'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a waiting and an ended job of the first version."""
    file = tmp_path / "jobs.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(FIRST)
        connection.execute(ROW, ("waiting", 0, None, REQUEST, 1))
        connection.execute("INSERT INTO backjob_body VALUES (1, ?)", (b"a body",))
        connection.execute(ROW, ("ended", 2, 3, None, 0))
        connection.execute("INSERT INTO backjob_output VALUES (2, 0, ?)", (b"lines",))
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
    assert (job.label, job.proof, job.root, job.waiting_for) == ("", None, None, None)
    assert opened.output("ended").text == "lines"


def test_old_jobs_belong_to_no_application(opened: SQLiteStore) -> None:
    assert opened.find(Query(labels=MINE)) == []
    assert opened.take_due("me", 60, 10, MINE) == []
    assert opened.purge(DAY, DAY, MINE) == 0
    assert opened.purge(DAY, DAY, MINE | {""}) == 1
    assert [job.id for job in opened.find(Query())] == ["waiting"]


def test_new_jobs_work_beside_old_ones(opened: SQLiteStore) -> None:
    opened.create(Draft(id="new", request=Request("GET", "/work"), label="mine", root="first"), "key")
    assert [job.id for job in opened.take_due("me", 60, 10, MINE)] == ["new"]
    assert opened.change("new", *claimed("token", 1, 18)) is not None
    assert opened.change("waiting", *claimed("token", 1, 18)) is not None


def test_two_processes_that_start_at_once_upgrade_it_once(path: Path) -> None:
    barrier = Barrier(4)

    def open_it(_: int) -> int:
        barrier.wait(30)
        with closing(SQLiteStore(path)) as store:
            return store.count(Query())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_it, range(4))) == [2] * 4


def test_a_store_that_creates_no_tables_prints_the_statements_that_are_missing(path: Path) -> None:
    before = shape(path)
    with closing(SQLiteStore(path, create_table=False)) as store:
        with pytest.raises(StoreUnusable, match=r"earlier version of backjob.*create_table=True") as caught:
            store.get("waiting")
        assert shape(path) == before
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(str(caught.value).partition("run this SQL once:\n")[2])
        assert store.count(Query()) == 2


def test_a_table_with_a_part_of_the_new_columns_is_refused_and_not_changed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE backjob ADD COLUMN label TEXT NOT NULL DEFAULT ''")
    before = shape(path)
    with pytest.raises(StoreUnusable, match="another layout"):
        SQLiteStore(path)
    assert shape(path) == before
