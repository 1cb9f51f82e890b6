"""Stores that mix the runs of a job."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from backjob.lifecycle import Late, late
from backjob.model import UNSET, Changes, Expect, Job, Query, Report, Status
from backjob.stores.memory import MemoryStore
from tests.contracts.broken.faults import AltersWhatIsExpected, breaks


@breaks("test_only_a_job_that_waits_for_this_run_is_claimed", "only the run that a job waits for is claimed")
class IgnoresTheRun(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, run=None)


@breaks("test_only_a_job_that_waits_for_this_run_is_claimed", "a job that runs is not claimed again")
class ClaimsWhatRuns(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, unclaimed=False)


@breaks("test_a_job_that_ended_unclaimed_is_not_claimed", "an ended job does not wait")
class ClaimsWhatHasEnded(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, unclaimed=expect.unclaimed and (job is None or job.token is not None))


@breaks("test_unclaimed_follows_the_token", "a job between two slices is unclaimed")
class TakesUnclaimedForStarted(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, status=Status.STARTED, unclaimed=False) if expect.unclaimed else expect


class AltersChanges(MemoryStore):
    """Writes other changes than it was given."""

    def altered(self, changes: Changes) -> Changes:
        raise NotImplementedError

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, expect, self.altered(changes))


@breaks("test_the_token_of_an_earlier_run_can_do_nothing", "an earlier token is not accepted")
class KeepsTheToken(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        is_requeued = before is not None and before.run != job.run
        return super()._write(evolve(job, token=before.token) if before is not None and is_requeued else job)

    def take_due(self, *_given: Any, **_options: Any) -> list[Job]:
        return []


@breaks("test_a_retry_resets_what_belongs_to_the_run", "a retry resets what belongs to the run")
class KeepsTheDeadline(AltersChanges):
    def altered(self, changes: Changes) -> Changes:
        return evolve(changes, deliver_by=UNSET if changes.deliver_by is None else changes.deliver_by)


@breaks("test_a_claim_writes_its_fields_and_no_others", "a claim writes its fields and no others")
class KeepsTheExpiry(AltersChanges):
    def altered(self, changes: Changes) -> Changes:
        return evolve(changes, expires=UNSET)


@breaks("test_a_claim_writes_its_fields_and_no_others", "a claim writes its fields and no others")
class ErasesCredentialsAtTheClaim(MemoryStore):
    def _write(self, job: Job) -> Job:
        return super()._write(job if job.token is None else evolve(job, sealed=None))


@breaks("test_each_run_sets_its_claimed_time", "each claim sets claimed_time to the store's now")
class KeepsTheFirstClaim(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        first = None if before is None else before.claimed_time
        return super()._write(job if first is None else evolve(job, claimed_time=first))


@breaks("test_many_runs_and_a_long_history", "a long history comes back whole")
class KeepsAShortHistory(MemoryStore):
    def _write(self, job: Job) -> Job:
        return super()._write(evolve(job, history=job.history[-50:]) if isinstance(job.history, list) else job)


@breaks(
    "test_a_report_replaces_the_cursor_and_resets_the_attempts",
    "a cursor stays, and sets attempt to 1",
)
class CountsAttemptsAfterACursor(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        is_report = before is not None and before.cursor != job.cursor and before.run == job.run
        return super()._write(evolve(job, attempt=before.attempt) if before is not None and is_report else job)


@breaks(
    "test_a_report_replaces_the_cursor_and_resets_the_attempts",
    "a report replaces the cursor, by None too",
)
class TakesNoneForNoCursor(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        return super().report(job_id, token, evolve(report, cursor=report.cursor or UNSET))


@breaks("test_a_job_is_overdue_exactly_when_its_run_lease_is_over", "a job is overdue exactly when its run")
class FindsOnlyTheSilent(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(query)
        return [job for job in found if not query.overdue or late(job) is not Late.DEAD]


@breaks(
    "test_a_job_between_two_slices_is_found_as_in_progress",
    "between two slices a job is IN_PROGRESS",
)
class FindsTheWaitingAsStarted(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, status=None))
        return [job for job in found if query.status in (None, Status.STARTED if job.is_waiting else job.status)]
