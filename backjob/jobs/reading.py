"""Reading jobs: the part of an engine behind `BackJob.status`, `output` and `find`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import BinaryIO, Final

from attrs import evolve

from backjob.delivery.monitor import Monitor
from backjob.errors import InvalidRequest, JobNotFound
from backjob.jobs.adapting import Adapting
from backjob.jobs.states import file_of, state_of
from backjob.lifecycle import late
from backjob.model import Job, JobState, Output, Query, is_storable
from backjob.output import plain_end
from backjob.protocols import Capability, Files, Store, lacks
from backjob.status.source import CannotList

_CHUNK: Final = 1 << 16
_SHORT_TEXT: Final = 1 << 10

_log = logging.getLogger("backjob")


class Reading(Adapting):
    """The part of an engine that reads jobs, their output and their files."""

    store: Store
    files: Files | None

    def find(self, job_id: str) -> Job | None:
        """Return the job, or None. An id from a URL may be one that no store can keep; it never reaches the store."""
        return self.store.get(job_id) if is_storable(job_id) else None

    def job(self, job_id: str) -> Job:
        """Return the job. If it has passed a time limit and this process may reap, end or requeue it first. Raises `JobNotFound`."""
        job = self.find(job_id)
        if job is None:
            raise JobNotFound(job_id)
        if late(job) is None or not self.monitor.may_reap():
            return job
        changed = self.monitor.reap(job)
        if changed is None:
            return self.store.get(job_id) or job
        if changed.token is None or changed.status.is_final:  # otherwise its process has yet to find out
            self.when_committed(job_id, partial(self.conclude, changed))
        return changed

    def status(self, job_id: str) -> JobState:
        """See `BackJob.status`."""
        return self.state(self.job(job_id))

    def output(self, job_id: str, offset: int = 0) -> Output:
        """See `BackJob.output`."""
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise InvalidRequest("offset", f"must be a number of bytes, 0 or more, not {offset!r}")
        chunk = self.store.output(job_id, offset, _CHUNK) if is_storable(job_id) else Output("", offset)
        if not chunk.text and self.find(job_id) is None:
            raise JobNotFound(job_id)
        return chunk

    def tail(self, job_id: str) -> tuple[int, Output]:
        """Return the last 64 KiB of output, after the offset at which they begin. Raises `JobNotFound`."""
        return self._tail(self.job(job_id))

    def _tail(self, job: Job) -> tuple[int, Output]:
        start = max(0, job.output_size - _CHUNK)
        return start, self.store.output(job.id, start, _CHUNK)

    def listed(self, query: Query) -> list[JobState]:
        """Return the jobs that match, newest first, with only the last line or so of their output as text.

        Raises `StoreUnusable` for a store that can't list its jobs, such as a cache alone.
        """
        if Capability.LISTING in lacks(self.store):
            raise CannotList("this store can't list its jobs; read one by its id, or keep jobs in a database")
        return [self.short_state(job) for job in self.store.find(query)]

    def short_state(self, job: Job) -> JobState:
        """Return the state of a job, with at most 1 kB of its output if it has no status text."""
        if job.status_text is None and job.output_size > _SHORT_TEXT:
            text = self.store.output(job.id, job.output_size - _SHORT_TEXT, _SHORT_TEXT).text
            job = evolve(job, status_text=plain_end(text, is_cut=True))
        return self.state(job)

    def open_file(self, job_id: str) -> BinaryIO | None:
        """Open the file of a job, or return None if it has none, or none that can be read: then the log says why."""
        job = self.job(job_id)
        described = job.file
        if self.files is None or file_of(job) is None or not isinstance(described, Mapping):
            return None
        try:
            return self.files.open(job_id, str(described["key"]))
        except Exception:
            _log.exception("job %s: its file can't be read", job_id)
            return None

    def state(self, job: Job) -> JobState:
        """Return the state of a job as users see it. Reads the output if the job has no status text."""
        return state_of(job, self._end_of_output, is_left=self.leaves(job.queue))

    def _end_of_output(self, job: Job) -> str:
        chunk = self._tail(job)[1]
        return chunk.tail or chunk.text

    # --- what the engine defines ------------------------------------------------------------------------------------

    @property
    def monitor(self) -> Monitor:
        """The monitor of this process."""
        raise NotImplementedError

    def conclude(self, job: Job) -> None:
        """Follow up on an end or a requeue that was written here."""
        raise NotImplementedError
