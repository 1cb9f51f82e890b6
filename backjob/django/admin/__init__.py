"""Jobs in Django's admin, where staff can view, cancel, delete and run them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.formats import localize
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from typing_extensions import override

from backjob.django.admin import details, filters
from backjob.django.admin.changelist import JobChangeList, JobPaginator
from backjob.django.admin.people import owners_named, show_owners
from backjob.django.admin.states import attempt_word, note_of, state_of_row, state_word, text_word, waiting_word
from backjob.django.containing import contains
from backjob.django.engine import database_of
from backjob.django.models import Job
from backjob.django.site import engine, jobs
from backjob.errors import BackJobError, InvalidRequest
from backjob.model import DEFAULT_QUEUE
from backjob.status.times import clock_text, run_seconds
from backjob.stores.rows import moment

_JOB_FIELDS: Final = (
    "name", "id", "route", "state", "bar", "text", "waits", "attempts", "earlier_runs", "outcome", "made_file", "output",
)  # fmt: skip
_MORE_FIELDS: Final = (
    "owner_name", "queue", "scope_name", "created_at", "due_at", "began_at", "ended_at", "duration", "error_timeout_seconds",
)  # fmt: skip
_TASK_FIELDS: Final = ("task", "arguments", "errors")
_LIVE: Final = ("state", "bar", "text", "waits", "attempts", "earlier_runs", "output")
"""Fields that the progress element shows, and keeps up to date."""

_OPTIONAL: Final = ("waits", "attempts", "earlier_runs", "outcome", "made_file", "output", "scope_name")
"""Fields that a page leaves out if a job has nothing there."""

_LONGEST_NOTE: Final = 100
_NOTHING: Final = "-"

if TYPE_CHECKING:  # only its stubs are generic
    _ModelAdmin = admin.ModelAdmin[Job]
else:
    _ModelAdmin = admin.ModelAdmin


def _local(when: datetime) -> str:
    """Return a time in the format of the admin's list, because the detail page would show Python's."""
    return str(localize(localtime(when)))


@admin.register(Job)
class JobAdmin(_ModelAdmin):
    """The list and the pages of jobs. Each needs a permission of the model: see the page on Django in the docs."""

    list_display = ("name", "state", "note", "percentage", "duration", "owner_name", "queue_name", "created_at")
    list_filter = (
        ("status", filters.StatusFilter),
        filters.QueueFilter,
        filters.ScopeFilter,
        filters.OwnerFilter,
        filters.OwnerlessFilter,
        filters.CreatedFilter,
    )
    search_fields = ("title",)  # shows the box; get_search_results() decides what it finds
    search_help_text = _("An id, a part of a title or path, or an owner")
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they would count all jobs, once for each choice of a filter
    list_per_page = 50
    paginator = JobPaginator
    ordering = ("-seq",)
    sortable_by = ("created_at",)
    actions = ("cancel", "run_again")
    change_form_template = "admin/backjob/job/change_form.html"
    change_list_template = "admin/backjob/job/change_list.html"
    readonly_fields = (*_JOB_FIELDS, *_MORE_FIELDS, *_TASK_FIELDS)

    class Media:
        css: ClassVar = {"all": ["backjob/admin.css"]}

    # --- which jobs -------------------------------------------------------------------------------------------------

    @override
    def get_queryset(self, request: HttpRequest) -> Any:
        engine = jobs.engine_if_usable()
        rows = super().get_queryset(request)
        if engine is None:
            return rows.none()
        # The table may have jobs of other sites.
        rows = rows.using(database_of(engine.store)).filter(label__in=engine.row_keys.labels)
        return rows.defer("request", "sealed", "body")

    @override
    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobChangeList]:
        return JobChangeList

    @override
    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Return the job with this id; without one, those with this part of a title or path, or of one of these owners."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if (found := queryset.filter(id=term)).exists():
            return found, False
        owners = [term, *owners_named(request, term)]
        return queryset.filter(contains("title", term) | contains("path", term) | Q(owner__in=owners)), False

    @override
    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Job | None:
        job: Job | None = super().get_object(request, object_id, from_field)
        if job is not None:
            show_owners(request, [job])
        return job

    @override
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        if jobs.engine_if_usable() is None:
            self.message_user(request, _("Background jobs are not configured; see the log."), messages.ERROR)
        return super().changelist_view(request, extra_context)

    @override
    def get_list_display(self, request: HttpRequest) -> Any:
        """Leave out the queues if recent jobs are all in the default one."""
        has_queues = any(job.queue != DEFAULT_QUEUE for job in filters.recent_values(request, self))
        return [name for name in self.list_display if has_queues or name != "queue_name"]

    # --- permissions ------------------------------------------------------------------------------------------------

    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return _may(request, "cancel_job")

    def has_run_again_permission(self, request: HttpRequest) -> bool:
        return _may(request, "run_again_job")

    # --- the list ---------------------------------------------------------------------------------------------------

    @admin.display(description=_("title"))
    def name(self, job: Job) -> str:
        """Return the title or else the path; the id is the tooltip."""
        return format_html('<span title="{}">{}</span>', job.id, _name(job))

    @admin.display(description=_("state"))
    def state(self, job: Job) -> str:
        return state_word(state_of_row(job))

    @admin.display(description=_("progress"))
    def percentage(self, job: Job) -> str:
        return f"{job.progress}\N{NO-BREAK SPACE}%"

    @admin.display(description=_("progress"))
    def bar(self, job: Job) -> str:
        return format_html('<progress value="{}" max="100">{} %</progress> {}\N{NO-BREAK SPACE}%', *[job.progress] * 3)

    @admin.display(description=_("duration"))
    def duration(self, job: Job) -> str:
        seconds = run_seconds(state_of_row(job), engine().clock.now())
        return _NOTHING if seconds is None else clock_text(seconds)

    @admin.display(description=_("owner"), empty_value=_NOTHING)
    def owner_name(self, job: Job) -> str | None:
        """Return the user's name, with a link if the visitor may view the user; otherwise the owner's id."""
        name: str = getattr(job, "owner_html", None) or job.owner or ""
        return name or None

    @admin.display(description=_("queue"))
    def queue_name(self, job: Job) -> str:
        return _NOTHING if job.queue == DEFAULT_QUEUE else str(job.queue)

    @admin.display(description=_("text or error"))
    def note(self, job: Job) -> str:
        """Return why the job waits, or the last line of its text or error, and which attempt it is after the first."""
        return Truncator(note_of(state_of_row(job))).chars(_LONGEST_NOTE)

    # --- the page of a job ------------------------------------------------------------------------------------------

    @override
    def get_fieldsets(self, request: HttpRequest, obj: Job | None = None) -> Any:
        """Leave out the fields that the progress element shows, and what the visitor may not see."""
        left_out = set() if obj is None else {name for name in _OPTIONAL if self._is_empty(name, obj)}
        if obj is not None and details.element_of(obj):
            left_out |= {*_LIVE}
        parts: list[tuple[Any, dict[str, Any]]] = [
            (None, {"fields": [name for name in _JOB_FIELDS if name not in left_out]}),
            (_("Owner and times"), {"fields": [name for name in _MORE_FIELDS if name not in left_out]}),
        ]
        if obj is not None and details.record_of(obj) is not None:
            may_inspect = _may(request, "inspect_job")
            parts.insert(1, (_("Task"), {"fields": _TASK_FIELDS if may_inspect else _TASK_FIELDS[:1]}))
        return parts

    def _is_empty(self, name: str, job: Job) -> bool:
        if name == "output":
            return not job.output_size
        return bool(getattr(self, name)(job) == _NOTHING)

    @override
    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        obj: Job | None = kwargs.get("obj")
        if obj is not None:
            actions = self._actions_for(request, obj)
            context |= {"element": details.element_of(obj), "style": details.style_url(), "job_actions": actions}
        return super().render_change_form(request, context, *args, **kwargs)

    def _actions_for(self, request: HttpRequest, job: Job) -> Sequence[tuple[str, Any]]:
        """Return the actions that make sense for a job, each with its label."""
        has_ended = job.end_time is not None
        offered = [
            ("cancel", _("Cancel job"), not has_ended and self.has_cancel_permission(request)),
            (
                "run_again",
                _("Run again"),
                has_ended and bool(job.keep_request) and self.has_run_again_permission(request),
            ),
        ]
        return [(name, label) for name, label, is_offered in offered if is_offered]

    @admin.display(description=_("route"))
    def route(self, job: Job) -> str:
        return f"{job.method} {job.path or ''}".strip() or _NOTHING

    @admin.display(description=_("text"))
    def text(self, job: Job) -> str:
        return text_word(state_of_row(job)) or _NOTHING

    @admin.display(description=_("waits"))
    def waits(self, job: Job) -> str:
        """Return why the job does not run yet."""
        return waiting_word(state_of_row(job)) or _NOTHING

    @admin.display(description=_("attempt"))
    def attempts(self, job: Job) -> str:
        state = state_of_row(job)
        return attempt_word(state) if state.retries or state.attempt > 1 else _NOTHING

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
        return _NOTHING if record is None else record.path

    @admin.display(description=_("arguments"))
    def arguments(self, job: Job) -> str:
        record = details.record_of(job)
        return _NOTHING if record is None else details.arguments_of(record)

    @admin.display(description=_("errors"))
    def errors(self, job: Job) -> str:
        record = details.record_of(job)
        return _NOTHING if record is None else details.errors_of(record)

    @admin.display(description=_("scope"))
    def scope_name(self, job: Job) -> str:
        return job.scope or _NOTHING

    @admin.display(description=_("created"), ordering="seq")
    def created_at(self, job: Job) -> str:
        return _local(job.created)

    @admin.display(description=_("due"))
    def due_at(self, job: Job) -> str:
        return _local(moment(job.start_time))

    @admin.display(description=_("began"))
    def began_at(self, job: Job) -> str:
        return _NOTHING if job.claimed_time is None else _local(moment(job.claimed_time))

    @admin.display(description=_("ended"))
    def ended_at(self, job: Job) -> str:
        return _NOTHING if job.ended is None else _local(job.ended)

    @admin.display(description=_("error timeout (s)"))
    def error_timeout_seconds(self, job: Job) -> str:
        return f"{job.error_timeout / 1_000_000:g}"

    # --- actions ----------------------------------------------------------------------------------------------------

    @admin.action(description=_("Cancel selected jobs"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Cancel the selected jobs that have not ended."""
        cancelled = self._each(request, queryset, _("Cancelled."), jobs.cancel)
        count = len(cancelled)
        self.message_user(request, ngettext("%d job cancelled.", "%d jobs cancelled.", count) % count)
        return self._back(request, queryset)

    @admin.action(description=_("Run selected jobs again"), permissions=["run_again"])
    def run_again(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Start the kept requests of the selected jobs again."""
        started = self._each(request, queryset, _("Started again."), jobs.run_again)
        count = len(started)
        if count:
            self.message_user(request, ngettext("%d job started again.", "%d jobs started again.", count) % count)
        return self._back(request, self.get_queryset(request).filter(id__in=started) if started else queryset)

    @override
    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        jobs.delete(obj.id)

    @override
    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for job_id in list(queryset.values_list("id", flat=True)):
            jobs.delete(job_id)

    def _each(self, request: HttpRequest, queryset: Any, logged: Any, act: Callable[[str], Any]) -> list[Any]:
        """Act on each job, and log those that changed. Return what was returned for them. Errors become messages."""
        changed: list[Job] = []
        results: list[Any] = []
        for job in list(queryset):
            try:
                result = act(job.id)
            except BackJobError as error:
                reason = error.reason if isinstance(error, InvalidRequest) else error
                self.message_user(request, f"{_name(job)}: {reason}", messages.ERROR)
                continue
            if result:
                changed.append(job)
                results.append(result)
        if changed:
            user: Any = request.user
            LogEntry.objects.log_actions(user.pk, changed, CHANGE, str(logged))
        return results

    def _back(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Return to the page of the job from which the action came; None for the list."""
        if "_from_page" not in request.POST or (pk := queryset.values_list("pk", flat=True).first()) is None:
            return None
        return HttpResponseRedirect(reverse(f"{self.admin_site.name}:backjob_job_change", args=[pk]))


def _name(job: Job) -> str:
    return Truncator(str(job)).chars(_LONGEST_NOTE)


def _may(request: HttpRequest, permission: str) -> bool:
    user: Any = request.user
    return bool(user.has_perm(f"backjob.{permission}"))
