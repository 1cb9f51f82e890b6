"""Pure functions over `Job` values, for stores that read a whole job, change it and write it back.

Such a store reads, calls these functions and writes under one lock or in one transaction, which makes it a
compare-and-set.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import evolve

from backjob.lifecycle import late
from backjob.model import UNSET, Changes, Draft, Expect, Job, Query, Report, Status
from backjob.stores.columns import ADDED, COLUMNS, JOB_COLUMNS, Kind
from backjob.stores.rows import erased, job_row, row_job
from backjob.stores.values import dump_result, later, load_result

__all__ = [
    "beaten",
    "changed",
    "dump_job",
    "each_status",
    "found",
    "has_label",
    "holds",
    "is_due",
    "is_running",
    "is_too_old",
    "kept_for",
    "leased",
    "load_job",
    "matches",
    "new_job",
    "reported",
    "was_created_before",
]

_DRAFTED: Final = tuple([column.name for column in JOB_COLUMNS if column.draft])
_CHANGED: Final = tuple([column.name for column in JOB_COLUMNS if column.changes])
_JSON: Final = frozenset([column.name for column in JOB_COLUMNS if column.kind is Kind.JSON])
_ABSENT: Final = {column.name: column.default for column in ADDED}
_BINARY: Final = (*[column.name for column in JOB_COLUMNS if column.kind is Kind.BYTES], "body")


def new_job(draft: Draft, merge_key: str | None, now: datetime) -> Job:
    """The job that a draft becomes when it is written now."""
    copied = {name: getattr(draft, name) for name in _DRAFTED}
    return Job(
        **copied,
        created_time=now,
        start_time=later(now, draft.due),
        expires=None if draft.expires is None else later(now, draft.expires),
        updated_time=now,
        read_time=now,
        lease_until=None if draft.lessee is None else later(now, draft.lease),
        merge_key=merge_key,
        request=draft.request,
        caller=draft.caller,
    )


def changed(job: Job, changes: Changes, now: datetime) -> Job:
    """The job after a change."""
    new: dict[str, Any] = {name: value for name in _CHANGED if (value := getattr(changes, name)) is not UNSET}
    for name in _JSON & new.keys():
        new[name] = load_result(dump_result(new[name]))  # a copy, which the caller can't alter
    if changes.lease is not UNSET:
        new["lease_until"] = None if changes.lease is None else later(now, changes.lease)
    if changes.due is not UNSET:
        new["start_time"] = later(now, changes.due)
    if changes.deliver_by is not UNSET:
        new["deliver_by"] = None if changes.deliver_by is None else later(now, changes.deliver_by)
    if changes.free_merge_key:
        new["merge_key"] = None
    if changes.claimed:
        new["claimed_time"] = now
    if changes.alive:
        new["updated_time"] = now
    if changes.end:
        new |= erased(changes)
        if changes.erases_body:
            new["caller"] = None
        new["end_time"] = now
    return evolve(job, **new, version=job.version + 1, read_time=now)


def reported(job: Job, report: Report, now: datetime) -> Job:
    """The job after a report. The store appends the output itself."""
    return evolve(
        job,
        progress=job.progress if report.progress is None else report.progress,
        status_text=job.status_text if report.text is None else report.text,
        output_size=job.output_size + len(report.output.encode()),
        output_truncated=job.output_truncated or report.truncated,
        cursor=job.cursor if report.cursor is UNSET else load_result(dump_result(report.cursor)),
        attempt=job.attempt if report.cursor is UNSET else 1,
        updated_time=now,
        read_time=now,
        version=job.version + 1,
    )


def leased(job: Job, lessee: str, lease: float, now: datetime) -> Job:
    """The job with a lease of this many seconds."""
    return evolve(job, lessee=lessee, lease_until=later(now, lease), read_time=now, version=job.version + 1)


def beaten(job: Job, lease: float, now: datetime, *, is_alive: bool) -> Job:
    """The running job with its lease renewed, and, if its action is alive, with that sign of life."""
    updated_time = now if is_alive else job.updated_time
    return evolve(job, lease_until=later(now, lease), updated_time=updated_time, read_time=now)


def holds(expect: Expect, job: Job, now: datetime) -> bool:
    """Whether the job is as expected, by the store's own clock."""
    return (
        expect.status in (None, job.status)
        and expect.run in (None, job.run)
        and expect.token in (None, job.token)
        and expect.version in (None, job.version)
        and (job.is_waiting or not expect.unclaimed)
        and (not expect.lease_over or (job.lease_until is not None and job.lease_until <= now))
    )


def is_running(job: Job, token: str) -> bool:
    """Whether the job is IN_PROGRESS with this token, so that it takes reports."""
    return job.status is Status.IN_PROGRESS and job.token == token


def is_due(
    job: Job,
    now: datetime,
    labels: frozenset[str] | None = None,
    full: frozenset[str] = frozenset(),
    queues: frozenset[str] | None = None,
) -> bool:
    """Whether a monitor for these labels and queues may take the job now: it waits, is due and not leased, and its queue not full.

    A job that has a slot needs none.
    """
    return (
        job.is_waiting
        and job.start_time <= now
        and (job.lease_until is None or job.lease_until <= now)
        and (job.slot is not None or job.queue not in full)
        and (queues is None or job.queue in queues)
        and has_label(job, labels)
    )


def has_label(job: Job, labels: frozenset[str] | None) -> bool:
    """Whether the job has one of these labels; None means any."""
    return labels is None or job.label in labels


def kept_for(completed_age: float, ended_age: float) -> dict[Status, float]:
    """Seconds for which to keep the jobs of each final status, without those to keep forever."""
    ages = {Status.COMPLETED: (completed_age, ended_age), Status.FAILED: (ended_age,), Status.CANCELLED: (ended_age,)}
    return {status: min(positive) for status, each in ages.items() if (positive := [age for age in each if age > 0])}


def is_too_old(
    job: Job, completed_age: float, ended_age: float, now: datetime, labels: frozenset[str] | None = None
) -> bool:
    """Whether the job ended more than ``ended_age`` seconds ago, or ``completed_age`` if COMPLETED. 0 keeps it for ever."""
    age = kept_for(completed_age, ended_age).get(job.status)
    is_old = age is not None and job.end_time is not None and now - job.end_time > timedelta(seconds=age)
    return is_old and has_label(job, labels)


def matches(query: Query, job: Job) -> bool:
    """Whether the job, as read now, matches the query, regardless of its page."""
    return (
        query.scope in (None, job.scope)
        and query.status in (None, job.status)
        and (query.statuses is None or job.status in query.statuses)
        and query.owner in (None, job.owner)
        and query.queue in (None, job.queue)
        and query.root in (None, job.root)
        and has_label(job, query.labels)
        and (not query.overdue or late(job) is not None)
        and (query.expired is None or is_too_old(job, *query.expired, job.read_time))
        and (not query.has_file or job.file is not None)
        and (not query.text or _has_text(job, query.text.casefold()))
    )


def _has_text(job: Job, folded: str) -> bool:
    return any(folded in text.casefold() for text in (job.title, job.path) if text is not None)


def was_created_before(job: Job, when: datetime | None) -> bool:
    """Whether the job is on the page of a query whose ``before`` is unknown, and whose ``before_time`` this is."""
    return when is not None and job.created_time < when


def found(query: Query, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that `Store.find` returns for a query, given all jobs as read now, oldest first."""
    ids = [job.id for job in jobs]
    if query.before in ids:
        jobs = jobs[: ids.index(query.before)]
    elif query.before is not None or query.before_time is not None:
        jobs = [job for job in jobs if was_created_before(job, query.before_time)]
    return [job for job in reversed(jobs) if matches(query, job)][: query.limit]


def each_status(query: Query) -> list[tuple[Status | None, float | None]]:
    """The searches that together make a query: a status (None: any), and the age in seconds of the jobs to find (None: any).

    A search for one status can use the index of a table.
    """
    if query.statuses is None:
        wanted: list[Status | None] = [query.status]
    else:
        wanted = [status for status in sorted(query.statuses) if query.status in (None, status)]
    if query.expired is None:
        return [(status, None) for status in wanted]
    return [(status, age) for status, age in kept_for(*query.expired).items() if status in wanted or wanted == [None]]


def dump_job(job: Job) -> str:
    """The job as JSON, without ``read_time``."""
    body = None if job.request is None else job.request.body or None
    row: dict[str, Any] = dict(zip((*COLUMNS, "body"), (*job_row(job), body), strict=True))
    for name in _BINARY:
        if row[name] is not None:
            row[name] = b64encode(row[name]).decode()
    return json.dumps(row, separators=(",", ":"))


def load_job(text: str | bytes, read_time: datetime) -> Job:
    """The job that `dump_job` wrote, as read at ``read_time``."""
    row: dict[str, Any] = _ABSENT | json.loads(text)
    for name in _BINARY:
        if row[name] is not None:
            row[name] = b64decode(row[name])
    return row_job((*[row[name] for name in COLUMNS], row["body"]), read_time)
