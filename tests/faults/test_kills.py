"""Workers that are killed while they run jobs: no run begins twice, every job ends, and with retries every job completes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from backjob import Status
from backjob.model import Job, Query
from backjob.protocols import Store
from backjob.stores import open_store
from tests.faults.killing import HERDS, Herd, HerdKind, herd
from tests.scenarios.sites import KEY
from tests.shared_stores import LISTING_STORES, SharedStore

JOBS = 600
KILL_EVERY = 0.5  # s
LONGEST_KILLING = 30.0  # s
PATIENCE = 90.0  # s
LEASE = 2

pytestmark = pytest.mark.timeout(240)

# One server for each kind of store in the usual runs; all pairs at night.
_USUAL = {
    ("gunicorn gthread 2x2", "SQLiteStore"),
    ("uvicorn x2", "PostgreSQL"),
    ("gunicorn sync x4", "MariaDB"),
    ("waitress", "Redis"),
}
PAIRS = [
    pytest.param(
        kind,
        store,
        id=f"{kind}-{store}",
        marks=[pytest.mark.slow, pytest.mark.services] if (str(kind), str(store)) in _USUAL else [pytest.mark.nightly],
    )
    for kind in HERDS
    for store in LISTING_STORES
]


def environment(url: str, directory: Path, **options: Any) -> dict[str, str]:
    return {
        "BACKJOB_STORE": url,
        "BACKJOB_KEY": KEY,
        "BACKJOB_RUN_LEASE": str(LEASE),
        "RUNS": str(directory / "runs"),
        "START_OPTIONS": json.dumps(options),
    }


def all_jobs(store: Store) -> list[Job]:
    return store.find(Query(limit=10 * JOBS))


def ended(store: Store) -> int:
    return sum(job.status.is_final for job in all_jobs(store))


def kill_until_all_ended(server: Herd, store: Store) -> None:
    """Kill a worker every half second while jobs run, for a bounded time; then let the rest end."""
    stop = time.monotonic() + LONGEST_KILLING
    while ended(store) < JOBS and time.monotonic() < stop:
        began = time.monotonic()
        server.kill_one()
        time.sleep(max(0.0, KILL_EVERY - (time.monotonic() - began)))  # the pace of the kills is the fault itself
    deadline = time.monotonic() + PATIENCE
    while ended(store) < JOBS:
        left = Counter((job.status.name, job.run) for job in all_jobs(store) if not job.status.is_final)
        assert time.monotonic() < deadline, f"{left}\n{server.tail()}"
        with suppress(OSError):
            server.client.get("/ready")  # the workers may have started after the last request
        time.sleep(0.1)


def runs_in(directory: Path, word: str) -> Counter[tuple[str, str]]:
    """How often each run of each job began or ended."""
    lines = (directory / "runs").read_text(encoding="utf-8").splitlines()
    return Counter((job, run) for first, job, run, _ in map(str.split, lines) if first == word)


@pytest.fixture
def place(store: SharedStore, tmp_path: Path) -> Iterator[str]:
    with store.place(tmp_path) as url:
        yield url


@pytest.mark.parametrize("retries", [0, 50])
@pytest.mark.parametrize(("kind", "store"), PAIRS)
def test_killed_workers_run_nothing_twice_and_lose_nothing(
    kind: HerdKind, place: str, tmp_path: Path, retries: int
) -> None:
    options = {"retries": retries, "retry_delay": 0.2}
    settings = environment(place, tmp_path, **options)
    with herd(kind, "tests.faults.killed_app", tmp_path, settings) as server, closing(open_store(place)) as store:
        assert server.client.get(f"/start?count={JOBS}", timeout=60).status == 200
        kill_until_all_ended(server, store)
        jobs = all_jobs(store)
    began, finished = runs_in(tmp_path, "begin"), runs_in(tmp_path, "end")
    assert server.kills >= 3
    assert len(jobs) == JOBS
    assert {key: count for key, count in began.items() if count > 1} == {}
    if retries:
        assert Counter(job.status for job in jobs) == {Status.COMPLETED: JOBS}
    else:
        # A job whose process died may have done its work: it ends FAILED all the same, but no job that ended otherwise did not.
        completed = {job.id for job in jobs if job.status is Status.COMPLETED}
        assert completed <= {job for job, _ in finished}
        texts = Counter(job.status_text for job in jobs if job.status is not Status.COMPLETED)
        assert set(texts) <= {"the process that ran it ended"}, texts
        assert {job.run for job in jobs} == {1}
