"""Stores in a file that break one promise to the processes that share them; the published suite must notice every one."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from attrs import evolve

from backjob.model import Draft, Expect, Job, Output, Query
from backjob.protocols import Changes
from backjob.stores.sqlite import SQLiteStore
from backjob.stores.sqlite.connections import Transaction
from tests.contracts.broken.faults import breaks

DO_NOT_MIX: Final = "test_jobs_that_two_processes_create_do_not_mix"
SEES: Final = "test_each_process_sees_what_the_other_has_written"
OUTLIVES: Final = "test_jobs_outlive_the_stores_that_wrote_them"
CLOCK: Final = "test_the_clock_of_the_store_is_right_and_exact"


# --- numbers ------------------------------------------------------------------------------------------------------------


@breaks(DO_NOT_MIX, "jobs that several processes create do not mix")
class CountsPerObject(SQLiteStore):
    """Numbers jobs by a counter in memory, and overwrites the job of another process that has the same number."""

    _number = 0

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        job = super().create(draft, merge_key)
        self._number += 1
        with Transaction(self._connections) as connection:
            connection.execute(
                "UPDATE OR REPLACE backjob_body SET job = ? WHERE job = (SELECT seq FROM backjob WHERE id = ?)",
                (self._number, draft.id),
            )
            connection.execute("UPDATE OR REPLACE backjob SET seq = ? WHERE id = ?", (self._number, draft.id))
        return job


@breaks(DO_NOT_MIX, "find returns the jobs of all processes, newest first")
class OrdersPerObject(SQLiteStore):
    """Keeps the jobs apart, but orders them by a counter in memory."""

    def find(self, query: Query) -> list[Job]:
        mine = super().find(query)
        return sorted(mine, key=lambda job: self._numbers.get(job.id, 0), reverse=True)

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        self._numbers[draft.id] = len(self._numbers) + 1
        return super().create(draft, merge_key)

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._numbers: dict[str, int] = {}


@breaks(OUTLIVES, "a new job has nothing of a removed one, also in a new process")
class UsesNumbersAgain(SQLiteStore):
    """Leaves the output of a deleted job under its number, which the next job gets."""

    def delete(self, job_id: str) -> bool:
        with Transaction(self._connections) as connection:
            output = connection.execute(
                "SELECT job, start, piece FROM backjob_output WHERE job = (SELECT seq FROM backjob WHERE id = ?)",
                (job_id,),
            ).fetchall()
        removed = super().delete(job_id)
        with Transaction(self._connections) as connection:
            connection.executemany("INSERT INTO backjob_output (job, start, piece) VALUES (?, ?, ?)", output)
        return removed


# --- close --------------------------------------------------------------------------------------------------------------


@breaks(OUTLIVES, "a job that was written can be read, in any process")
class EmptiesTheFileAtClose(SQLiteStore):
    def close(self) -> None:
        with Transaction(self._connections) as connection:
            connection.execute("DELETE FROM backjob")
        super().close()


@breaks(OUTLIVES, "a job outlives the store that created it, in another process")
class RemovesItsOwnJobsAtClose(SQLiteStore):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._mine: list[str] = []

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        job = super().create(draft, merge_key)
        if draft.id == "theirs":
            self._mine.append(job.id)
        return job

    def close(self) -> None:
        for job_id in self._mine:
            self.delete(job_id)
        super().close()


@breaks(OUTLIVES, "output outlives the stores that wrote it, and their close()")
class ForgetsTailsAtClose(SQLiteStore):
    def close(self) -> None:
        with Transaction(self._connections) as connection:
            connection.execute("DELETE FROM backjob_output WHERE start < 0")
        super().close()


# --- what others write --------------------------------------------------------------------------------------------------


@breaks(SEES, "each process sees a claim of another")
class CachesJobs(SQLiteStore):
    """A cache of the process's own, which its own writes keep up to date."""

    _cache: ClassVar[dict[str, Job]] = {}

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        self._cache[draft.id] = super().create(draft, merge_key)
        return self._cache[draft.id]

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        return self._cache.get(job_id) or super().get(job_id, body=body)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = super().change(job_id, expect, changes)
        if job is not None:
            self._cache[job_id] = job
        return job


@breaks(SEES, "each process sees an end of another")
class CachesRunningJobs(SQLiteStore):
    """Reads a job again only until it has seen it run."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._seen: dict[tuple[str, bool], Job] = {}

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        job = super().get(job_id, body=body)
        if job is not None and job.status.is_final and (job_id, body) in self._seen:
            return self._seen[job_id, body]
        if job is not None:
            self._seen[job_id, body] = job
        return job


@breaks(SEES, "all processes append to one output")
class CachesOutput(SQLiteStore):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._chunks: dict[str, Output] = {}

    def report(self, job_id: str, token: str, report: Any) -> bool:
        written = super().report(job_id, token, report)
        self._chunks[job_id] = super().output(job_id)
        return written

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        return self._chunks.get(job_id) or super().output(job_id, offset, limit)


@breaks(SEES, "a job that another process has deleted is unknown")
class RemembersDeletedJobs(SQLiteStore):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._last: Job | None = None

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        job = super().get(job_id, body=body)
        self._last = job or self._last
        return self._last if self._last is not None and self._last.id == job_id else None


# --- clocks -------------------------------------------------------------------------------------------------------------


class OddClock:
    """A clock that shows another time."""

    def __init__(self, odd: Callable[[datetime], datetime]) -> None:
        self._odd = odd

    def now(self) -> datetime:
        return self._odd(datetime.now(UTC))

    def monotonic(self) -> float:
        return time.monotonic()


class WithAnOddClock(SQLiteStore):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, clock=OddClock(self.odd), **options)

    @staticmethod
    def odd(moment: datetime) -> datetime:
        raise NotImplementedError


@breaks(CLOCK, "the store's clock is right, to 5 s (clock_tolerance)")
class IsTwoHoursAhead(WithAnOddClock):
    @staticmethod
    def odd(moment: datetime) -> datetime:
        return moment + timedelta(hours=2)


@breaks(CLOCK, "the store's clock is right, to 5 s (clock_tolerance)")
class TakesTheTimeOfDayForUTC(WithAnOddClock):
    """Right in a process whose zone is UTC."""

    @staticmethod
    def odd(moment: datetime) -> datetime:
        return moment.astimezone().replace(tzinfo=moment.tzinfo)


@breaks(CLOCK, "the store's clock counts microseconds")
class CountsSeconds(WithAnOddClock):
    @staticmethod
    def odd(moment: datetime) -> datetime:
        return moment.replace(microsecond=0)


@breaks(CLOCK, "the store's clock counts microseconds")
class CountsMilliseconds(WithAnOddClock):
    @staticmethod
    def odd(moment: datetime) -> datetime:
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@breaks(CLOCK, "the store's clock is right, to 5 s (clock_tolerance)")
class ReadsByAnotherClock(SQLiteStore):
    """Writes by the right clock, and reads by one that is late."""

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        job = super().get(job_id, body=body)
        return job and evolve(job, read_time=job.read_time - timedelta(minutes=1))
