"""Stores whose calls never return, or break a promise only in a sequence of calls."""

from __future__ import annotations

import threading
from typing import Final

from backjob.model import Changes, Expect, Job, Report
from backjob.protocols import Clock
from backjob.stores.memory import MemoryStore
from tests.contracts.broken.faults import breaks


class Hangs(MemoryStore):
    def hang(self) -> None:
        """Wait for a lock that this thread has."""
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


@breaks("test_an_unknown_id_finds_nothing", "every call returns; get did not within 1 s", job_id="nobody")
class HangsForTheUnknown(Hangs):
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        if job_id not in self._jobs:
            self.hang()
        return super().get(job_id, body=body)


@breaks("test_a_second_close_has_no_effect", "every call returns; close did not within 1 s")
class HangsWhenClosedTwice(Hangs):
    def close(self) -> None:
        if self._is_closed:
            self.hang()
        self._is_closed = True

    _is_closed = False


@breaks("test_a_bare_draft_gives_a_bare_job", "every call returns; make_store did not within 1 s")
class HangsAtTheBeginning(Hangs):
    def __init__(self, *, clock: Clock | None = None) -> None:
        self.hang()


@breaks(
    "test_any_sequence_of_calls_matches_the_model",
    "every call returns; change did not within 1 s",
    shrinking=60.0,
)
class HangsInASequence(Hangs):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if changes.slot:
            self.hang()
        return super().change(job_id, expect, changes)


@breaks("test_of_many_claims_one_wins", "calls from many threads all return; ")
class HangsInARace(Hangs):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if job_id == "7":
            self.hang()
        return super().change(job_id, expect, changes)


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
