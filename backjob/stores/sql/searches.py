"""The statements that find and count jobs for a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from backjob.lifecycle import TIMED_OUT
from backjob.model import Query, Status
from backjob.stores.sql.parameters import ONE, TWO, ZERO, Condition, Selecting, big, found_in
from backjob.stores.sql.prepared import Prepared
from backjob.stores.sql.schema import Tables


class Searches:
    """The searches of these tables. ``selected`` are the columns to read, ``now`` is the store's time in SQL."""

    def __init__(
        self, tables: Tables, selected: Sequence[sa.ColumnElement[Any]], now: sa.ColumnElement[int], *, is_mysql: bool
    ) -> None:
        self._is_mysql = is_mysql
        self._jobs = tables.jobs
        self._column = tables.jobs.c
        self._selected = selected
        self._now = now
        self._made: dict[object, Prepared] = {}

    def find(self, query: Query) -> Prepared:
        """The search for a query. Its parameters are named as the query's fields; ``label`` is one of its labels.

        For an ``expired`` query, ``age`` is the age for its status. ``earlier`` is its ``before_time``.

        The number of the row in the order of creation comes last.
        """
        return self._search(query, is_count=False)

    def count(self, query: Query) -> Prepared:
        """The number of rows that `find` would return."""
        return self._search(query, is_count=True)

    def _search(self, query: Query, *, is_count: bool) -> Prepared:
        shape = (
            is_count,
            query.labels is None,
            query.root is None,
            query.status if query.overdue else query.status is not None and query.status.is_final,
            query.status is None,
            query.overdue,
            query.owner is None,
            query.scope is None,
            query.scope == "",
            query.before is None,
            query.before_time is None,
            query.queue is None,
            query.text == "",
            query.expired is None,
            query.has_file,
        )
        search = self._made.get(shape)
        if search is None:
            statement = self._make(query)
            if is_count:
                found = statement.with_only_columns(self._column.seq).order_by(None).subquery()
                statement = sa.select(sa.func.count()).select_from(found)
            search = self._made[shape] = Prepared(statement)
        return search

    def _make(self, query: Query) -> Selecting:
        column = self._column
        conditions: list[Condition] = []
        if query.overdue:
            conditions += self._is_overdue(query.status)
        elif query.status is not None:
            conditions += [
                column.status == sa.bindparam("status"),
                column.status >= TWO if query.status.is_final else column.status < TWO,
            ]
        for name in ("owner", "scope", "root", "queue"):
            if getattr(query, name) is not None:
                conditions.append(column[name] == sa.bindparam(name))
        if query.scope:
            conditions.append(column.scope != sa.literal_column("''"))
        if query.labels is not None:
            conditions.append(column.label == sa.bindparam("label"))
        if query.text:
            conditions.append(sa.or_(*[found_in(text, "text", is_mysql=self._is_mysql) for text in self._texts]))
        if query.expired is not None:
            conditions.append(column.end_time < self._now - big("age"))
        if query.has_file:
            conditions.append(column.file.is_not(None))
        conditions += self._is_on_page(query)
        found = sa.select(*self._selected, column.seq).where(*conditions)
        return found.order_by(column.seq.desc()).limit(sa.bindparam("limit"))

    @property
    def _texts(self) -> Sequence[sa.ColumnElement[Any]]:
        return self._column.title, self._column.path

    def _is_on_page(self, query: Query) -> list[Condition]:
        if query.before is None:
            return [] if query.before_time is None else [self._column.created_time < big("earlier")]
        before = self._jobs.alias("before")
        found = sa.select(before.c.seq).where(before.c.id == sa.bindparam("before"))
        if query.before_time is None:
            return [self._column.seq < found.scalar_subquery()]
        is_earlier = sa.and_(~found.exists(), self._column.created_time < big("earlier"))
        return [sa.or_(self._column.seq < found.scalar_subquery(), is_earlier)]

    def _is_overdue(self, status: Status | None) -> list[Condition]:
        """`backjob.lifecycle.late` in SQL, so that the index of limits bounds the search of the STARTED jobs.

        Few of them have a ``deliver_by``, and those without one are read only if they have expired. Few jobs are running.
        """
        column, now = self._column, self._now
        is_past = sa.or_(column.deliver_by <= now, column.expires <= now)
        started = sa.and_(
            column.status == ZERO,
            sa.or_(
                sa.and_(column.deliver_by.is_(None), column.expires <= now),
                sa.and_(column.deliver_by.is_not(None), is_past),
            ),
        )
        is_silent = sa.and_(
            column.token != sa.literal_column(f"'{TIMED_OUT}'"),
            column.error_timeout > ZERO,
            column.updated_time + column.error_timeout <= now,
        )
        running = sa.and_(
            column.status == ONE,
            sa.or_(
                sa.and_(column.token.is_(None), is_past),
                sa.and_(column.token.is_not(None), sa.or_(column.lease_until <= now, is_silent)),
            ),
        )
        late: dict[Status | None, Condition] = {
            None: sa.or_(started, running),
            Status.STARTED: started,
            Status.IN_PROGRESS: running,
        }
        return [column.status < TWO, late.get(status, ZERO == ONE)]
