"""Kill workers while they run jobs, and judge what became of these: none ran twice in one run, and none is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from backjob import Status
from backjob.model import Job
from backjob.protocols import Store
from tests.faults.killing import Herd, HerdKind, visitors

__all__ = ["DIED", "FEW_JOBS", "JOBS", "LEASE", "Watched", "busy_workers", "check_survival", "lines_in", "pace"]

JOBS: Final = 600
FEW_JOBS: Final = 300
"""In the usual runs. Each takes twice the time."""
LEASE: Final = 2
DIED: Final = "the process that ran it ended"

_KILL_EVERY: Final = 0.5  # s
_LONGEST_KILLING: Final = 15.0  # s, for all jobs; fewer take less
_LONGEST_START: Final = 20.0  # s
_ENOUGH_KILLS: Final = 5
_PATIENCE: Final = 360.0  # s, which a cache needs on a busy machine: each poll reads all jobs that wait


def pace(kind: HerdKind, count: int) -> dict[str, str]:
    """The environment in which so many jobs last long enough to be killed, for `killed_app` and its like."""
    variables = {"DELIVERY_LEASE": "6", "SECONDS_EACH": "0.04"} if count == FEW_JOBS else {}
    if kind.app == "asgi_app":
        variables["SECONDS_EACH"] = "0.4" if count == FEW_JOBS else "0.5"  # an event loop runs many at once
    return variables


def check_survival(server: Herd, store: Store, directory: Path, *, retries: int, count: int) -> None:
    """Start so many jobs, kill workers while they run, and check what became of them. It prints the figures."""
    began_at = time.monotonic()
    page = server.client.get(f"/start?count={count}", timeout=60)
    assert page.status == 200
    ids = page.text.split()
    watched = Watched(store, ids)
    with visitors(server.client, "/ready", 0.05, timeout=2):
        longest = _LONGEST_KILLING if count != FEW_JOBS else _LONGEST_KILLING / 3
        rest = _kill_until_all_ended(server, watched, directory, longest)
    took = time.monotonic() - began_at
    began, finished, called = (lines_in(directory, word) for word in ("begin", "end", "called"))
    jobs = list(watched.ended.values())
    died = sum(began.values()) - sum(finished.values())
    ends = sorted(job.end_time.timestamp() for job in jobs if job.end_time is not None)
    gap, at = max((after - before, after - ends[-1]) for before, after in pairwise(ends))
    print(
        f"{server.kind}, {type(store).__name__}, {retries} retries: {server.kills} kills, {died} runs died, {took:.1f} s in all, {rest:.1f} s after the last kill, "
        f"{Counter(job.status.name for job in jobs)}, on_end {len(called)}; the longest time without an end: {gap:.1f} s, "
        f"{-at:.1f} s before the last one"
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


def lines_in(directory: Path, word: str) -> Counter[tuple[str, str]]:
    """How often each run of each job began or ended, or each job's end was announced."""
    lines = (directory / "runs").read_text(encoding="utf-8").splitlines()
    return Counter((job, run) for first, job, run, _ in map(str.split, lines) if first == word)


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


def _kill_until_all_ended(server: Herd, watched: Watched, directory: Path, longest: float) -> float:
    """Kill workers while jobs run, for ``longest`` seconds; then let the rest end. Returns that rest's time (s).

    One is killed every half second, or once a worker runs a job again: on a busy machine they start slowly, and killing
    them before would show nothing.
    """
    stop = time.monotonic() + longest
    last_kill = time.monotonic()
    while watched.has_unfinished() and (time.monotonic() < stop or server.kills < _ENOUGH_KILLS):
        time.sleep(max(0.0, last_kill + _KILL_EVERY - time.monotonic()))  # the pace of the kills is the fault itself
        until = time.monotonic() + _LONGEST_START
        while (
            not (victims := busy_workers(server, directory)) and time.monotonic() < until and watched.has_unfinished()
        ):
            time.sleep(0.003)
        server.kill_one(victims)
        last_kill = time.monotonic()
    deadline = time.monotonic() + _PATIENCE
    while watched.has_unfinished():
        if time.monotonic() >= deadline:
            left = Counter((job.status.name, job.run, job.token, job.lessee) for job in watched.unfinished())
            pytest.fail(f"{left}\n{server.tail()}")
        time.sleep(0.1)
    return time.monotonic() - last_kill
