"""Stores whose calls do more than they need."""

from __future__ import annotations

import threading
from typing import Any, Final

from backjob.model import Query, Report
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.stores.sqlite.connections import Transaction
from backjob.stores.values import cut as cut_output
from tests.contracts.broken.faults import breaks

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
        with Transaction(self._connections) as connection:
            [seq] = connection.execute("SELECT seq FROM backjob WHERE id = ?", (job_id,)).fetchone()
            rows = connection.execute(
                "SELECT piece FROM backjob_output WHERE job = ? ORDER BY start", (seq,)
            ).fetchall()
            connection.execute("DELETE FROM backjob_output WHERE job = ?", (seq,))
            connection.executemany(
                "INSERT INTO backjob_output (job, start, piece) VALUES (?, ?, ?)",
                [(seq, start, piece) for start, piece in cut_output(b"".join([piece for (piece,) in rows]))],
            )
        return written


@breaks(OF_PURGES, "purge removes jobs in batches, so that others take turns; while it removed 1001")
class PurgesInOneTransaction(SQLiteStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        old = super().find(Query(expired=(completed_age, ended_age), labels=labels, limit=100_000))
        with Transaction(self._connections) as connection:
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
