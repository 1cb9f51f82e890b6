"""Puts the job, its route, run and attempt on every record that an action logs, for `logging` and for structlog."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from backjob.overriding import override
from backjob.worker.running import current

__all__ = ["JobFilter", "add_job", "job_fields"]


def job_fields() -> dict[str, Any]:
    """Return ``job_id``, ``route``, ``run`` and ``attempt`` of the job that this thread or task works for; {} without one.

    The route is the method and the path, without the query.
    """
    running = current.get()
    if running is None:
        return {}
    job = running.job
    return {"job_id": job.id, "route": f"{job.method} {job.path or ''}", "run": job.run, "attempt": running.attempt}


class JobFilter(logging.Filter):
    """Adds `job_fields` to each record, for formatters: ``%(job_id)s``. It lets all records pass.

    Add it to handlers, so that it sees the records of all loggers. Outside of a job each field is ``outside``. What a
    record has already stays.
    """

    def __init__(self, outside: object = "-") -> None:
        super().__init__()
        self._outside = dict.fromkeys(("job_id", "route", "run", "attempt"), outside)

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in (self._outside | job_fields()).items():
            record.__dict__.setdefault(name, value)
        return True


def add_job(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add `job_fields` to an event: a processor for structlog."""
    for name, value in job_fields().items():
        event.setdefault(name, value)
    return event
