"""The words that users read on the page, in the element, on a terminal and in Django's admin, for one job.

The words themselves are in `backjob.status.languages`. Each function takes a language; English is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from backjob.lifecycle import WAITING_TEXTS
from backjob.model import JobState, JsonValue, Status
from backjob.status.languages import ENGLISH, Language

WORDS: Final = {status: ENGLISH.say(status.name.lower()) for status in Status}
"""A status as users read it, in English."""

RETRYING: Final = ENGLISH.say("retrying")
"""The word for a job that waits for another attempt: it has already started."""

NO_SIGN: Final = "no sign of its process"
"""The text of a running job whose run lease is over, until a process that may do so ends or requeues it."""

WAITING: Final = {"due": "waiting until it is due", **WAITING_TEXTS}
"""Each reason why a job waits. `JobState.status_text` has it already, except for ``due``."""

EARLIER_RUNS: Final = ENGLISH.say("history")
"""The heading of a job's history."""


def word_of(status: Status, attempt: int, language: Language = ENGLISH) -> str:
    """Return the word for a status, in this attempt."""
    is_retry = status is Status.STARTED and attempt > 1
    return language.say("retrying" if is_retry else status.name.lower())


def text_of_state(state: JobState, language: Language = ENGLISH) -> str:
    """Return the status text, with backjob's own sentences in this language. A text of the application stays as it is.

    Only the application writes the text of a job that is running or COMPLETED.
    """
    is_own = state.status in (Status.STARTED, Status.FAILED, Status.CANCELLED) or state.status_text == NO_SIGN
    return language.sentence(state.status_text) if is_own else state.status_text


def attempt_text(attempt: int, retries: int, language: Language = ENGLISH) -> str:
    """Return which attempt this is: ``attempt 2 of 4``."""
    return language.say("attempt", attempt=attempt, attempts=retries + 1)


def attempt_note(state: JobState, language: Language = ENGLISH) -> str:
    """Return which attempt runs, or "" for the first one. The text of a job that waits for a retry has it already."""
    is_later = state.attempt > 1 and state.status is Status.IN_PROGRESS
    return attempt_text(state.attempt, state.retries, language) if is_later else ""


def waiting_note(state: JobState, language: Language = ENGLISH) -> str:
    """Return why a job waits if its status text does not say so, or ""."""
    return language.sentence(WAITING.get(state.waiting_for or "", "")) if not state.status_text else ""


def with_notes(text: str, state: JobState, language: Language = ENGLISH) -> str:
    """Return the text with why the job waits, if the text does not say so, and which attempt it is after the first."""
    notes = (text, waiting_note(state, language), attempt_note(state, language))
    return "; ".join(part for part in notes if part)


def run_line(entry: Mapping[str, JsonValue], language: Language = ENGLISH) -> str:
    """Return an earlier run in one line: its beginning and end in UTC, and the reason why it ended."""
    begin, end = (_moment(entry.get(name)) for name in ("begin", "end"))
    span = f"{begin} – {end.removeprefix(begin[:11])}" if begin else end
    reason = " ".join(language.reason(str(entry.get("reason") or "")).split())
    return f"{span} UTC{language.say('separator')}{reason}" if reason else f"{span} UTC"


def utc(moment: datetime) -> str:
    """Return a moment in UTC, to the second, without its zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _moment(text: JsonValue) -> str:
    try:
        return utc(datetime.fromisoformat(text)) if isinstance(text, str) else ""
    except ValueError:
        return ""
