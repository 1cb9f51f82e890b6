"""A queue with a limit on four processes, of which some are killed: what happens to its jobs, and what must be true at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from attrs import frozen

from backjob import Status
from tests.faults.killing import Herd, HerdKind
from tests.places.timing import Run, by_process, environment, most_at_once, runs_of, wait_for
from tests.scenarios.servers import gunicorn

__all__ = ["FOUR", "Ended", "check", "limited", "work_off"]

FOUR: Final = HerdKind("gunicorn 4x4", gunicorn("--workers=4", "--threads=4"))

_OTHERS: Final = 24
_LIMIT: Final = 2
_SECONDS: Final = 0.1
_PATIENCE: Final = 150.0  # s
_LEASE: Final = 2
_KILL_AFTER: Final = (20, 40, 60)
"""After so many runs of the limited queue a process is killed."""


@frozen
class Ended:
    """A job as it is in the store at the end."""

    id: str
    status: Status
    slot: str | None
    text: str | None


def limited(url: str, directory: Path) -> dict[str, str]:
    """The settings of the application."""
    queues = f'{{"exports": {{"max_running": {_LIMIT}}}}}'
    settings = environment(url, directory, queues=queues, run_lease=_LEASE, max_running=2)
    return {**settings, "DELIVERY_LEASE": "6"}


def work_off(server: Herd, directory: Path, count: int, ended: Callable[[], int]) -> None:
    """Start this many jobs of the limited queue and some of another one, and kill processes, until all have ``ended``."""
    assert server.client.get(f"/start?count={count}&s={_SECONDS}&queue=exports", timeout=120).status == 200
    assert server.client.get(f"/start?count={_OTHERS}&s={_SECONDS}&queue=mails", timeout=120).status == 200
    for runs in _KILL_AFTER:
        wait_for(server, partial(_has_begun, runs, directory), _PATIENCE, ended)
        _kill_one_that_runs(directory)
    wait_for(server, lambda: ended() == count + _OTHERS, _PATIENCE, ended)


def check(directory: Path, count: int, jobs: Sequence[Ended]) -> None:
    """Never more runs at once than the limit, each job once, no slot lost, and the other queue not held up."""
    exports, mails = _of("exports", directory), _of("mails", directory)
    unfinished = [run for run in exports if run.end is None]
    at_once = most_at_once([run for run in exports if run.end is not None])
    took = exports[-1].begin - exports[0].begin
    # A job that was leased to a process that died waits for the end of that lease; so not the last one.
    mail = median(run.begin for run in mails) - exports[0].begin
    print(
        f"{count} jobs in {took:.1f} s, at most {at_once} at once, {len(by_process(exports))} processes, "
        f"{len(unfinished)} killed; half of the {_OTHERS} jobs of the other queue had begun after {mail:.1f} s"
    )
    assert at_once <= _LIMIT
    assert len(by_process(exports)) >= 4
    assert len(jobs) == count + _OTHERS
    assert {job.slot for job in jobs} == {None}, "a slot is lost"
    killed = [job for job in jobs if job.status is not Status.COMPLETED]
    assert {job.text for job in killed} <= {"the process that ran it ended"}
    assert 1 <= len(killed) <= len(_KILL_AFTER) * _LIMIT
    # A process may be killed just before an action begins.
    assert {job.id for job in jobs} - {job.id for job in killed} <= {run.job for run in (*exports, *mails)}
    assert mail < took / 2, "the full queue held up the other"


def _of(queue: str, directory: Path) -> list[Run]:
    return [run for run in runs_of(directory) if run.queue == queue]


def _has_begun(count: int, directory: Path) -> bool:
    return len(_of("exports", directory)) >= count


def _kill_one_that_runs(directory: Path) -> None:
    """Kill the process of the latest run, which has a slot unless it ends this moment."""
    latest = max(_of("exports", directory), key=lambda run: run.begin)
    with suppress(ProcessLookupError):
        os.kill(latest.process, signal.SIGKILL)
