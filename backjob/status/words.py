"""The words that users read on the page, in the element, on a terminal and in Django's admin: one table for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from backjob.lifecycle import WAITING_TEXTS
from backjob.model import JobState, JsonValue, Status

WORDS: Final = {
    Status.STARTED: "Waiting to start",
    Status.IN_PROGRESS: "Running",
    Status.COMPLETED: "Done",
    Status.FAILED: "Failed",
    Status.CANCELLED: "Cancelled",
}
"""A status as users read it."""

RETRYING: Final = "Retrying"
"""The word for a job that waits for another attempt: it has already started."""

NO_SIGN: Final = "no sign of its process"
"""The text of a running job whose run lease is over, until a process that may do so ends or requeues it."""

WAITING: Final = {"due": "waiting until it is due", **WAITING_TEXTS}
"""Each reason why a job waits. `JobState.status_text` has it already, except for ``due``."""

EARLIER_RUNS: Final = "Earlier runs"
"""The heading of a job's history."""


def word_of(status: Status, attempt: int) -> str:
    """Return the word for a status, in this attempt."""
    return RETRYING if status is Status.STARTED and attempt > 1 else WORDS[status]


def attempt_text(attempt: int, retries: int) -> str:
    """Return which attempt this is: ``attempt 2 of 4``."""
    return f"attempt {attempt} of {retries + 1}"


def attempt_note(state: JobState) -> str:
    """Return which attempt runs, or "" for the first one. The text of a job that waits for a retry has it already."""
    is_later = state.attempt > 1 and state.status is Status.IN_PROGRESS
    return attempt_text(state.attempt, state.retries) if is_later else ""


def waiting_note(state: JobState) -> str:
    """Return why a job waits if its status text does not say so, or ""."""
    return WAITING.get(state.waiting_for or "", "") if not state.status_text else ""


def with_notes(text: str, state: JobState) -> str:
    """Return the text with why the job waits, if the text does not say so, and which attempt it is after the first."""
    return "; ".join(part for part in (text, waiting_note(state), attempt_note(state)) if part)


def run_line(entry: Mapping[str, JsonValue]) -> str:
    """Return an earlier run in one line: its beginning and end in UTC, and the reason why it ended."""
    begin, end = (_moment(entry.get(name)) for name in ("begin", "end"))
    span = f"{begin} – {end.removeprefix(begin[:11])}" if begin else end
    return f"{span} UTC: {entry.get('reason') or ''}".rstrip(": ")


def utc(moment: datetime) -> str:
    """Return a moment in UTC, to the second, without its zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _moment(text: JsonValue) -> str:
    try:
        return utc(datetime.fromisoformat(text)) if isinstance(text, str) else ""
    except ValueError:
        return ""
