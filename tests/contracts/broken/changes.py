"""Stores that write too little or too much, or erase the wrong things at the end."""

from __future__ import annotations

from attrs import evolve

from backjob.model import Changes, Draft, Expect, Job, Query, Report
from backjob.protocols import Clock
from backjob.stores.memory import MemoryStore
from tests.contracts.broken.faults import breaks


@breaks("test_a_report_before_the_claim_or_after_the_end_changes_nothing", "an ended job takes no report")
class ReportsAfterTheEnd(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        job = self.get(job_id)
        return super().report(job_id, token, report) or (job is not None and job.status.is_final)


@breaks("test_a_report_with_another_token_changes_nothing", "a report is fenced by the token")
class ForgetsTheToken(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        job = self.get(job_id)
        return super().report(job_id, token if job is None else job.token or token, report)


@breaks(
    "test_a_change_with_a_satisfied_expectation_is_made",
    "a change returns the job after it, its version one higher",
)
class ChangesWithoutAVersion(MemoryStore):
    def _write(self, job: Job) -> Job:
        return super()._write(evolve(job, version=1) if job.version > 2 else job)


@breaks(
    "test_the_end_erases_secrets_and_releases_the_lease",
    "the end erases request, caller and credentials",
)
class KeepsTheRequest(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        return super()._write(job if before is None else evolve(job, request=before.request))


@breaks("test_a_report_sets_the_progress", "a report sets the progress and updated_time")
class IgnoresAProgressOfZero(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        return super().report(job_id, token, evolve(report, progress=report.progress or None))


@breaks("test_a_freed_merge_key_can_be_taken_by_another", "a freed key can be taken")
class KeepsMergeKeys(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        holding = dict(self._merging)
        written = super()._write(job)
        if before is not None and before.merge_key is not None:
            self._merging.update(holding)
        return written


@breaks("test_the_newest_living_come_first", "the newest come first")
class FindsTheOldestFirst(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        return super().find(query)[::-1]


@breaks("test_an_unknown_before_finds_nothing", "an unknown `before` finds nothing")
class FindsTheFirstPageAgain(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, before=query.before if query.before in self._jobs else None))


@breaks("test_scopes_and_owners_are_compared_byte_by_byte", "the scope 'job' matches no other scope")
class TakesCasesForEqual(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, scope=None))
        return [job for job in found if query.scope is None or job.scope.casefold() == query.scope.casefold()]


@breaks(
    "test_the_end_of_a_job_with_a_kept_request_erases_only_its_credentials",
    "with keep_request, the body of the request stays",
)
class DropsTheKeptBody(MemoryStore):
    def _write(self, job: Job) -> Job:
        if job.status.is_final and job.request is not None:
            job = evolve(job, request=evolve(job.request, body=b""))
        return super()._write(job)


@breaks(
    "test_the_end_of_a_job_with_a_kept_request_erases_only_its_credentials",
    "sealed credentials never outlive the end",
)
class KeepsSealedCredentials(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        keeps = before is not None and job.request is not None
        return super()._write(evolve(job, sealed=before.sealed) if before is not None and keeps else job)


@breaks(
    "test_the_end_of_a_job_with_a_kept_request_erases_only_its_credentials",
    "with keep_request, request and caller stay",
)
class NeverKeepsTheRequest(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, expect, evolve(changes, keep_request=False))


@breaks("test_the_title_method_and_path_outlive_the_end", "title, method and path stay after the end")
class ForgetsThePathAtTheEnd(MemoryStore):
    def _write(self, job: Job) -> Job:
        return super()._write(evolve(job, path=None) if job.status.is_final else job)


@breaks("test_a_kept_merge_key_returns_the_ended_job", "with keep_key, the merge key stays")
class NeverKeepsTheKey(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, expect, evolve(changes, keep_key=False))


@breaks("test_a_kept_merge_key_returns_the_ended_job", "create with a kept key returns the ended job")
class MergesOnlyWithLivingJobs(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        holder = self.get(self._merging.get(merge_key or "", ""))
        return super().create(draft, None if holder is not None and holder.status.is_final else merge_key)


@breaks("test_a_job_with_a_file_is_not_purged", "purge leaves jobs that have a file")
class PurgesJobsWithAFile(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        expired = self.find(Query(expired=(completed_age, ended_age), labels=labels, limit=10_000))
        return [self.delete(job.id) for job in expired].count(True)


@breaks("test_a_purged_job_frees_its_merge_key", "the key of a purged job is free")
class KeepsThePurgedKey(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        holder = self._held.get(merge_key or "")
        if holder is not None and self.get(holder.id) is None:
            return holder
        job = super().create(draft, merge_key)
        self._held |= {} if merge_key is None else {merge_key: job}
        return job

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._held: dict[str, Job] = {}
