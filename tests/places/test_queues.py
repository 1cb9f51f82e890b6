"""A queue with a limit, served by four processes: never more jobs at once, no slot lost with a process, no other queue held up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from backjob import Status
from backjob.model import Query
from backjob.protocols import Capability, lacks
from backjob.stores import open_store
from tests.faults.killing import HerdKind, herd
from tests.places.timing import Run, by_process, environment, most_at_once, runs_of, wait_for
from tests.scenarios.servers import gunicorn
from tests.shared_stores import BY_NAME, LISTING_STORES, SharedStore

JOBS = 200
FEW_JOBS = 120
"""In the usual tests."""
OTHERS = 24
LIMIT = 2
SECONDS = 0.1
PATIENCE = 150.0  # s
LEASE = 2
KILL_AFTER = (20, 40, 60)
"""After so many runs of the limited queue a process is killed."""

pytestmark = [pytest.mark.timeout(400)]

FOUR = HerdKind("gunicorn 4x4", gunicorn("--workers=4", "--threads=4"))
RUNS = [
    pytest.param(BY_NAME["SQLiteStore"], FEW_JOBS, marks=pytest.mark.slow, id="SQLiteStore, few jobs"),
    *[pytest.param(store, JOBS, marks=pytest.mark.nightly, id=store.name) for store in LISTING_STORES],
]


@pytest.fixture
def place(store: SharedStore, tmp_path: Path) -> Iterator[str]:
    with store.place(tmp_path) as url:
        yield url


def of(queue: str, directory: Path) -> list[Run]:
    return [run for run in runs_of(directory) if run.queue == queue]


def has_begun(count: int, directory: Path) -> bool:
    return len(of("exports", directory)) >= count


def kill_one_that_runs(directory: Path) -> None:
    """Kill the process of the latest run, which has a slot unless it ends this moment."""
    latest = max(of("exports", directory), key=lambda run: run.begin)
    with suppress(ProcessLookupError):
        os.kill(latest.process, signal.SIGKILL)


@pytest.mark.parametrize(("store", "count"), RUNS)
def test_the_limit_of_a_queue_holds_over_processes_that_die(place: str, count: int, tmp_path: Path) -> None:
    settings = environment(
        place, tmp_path, queues=f'{{"exports": {{"max_running": {LIMIT}}}}}', run_lease=LEASE, max_running=2
    )
    settings["DELIVERY_LEASE"] = "6"
    with herd(FOUR, "tests.places.places_app", tmp_path, settings) as server, closing(open_store(place)) as store:
        assert Capability.SLOTS not in lacks(store)

        def ended() -> int:
            return sum(job.status.is_final for job in store.find(Query(limit=10 * count)))

        assert server.client.get(f"/start?count={count}&s={SECONDS}&queue=exports", timeout=120).status == 200
        assert server.client.get(f"/start?count={OTHERS}&s={SECONDS}&queue=mails", timeout=120).status == 200
        for runs in KILL_AFTER:
            wait_for(server, partial(has_begun, runs, tmp_path), PATIENCE, ended)
            kill_one_that_runs(tmp_path)
        wait_for(server, lambda: ended() == count + OTHERS, PATIENCE, ended)
        jobs = store.find(Query(limit=10 * count))
    exports, mails = of("exports", tmp_path), of("mails", tmp_path)
    unfinished = [run for run in exports if run.end is None]
    ends = {run.job: run for run in exports}
    at_once = most_at_once([run for run in exports if run.end is not None])
    took = exports[-1].begin - exports[0].begin
    # A job that was leased to a process that died waits for the end of that lease; so not the last one.
    mail = median(run.begin for run in mails) - exports[0].begin
    print(
        f"{count} jobs in {took:.1f} s, at most {at_once} at once, {len(by_process(exports))} processes, "
        f"{len(unfinished)} killed; half of the {OTHERS} jobs of the other queue had begun after {mail:.1f} s"
    )
    assert at_once <= LIMIT
    assert len(by_process(exports)) >= 4
    assert len(ends) == count
    assert {job.slot for job in jobs} == {None}, "a slot is lost"
    killed = [job for job in jobs if job.status is not Status.COMPLETED]
    assert {job.status_text for job in killed} <= {"the process that ran it ended"}
    assert 1 <= len(killed) <= len(KILL_AFTER) * LIMIT
    assert len({run.job for run in mails}) == OTHERS
    assert mail < took / 2, "the full queue held up the other"
