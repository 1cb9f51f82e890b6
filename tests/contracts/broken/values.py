"""Stores that raise what they must not, or return values of a wrong type or another value."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Final, TypeAlias, cast

from attrs import evolve

from backjob.errors import InvalidRequest
from backjob.model import UNSET, Changes, Draft, Expect, Job, Query, Report, Status
from backjob.protocols import Clock
from backjob.stores.memory import MemoryStore
from tests.contracts.broken.faults import breaks


@breaks("test_an_unknown_id_finds_nothing", "get must not raise this; it raised KeyError")
class RaisesForTheUnknown(MemoryStore):
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        return self._read(job_id)


@breaks(
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
    "test_a_change_with_an_unsatisfied_expectation_changes_nothing",
    "the result of change must be Job or None; it was False",
)
class SaysFalseForNone(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, expect, changes) or False  # type: ignore[return-value]


@breaks("test_a_report_sets_the_progress", "the result of report must be bool; it was 1")
class SaysOneForTrue(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        return int(super().report(job_id, token, report))  # type: ignore[return-value]


@breaks("test_a_silent_job_is_overdue_exactly_at_its_limit", "the result of find must be list; it was")
class FindsATuple(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        return tuple(super().find(query))  # type: ignore[return-value]


@breaks(
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


@breaks("test_a_created_job_has_the_fields_of_its_draft", "get: the job's created_time must be in UTC")
class ForgetsTheZone(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, created_time=job.created_time.replace(tzinfo=None))


@breaks("test_a_created_job_has_the_fields_of_its_draft", "get: the job's start_time must be in UTC")
class ReadsInAnotherZone(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, start_time=job.start_time.astimezone(timezone(timedelta(hours=5, minutes=30))))


@breaks("test_a_created_job_has_the_fields_of_its_draft", "get returns the job as it was written")
class KeepsMilliseconds(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, start_time=cut(job.start_time), created_time=cut(job.created_time))


@breaks(
    "test_a_created_job_has_the_fields_of_its_draft",
    "get: the job's status must be Status; it was 0",
)
class ReadsANumberAsStatus(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, status=cast("Status", int(job.status)))


@breaks(
    "test_the_longest_status_text_comes_back",
    "a status text of 65538 characters comes back whole",
)
class CutsTexts(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, status_text=None if job.status_text is None else job.status_text[:65535])


@breaks("test_a_result_survives_the_round_trip_through_json", "a result keeps its JSON type")
class ReadsAllNumbersAsFloats(AltersWhatIsRead):
    def altered(self, job: Job) -> Job:
        return evolve(job, result=float(job.result) if type(job.result) is int else job.result)


def cut(when: datetime) -> datetime:
    return when.replace(microsecond=when.microsecond // 1000 * 1000)


@breaks("test_ids_are_compared_byte_by_byte", "create must not raise this; it raised InvalidRequest")
class StripsIds(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return super().create(
            evolve(draft, id=draft.id.rstrip(" ")) if draft.id not in self._jobs else draft, merge_key
        )


@breaks("test_a_result_is_the_stores_own_copy", "later changes to the caller's value are not stored")
class KeepsTheCallersObject(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = super().change(job_id, expect, changes)
        if job is not None and changes.result is not UNSET:
            self._jobs[job_id] = evolve(self._jobs[job_id], result=changes.result)
        return job


@breaks(
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


@breaks("test_a_claim_keeps_the_merge_key", "a store has twelve methods; missing here: beat")
class CannotBeat(MemoryStore):
    beat = None  # type: ignore[assignment]  # as if it did not exist


REPEATED: Final = "test_repeated_header_fields_come_back_apart_and_in_order"
APART: Final = "repeated header fields are neither joined nor lost, and keep their order"


Fields: TypeAlias = "tuple[tuple[str, str], ...]"


class KeepsOtherFields(MemoryStore):
    """Keeps other header fields of a request than it was given."""

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        request = evolve(draft.request, headers=self.kept(draft.request.headers))
        return super().create(evolve(draft, request=request), merge_key)

    def kept(self, fields: Fields) -> Fields:
        raise NotImplementedError


@breaks(REPEATED, APART)
class KeepsTheLastField(KeepsOtherFields):
    def kept(self, fields: Fields) -> Fields:
        return tuple(dict(fields).items())


@breaks(REPEATED, APART)
class JoinsFields(KeepsOtherFields):
    def kept(self, fields: Fields) -> Fields:
        names = dict.fromkeys([name for name, _ in fields])
        return tuple([(name, ", ".join([value for other, value in fields if other == name])) for name in names])


@breaks(REPEATED, APART)
class SortsFields(KeepsOtherFields):
    def kept(self, fields: Fields) -> Fields:
        return tuple(sorted(fields))


@breaks(REPEATED, APART)
class KeepsEqualFieldsOnce(KeepsOtherFields):
    def kept(self, fields: Fields) -> Fields:
        return tuple(dict.fromkeys(fields))


@breaks("test_a_created_job_has_the_fields_of_its_draft", "create returns the job as it was written")
class JoinsFieldsOfTheCaller(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        if draft.caller is not None:
            draft = evolve(draft, caller=evolve(draft.caller, forwarded=tuple(dict(draft.caller.forwarded).items())))
        return super().create(draft, merge_key)
