"""The reference store: one lock and a few dicts. For tests, demos, and sites that run in a single process.

Jobs are lost when the process ends, and other processes can't see them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from heapq import nsmallest
from itertools import islice
from typing import Final

from attrs import evolve

from backjob.clock import SystemClock
from backjob.errors import InvalidRequest, SlotTaken
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report
from backjob.process import PerProcess
from backjob.protocols import Capability, Clock, Store
from backjob.stores import steps
from backjob.stores.urls import StoreURL
from backjob.stores.values import LOOKAHEAD, output_bytes, output_piece

__all__ = ["MemoryStore", "from_url"]


def from_url(url: StoreURL, clock: Clock | None) -> Store:
    """Open ``memory:``, which has no options."""
    if url.location.strip("/"):
        raise InvalidRequest("store", '"memory:" has no path')
    url.arguments({})
    return MemoryStore(clock=clock)


class MemoryStore:
    """Jobs in this process's memory. ``clock`` is the store's time, by default the computer's."""

    lacks: Final = frozenset({Capability.SHARED})

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._jobs: dict[str, Job] = {}
        """All jobs, oldest first."""
        self._active: dict[str, None] = {}
        """The ids of the jobs that have not ended."""
        self._outputs: dict[str, bytearray] = {}
        self._tails: dict[str, str] = {}
        self._merging: dict[str, str] = {}
        """Merge key → the id of the job that has it."""
        self._slots: dict[str, str] = {}
        """Slot → the id of the job that has it."""
        self._locks = PerProcess(threading.Lock)

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        with self._lock:
            if merge_key is not None and merge_key in self._merging:
                return self._read(self._merging[merge_key])
            if draft.id in self._jobs:
                raise InvalidRequest("id", "a job with this id exists already")
            return self._write(steps.new_job(draft, merge_key, self._clock.now()))

    def get(self, job_id: str, *, body: bool = False) -> Job | None:  # noqa: ARG002 - the body costs nothing here
        with self._lock:
            return self._read(job_id) if job_id in self._jobs else None

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        with self._lock:
            job = self._jobs.get(job_id)
            start = max(offset, 0)
            data = bytes(self._outputs.get(job_id, b"")[start : start + limit + LOOKAHEAD])
            tail = self._tails.get(job_id, "")
        chunk = output_piece(data, start, limit, truncated=job is not None and job.output_truncated)
        return evolve(chunk, tail=tail) if job is not None and chunk.next_offset >= job.output_size else chunk

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        with self._lock:
            job = self._jobs.get(job_id)
            now = self._clock.now()
            if job is None or not steps.holds(expect, job, now):
                return None
            if isinstance(changes.slot, str) and self._slots.get(changes.slot, job_id) != job_id:
                raise SlotTaken(changes.slot)
            return self._write(steps.changed(job, changes, now))

    def report(self, job_id: str, token: str, report: Report) -> bool:
        added = output_bytes(report.output)
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or not steps.is_running(job, token):
                return False
            self._outputs.setdefault(job_id, bytearray()).extend(added)
            if report.tail is not UNSET:
                self._tails[job_id] = report.tail
            self._write(steps.reported(job, report, self._clock.now()))
            return True

    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None = None,
        full: frozenset[str] = frozenset(),
        *,
        queues: frozenset[str] | None = None,
    ) -> list[Job]:
        with self._lock:
            now = self._clock.now()
            due = (
                job for job in map(self._jobs.__getitem__, self._active) if steps.is_due(job, now, labels, full, queues)
            )
            longest_due = nsmallest(limit, due, key=lambda job: job.start_time)
            return [self._write(steps.leased(job, lessee, lease, now)) for job in longest_due]

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        with self._lock:
            now = self._clock.now()
            stale: set[str] = set()
            for job_id, token in tokens.items():
                job = self._jobs.get(job_id)
                if job is not None and steps.is_running(job, token):
                    self._jobs[job_id] = steps.beaten(job, lease, now, is_alive=job_id in alive)
                else:
                    stale.add(job_id)
            return frozenset(stale)

    def find(self, query: Query) -> list[Job]:
        with self._lock:
            return list(self._matching(query))

    def count(self, query: Query) -> int:
        with self._lock:
            return sum(1 for _ in self._matching(query))

    def delete(self, job_id: str) -> bool:
        with self._lock:
            return self._remove(job_id)

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        with self._lock:
            now = self._clock.now()
            old = [
                job.id
                for job in self._jobs.values()
                if job.file is None and steps.is_too_old(job, completed_age, ended_age, now, labels)
            ]
            for job_id in old:
                self._remove(job_id)
        return len(old)

    def close(self) -> None:
        """Do nothing: the jobs stay readable."""

    @property
    def _lock(self) -> threading.Lock:
        return self._locks.get()

    def _matching(self, query: Query) -> Iterator[Job]:
        ids = iter(reversed(self._jobs))
        jobs = (job for job in map(self._read, ids) if steps.matches(query, job))
        if query.before is not None and query.before in self._jobs:
            next(job_id for job_id in ids if job_id == query.before)  # this consumes the ids up to that one
        elif query.before is not None or query.before_time is not None:
            jobs = (job for job in jobs if steps.was_created_before(job, query.before_time))
        return islice(jobs, query.limit)

    def _read(self, job_id: str) -> Job:
        return evolve(self._jobs[job_id], read_time=self._clock.now())

    def _remove(self, job_id: str) -> bool:
        job = self._jobs.pop(job_id, None)
        if job is None:
            return False
        self._active.pop(job_id, None)
        self._outputs.pop(job_id, None)
        self._tails.pop(job_id, None)
        if job.merge_key is not None:
            self._merging.pop(job.merge_key, None)
        if job.slot is not None:
            self._slots.pop(job.slot, None)
        return True

    def _write(self, job: Job) -> Job:
        """Store a job, and update the merge keys and the active jobs."""
        before = self._jobs.get(job.id)
        if before is not None and before.merge_key is not None and before.merge_key != job.merge_key:
            del self._merging[before.merge_key]
        if job.merge_key is not None:
            self._merging[job.merge_key] = job.id
        if before is not None and before.slot is not None and before.slot != job.slot:
            del self._slots[before.slot]
        if job.slot is not None:
            self._slots[job.slot] = job.id
        if job.status.is_final:
            self._active.pop(job.id, None)
        else:
            self._active[job.id] = None
        self._jobs[job.id] = job
        return job
