"""The state of a job as users see it, from the job as it was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import cast

from backjob.lifecycle import WAITING_TEXTS, Late, handed_over, history_of, late, waiting_for
from backjob.model import Job, JobState, JsonValue, Status
from backjob.output import plain, plain_end
from backjob.status.words import NO_SIGN, attempt_text


def state_of(job: Job, end_of_output: Callable[[Job], str], *, is_left: bool = False) -> JobState:
    """Return the state. ``end_of_output`` reads the end of the job's output, which is the text of a job that set none.

    ``is_left`` is as for `backjob.lifecycle.waiting_for`.
    """
    reason = waiting_for(job, is_left=is_left)
    return JobState(
        id=job.id,
        status=job.status,
        progress=job.progress,
        status_text=_text(job, end_of_output, reason),
        start_time=_start_time(job),
        updated_time=job.updated_time,
        end_time=job.end_time,
        result=job.result,
        owner=job.owner,
        scope=job.scope,
        waiting_for=reason,
        attempt=job.attempt,
        retries=job.retries,
        history=history_of(job),
        title=job.title or job.path or "",
        method=job.method,
        path=job.path or "",
        queue=job.queue,
        created_time=job.created_time,
        claimed_time=job.claimed_time,
        file=file_of(job),
        keeps_request=job.keep_request and job.request is not None,
        error=_error(job),
    )


def file_of(job: Job) -> Mapping[str, JsonValue] | None:
    """Return ``name``, ``type`` and ``size`` of the job's file, or None if it has made none."""
    file = cast("Mapping[str, JsonValue] | None", job.file)
    if file is None or file.get("size") is None or job.status is not Status.COMPLETED:
        return None
    return {key: file[key] for key in ("name", "type", "size")}


def _error(job: Job) -> str | None:
    """Return the kind of error that `_text` shows."""
    if job.status is Status.STARTED and (history := history_of(job)):
        return cast("str | None", history[-1].get("error"))
    return job.error


def _text(job: Job, end_of_output: Callable[[Job], str], reason: str | None) -> str:
    if late(job) is Late.DEAD:
        return NO_SIGN
    waits = WAITING_TEXTS.get(reason or "", "")
    if job.status is Status.STARTED and (history := history_of(job)):
        # Texts and output of the run that failed say nothing about why the job is not running now.
        text = f"{history[-1]['reason']}; {attempt_text(job.attempt, job.retries)}"
        return f"{text}; {waits}" if waits else text
    if job.status_text is not None:
        return plain(job.status_text)
    return plain_end(end_of_output(job)) if job.output_size else waits


def _start_time(job: Job) -> datetime:
    """Return since when the job has been running: over all of its slices, and over its retries if they kept the progress.

    A job that waits to start starts when it is due, and counts from its claim: it may have waited for a place. Without this, the elapsed time and the estimate of the rest would
    restart with each slice. An ended job has taken the time of all its runs.
    """
    history = history_of(job)
    if job.status is Status.STARTED:
        return job.start_time
    if not history:
        return job.claimed_time or job.start_time
    first = 0
    if job.cursor is None and not job.status.is_final:
        retries = [index for index, entry in enumerate(history) if not handed_over(entry)]
        first = retries[-1] + 1 if retries else 0
    begin = history[first]["begin"] if first < len(history) else job.claimed_time
    if isinstance(begin, datetime):
        return begin
    return datetime.fromisoformat(begin) if isinstance(begin, str) else job.start_time
