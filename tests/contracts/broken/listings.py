"""Stores whose searches find the wrong jobs."""

from __future__ import annotations

import re
from typing import Any

from attrs import evolve

from backjob.model import Job, Query
from backjob.stores.memory import MemoryStore
from tests.contracts.broken.faults import MICROSECOND, NONE, CountsWhatItFinds, Labels, breaks


@breaks("test_only_jobs_with_these_labels_are_taken", "take_due takes only jobs with these labels")
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


@breaks("test_a_taken_job_has_the_body_of_its_request", "take_due returns the request with its body")
class TakesNoBody(MemoryStore):
    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        return [
            job if job.request is None else evolve(job, request=evolve(job.request, body=b""))
            for job in super().take_due(*given, **options)
        ]


@breaks("test_jobs_with_another_label_are_invisible", "find returns only jobs with these labels")
class FindsTheJobsOfOthers(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, labels=None))


@breaks("test_purge_removes_only_jobs_with_these_labels", "without labels there is no job to purge")
class PurgesTheJobsOfOthers(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return super().purge(completed_age, ended_age, labels or None)


@breaks("test_count_is_the_number_of_jobs_that_find_returns", "count returns how many jobs find returns")
class CountsBeyondTheLimit(MemoryStore):
    def count(self, query: Query) -> int:
        return super().count(evolve(query, limit=1000))


@breaks(
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


@breaks("test_the_jobs_of_a_queue_are_found", "queue finds the jobs of this queue alone")
class FindsEveryQueue(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, queue=None))


@breaks(
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
    "test_a_page_begins_after_a_moment_if_the_job_before_is_gone",
    "if the job before is unknown, the page begins after before_time",
)
class ForgetsTheMoment(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, before_time=None))


@breaks("test_a_page_begins_after_a_moment_if_the_job_before_is_gone", "a known `before` decides")
class PrefersTheMoment(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, before=query.before if query.before_time is None else None))


@breaks(
    "test_expired_finds_the_jobs_that_are_too_old",
    "expired finds the jobs that purge would remove, and those with a file",
)
class FindsNoExpiredFiles(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        found = super().find(query)
        return found if query.expired is None or query.has_file else [job for job in found if job.file is None]


@breaks(
    "test_expired_finds_the_jobs_that_are_too_old",
    "a job that ended exactly its age ago has not expired",
)
class ExpiresTooSoon(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        if query.expired is not None:
            completed, ended = (age and age - MICROSECOND for age in query.expired)
            query = evolve(query, expired=(completed, ended))
        return super().find(query)


@breaks("test_jobs_with_a_file_are_found", "has_file finds only jobs with a file")
class FindsJobsWithoutAFile(CountsWhatItFinds):
    def find(self, query: Query) -> list[Job]:
        return super().find(evolve(query, has_file=False))
