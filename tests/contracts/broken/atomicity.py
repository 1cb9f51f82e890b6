"""Stores whose operations are not atomic, or never end under load."""

from __future__ import annotations

import threading

from attrs import evolve

from backjob.model import Changes, Draft, Expect, Job, Report
from backjob.protocols import Clock
from backjob.stores.memory import MemoryStore
from backjob.stores.steps import holds
from tests.contracts.broken.faults import NONE, Labels, breaks, meet_another


@breaks("test_of_many_claims_one_wins", "of many claims of one job, exactly one wins")
class ReadsThenClaims(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = self.get(job_id)
        if job is None or not holds(expect, job, self._clock.now()):
            return None
        meet_another(self)
        return super().change(job_id, Expect(), changes)


@breaks("test_reports_from_many_threads_are_all_kept", "every write raises the version by one")
class ReadsThenReports(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        job = self.get(job_id)
        meet_another(self)
        written = super().report(job_id, token, report)
        if job is not None and written:
            self._jobs[job_id] = evolve(self._jobs[job_id], version=job.version + 1)
        return written


@breaks(
    "test_identical_creates_with_a_merge_key_make_one_job",
    "creates with one merge key all return the same job",
)
class ReadsThenMerges(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        with self._lock:  # without it the key may be there before its job is
            holder = self._merging.get(merge_key or "")
            found = None if holder is None else self._read(holder)
        meet_another(self)
        if found is not None:
            return found
        # Two at once would free the key before both take it, and the second would join the first.
        with self._creating:
            with self._lock:
                self._merging.pop(merge_key or "", None)
            return super().create(draft, merge_key)

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._creating = threading.Lock()


@breaks("test_each_due_job_is_taken_by_one", "of several callers, exactly one gets each due job")
class ReadsThenLeases(MemoryStore):
    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: Labels = None,
        full: frozenset[str] = NONE,
        *,
        queues: Labels = None,
    ) -> list[Job]:
        now = self._clock.now()
        due = [job for job in list(self._jobs.values()) if job.lessee is None and job.start_time <= now][:limit]
        meet_another(self)
        changed = [self.change(job.id, Expect(), Changes(lessee=lessee, lease=lease)) for job in due]
        return [job for job in changed if job is not None]


@breaks("test_reports_from_many_threads_are_all_kept", "calls from many threads all return")
class WaitsForItself(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        if not self._turn.acquire(blocking=False):
            self._has_stuck.set()
            threading.Event().wait()
        if threading.current_thread() is not threading.main_thread():
            self._has_stuck.wait(0.5)  # so long another one may come
        try:
            return super().report(job_id, token, report)
        finally:
            self._turn.release()

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._turn, self._has_stuck = threading.Lock(), threading.Event()


@breaks(
    "test_reports_from_many_threads_are_all_kept",
    "report must not raise this; it raised RuntimeError: database is locked",
)
class FailsUnderLoad(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        if threading.active_count() > 4:
            raise RuntimeError("database is locked")
        return super().report(job_id, token, report)
