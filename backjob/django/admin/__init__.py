"""Jobs in Django's admin, where staff can view, cancel, delete and run them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from backjob.django.admin import details, filters
from backjob.django.admin.changelist import JobChangeList, JobPaginator
from backjob.django.admin.fields import (
    JOB_FIELDS,
    LIVE,
    MORE_FIELDS,
    NOTHING,
    OPTIONAL,
    TASK_FIELDS,
    JobFields,
    name_of,
)
from backjob.django.admin.people import owners_named, show_owners
from backjob.django.containing import contains
from backjob.django.engine import database_of
from backjob.django.models import Job
from backjob.django.site import engine, jobs
from backjob.errors import BackJobError, InvalidRequest, JobNotFound
from backjob.model import DEFAULT_QUEUE
from backjob.overriding import override


@admin.register(Job)
class JobAdmin(JobFields):
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
    readonly_fields = (*JOB_FIELDS, *MORE_FIELDS, *TASK_FIELDS)

    class Media:
        css: ClassVar = {"all": ["backjob/admin.css"]}

    # --- which jobs -------------------------------------------------------------------------------------------------

    @override
    def get_queryset(self, request: HttpRequest) -> Any:
        engine = jobs.engine_if_usable()
        rows = super().get_queryset(request)
        if engine is None or (database := database_of(engine.store)) is None:
            return rows.none()
        # The table may have jobs of other sites.
        rows = rows.using(database).filter(label__in=engine.row_keys.labels)
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
        engine = jobs.engine_if_usable()
        if engine is None:
            self.message_user(request, _("Background jobs are not configured; see the log."), messages.ERROR)
        elif database_of(engine.store) is None:
            text = _("The jobs of this site are not in Django's database, so they can't be listed here.")
            self.message_user(request, text, messages.WARNING)
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

    # --- the page of a job ------------------------------------------------------------------------------------------

    @override
    def get_fieldsets(self, request: HttpRequest, obj: Job | None = None) -> Any:
        """Leave out the fields that the progress element shows, and what the visitor may not see."""
        left_out = set() if obj is None else {name for name in OPTIONAL if self._is_empty(name, obj)}
        if obj is not None and details.element_of(obj):
            left_out |= {*LIVE}
        parts: list[tuple[Any, dict[str, Any]]] = [
            (None, {"fields": [name for name in JOB_FIELDS if name not in left_out]}),
            (_("Owner and times"), {"fields": [name for name in MORE_FIELDS if name not in left_out]}),
        ]
        if obj is not None and details.record_of(obj) is not None:
            may_inspect = _may(request, "inspect_job")
            parts.insert(1, (_("Task"), {"fields": TASK_FIELDS if may_inspect else TASK_FIELDS[:1]}))
        return parts

    def _is_empty(self, name: str, job: Job) -> bool:
        if name == "output":
            return not job.output_size
        return bool(getattr(self, name)(job) == NOTHING)

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
                has_ended and bool(job.keep_request) and self.has_run_again_permission(request) and _would_start(job),
            ),
        ]
        return [(name, label) for name, label, is_offered in offered if is_offered]

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
        started = set(self._each(request, queryset, _("Started again."), jobs.run_again))
        count = len(started)  # identical jobs start one
        if count:
            self.message_user(request, ngettext("%d job started again.", "%d jobs started again.", count) % count)
        return self._back(request, self.get_queryset(request).filter(id__in=started) if started else queryset)

    @override
    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        self.delete_queryset(request, [obj])

    @override
    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for job in list(queryset):
            try:
                jobs.delete(job.id)
            except JobNotFound:
                continue  # another process has deleted it
            except BackJobError as error:
                self.message_user(request, f"{name_of(job)}: {error}", messages.ERROR)

    def _each(self, request: HttpRequest, queryset: Any, logged: Any, act: Callable[[str], Any]) -> list[Any]:
        """Act on each job, and log those that changed. Return what was returned for them. Errors become messages."""
        changed: list[Job] = []
        results: list[Any] = []
        for job in list(queryset):
            try:
                result = act(job.id)
            except BackJobError as error:
                reason = error.reason if isinstance(error, InvalidRequest) else error
                self.message_user(request, f"{name_of(job)}: {reason}", messages.ERROR)
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


def _would_start(job: Job) -> bool:
    """Whether the kept request of a job can run again for the visitor of this page."""
    return engine().runs_without_owner(job.id) or (job.owner is not None and job.owner == engine().current_owner())


def _may(request: HttpRequest, permission: str) -> bool:
    user: Any = request.user
    return bool(user.has_perm(f"backjob.{permission}"))
