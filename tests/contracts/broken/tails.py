"""Stores that lose or misplace the tail of output."""

from __future__ import annotations

import threading
import time

from attrs import evolve

from backjob.model import UNSET, Job, Output, Report
from backjob.protocols import Clock
from backjob.stores.memory import MemoryStore
from tests.contracts.broken.faults import breaks, let_others_run


@breaks("test_the_tail_comes_with_the_chunk_that_reaches_the_end", "a chunk in the middle has no tail")
@breaks(
    "test_a_chunk_that_ends_before_the_last_character_has_no_tail",
    "a chunk in the middle has no tail",
)
class SendsTheTailAlways(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        return evolve(super().output(job_id, offset, limit), tail=self._tails.get(job_id, ""))


@breaks(
    "test_the_tail_comes_with_the_chunk_that_reaches_the_end",
    "an empty chunk at or past the end has the tail",
)
class SendsTheTailOnce(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return chunk if chunk.text else evolve(chunk, tail="")


@breaks("test_a_report_replaces_the_tail", "a report replaces the tail")
class AppendsToTheTail(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        if report.tail is not UNSET:
            report = evolve(report, tail=self._tails.get(job_id, "")[-30_000:] + report.tail[:30_000])
        return super().report(job_id, token, report)


@breaks("test_a_report_replaces_the_tail", "a report without a tail keeps it")
class DropsTheTail(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        written = super().report(job_id, token, report)
        if written and report.tail is UNSET:
            self._tails.pop(job_id, None)
        return written


@breaks("test_a_report_replaces_the_tail", "output_size counts the output before the tail")
class CountsTheTail(MemoryStore):
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        job = super().get(job_id, body=body)
        return job and evolve(job, output_size=job.output_size + len(self._tails.get(job_id, "")))


@breaks(
    "test_a_tail_may_be_as_long_as_allowed",
    "a tail of 65536 bytes or less comes back whole",
)
class CutsTheTail(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return evolve(chunk, tail=chunk.tail.encode()[:65_535].decode("utf-8", "replace"))


@breaks(
    "test_a_tail_without_output_and_a_large_output_with_a_tail",
    "the tail is no part of the output",
)
class AppendsTheTailToTheOutput(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return evolve(chunk, text=chunk.text + chunk.tail) if chunk.text else chunk


@breaks("test_a_refused_report_leaves_the_tail", "a refused report leaves the tail")
class ReplacesTheTailOfAnyRun(MemoryStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        if report.tail is not UNSET:
            self._tails[job_id] = report.tail
        return super().report(job_id, token, report)


@breaks("test_the_tails_of_two_jobs_do_not_mix", "a job has its own tail")
class KeepsOneTail(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        return evolve(chunk, tail=list(self._tails.values())[-1]) if chunk.tail else chunk


@breaks("test_the_tails_of_two_jobs_do_not_mix", "a deleted job has no tail")
class KeepsTheDeletedTail(MemoryStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk = super().output(job_id, offset, limit)
        self._seen |= {job_id: chunk.tail} if chunk.tail else {}
        return evolve(chunk, tail=self._seen.get(job_id, "")) if self.get(job_id) is None else chunk

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._seen: dict[str, str] = {}


@breaks("test_of_many_tails_one_stays_whole", "the tails of two reports do not mix")
class MixesTails(MemoryStore):
    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._begun = 0
        self._beginning = threading.Lock()

    def report(self, job_id: str, token: str, report: Report) -> bool:
        if report.tail is UNSET:
            return super().report(job_id, token, report)
        # Without the lock the count may tell another order than the writes, and one tail stay whole by chance.
        with self._beginning:
            written = super().report(job_id, token, evolve(report, tail=report.tail[:10_000]))
            self._begun += 1
            mine, deadline = self._begun, time.monotonic() + 0.6
        while self._begun == mine and time.monotonic() < deadline:
            let_others_run()
        if written and self._begun != mine:
            self._tails[job_id] = self._tails[job_id][:10_000] + report.tail[10_000:]
        return written
