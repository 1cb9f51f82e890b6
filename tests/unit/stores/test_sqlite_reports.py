"""`SQLiteStore.report_all`: each report as `report` writes it, and all of them or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backjob.errors import StoreUnavailable, StoreUnusable
from backjob.lifecycle import claimed
from backjob.model import LONGEST_TAIL, Draft, Report, Request
from backjob.stores.sqlite import SQLiteStore
from backjob.stores.sqlite.connections import Reading, Transaction
from backjob.testing import FakeClock

_IDS = ("a", "b", "c")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(tmp_path / "jobs.db", clock=clock, busy_timeout=0.05)) as store:
        for job_id in _IDS:
            store.create(Draft(id=job_id, request=Request("GET", "/work")))
            assert store.change(job_id, *claimed(f"token of {job_id}", 1, 60)) is not None
        yield store


def each(*reports: Report) -> list[tuple[str, str, Report]]:
    return [(job_id, f"token of {job_id}", report) for job_id, report in zip(_IDS, reports, strict=False)]


def test_each_report_is_written_as_report_writes_it(store: SQLiteStore, clock: FakeClock) -> None:
    clock.advance(5)
    reports = (Report(progress=5, text="five"), Report(output="aä\n"), Report(cursor={"row": 7}))
    assert store.report_all(each(*reports)) == [True, True, True]
    for job_id, report in zip(_IDS, reports, strict=True):
        alone = f"{job_id} alone"
        store.create(Draft(id=alone, request=Request("GET", "/work")))
        store.change(alone, *claimed("token", 1, 60))
        assert store.report(alone, "token", report)
        together, single = store.get(job_id), store.get(alone)
        assert together is not None
        assert single is not None
        for name in ("progress", "status_text", "output_size", "cursor", "attempt", "version", "updated_time"):
            assert getattr(together, name) == getattr(single, name), name
        assert store.output(job_id) == store.output(alone)


def test_output_is_appended_in_the_order_of_the_calls(store: SQLiteStore) -> None:
    for number in range(20):
        assert store.report_all(each(*[Report(output=f"{job_id}{number}\n") for job_id in _IDS])) == [True] * 3
        assert store.report("a", "token of a", Report(output="alone\n"))
    assert store.output("a").text == "".join([f"a{number}\nalone\n" for number in range(20)])
    assert store.output("c").text == "".join([f"c{number}\n" for number in range(20)])


def test_a_stale_token_or_an_unknown_job_does_not_matter_to_the_others(store: SQLiteStore) -> None:
    reports = each(*[Report(output="x", progress=9)] * 3)
    reports[1] = ("b", "token of another run", reports[1][2])
    reports.append(("unknown", "token", Report(output="x")))
    assert store.report_all(reports) == [True, False, True, False]
    assert [store.output(job_id).text for job_id in (*_IDS, "unknown")] == ["x", "", "x", ""]


def test_large_outputs_and_tails_are_whole(store: SQLiteStore) -> None:
    output, tail = "ä€𝄞\n" * 50_000, "z" * LONGEST_TAIL
    reports = (Report(output=output), Report(output="b", truncated=True, tail=tail), Report(truncated=True, tail="end"))
    assert all(store.report_all(each(*reports)))
    assert store.report_all(each(Report(output="!"), Report(truncated=True, tail="later"))) == [True, True]
    assert store.output("a", 0, 1 << 22).text == output + "!"
    assert (store.output("b").text, store.output("b").tail) == ("b", "later")
    assert (store.output("c").text, store.output("c").tail) == ("", "end")


def test_a_report_that_is_refused_leaves_nothing_written(store: SQLiteStore) -> None:
    refused = Report(text="x", output="x")
    object.__setattr__(refused, "text", "\ud800")  # as a store that can't keep some text
    with pytest.raises(UnicodeEncodeError):
        store.report_all(each(Report(output="x"), refused, Report(output="x")))
    assert [store.output(job_id).text for job_id in _IDS] == ["", "", ""]
    assert [job.version for job_id in _IDS if (job := store.get(job_id)) is not None] == [2, 2, 2]


def test_no_reports_take_no_transaction(store: SQLiteStore) -> None:
    with Transaction(store._connections):
        assert store.report_all([]) == []


def test_a_locked_database_is_unavailable_and_nothing_is_written(store: SQLiteStore) -> None:
    other = SQLiteStore(store._connections.path)
    with closing(other), Transaction(other._connections), pytest.raises(StoreUnavailable):
        store.report_all(each(Report(output="x")))
    assert store.output("a").text == ""


@pytest.mark.parametrize("ends", ["COMMIT", "BEGIN"])
def test_a_transaction_that_can_not_begin_or_commit_is_an_error_of_the_store_and_blocks_no_other(
    store: SQLiteStore, ends: str
) -> None:
    if ends == "COMMIT":
        with (
            pytest.raises(StoreUnusable, match="no transaction is active"),
            Transaction(store._connections) as connection,
        ):
            connection.execute("ROLLBACK")
    else:
        with Reading(store._connections) as connection:
            connection.execute("BEGIN")
        with pytest.raises(StoreUnusable, match="within a transaction"):
            store.report_all(each(Report(output="lost")))
    assert store.report("a", "token of a", Report(output="x"))
    assert store.output("a").text == "x"
