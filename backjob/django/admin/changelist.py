"""The list of jobs: which rows it reads, and how it counts them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Page, Paginator

from backjob.django.admin.people import show_owners
from backjob.django.models import Job
from backjob.overriding import override

MOST_LISTED: Final = 10_000
"""So many jobs can be reached by paging. To count all of a large table would take longer than to read a page of it."""

UNLISTED: Final = ("request", "result", "cursor", "sealed", "body")
"""Columns that no list shows and that may be large."""

if TYPE_CHECKING:  # only their stubs are generic
    _Paginator = Paginator[Job]
else:
    _Paginator = Paginator


class JobPaginator(_Paginator):
    """Reads the numbers of the newest matching jobs once, for the count as well as for each page."""

    @cached_property
    def _keys(self) -> list[int]:
        rows: Any = self.object_list
        return list(rows.values_list("pk", flat=True)[: MOST_LISTED + 1])

    @cached_property
    @override
    def count(self) -> int:
        return min(len(self._keys), MOST_LISTED)

    @property
    def has_more(self) -> bool:
        """Whether there are jobs that no page shows."""
        return len(self._keys) > MOST_LISTED

    @override
    def page(self, number: Any) -> Any:
        number = self.validate_number(number)
        first = (number - 1) * self.per_page
        keys = self._keys[first : min(first + self.per_page, self.count)]
        rows: Any = self.object_list
        on_page = rows.model._default_manager.using(rows.db).filter(pk__in=keys)  # noqa: SLF001
        return Page(on_page.order_by(*rows.query.order_by), number, self)


class JobChangeList(ChangeList):
    """The list, with the users who own the jobs of the page."""

    @override
    def get_results(self, request: Any) -> None:
        super().get_results(request)
        found: Any = self.result_list
        if not self.multi_page:  # Django would search once more
            found = self.paginator.page(1).object_list
        rows: list[Job] = list(found.defer(*UNLISTED))
        show_owners(request, rows)
        self.result_list = rows
