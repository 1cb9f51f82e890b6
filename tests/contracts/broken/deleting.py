"""Stores that leave something of a removed job."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report
from backjob.protocols import Clock
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.stores.sqlite.connections import Transaction
from tests.contracts.broken.faults import breaks


@breaks("test_a_deleted_job_is_unknown", "a deleted job has no output")
class DeletesOnlyTheRow(MemoryStore):
    def _remove(self, job_id: str) -> bool:
        outputs = dict(self._outputs)
        try:
            return super()._remove(job_id)
        finally:
            self._outputs.update(outputs)


@breaks("test_a_deleted_job_is_unknown", "delete of a job returns True")
class DeletesOnlyEndedJobs(MemoryStore):
    def delete(self, job_id: str) -> bool:
        job = self.get(job_id)
        return job is not None and job.status.is_final and super().delete(job_id)


@breaks("test_a_deleted_job_is_unknown", "a second delete returns False")
@breaks("test_deleting_an_unknown_job_returns_false", "delete of an unknown job returns False")
@breaks("test_of_many_deletes_one_removes_the_job", "of many deletes of one job, exactly one returns True")
class DeletesWhatIsNotThere(MemoryStore):
    def delete(self, job_id: str) -> bool:
        super().delete(job_id)
        return True


@breaks("test_a_deleted_job_frees_its_slot", "the slot of a deleted job is free")
@breaks("test_a_deleted_job_frees_its_merge_key", "create returns the newest holder of a key")
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


@breaks("test_a_deleted_job_is_unknown", "nothing makes a deleted job known again")
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


@breaks("test_a_delete_during_other_writes_leaves_nothing_behind", "a deleted job has no output")
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


@breaks("test_a_deleted_job_is_not_taken", "take_due does not return a deleted job")
@breaks("test_a_deleted_job_is_not_found", "find does not return a deleted job")
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


OF_DELETED: Final = "test_a_new_job_shows_nothing_of_a_deleted_one"
OF_PURGED: Final = "test_a_new_job_shows_nothing_of_a_purged_one"
NOTHING_OF_IT: Final = "a new job has nothing of a removed one, even if the store uses its number again"


class NumbersOutputs(MemoryStore):
    """Keeps outputs and tails by the number of their job, and leaves them when the job is removed."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._numbers: dict[str, int] = {}

    def number(self) -> int:
        """The number of a new job."""
        raise NotImplementedError

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        self._numbers[draft.id] = self.number()
        return super().create(draft, merge_key)

    def _name(self, job_id: str) -> str:
        return f"#{self._numbers.get(job_id, 0)}"

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        job, name = self.get(job_id), self._name(job_id)
        if job is None:
            return super().output(job_id, offset, limit)
        text = bytes(self._outputs.get(name, b"")).decode()[offset:][:limit]
        return Output(text, offset + len(text), job.output_truncated, self._tails.get(name, ""))

    def report(self, job_id: str, token: str, report: Report) -> bool:
        written = super().report(job_id, token, report)
        if written:
            name = self._name(job_id)
            self._outputs.setdefault(name, bytearray()).extend(self._outputs.pop(job_id))
            self._tails |= {name: self._tails.pop(job_id)} if job_id in self._tails else {}
        return written


@breaks(OF_DELETED, NOTHING_OF_IT)
@breaks(OF_PURGED, NOTHING_OF_IT)
class TakesTheHighestNumberAndOne(NumbersOutputs):
    def number(self) -> int:
        return max([self._numbers[job_id] for job_id in self._jobs], default=0) + 1


@breaks(OF_DELETED, NOTHING_OF_IT)
@breaks(OF_PURGED, NOTHING_OF_IT)
class TakesTheLowestFreeNumber(NumbersOutputs):
    def number(self) -> int:
        return min(set(range(1, 100)) - {self._numbers[job_id] for job_id in self._jobs})


@breaks(OF_DELETED, NOTHING_OF_IT)
@breaks(OF_PURGED, NOTHING_OF_IT)
class TakesTheNumberOfJobs(NumbersOutputs):
    def number(self) -> int:
        return len(self._jobs) + 1


@breaks(OF_DELETED, NOTHING_OF_IT)
class LeavesChunksOfAFile(SQLiteStore):
    def delete(self, job_id: str) -> bool:
        with Transaction(self._connections) as connection:
            return bool(connection.execute("DELETE FROM backjob WHERE id = ?", (job_id,)).rowcount)
