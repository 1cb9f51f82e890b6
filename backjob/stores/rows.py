"""Convert between a job and its row, for every store with a table or a hash of columns.

`backjob.stores.columns` lists the columns. A moment is an integer, the microseconds since 1970 in UTC, so no time zone of
a server, session or host affects it. It is negative before 1970, and needs a signed integer of 64 bits: every moment that
a valid value leads to is in the calendar of `datetime`, until the end of the year 9999. Where a column depends on the
store's own now, pass that now as a number, or `After()` if the server adds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Protocol, TypeAlias

from attrs import evolve, frozen

from backjob.model import UNSET, Caller, Changes, Draft, Expect, Headers, Job, Request, Status
from backjob.stores.columns import COLUMNS, JOB_COLUMNS, KEPT, Kind
from backjob.stores.values import dump_result, load_result

__all__ = [
    "COLUMNS",
    "SERVER_NOW",
    "After",
    "Moment",
    "Row",
    "assignments",
    "assignments_with_body",
    "conditions",
    "draft_row",
    "dump_request",
    "erased",
    "job_row",
    "load_request",
    "microseconds",
    "moment",
    "row_job",
    "span",
]

Row: TypeAlias = tuple[Any, ...]
"""A job's columns, in the order of `COLUMNS`, and its request's body at the end."""

SERVER_NOW: Final = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
}
"""A server's own clock in SQL: constant within a statement and independent of time zones."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class Moment(Protocol):
    """Microseconds since 1970 in UTC: an ``int``, or an object that stands for one."""

    def __add__(self, other: int, /) -> Any: ...


@frozen
class After:
    """A moment, in microseconds after the server's now, for stores whose server adds the two."""

    microseconds: int = 0

    def __add__(self, other: int) -> After:
        return After(self.microseconds + other)


def microseconds(when: datetime) -> int:
    """Microseconds since 1970 in UTC."""
    return (when - _EPOCH) // _MICROSECOND


def moment(microseconds_since: int) -> datetime:
    """The aware datetime in UTC of `microseconds`."""
    return _EPOCH + microseconds_since * _MICROSECOND


def span(seconds: float) -> int:
    """Seconds as microseconds."""
    return timedelta(seconds=seconds) // _MICROSECOND


def _due(now: Moment, due: datetime | float) -> Any:
    return microseconds(due) if isinstance(due, datetime) else now + span(due)


_ENCODERS: Final[dict[Kind, Callable[[Any], Any]]] = {
    Kind.STATUS: int,
    Kind.FLAG: int,
    Kind.MOMENT: microseconds,
    Kind.SPAN: span,
    Kind.JSON: dump_result,
}
_DECODERS: Final[dict[Kind, Callable[[Any], Any]]] = {
    Kind.STATUS: tuple(Status).__getitem__,
    Kind.FLAG: bool,
    Kind.MOMENT: moment,
    Kind.SPAN: lambda micros: micros / 1_000_000,
    Kind.JSON: load_result,
}
_ENCODED: Final = {column.name: _ENCODERS[column.kind] for column in JOB_COLUMNS if column.kind in _ENCODERS}
_DECODED: Final = tuple([(column.name, _DECODERS[column.kind]) for column in JOB_COLUMNS if column.kind in _DECODERS])
_DEFAULTS: Final = {column.name: column.default for column in JOB_COLUMNS if column.default is not None}
_DRAFTED: Final = tuple([(column.name, _ENCODED.get(column.name)) for column in JOB_COLUMNS if column.draft])
_CHANGED: Final = tuple([(column.name, _ENCODED.get(column.name)) for column in JOB_COLUMNS if column.changes])
_ERASED: Final = tuple([column.name for column in JOB_COLUMNS if column.erased])
_EXPECTED: Final = tuple([(name, _ENCODED.get(name)) for name in ("status", "run", "token", "version")])


def draft_row(draft: Draft, merge_key: str | None, now: Moment) -> dict[str, Any]:
    """A new job's columns without those that are NULL, and without the request's body.

    With ``now=After()``, each moment that depends on now is an `After`, for which the store writes an expression: now plus
    its ``microseconds``, which may be negative. A moment that the draft gives as a datetime is a number even then.
    """
    row = _DEFAULTS | {
        "created_time": now,
        "start_time": _due(now, draft.due),
        "updated_time": now,
        "request": dump_request(draft.request, draft.caller),
    }
    for name, encode in _DRAFTED:
        value = getattr(draft, name)
        if value is not None:
            row[name] = value if encode is None else encode(value)
    if draft.expires is not None:
        row["expires"] = _due(now, draft.expires)
    if draft.lessee is not None:
        row["lease_until"] = now + span(draft.lease)
    if merge_key is not None:
        row["merge_key"] = merge_key
    return row


def assignments(changes: Changes, now: Moment) -> dict[str, Any]:
    """The columns that a change sets, with their new values, without ``version``, which every write raises.

    ``now`` works as in `draft_row`. A change whose ``erases_body`` is true must also erase the request's body.
    """
    assigned: dict[str, Any] = {}
    for name, encode in _CHANGED:
        value = getattr(changes, name)
        if value is not UNSET:
            assigned[name] = value if encode is None or value is None else encode(value)
    if changes.lease is not UNSET:
        assigned["lease_until"] = None if changes.lease is None else now + span(changes.lease)
    if changes.due is not UNSET:
        assigned["start_time"] = _due(now, changes.due)
    if changes.deliver_by is not UNSET:
        assigned["deliver_by"] = None if changes.deliver_by is None else now + span(changes.deliver_by)
    if changes.free_merge_key:
        assigned["merge_key"] = None
    if changes.claimed:
        assigned["claimed_time"] = now
    if changes.alive:
        assigned["updated_time"] = now
    if changes.end:
        assigned |= erased(changes)
        assigned["end_time"] = now
    return assigned


def assignments_with_body(changes: Changes, now: Moment) -> dict[str, Any]:
    """`assignments`, for a table that has the body of the request in the column ``body``."""
    assigned = assignments(changes, now)
    return assigned | {"body": None} if changes.erases_body else assigned


def erased(changes: Changes) -> dict[str, None]:
    """The columns that an end sets to NULL."""
    kept = {name for flag, names in KEPT.items() if getattr(changes, flag) for name in names}
    return {name: None for name in _ERASED if name not in kept}


def conditions(expect: Expect) -> dict[str, Any]:
    """The columns that must have these values before the change.

    Without ``unclaimed``, which needs ``token IS NULL AND status < 2``, and ``lease_over``, which needs ``lease_until <= now``.
    """
    return {
        name: value if encode is None else encode(value)
        for name, encode in _EXPECTED
        if (value := getattr(expect, name)) is not None
    }


_values: Final = attrgetter(*COLUMNS)
_POSITIONS: Final = tuple([(COLUMNS.index(name), encode) for name, encode in _ENCODED.items()])
_REQUEST: Final = COLUMNS.index("request")


def job_row(job: Job) -> Row:
    """A job's columns, in the order of `COLUMNS`, without the request's body."""
    row = list(_values(job))
    for position, encode in _POSITIONS:
        if (value := row[position]) is not None:
            row[position] = encode(value)
    if job.request is not None:
        row[_REQUEST] = dump_request(job.request, job.caller)
    return tuple(row)


def row_job(row: Row, read_time: datetime) -> Job:
    """The job of a row that `job_row` or `draft_row` wrote, with the request's body at its end.

    If the column of the request holds anything else, the job has no request.
    """
    columns: dict[str, Any] = dict(zip(COLUMNS, row, strict=False))
    for name, decode in _DECODED:
        value = columns[name]
        if value is not None:
            columns[name] = decode(value)
    caller = None
    if columns["request"] is not None:
        try:
            request, caller = load_request(columns["request"])
        except (ValueError, TypeError):
            # backjob did not write such a row. No proof fits it, so it is not sent; it must not keep others from being read.
            request = None
        if request is not None and not columns["method"]:  # a job of a version without these columns
            columns |= {"method": request.method, "path": request.path}
        columns["request"] = evolve(request, body=row[-1]) if request is not None and row[-1] else request
    return Job(**columns, caller=caller, read_time=read_time)


def dump_request(request: Request, caller: Caller | None) -> str:
    """A request without its body, and its caller, as JSON: method, target, raw, headers, the caller's fields and the mount."""
    who: tuple[object, ...] | None = None
    if caller is not None:
        who = (caller.scheme, caller.host, caller.address, caller.forwarded)
        who += (caller.mount,) if caller.mount else ()
    mount = (request.mount,) if request.mount else ()
    return _encode((request.method, request.target, request.raw, request.headers, who, *mount))


@lru_cache(maxsize=32)  # a running job is read many times
def load_request(text: str) -> tuple[Request, Caller | None]:
    """The request, without its body, and the caller that `dump_request` was given."""
    method, target, raw, headers, who, *mount = json.loads(text)
    caller = None
    if who is not None:
        scheme, host, address, forwarded, *seen = who
        caller = Caller(scheme, host, address, _load_headers(forwarded), *seen)
    return Request(method, target, _load_headers(headers), raw=raw, mount="".join(mount)), caller


def _load_headers(pairs: list[list[str]]) -> Headers:
    return tuple([(name, value) for name, value in pairs])
