"""Stores that are off by a microsecond or a character, or miss an age."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from attrs import evolve

from backjob.lifecycle import overdue
from backjob.model import Draft, Job, Output, Query
from backjob.stores.memory import MemoryStore
from tests.contracts.broken.faults import MICROSECOND, breaks


@breaks("test_a_lease_ends_exactly_at_lease_until", "a lease ends exactly at lease_until")
class LeasesAMicrosecondMore(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return super().create(evolve(draft, lease=draft.lease + MICROSECOND), merge_key)


@breaks(
    "test_a_lease_ends_exactly_at_lease_until",
    "no caller, not even the lessee, takes a job a microsecond before its lease ends",
)
class LeasesAMicrosecondLess(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return super().create(evolve(draft, lease=draft.lease - MICROSECOND), merge_key)


@breaks("test_the_longest_due_come_first_up_to_the_limit", "the longest due are taken first")
class LeasesInAnyOrder(MemoryStore):
    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        return super().take_due(*given, **options)[::-1]


@breaks(
    "test_purge_removes_jobs_that_ended_longer_ago_than_their_age",
    "purge keeps a job that ended exactly its age ago",
)
class PurgesTooSoon(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return super().purge(
            completed_age and completed_age - MICROSECOND, ended_age and ended_age - MICROSECOND, labels
        )


@breaks(
    "test_purge_removes_jobs_that_ended_longer_ago_than_their_age",
    "purge removes a job that ended its age and a microsecond ago",
)
class ForgetsTheSecondAge(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return super().purge(completed_age, 0, labels)


@breaks("test_an_age_of_zero_keeps_jobs_forever", "0 keeps jobs forever")
class TakesZeroForAtOnce(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return super().purge(completed_age or MICROSECOND, ended_age or MICROSECOND, labels)


@breaks("test_a_purged_job_leaves_nothing_behind", "a purged job's output is gone")
class LeavesOutputBehind(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        outputs = dict(self._outputs)
        try:
            return super().purge(completed_age, ended_age, labels)
        finally:
            self._outputs.update(outputs)


@breaks(
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


@breaks("test_chunks_join_to_the_whole", "reading from each next_offset gives the whole output")
class CutsCharacters(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        whole = super().output(job_id, 0, limit + 10_000_000)
        chunk = whole.text.encode()[max(offset, 0) :][:limit]
        return Output(chunk.decode("utf-8", "replace"), max(offset, 0) + len(chunk), whole.truncated)


@breaks("test_every_offset_and_limit_gives_whole_characters", "next_offset is where the chunk ends")
class CountsCharacters(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return evolve(chunk, next_offset=offset + len(chunk.text))


BY_THE_END: Final = "test_the_ages_count_from_the_end"
COUNT_FROM_IT: Final = "the ages of purge count from end_time, and from no other moment"


class CountsFromAnotherMoment(MemoryStore):
    moment: str

    def _odd(self) -> dict[str, Job]:
        """The jobs as if they had ended at that moment."""
        jobs = self._jobs.values()
        return {job.id: evolve(job, end_time=job.end_time and getattr(job, self.moment)) for job in jobs}

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        self._jobs = self._odd()
        return super().purge(completed_age, ended_age, labels)


@breaks(BY_THE_END, COUNT_FROM_IT)
class PurgesByTheUpdatedTime(CountsFromAnotherMoment):
    moment = "updated_time"


@breaks(BY_THE_END, COUNT_FROM_IT)
class PurgesByTheCreatedTime(CountsFromAnotherMoment):
    moment = "created_time"


@breaks(BY_THE_END, COUNT_FROM_IT)
class PurgesByTheClaimedTime(CountsFromAnotherMoment):
    moment = "claimed_time"


@breaks("test_expired_counts_from_the_end", "the ages of expired count from end_time, and from no other moment")
class ExpiresByTheUpdatedTime(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        jobs = self._jobs
        self._jobs = {job.id: evolve(job, end_time=job.end_time and job.updated_time) for job in jobs.values()}
        try:
            return super().find(query)
        finally:
            self._jobs = jobs

    def count(self, query: Query) -> int:
        return len(self.find(query))
