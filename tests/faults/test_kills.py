"""Workers that are killed while they run jobs: no run begins twice, every job ends, and with retries every job completes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from backjob import Status
from backjob.model import Job
from backjob.protocols import Store
from backjob.stores import open_store
from tests.faults.killing import HERDS, Herd, HerdKind, herd, visitors
from tests.scenarios.sites import KEY
from tests.shared_stores import SHARED_STORES, SharedStore

JOBS = 600
FEW_JOBS = 300  # in the usual runs, of twice the time
JOBS_IN_A_CACHE = 120  # each poll reads all that wait
KILL_EVERY = 0.5  # s
LONGEST_KILLING = 15.0  # s, for all jobs; fewer take less
LONGEST_START = 20.0  # s
ENOUGH_KILLS = 5
PATIENCE = 90.0  # s
LEASE = 2
DIED = "the process that ran it ended"

pytestmark = pytest.mark.timeout(300)

# One server for each kind of store in the usual runs, with few jobs; all pairs at night, with all jobs.
_USUAL = {
    ("gunicorn gthread 2x2", "SQLiteStore", 50),
    ("uvicorn x2", "PostgreSQL", 50),
    ("gunicorn sync x4", "MariaDB", 0),
    ("waitress", "Redis", 50),
}
CASES = [
    pytest.param(
        kind,
        store,
        retries,
        jobs,
        id=f"{kind}-{store}-{retries}-{jobs}",
        marks=[pytest.mark.slow, pytest.mark.services] if jobs == FEW_JOBS else [pytest.mark.nightly],
    )
    for kind in HERDS
    for store in SHARED_STORES
    for retries in (0, 50)
    if store.lists or not retries  # a store that may lose jobs takes no retries
    for jobs in ([FEW_JOBS] if (str(kind), str(store), retries) in _USUAL else [])
    + [JOBS if store.lists else JOBS_IN_A_CACHE]
]


def environment(url: str, directory: Path, **options: Any) -> dict[str, str]:
    return {
        "BACKJOB_STORE": url,
        "BACKJOB_KEY": KEY,
        "BACKJOB_RUN_LEASE": str(LEASE),
        "RUNS": str(directory / "runs"),
        "START_OPTIONS": json.dumps(options),
    }


class Watched:
    """The jobs that were started, read from their store, which ends none of them."""

    def __init__(self, store: Store, ids: Sequence[str]) -> None:
        self._store = store
        self._waiting = list(ids)
        self.ended: dict[str, Job] = {}
        self.lost: list[str] = []

    def add(self, ids: Sequence[str]) -> None:
        """Watch these too."""
        self._waiting += ids

    def unfinished(self) -> list[Job]:
        """Read those again that had not ended, the last one first: it ends last."""
        left: list[Job] = []
        for job_id in list(reversed(self._waiting)):
            job = self._store.get(job_id)
            if job is None:
                self.lost.append(job_id)
            elif job.status.is_final:
                self.ended[job_id] = job
            else:
                left.append(job)
                continue
            self._waiting.remove(job_id)
        return left

    def has_unfinished(self) -> bool:
        """Read only until the first one that has not ended."""
        while self._waiting:
            job = self._store.get(self._waiting[-1])
            if job is not None and not job.status.is_final:
                return True
            job_id = self._waiting.pop()
            if job is None:
                self.lost.append(job_id)
            else:
                self.ended[job.id] = job
        return False


def busy_workers(server: Herd, directory: Path) -> list[int]:
    """The living workers of the last runs that have begun but not ended."""
    open_runs: dict[tuple[str, str], int] = {}
    path = directory / "runs"
    lines = path.read_text(encoding="utf-8").splitlines()[-20:] if path.exists() else []
    for word, job, run, pid in map(str.split, lines):
        if word == "begin":
            open_runs[job, run] = int(pid)
        else:
            open_runs.pop((job, run), None)
    pids = set(open_runs.values())
    return [pid for pid in server.workers if pid in pids] if pids else []


def kill_until_all_ended(server: Herd, watched: Watched, directory: Path, longest: float) -> float:
    """Kill workers while jobs run, for ``longest`` seconds; then let the rest end. Returns that rest's time (s).

    One is killed every half second, or once a worker runs a job again: on a busy machine they start slowly, and killing
    them before would show nothing.
    """
    stop = time.monotonic() + longest
    last_kill = time.monotonic()
    while watched.has_unfinished() and (time.monotonic() < stop or server.kills < ENOUGH_KILLS):
        time.sleep(max(0.0, last_kill + KILL_EVERY - time.monotonic()))  # the pace of the kills is the fault itself
        until = time.monotonic() + LONGEST_START
        while (
            not (victims := busy_workers(server, directory)) and time.monotonic() < until and watched.has_unfinished()
        ):
            time.sleep(0.003)
        server.kill_one(victims)
        last_kill = time.monotonic()
    deadline = time.monotonic() + PATIENCE
    while watched.has_unfinished():
        if time.monotonic() >= deadline:
            left = Counter((job.status.name, job.run, job.token, job.lessee) for job in watched.unfinished())
            pytest.fail(f"{left}\n{server.tail()}")
        time.sleep(0.1)
    return time.monotonic() - last_kill


def lines_in(directory: Path, word: str) -> Counter[tuple[str, str]]:
    """How often each run of each job began or ended, or each job's end was announced."""
    lines = (directory / "runs").read_text(encoding="utf-8").splitlines()
    return Counter((job, run) for first, job, run, _ in map(str.split, lines) if first == word)


@pytest.fixture
def place(store: SharedStore, tmp_path: Path) -> Iterator[str]:
    with store.place(tmp_path) as url:
        yield url


@pytest.mark.parametrize(("kind", "store", "retries", "count"), CASES)
def test_killed_workers_run_nothing_twice_and_lose_nothing(
    *, kind: HerdKind, store: SharedStore, place: str, tmp_path: Path, retries: int, count: int
) -> None:
    options = {"retries": retries, "retry_delay": 0.2} if retries else {}
    settings = environment(place, tmp_path, **options)
    if count == FEW_JOBS:
        settings |= {"DELIVERY_LEASE": "6", "SECONDS_EACH": "0.04"}
    if kind.app == "asgi_app":
        settings["SECONDS_EACH"] = str(0.2 * JOBS / count)  # an event loop runs many at once
    with herd(kind, "tests.faults.killed_app", tmp_path, settings) as server, closing(open_store(place)) as opened:
        began_at = time.monotonic()
        page = server.client.get(f"/start?count={count}", timeout=60)
        assert page.status == 200
        ids = page.text.split()
        watched = Watched(opened, ids)
        with visitors(server.client, "/ready", 0.05, timeout=2):
            rest = kill_until_all_ended(
                server, watched, tmp_path, LONGEST_KILLING if count != FEW_JOBS else LONGEST_KILLING / 3
            )
        took = time.monotonic() - began_at
    began, finished, called = (lines_in(tmp_path, word) for word in ("begin", "end", "called"))
    jobs = list(watched.ended.values())
    died = sum(began.values()) - sum(finished.values())
    ends = sorted(job.end_time.timestamp() for job in jobs if job.end_time is not None)
    gap, at = max((after - before, after - ends[-1]) for before, after in pairwise(ends))
    print(
        f"{kind}, {store}, {retries} retries: {server.kills} kills, {died} runs died, {took:.1f} s in all, {rest:.1f} s "
        f"after the last kill, {Counter(job.status.name for job in jobs)}, on_end {len(called)}; the longest time without "
        f"an end: {gap:.1f} s, {-at:.1f} s before the last one"
    )
    assert server.kills >= 3
    assert watched.lost == []
    assert sorted(job.id for job in jobs) == sorted(ids)
    assert len(ids) == count
    assert {key: count for key, count in began.items() if count > 1} == {}
    assert {job: count for job, count in Counter(job for job, _ in called).items() if count > 1} == {}
    if retries:
        assert Counter(job.status for job in jobs) == {Status.COMPLETED: count}
    else:
        # A job whose process died may have done its work: it ends FAILED all the same, but no job that ended otherwise did not.
        completed = {job.id for job in jobs if job.status is Status.COMPLETED}
        assert completed <= {job for job, _ in finished}
        assert {job.status_text for job in jobs if job.status is not Status.COMPLETED} <= {DIED}
        assert {job.run for job in jobs} == {1}
