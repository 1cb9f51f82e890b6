"""Between a job and a row of plain columns: what every store with a table, or a hash, of columns writes and reads.

Times are integers, microseconds since 1970 in UTC: no zone of a server, a session or a host can bend them. Where a
column depends on the store's own now, that now may be a number, or whatever of the store's stands for one and can be
added to.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Protocol, TypeAlias

from attrs import evolve

from backjob.errors import InvalidRequest
from backjob.model import UNSET, Caller, Changes, Draft, Expect, Headers, Job, Request, Status
from backjob.stores.values import dump_result, load_result

__all__ = [
    "COLUMNS",
    "SERVER_NOW",
    "Moment",
    "Row",
    "assignments",
    "conditions",
    "draft_row",
    "dump_request",
    "job_row",
    "load_request",
    "microseconds",
    "moment",
    "row_job",
    "span",
]

Row: TypeAlias = tuple[Any, ...]
"""A job's columns, in the order of `COLUMNS`, and its request's body at the end."""

COLUMNS: Final = (
    "id",
    "status",
    "progress",
    "output_size",
    "output_truncated",
    "created_time",
    "start_time",
    "deliver_by",
    "updated_time",
    "end_time",
    "error_timeout",
    "attempt",
    "version",
    "held",
    "depth",
    "token",
    "lessee",
    "lease_until",
    "merge_key",
    "owner",
    "scope",
    "request",
    "status_text",
    "result",
    "sealed",
)
"""What a row holds of a job but for its request's body: plain integers, texts and, in ``sealed``, bytes.

What may be long stands last. ``request`` is the JSON of the request without its body, and of who called.
"""

SERVER_NOW: Final = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
}
"""A server's own clock in SQL: the same moment throughout a statement, and no time zone has a say."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LONGEST_SPAN: Final = 7000 * 366 * 86400  # s: from any now, this ends within the calendar
_ERASED_AT_THE_END: Final = ("request", "sealed", "lessee", "lease_until", "merge_key")
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_STATUSES: Final = tuple(Status)


class Moment(Protocol):
    """Microseconds since 1970 in UTC: an ``int``, or what stands for one."""

    def __add__(self, other: int, /) -> Any: ...


def microseconds(when: datetime) -> int:
    """An aware datetime as microseconds since 1970 in UTC."""
    return (when - _EPOCH) // _MICROSECOND


def moment(microseconds_since: int) -> datetime:
    """The aware datetime in UTC that `microseconds` was given."""
    return _EPOCH + microseconds_since * _MICROSECOND


def span(seconds: float, argument: str) -> int:
    """Seconds as microseconds. Raises `InvalidRequest`, naming the argument, for what leads out of the calendar."""
    if not abs(seconds) < _LONGEST_SPAN:  # nor is NaN
        raise InvalidRequest(argument, "this moment is outside of the calendar")
    return timedelta(seconds=seconds) // _MICROSECOND


def _due(now: Moment, due: datetime | float) -> Any:
    if not isinstance(due, datetime):
        return now + span(due, "due")
    if due.utcoffset() is None:
        raise InvalidRequest("due", "a datetime must be aware of its time zone")
    return microseconds(due)


def _deliver_by(start_time: Moment, delivery_timeout: float) -> Any:
    last = start_time + span(delivery_timeout, "delivery_timeout")
    if isinstance(last, int):
        try:
            moment(last)
        except OverflowError:
            raise InvalidRequest("delivery_timeout", "this moment is outside of the calendar") from None
    return last


def draft_row(draft: Draft, merge_key: str | None, now: Moment) -> dict[str, Any]:
    """A new job's columns, but for those that are NULL; the request's body is not among them."""
    start_time = _due(now, draft.due)
    row = {
        "id": draft.id,
        "status": int(Status.STARTED),
        "progress": 0,
        "output_size": 0,
        "output_truncated": 0,
        "created_time": now,
        "start_time": start_time,
        "deliver_by": _deliver_by(start_time, draft.delivery_timeout),
        "updated_time": now,
        "error_timeout": span(draft.error_timeout, "error_timeout"),
        "attempt": 1,
        "version": 1,
        "held": int(draft.held),
        "depth": draft.depth,
        "scope": draft.scope,
        "request": dump_request(draft.request, draft.caller),
    }
    if draft.lessee is not None:
        row |= {"lessee": draft.lessee, "lease_until": now + span(draft.lease, "lease")}
    optional = {"merge_key": merge_key, "owner": draft.owner, "sealed": draft.sealed}
    return row | {name: value for name, value in optional.items() if value is not None}


def assignments(changes: Changes, now: Moment) -> dict[str, Any]:
    """The columns that a change sets, with their new values; ``version``, which every write raises, is not among them.

    A change that ends the job also does away with the request's body, which is not among them either.
    """
    assigned: dict[str, Any] = {
        name: value
        for name in ("attempt", "token", "progress", "status_text", "lessee")
        if (value := getattr(changes, name)) is not UNSET
    }
    if changes.status is not UNSET:
        assigned["status"] = int(changes.status)
    if changes.result is not UNSET:
        assigned["result"] = dump_result(changes.result)
    if changes.lease is not UNSET:
        assigned["lease_until"] = None if changes.lease is None else now + span(changes.lease, "lease")
    if changes.due is not UNSET:
        assigned["start_time"] = start_time = _due(now, changes.due)
        assigned["deliver_by"] = _deliver_by(start_time, changes.delivery_timeout)
    if changes.free_merge_key:
        assigned["merge_key"] = None
    if changes.alive:
        assigned["updated_time"] = now
    if changes.erase_sealed:
        assigned["sealed"] = None
    if changes.end:
        assigned |= dict.fromkeys(_ERASED_AT_THE_END)
        assigned["end_time"] = now
    return assigned


def conditions(expect: Expect) -> dict[str, Any]:
    """The columns that must hold these values for a change to be made."""
    expected: dict[str, Any] = {
        name: value for name in ("attempt", "token", "version") if (value := getattr(expect, name)) is not None
    }
    if expect.status is not None:
        expected["status"] = int(expect.status)
    return expected


def job_row(job: Job) -> Row:
    """A job's columns, in the order of `COLUMNS`; the request's body is not among them."""
    return (
        job.id,
        int(job.status),
        job.progress,
        job.output_size,
        int(job.output_truncated),
        microseconds(job.created_time),
        microseconds(job.start_time),
        microseconds(job.deliver_by),
        microseconds(job.updated_time),
        None if job.end_time is None else microseconds(job.end_time),
        span(job.error_timeout, "error_timeout"),
        job.attempt,
        job.version,
        int(job.held),
        job.depth,
        job.token,
        job.lessee,
        None if job.lease_until is None else microseconds(job.lease_until),
        job.merge_key,
        job.owner,
        job.scope,
        None if job.request is None else dump_request(job.request, job.caller),
        job.status_text,
        dump_result(job.result),
        job.sealed,
    )


def row_job(row: Row, read_time: datetime) -> Job:
    """The job that a row holds."""
    (
        job_id,
        status,
        progress,
        output_size,
        output_truncated,
        created_time,
        start_time,
        deliver_by,
        updated_time,
        end_time,
        error_timeout,
        attempt,
        version,
        held,
        depth,
        token,
        lessee,
        lease_until,
        merge_key,
        owner,
        scope,
        request_text,
        status_text,
        result,
        sealed,
        body,
    ) = row
    request, caller = (None, None) if request_text is None else load_request(request_text)
    if body and request is not None:
        request = evolve(request, body=body)
    return Job(
        id=job_id,
        status=_STATUSES[status],
        progress=progress,
        status_text=status_text,
        output_size=output_size,
        output_truncated=output_truncated != 0,
        created_time=moment(created_time),
        start_time=moment(start_time),
        deliver_by=moment(deliver_by),
        updated_time=moment(updated_time),
        end_time=None if end_time is None else moment(end_time),
        read_time=read_time,
        error_timeout=error_timeout / 1_000_000,
        attempt=attempt,
        version=version,
        token=token,
        lessee=lessee,
        lease_until=None if lease_until is None else moment(lease_until),
        merge_key=merge_key,
        owner=owner,
        scope=scope,
        result=load_result(result),
        request=request,
        caller=caller,
        held=held != 0,
        sealed=sealed,
        depth=depth,
    )


# --- a request as text ----------------------------------------------------------------------------------------------


def dump_request(request: Request, caller: Caller | None) -> str:
    """A request without its body, and who called, as JSON: method, target, raw, headers and the caller's fields."""
    who: tuple[object, ...] | None = None
    if caller is not None:
        who = (caller.scheme, caller.host, caller.address, caller.forwarded)
        who += (caller.mount,) if caller.mount else ()
    return _encode((request.method, request.target, request.raw, request.headers, who))


@lru_cache(maxsize=32)  # a running job is read again and again
def load_request(text: str) -> tuple[Request, Caller | None]:
    """What `dump_request` was given, the body aside."""
    method, target, raw, headers, who = json.loads(text)
    caller = None
    if who is not None:
        scheme, host, address, forwarded, *mount = who
        caller = Caller(scheme, host, address, _load_headers(forwarded), *mount)
    return Request(method, target, _load_headers(headers), raw=raw), caller


def _load_headers(pairs: list[list[str]]) -> Headers:
    return tuple([(name, value) for name, value in pairs])
