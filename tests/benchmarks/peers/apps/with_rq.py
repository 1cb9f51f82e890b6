"""The tasks, and how a web application uses them: RQ, with progress in a job's ``meta``."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
from typing import Final

from redis import Redis
from rq import Queue, get_current_job
from rq.job import Job

from tests.benchmarks.notes import END, FIRST_LINE, NotesWriter

_notes: Final = NotesWriter(os.environ["PEER_NOTES"])
_connection: Final = Redis.from_url(os.environ["PEER_STORE"])
_queue: Final = Queue(connection=_connection)


def nothing() -> None:
    _notes.note(FIRST_LINE)


def reports(count: int) -> None:
    _notes.note(FIRST_LINE)
    job = get_current_job()
    assert job is not None
    for number in range(count):
        job.meta["progress"] = number
        job.save_meta()
    _notes.note(END)


def start() -> str:
    return str(_queue.enqueue(nothing).id)


def start_reports(count: int) -> None:
    _queue.enqueue(reports, count)


def status(job_id: str) -> object:
    job = Job.fetch(job_id, connection=_connection)
    return job.get_status(refresh=False), job.meta
