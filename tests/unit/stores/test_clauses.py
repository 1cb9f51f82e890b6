"""The conditions of searches in SQL. The store of docs/own-store.md runs them, and passes the contract with them."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from backjob.lifecycle import completed, ended
from backjob.model import Draft, Query, Request, Status
from backjob.stores.clauses import SEARCHED, due_clause, query_clauses, searched_row
from backjob.stores.rows import microseconds
from backjob.stores.steps import changed, new_job

NOW = 1_000_000
NONE = frozenset[str]()
HOSTILE = "'; DROP TABLE jobs; --"


def test_values_are_parameters_whose_names_the_driver_understands() -> None:
    due = due_clause(NOW, frozenset((HOSTILE,)), NONE, None, mark="%({})s".format)
    assert "%(now)s" in due.sql
    assert due.sql.endswith("label IN (%(label_0)s)")
    assert due.values == {"now": NOW, "label_0": HOSTILE}
    [found] = query_clauses(Query(owner=HOSTILE, text=HOSTILE), NOW, None, position="strpos")
    assert HOSTILE not in found.sql
    assert "(strpos(lower(title), lower(:text)) > 0 OR strpos(lower(title), :folded) > 0 OR" in found.sql
    assert found.values == {"owner": HOSTILE, "text": HOSTILE, "folded": HOSTILE.lower()}
    assert HOSTILE not in repr(found)


@pytest.mark.parametrize("labels", [None, NONE])
def test_none_stands_for_any_name_and_no_names_find_nothing(labels: frozenset[str] | None) -> None:
    due = due_clause(NOW, labels, NONE, labels)
    [found] = query_clauses(Query(labels=labels), NOW, None)
    assert [("1 = 0" in sql) for sql in (due.sql, found.sql)] == [labels is not None] * 2
    assert "label IN" not in due.sql + found.sql


def test_a_job_of_a_full_queue_needs_a_slot() -> None:
    due = due_clause(NOW, None, frozenset(("a", "b")), frozenset(("a",)))
    assert due.sql.endswith("queue IN (:queue_0) AND (slot IS NOT NULL OR NOT queue IN (:full_0, :full_1))")
    assert due.values == {"now": NOW, "queue_0": "a", "full_0": "a", "full_1": "b"}


@pytest.mark.parametrize(
    ("query", "last", "condition"),
    [
        (Query(), None, "1 = 1"),
        (Query(before="job"), 7, "number < :last"),
        (Query(before="job"), None, "1 = 0"),
        (Query(before="job", before_time=datetime.now(UTC)), 7, "number < :last"),
        (Query(before="job", before_time=datetime.now(UTC)), None, "created_time < :before_time"),
        (Query(before_time=datetime.now(UTC)), None, "created_time < :before_time"),
    ],
)
def test_a_page_begins_after_a_job_or_a_moment(query: Query, last: int | None, condition: str) -> None:
    assert [clause.sql for clause in query_clauses(query, NOW, last)] == [condition]


def test_each_search_of_a_query_has_one_status_and_its_age() -> None:
    found = query_clauses(Query(expired=(1, 2), status=Status.COMPLETED), NOW, None)
    assert [(clause.sql, clause.values) for clause in found] == [
        ("status = :status AND end_time < :ended_before", {"status": 2, "ended_before": 0})
    ]
    statuses = frozenset((Status.STARTED, Status.FAILED))
    assert [clause.values for clause in query_clauses(Query(statuses=statuses), NOW, None)] == [
        {"status": 0},
        {"status": 3},
    ]
    assert query_clauses(Query(statuses=frozenset()), NOW, None) == []


def test_a_table_of_searched_rows_finds_overdue_jobs() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    waiting = new_job(Draft(id="waiting", request=Request("GET", "/work"), expires=5), None, now)
    over = changed(waiting, ended(completed()), now)
    db = sqlite3.connect(":memory:")
    db.execute(f"CREATE TABLE jobs ({', '.join(SEARCHED)})")
    marks = ", ".join("?" * len(SEARCHED))
    db.executemany(f"INSERT INTO jobs VALUES ({marks})", [searched_row(job) for job in (waiting, over)])

    def found(seconds: float) -> list[tuple[str]]:
        [clause] = query_clauses(Query(overdue=True), microseconds(now + timedelta(seconds=seconds)), None)
        return db.execute(f"SELECT id FROM jobs WHERE {clause.sql}", clause.values).fetchall()

    assert found(4.999_999) == []
    assert found(5) == [("waiting",)]
    db.close()
