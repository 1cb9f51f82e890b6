"""A job as it stands in a cache: one JSON text for each version of it, and for how long it is kept."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from attrs import field, frozen

from backjob.model import Job, Status
from backjob.stores.caches import FOREVER
from backjob.stores.steps import dump_job, load_job

__all__ = ["Ages", "Pieces", "Record", "dump_record", "load_record"]

_DAY: Final = 86400
_WEEK: Final = 7 * _DAY
_decode: Final = json.JSONDecoder().raw_decode


@frozen
class Pieces:
    """Where a job's output lies: the start (bytes) and the name of its latest pieces; all before is on full pages."""

    latest: tuple[tuple[int, str], ...] = ()
    pages: int = 0


@frozen
class Record:
    """One version of a job. Its request's body lies apart, in entries of these names."""

    job: Job
    place: int
    """Its place among the living, which is the order of creation."""
    body: tuple[str, ...] = ()
    output: Pieces = field(default=Pieces())

    @property
    def order(self) -> tuple[datetime, int]:
        """Older jobs come first."""
        return self.job.created_time, self.place


@frozen
class Ages:
    """For how many seconds ended jobs are kept; 0 is for ever. Not sharp: it may be more, by some days."""

    completed: float = 0
    ended: float = 0

    def of_version(self, job: Job, now: datetime) -> float:
        """How long to keep this version. No end expires before the version that it followed: else that would rise again."""
        to_come = max(0.0, (job.deliver_by - now).total_seconds()) + job.error_timeout + _DAY
        return max(to_come, self._of_status(job.status)) if job.status.is_final else to_come

    def of_parts(self, job: Job, now: datetime) -> float:
        """How long to keep what is written once, and is still to be there when the job has ended."""
        longest = max(self._of_status(Status.COMPLETED), self._of_status(Status.FAILED))
        return self.of_version(job, now) + _WEEK + longest

    def _of_status(self, status: Status) -> float:
        ages = [age for age in (self.ended, self.completed if status is Status.COMPLETED else 0) if age > 0]
        return min(ages, default=FOREVER)


def dump_record(record: Record) -> str:
    """A record as the members of a JSON list, without the list's brackets."""
    beside = (record.place, record.body, record.output.latest, record.output.pages)
    return f"{json.dumps(beside, separators=(',', ':'))},{dump_job(record.job)}"


def load_record(text: str, read_time: datetime) -> Record | None:
    """The record that `dump_record` wrote, as it is read at this moment; None for what was written by somebody else."""
    try:
        (place, body, latest, pages), end = _decode(text)
        job = load_job(text[end + 1 :], read_time)
        pieces = Pieces(tuple((start, name) for start, name in latest), pages)
        return Record(job, place, tuple(body), pieces)
    except (ValueError, TypeError, KeyError, IndexError):
        return None
