"""Stores that give slots away, or heed queues wrongly."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from backjob.errors import SlotTaken
from backjob.lifecycle import TIMED_OUT, late
from backjob.model import UNSET, Changes, Expect, Job, Query, Status
from backjob.protocols import Clock
from backjob.stores.memory import MemoryStore
from tests.contracts.broken.faults import NONE, AltersWhatIsExpected, Labels, breaks, meet_another


@breaks("test_a_slot_belongs_to_one_job", "a slot that another job has can't be taken: SlotTaken")
class GivesSlotsAway(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        self._slots.clear()
        return super().change(job_id, expect, changes)

    def _write(self, job: Job) -> Job:
        self._slots = defaultdict(str, self._slots)
        self._slots |= {each.slot: each.id for each in self._jobs.values() if each.slot is not None}
        return super()._write(job)


@breaks(
    "test_a_change_that_meets_a_taken_slot_writes_none_of_its_fields",
    "a change that raises SlotTaken writes nothing",
)
class WritesBeforeTheSlot(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if isinstance(changes.slot, str):
            super().change(job_id, expect, evolve(changes, slot=UNSET))
            return super().change(job_id, Expect(), Changes(slot=changes.slot))
        return super().change(job_id, expect, changes)


@breaks("test_an_unsatisfied_expectation_comes_first", "only a change to a slot raises SlotTaken")
class NamesAnotherSlot(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if isinstance(changes.slot, str) and self._slots.get(changes.slot, job_id) != job_id:
            raise SlotTaken("another")
        return super().change(job_id, expect, changes)


@breaks("test_a_released_slot_is_free", "a released slot can be taken by another job")
class KeepsSlots(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = dict(self._slots)
        written = super()._write(job)
        self._slots.update(before)
        return written


@breaks("test_a_job_that_has_a_slot_is_not_skipped", "a job of a full queue is skipped unless it has a slot")
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


@breaks("test_full_queues_are_skipped_and_hold_up_no_others", "take_due skips the jobs of full queues")
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


@breaks("test_full_queues_are_skipped_and_hold_up_no_others", "take_due skips the jobs of full queues")
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


@breaks("test_only_the_jobs_of_the_given_queues_are_taken", "take_due takes nothing of no queues")
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


@breaks("test_a_job_between_two_slices_is_taken", "a job between two slices waits to be taken")
class TakesOnlyTheStarted(MemoryStore):
    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        taken = super().take_due(*given, **options)
        return [job for job in taken if job.status is Status.STARTED]


@breaks("test_of_many_jobs_one_gets_a_slot", "of many jobs, exactly one gets a slot")
class ReadsThenTakesASlot(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if isinstance(changes.slot, str):
            holder = self._slots.get(changes.slot, job_id)
            meet_another(self)
            if holder != job_id:
                raise SlotTaken(changes.slot)
            # Two at once would free the slot before both take it, and the second would find it taken.
            with self._taking:
                with self._lock:
                    self._slots.pop(changes.slot, None)
                return super().change(job_id, expect, changes)
        return super().change(job_id, expect, changes)

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._taking = threading.Lock()


@breaks("test_a_beat_can_shorten_a_lease", "a lease lasts as long as asked, no longer")
class NeverShortensALease(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        before = {name: self._jobs[name].lease_until for name in tokens if name in self._jobs}
        stale = super().beat(tokens, lease, alive)
        for name in tokens.keys() - stale:
            last, now = before[name], self._jobs[name].lease_until
            if last is not None and now is not None:
                self._jobs[name] = evolve(self._jobs[name], lease_until=max(last, now))
        return stale


@breaks("test_a_beat_renews_a_lease_that_is_over", "a job that nobody has ended is not stale")
class GivesUpOldLeases(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        now = self._clock.now()
        over = {name for name in tokens if name in self._jobs and (self._jobs[name].lease_until or now) < now}
        return super().beat({name: tokens[name] for name in tokens.keys() - over}, lease, alive) | over


@breaks("test_a_beat_adds_a_lease_to_a_job_without_one", "a beat sets a lease that was missing")
class RenewsOnlyWhatIsThere(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        without = {name for name in tokens if name in self._jobs and self._jobs[name].lease_until is None}
        return super().beat({name: tokens[name] for name in tokens.keys() - without}, lease, alive)


@breaks("test_lease_over_goes_with_the_other_expectations", "every expectation must be satisfied")
class ForgetsTheOtherExpectations(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return Expect(lease_over=True) if expect.lease_over else expect


@breaks("test_without_an_error_timeout_a_job_may_be_silent", "an error_timeout of 0 means none")
class TakesNoTimeoutForAtOnce(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, overdue=False)) if query.overdue else []
        endless = [job for job in found if job.token is not None and not job.status.is_final and not job.error_timeout]
        return endless or super().find(query)


@breaks(
    "test_a_run_that_has_timed_out_is_overdue_again_when_its_lease_is_over",
    "a run that has timed out is not overdue while its lease lasts",
)
class EndsWhatHasTimedOutAgain(MemoryStore):
    def find(self, query: Query) -> list[Job]:
        found = super().find(evolve(query, overdue=False)) if query.overdue else []
        return [job for job in found if job.token == TIMED_OUT] or super().find(query)


@breaks("test_a_history_is_the_stores_own_copy", "later changes to the caller's value are not stored")
class KeepsTheCallersHistory(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        changed = super().change(job_id, expect, changes)
        if changed is not None and changes.history is not UNSET:
            self._jobs[job_id] = evolve(self._jobs[job_id], history=changes.history)
        return changed


@breaks("test_a_slice_stays_in_progress_and_resets_the_attempts", "the next slice keeps status and progress")
class StartsEachSliceAnew(MemoryStore):
    def _write(self, job: Job) -> Job:
        is_sliced = job.is_waiting and job.status is Status.IN_PROGRESS
        return super()._write(evolve(job, status=Status.STARTED) if is_sliced else job)


@breaks("test_held_credentials_keep_the_lease_with_their_process", "a change without lessee keeps it")
class RequeuesForAnyProcess(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = self._jobs.get(job.id)
        is_requeued = before is not None and before.run != job.run
        return super()._write(evolve(job, lessee=None) if is_requeued else job)


@breaks("test_a_job_that_takes_another_slot_releases_its_own", "a job has one slot at most")
class CollectsSlots(MemoryStore):
    def _write(self, job: Job) -> Job:
        before = dict(self._slots)
        written = super()._write(job)
        if job.slot is not None:
            self._slots = before | self._slots
        return written


@breaks("test_slots_are_compared_byte_by_byte", "the slot 'JOB/0' equals no other slot")
class TakesSlotsForEqual(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if not isinstance(changes.slot, str):
            return super().change(job_id, expect, changes)
        try:
            return super().change(job_id, expect, evolve(changes, slot=changes.slot.casefold()))
        except SlotTaken:
            raise SlotTaken(changes.slot) from None


@breaks("test_full_queues_go_with_labels", "take_due takes only jobs with these labels, of queues")
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


@breaks("test_a_job_past_its_deadline_is_still_taken", "take_due ignores deliver_by and expires")
class LeavesTheLateAlone(MemoryStore):
    def take_due(self, *given: Any, **options: Any) -> list[Job]:
        return [job for job in super().take_due(*given, **options) if late(job) is None]
