"""Stores that break one promise each; the published contract must notice every one."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeAlias, cast

from attrs import evolve, frozen

from backjob.errors import InvalidRequest, SlotTaken
from backjob.lifecycle import TIMED_OUT, Late, late, overdue
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.protocols import Capability, Clock, Store
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.stores.steps import holds

__all__ = ["FAULTS", "SHARING_FAULTS", "Fault", "KeepsNoList", "ListsTheLiving", "opened_badly"]

Labels: TypeAlias = "frozenset[str] | None"

MICROSECOND: Final = 0.000001
Tokens: TypeAlias = Mapping[str, str]
NONE: Final = frozenset[str]()


@frozen
class Fault:
    """A broken store, the part of the contract and the test that must notice, and the promise that the failure must name."""

    store: type[Store]
    part: str
    test: str
    promise: str


FAULTS: Final[list[Fault]] = []


def breaks(part: str, test: str, promise: str) -> Any:
    def add(store: type[Store]) -> type[Store]:
        FAULTS.append(Fault(store, part, test, promise))
        return store

    return add


# --- operations that are not atomic --------------------------------------------------------------------------------------


def let_others_run() -> None:
    time.sleep(0)


@breaks("Races", "test_of_many_claims_one_wins", "of many claims of one job, exactly one wins")
class ReadsThenClaims(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = self.get(job_id)
        if job is None or not holds(expect, job, self._clock.now()):
            return None
        let_others_run()
        return super().change(job_id, Expect(), changes)


@breaks("Races", "test_reports_from_many_threads_are_all_kept", "every write raises the version by one")
class ReadsThenReports(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        job = self.get(job_id)
        let_others_run()
        written = super().report(job_id, token, report)
        if job is not None and written:
            self._jobs[job_id] = evolve(self._jobs[job_id], version=job.version + 1)
        return written


@breaks(
    "MergesJobs",
    "test_identical_creates_with_a_merge_key_make_one_job",
    "creates with one merge key all return the same job",
)
class ReadsThenMerges(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        holder = self._merging.get(merge_key or "")
        let_others_run()
        if holder is not None:
            return self._read(holder)
        with self._lock:
            self._merging.pop(merge_key or "", None)
        return super().create(draft, merge_key)


@breaks("DelaysJobs", "test_each_due_job_is_taken_by_one", "of several callers, exactly one gets each due job")
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
        let_others_run()
        changed = [self.change(job.id, Expect(), Changes(lessee=lessee, lease=lease)) for job in due]
        return [job for job in changed if job is not None]


@breaks("Races", "test_reports_from_many_threads_are_all_kept", "calls from many threads all return")
class WaitsForItself(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        if not self._turn.acquire(blocking=False):
            threading.Event().wait()
        let_others_run()
        try:
            return super().report(job_id, token, report)
        finally:
            self._turn.release()

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._turn = threading.Lock()


@breaks(
    "Races",
    "test_reports_from_many_threads_are_all_kept",
    "report must not raise this; it raised RuntimeError: database is locked",
)
class FailsUnderLoad(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        if threading.active_count() > 4:
            raise RuntimeError("database is locked")
        return super().report(job_id, token, report)


# --- boundaries -----------------------------------------------------------------------------------------------------


@breaks("DelaysJobs", "test_a_lease_ends_exactly_at_lease_until", "a lease ends exactly at lease_until")
class LeasesAMicrosecondMore(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return super().create(evolve(draft, lease=draft.lease + MICROSECOND), merge_key)


@breaks(
    "DelaysJobs",
    "test_a_lease_ends_exactly_at_lease_until",
    "no caller, not even the lessee, takes a job a microsecond before its lease ends",
)
class LeasesAMicrosecondLess(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return super().create(evolve(draft, lease=draft.lease - MICROSECOND), merge_key)


@breaks("DelaysJobs", "test_the_longest_due_come_first_up_to_the_limit", "the longest due are taken first")
class LeasesInAnyOrder(MemoryStore):
    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        return super().take_due(*given, **options)[::-1]


@breaks(
    "PurgesJobs",
    "test_purge_removes_jobs_that_ended_longer_ago_than_their_age",
    "purge keeps a job that ended exactly its age ago",
)
class PurgesTooSoon(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return super().purge(
            completed_age and completed_age - MICROSECOND, ended_age and ended_age - MICROSECOND, labels
        )


@breaks(
    "PurgesJobs",
    "test_purge_removes_jobs_that_ended_longer_ago_than_their_age",
    "purge removes a job that ended its age and a microsecond ago",
)
class ForgetsTheSecondAge(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return super().purge(completed_age, 0, labels)


@breaks("PurgesJobs", "test_an_age_of_zero_keeps_jobs_forever", "0 keeps jobs forever")
class TakesZeroForAtOnce(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return super().purge(completed_age or MICROSECOND, ended_age or MICROSECOND, labels)


@breaks("PurgesJobs", "test_a_purged_job_leaves_nothing_behind", "a purged job's output is gone")
class LeavesOutputBehind(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        outputs = dict(self._outputs)
        try:
            return super().purge(completed_age, ended_age, labels)
        finally:
            self._outputs.update(outputs)


@breaks(
    "FindsJobs",
    "test_a_silent_job_is_overdue_exactly_at_its_limit",
    "a job is overdue exactly when its timeout is over",
)
class FindsTheSilentTooLate(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(query)
        early = timedelta(seconds=MICROSECOND)
        return [
            job
            for job in found
            if not query.overdue or overdue(evolve(job, read_time=job.read_time - early)) is not None
        ]


@breaks("OutputCalls", "test_chunks_join_to_the_whole", "reading from each next_offset gives the whole output")
class CutsCharacters(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        whole = super().output(job_id, 0, limit + 10_000_000)
        chunk = whole.text.encode()[max(offset, 0) :][:limit]
        return Output(chunk.decode("utf-8", "replace"), max(offset, 0) + len(chunk), whole.truncated)


@breaks("OutputCalls", "test_every_offset_and_limit_gives_whole_characters", "next_offset is where the chunk ends")
class CountsCharacters(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return evolve(chunk, next_offset=offset + len(chunk.text))


# --- missing or unwanted changes ------------------------------------------------------------------------------


@breaks(
    "ReportCalls", "test_a_report_before_the_claim_or_after_the_end_changes_nothing", "an ended job takes no report"
)
class ReportsAfterTheEnd(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        job = self.get(job_id)
        return super().report(job_id, token, report) or (job is not None and job.status.is_final)


@breaks("ReportCalls", "test_a_report_with_another_token_changes_nothing", "a report is fenced by the token")
class ForgetsTheToken(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        job = self.get(job_id)
        return super().report(job_id, token if job is None else job.token or token, report)


@breaks(
    "ChangeCalls",
    "test_a_change_with_a_satisfied_expectation_is_made",
    "a change returns the job after it, its version one higher",
)
class ChangesWithoutAVersion(MemoryStore):
    def _write(self, job: Job) -> Job:
        return super()._write(evolve(job, version=1) if job.version > 2 else job)


@breaks(
    "ChangeCalls",
    "test_the_end_erases_secrets_and_releases_the_lease",
    "the end erases request, caller and credentials",
)
class KeepsTheRequest(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        return super()._write(job if before is None else evolve(job, request=before.request))


@breaks("ReportCalls", "test_a_report_sets_the_progress", "a report sets the progress and updated_time")
class IgnoresAProgressOfZero(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        return super().report(job_id, token, evolve(report, progress=report.progress or None))


@breaks("MergesJobs", "test_a_freed_merge_key_can_be_taken_by_another", "a freed key can be taken")
class KeepsMergeKeys(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        holding = dict(self._merging)
        written = super()._write(job)
        if before is not None and before.merge_key is not None:
            self._merging.update(holding)
        return written


@breaks("FindsJobs", "test_the_newest_living_come_first", "the newest come first")
class FindsTheOldestFirst(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        return super().find(query)[::-1]


@breaks("FindsJobs", "test_an_unknown_before_finds_nothing", "an unknown `before` finds nothing")
class FindsTheFirstPageAgain(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, before=query.before if query.before in self._jobs else None))


@breaks("FindsJobs", "test_scopes_and_owners_are_compared_byte_by_byte", "the scope 'job' matches no other scope")
class TakesCasesForEqual(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, scope=None))
        return [job for job in found if query.scope is None or job.scope.casefold() == query.scope.casefold()]


# --- labels and bodies --------------------------------------------------------------------------------------------


@breaks("DelaysJobs", "test_only_jobs_with_these_labels_are_taken", "take_due takes only jobs with these labels")
class TakesTheJobsOfOthers(MemoryStore):
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
        return super().take_due(lessee, lease, limit, None, full, queues=queues)


@breaks("DelaysJobs", "test_a_taken_job_has_the_body_of_its_request", "take_due returns the request with its body")
class TakesNoBody(MemoryStore):
    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        return [
            job if job.request is None else evolve(job, request=evolve(job.request, body=b""))
            for job in super().take_due(*given, **options)
        ]


@breaks("FindsJobs", "test_jobs_with_another_label_are_invisible", "find returns only jobs with these labels")
class FindsTheJobsOfOthers(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, labels=None))


@breaks("PurgesJobs", "test_purge_removes_only_jobs_with_these_labels", "without labels there is no job to purge")
class PurgesTheJobsOfOthers(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return super().purge(completed_age, ended_age, labels or None)


@breaks("FindsJobs", "test_count_is_the_number_of_jobs_that_find_returns", "count returns how many jobs find returns")
class CountsBeyondTheLimit(MemoryStore):
    def count(self, query: Query) -> int:
        return super().count(evolve(query, limit=1000))


# --- deleting -------------------------------------------------------------------------------------------------------


@breaks("DeleteCalls", "test_a_deleted_job_is_unknown", "a deleted job has no output")
class DeletesOnlyTheRow(MemoryStore):
    def _remove(self, job_id: str) -> bool:
        outputs = dict(self._outputs)
        try:
            return super()._remove(job_id)
        finally:
            self._outputs.update(outputs)


@breaks("DeleteCalls", "test_a_deleted_job_is_unknown", "delete of a job returns True")
class DeletesOnlyEndedJobs(MemoryStore):
    def delete(self, job_id: str) -> bool:
        job = self.get(job_id)
        return job is not None and job.status.is_final and super().delete(job_id)


@breaks("DeleteCalls", "test_a_deleted_job_is_unknown", "a second delete returns False")
@breaks("DeleteCalls", "test_deleting_an_unknown_job_returns_false", "delete of an unknown job returns False")
@breaks(
    "DeleteCalls", "test_of_many_deletes_one_removes_the_job", "of many deletes of one job, exactly one returns True"
)
class DeletesWhatIsNotThere(MemoryStore):
    def delete(self, job_id: str) -> bool:
        super().delete(job_id)
        return True


@breaks("DeleteCalls", "test_a_deleted_job_frees_its_slot", "the slot of a deleted job is free")
@breaks("MergesJobs", "test_a_deleted_job_frees_its_merge_key", "create returns the newest holder of a key")
class DeletesWithoutFreeing(MemoryStore):
    """A slot stays taken, and a merge key taken by a job that nobody finds."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._lost: set[str] = set()

    def _remove(self, job_id: str) -> bool:
        slots, merging = dict(self._slots), dict(self._merging)
        removed = super()._remove(job_id)
        self._slots, self._lost = slots, merging.keys() - self._merging.keys()
        return removed

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return super().create(draft, None if merge_key in self._lost else merge_key)


@breaks("DeleteCalls", "test_a_deleted_job_is_unknown", "nothing makes a deleted job known again")
class BeatsADeletedJob(MemoryStore):
    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._seen: dict[str, Job] = {}

    def _write(self, job: Job) -> Job:
        self._seen[job.id] = job
        return super()._write(job)

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = super().beat(tokens, lease, alive)
        for job_id in stale & self._seen.keys():
            self._write(self._seen[job_id])
        return stale


@breaks("DeleteCalls", "test_a_delete_during_other_writes_leaves_nothing_behind", "a deleted job has no output")
class DeletesTheOutputFirst(MemoryStore):
    """A report comes between the two steps: it waits for the first one, and the end waits for the report."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._half_deleted, self._reported = threading.Event(), threading.Event()

    def delete(self, job_id: str) -> bool:
        self._outputs.pop(job_id, None)
        self._half_deleted.set()
        self._reported.wait(0.1)
        outputs = dict(self._outputs)
        try:
            return super().delete(job_id)
        finally:
            self._outputs.update(outputs)
            self._half_deleted.clear()
            self._reported.clear()

    def report(self, job_id: str, token: str, report: Report) -> bool:
        self._half_deleted.wait(0.1)
        written = super().report(job_id, token, report)
        self._reported.set()
        return written

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if changes.end:
            self._reported.wait(0.1)
        return super().change(job_id, expect, changes)


@breaks("DelaysJobs", "test_a_deleted_job_is_not_taken", "take_due does not return a deleted job")
@breaks("FindsJobs", "test_a_deleted_job_is_not_found", "find does not return a deleted job")
class ListsDeletedJobs(MemoryStore):
    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._deleted: dict[str, Job] = {}

    def _remove(self, job_id: str) -> bool:
        self._deleted |= {job_id: self._jobs[job_id]} if job_id in self._jobs else {}
        return super()._remove(job_id)

    def find(self, query: Query) -> list[Job]:
        return [*super().find(query), *self._deleted.values()]

    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        return [*self._deleted.values(), *super().take_due(*given, **options)]


# --- searches for a list of jobs ------------------------------------------------------------------------------------


class CountsWhatItFinds(MemoryStore):
    def count(self, query: Query) -> int:
        return len(self.find(query))


@breaks(
    "FindsJobs",
    "test_several_statuses_are_found_together",
    "statuses finds the jobs with one of them, newest first",
)
class FindsOneStatusAfterTheOther(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        if query.statuses is None:
            return super().find(query)
        each = [
            super(FindsOneStatusAfterTheOther, self).find(evolve(query, statuses=None, status=one))
            for one in query.statuses
        ]
        return [job for jobs in each for job in jobs][: query.limit]


@breaks("FindsJobs", "test_the_jobs_of_a_queue_are_found", "queue finds the jobs of this queue alone")
class FindsEveryQueue(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, queue=None))


@breaks(
    "FindsJobs",
    "test_a_part_of_the_title_or_path_finds_a_job",
    "text is a part of the title or the path, in either case, without a pattern ('invoice')",
)
class ComparesCases(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, text="", limit=1000))
        return [job for job in found if query.text in (job.title or "") or query.text in (job.path or "")][
            : query.limit
        ]


@breaks(
    "FindsJobs",
    "test_a_part_of_the_title_or_path_finds_a_job",
    "text is a part of the title or the path, in either case, without a pattern ('_')",
)
class TakesTextForAPattern(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        pattern = re.escape(query.text).replace("_", ".").replace("%", ".*")
        found = super().find(evolve(query, text="", limit=1000))
        matching = [job for job in found if re.search(pattern, f"{job.title or ''}\n{job.path or ''}", re.IGNORECASE)]
        return matching[: query.limit]


@breaks(
    "FindsJobs",
    "test_a_page_begins_after_a_moment_if_the_job_before_is_gone",
    "if the job before is unknown, the page begins after before_time",
)
class ForgetsTheMoment(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, before_time=None))


@breaks("FindsJobs", "test_a_page_begins_after_a_moment_if_the_job_before_is_gone", "a known `before` decides")
class PrefersTheMoment(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, before=query.before if query.before_time is None else None))


@breaks(
    "FindsJobs",
    "test_expired_finds_the_jobs_that_are_too_old",
    "expired finds the jobs that purge would remove, and those with a file",
)
class FindsNoExpiredFiles(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        found = super().find(query)
        return found if query.expired is None or query.has_file else [job for job in found if job.file is None]


@breaks(
    "FindsJobs",
    "test_expired_finds_the_jobs_that_are_too_old",
    "a job that ended exactly its age ago has not expired",
)
class ExpiresTooSoon(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        if query.expired is not None:
            completed, ended = (age and age - MICROSECOND for age in query.expired)
            query = evolve(query, expired=(completed, ended))
        return super().find(query)


@breaks("FindsJobs", "test_jobs_with_a_file_are_found", "has_file finds only jobs with a file")
class FindsJobsWithoutAFile(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, has_file=False))


# --- what stays after the end ---------------------------------------------------------------------------------------


@breaks(
    "ChangeCalls",
    "test_the_end_of_a_job_with_a_kept_request_erases_only_its_credentials",
    "with keep_request, the body of the request stays",
)
class DropsTheKeptBody(MemoryStore):
    def _write(self, job: Job) -> Job:
        if job.status.is_final and job.request is not None:
            job = evolve(job, request=evolve(job.request, body=b""))
        return super()._write(job)


@breaks(
    "ChangeCalls",
    "test_the_end_of_a_job_with_a_kept_request_erases_only_its_credentials",
    "sealed credentials never outlive the end",
)
class KeepsSealedCredentials(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        keeps = before is not None and job.request is not None
        return super()._write(evolve(job, sealed=before.sealed) if before is not None and keeps else job)


@breaks(
    "ChangeCalls",
    "test_the_end_of_a_job_with_a_kept_request_erases_only_its_credentials",
    "with keep_request, request and caller stay",
)
class NeverKeepsTheRequest(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, expect, evolve(changes, keep_request=False))


@breaks("ChangeCalls", "test_the_title_method_and_path_outlive_the_end", "title, method and path stay after the end")
class ForgetsThePathAtTheEnd(MemoryStore):
    def _write(self, job: Job) -> Job:
        return super()._write(evolve(job, path=None) if job.status.is_final else job)


@breaks("MergesJobs", "test_a_kept_merge_key_returns_the_ended_job", "with keep_key, the merge key stays")
class NeverKeepsTheKey(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, expect, evolve(changes, keep_key=False))


@breaks("MergesJobs", "test_a_kept_merge_key_returns_the_ended_job", "create with a kept key returns the ended job")
class MergesOnlyWithLivingJobs(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        holder = self.get(self._merging.get(merge_key or "", ""))
        return super().create(draft, None if holder is not None and holder.status.is_final else merge_key)


@breaks("PurgesJobs", "test_a_job_with_a_file_is_not_purged", "purge leaves jobs that have a file")
class PurgesJobsWithAFile(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        expired = self.find(Query(expired=(completed_age, ended_age), labels=labels, limit=10_000))
        return [self.delete(job.id) for job in expired].count(True)


@breaks("PurgesJobs", "test_a_purged_job_frees_its_merge_key", "the key of a purged job is free")
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


# --- the tail of output ---------------------------------------------------------------------------------------------


@breaks("TailCalls", "test_the_tail_comes_with_the_chunk_that_reaches_the_end", "a chunk in the middle has no tail")
@breaks(
    "TailCalls",
    "test_a_chunk_that_ends_before_the_last_character_has_no_tail",
    "a chunk in the middle has no tail",
)
class SendsTheTailAlways(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        return evolve(super().output(job_id, offset, limit), tail=self._tails.get(job_id, ""))


@breaks(
    "TailCalls",
    "test_the_tail_comes_with_the_chunk_that_reaches_the_end",
    "an empty chunk at or past the end has the tail",
)
class SendsTheTailOnce(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return chunk if chunk.text else evolve(chunk, tail="")


@breaks("TailCalls", "test_a_report_replaces_the_tail", "a report replaces the tail")
class AppendsToTheTail(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        if report.tail is not UNSET:
            report = evolve(report, tail=self._tails.get(job_id, "")[-30_000:] + report.tail[:30_000])
        return super().report(job_id, token, report)


@breaks("TailCalls", "test_a_report_replaces_the_tail", "a report without a tail keeps it")
class DropsTheTail(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        written = super().report(job_id, token, report)
        if written and report.tail is UNSET:
            self._tails.pop(job_id, None)
        return written


@breaks("TailCalls", "test_a_report_replaces_the_tail", "output_size counts the output before the tail")
class CountsTheTail(MemoryStore):
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        job = super().get(job_id, body=body)
        return job and evolve(job, output_size=job.output_size + len(self._tails.get(job_id, "")))


@breaks(
    "TailCalls",
    "test_a_tail_may_be_as_long_as_allowed",
    "a tail of 65536 bytes or less comes back whole",
)
class CutsTheTail(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return evolve(chunk, tail=chunk.tail.encode()[:65_535].decode("utf-8", "replace"))


@breaks(
    "TailCalls",
    "test_a_tail_without_output_and_a_large_output_with_a_tail",
    "the tail is no part of the output",
)
class AppendsTheTailToTheOutput(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return evolve(chunk, text=chunk.text + chunk.tail) if chunk.text else chunk


@breaks("TailCalls", "test_a_refused_report_leaves_the_tail", "a refused report leaves the tail")
class ReplacesTheTailOfAnyRun(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        if report.tail is not UNSET:
            self._tails[job_id] = report.tail
        return super().report(job_id, token, report)


@breaks("TailCalls", "test_the_tails_of_two_jobs_do_not_mix", "a job has its own tail")
class KeepsOneTail(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return evolve(chunk, tail=list(self._tails.values())[-1]) if chunk.tail else chunk


@breaks("TailCalls", "test_the_tails_of_two_jobs_do_not_mix", "a deleted job has no tail")
class KeepsTheDeletedTail(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        self._seen |= {job_id: chunk.tail} if chunk.tail else {}
        return evolve(chunk, tail=self._seen.get(job_id, "")) if self.get(job_id) is None else chunk

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._seen: dict[str, str] = {}


@breaks("TailCalls", "test_of_many_tails_one_stays_whole", "the tails of two reports do not mix")
class MixesTails(MemoryStore):
    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._begun = 0

    def report(self, job_id: str, token: str, report: Report) -> bool:
        if report.tail is UNSET:
            return super().report(job_id, token, report)
        written = super().report(job_id, token, evolve(report, tail=report.tail[:10_000]))
        self._begun += 1
        mine, deadline = self._begun, time.monotonic() + 0.6
        while self._begun == mine and time.monotonic() < deadline:
            let_others_run()
        if written and self._begun != mine:
            self._tails[job_id] = self._tails[job_id][:10_000] + report.tail[10_000:]
        return written


# --- run leases -----------------------------------------------------------------------------------------------------


class AltersABeat(MemoryStore):
    """Beats with other arguments than it was given."""

    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        raise NotImplementedError

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        return super().beat(*self.altered(tokens, lease, alive))


@breaks(
    "LeaseCalls", "test_a_beat_renews_the_leases_of_many_jobs", "a beat sets lease_until, and updated_time of the jobs"
)
class BeatsWithAVersion(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = super().beat(tokens, lease, alive)
        for job_id in tokens.keys() - stale:
            self._jobs[job_id] = evolve(self._jobs[job_id], version=self._jobs[job_id].version + 1)
        return stale


@breaks(
    "LeaseCalls", "test_a_beat_renews_the_leases_of_many_jobs", "a beat sets lease_until, and updated_time of the jobs"
)
class TakesAllForAlive(AltersABeat):
    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        return tokens, lease, frozenset(tokens)


@breaks("LeaseCalls", "test_a_renewed_lease_is_over_exactly_at_its_new_end", "a beat renews the lease for no longer")
class RenewsAMicrosecondMore(AltersABeat):
    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        return tokens, lease + MICROSECOND, alive


@breaks(
    "LeaseCalls",
    "test_a_renewed_lease_is_over_exactly_at_its_new_end",
    "a renewed lease is not over a microsecond before lease_until",
)
class RenewsAMicrosecondLess(AltersABeat):
    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        return tokens, lease - MICROSECOND, alive


@breaks("LeaseCalls", "test_a_beat_of_many_jobs", "beat returns exactly the stale ids, of any number")
class BeatsAHundredAtMost(AltersABeat):
    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        return dict(list(tokens.items())[:100]), lease, alive


@breaks(
    "LeaseCalls",
    "test_a_beat_with_another_token_is_stale_and_changes_nothing",
    "a stale job keeps no other from being renewed",
)
class BeatsAllOrNone(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = frozenset(name for name in tokens if tokens[name] != self._token_of(name))
        return stale or super().beat(tokens, lease, alive)

    def _token_of(self, name: str) -> str | None:
        job = self._jobs.get(name)
        return job.token if job is not None and not job.status.is_final else None


@breaks(
    "LeaseCalls",
    "test_a_beat_with_another_token_is_stale_and_changes_nothing",
    "beat returns the ids whose jobs do not run with these tokens",
)
class KnowsNothingStale(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        super().beat(tokens, lease, alive)
        return NONE


@breaks("LeaseCalls", "test_a_beat_of_nothing_does_nothing", "the result of beat must be frozenset; it was None")
class AnswersNoBeat(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        super().beat(tokens, lease, alive)
        return None  # type: ignore[return-value]


class AltersWhatIsExpected(MemoryStore):
    """Changes a job under another condition than it was given."""

    def altered(self, expect: Expect, job: Job | None) -> Expect:
        raise NotImplementedError

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, self.altered(expect, self._jobs.get(job_id)), changes)


@breaks(
    "LeaseCalls",
    "test_a_lease_is_over_exactly_at_lease_until",
    "a lease is not over a microsecond before lease_until",
)
class IgnoresTheLease(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, lease_over=False)


@breaks("LeaseCalls", "test_a_lease_is_over_exactly_at_lease_until", "a lease is over exactly at lease_until")
class EndsALeaseTooLate(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        is_exact = job is not None and job.lease_until == self._clock.now()
        return evolve(expect, version=0) if expect.lease_over and is_exact else expect


@breaks("LeaseCalls", "test_without_a_lease_none_is_over", "a job without a lease has none that is over")
class TakesNoLeaseForAnOldOne(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, lease_over=expect.lease_over and job is not None and job.lease_until is not None)


@breaks("LeaseCalls", "test_a_beat_and_the_end_of_a_lease_exclude_each_other", "a job is renewed, or ended and stale")
class ReadsTheLeaseFirst(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = self._jobs.get(job_id)
        if expect.lease_over and (job is None or not holds(expect, job, self._clock.now())):
            return None
        if expect.lease_over:
            time.sleep(0.01)
        return super().change(job_id, evolve(expect, lease_over=False), changes)


# --- runs -----------------------------------------------------------------------------------------------------------


@breaks(
    "RunCalls", "test_only_a_job_that_waits_for_this_run_is_claimed", "only the run that a job waits for is claimed"
)
class IgnoresTheRun(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, run=None)


@breaks("RunCalls", "test_only_a_job_that_waits_for_this_run_is_claimed", "a job that runs is not claimed again")
class ClaimsWhatRuns(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, unclaimed=False)


@breaks("RunCalls", "test_a_job_that_ended_unclaimed_is_not_claimed", "an ended job does not wait")
class ClaimsWhatHasEnded(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, unclaimed=expect.unclaimed and (job is None or job.token is not None))


@breaks("RunCalls", "test_unclaimed_follows_the_token", "a job between two slices is unclaimed")
class TakesUnclaimedForStarted(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, status=Status.STARTED, unclaimed=False) if expect.unclaimed else expect


class AltersChanges(MemoryStore):
    """Writes other changes than it was given."""

    def altered(self, changes: Changes) -> Changes:
        raise NotImplementedError

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, expect, self.altered(changes))


@breaks("RunCalls", "test_the_token_of_an_earlier_run_can_do_nothing", "an earlier token is not accepted")
class KeepsTheToken(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        is_requeued = before is not None and before.run != job.run
        return super()._write(evolve(job, token=before.token) if before is not None and is_requeued else job)

    def take_due(self, *_given: Any, **_options: Any) -> list[Job]:
        return []


@breaks("RunCalls", "test_a_retry_resets_what_belongs_to_the_run", "a retry resets what belongs to the run")
class KeepsTheDeadline(AltersChanges):
    def altered(self, changes: Changes) -> Changes:
        return evolve(changes, deliver_by=UNSET if changes.deliver_by is None else changes.deliver_by)


@breaks("RunCalls", "test_a_claim_writes_its_fields_and_no_others", "a claim writes its fields and no others")
class KeepsTheExpiry(AltersChanges):
    def altered(self, changes: Changes) -> Changes:
        return evolve(changes, expires=UNSET)


@breaks("RunCalls", "test_a_claim_writes_its_fields_and_no_others", "a claim writes its fields and no others")
class ErasesCredentialsAtTheClaim(MemoryStore):
    def _write(self, job: Job) -> Job:
        return super()._write(job if job.token is None else evolve(job, sealed=None))


@breaks("RunCalls", "test_each_run_sets_its_claimed_time", "each claim sets claimed_time to the store's now")
class KeepsTheFirstClaim(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        first = None if before is None else before.claimed_time
        return super()._write(job if first is None else evolve(job, claimed_time=first))


@breaks("RunCalls", "test_many_runs_and_a_long_history", "a long history comes back whole")
class KeepsAShortHistory(MemoryStore):
    def _write(self, job: Job) -> Job:
        return super()._write(evolve(job, history=job.history[-50:]) if isinstance(job.history, list) else job)


@breaks(
    "ReportCalls",
    "test_a_report_replaces_the_cursor_and_resets_the_attempts",
    "a cursor stays, and sets attempt to 1",
)
class CountsAttemptsAfterACursor(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        is_report = before is not None and before.cursor != job.cursor and before.run == job.run
        return super()._write(evolve(job, attempt=before.attempt) if before is not None and is_report else job)


@breaks(
    "ReportCalls",
    "test_a_report_replaces_the_cursor_and_resets_the_attempts",
    "a report replaces the cursor, by None too",
)
class TakesNoneForNoCursor(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        return super().report(job_id, token, evolve(report, cursor=report.cursor or UNSET))


@breaks(
    "FindsJobs", "test_a_job_is_overdue_exactly_when_its_run_lease_is_over", "a job is overdue exactly when its run"
)
class FindsOnlyTheSilent(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(query)
        return [job for job in found if not query.overdue or late(job) is not Late.DEAD]


@breaks(
    "FindsJobs",
    "test_a_job_between_two_slices_is_found_as_in_progress",
    "between two slices a job is IN_PROGRESS",
)
class FindsTheWaitingAsStarted(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, status=None))
        return [job for job in found if query.status in (None, Status.STARTED if job.is_waiting else job.status)]


# --- slots and queues -----------------------------------------------------------------------------------------------


@breaks("SlotCalls", "test_a_slot_belongs_to_one_job", "a slot that another job has can't be taken: SlotTaken")
class GivesSlotsAway(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        self._slots.clear()
        return super().change(job_id, expect, changes)

    def _write(self, job: Job) -> Job:
        self._slots = defaultdict(str, self._slots)
        self._slots |= {each.slot: each.id for each in self._jobs.values() if each.slot is not None}
        return super()._write(job)


@breaks(
    "SlotCalls",
    "test_a_change_that_meets_a_taken_slot_writes_none_of_its_fields",
    "a change that raises SlotTaken writes nothing",
)
class WritesBeforeTheSlot(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if isinstance(changes.slot, str):
            super().change(job_id, expect, evolve(changes, slot=UNSET))
            return super().change(job_id, Expect(), Changes(slot=changes.slot))
        return super().change(job_id, expect, changes)


@breaks("SlotCalls", "test_an_unsatisfied_expectation_comes_first", "only a change to a slot raises SlotTaken")
class NamesAnotherSlot(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if isinstance(changes.slot, str) and self._slots.get(changes.slot, job_id) != job_id:
            raise SlotTaken("another")
        return super().change(job_id, expect, changes)


@breaks("SlotCalls", "test_a_released_slot_is_free", "a released slot can be taken by another job")
class KeepsSlots(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = dict(self._slots)
        written = super()._write(job)
        self._slots.update(before)
        return written


@breaks(
    "SlotCalls", "test_a_job_that_has_a_slot_is_not_skipped", "a job of a full queue is skipped unless it has a slot"
)
class SkipsWhatHasASlot(MemoryStore):
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
        taken = super().take_due(lessee, lease, limit, labels, full, queues=queues)
        return [job for job in taken if job.queue not in full]


@breaks("DelaysJobs", "test_full_queues_are_skipped_and_hold_up_no_others", "take_due skips the jobs of full queues")
class SkipsNoQueue(MemoryStore):
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
        return super().take_due(lessee, lease, limit, labels, queues=queues)


@breaks("DelaysJobs", "test_full_queues_are_skipped_and_hold_up_no_others", "take_due skips the jobs of full queues")
class IsHeldUpByAFullQueue(MemoryStore):
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
        return [job for job in super().take_due(lessee, lease, limit, labels, queues=queues) if job.queue not in full]


@breaks("DelaysJobs", "test_only_the_jobs_of_the_given_queues_are_taken", "take_due takes nothing of no queues")
class TakesFromAnyQueue(MemoryStore):
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
        return super().take_due(lessee, lease, limit, labels, full, queues=queues or None)


@breaks("DelaysJobs", "test_a_job_between_two_slices_is_taken", "a job between two slices waits to be taken")
class TakesOnlyTheStarted(MemoryStore):
    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        taken = super().take_due(*given, **options)
        return [job for job in taken if job.status is Status.STARTED]


@breaks("SlotCalls", "test_of_many_jobs_one_gets_a_slot", "of many jobs, exactly one gets a slot")
class ReadsThenTakesASlot(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if isinstance(changes.slot, str):
            holder = self._slots.get(changes.slot, job_id)
            let_others_run()
            if holder != job_id:
                raise SlotTaken(changes.slot)
            with self._lock:
                self._slots.pop(changes.slot, None)
        return super().change(job_id, expect, changes)


@breaks("LeaseCalls", "test_a_beat_can_shorten_a_lease", "a lease lasts as long as asked, no longer")
class NeverShortensALease(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        before = {name: self._jobs[name].lease_until for name in tokens if name in self._jobs}
        stale = super().beat(tokens, lease, alive)
        for name in tokens.keys() - stale:
            last, now = before[name], self._jobs[name].lease_until
            if last is not None and now is not None:
                self._jobs[name] = evolve(self._jobs[name], lease_until=max(last, now))
        return stale


@breaks("LeaseCalls", "test_a_beat_renews_a_lease_that_is_over", "a job that nobody has ended is not stale")
class GivesUpOldLeases(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        now = self._clock.now()
        over = {name for name in tokens if name in self._jobs and (self._jobs[name].lease_until or now) < now}
        return super().beat({name: tokens[name] for name in tokens.keys() - over}, lease, alive) | over


@breaks("LeaseCalls", "test_a_beat_adds_a_lease_to_a_job_without_one", "a beat sets a lease that was missing")
class RenewsOnlyWhatIsThere(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        without = {name for name in tokens if name in self._jobs and self._jobs[name].lease_until is None}
        return super().beat({name: tokens[name] for name in tokens.keys() - without}, lease, alive)


@breaks("LeaseCalls", "test_lease_over_goes_with_the_other_expectations", "every expectation must be satisfied")
class ForgetsTheOtherExpectations(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return Expect(lease_over=True) if expect.lease_over else expect


@breaks("FindsJobs", "test_without_an_error_timeout_a_job_may_be_silent", "an error_timeout of 0 means none")
class TakesNoTimeoutForAtOnce(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, overdue=False)) if query.overdue else []
        endless = [job for job in found if job.token is not None and not job.status.is_final and not job.error_timeout]
        return endless or super().find(query)


@breaks(
    "FindsJobs",
    "test_a_run_that_has_timed_out_is_overdue_again_when_its_lease_is_over",
    "a run that has timed out is not overdue while its lease lasts",
)
class EndsWhatHasTimedOutAgain(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, overdue=False)) if query.overdue else []
        return [job for job in found if job.token == TIMED_OUT] or super().find(query)


@breaks("RunCalls", "test_a_history_is_the_stores_own_copy", "later changes to the caller's value are not stored")
class KeepsTheCallersHistory(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        changed = super().change(job_id, expect, changes)
        if changed is not None and changes.history is not UNSET:
            self._jobs[job_id] = evolve(self._jobs[job_id], history=changes.history)
        return changed


@breaks(
    "RunCalls", "test_a_slice_stays_in_progress_and_resets_the_attempts", "the next slice keeps status and progress"
)
class StartsEachSliceAnew(MemoryStore):
    def _write(self, job: Job) -> Job:
        is_sliced = job.is_waiting and job.status is Status.IN_PROGRESS
        return super()._write(evolve(job, status=Status.STARTED) if is_sliced else job)


@breaks("RunCalls", "test_held_credentials_keep_the_lease_with_their_process", "a change without lessee keeps it")
class RequeuesForAnyProcess(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        is_requeued = before is not None and before.run != job.run
        return super()._write(evolve(job, lessee=None) if is_requeued else job)


@breaks("SlotCalls", "test_a_job_that_takes_another_slot_releases_its_own", "a job has one slot at most")
class CollectsSlots(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = dict(self._slots)
        written = super()._write(job)
        if job.slot is not None:
            self._slots = before | self._slots
        return written


@breaks("SlotCalls", "test_slots_are_compared_byte_by_byte", "the slot 'JOB/0' equals no other slot")
class TakesSlotsForEqual(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if not isinstance(changes.slot, str):
            return super().change(job_id, expect, changes)
        try:
            return super().change(job_id, expect, evolve(changes, slot=changes.slot.casefold()))
        except SlotTaken:
            raise SlotTaken(changes.slot) from None


@breaks("DelaysJobs", "test_full_queues_go_with_labels", "take_due takes only jobs with these labels, of queues")
class ForgetsLabelsIfAQueueIsFull(MemoryStore):
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
        return super().take_due(lessee, lease, limit, None if full else labels, full, queues=queues)


@breaks("DelaysJobs", "test_a_job_past_its_deadline_is_still_taken", "take_due ignores deliver_by and expires")
class LeavesTheLateAlone(MemoryStore):
    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        return [job for job in super().take_due(*given, **options) if late(job) is None]


# --- wrong return values ----------------------------------------------------------------------------------------


@breaks("CreateCalls", "test_an_unknown_id_finds_nothing", "get must not raise this; it raised KeyError")
class RaisesForTheUnknown(MemoryStore):
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        return self._read(job_id)


@breaks(
    "CreateCalls",
    "test_an_id_that_exists_is_refused",
    "create must not raise this; it raised KeyError: 'UNIQUE constraint failed'",
)
class LetsTheDriversErrorOut(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        try:
            return super().create(draft, merge_key)
        except InvalidRequest:
            raise KeyError("UNIQUE constraint failed") from None


@breaks(
    "ChangeCalls",
    "test_a_change_with_an_unsatisfied_expectation_changes_nothing",
    "the result of change must be Job or None; it was False",
)
class SaysFalseForNone(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, expect, changes) or False  # type: ignore[return-value]


@breaks("ReportCalls", "test_a_report_sets_the_progress", "the result of report must be bool; it was 1")
class SaysOneForTrue(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        return int(super().report(job_id, token, report))  # type: ignore[return-value]


@breaks("FindsJobs", "test_a_silent_job_is_overdue_exactly_at_its_limit", "the result of find must be list; it was")
class FindsATuple(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        return tuple(super().find(query))  # type: ignore[return-value]


@breaks(
    "PurgesJobs",
    "test_purge_removes_jobs_that_ended_longer_ago_than_their_age",
    "the result of purge must be int; it was None",
)
class DoesNotCount(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        super().purge(completed_age, ended_age, labels)
        return None  # type: ignore[return-value]


class AltersWhatIsRead(MemoryStore):
    def altered(self, job: Job) -> Job:
        raise NotImplementedError

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        job = super().get(job_id, body=body)
        return None if job is None else self.altered(job)


@breaks("CreateCalls", "test_a_created_job_has_the_fields_of_its_draft", "get: the job's created_time must be in UTC")
class ForgetsTheZone(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, created_time=job.created_time.replace(tzinfo=None))


@breaks("CreateCalls", "test_a_created_job_has_the_fields_of_its_draft", "get: the job's start_time must be in UTC")
class ReadsInAnotherZone(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, start_time=job.start_time.astimezone(timezone(timedelta(hours=5, minutes=30))))


@breaks("CreateCalls", "test_a_created_job_has_the_fields_of_its_draft", "get returns the job as it was written")
class KeepsMilliseconds(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, start_time=cut(job.start_time), created_time=cut(job.created_time))


@breaks(
    "CreateCalls",
    "test_a_created_job_has_the_fields_of_its_draft",
    "get: the job's status must be Status; it was 0",
)
class ReadsANumberAsStatus(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, status=cast("Status", int(job.status)))


@breaks(
    "TextCalls",
    "test_the_longest_status_text_comes_back",
    "a status text of 65538 characters comes back whole",
)
class CutsTexts(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, status_text=None if job.status_text is None else job.status_text[:65535])


@breaks("TextCalls", "test_a_result_survives_the_round_trip_through_json", "a result keeps its JSON type")
class ReadsAllNumbersAsFloats(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, result=float(job.result) if type(job.result) is int else job.result)


def cut(when: datetime) -> datetime:
    return when.replace(microsecond=when.microsecond // 1000 * 1000)


@breaks("TextCalls", "test_ids_are_compared_byte_by_byte", "create must not raise this; it raised InvalidRequest")
class StripsIds(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return super().create(
            evolve(draft, id=draft.id.rstrip(" ")) if draft.id not in self._jobs else draft, merge_key
        )


@breaks("TextCalls", "test_a_result_is_the_stores_own_copy", "later changes to the caller's value are not stored")
class KeepsTheCallersObject(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = super().change(job_id, expect, changes)
        if job is not None and changes.result is not UNSET:
            self._jobs[job_id] = evolve(self._jobs[job_id], result=changes.result)
        return job


@breaks(
    "ForkCalls",
    "test_a_forked_child_and_its_parent_both_work",
    "a forked child can use the store; report must not raise this; it raised RuntimeError: this connection is another process's",
)
class CannotBeForked(MemoryStore):
    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._home = os.getpid()

    def report(self, job_id: str, token: str, report: Report) -> bool:
        if self._home != os.getpid():
            raise RuntimeError("this connection is another process's")
        return super().report(job_id, token, report)


@breaks("MergesJobs", "test_a_claim_keeps_the_merge_key", "a store has twelve methods; missing here: beat")
class CannotBeat(MemoryStore):
    beat = None  # type: ignore[assignment]  # as if it did not exist


# --- between processes ----------------------------------------------------------------------------------------------


class ReadsThenClaimsAFile(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = self.get(job_id)
        let_others_run()
        return (
            None
            if job is None or not holds(expect, job, self._clock.now())
            else super().change(job_id, Expect(), changes)
        )


class ReadsThenMergesAFile(SQLiteStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        living = self.find(Query(status=Status.STARTED, limit=1)) if merge_key is not None else []
        let_others_run()
        return living[0] if living else super().create(draft)


class LeasesTwice(SQLiteStore):
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
        jobs = [job for job in self.find(Query(status=Status.STARTED, limit=1000)) if job.lessee is None][:limit]
        let_others_run()
        leased = [self.change(job.id, Expect(), Changes(lessee=lessee, lease=lease)) for job in jobs]
        return [job for job in leased if job is not None]


class ReadsThenTakesASlotOfAFile(SQLiteStore):
    """Keeps slots where the index of SQLite does not see them."""

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if changes.slot is not UNSET and changes.slot is not None:
            found = self.find(Query(status=Status.STARTED, limit=1000))
            let_others_run()
            if any(job.status_text == changes.slot for job in found):
                raise SlotTaken(changes.slot)
        text = changes.slot if changes.slot is UNSET else changes.slot or ""
        return super().change(job_id, expect, evolve(changes, slot=UNSET, status_text=text))


class LosesOutput(SQLiteStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        lost = " 3 " in report.output
        return super().report(job_id, token, evolve(report, output="") if lost else report)


class FailsInAChild(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        raise RuntimeError("deadlock detected")


class HangsInAChild(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        threading.Event().wait()
        return None


class DiesInAChild(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        os._exit(1)


SHARING_FAULTS: Final = (
    Fault(
        ReadsThenClaimsAFile,
        "SharesJobs",
        "test_of_many_claims_one_wins",
        "of many claims of one job, exactly one wins",
    ),
    Fault(
        ReadsThenMergesAFile,
        "SharesJobs",
        "test_identical_creates_with_a_merge_key_make_one_job",
        "creates with one merge key all return the same job",
    ),
    Fault(
        LeasesTwice,
        "SharesJobs",
        "test_each_due_job_is_leased_to_one",
        "of several callers, exactly one gets each due job",
    ),
    Fault(
        ReadsThenTakesASlotOfAFile,
        "SharesJobs",
        "test_a_slot_never_has_two_holders",
        "a slot never has two holders at once",
    ),
    Fault(
        LosesOutput,
        "SharesJobs",
        "test_reports_ends_and_cancels_leave_one_end_and_no_gap",
        "each thread's output is kept, in order",
    ),
    Fault(
        FailsInAChild,
        "SharesJobs",
        "test_of_many_claims_one_wins",
        "a shared store does not raise in any process; it raised RuntimeError: deadlock detected",
    ),
    Fault(HangsInAChild, "SharesJobs", "test_of_many_claims_one_wins", "calls from many processes all return"),
    Fault(DiesInAChild, "SharesJobs", "test_of_many_claims_one_wins", "calls from many processes all return"),
)


def opened_badly(address: str) -> Store:
    """The broken store at the address, which is JSON of its name and its path."""
    name, path = json.loads(address)
    store: Store = {fault.store.__name__: fault.store for fault in SHARING_FAULTS}[name](path, busy_timeout=60)  # type: ignore[call-arg]
    return store


# --- stores that lack capabilities ------------------------------------------------------------------------


class ListsTheLiving(MemoryStore):
    """Like a cache: ``find`` returns only jobs that have not ended, ``purge`` removes nothing, and there are no slots."""

    lacks = frozenset({Capability.SHARED, Capability.LISTING, Capability.SLOTS})  # type: ignore[misc]  # an override of a Final

    def find(self, query: Query) -> list[Job]:
        return [job for job in super().find(evolve(query, limit=10**6)) if not job.status.is_final][: query.limit]

    def count(self, query: Query) -> int:
        return len(self.find(query))

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return 0


class KeepsNoList(ListsTheLiving):
    """Can't find or purge jobs at all, and has no slots."""

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        assert not isinstance(changes.slot, str), "backjob sets no slot in a store that lacks them"
        return super().change(job_id, expect, changes)

    def find(self, query: Query) -> list[Job]:
        raise NotImplementedError

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        raise NotImplementedError
