"""The filters of the list of jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.filters import ChoicesFieldListFilter
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from backjob.django.admin.people import users_of
from backjob.django.admin.states import status_word
from backjob.django.models import Job
from backjob.django.site import jobs
from backjob.model import Status
from backjob.overriding import override
from backjob.stores.rows import microseconds

_RECENT: Final = 1000
_MOST: Final = 50
_RECENT_FIELDS: Final = ("queue", "scope", "owner")


def recent_values(request: HttpRequest, model_admin: Any) -> Sequence[Job]:
    """Return queue, scope and owner of the newest jobs, which the filters offer. One query serves all filters of a page."""
    cached: Sequence[Job] | None = getattr(request, "_backjob_recent", None)
    if cached is None:
        cached = list(model_admin.get_queryset(request).order_by("-seq").only(*_RECENT_FIELDS)[:_RECENT])
        request._backjob_recent = cached  # type: ignore[attr-defined]  # noqa: SLF001
    return cached


class StatusFilter(ChoicesFieldListFilter):
    """A filter by status, with the words of the status page."""

    @override
    def choices(self, changelist: Any) -> Iterator[Any]:
        words = [None, *(status_word(status) for status in Status)]
        for choice, word in zip(super().choices(changelist), words, strict=True):
            yield choice if word is None else {**choice, "display": word}


class QueueFilter(admin.SimpleListFilter):
    """A filter by queue. It offers the queues of recent jobs."""

    title: Any = _("queue")
    parameter_name = "queue"

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        values = {getattr(job, str(self.parameter_name)) for job in recent_values(request, model_admin)}
        return self.named(sorted(value for value in values if value)[:_MOST])

    def named(self, values: list[str]) -> list[tuple[str, str]]:
        """Return each value with the text for it."""
        return [(value, value) for value in values]

    @override
    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        return queryset if value is None else queryset.filter(**{str(self.parameter_name): value})


class ScopeFilter(QueueFilter):
    """A filter by scope. It offers the scopes of recent jobs."""

    title = _("scope")
    parameter_name = "scope"


class OwnerFilter(QueueFilter):
    """A filter by owner, with the names of users. It offers the owners of recent jobs."""

    title = _("owner")
    parameter_name = "owner"

    @override
    def named(self, values: list[str]) -> list[tuple[str, str]]:
        users = users_of(values)
        named = [(value, str(users.get(value, value))) for value in values]
        return sorted(named, key=lambda one: one[1].casefold())


class OwnerlessFilter(admin.SimpleListFilter):
    """A filter for jobs that belong to nobody."""

    title = _("ownership")
    parameter_name = "owned"

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("With an owner")), ("no", _("Without an owner"))]

    @override
    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        return queryset if value is None else queryset.filter(owner__isnull=value == "no")


class CreatedFilter(admin.SimpleListFilter):
    """A filter by age."""

    title = _("created")
    parameter_name = "created"
    ages: Final = {
        "hour": (_("Past hour"), timedelta(hours=1)),
        "day": (_("Past 24 hours"), timedelta(days=1)),
        "week": (_("Past 7 days"), timedelta(days=7)),
        "month": (_("Past 30 days"), timedelta(days=30)),
    }

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, text) for name, (text, _age) in self.ages.items()]

    @override
    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        engine = jobs.engine_if_usable()
        if value not in self.ages or engine is None:
            return queryset
        since = engine.clock.now() - self.ages[value][1]
        return queryset.filter(created_time__gte=microseconds(since))
