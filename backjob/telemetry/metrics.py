"""The metrics of jobs: their names and meanings, the same for OpenTelemetry and Prometheus."""

from __future__ import annotations

from typing import Final, Protocol

from backjob.lifecycle import End
from backjob.model import Job
from backjob.observers import AtEnd, Observer, Run, RunEnd
from backjob.overriding import override
from backjob.telemetry.counts import JobCounts

ACCEPTED: Final = "Jobs that start() has accepted in this process"
ENDED: Final = "Jobs whose end this process has written, by final status"
REFUSED: Final = "Worker requests, and messages of engines, for a job that another one had already"
WAITED: Final = "Seconds that a run was due before it was claimed"
RAN: Final = "Seconds that the action of a run took, by what followed it"
WAITING: Final = "Jobs that wait for their first run or a retry, in the store"
RUNNING: Final = "Jobs that run, or wait for their next slice, in the store"

BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400)
"""Seconds. Jobs take longer than requests, for which the usual buckets are."""


class Instruments(Protocol):
    """Counters and histograms of one library. ``queue`` is a name of bounded variety."""

    def accepted(self, queue: str) -> None: ...

    def ended(self, queue: str, status: str) -> None: ...

    def refused(self) -> None: ...

    def waited(self, queue: str, seconds: float) -> None: ...

    def ran(self, queue: str, outcome: str, seconds: float) -> None: ...


class Metrics(Observer):
    """Feeds the instruments."""

    def __init__(self, instruments: Instruments, counts: JobCounts) -> None:
        self._to = instruments
        self._counts = counts  # which live as long as their observer

    @override
    def accepted(self, job: Job) -> None:
        self._to.accepted(self._counts.note(job.queue))

    @override
    def ended(self, job: Job) -> None:
        self._to.ended(self._counts.note(job.queue), job.status.name.lower())

    @override
    def refused(self) -> None:
        self._to.refused()

    @override
    def run_began(self, run: Run) -> AtEnd:
        job, queue = run.job, self._counts.note(run.job.queue)
        if job.claimed_time is not None:
            self._to.waited(queue, max(0.0, (job.claimed_time - job.start_time).total_seconds()))

        def ended(end: RunEnd) -> None:
            if isinstance(end.conclusion, End):
                outcome = end.conclusion.status.name.lower()
            else:
                outcome = "retried" if end.conclusion.is_retry else "continued"
            self._to.ran(queue, outcome, end.seconds)

        return ended
