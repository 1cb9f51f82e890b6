"""What the admin shows of a job: the columns of the list, and the fields of a page."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from django.contrib import admin
from django.utils.formats import localize
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy as _

from backjob.django.admin import details
from backjob.django.admin.states import attempt_word, note_of, state_of_row, state_word, text_word, waiting_word
from backjob.django.models import Job
from backjob.django.site import engine
from backjob.model import DEFAULT_QUEUE
from backjob.status.times import clock_text, run_seconds
from backjob.stores.rows import moment

JOB_FIELDS: Final = (
    "name", "id", "route", "state", "bar", "text", "waits", "attempts", "earlier_runs", "outcome", "made_file", "output",
)  # fmt: skip
MORE_FIELDS: Final = (
    "owner_name", "queue", "scope_name", "created_at", "due_at", "began_at", "ended_at", "duration", "error_timeout_seconds",
)  # fmt: skip
TASK_FIELDS: Final = ("task", "arguments", "errors")
LIVE: Final = ("state", "bar", "text", "waits", "attempts", "earlier_runs", "output", "duration", "ended_at")
"""Fields that the progress element shows, and keeps up to date."""

OPTIONAL: Final = ("waits", "attempts", "earlier_runs", "outcome", "made_file", "output", "scope_name")
"""Fields that a page leaves out if a job has nothing there."""

_LONGEST_NOTE: Final = 100
NOTHING: Final = "-"

if TYPE_CHECKING:  # only its stubs are generic
    _ModelAdmin = admin.ModelAdmin[Job]
else:
    _ModelAdmin = admin.ModelAdmin


class JobFields(_ModelAdmin):
    """The columns and fields, in the language of the admin."""

    # --- the list ---------------------------------------------------------------------------------------------------

    @admin.display(description=_("title"))
    def name(self, job: Job) -> str:
        """Return the title or else the path; the id is the tooltip."""
        return format_html('<span title="{}">{}</span>', job.id, name_of(job))

    @admin.display(description=_("state"))
    def state(self, job: Job) -> str:
        return state_word(state_of_row(job))

    @admin.display(description=_("progress"))
    def percentage(self, job: Job) -> str:
        return f"{job.progress}\N{NO-BREAK SPACE}%"

    @admin.display(description=_("progress"))
    def bar(self, job: Job) -> str:
        template = '<progress aria-label="{}" value="{}" max="100"></progress> {}'
        return format_html(template, _("progress"), job.progress, self.percentage(job))

    @admin.display(description=_("duration"))
    def duration(self, job: Job) -> str:
        seconds = run_seconds(state_of_row(job), engine().clock.now())
        return NOTHING if seconds is None else clock_text(seconds)

    @admin.display(description=_("owner"), empty_value=NOTHING)
    def owner_name(self, job: Job) -> str | None:
        """Return the user's name, with a link if the visitor may view the user; otherwise the owner's id."""
        name: str = getattr(job, "owner_html", None) or job.owner or ""
        return name or None

    @admin.display(description=_("queue"))
    def queue_name(self, job: Job) -> str:
        return NOTHING if job.queue == DEFAULT_QUEUE else str(job.queue)

    @admin.display(description=_("text or error"))
    def note(self, job: Job) -> str:
        """Return why the job waits, or the last line of its text or error, and which attempt it is after the first."""
        return Truncator(note_of(state_of_row(job))).chars(_LONGEST_NOTE)

    # --- the page of a job ------------------------------------------------------------------------------------------

    @admin.display(description=_("route"))
    def route(self, job: Job) -> str:
        return f"{job.method} {job.path or ''}".strip() or NOTHING

    @admin.display(description=_("text"))
    def text(self, job: Job) -> str:
        return text_word(state_of_row(job)) or NOTHING

    @admin.display(description=_("waits"))
    def waits(self, job: Job) -> str:
        """Return why the job does not run yet."""
        return waiting_word(state_of_row(job)) or NOTHING

    @admin.display(description=_("attempt"))
    def attempts(self, job: Job) -> str:
        state = state_of_row(job)
        return attempt_word(state) if state.retries or state.attempt > 1 else NOTHING

    @admin.display(description=_("earlier runs"))
    def earlier_runs(self, job: Job) -> str:
        return details.earlier_runs_of(state_of_row(job))

    @admin.display(description=_("result"))
    def outcome(self, job: Job) -> str:
        """Return the job's result. A method with the name of the column would not be called: Django would show the column."""
        return details.result_of(state_of_row(job))

    @admin.display(description=_("file"))
    def made_file(self, job: Job) -> str:
        return details.file_of(state_of_row(job))

    @admin.display(description=_("output"))
    def output(self, job: Job) -> str:
        return details.output_of(job)

    @admin.display(description=_("task"))
    def task(self, job: Job) -> str:
        record = details.record_of(job)
        return NOTHING if record is None else record.path

    @admin.display(description=_("arguments"))
    def arguments(self, job: Job) -> str:
        record = details.record_of(job)
        return NOTHING if record is None else details.arguments_of(record)

    @admin.display(description=_("errors"))
    def errors(self, job: Job) -> str:
        record = details.record_of(job)
        return NOTHING if record is None else details.errors_of(record)

    @admin.display(description=_("scope"))
    def scope_name(self, job: Job) -> str:
        return job.scope or NOTHING

    @admin.display(description=_("created"), ordering="seq")
    def created_at(self, job: Job) -> str:
        return _local(job.created)

    @admin.display(description=_("due"))
    def due_at(self, job: Job) -> str:
        return _local(moment(job.start_time))

    @admin.display(description=_("began"))
    def began_at(self, job: Job) -> str:
        return NOTHING if job.claimed_time is None else _local(moment(job.claimed_time))

    @admin.display(description=_("ended"))
    def ended_at(self, job: Job) -> str:
        return NOTHING if job.ended is None else _local(job.ended)

    @admin.display(description=_("error timeout (s)"))
    def error_timeout_seconds(self, job: Job) -> str:
        return f"{job.error_timeout / 1_000_000:g}"


def name_of(job: Job) -> str:
    """Return the title or else the path of a job, shortened."""
    return Truncator(str(job)).chars(_LONGEST_NOTE)


def _local(when: datetime) -> str:
    """Return a time in the format of the admin's list, because the detail page would show Python's."""
    return str(localize(localtime(when)))
