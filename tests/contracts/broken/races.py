"""Stores in a file that break a promise in a race between processes."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from attrs import evolve

from backjob.errors import SlotTaken
from backjob.model import UNSET, Changes, Draft, Expect, Job, Query, Report, Status
from backjob.stores.sqlite import SQLiteStore
from backjob.stores.steps import holds
from tests.contracts.broken.faults import NONE, Labels, breaks, meet_another

_MOMENT: Final = 0.003  # s


@breaks("test_of_many_claims_one_wins", "of many claims of one job, exactly one wins")
class ReadsThenClaimsAFile(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = self.get(job_id)
        meet_another(self)
        return (
            None
            if job is None or not holds(expect, job, self._clock.now())
            else super().change(job_id, Expect(), changes)
        )


@breaks("test_identical_creates_with_a_merge_key_make_one_job", "creates with one merge key all return the same job")
class ReadsThenMergesAFile(SQLiteStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        living = self.find(Query(status=Status.STARTED, limit=1)) if merge_key is not None else []
        meet_another(self)
        return living[0] if living else super().create(draft)


@breaks("test_each_due_job_is_leased_to_one", "of several callers, exactly one gets each due job")
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
        meet_another(self)
        leased = [self.change(job.id, Expect(), Changes(lessee=lessee, lease=lease)) for job in jobs]
        return [job for job in leased if job is not None]


@breaks("test_a_slot_never_has_two_holders", "a slot never has two holders at once")
class ReadsThenTakesASlotOfAFile(SQLiteStore):
    """Keeps slots where the index of SQLite does not see them. It is slow, so that takes of one slot overlap, and holders too."""

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        time.sleep(_MOMENT)
        return super().get(job_id, body=body)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if changes.slot is not UNSET and changes.slot is not None:
            found = self.find(Query(status=Status.STARTED, limit=1000))
            time.sleep(_MOMENT)
            if any(job.status_text == changes.slot for job in found):
                raise SlotTaken(changes.slot)
        text = changes.slot if changes.slot is UNSET else changes.slot or ""
        return super().change(job_id, expect, evolve(changes, slot=UNSET, status_text=text))


@breaks("test_reports_ends_and_cancels_leave_one_end_and_no_gap", "each thread's output is kept, in order")
class LosesOutput(SQLiteStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        lost = " 3 " in report.output
        return super().report(job_id, token, evolve(report, output="") if lost else report)


@breaks(
    "test_of_many_claims_one_wins",
    "a shared store does not raise in any process; it raised RuntimeError: deadlock detected",
)
class FailsInAChild(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        raise RuntimeError("deadlock detected")


@breaks("test_of_many_claims_one_wins", "calls from many processes all return", patience=2)
class HangsInAChild(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        threading.Event().wait()
        return None


@breaks("test_of_many_claims_one_wins", "calls from many processes all return")
class DiesInAChild(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        os._exit(1)
