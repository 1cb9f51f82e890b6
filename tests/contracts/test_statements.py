"""How many statements each step of a job's life takes in each store. Run leases, runs and slots have added none.

The figures are those of the version in which a job had one run, and no lease while it ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Report, Request
from backjob.protocols import Store
from backjob.testing import FakeClock
from backjob.worker.running import Running
from tests.contracts.counted import Counter, counter
from tests.shared_stores import BY_NAME

JOBS: Final = 1000

SERVED = [pytest.param(name, marks=pytest.mark.services) for name in ("PostgreSQL", "MariaDB", "Redis")]

# create, claim, update, update with output, end
FIGURES = {
    "SQLiteStore": (1, 1, 1, 4, 1),
    "PostgreSQL": (1, 1, 1, 1, 1),
    "MariaDB": (1, 1, 1, 1, 1),
    "Redis": (1, 1, 1, 1, 1),
}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return counter(monkeypatch)


@pytest.fixture(params=["SQLiteStore", *SERVED])
def store(request: pytest.FixtureRequest, counts: Counter, tmp_path: Path) -> Iterator[Store]:
    shared = BY_NAME[request.param]
    with shared.place(tmp_path) as url, shared.open(url) as opened:
        for job_id in ("first", "second"):  # connects and prepares; Redis then knows the scripts
            _live(opened, job_id)
        yield opened


def _live(store: Store, job_id: str) -> None:
    store.create(draft(job_id))
    assert store.change(job_id, *claimed("token", 1, 18.0))
    assert store.report(job_id, "token", Report(progress=50))
    assert store.report(job_id, "token", Report(output="50 rows\n"))
    assert store.change(job_id, Expect(token="token"), ended(completed()))


def draft(job_id: str) -> Draft:
    return Draft(id=job_id, request=Request("GET", "/work"))


def test_each_step_takes_as_many_statements_as_before_run_leases(
    store: Store, counts: Counter, request: pytest.FixtureRequest
) -> None:
    with counts.counted() as created:
        store.create(draft("job"))
    with counts.counted() as claim:
        assert store.change("job", *claimed("token", 1, 18.0))
    with counts.counted() as update:
        assert store.report("job", "token", Report(progress=50))
    with counts.counted() as output:
        assert store.report("job", "token", Report(output="50 rows\n"))
    with counts.counted() as end:
        assert store.change("job", Expect(token="token"), ended(completed()))
    figures = tuple(map(len, (created, claim, update, output, end)))
    assert figures == FIGURES[request.node.callspec.params["store"]], [created, claim, update, output, end]


def test_a_text_in_each_of_a_thousand_rows_takes_one_write_in_an_interval(
    store: Store, counts: Counter, request: pytest.FixtureRequest
) -> None:
    store.create(draft("job"))
    job = store.change("job", *claimed("token", 1, 18.0))
    assert job is not None
    running = Running(job, "token", store=store, clock=FakeClock(), max_output=1000, dirty=lambda _: None)
    with counts.counted() as first:
        for row in range(1000):
            running.set_text(f"row {row}", row // 10)
    with counts.counted() as last:
        running.flush()
    job = store.get("job")
    assert job is not None
    assert (job.status_text, job.progress) == ("row 999", 99)
    update = FIGURES[request.node.callspec.params["store"]][2]
    assert (len(first), len(last)) == (update, update)


# a report with a tail, a chunk from the middle of output that has one, the chunk that reaches its end, delete
LATER_FIGURES = {
    "SQLiteStore": (5, 2, 3, 5),
    "PostgreSQL": (6, 2, 3, 5),
    "MariaDB": (6, 2, 3, 5),
    "Redis": (1, 1, 1, 1),
}


def test_a_tail_costs_nothing_where_it_is_not_read(
    store: Store, counts: Counter, request: pytest.FixtureRequest
) -> None:
    store.create(draft("job"))
    assert store.change("job", *claimed("token", 1, 18.0))
    store.report("job", "token", Report(output="0123456789"))
    assert (store.output("nobody").text, store.delete("nobody")) == ("", False)  # Redis knows the scripts from then on
    with counts.counted() as report:
        assert store.report("job", "token", Report(truncated=True, tail="end"))
    with counts.counted() as middle:
        assert store.output("job", 0, 5).tail == ""
    with counts.counted() as end:
        assert store.output("job", 5).tail == "end"
    with counts.counted() as delete:
        assert store.delete("job")
    figures = tuple(map(len, (report, middle, end, delete)))
    assert figures == LATER_FIGURES[request.node.callspec.params["store"]], [report, middle, end, delete]


def test_a_thousand_running_jobs_renew_in_one_write(store: Store, counts: Counter) -> None:
    tokens = {f"job {number}": f"token {number}" for number in range(JOBS)}
    for job_id, token in tokens.items():
        store.create(draft(job_id))
        assert store.change(job_id, *claimed(token, 1, 18.0))
    store.beat({"job 0": "token 0"}, 18.0, frozenset())  # its own connection
    with counts.counted() as renewal:
        assert store.beat(tokens, 60.0, frozenset({"job 1"})) == frozenset()
    writes = [one for one in renewal if one.startswith(("UPDATE", "WITH", "EVALSHA"))]
    assert len(writes) == 1, [one[:60] for one in renewal]
    assert len(renewal) <= 5, [one[:60] for one in renewal]  # beside it, a transaction and at most one read
