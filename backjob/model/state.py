"""The state of a job as its watchers see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import frozen

from backjob.model.positions import position_of
from backjob.model.texts import DEFAULT_QUEUE, JsonValue, Status


@frozen(kw_only=True)
class JobState:
    """The part of a job that a watcher may see: progress and result, but nothing of its request.

    ``waiting_for`` is why the job does not run yet, in one word such as ``"due"``, or None. ``attempt`` is 1 or, after
    failed runs, more, up to ``retries`` + 1. ``history`` has an entry for each earlier run: ``run``, ``begin``, ``end`` and
    ``reason``. ``title`` is the one that the job was started with, or its path. ``file`` has the ``name``, ``type`` and
    ``size`` (bytes) of the file that the job has made. ``keeps_request``: `backjob.BackJob.run_again` may start it again.
    ``error`` is ``"unexpected"`` if the status text is that of an exception or of a 5xx response, which visitors see only
    with ``SHOW_ERRORS``; such entries of the history have it too.
    """

    id: str
    status: Status
    progress: int
    status_text: str
    start_time: datetime
    updated_time: datetime
    end_time: datetime | None
    result: JsonValue
    owner: str | None
    scope: str
    waiting_for: str | None = None
    attempt: int = 1
    retries: int = 0
    history: Sequence[Mapping[str, JsonValue]] = ()
    title: str = ""
    method: str = ""
    path: str = ""
    queue: str = DEFAULT_QUEUE
    created_time: datetime | None = None
    claimed_time: datetime | None = None
    file: Mapping[str, JsonValue] | None = None
    error: str | None = None
    keeps_request: bool = False

    @property
    def position(self) -> str:
        """Where this job is in a list: pass it to `find` as ``before`` for the jobs that come after it."""
        return position_of(self.id, self.created_time)

    def as_dict(self) -> dict[str, JsonValue]:
        """JSON-ready: the status as its integer and as ``status_name``, times in ISO 8601 with offset."""
        return {
            "id": self.id,
            "progress": self.progress,
            "status": int(self.status),
            "status_name": self.status.name,
            "status_text": self.status_text,
            "start_time": self.start_time.isoformat(),
            "updated_time": self.updated_time.isoformat(),
            "end_time": None if self.end_time is None else self.end_time.isoformat(),
            "result": self.result,
            "owner": self.owner,
            "scope": self.scope,
            "waiting_for": self.waiting_for,
            "attempt": self.attempt,
            "retries": self.retries,
            "title": self.title,
            "method": self.method,
            "path": self.path,
            "queue": self.queue,
            "created_time": None if self.created_time is None else self.created_time.isoformat(),
            "claimed_time": None if self.claimed_time is None else self.claimed_time.isoformat(),
            "file": None if self.file is None else dict(self.file),
            "history": [{key: value for key, value in entry.items() if key != "error"} for entry in self.history],
        }
