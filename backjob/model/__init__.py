"""The values that the parts exchange: frozen, and valid once constructed, so that every store can keep them.

Times are aware datetimes in UTC, ages and timeouts are seconds, sizes and offsets are bytes of UTF-8.
"""

from __future__ import annotations

from backjob.model.durations import Seconds, check_duration, in_seconds
from backjob.model.jobs import Changes, Draft, Expect, Grant, Job, Output, Query, Report
from backjob.model.positions import parse_position
from backjob.model.requests import Caller, Credentials, Request, Response
from backjob.model.state import JobState
from backjob.model.texts import (
    DEFAULT_QUEUE,
    LONGEST_STATUS_TEXT,
    LONGEST_TAIL,
    UNSET,
    Headers,
    JsonValue,
    Status,
    Unset,
    clean_text,
    is_storable,
    short_text,
)

__all__ = [
    "DEFAULT_QUEUE",
    "LONGEST_STATUS_TEXT",
    "LONGEST_TAIL",
    "UNSET",
    "Caller",
    "Changes",
    "Credentials",
    "Draft",
    "Expect",
    "Grant",
    "Headers",
    "Job",
    "JobState",
    "JsonValue",
    "Output",
    "Query",
    "Report",
    "Request",
    "Response",
    "Seconds",
    "Status",
    "Unset",
    "check_duration",
    "clean_text",
    "in_seconds",
    "is_storable",
    "parse_position",
    "short_text",
]
