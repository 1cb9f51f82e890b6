"""Convert between values and the arguments and answers of the Redis scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from backjob.model import Job, JsonValue, Query, Status, Unset
from backjob.stores.columns import JOB_COLUMNS
from backjob.stores.redis.lua import ABSENT, TEXTS
from backjob.stores.rows import After, microseconds, moment, row_job, span
from backjob.stores.steps import each_status
from backjob.stores.values import dump_result

_TEXT: Final = {column.name for column in JOB_COLUMNS if column.is_text}
_NUMBERS: Final = tuple([index for index, name in enumerate(TEXTS) if name not in _TEXT])
_ABSENT: Final = tuple([(TEXTS.index(name), value) for name, value in ABSENT.items()])
_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def parted(microseconds: int) -> tuple[int, int]:
    """Seconds and microseconds, the latter never negative, because numbers in the scripts are doubles."""
    return divmod(microseconds, 1_000_000)


def lookup(text: str | None) -> str:
    """A text as a script's argument, marked so that an empty text differs from None."""
    return "" if text is None else f"={text}"


def pointing(cursor: JsonValue | Unset) -> str:
    """A new cursor as a script's argument: empty if it stays, ``-`` if it is erased."""
    return "" if isinstance(cursor, Unset) else lookup(dump_result(cursor)) or "-"


def listing(names: frozenset[str] | None) -> str:
    """Labels or queues as a script's argument; empty for None, which means any."""
    return "" if names is None else _encode(sorted(names))


def searching(query: Query) -> str:
    """A query as JSON, without the fields that limit nothing."""
    each = each_status(query)
    statuses = list(Status) if query.statuses is None and query.status is None else [status for status, _ in each]
    wanted: dict[str, object] = {
        "statuses": [int(status) for status in statuses if status is not None],
        "labels": listing(query.labels) or None,
        "scope": query.scope,
        "owner": query.owner,
        "root": query.root,
        "queue": query.queue,
        "text": query.text or None,
        "before": query.before,
        "before_time": None if query.before_time is None else str(microseconds(query.before_time)),
        "has_file": query.has_file or None,
    }
    if query.expired is not None:
        wanted["ages"] = {str(int(status)): parted(-max(1, span(age))) for status, age in each if status and age}
    return _encode({name: value for name, value in wanted.items() if value is not None})


def expecting(columns: Mapping[str, Any]) -> str:
    """Columns and the values that they must have."""
    return _encode({name: str(value) for name, value in columns.items()})


def setting(columns: Mapping[str, Any]) -> list[str | bytes]:
    """Columns and their new values as the scripts take them: JSON, then each binary column's name and value."""
    plain: dict[str, str] = {}
    offsets: dict[str, tuple[int, int]] = {}
    erased: list[str] = []
    binary: list[str | bytes] = []
    for name, value in columns.items():
        if isinstance(value, After):
            offsets[name] = parted(value.microseconds)
        elif value is None:
            erased.append(name)
        elif isinstance(value, bytes):
            binary += (name, value)
        else:
            plain[name] = str(value)
    return [_encode({"set": plain, "after": offsets, "erased": erased}), *binary]


def job_of(found: bytes | Sequence[bytes | None], now: bytes) -> Job:
    """The job that a script returned: JSON of its texts, or that with sealed credentials and the request's body."""
    text, sealed, body = (found, None, None) if isinstance(found, bytes) else found
    values: list[Any] = [None if value is False else value for value in json.loads(text or b"")]
    for index, value in _ABSENT:
        if values[index] is None:
            values[index] = value
    for index in _NUMBERS:
        if (value := values[index]) is not None:
            values[index] = int(value)
    return row_job((*values[: len(TEXTS)], sealed, body), moment(int(now)))
