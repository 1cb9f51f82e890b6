"""Positions in a list of jobs, newest first: where a page ended, even if its last job is removed before the next page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from backjob.errors import InvalidRequest

_POSITION: Final = re.compile(r"(?P<id>[^.]{1,128})(?:\.(?P<created>[0-9]{1,17}))?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def position_of(job_id: str, created: datetime | None) -> str:
    """Return the position of a job: its id and the microseconds from 1970 to its creation."""
    return job_id if created is None else f"{job_id}.{(created - _EPOCH) // _MICROSECOND}"


def parse_position(text: object) -> tuple[str, datetime | None]:
    """Return the job id in a position, and the time of creation if it has one. Raises `InvalidRequest` ("before")."""
    found = _POSITION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidRequest("before", f"must be the id or the position of a job, not {text!r}")
    created = found["created"]  # at most in the year 5138
    return found["id"], None if created is None else _EPOCH + int(created) * _MICROSECOND
