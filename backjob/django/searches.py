"""The searches for jobs, as queries of Django's ORM."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import F, Q, Value

from backjob.django.containing import contains
from backjob.django.database import Database
from backjob.django.models import Job as Row
from backjob.lifecycle import TIMED_OUT
from backjob.model import Query, Status
from backjob.stores.rows import microseconds, span
from backjob.stores.steps import kept_for

_STARTED: Final = int(Status.STARTED)
_RUNNING: Final = int(Status.IN_PROGRESS)


class Searches:
    """The searches in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def matching(self, alias: str, query: Query) -> Any:
        """The rows that match a query, newest first."""
        rows = Row.objects.using(alias).order_by("-seq")
        if query.overdue:
            rows = rows.filter(self._overdue())
        status = None if query.status is None else int(query.status)
        each = {"owner": query.owner, "scope": query.scope, "root": query.root, "queue": query.queue, "status": status}
        rows = rows.filter(**{name: value for name, value in each.items() if value is not None})
        if query.labels is not None:
            rows = rows.filter(label__in=query.labels)
        if query.statuses is not None:
            rows = rows.filter(status__in=[int(status) for status in query.statuses])
        if query.text:
            rows = rows.filter(contains("title", query.text) | contains("path", query.text))
        if query.expired is not None:
            rows = rows.filter(self._expired(*query.expired))
        if query.has_file:
            rows = rows.filter(file__isnull=False)
        return rows if query.before is None and query.before_time is None else self._page(alias, rows, query)

    def _page(self, alias: str, rows: Any, query: Query) -> Any:
        """Those of the rows that come after ``before`` or ``before_time``."""
        before = Row.objects.using(alias).filter(id=query.before).values_list("seq", flat=True)
        seq = None if query.before is None else before.first()
        if seq is not None:
            return rows.filter(seq__lt=seq)
        return (
            rows.none() if query.before_time is None else rows.filter(created_time__lt=microseconds(query.before_time))
        )

    def _expired(self, completed_age: float, ended_age: float) -> Q:
        expired = Q(seq=None)  # no job
        for status, age in kept_for(completed_age, ended_age).items():
            expired |= Q(status=int(status), end_time__lt=self._database.now() + -span(age))
        return expired

    def _overdue(self) -> Q:
        """`backjob.lifecycle.late`, so that the index of limits bounds the search of the STARTED jobs."""
        now = self._database.now()
        is_past = Q(deliver_by__lte=now) | Q(expires__lte=now)
        started = Q(deliver_by=None, expires__lte=now) | (Q(deliver_by__isnull=False) & is_past)
        limit = (Value(now) if isinstance(now, int) else now) - F("error_timeout")
        is_silent = ~Q(token=TIMED_OUT) & Q(error_timeout__gt=0, updated_time__lte=limit)
        running = (Q(token=None) & is_past) | (Q(token__isnull=False) & (Q(lease_until__lte=now) | is_silent))
        return (Q(status=_STARTED) & started) | (Q(status=_RUNNING) & running)
