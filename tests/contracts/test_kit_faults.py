"""The published suite fails for each of these broken stores, by the test that is about the broken promise, and names it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import evolve, field, frozen

from backjob.errors import InvalidRequest, StoreUnavailable
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report
from backjob.protocols import Clock, Store
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.stores.values import cut
from backjob.testing import StoreContract
from tests.contracts.broken_promises import broken_promise
from tests.contracts.test_store_outages import TestSQLiteStore as OutagesOfAFile

Fields = tuple[tuple[str, str], ...]


@frozen
class Fault:
    """A broken store, the test of the suite that must notice it, and the promise that the failure must name."""

    store: type[Store]
    test: str
    promise: str
    attributes: dict[str, Any] = field(factory=dict)

    def __str__(self) -> str:
        return f"{self.store.__name__}-{self.test}"


FAULTS: Final[list[Fault]] = []


def breaks(test: str, promise: str, **attributes: Any) -> Any:
    def add(store: type[Store]) -> type[Store]:
        FAULTS.append(Fault(store, test, promise, attributes))
        return store

    return add


# --- numbers ------------------------------------------------------------------------------------------------------------

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
        with self._connections.transaction() as connection:
            return bool(connection.execute("DELETE FROM backjob WHERE id = ?", (job_id,)).rowcount)


# --- ages ---------------------------------------------------------------------------------------------------------------

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


# --- header fields ------------------------------------------------------------------------------------------------------

REPEATED: Final = "test_repeated_header_fields_come_back_apart_and_in_order"
APART: Final = "repeated header fields are neither joined nor lost, and keep their order"


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


# --- renewals -----------------------------------------------------------------------------------------------------------

STALE: Final = "test_a_beat_with_another_token_is_stale_and_changes_nothing"
MANY: Final = "test_a_beat_of_many_jobs"


class BeatsOnlySome(MemoryStore):
    """Renews only some of the jobs, and reports the right ones as stale."""

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        before = dict(self._jobs)
        stale = super().beat(tokens, lease, alive)
        renewed = self.some(list(tokens), stale)
        self._jobs |= {job_id: before[job_id] for job_id in tokens.keys() - stale - set(renewed)}
        return stale

    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        raise NotImplementedError


@breaks(STALE, "a stale job keeps no other from being renewed")
class RenewsUntilTheFirstStale(BeatsOnlySome):
    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        first = min([job_ids.index(job_id) for job_id in stale], default=len(job_ids))
        return job_ids[:first]


@breaks(STALE, "beat returns the ids whose jobs do not run with these tokens")
class NamesTheFirstStale(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = super().beat(tokens, lease, alive)
        return frozenset([job_id for job_id in tokens if job_id in stale][:1])


@breaks(MANY, "a beat renews any number of leases")
class RenewsAHundredJobs(BeatsOnlySome):
    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        return [job_id for job_id in job_ids if job_id not in stale][:100]


@breaks(MANY, "a beat renews any number of leases")
class LooksAtAHundredTokens(BeatsOnlySome):
    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        return job_ids[:100]


@breaks(MANY, "a beat renews any number of leases")
class SkipsBatchesWithAStaleToken(BeatsOnlySome):
    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        batches = [job_ids[begin : begin + 100] for begin in range(0, len(job_ids), 100)]
        return [job_id for batch in batches if not stale.intersection(batch) for job_id in batch]


@breaks(MANY, "beat returns exactly the stale ids, of any number")
class NamesAHundredStale(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        return frozenset(list(super().beat(tokens, lease, alive))[:100])


# --- errors -------------------------------------------------------------------------------------------------------------

PASSWORD: Final = "sw0rdfish"
OUTAGE: Final = "test_in_an_outage_every_call_raises_a_store_error_without_values"
SHOWN: Final = "no error shows a value of a job, a token or a password; that of"


@breaks(OUTAGE, "get raises StoreError in an outage; it raised OperationalError, so the driver's errors escape")
class LetsErrorsOfReadingOut(SQLiteStore):
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        with closing(sqlite3.connect(self._connections.path)):
            return super().get(job_id, body=body)


@breaks(OUTAGE, "count raises StoreError in an outage; it raised ValueError, so the driver's errors escape")
class LetsErrorsOfCountingOut(SQLiteStore):
    def count(self, query: Query) -> int:
        try:
            return super().count(query)
        except StoreUnavailable as error:
            raise ValueError("no connection") from error


@breaks(OUTAGE, "output raises StoreError in an outage; it returned Output")
class TakesAnOutageForNoOutput(SQLiteStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        try:
            return super().output(job_id, offset, limit)
        except StoreUnavailable:
            return Output("", offset)


@breaks(OUTAGE, "beat raises StoreError in an outage; it returned frozenset")
class TakesAnOutageForStale(SQLiteStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        try:
            return super().beat(tokens, lease, alive)
        except StoreUnavailable:
            return frozenset(tokens)


@breaks(OUTAGE, "purge raises StoreError in an outage that says what is wrong; its text was empty")
class SaysNothing(SQLiteStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        try:
            return super().purge(completed_age, ended_age, labels)
        except StoreUnavailable:
            raise StoreUnavailable from None


@breaks(OUTAGE, f"{SHOWN} report")
class ShowsTheToken(SQLiteStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        try:
            return super().report(job_id, token, report)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error} (UPDATE … WHERE token = '{token}')") from error


@breaks(OUTAGE, f"{SHOWN} create")
class ShowsTheBody(SQLiteStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        try:
            return super().create(draft, merge_key)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error} (parameters: {draft.request.body!r})") from error


@breaks(OUTAGE, f"{SHOWN} change")
class ShowsTheResultInTheCause(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        try:
            return super().change(job_id, expect, changes)
        except StoreUnavailable as error:
            error.__cause__ = ValueError(f"not sent: {changes.result}")
            raise


@breaks(OUTAGE, f"{SHOWN} find", secrets=(PASSWORD,))
class ShowsThePassword(SQLiteStore):
    def find(self, query: Query) -> list[Job]:
        try:
            return super().find(query)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"no connection to db://me:{PASSWORD}@example.org/jobs") from error


@breaks(OUTAGE, "the store works again after an outage; what failed meanwhile changed nothing")
class GivesUpAfterAnOutage(SQLiteStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        try:
            return not self._gave_up and super().report(job_id, token, report)
        except StoreUnavailable:
            self._gave_up = True
            raise

    _gave_up = False


@breaks("test_an_id_that_exists_is_refused_without_the_values_of_its_job", f"{SHOWN} create")
class ShowsTheRowThatExists(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        try:
            return super().create(draft, merge_key)
        except InvalidRequest as error:
            raise InvalidRequest("id", f"{error.reason} ({draft.request.target})") from None


# --- costs --------------------------------------------------------------------------------------------------------------

OF_REPORTS: Final = "test_a_report_costs_the_same_whatever_the_existing_output"
GROWS: Final = "the cost of a report does not grow with the existing output, here 4 MiB: it takes "
OF_PURGES: Final = "test_purge_removes_more_than_a_batch"


@breaks(OF_REPORTS, GROWS)
class JoinsOutput(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        self._outputs[job_id] = bytearray(bytes(self._outputs.get(job_id, b"")))
        return super().report(job_id, token, report)


@breaks(OF_REPORTS, GROWS)
class RewritesTheOutputInTheFile(SQLiteStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        written = super().report(job_id, token, report)
        with self._connections.transaction() as connection:
            [seq] = connection.execute("SELECT seq FROM backjob WHERE id = ?", (job_id,)).fetchone()
            rows = connection.execute(
                "SELECT piece FROM backjob_output WHERE job = ? ORDER BY start", (seq,)
            ).fetchall()
            connection.execute("DELETE FROM backjob_output WHERE job = ?", (seq,))
            connection.executemany(
                "INSERT INTO backjob_output (job, start, piece) VALUES (?, ?, ?)",
                [(seq, start, piece) for start, piece in cut(b"".join([piece for (piece,) in rows]))],
            )
        return written


@breaks(OF_PURGES, "purge removes jobs in batches, so that others take turns; while it removed 1001")
class PurgesInOneTransaction(SQLiteStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        old = super().find(Query(expired=(completed_age, ended_age), labels=labels, limit=100_000))
        with self._connections.transaction() as connection:
            for job in old:
                chunks = "DELETE FROM backjob_output WHERE job = (SELECT seq FROM backjob WHERE id = ?)"
                connection.execute(chunks, (job.id,))
                connection.execute("DELETE FROM backjob WHERE id = ?", (job.id,))
        return len(old)


@breaks(OF_PURGES, "purge removes jobs in batches, so that others take turns; while it removed 1001")
class LetsNobodyReadMeanwhile(SQLiteStore):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._alone = threading.Lock()

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        with self._alone:
            return super().purge(completed_age, ended_age, labels)

    def count(self, query: Query) -> int:
        with self._alone:
            return super().count(query)


@breaks(OF_PURGES, "a purge does not read the jobs that it leaves, here 1001 instead of 10: it takes ")
class ReadsAllJobsToPurge(SQLiteStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        self.find(Query(limit=100_000))
        return super().purge(completed_age, ended_age, labels)


@breaks(OF_PURGES, "purge removes all old jobs, in any number of batches")
class PurgesOneBatch(MemoryStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        old = self.find(Query(expired=(completed_age, ended_age), labels=labels, limit=1000))
        return [self.delete(job.id) for job in old].count(True)


# --- calls that never return --------------------------------------------------------------------------------------------


class Hangs(MemoryStore):
    def hang(self) -> None:
        """Wait for a lock that this thread has."""
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


@breaks(
    "test_an_unknown_id_finds_nothing", "every call returns; get did not within 0.2 s", patience=0.2, job_id="nobody"
)
class HangsForTheUnknown(Hangs):
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        if job_id not in self._jobs:
            self.hang()
        return super().get(job_id, body=body)


@breaks("test_a_second_close_has_no_effect", "every call returns; close did not within 0.2 s", patience=0.2)
class HangsWhenClosedTwice(Hangs):
    def close(self) -> None:
        if self._is_closed:
            self.hang()
        self._is_closed = True

    _is_closed = False


@breaks("test_a_bare_draft_gives_a_bare_job", "every call returns; make_store did not within 0.2 s", patience=0.2)
class HangsAtTheBeginning(Hangs):
    def __init__(self, *, clock: Clock | None = None) -> None:
        self.hang()


@breaks(
    "test_any_sequence_of_calls_matches_the_model",
    "every call returns; change did not within 0.2 s",
    patience=0.2,
    shrinking=60.0,
)
class HangsInASequence(Hangs):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if changes.slot:
            self.hang()
        return super().change(job_id, expect, changes)


@breaks("test_of_many_claims_one_wins", "calls from many threads all return; ", patience=0.5)
class HangsInARace(Hangs):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if job_id == "7":
            self.hang()
        return super().change(job_id, expect, changes)


# --- generated calls ----------------------------------------------------------------------------------------------------

OF_SEQUENCES: Final = "test_any_sequence_of_calls_matches_the_model"


@breaks(OF_SEQUENCES, "report returns what the model returns", shrinking=0.5)
class AcceptsEveryReport(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        super().report(job_id, token, report)
        return True


@breaks("test_any_race_has_one_claim_and_one_end", "a job ends once, and an ended job does not change", shrinking=0.5)
class EndsAgain(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, Expect() if changes.end else expect, changes)


# --- the test -----------------------------------------------------------------------------------------------------------


def made(store: type[Any]) -> Callable[[Path, Clock], Store]:
    """Makes a broken store in the directory of a test."""

    def make(directory: Path, clock: Clock) -> Store:
        opened: Store = (
            store(directory / "jobs.db", clock=clock) if issubclass(store, SQLiteStore) else store(clock=clock)
        )
        return opened

    return make


class Suite(OutagesOfAFile, StoreContract):
    __test__ = False


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_named(fault: Fault, tmp_path: Path) -> None:
    found = broken_promise(Suite, fault.test, made(fault.store), tmp_path, **fault.attributes)
    assert f"promise broken: {fault.promise}" in found.partition("\n")[0], found


def test_a_failure_of_generated_calls_shows_them_and_ends_the_search_in_time(tmp_path: Path) -> None:
    made_after_the_failure: list[Store] = []
    has_failed = threading.Event()

    class Counted(AcceptsEveryReport):
        def __init__(self, *, clock: Clock | None = None) -> None:
            super().__init__(clock=clock)
            if has_failed.is_set():
                made_after_the_failure.append(self)

        def report(self, job_id: str, token: str, report: Report) -> bool:
            has_failed.set()
            return super().report(job_id, token, report)

    found = broken_promise(Suite, OF_SEQUENCES, made(Counted), tmp_path, shrinking=0.0)
    first, *steps = found.splitlines()
    assert first == "promise broken: report returns what the model returns"
    assert steps[2] == "  the shortest example that was found:"
    assert steps[-1].partition(". ")[2].startswith("report(")
    assert made_after_the_failure == []
