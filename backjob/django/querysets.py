"""Querysets that a loop reads in the order of their primary key, so that it can continue after the last row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.db.models import Model, QuerySet
from django.db.models.query import ModelIterable

from backjob.errors import InvalidRequest
from backjob.model import JsonValue

_PAGE: Final = 200


class KeyedQuerySet:
    """A queryset, page by page in the order of its primary key, ascending unless it is ordered by ``-pk``.

    Each page is a query of its own: no cursor stays open between two items, rows that the action has changed meanwhile are
    read as they are now, and rows that no longer match are left out. Raises `InvalidRequest` for a queryset whose rows have
    no key, or another order.
    """

    def __init__(self, rows: QuerySet[Any]) -> None:
        self._rows = rows
        self._key = rows.model._meta.pk  # noqa: SLF001 - documented
        order = _refuse_unkeyed(rows)
        self._order, self._lookup = ("-pk", "pk__lt") if order.startswith("-") else ("pk", "pk__gt")

    def count(self) -> int:
        """Return how many rows there are."""
        return self._rows.count()

    def page(self, after: JsonValue) -> Sequence[tuple[JsonValue, Model]]:
        """Return the next rows after a key, each with its key as text."""
        rows = self._rows if after is None else self._rows.filter(**{self._lookup: self._key.to_python(after)})
        return [(str(self._key.value_to_string(row)), row) for row in rows.order_by(self._order)[:_PAGE]]


def _refuse_unkeyed(rows: QuerySet[Any]) -> str:
    """Return the order of a queryset, ``pk`` or ``-pk``. Raises `InvalidRequest` if it can't be read by its key."""
    query: Any = rows.query
    key = rows.model._meta.pk.name  # noqa: SLF001
    reason = ""
    order = "pk"
    if rows._iterable_class is not ModelIterable:  # noqa: SLF001
        reason = "values() and values_list() have no key: pass the queryset itself, with only() if it should read less"
    elif query.is_sliced:
        reason = "a slice can't continue, as the rows before it may change: pass the whole queryset"
    elif query.combinator or query.distinct_fields:
        reason = "union(), intersection(), difference() and distinct(…) with fields can't be read by their key"
    elif query.extra_order_by or not query.standard_ordering or len(query.order_by) > 1:
        reason = "it is read in the order of its primary key, not in its own: remove order_by() and reverse()"
    elif query.order_by:
        order = str(query.order_by[0])
        if order.removeprefix("-") not in ("pk", key):
            reason = f"it is read in the order of its primary key, not by {order!r}: remove order_by()"
    if reason:
        raise InvalidRequest(
            "iterable", f"with resume, a queryset continues after the last row's primary key; {reason}"
        )
    return order
