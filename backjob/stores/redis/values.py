"""Convert between values and the arguments and answers of the Redis scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from attrs import frozen

from backjob.errors import InvalidRequest
from backjob.model import Job
from backjob.stores.columns import JOB_COLUMNS, Kind
from backjob.stores.rows import moment, row_job
from backjob.stores.values import later

__all__ = ["Offset", "encoded", "expecting", "job_of", "lookup", "parted", "setting"]

_ARGUMENTS: Final = {"start_time": "due", "deliver_by": "delivery_timeout", "lease_until": "lease"}
_READERS: Final = tuple(
    [(column.name, str if column.is_text else int) for column in JOB_COLUMNS if column.kind is not Kind.BYTES]
)
_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@frozen
class Offset:
    """A moment, in microseconds from the server's now. The script adds the two."""

    microseconds: int = 0

    def __add__(self, other: int) -> Offset:
        return Offset(self.microseconds + other)


def parted(microseconds: int) -> tuple[int, int]:
    """Seconds and microseconds, the latter never negative, because numbers in the scripts are doubles."""
    return divmod(microseconds, 1_000_000)


def encoded(text: str, argument: str) -> bytes:
    """Text in UTF-8. Raises `InvalidRequest` for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(argument, "a lone surrogate can't be stored; clean_text() replaces it") from None


def lookup(text: str | None) -> bytes | None:
    """A text to search for, after "=", so that an empty text differs from None, which becomes b"".

    Returns None for a lone surrogate, which no job contains.
    """
    if text is None:
        return b""
    try:
        return b"=" + text.encode()
    except UnicodeEncodeError:
        return None


def expecting(columns: Mapping[str, Any]) -> bytes | None:
    """Columns and the values that they must have. None for a lone surrogate, which no job contains."""
    try:
        return _encode({name: str(value) for name, value in columns.items()}).encode()
    except UnicodeEncodeError:
        return None


def setting(columns: Mapping[str, Any], about_now: datetime) -> list[bytes]:
    """Columns and their new values as arguments of a script: JSON, then the name and value of each column of bytes.

    Raises `InvalidRequest` for a moment outside of the calendar; ``about_now`` need not be exact.
    """
    plain: dict[str, str] = {}
    offsets: dict[str, tuple[int, int]] = {}
    erased: list[str] = []
    binary: list[bytes] = []
    for name, value in columns.items():
        if isinstance(value, Offset):
            later(about_now, value.microseconds / 1_000_000, _ARGUMENTS.get(name, name))
            offsets[name] = parted(value.microseconds)
        elif value is None:
            erased.append(name)
        elif isinstance(value, bytes):
            binary += (name.encode(), value)
        else:
            plain[name] = str(value)
    try:
        text = _encode({"set": plain, "after": offsets, "erased": erased}).encode()
    except UnicodeEncodeError:
        for name, value in plain.items():
            encoded(value, name)
        raise
    return [text, *binary]


def job_of(row: Sequence[bytes | None], now: bytes) -> Job:
    """The job of a row that a script returned: JSON of its texts, sealed credentials, and the request's body."""
    text, sealed, body = row
    fields: dict[str, str] = json.loads(text or b"")
    columns = [None if (value := fields.get(name)) is None else read(value) for name, read in _READERS]
    return row_job((*columns, sealed, body), moment(int(now)))
