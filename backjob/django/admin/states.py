"""The state of a job from its row, and its words in the language of the admin, from the table of the status page."""

from __future__ import annotations

from attrs import evolve
from django.utils.translation import get_language

from backjob.django.models import Job
from backjob.django.site import engine
from backjob.django.task_record import TaskRecord
from backjob.jobs.states import state_of
from backjob.model import JobState, Status
from backjob.status.languages import Language, language
from backjob.status.words import WAITING, attempt_text, text_of_state, with_notes, word_of
from backjob.stores.columns import COLUMNS
from backjob.stores.rows import row_job


def state_of_row(row: Job) -> JobState:
    """Return the state of a job as it was read for this page, without its output and the columns that were not read."""
    state: JobState | None = getattr(row, "_backjob_state", None)
    if state is None:
        left = {"sealed", *row.get_deferred_fields()}
        columns = [None if name in left else getattr(row, name) for name in COLUMNS]
        own = engine()
        job = row_job((*columns, b""), own.clock.now())
        state, record = state_of(job, lambda _: "", is_left=own.leaves(job.queue)), TaskRecord.of(job.result)
        if record is not None:
            state = evolve(state, result=record.return_value)
        row._backjob_state = state  # type: ignore[attr-defined]  # noqa: SLF001
    return state


def own_language() -> Language:
    """Return the language in which Django answers the current request."""
    return language(get_language() or "")


def status_word(status: Status) -> str:
    """Return a status as users read it."""
    return word_of(status, 1, own_language())


def state_word(state: JobState) -> str:
    """Return the status of a job as users read it, in its current attempt."""
    return word_of(state.status, state.attempt, own_language())


def text_word(state: JobState) -> str:
    """Return the status text, with backjob's own sentences in the language of the admin."""
    return text_of_state(state, own_language())


def note_of(state: JobState) -> str:
    """Return in one line why a job waits, or its text or error, and which attempt it is after the first."""
    text = with_notes(text_word(state).strip().rpartition("\n")[2], state, own_language())
    return "" if text.lower() == state_word(state).lower() else text


def waiting_word(state: JobState) -> str:
    """Return why a job does not run yet, or ""."""
    reason = state.waiting_for or ""
    return own_language().sentence(WAITING.get(reason, reason))


def attempt_word(state: JobState) -> str:
    """Return which attempt this is, of how many."""
    return attempt_text(state.attempt, state.retries, own_language())
