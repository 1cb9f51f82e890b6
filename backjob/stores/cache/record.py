"""One version of a job in a cache, as JSON, and how long the cache keeps it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from attrs import frozen

from backjob.model import Job, Status
from backjob.stores.caches import FOREVER
from backjob.stores.steps import dump_job, kept_for, load_job

_DAY: Final = 86400
_WEEK: Final = 7 * _DAY
_UNTOUCHED: Final = 3 * _DAY
"""Seconds for which the cache keeps a job that is due although no process leases, claims or runs it."""
_decode: Final = json.JSONDecoder().raw_decode


@frozen
class Chunks:
    """The list of a job's output: start (bytes) and name of the latest chunks; earlier ones are on full pages."""

    latest: tuple[tuple[int, str], ...] = ()
    pages: int = 0


@frozen
class Record:
    """One version of a job. Its request's body and the tail of its output are in separate entries of these names."""

    job: Job
    place: int
    """Its place in the order of creation."""
    body: tuple[str, ...] = ()
    output: Chunks = Chunks()
    tail: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[datetime, int]:
        """A sort key: older jobs come first."""
        return self.job.created_time, self.place


@frozen
class Ages:
    """How many seconds to keep ended jobs, 0 for ever. The cache may keep them some days longer."""

    completed: float = 0
    ended: float = 0

    def of_version(self, job: Job, now: datetime) -> float:
        """Return how long to keep this version. Each version must outlive the one before it, which would reappear.

        So this depends on nothing that a later version forgets, such as a lease or the moment at which the job expires.
        """
        to_come = max(0.0, (job.start_time - now).total_seconds()) + job.error_timeout + _UNTOUCHED
        return max(to_come, self._of_status(job.status)) if job.status.is_final else to_come

    def of_parts(self, job: Job, now: datetime) -> float:
        """Return how long to keep entries that must last until after the job's end."""
        longest = max(self._of_status(Status.COMPLETED), self._of_status(Status.FAILED))
        return self.of_version(job, now) + _WEEK + longest

    def _of_status(self, status: Status) -> float:
        return kept_for(self.completed, self.ended).get(status, FOREVER)


def dump_record(record: Record) -> str:
    """Return a record as text: a JSON list of everything but the job, a comma, and the job as JSON."""
    tail = (record.tail,) if record.tail else ()
    beside = (record.place, record.body, record.output.latest, record.output.pages, *tail)
    return f"{json.dumps(beside, separators=(',', ':'))},{dump_job(record.job)}"


def load_record(text: str, read_time: datetime) -> Record | None:
    """Return the record that `dump_record` wrote, as read at this moment; None for any other text."""
    try:
        (place, body, latest, pages, *tail), end = _decode(text)
        job = load_job(text[end + 1 :], read_time)
        chunks = Chunks(tuple((start, name) for start, name in latest), pages)
        return Record(job, place, tuple(body), chunks, tuple([name for names in tail for name in names]))
    except (ValueError, TypeError, KeyError, IndexError):
        return None
