"""Jobs in Django's admin, where staff can view and cancel them, and nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.http import HttpRequest
from django.urls import NoReverseMatch
from django.utils.formats import localize
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from typing_extensions import override

from backjob.django.engine import database_of
from backjob.django.models import Job
from backjob.django.site import engine, jobs
from backjob.errors import BackJobError, InvalidRequest
from backjob.jobs.states import state_of
from backjob.model import JobState, Status
from backjob.status.words import WAITING, WORDS, run_line, with_notes
from backjob.stores.columns import COLUMNS
from backjob.stores.rows import moment, row_job

_FIELDS: Final = (
    "id", "state", "progress", "text", "waits", "attempts", "earlier_runs", "result", "output", "scope", "queue", "owner",
    "created_at", "due_at", "ended_at", "error_timeout_seconds",
)  # fmt: skip
_LONGEST_NOTE: Final = 100
_STILL: Final = ("progress", "text", "waits", "attempts", "earlier_runs", "output")
"""Fields that the progress element shows live."""

if TYPE_CHECKING:  # only its stubs are generic
    _ModelAdmin = admin.ModelAdmin[Job]
else:
    _ModelAdmin = admin.ModelAdmin


def _element(job: Job) -> str | None:
    """Return the progress element of an unfinished job; None for an ended one, or if there are no status routes."""
    from backjob.django.templatetags.backjob import backjob_progress  # noqa: PLC0415 - only here

    if job.status >= Status.COMPLETED:
        return None
    try:
        return backjob_progress(job.id, output=True)
    except (NoReverseMatch, InvalidRequest):
        return None


def _local(when: datetime) -> str:
    """Return a time in the format of the admin's list, because the detail page would show Python's."""
    return str(localize(localtime(when)))


def _state(row: Job) -> JobState:
    """Return the state of a job as it was read for this page, without its output."""
    columns = [None if name == "sealed" else getattr(row, name) for name in COLUMNS]
    return state_of(row_job((*columns, b""), engine().clock.now()), lambda _: "")


class OwnerFilter(admin.SimpleListFilter):
    """A filter by owner. It offers the owners of recent jobs."""

    title = _("owner")
    parameter_name = "owner"
    field = "owner"
    most = 50

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        recent = model_admin.get_queryset(request).order_by("-seq").values_list(self.field, flat=True)[:1000]
        return [(value, value) for value in sorted({value for value in recent if value})[: self.most]]

    @override
    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        return queryset if value is None else queryset.filter(**{self.field: value})


class ScopeFilter(OwnerFilter):
    """A filter by scope. It offers the scopes of recent jobs."""

    title = _("scope")
    parameter_name = "scope"
    field = "scope"


@admin.register(Job)
class JobAdmin(_ModelAdmin):
    """Read-only. Staff need the permission ``backjob.view_job``, and ``backjob.cancel_job`` to cancel."""

    list_display = ("id", "status", "bar", "note", "scope", "queue", "owner", "due", "ended")
    list_filter = ("status", ScopeFilter, OwnerFilter)
    search_fields = ("id__exact", "owner__exact")
    search_help_text = _("an id or an owner, exactly")
    show_full_result_count = False
    list_per_page = 50
    actions = ("cancel",)
    fields = readonly_fields = _FIELDS

    @override
    def get_queryset(self, request: HttpRequest) -> Any:
        engine = jobs.engine_if_usable()
        rows = super().get_queryset(request)
        if engine is None:
            return rows.none()
        # The table may have jobs of other sites.
        return rows.using(database_of(engine.store)).filter(label__in=engine.row_keys.labels)

    @override
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        if jobs.engine_if_usable() is None:
            self.message_user(request, _("Background jobs are not configured; see the log."), messages.ERROR)
        return super().changelist_view(request, extra_context)

    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_cancel_permission(self, request: Any) -> bool:
        return bool(request.user.has_perm("backjob.cancel_job"))

    @admin.display(description=_("progress"), ordering="progress")
    def bar(self, job: Job) -> str:
        return format_html('<progress value="{}" max="100">{} %</progress> {}\N{NO-BREAK SPACE}%', *[job.progress] * 3)

    @admin.display(description=_("text"))
    def note(self, job: Job) -> str:
        """Return why the job waits, or its text, and which attempt it is after the first."""
        state = _state(job)
        text = with_notes(state.status_text.strip().rpartition("\n")[2], state)
        return Truncator(text).chars(_LONGEST_NOTE)

    @admin.display(description=_("text"))
    def text(self, job: Job) -> str:
        return _state(job).status_text

    @admin.display(description=_("waits"))
    def waits(self, job: Job) -> str:
        """Return why the job does not run yet."""
        reason = _state(job).waiting_for or ""
        return WAITING.get(reason, reason) or "-"

    @admin.display(description=_("attempt"))
    def attempts(self, job: Job) -> str:
        return f"{job.attempt} of {job.retries + 1}"

    @admin.display(description=_("earlier runs"))
    def earlier_runs(self, job: Job) -> str:
        """Return a line for each earlier run: when it began and ended, in UTC, and why it ended."""
        lines = format_html_join("", "<li>{}</li>", ((run_line(entry),) for entry in _state(job).history))
        return format_html("<ol>{}</ol>", lines) if lines else "-"

    @admin.display(description=_("due"), ordering="start_time")
    def due(self, job: Job) -> Any:
        return moment(job.start_time)

    @override
    def get_fields(self, request: HttpRequest, obj: Job | None = None) -> Any:
        """Leave out the fields that the progress element shows live, since they would not update here."""
        live = obj is not None and _element(obj) is not None
        return [name for name in _FIELDS if not (live and name in _STILL)]

    @admin.display(description=_("status"))
    def state(self, job: Job) -> str:
        """Return the progress element with the output, which updates itself, or the status."""
        return _element(job) or WORDS[Status(job.status)]

    @admin.display(description=_("created"))
    def created_at(self, job: Job) -> str:
        return _local(job.created)

    @admin.display(description=_("due"))
    def due_at(self, job: Job) -> str:
        return _local(moment(job.start_time))

    @admin.display(description=_("ended"))
    def ended_at(self, job: Job) -> str:
        return "-" if job.ended is None else _local(job.ended)

    @admin.display(description=_("output"))
    def output(self, job: Job) -> str:
        """Return the end of the job's output, as text."""
        _start, output = engine().tail(job.id)
        return format_html('<pre style="white-space:pre-wrap;margin:0">{}</pre>', output.text)

    @admin.display(description=_("error timeout (s)"))
    def error_timeout_seconds(self, job: Job) -> float:
        return float(job.error_timeout / 1_000_000)

    @admin.action(description=_("Cancel selected jobs"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: Any) -> None:
        """Cancel the selected jobs that have not ended."""
        cancelled = 0
        for job_id in queryset.values_list("id", flat=True):
            try:
                cancelled += jobs.cancel(job_id)
            except BackJobError as error:
                self.message_user(request, str(error), messages.ERROR)
        self.message_user(request, ngettext("%d job cancelled.", "%d jobs cancelled.", cancelled) % cancelled)
